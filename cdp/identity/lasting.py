"""Ids that last: which person keeps which one_id when the graph changes (identity.md § 2.5)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cdp.identity.eligibility import sorted_distinct
from cdp.identity.graph import Ints, Small

NO_CLASS = 9


@dataclass(frozen=True)
class Holdings:
    """What is known of the nodes to assign. One entry per node; -1 where there is none.

    *cluster*: dense; *standing*: position by (class, priority, first seen, bytes), unique; *current*: number of the
    live id the node has now; *home*: number of the first id it ever had. Ids are numbered in the order of minting.
    """

    cluster: Small
    class_: Ints
    standing: Ints
    current: Ints
    home: Ints


@dataclass(frozen=True)
class Frozen:
    """Members that dead ids had when they died: pairs of id number and node position."""

    number: Ints
    node: Ints


@dataclass(frozen=True)
class Assignment:
    """*number*: id of every cluster, -1 where one is to be minted; *resurrected*: ids that live again;
    *anchor*: the node that names each cluster."""

    number: Ints
    resurrected: Ints
    anchor: Ints


def assign(holdings: Holdings, frozen: Frozen, clusters: int) -> Assignment:
    """Give every cluster the id that fits it best; each id and each cluster is used once.

    Candidates go in the order: best class among the id's home nodes in the cluster, best class of the overlap, more
    home nodes, more overlap, best node, older id. Live ids first; clusters left over may wake a dead id by its frozen
    members.
    """
    number = np.full(clusters, -1, dtype=np.int64)
    held = np.flatnonzero(holdings.current >= 0)
    _give(number, holdings.current[held], held, holdings)
    open_ = number[holdings.cluster[frozen.node]] < 0
    before = number.copy()
    _give(number, frozen.number[open_], frozen.node[open_], holdings)
    return Assignment(number, np.sort(number[(before < 0) & (number >= 0)]), anchors(holdings, clusters))


def anchors(holdings: Holdings, clusters: int) -> Ints:
    """The node of best standing in every cluster."""
    anchor = np.full(clusters, -1, dtype=np.int64)
    order = np.argsort(-holdings.standing)
    anchor[holdings.cluster[order]] = order  # the last write, the best standing, stays
    return anchor


def _give(number: Ints, ids: Ints, nodes: Ints, holdings: Holdings) -> None:
    """Match *ids* (one entry per node of *nodes* they overlap in) with open clusters, best candidate first."""
    if not len(ids):
        return
    clusters = len(number)
    keys = ids * clusters + holdings.cluster[nodes]
    pair = sorted_distinct(keys.copy())
    of_node = np.searchsorted(pair, keys)
    overlap = np.bincount(of_node, minlength=len(pair))
    id_, cluster = pair // clusters, pair % clusters
    starts = np.concatenate([[True], id_[1:] != id_[:-1]])
    rivals = np.diff(np.concatenate([np.flatnonzero(starts), [len(id_)]]))[np.cumsum(starts) - 1]
    lone = (rivals == 1) & (np.bincount(cluster, minlength=clusters)[cluster] == 1)
    number[cluster[lone]] = id_[lone]
    fight = np.flatnonzero(~lone)
    if not len(fight):
        return
    best_class = np.full(len(pair), NO_CLASS, dtype=np.int64)
    best_node = np.full(len(pair), np.iinfo(np.int64).max, dtype=np.int64)
    np.minimum.at(best_class, of_node, holdings.class_[nodes])
    np.minimum.at(best_node, of_node, holdings.standing[nodes])
    home_class, home_count = _homes(pair, holdings, clusters)
    order = fight[
        np.lexsort(tuple(column[fight] for column in (id_, best_node, -overlap, -home_count, best_class, home_class)))
    ]
    taken: set[int] = set()
    for place in order.tolist():
        one, target = int(id_[place]), int(cluster[place])
        if one not in taken and number[target] < 0:
            taken.add(one)
            number[target] = one


def _homes(pair: Ints, holdings: Holdings, clusters: int) -> tuple[Ints, Ints]:
    """For every (id, cluster) pair: best class and count of the cluster's nodes whose home is that id."""
    best = np.full(len(pair), NO_CLASS, dtype=np.int64)
    count = np.zeros(len(pair), dtype=np.int64)
    homed = np.flatnonzero(holdings.home >= 0)
    keys = holdings.home[homed] * clusters + holdings.cluster[homed]
    place = np.minimum(np.searchsorted(pair, keys), len(pair) - 1)
    hit = pair[place] == keys
    np.minimum.at(best, place[hit], holdings.class_[homed[hit]])
    np.add.at(count, place[hit], 1)
    return best, count
