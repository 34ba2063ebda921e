"""Connected components, and a check of them by another method."""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_matrix, csr_matrix
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree

from cdp.errors import CheckFailedError
from cdp.identity.graph import Bools, Ints, Small


def components(count: int, a: Small, b: Small) -> Small:
    """Label of each of *count* nodes; labels are dense and given in order of each component's smallest node."""
    if count == 0:
        return np.empty(0, dtype=np.int32)
    graph = coo_matrix((np.ones(len(a), dtype=np.int8), (a, b)), shape=(count, count)).tocsr()
    _, labels = connected_components(graph, directed=False)
    return labels.astype(np.int32, copy=False)


def spanning_forest(count: int, a: Small, b: Small) -> Bools:
    """Which edges belong to the forest that takes edges in the order given (strongest first), never closing a cycle."""
    taken = np.zeros(len(a), dtype=np.bool_)
    if len(a) == 0:
        return taken
    weights = np.arange(1, len(a) + 1, dtype=np.float64)
    forest = minimum_spanning_tree(csr_matrix((weights, (a, b)), shape=(count, count)))
    taken[forest.data.astype(np.int64) - 1] = True
    return taken


def verify(count: int, a: Small, b: Small, accepted: Bools, person: Small) -> None:
    """Raise `CheckFailedError` unless the *accepted* edges form a forest that joins exactly each person's nodes.

    Another method than the one that made the clusters: hooking every node to its smallest neighbour and shortening the
    paths until nothing changes, on the accepted edges alone.
    """
    a, b = a[accepted], b[accepted]
    if np.any(person[a] != person[b]):
        raise CheckFailedError(
            f"{int(np.sum(person[a] != person[b]))} accepted edges run between two persons",
            hint="the resolution is wrong and was not stored; run again, and report it with the run id",
        )
    clusters = int(person.max()) + 1 if count else 0
    if len(a) != count - clusters or np.any(np.bincount(person, minlength=clusters) == 0):
        raise CheckFailedError(
            f"accepted edges are no forest: expected {count - clusters:,}, found {len(a):,}",
            hint="the resolution is wrong and was not stored; run again, and report it with the run id",
        )
    roots = _hook_and_shorten(count, a.astype(np.int64), b.astype(np.int64))
    if int(np.sum(roots == np.arange(count))) != clusters:
        raise CheckFailedError(
            "a person is not connected by its accepted edges",
            hint="the resolution is wrong and was not stored; run again, and report it with the run id",
        )


def _hook_and_shorten(count: int, a: Ints, b: Ints) -> Ints:
    """Smallest node of every component (Shiloach and Vishkin 1982, in whole-array steps)."""
    parent = np.arange(count, dtype=np.int64)
    while len(a):
        np.minimum.at(parent, np.maximum(a, b), np.minimum(a, b))
        while True:
            shorter = parent[parent]
            if np.array_equal(shorter, parent):
                break
            parent = shorter
        a, b = parent[a], parent[b]
        crossing = a != b
        a, b = a[crossing], b[crossing]
    return parent
