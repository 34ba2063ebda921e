"""Questions about persons: who is this, why are these one, why not, what changed, how healthy is the graph."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import datetime
from itertools import pairwise
from typing import Any

import duckdb

from cdp.errors import FatalError
from cdp.identity.explain import chain, hinges, smallest_cut
from cdp.identity.quality import wrong_merges

Rows = list[tuple[Any, ...]]


@dataclass(frozen=True)
class Ref:
    """One identifier of the warehouse, and the person it is of (None for a blocked one)."""

    node_id: int
    type: str
    scope: str
    value: str
    one_id: str | None

    @property
    def name(self) -> str:
        return name_of(self.type, self.scope, self.value)


def name_of(kind: str, scope: str, value: str) -> str:
    """How an identifier is written: `type:value`, or `type@scope:value`."""
    return f"{kind}@{scope}:{value}" if scope else f"{kind}:{value}"


@dataclass(frozen=True)
class Link:
    """One edge of a chain, with where it was seen. *evidence*: source, source key, kind, first and last time."""

    a: str
    b: str
    tier: int
    first_seen: datetime | None
    last_seen: datetime | None
    distinct_days: int
    sources: int
    decision: str
    evidence: Rows


@dataclass(frozen=True)
class Explanation:
    """*chain*: the strongest way from a to b. *cut*: the fewest edges that part them. *why*: sentences when they are
    apart."""

    same: bool
    a: str
    b: str
    one_id: str | None
    other_id: str | None
    chain: list[Link] = field(default_factory=list)
    cut: list[tuple[str, str]] = field(default_factory=list)
    why: list[str] = field(default_factory=list)


NODE = """select node.node_id, node.type, node.scope, node.value_norm, map.one_id
    from identity.node as node
    left join identity.identity_map as map on node.node_id = map.node_id and map.run_to is null"""


def rows(con: duckdb.DuckDBPyConnection, sql: str, parameters: list[Any] | None = None) -> Rows:
    return con.execute(sql, parameters or []).fetchall()


def find(con: duckdb.DuckDBPyConnection, text: str) -> Ref:
    """The identifier that *text* names: `phone:138…`, `openid@wx1:o…`, a bare value, raw or normalised, or a one_id
    (then
    its strongest identifier). Raises `FatalError` when there is none, or several."""
    named, _, value = text.partition(":")
    kind, _, scope = named.partition("@")
    known = {row[0] for row in rows(con, "select type from identity.type_registry")}
    if value and kind in known:
        where = """node.type = ? and (? = '' or node.scope = ?)
            and (node.value_norm = ? or node.node_id in ({raw} and type = ?))"""
        found = _nodes(con, where, [kind, scope, scope, value, value, kind])
    else:
        found = _nodes(con, "node.value_norm = ? or node.node_id in ({raw})", [text, text])
    if not found:
        found = _of_person(con, text)
    if not found:
        raise FatalError(
            "no identifier or one_id of that name",
            hint="write `type:value` or `type@scope:value`, e.g. `openid@wx1:o…`",
        )
    if len({ref.node_id for ref in found}) > 1:
        names = ", ".join(sorted({f"{ref.type}@{ref.scope}" for ref in found}))
        raise FatalError(
            f"that value is several identifiers: {names}", hint="put the type before it: `type@scope:value`"
        )
    return found[0]


def _nodes(con: duckdb.DuckDBPyConnection, where: str, parameters: list[Any]) -> list[Ref]:
    raw = "select node_id from identity.identifier_value where value = ?"
    return [Ref(*row) for row in rows(con, f"{NODE} where node.epoch = 1 and ({where.format(raw=raw)})", parameters)]


def _of_person(con: duckdb.DuckDBPyConnection, one_id: str) -> list[Ref]:
    found = rows(con, f"""{NODE} inner join identity.type_registry as registry on node.type = registry.type
        where map.one_id = (select current_one_id from identity.alias where one_id = ?)
        order by registry.strength, node.scope, node.value_norm, node.epoch limit 1""", [one_id])  # fmt: skip
    return [Ref(*row) for row in found]


def show(con: duckdb.DuckDBPyConnection, ref: Ref) -> dict[str, Any]:
    """All of a person: ids, identifiers, earlier ids, what was refused, and which identifiers hold it together."""
    person = rows(con, """select one_id, kind, first_seen, last_seen, identifier_count, anonymous, household_id
        from identity.people where one_id = ?""", [ref.one_id])  # fmt: skip
    names = ("one_id", "kind", "first_seen", "last_seen", "identifier_count", "anonymous", "household_id")
    pairs = _person_edges(con, ref.one_id, joined=True)
    labels = _labels(con, {node for pair in pairs for node in pair[:2]})
    return {
        **(dict(zip(names, person[0], strict=True)) if person else {"one_id": None, "kind": "blocked"}),
        "identifiers": [
            dict(zip(("node_id", "type", "scope", "value", "epoch", "first_seen", "last_seen"), row, strict=True))
            for row in rows(con, """
                select item.node_id, item.type, item.scope, item.value_norm, item.epoch, item.first_seen, item.last_seen
                from identity.identity_map as map inner join identity.identifier as item on map.node_id = item.node_id
                where map.run_to is null and map.one_id = ? order by item.class, item.priority, item.type, item.scope,
                    item.value_norm, item.epoch""", [ref.one_id])
        ],
        "earlier_ids": rows(con, """select one_id, status from identity.alias
            where current_one_id = ? and one_id <> current_one_id order by one_id""", [ref.one_id]),
        "refused": [_refusal(con, row) for row in rows(con, """
            select decision.* from identity.edge_decision as decision
            where decision.a_node in (select node_id from identity.identity_map where run_to is null and one_id = ?1)
                or decision.b_node in (select node_id from identity.identity_map where run_to is null and one_id = ?1)
            order by all limit 50""", [ref.one_id])],
        "hinges": [(labels[node], count) for node, count in hinges([pair[:2] for pair in pairs])[:5]],
        "links": [(labels[a], labels[b], decision) for a, b, decision in pairs],
    }  # fmt: skip


def _person_edges(con: duckdb.DuckDBPyConnection, one_id: str | None, *, joined: bool) -> list[tuple[int, int, str]]:
    only = "and edge.decision in ('accepted', 'redundant', 'overridden')" if joined else ""
    return rows(
        con,
        f"""select edge.a_node, edge.b_node, edge.decision from identity.edge as edge
        inner join identity.identity_map as map on edge.a_node = map.node_id and map.run_to is null
        where map.one_id = ? {only} order by edge.tier, edge.first_seen, edge.a_node, edge.b_node""",
        [one_id],
    )


def _labels(con: duckdb.DuckDBPyConnection, nodes: set[int]) -> dict[int, str]:
    found = rows(con, f"{NODE} where node.node_id in (select unnest(?::bigint[]))", [sorted(nodes)])
    return {row[0]: Ref(*row).name for row in found}


def _refusal(con: duckdb.DuckDBPyConnection, row: tuple[Any, ...]) -> dict[str, Any]:
    a, b, decision, reason, left, right = row
    labels = _labels(con, {node for node in (a, b, left, right) if node is not None})
    return {
        "a": labels.get(a), "b": labels.get(b), "decision": decision, "reason": reason,
        "left": labels.get(left), "right": labels.get(right),
    }  # fmt: skip


def explain(con: duckdb.DuckDBPyConnection, a: Ref, b: Ref) -> Explanation:
    """Why *a* and *b* are one person: the strongest chain with its evidence, and the smallest cut. When they are not
    one,
    why not: refusals between the two persons, evidence kept back, decisions of people."""
    if a.one_id is None or a.one_id != b.one_id:
        return Explanation(False, a.name, b.name, a.one_id, b.one_id, why=_why_not(con, a, b))
    edges = _person_edges(con, a.one_id, joined=True)
    here = _in_person(con, a), _in_person(con, b)
    forest = [edge[:2] for edge in edges if edge[2] != "redundant"]
    way = chain(forest, *here)
    cut = smallest_cut([edge[:2] for edge in edges], *here)
    labels = _labels(con, {node for pair in cut for node in pair})
    return Explanation(
        True, a.name, b.name, a.one_id, b.one_id,
        chain=[_link(con, x, y) for x, y in pairwise(way)],
        cut=[(labels[x], labels[y]) for x, y in cut],
    )  # fmt: skip


def _in_person(con: duckdb.DuckDBPyConnection, ref: Ref) -> int:
    """The epoch of an identifier that is of its person (epoch 1 where it has but one)."""
    found = rows(con, """select map.node_id from identity.identity_map as map
        inner join identity.node as node on map.node_id = node.node_id
        where map.run_to is null and map.one_id = ? and coalesce(node.epoch_of, node.node_id) = ?
        order by node.epoch limit 1""", [ref.one_id, ref.node_id])  # fmt: skip
    return int(found[0][0]) if found else ref.node_id


def _link(con: duckdb.DuckDBPyConnection, a: int, b: int) -> Link:
    labels = _labels(con, {a, b})
    edge = rows(con, """select tier, first_seen, last_seen, distinct_days, distinct_sources, decision from identity.edge
        where (a_node = ?1 and b_node = ?2) or (a_node = ?2 and b_node = ?1)""", [a, b])[0]  # fmt: skip
    fields: list[Any] = [labels[a], labels[b], *edge, evidence_between(con, a, b)]
    return Link(*fields)


def evidence_between(con: duckdb.DuckDBPyConnection, a: int, b: int, limit: int = 5) -> Rows:
    """Source rows that saw both identifiers together, oldest first."""
    return rows(con, """
        select evidence.source, evidence.source_key, evidence.kind, evidence.event_time, evidence.last_time
        from identity.evidence as evidence
        where evidence.row_id in (select row_id from identity.evidence_node where node_id = (
                select coalesce(epoch_of, node_id) from identity.node where node_id = ?))
            and evidence.row_id in (select row_id from identity.evidence_node where node_id = (
                select coalesce(epoch_of, node_id) from identity.node where node_id = ?))
        order by evidence.event_time, evidence.source, evidence.source_key limit ?""", [a, b, limit])  # fmt: skip


WORDS = {
    "shared": "is seen with more people than `max_links` allows, so it links nobody",
    "weaker_link": "is kept with its better owner only (`max_links`)",
    "blocked": "is on the block list",
    "relay": "is a number lent by a platform",
    "expired": "was not seen for longer than its `ttl_days`",
    "closed": "was unbound",
    "cut": "was cut by hand",
    "limit_zero": "is of a type with limit 0",
    "function_violated": "should belong to one parent only and has several: an error of the data",
}


def _why_not(con: duckdb.DuckDBPyConnection, a: Ref, b: Ref) -> list[str]:
    told = []
    for ref in (a, b):
        barred = rows(con, "select barred from identity.node where node_id = ? and barred is not null", [ref.node_id])
        told += [f"`{ref.name}` links nobody: {row[0]}" for row in barred]
    both = """(decision.a_node in (select node_id from mine) and decision.b_node in (select node_id from theirs)
        or decision.a_node in (select node_id from theirs) and decision.b_node in (select node_id from mine))"""
    for row in rows(
        con,
        f"""
        with mine as (select node_id from identity.identity_map where run_to is null and one_id = ?),
        theirs as (select node_id from identity.identity_map where run_to is null and one_id = ?)
        select decision.* from identity.edge_decision as decision where {both} order by all""",
        [a.one_id, b.one_id],
    ):
        told.append(_sentence(_refusal(con, row)))
    if told:
        return told
    for between in rows(con, """
        select distinct decision.a_node, decision.b_node, decision.decision, decision.reason, decision.left_node,
            decision.right_node
        from identity.edge_decision as decision
        inner join identity.raw_component as x on decision.a_node = x.node_id
        inner join identity.raw_component as y on decision.b_node = y.node_id
        where x.component in (select component from identity.raw_component where node_id in (?1, ?2))
            or y.component in (select component from identity.raw_component where node_id in (?1, ?2))
        order by all limit 20""", [a.node_id, b.node_id]):  # fmt: skip
        told.append(_sentence(_refusal(con, between)))
    return told or ["no evidence leads from one to the other"]


def _sentence(refusal: dict[str, Any]) -> str:
    a, b, reason = refusal["a"], refusal["b"], str(refusal["reason"])
    if refusal["decision"] == "suppressed":
        return f"`{a}` – `{b}` was kept back: one of them {WORDS.get(reason, reason)}"
    if reason.startswith("limit:"):
        return (
            f"`{a}` – `{b}` was {refusal['decision']}: a person may not hold both `{refusal['left']}` and "
            f"`{refusal['right']}` ({reason}), and stronger evidence had joined them to either side"
        )
    ends = f"`{refusal['left']}` and `{refusal['right']}`"
    return f"`{a}` – `{b}` was {refusal['decision']}: {ends} must stay apart (cannot_link)"


def changes(
    con: duckdb.DuckDBPyConnection, *, after_run: int = 0, identifiers: bool = False, limit: int = 1000
) -> list[dict[str, Any]]:
    """The change feed after a cursor: person-level rows, and one per identifier when *identifiers*."""
    names = ("run", "seq", "op", "one_id", "other_id", "node_id", "cause")
    only = "" if identifiers else "and node_id is null"
    found = rows(con, f"""select {', '.join(names)} from identity.identity_change where run > ? {only}
        order by run, seq limit ?""", [after_run, limit])  # fmt: skip
    return [dict(zip(names, row, strict=True)) for row in found]


def as_of(con: duckdb.DuckDBPyConnection, ref: Ref, *, valid: datetime, known: datetime) -> list[dict[str, Any]]:
    """Who *ref* was on *valid* as known on *known*, and where that id leads today."""
    raw = rows(con, """select type, scope, value from identity.identifier_value where node_id = ?
        order by all limit 1""", [ref.node_id])  # fmt: skip
    found = rows(con, "select * from identity.resolve(?, ?, ?, ?, ?)", [*raw[0], valid, known]) if raw else []
    return [dict(zip(("one_id", "current_one_id", "known_from", "known_to"), row, strict=True)) for row in found]


def health(con: duckdb.DuckDBPyConnection) -> dict[str, Any]:
    """What to look at: rejected values, shared identifiers, refusals, contradictions, largest persons, recent runs."""
    known, refused = rows(
        con,
        """select
        (select count(*) from identity.person where kind = 'person' and not anonymous),
        (select count(*) from (
            select distinct least(x.number, y.number), greatest(x.number, y.number)
            from identity.edge_decision as decision
            inner join identity.identity_map as x on decision.a_node = x.node_id and x.run_to is null
            inner join identity.identity_map as y on decision.b_node = y.node_id and y.run_to is null
            where decision.decision = 'rejected' and x.number <> y.number
                and split_part(decision.reason, ':', 2) in (select type from identity.type_registry where class =
                0)))""",
    )[0]
    return {
        "runs": rows(con, """select run, as_of, mode, identifiers, people, changes, rules_hash from
            identity.run_manifest
            order by run desc limit 10"""),
        "kinds": rows(con, "select kind, anonymous, count(*) from identity.person group by all order by all"),
        "identifiers": rows(con, "select type, status, count(*) from identity.identifier group by all order by all"),
        "rejected_values": rows(con, """select type, reason, count(*) from identity.rejects
            group by all order by 3 desc, 1, 2"""),
        "refusals": rows(con, """select decision, reason, count(*) from identity.edge_decision
            group by all order by 3 desc, 1, 2"""),
        "contradiction_rate": refused / known if known else 0.0,
        "contradictions": refused,
        "wrong_merges": _wrong_merges(con, refused),
        "clamped_times": rows(con, "select count(*) from identity.evidence where clamped")[0][0],
        "assertions": rows(con, """select kind, count(*) from identity.assertion where withdrawn_at is null
            group by all order by 1"""),
        "largest": rows(con, """select one_id, kind, identifier_count from identity.person
            order by identifier_count desc, one_id limit 10"""),
    }  # fmt: skip


def _wrong_merges(con: duckdb.DuckDBPyConnection, contradictions: int) -> dict[str, Any]:
    """How many wrong merges stand unnoticed, estimated from those that two ids of class 0 contradicted."""
    members, people = rows(con, """
        with held as (
            select map.number, min(registry.class) as class from identity.identity_map as map
            inner join identity.node as node on map.node_id = node.node_id
            inner join identity.type_registry as registry on node.type = registry.type
            where map.run_to is null group by map.number
        )
        select count(*) filter (held.class = 0), count(*)
        from identity.person as person inner join held on person.number = held.number
        where person.kind = 'person' and not person.anonymous""")[0]  # fmt: skip
    told = wrong_merges(contradictions, members / people if people else 0.0)
    if told is None:
        return {"contradictions": contradictions, "people": people}
    return {
        "contradictions": told.seen, "people": people, "seen_share": told.seen_share, "expected": told.expected,
        "low": told.low, "high": told.high,
    }  # fmt: skip


def as_plain(item: Any) -> Any:
    """Dataclasses, tuples and times as JSON can hold them."""
    if hasattr(item, "__dataclass_fields__"):
        return as_plain(asdict(item))
    if isinstance(item, dict):
        return {str(key): as_plain(value) for key, value in item.items()}
    if isinstance(item, (list, tuple)):
        return [as_plain(value) for value in item]
    return item.isoformat() if isinstance(item, datetime) else item
