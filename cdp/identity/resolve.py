"""Resolution of one set of evidence: eligible links, edges, raw components, limits, decisions (identity.md §
2.2–2.4)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from cdp.identity.components import components, spanning_forest, verify
from cdp.identity.eligibility import (
    PLACES_AT_ONCE,
    Eligible,
    confidence_bucket,
    find_eligible,
    sorted_distinct,
    whole_groups,
)
from cdp.identity.graph import (
    ACCEPTED,
    MANUAL,
    NEVER,
    OK,
    OUTSIDE,
    REASONS,
    REDUNDANT,
    REJECTED,
    REJECTED_CANNOT,
    Assertions,
    Bools,
    Edges,
    Ints,
    Links,
    Nodes,
    Refusals,
    Resolution,
    Rows,
    Small,
    Suppressed,
    TypeTable,
)
from cdp.identity.replay import replay


@dataclass(frozen=True)
class Linked:
    """All that deciding needs of the evidence: it is far smaller, and the evidence may go."""

    eligible: Eligible
    edges: Edges
    cannot: Ints  # pairs of final nodes
    suppressed: Suppressed
    extent: Small


def resolve(nodes: Nodes, rows: Rows, table: TypeTable, assertions: Assertions, *, as_of: int) -> Resolution:
    """Nodes and evidence to persons. A pure function: the order of *rows*, and of places in a row, does not matter.

    Raises `CheckFailedError` when the outcome fails its own check by another method (`components.verify`).
    """
    return decide(link(nodes, rows, table, assertions, as_of=as_of), table, as_of=as_of)


def link(nodes: Nodes, rows: Rows, table: TypeTable, assertions: Assertions, *, as_of: int) -> Linked:
    """The first half of `resolve`: what may link, and every pair with its evidence summed up."""
    eligible, links = find_eligible(nodes, rows, table, assertions, as_of)
    extent = _extents(nodes, rows, eligible, assertions.must)
    suppressed = _suppressed(links, len(eligible.origin))
    must = _final_pairs(eligible, assertions.must)
    must = must[(eligible.status[must] == OK).all(axis=1)]
    arms = _arms(links)
    del links
    edges = build_edges(len(eligible.origin), arms, rows, must)
    return Linked(eligible, edges, _final_pairs(eligible, assertions.cannot), suppressed, extent)


def decide(linked: Linked, table: TypeTable, *, as_of: int) -> Resolution:
    """The second half of `resolve`: raw components, limits, decisions, and the check of them."""
    eligible, edges, cannot = linked.eligible, linked.edges, linked.cannot
    count = len(eligible.origin)
    component = components(count, edges.a, edges.b)
    contested = _contested(component, eligible, cannot, table, as_of)
    decision, refusals, replayed = _decide(component, contested, eligible, edges, cannot, table, as_of)
    joined = (decision != REJECTED) & (decision != REJECTED_CANNOT)
    person = components(count, edges.a[joined], edges.b[joined]) if len(refusals.edge) else component
    verify(count, edges.a, edges.b, joined & (decision != REDUNDANT), person)
    return Resolution(
        origin=eligible.origin,
        epoch=eligible.epoch,
        first=eligible.first,
        last=eligible.last,
        status=eligible.status,
        component=component,
        person=person,
        edges=edges,
        decision=decision,
        refusals=refusals,
        slices=eligible.slices,
        suppressed=linked.suppressed,
        contested_edges=replayed,
        data_errors=eligible.data_errors,
        neighbours=eligible.neighbours,
        extent=linked.extent,
    )


def _extents(nodes: Nodes, rows: Rows, eligible: Eligible, must: Ints) -> Small:
    """Components over all evidence between nodes that link at all, closed and refused evidence included.

    Whatever changes inside one, nothing outside it can change: every rule looks at a row's linking nodes only.
    """
    linking = np.zeros(len(nodes), dtype=np.bool_)
    linking[eligible.origin[eligible.status == OK]] = True
    left, right = [must[:, 0].astype(np.int32)], [must[:, 1].astype(np.int32)]
    for begin in range(0, len(rows), PLACES_AT_ONCE):
        start = rows.start[begin : begin + PLACES_AT_ONCE + 1]
        node = rows.node[start[0] : start[-1]]
        chosen = linking[node]
        node = node[chosen]
        owner = np.repeat(np.arange(len(start) - 1, dtype=np.int32), np.diff(start))[chosen]
        same = owner[1:] == owner[:-1]
        left.append(node[:-1][same])
        right.append(node[1:][same])
    return components(len(nodes), np.concatenate(left), np.concatenate(right))


def _suppressed(links: Links, count: int) -> Suppressed:
    """Evidence kept back: what was dropped, beside the strongest node that its row still links."""
    rows = int(links.row_of.max()) + 1 if len(links.row_of) else 0
    best = np.full(rows, count, dtype=np.int32)
    for part in whole_groups(links.group):
        np.minimum.at(best, links.row_of[links.group[part]], links.node[part])
    beside = best[links.dropped_row].astype(np.int64)
    known = (beside != count) & (links.dropped_reason != OUTSIDE) & (beside != links.dropped_node)
    beside, node = beside[known], links.dropped_node[known]
    pair = np.minimum(beside, node) * count + np.maximum(beside, node)
    keys = sorted_distinct(pair * len(REASONS) + links.dropped_reason[known])
    pair, reason = keys // len(REASONS), (keys % len(REASONS)).astype(np.int8)
    return Suppressed((pair // max(count, 1)).astype(np.int32), (pair % max(count, 1)).astype(np.int32), reason)


def _final_pairs(eligible: Eligible, pairs: Ints) -> Ints:
    """Pairs of ranks as pairs of final nodes; a node cut into epochs stands for its latest one."""
    return np.searchsorted(eligible.origin, pairs, side="right").astype(np.int64) - 1


@dataclass(frozen=True)
class Arms:
    """Every group as a star: its strongest node, another one, and the row of evidence that says so."""

    centre: Small
    node: Small
    row: Small

    def __getitem__(self, which: slice | Ints) -> Arms:
        return Arms(self.centre[which], self.node[which], self.row[which])


def _arms(links: Links) -> Arms:
    parts = []
    for part in whole_groups(links.group):
        group, node = links.group[part], links.node[part]
        begins = np.flatnonzero(np.diff(group, prepend=-1))
        centre = node
        if len(group):
            sizes = np.diff(np.append(begins, len(group)))
            centre = np.repeat(np.minimum.reduceat(node, begins), sizes)
        arm = centre != node
        parts.append((centre[arm], node[arm], links.row_of[group[arm]]))
    return Arms(*(np.concatenate(column) for column in zip(*parts, strict=True)))


ARMS_AT_ONCE = 6_000_000  # summed up at one time: about 500 MB


def build_edges(count: int, arms: Arms, rows: Rows, must: Ints) -> Edges:
    """All evidence of a pair summed into one edge; sorted by the pair. *must*: pairs that people have joined."""
    manual = np.sort(must, axis=1)
    manual = manual[manual[:, 0] != manual[:, 1]]
    sample = np.sort(arms.centre[:: max(1, len(arms.centre) // 10_000)])
    bounds = sample[:: max(1, len(sample) * ARMS_AT_ONCE // max(1, len(arms.centre)))][1:]
    parts = []
    for low, high in pairwise(sorted({0, *bounds.tolist(), max(count, 1)})):
        inside = (manual[:, 0] >= low) & (manual[:, 0] < high)
        mine = arms[np.flatnonzero((arms.centre >= low) & (arms.centre < high))] if len(bounds) else arms
        parts.append(_summed(mine, rows, manual[inside], max(count, 1)))
    return Edges(**{name: np.concatenate([part.pop(name) for part in parts]) for name in list(parts[0])})


def _summed(arms: Arms, rows: Rows, manual: Ints, size: int) -> dict[str, np.ndarray]:
    """Columns of `Edges` for *arms* and *manual* pairs; `size` is more than any node."""
    keys = arms.centre.astype(np.int64) * size + arms.node
    extra = manual[:, 0] * size + manual[:, 1]
    distinct = sorted_distinct(np.concatenate([keys, extra]))
    edge, count = np.searchsorted(distinct, keys), len(distinct)
    forced = np.zeros(count, dtype=np.bool_)
    forced[np.searchsorted(distinct, extra)] = True
    forced[edge[rows.kind[arms.row] == MANUAL]] = True
    tier = np.full(count, 127, dtype=np.int8)
    first, last = np.full(count, NEVER, dtype=np.int64), np.full(count, -NEVER, dtype=np.int64)
    confidence = np.zeros(count, dtype=np.float32)
    np.minimum.at(tier, edge, rows.tier[arms.row])
    np.minimum.at(first, edge, rows.first[arms.row])
    np.maximum.at(last, edge, rows.last[arms.row])
    np.maximum.at(confidence, edge, rows.confidence[arms.row])
    tier[forced] = 0
    confidence[forced] = 1
    total = np.bincount(edge, weights=rows.count[arms.row].astype(np.float64), minlength=count).astype(np.int64)
    return {
        "a": (distinct // size).astype(np.int32), "b": (distinct % size).astype(np.int32), "tier": tier,
        "first": first, "last": last, "count": total, "days": _distinct_count(edge, rows.day[arms.row], count),
        "sources": _distinct_count(edge, rows.source[arms.row], count), "confidence": confidence, "forced": forced,
    }  # fmt: skip


def _distinct_count(edge: Ints, value: Small, count: int) -> Small:
    """How many different *value*s each edge has."""
    if not len(edge):
        return np.zeros(count, dtype=np.int32)
    low = int(value.min())
    span = int(value.max()) - low + 1
    pairs = sorted_distinct(edge * span + (value - low))
    return np.bincount(pairs // span, minlength=count).astype(np.int32)


def _limit_groups(eligible: Eligible, table: TypeTable, as_of: int) -> tuple[Small, Small]:
    """Limit group of every node (-1: counts towards none), and the limit of every group."""
    limited = table.limit[eligible.type] > 0
    window = table.window[eligible.type]
    limited &= (window == 0) | (eligible.last >= as_of - window)
    limit = np.zeros(int(eligible.group.max()) + 1 if len(eligible.group) else 0, dtype=np.int32)
    limit[eligible.group] = table.limit[eligible.type]
    return np.where(limited, eligible.group, -1).astype(np.int32), limit


def _contested(component: Small, eligible: Eligible, cannot: Ints, table: TypeTable, as_of: int) -> Bools:
    """Which raw components break a limit or hold a cannot-link pair."""
    contested = np.zeros(int(component.max()) + 1 if len(component) else 0, dtype=np.bool_)
    group, limit = _limit_groups(eligible, table, as_of)
    limited = group >= 0
    keys = component[limited].astype(np.int64) * max(len(limit), 1) + group[limited]
    keys.sort()
    if len(keys):
        begins = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
        many = np.diff(np.concatenate([begins, [len(keys)]]))
        groups = keys[begins] % len(limit)
        contested[(keys[begins] // len(limit))[many > limit[groups]]] = True
    together = component[cannot[:, 0]] == component[cannot[:, 1]]
    contested[component[cannot[together, 0]]] = True
    return contested


def edge_order(edges: Edges, chosen: Ints, types: NDArray[np.int16], table: TypeTable) -> Ints:
    """*chosen* edges, strongest first: the total order of § 2.4. Every key is data; the last two make it total."""
    a, b = edges.a[chosen], edges.b[chosen]
    latest = table.latest_wins[types[b]]
    time = np.where(latest, -edges.last[chosen], edges.first[chosen])
    confidence = -confidence_bucket(edges.confidence[chosen])
    strength = table.strength[types[a]].astype(np.int64) * 1000 + table.strength[types[b]]
    keys = (b, a, time, -edges.days[chosen], confidence, strength, edges.tier[chosen])
    return chosen[np.lexsort(keys)]


def _decide(
    component: Small, contested: Bools, eligible: Eligible, edges: Edges, cannot: Ints, table: TypeTable, as_of: int
) -> tuple[NDArray[np.int8], Refusals, int]:
    """Accepted (a forest of the strongest edges), redundant or rejected, for every edge."""
    decision = np.full(len(edges), ACCEPTED, dtype=np.int8)
    of_edge = component[edges.a]
    per_component = np.bincount(of_edge, minlength=len(contested))
    sizes = np.bincount(component, minlength=len(contested))
    cyclic = (per_component >= sizes) & ~contested
    chosen = edge_order(edges, np.flatnonzero(cyclic[of_edge]), eligible.type, table)
    local, a, b = _compact(edges.a[chosen], edges.b[chosen])
    decision[chosen[~spanning_forest(len(local), a, b)]] = REDUNDANT
    chosen = edge_order(edges, np.flatnonzero(contested[of_edge]), eligible.type, table)
    local, a, b = _compact(edges.a[chosen], edges.b[chosen])
    group, limit = _limit_groups(eligible, table, as_of)
    inside = np.isin(cannot, local).all(axis=1)
    outcome = replay(
        len(local),
        a,
        b,
        forced=edges.forced[chosen],
        group=group[local],
        limit=limit,
        cannot=np.searchsorted(local, cannot[inside]).astype(np.int64),
    )
    decision[chosen] = outcome.decision
    refused = np.flatnonzero(outcome.decision >= REJECTED)
    refusals = Refusals(
        edge=chosen[refused],
        group=outcome.group[refused],
        left=_back(local, outcome.left[refused]),
        right=_back(local, outcome.right[refused]),
    )
    return decision, refusals, len(chosen)


def _back(local: Ints, position: Small) -> Small:
    """Positions in *local* back to nodes; -1 stays."""
    found = np.full(len(position), -1, dtype=np.int32)
    found[position >= 0] = local[position[position >= 0]]
    return found


def _compact(a: Small, b: Small) -> tuple[Ints, Small, Small]:
    """The nodes of some edges (sorted), and the edges over their positions; rank order is kept."""
    local = sorted_distinct(np.concatenate([a, b]).astype(np.int64))
    return local, np.searchsorted(local, a).astype(np.int32), np.searchsorted(local, b).astype(np.int32)
