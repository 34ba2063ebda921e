"""The arrays that resolution works on: times in microseconds since 1970 (UTC), positions as dense integers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cdp.identity.rules import EvidenceKind, IdentityRules

Ints = NDArray[np.int64]
Small = NDArray[np.int32]
Bools = NDArray[np.bool_]

DAY = 86_400_000_000
NEVER = np.iinfo(np.int64).max

# Why an identifier, a row of evidence or an edge does not link; codes are stored, words are shown.
REASONS = (
    "", "blocked", "relay", "expired", "closed", "cut", "shared", "weaker_link", "limit_zero", "function_violated",
    "absent", "outside",
)  # fmt: skip
(OK, BLOCKED, RELAY, EXPIRED, CLOSED, CUT, SHARED, WEAKER, LIMIT_ZERO, NOT_A_FUNCTION, ABSENT, OUTSIDE) = range(
    len(REASONS)
)

KINDS = ("bind", "login", "order", "co_occurrence", "hash_of", "manual", "unbind")
UNBIND = KINDS.index("unbind")
MANUAL = KINDS.index("manual")

DECISIONS = ("", "accepted", "redundant", "rejected", "rejected_cannot", "overridden")
(UNDECIDED, ACCEPTED, REDUNDANT, REJECTED, REJECTED_CANNOT, OVERRIDDEN) = range(len(DECISIONS))


@dataclass(frozen=True)
class TypeTable:
    """The rules as arrays over type positions, in the order of `names`."""

    names: tuple[str, ...]
    class_: NDArray[np.int8]
    strength: Small
    limit: Small  # -1: none
    window: Ints  # microseconds; 0: none
    ttl: Ints  # microseconds; 0: none
    gap: Ints  # microseconds; 0: none
    max_links: Small  # [type, other] -> most neighbours of type other; -1: no rule
    policy: tuple[str, ...]
    merges: Bools
    latest_wins: Bools
    tiers: Mapping[str, NDArray[np.int8]]  # source ('' = all others) -> tier by kind


def _by_name(tiers: Mapping[EvidenceKind, int]) -> dict[str, int]:
    return {str(kind): tier for kind, tier in tiers.items()}


def type_table(rules: IdentityRules) -> TypeTable:
    """Compile *rules*; type positions follow the sorted names."""
    names = tuple(sorted(rules.types))
    items = [rules.types[name] for name in names]
    links = np.full((len(names), len(names)), -1, dtype=np.int32)
    for row, item in enumerate(items):
        for other, most in item.max_links.items():
            links[row, names.index(other)] = most
    given: dict[str, dict[str, int]] = {
        "": {},
        **{source: _by_name(changed) for source, changed in rules.source_tiers.items()},
    }
    usual = _by_name(rules.tiers)
    tiers = {
        source: np.array([changed.get(kind, usual[kind]) for kind in KINDS], dtype=np.int8)
        for source, changed in given.items()
    }
    return TypeTable(
        names=names,
        class_=np.array([item.class_ for item in items], dtype=np.int8),
        strength=np.array([rules.strength(name) for name in names], dtype=np.int32),
        limit=np.array([-1 if item.limit is None else item.limit for item in items], dtype=np.int32),
        window=np.array([(item.limit_window_days or 0) * DAY for item in items], dtype=np.int64),
        ttl=np.array([(item.ttl_days or 0) * DAY for item in items], dtype=np.int64),
        gap=np.array([(item.recycle_gap_days or 0) * DAY for item in items], dtype=np.int64),
        max_links=links,
        policy=tuple(item.shared_policy for item in items),
        merges=np.array([item.merges for item in items], dtype=np.bool_),
        latest_wins=np.array([item.latest_owner_wins for item in items], dtype=np.bool_),
        tiers=tiers,
    )


@dataclass(frozen=True)
class Nodes:
    """Identifiers in strength order: by class, priority, type, scope and value bytes. A node's position is its rank."""

    node_id: Ints
    type: NDArray[np.int16]
    group: Small  # dense number of (type, scope)
    barred: Bools  # on the block list
    forced: NDArray[np.int8]  # > 0: known from before to link nobody, for this reason

    def __len__(self) -> int:
        return len(self.node_id)


@dataclass(frozen=True)
class Rows:
    """Pieces of evidence. `start[i]:start[i+1]` are row i's places in `node`: ranks of identifiers seen together."""

    kind: NDArray[np.int8]
    tier: NDArray[np.int8]
    first: Ints
    last: Ints
    day: Small  # brand day of `first`
    source: Small
    confidence: NDArray[np.float32]
    count: Small
    start: Ints
    node: Small

    def __len__(self) -> int:
        return len(self.kind)

    @property
    def owner(self) -> Small:
        """For each place, the position of its row."""
        return np.repeat(np.arange(len(self), dtype=np.int32), np.diff(self.start))


@dataclass(frozen=True)
class Assertions:
    """What people decided, as ranks: `must` and `cannot` are n×2; `cut` n×2 with the instants it holds between."""

    must: Ints
    cannot: Ints
    cut: Ints
    cut_from: Ints
    cut_until: Ints


def no_assertions() -> Assertions:
    pairs = np.empty((0, 2), dtype=np.int64)
    times = np.empty(0, dtype=np.int64)
    return Assertions(must=pairs, cannot=pairs, cut=pairs, cut_from=times, cut_until=times)


@dataclass(frozen=True)
class Slices:
    """Intervals of identifiers that had several owners: node *origin* (rank) in [since, until) is its epoch *epoch*."""

    origin: Ints
    epoch: Ints
    since: Ints
    until: Ints


@dataclass(frozen=True)
class Links:
    """Evidence after eligibility: places (group, final node) by group, the row of each group, what was kept back."""

    group: Small
    node: Small
    row_of: Small
    dropped_node: Small
    dropped_row: Small
    dropped_reason: NDArray[np.int8]


@dataclass(frozen=True)
class Suppressed:
    """Distinct pairs `a < b` (final nodes) whose evidence was kept back, with the reason."""

    a: Small
    b: Small
    reason: NDArray[np.int8]


@dataclass(frozen=True)
class Edges:
    """Unordered pairs `a < b` (final nodes, so `a` is the stronger), each with all its evidence summed up."""

    a: Small
    b: Small
    tier: NDArray[np.int8]
    first: Ints
    last: Ints
    count: Ints
    days: Small
    sources: Small
    confidence: NDArray[np.float32]
    forced: Bools

    def __len__(self) -> int:
        return len(self.a)


@dataclass(frozen=True)
class Refusals:
    """Edges not taken, or taken against a limit: position in `Edges`, the (type, scope) in the way, values on either
    side."""

    edge: Ints
    group: Small  # -1: a cannot-link
    left: Small
    right: Small


@dataclass(frozen=True)
class Resolution:
    """The outcome. Final nodes extend the given ones by epochs: `origin` (rank given) and `epoch` (1 for the first)."""

    origin: Small
    epoch: NDArray[np.int16]
    first: Ints
    last: Ints
    status: NDArray[np.int8]  # one of REASONS; OK links
    component: Small  # raw component, before limits
    person: Small  # final cluster
    edges: Edges
    decision: NDArray[np.int8]
    refusals: Refusals
    slices: Slices
    suppressed: Suppressed
    contested_edges: int
    data_errors: Small  # final nodes of a functional type that had several parents
    neighbours: Small  # most neighbours of one type of class 0 or 1 per final node, for the gate
    extent: Small  # per given node: what must be resolved together with it when it changes
