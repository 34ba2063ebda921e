"""What may link: blocked, expired, closed and cut evidence, recycled numbers, shared devices (identity.md § 2.3).

Every rule here is a function of the evidence and `as_of` alone: no step looks at the order in which rows came. The
steps: bars on values, closed and cut pairs, epochs (recycled contacts, time-sliced devices), sharing.

A *group* is what links together: a row of evidence, or the part that a closed pair split off it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from cdp.identity.graph import (
    ABSENT,
    BLOCKED,
    CLOSED,
    CUT,
    EXPIRED,
    LIMIT_ZERO,
    NEVER,
    NOT_A_FUNCTION,
    OK,
    RELAY,
    SHARED,
    UNBIND,
    WEAKER,
    Assertions,
    Bools,
    Ints,
    Links,
    Nodes,
    Rows,
    Slices,
    Small,
    TypeTable,
)  # fmt: skip

CONFIDENCE_BUCKETS = 20


@dataclass(frozen=True)
class Eligible:
    """Nodes with epochs added (`origin` is the rank given), and what each may do."""

    origin: Small
    epoch: NDArray[np.int16]
    type: NDArray[np.int16]
    group: Small
    first: Ints
    last: Ints
    status: NDArray[np.int8]
    slices: Slices
    data_errors: Small
    neighbours: Small


@dataclass(frozen=True)
class Places:
    """Who is in which group, sorted by group. `row_of[group]` is the row of evidence the group comes from."""

    group: Small
    node: Small
    row_of: Small

    def keep(self, mask: Bools) -> Places:
        return Places(self.group[mask], self.node[mask], self.row_of)

    def rows(self, which: Bools | Ints) -> Small:
        """The row of evidence of *which* places."""
        return self.row_of[self.group[which]]

    def beside(self, which: Ints) -> Bools:
        """Places in the same group as one of *which*."""
        wanted = np.zeros(len(self.row_of), dtype=np.bool_)
        wanted[self.group[which]] = True
        return wanted[self.group]


class Dropped:
    """What may not link, collected with its reason."""

    def __init__(self) -> None:
        self.parts: list[tuple[Small, Small, NDArray[np.int8]]] = []

    def add(self, node: Small, row: Small, reason: int | NDArray[np.int8]) -> None:
        reasons = np.full(len(node), reason, dtype=np.int8) if isinstance(reason, int) else reason
        self.parts.append((node, row, reasons))

    def all(self) -> tuple[Small, Small, NDArray[np.int8]]:
        node = np.concatenate([part[0] for part in self.parts]).astype(np.int32)
        row = np.concatenate([part[1] for part in self.parts]).astype(np.int32)
        return node, row, np.concatenate([part[2] for part in self.parts])


class Epochs:
    """Final numbering of nodes once some are cut into epochs at instants; without cuts everything keeps its number."""

    def __init__(self, count: int, cuts: dict[int, list[int]]) -> None:
        self.cuts = cuts
        reps = np.ones(count, dtype=np.int32)
        for node, instants in cuts.items():
            reps[node] += len(instants)
        self.several = reps > 1
        self.offset = np.cumsum(reps, dtype=np.int32) - reps
        self.origin = np.repeat(np.arange(count, dtype=np.int32), reps)
        self.epoch = np.ones(len(self.origin), dtype=np.int16)
        for node, instants in cuts.items():
            begin = int(self.offset[node])
            self.epoch[begin : begin + len(instants) + 1] = np.arange(1, len(instants) + 2)

    def final(self, node: Small, row: Small, first: Ints) -> Small:
        """Final number of each *node* (rank) as it was at the *first* instant of its *row*."""
        if not self.cuts:
            return node
        found = self.offset[node]
        for place in np.flatnonzero(self.several[node]).tolist():
            found[place] += np.searchsorted(self.cuts[int(node[place])], first[row[place]], side="right")
        return found

    def slices(self) -> Slices:
        rows = []
        for node, instants in sorted(self.cuts.items()):
            bounds = [-NEVER, *instants, NEVER]
            rows += [(node, epoch, *bounds[epoch - 1 : epoch + 1]) for epoch in range(1, len(bounds))]
        columns = np.array(rows, dtype=np.int64).reshape(-1, 4)
        return Slices(columns[:, 0], columns[:, 1], columns[:, 2], columns[:, 3])


def find_eligible(
    nodes: Nodes, rows: Rows, table: TypeTable, assertions: Assertions, as_of: int
) -> tuple[Eligible, Links]:
    """Apply all rules of eligibility at *as_of* (microseconds)."""
    dropped = Dropped()
    first, last = seen(len(nodes), rows)
    bars = _bars(nodes, table, first, last, as_of)
    places = _unbarred(rows, bars, dropped)
    places = _part_closed(places, nodes, rows, table, assertions, dropped)
    cuts = _recycled(places, nodes, rows, table, first, last) | _time_slices(places, nodes, rows, table)
    epochs = Epochs(len(nodes), cuts)
    if cuts:
        places = Places(places.group, epochs.final(places.node, places.row_of[places.group], rows.first), places.row_of)
        first, last = seen(len(epochs.origin), rows, epochs)
    types = nodes.type[epochs.origin]
    isolated, errors, neighbours, places = _share(places, types, rows, table, dropped_to := Dropped())
    status = bars[epochs.origin]
    status[isolated] = SHARED
    final_node, final_row, final_reason = dropped.all()
    dropped_to.add(epochs.final(final_node, final_row, rows.first), final_row, final_reason)
    return Eligible(
        origin=epochs.origin, epoch=epochs.epoch, type=types, group=nodes.group[epochs.origin], first=first, last=last,
        status=status, slices=epochs.slices(), data_errors=errors, neighbours=neighbours,
    ), Links(places.group, places.node, places.row_of, *dropped_to.all())  # fmt: skip


def seen(count: int, rows: Rows, epochs: Epochs | None = None) -> tuple[Ints, Ints]:
    """First and last instant of every node (of *epochs* if given); `NEVER` and `-NEVER` for those in no row."""
    earliest, latest = np.full(count, NEVER, dtype=np.int64), np.full(count, -NEVER, dtype=np.int64)
    for begin in range(0, len(rows), PLACES_AT_ONCE):
        end = min(begin + PLACES_AT_ONCE, len(rows))
        row = np.repeat(np.arange(begin, end, dtype=np.int32), np.diff(rows.start[begin : end + 1]))
        node = rows.node[rows.start[begin] : rows.start[end]]
        if epochs is not None:
            node = epochs.final(node, row, rows.first)
        np.minimum.at(earliest, node, rows.first[row])
        np.maximum.at(latest, node, rows.last[row])
    return earliest, latest


def _unbarred(rows: Rows, bars: NDArray[np.int8], dropped: Dropped) -> Places:
    """Places of rows that link, without identifiers that may not."""
    owner, fixed = rows.owner, bars[rows.node]
    barred = fixed != OK
    dropped.add(rows.node[barred], owner[barred], fixed[barred])
    places = Places(owner, rows.node, np.arange(len(rows), dtype=np.int32))
    return places.keep(~barred & (rows.kind != UNBIND)[owner])


def _bars(nodes: Nodes, table: TypeTable, first: Ints, last: Ints, as_of: int) -> NDArray[np.int8]:
    """Bars that lie in the identifier itself, weakest reason first so that the strongest stays."""
    bars = np.zeros(len(nodes), dtype=np.int8)
    ttl = table.ttl[nodes.type]
    bars[(ttl > 0) & (last < as_of - ttl)] = EXPIRED
    bars[table.limit[nodes.type] == 0] = LIMIT_ZERO
    bars[~table.merges[nodes.type]] = RELAY
    bars[nodes.barred] = BLOCKED
    bars[nodes.forced > 0] = nodes.forced[nodes.forced > 0]
    bars[first == NEVER] = ABSENT
    return bars


# ---------------------------------------------------------------------------------------------- closed and cut pairs


def _part_closed(
    places: Places, nodes: Nodes, rows: Rows, table: TypeTable, assertions: Assertions, dropped: Dropped
) -> Places:
    """Split the weaker end of every closed or cut pair off the rows that still name both, with what depends on it."""
    closed = _closed_pairs(nodes, rows, table)
    cut: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for (x, y), since, until in zip(
        assertions.cut.tolist(), assertions.cut_from.tolist(), assertions.cut_until.tolist(), strict=True
    ):
        cut[min(x, y), max(x, y)].append((since, until))
    if not closed and not cut:
        return places
    involved = np.zeros(len(nodes), dtype=np.bool_)
    involved[[node for pair in (*closed, *cut) for node in pair]] = True
    marked = involved[places.node]
    several = (np.bincount(places.group[marked], minlength=len(places.row_of)) > 1)[places.group]
    by_group: dict[int, list[int]] = defaultdict(list)
    for place in np.flatnonzero(several).tolist():
        by_group[int(places.group[place])].append(place)
    group = places.group.copy()
    parted: list[int] = []  # the rows of groups that are parted off, numbered after all others
    for number, members in by_group.items():
        row = int(places.row_of[number])
        first, last = int(rows.first[row]), int(rows.last[row])
        found = dict(_leaving(sorted(int(places.node[place]) for place in members), closed, cut, first, last))
        gone: set[int] = set()
        for node, reason in found.items():
            part = [
                place
                for place in members
                if place not in gone and _goes_with(int(places.node[place]), node, nodes, table)
            ]
            if not part:
                continue
            gone.update(part)
            group[part] = len(places.row_of) + len(parted)
            parted.append(row)
            dropped.add(np.array([node], dtype=np.int32), np.array([row], dtype=np.int32), reason)
    moved = group >= len(places.row_of)
    last_ones = np.flatnonzero(moved)
    last_ones = last_ones[np.argsort(group[last_ones], kind="stable")]
    return Places(
        np.concatenate([group[~moved], group[last_ones]]),
        np.concatenate([places.node[~moved], places.node[last_ones]]),
        np.concatenate([places.row_of, np.array(parted, dtype=np.int32)]),
    )


def _leaving(
    members: list[int],
    closed: dict[tuple[int, int], int],
    cut: dict[tuple[int, int], list[tuple[int, int]]],
    first: int,
    last: int,
) -> Iterable[tuple[int, int]]:
    """Nodes that may not stay in a row of *members* (sorted by rank), strongest first, with the reason."""
    for place, weaker in enumerate(members):
        for stronger in members[:place]:
            pair = (stronger, weaker)
            if closed.get(pair, -NEVER) >= last:
                yield weaker, CLOSED
                break
            if any(since <= last and first <= until for since, until in cut.get(pair, ())):
                yield weaker, CUT
                break


def _goes_with(member: int, leaving: int, nodes: Nodes, table: TypeTable) -> bool:
    """A node leaves itself; ids that are a function of it (openid of a unionid) go with it."""
    if member == leaving:
        return True
    return bool(table.max_links[nodes.type[member], nodes.type[leaving]] == 1 and table.class_[nodes.type[member]] <= 1)


def _closed_pairs(nodes: Nodes, rows: Rows, table: TypeTable) -> dict[tuple[int, int], int]:
    """Pair (stronger, weaker) -> latest unbind. Unbinding a parent id closes its children's pairs as well."""
    closed: dict[tuple[int, int], int] = {}
    unbinds = np.flatnonzero(rows.kind == UNBIND)
    if not len(unbinds):
        return closed
    for row in unbinds.tolist():
        members = sorted(set(rows.node[rows.start[row] : rows.start[row + 1]].tolist()))
        for weaker in members[1:]:
            pair = (members[0], weaker)
            closed[pair] = max(closed.get(pair, -NEVER), int(rows.last[row]))
    children = _children({pair[1] for pair in closed}, nodes, rows, table)
    for (stronger, parent), until in list(closed.items()):
        for child in children.get(parent, ()):
            pair = (min(stronger, child), max(stronger, child))
            closed[pair] = max(closed.get(pair, -NEVER), until)
    return closed


def _children(parents: set[int], nodes: Nodes, rows: Rows, table: TypeTable) -> dict[int, set[int]]:
    """For each of *parents*, the ids seen with it that are a function of it by `max_links: 1`."""
    marked = np.zeros(len(nodes), dtype=np.bool_)
    marked[list(parents)] = True
    owner = rows.owner
    found: dict[int, set[int]] = defaultdict(set)
    for place in np.flatnonzero(marked[rows.node] & (rows.kind[owner] != UNBIND)).tolist():
        parent, row = int(rows.node[place]), owner[place]
        for member in rows.node[rows.start[row] : rows.start[row + 1]].tolist():
            if member != parent and _goes_with(member, parent, nodes, table):
                found[parent].add(member)
    return found


# ------------------------------------------------------------------------------------------------------------ epochs


def _recycled(
    places: Places, nodes: Nodes, rows: Rows, table: TypeTable, first: Ints, last: Ints
) -> dict[int, list[int]]:
    """Contacts that slept longer than their gap and woke with other owners: node -> instants where epochs begin."""
    gap = table.gap[nodes.type]
    alive = first != NEVER
    sleepers = alive & (gap > 0)
    sleepers[sleepers] = last[sleepers] - first[sleepers] > gap[sleepers]
    mine = places.keep(sleepers[places.node])
    row = mine.row_of[mine.group]
    order = np.lexsort((rows.first[row], mine.node))
    node, row = mine.node[order], row[order]
    apart = (node[1:] == node[:-1]) & (rows.first[row[1:]] - rows.last[row[:-1]] > gap[node[1:]])
    wanted = np.zeros(len(nodes), dtype=np.bool_)
    wanted[node[1:][apart]] = True
    owners = table.class_[nodes.type] <= 1
    cuts = {node: _gaps(seen_, int(gap[node])) for node, seen_ in _sightings(places, rows, wanted, owners).items()}
    return {node: instants for node, instants in cuts.items() if instants}


def _time_slices(places: Places, nodes: Nodes, rows: Rows, table: TypeTable) -> dict[int, list[int]]:
    """Shared devices under `time_slice`: node -> instants where the signed-in owner changes."""
    sliced = np.array([policy == "time_slice" for policy in table.policy])
    if not sliced.any():
        return {}
    a, b = neighbour_pairs(places, nodes.type, table, only=sliced)
    over = np.zeros(len(nodes), dtype=np.bool_)
    over[over_limit(a, b, nodes.type, table)[0]] = True
    cuts: dict[int, list[int]] = {}
    for kind in np.flatnonzero(sliced).tolist():
        owners = table.max_links[kind][nodes.type] >= 0
        found = _sightings(places, rows, over & (nodes.type == kind), owners)
        cuts |= {node: _owner_changes(seen_) for node, seen_ in found.items()}
    return {node: instants for node, instants in cuts.items() if instants}


Sighting = tuple[int, int, tuple[int, ...]]  # first, last, owners by rank


def _sightings(places: Places, rows: Rows, wanted: Bools, owners: Bools) -> dict[int, list[Sighting]]:
    """For every wanted node, when it was seen and with which owners, by time and then by owners."""
    chosen = np.flatnonzero(wanted[places.node])
    if not len(chosen):
        return {}
    beside: dict[int, list[int]] = defaultdict(list)
    near = places.beside(chosen) & owners[places.node]
    for group, node in zip(places.group[near].tolist(), places.node[near].tolist(), strict=True):
        beside[group].append(node)
    found: dict[int, list[Sighting]] = defaultdict(list)
    row = places.rows(chosen)
    columns = (places.node[chosen], places.group[chosen], rows.first[row], rows.last[row])
    for node, group, first, last in zip(*(column.tolist() for column in columns), strict=True):
        found[node].append((first, last, tuple(sorted(set(beside.get(group, ())) - {node}))))
    return {node: sorted(sightings) for node, sightings in found.items()}


def _gaps(sightings: list[Sighting], gap: int) -> list[int]:
    """Instants where, after more than *gap* of silence, a disjoint set of owners appears."""
    stretches: list[tuple[int, set[int]]] = []
    until = -NEVER
    for first, last, owners in sightings:
        if not stretches or first - until > gap:
            stretches.append((first, set(owners)))
        else:
            stretches[-1][1].update(owners)
        until = max(until, last)
    instants, current = [], stretches[0][1]
    for first, owners_ in stretches[1:]:
        if current and owners_ and current.isdisjoint(owners_):
            instants.append(first)
            current = owners_
        else:
            current = current | owners_
    return instants


def _owner_changes(sightings: list[Sighting]) -> list[int]:
    """Instants where the strongest owner beside the device differs from the one before."""
    instants: list[int] = []
    current = -1
    for first, _, owners in sightings:
        if not owners or owners[0] == current:
            continue
        if current >= 0 and (not instants or first > instants[-1]):
            instants.append(first)
        current = owners[0]
    return instants


# ----------------------------------------------------------------------------------------------------------- sharing


def neighbour_pairs(
    places: Places, types: NDArray[np.int16], table: TypeTable, only: Bools | None = None
) -> tuple[Small, Small]:
    """Distinct ordered pairs (node, neighbour) seen together where a `max_links` rule counts them; sorted."""
    ruled: Bools = np.array(table.max_links >= 0)
    if only is not None:
        ruled[~only] = False
    counts: Bools = np.logical_or(ruled.any(axis=1), ruled.any(axis=0))
    useful = places.keep(counts[types[places.node]])
    size = max(int(types.shape[0]), 1)
    found = [
        _pair_keys(useful.group[part], useful.node[part].astype(np.int64), ruled, types, size)
        for part in whole_groups(useful.group)
    ]
    del useful
    keys = np.concatenate(found)
    if len(found) > 1:
        del found
        keys = sorted_distinct(keys)
    return (keys // size).astype(np.int32), (keys % size).astype(np.int32)


PLACES_AT_ONCE = 8_000_000  # compared with each other at one time: about 350 MB


def whole_groups(group: Small) -> list[slice]:
    """Parts of about `PLACES_AT_ONCE` places that no group lies across; at least one part."""
    ends = [int(np.searchsorted(group, group[end])) for end in range(PLACES_AT_ONCE, len(group), PLACES_AT_ONCE)]
    bounds = sorted({0, *ends, len(group)}) if len(group) else [0, 0]
    return [slice(begin, end) for begin, end in pairwise(bounds)]


def _pair_keys(group: Small, node: Ints, ruled: Bools, types: NDArray[np.int16], size: int) -> Ints:
    """Distinct `node * size + neighbour` of the pairs in the same group that a rule counts; sorted."""
    found: list[Ints] = []
    left = np.arange(len(group) - 1)
    step = 1
    while len(left):
        left = left[left + step < len(group)]
        left = left[group[left] == group[left + step]]
        a, b = node[left], node[left + step]
        for x, y in ((a, b), (b, a)):
            chosen = ruled[types[x], types[y]] & (x != y)
            found.append(x[chosen] * size + y[chosen])
        step += 1
    return sorted_distinct(np.concatenate(found)) if found else np.empty(0, dtype=np.int64)


def sorted_distinct(keys: Ints) -> Ints:
    """Like `np.unique`, by sorting (NumPy's own uses a hash table, slower on tens of millions of keys).

    Sorts *keys* where they are: they are as large as all the evidence.
    """
    keys.sort()
    return keys[np.concatenate([[True], keys[1:] != keys[:-1]])] if len(keys) else keys


def _runs(keys: Ints) -> tuple[Ints, Ints]:
    """Distinct keys, sorted, and how often each occurs; sorts *keys* where they are."""
    keys.sort()
    begins = np.flatnonzero(np.concatenate([[len(keys) > 0], keys[1:] != keys[:-1]]))
    return keys[begins], np.diff(np.concatenate([begins, [len(keys)]]))


def over_limit(a: Small, b: Small, types: NDArray[np.int16], table: TypeTable) -> tuple[Ints, Ints, Ints]:
    """Of sorted distinct pairs: (node, neighbour type) that break a `max_links`, and the neighbour count of each."""
    kinds = len(table.names)
    keys, counts = _runs(a.astype(np.int64) * kinds + types[b])
    node, kind = keys // kinds, keys % kinds
    over = counts > table.max_links[types[node], kind]
    return node[over], kind[over], counts[over]


def _share(
    places: Places, types: NDArray[np.int16], rows: Rows, table: TypeTable, dropped: Dropped
) -> tuple[Ints, Small, Small, Places]:
    """Isolate shared devices, leave shared contacts with their best owners.

    Returns the isolated nodes, nodes of platform types that should be a function but are not, each node's largest
    number of neighbours of one type of class 0 or 1, and the places that stay.
    """
    a, b = neighbour_pairs(places, types, table)
    neighbours = np.zeros(len(types), dtype=np.int32)
    persons = table.class_[types[b]] <= 1
    np.maximum.at(neighbours, *_neighbour_counts(a[persons], b[persons], types, table))
    node, kind, _ = over_limit(a, b, types, table)
    policy = np.array(table.policy)[types[node]]
    isolated = np.unique(node[policy == "isolate"])
    strongest = policy == "strongest"
    function = strongest & (table.class_[types[node]] <= 1)
    errors = np.unique(node[function]).astype(np.int32)
    shared = np.zeros(len(types), dtype=np.bool_)
    shared[isolated] = True
    hit = shared[places.node]
    dropped.add(places.node[hit], places.rows(hit), SHARED)
    weak = np.zeros(len(places.node), dtype=np.bool_)
    if strongest.any():
        weak = _weaker(places, node[strongest], kind[strongest], types, rows, table)
        reasons = np.where(np.isin(places.node[weak], errors), NOT_A_FUNCTION, WEAKER).astype(np.int8)
        dropped.add(places.node[weak], places.rows(weak), reasons)
    return isolated, errors, neighbours, places.keep(~hit & ~weak)


def _neighbour_counts(a: Small, b: Small, types: NDArray[np.int16], table: TypeTable) -> tuple[Ints, Small]:
    kinds = len(table.names)
    keys, counts = _runs(a.astype(np.int64) * kinds + types[b])
    return keys // kinds, counts.astype(np.int32)


def _weaker(places: Places, node: Ints, kind: Ints, types: NDArray[np.int16], rows: Rows, table: TypeTable) -> Bools:
    """Places of over-shared nodes in groups that hold only neighbours weaker than the best `max_links` ones."""
    over: dict[int, set[int]] = defaultdict(set)
    for item, other in zip(node.tolist(), kind.tolist(), strict=True):
        over[item].add(other)
    marked = np.zeros(len(types), dtype=np.bool_)
    marked[node] = True
    chosen = np.flatnonzero(marked[places.node])
    near = places.beside(chosen)
    members: dict[int, list[int]] = defaultdict(list)
    for group, member in zip(places.group[near].tolist(), places.node[near].tolist(), strict=True):
        members[group].append(member)
    pairs: dict[tuple[int, int], dict[int, _Tally]] = defaultdict(dict)
    spots: list[tuple[int, int, dict[int, list[int]]]] = []
    for place, row in zip(chosen.tolist(), places.rows(chosen).tolist(), strict=True):
        item = int(places.node[place])
        beside: dict[int, list[int]] = {}
        for other in over[item]:
            beside[other] = [m for m in members[int(places.group[place])] if types[m] == other and m != item]
            for member in beside[other]:
                pairs[item, other].setdefault(member, _Tally()).add(rows, row)
        spots.append((place, item, beside))
    kept: dict[tuple[int, int], set[int]] = {}
    for (item, other), tallies in pairs.items():
        latest = bool(table.latest_wins[types[item]])
        best = sorted(tallies, key=lambda member: tallies[member].key(member, latest=latest))
        kept[item, other] = set(best[: int(table.max_links[types[item], other])])
    weak = np.zeros(len(places.node), dtype=np.bool_)
    for place, item, beside in spots:
        weak[place] = any(names and kept[item, other].isdisjoint(names) for other, names in beside.items())
    return weak


class _Tally:
    """Evidence for one pair, added up for the comparison of § 2.4."""

    __slots__ = ("confidence", "days", "first", "last", "tier")

    def __init__(self) -> None:
        self.tier, self.confidence, self.first, self.last = 99, 0, NEVER, -NEVER
        self.days: set[int] = set()

    def add(self, rows: Rows, row: int) -> None:
        self.tier = min(self.tier, int(rows.tier[row]))
        self.confidence = max(self.confidence, int(confidence_bucket(rows.confidence[row])))
        self.first, self.last = min(self.first, int(rows.first[row])), max(self.last, int(rows.last[row]))
        self.days.add(int(rows.day[row]))

    def key(self, member: int, *, latest: bool) -> tuple[int, int, int, int, int]:
        return (self.tier, -self.confidence, -len(self.days), -self.last if latest else self.first, member)


def confidence_bucket(value: NDArray[np.float32] | np.float32) -> NDArray[np.int16]:
    """Confidence in twentieths: closer values are not told apart by the order of edges."""
    return np.round(np.asarray(value, dtype=np.float64) * CONFIDENCE_BUCKETS).astype(np.int16)
