"""Resolution of a handful of observations without a database: for scenarios of the rules and for tests."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl

from cdp.identity.graph import (
    BLOCKED,
    DAY,
    KINDS,
    Assertions,
    Nodes,
    Resolution,
    Rows,
    TypeTable,
    no_assertions,
    type_table,
)
from cdp.identity.normalise import normalise
from cdp.identity.resolve import resolve
from cdp.identity.rules import IdentityRules, Observation, Scenario

Identifier = tuple[str, str, str]  # type, scope, value
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
START = datetime(2025, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Item:
    """One piece of evidence over normalised identifiers; times in microseconds."""

    ids: tuple[Identifier, ...]
    kind: str = "bind"
    first: int = 0
    last: int | None = None
    source: str = ""
    confidence: float = 1.0


@dataclass(frozen=True)
class Resolved:
    """*persons*: identifiers (with epoch) by person; *of*: person of each; *outcome*: all that `resolve` said."""

    identifiers: tuple[Identifier, ...]
    outcome: Resolution
    table: TypeTable

    def person_of(self) -> dict[tuple[str, str, str, int], int]:
        """Person of every identifier that may have one."""
        found = {}
        for place, origin in enumerate(self.outcome.origin.tolist()):
            if self.outcome.status[place] != BLOCKED:
                found[(*self.identifiers[origin], int(self.outcome.epoch[place]))] = int(self.outcome.person[place])
        return found

    def partition(self) -> frozenset[frozenset[tuple[str, str, str, int]]]:
        groups: dict[int, set[tuple[str, str, str, int]]] = {}
        for identifier, person in self.person_of().items():
            groups.setdefault(person, set()).add(identifier)
        return frozenset(frozenset(group) for group in groups.values())


def micros(at: datetime) -> int:
    return (at - EPOCH) // timedelta(microseconds=1)


def resolve_items(
    items: Sequence[Item],
    rules: IdentityRules,
    *,
    as_of: int,
    must: Iterable[tuple[Identifier, Identifier]] = (),
    cannot: Iterable[tuple[Identifier, Identifier]] = (),
    cut: Iterable[tuple[Identifier, Identifier]] = (),
    barred: Iterable[Identifier] = (),
) -> Resolved:
    """Resolve evidence over identifiers that are normalised already."""
    table = type_table(rules)
    distinct = sorted({identifier for item in items for identifier in item.ids}, key=lambda i: _standing(i, rules))
    rank = {identifier: place for place, identifier in enumerate(distinct)}
    groups = {pair: number for number, pair in enumerate(sorted({(kind, scope) for kind, scope, _ in distinct}))}
    barred = set(barred)
    nodes = Nodes(
        node_id=np.arange(len(distinct), dtype=np.int64),
        type=np.array([table.names.index(kind) for kind, _, _ in distinct], dtype=np.int16),
        group=np.array([groups[kind, scope] for kind, scope, _ in distinct], dtype=np.int32),
        barred=np.array([identifier in barred for identifier in distinct], dtype=np.bool_),
        forced=np.zeros(len(distinct), dtype=np.int8),
    )
    assertions = no_assertions()
    pairs = {
        name: np.array(
            [(rank[a], rank[b]) for a, b in given if a in rank and b in rank and a != b], dtype=np.int64
        ).reshape(-1, 2)
        for name, given in (("must", must), ("cannot", cannot), ("cut", cut))
    }
    count = len(pairs["cut"])
    far = np.full(count, 9 * 10**18, dtype=np.int64)
    assertions = Assertions(pairs["must"], pairs["cannot"], pairs["cut"], -far, far)
    return Resolved(tuple(distinct), resolve(nodes, rows_of(items, rank, table), table, assertions, as_of=as_of), table)


def _standing(identifier: Identifier, rules: IdentityRules) -> tuple[int, bytes, bytes, bytes]:
    kind, scope, value = identifier
    return (rules.strength(kind), kind.encode(), scope.encode(), value.encode())


def rows_of(items: Sequence[Item], rank: dict[Identifier, int], table: TypeTable) -> Rows:
    """Evidence as arrays over ranks."""
    sources = sorted({item.source for item in items})
    kind = np.array([KINDS.index(item.kind) for item in items], dtype=np.int8)
    first = np.array([item.first for item in items], dtype=np.int64)
    last = np.array([item.first if item.last is None else item.last for item in items], dtype=np.int64)
    tiers = [table.tiers.get(item.source, table.tiers[""])[KINDS.index(item.kind)] for item in items]
    sizes = [len(item.ids) for item in items]
    return Rows(
        kind=kind,
        tier=np.array(tiers, dtype=np.int8),
        first=first,
        last=last,
        day=(first // DAY).astype(np.int32),
        source=np.array([sources.index(item.source) for item in items], dtype=np.int32),
        confidence=np.array([item.confidence for item in items], dtype=np.float32),
        count=np.ones(len(items), dtype=np.int32),
        start=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        node=np.array([rank[identifier] for item in items for identifier in item.ids], dtype=np.int32),
    )


def resolve_observations(
    observations: Sequence[Observation], rules: IdentityRules, *, as_of: datetime
) -> tuple[Resolved, dict[str, list[Identifier]]]:
    """Resolve raw observations. Also returns the identifiers that each raw value was read as."""
    raw = [
        [_split(name, value) for name, values in item.ids.items() for value in _listed(values)] for item in observations
    ]
    frame = pl.DataFrame(
        sorted({identifier for ids in raw for identifier in ids}), schema=["type", "scope", "value"], orient="row"
    )
    read = normalise(frame.with_columns(pl.all().cast(pl.String)), rules, today=as_of.date())
    meaning = {
        (row["type"], row["scope"], row["value"]): (row["out_type"], row["out_scope"], row["value_norm"])
        for row in read.filter(pl.col("reason").is_null()).iter_rows(named=True)
    }
    barred = {
        (row["out_type"], row["out_scope"], row["value_norm"])
        for row in read.filter(pl.col("barred").is_not_null()).iter_rows(named=True)
    }
    items = [
        Item(
            tuple(meaning[identifier] for identifier in ids if identifier in meaning),
            item.kind,
            micros((item.at or START + timedelta(hours=place)).astimezone(UTC)),
            source=item.source,
        )
        for place, (item, ids) in enumerate(zip(observations, raw, strict=True))
    ]
    values: dict[str, list[Identifier]] = {}
    for (_, _, value), identifier in meaning.items():
        values.setdefault(value, []).append(identifier)
    return resolve_items(items, rules, as_of=micros(as_of), barred=barred), values


def _split(name: str, value: str) -> Identifier:
    kind, _, scope = name.partition("@")
    return kind, scope, value


def _listed(values: str | list[str]) -> list[str]:
    return [values] if isinstance(values, str) else values


def run_scenario(scenario: Scenario, rules: IdentityRules) -> list[str]:
    """What of *scenario* does not hold under *rules*: one sentence per fault, empty when all holds.

    A value stands for all identifiers it was read as (`type: value` names one when several types share it).
    """
    as_of = (scenario.as_of or START + timedelta(days=150)).astimezone(UTC)
    resolved, values = resolve_observations([*scenario.given, *scenario.when], rules, as_of=as_of)
    person_of = resolved.person_of()
    persons: dict[str, set[int]] = {
        value: {person for (*identifier, _), person in person_of.items() if tuple(identifier) in identifiers}
        for value, identifiers in values.items()
    }
    faults = []
    for group in scenario.same:
        found = [persons.get(value, set()) for value in group]
        if not all(found) or len(set.union(*found)) != 1:
            faults.append(f"{scenario.name}: expected one person for {', '.join(group)}")
    for group in scenario.apart:
        found = [persons.get(value, set()) for value in group]
        if any(a & b for place, a in enumerate(found) for b in found[:place]):
            faults.append(f"{scenario.name}: expected different persons for {', '.join(group)}")
    found_of = [value for value in scenario.nobody if persons.get(value)]
    return [*faults, *(f"{scenario.name}: expected no person for {value}" for value in found_of)]
