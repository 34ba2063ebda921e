"""What people decide about identities: link, unlink, cut, forget, and what-if. Each acts at once, or not at all (§
2.7)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

import duckdb

from cdp.errors import CheckFailedError, FatalError
from cdp.identity.rules import IdentityRules
from warehouse.identity_audiences import Audience, affected_audiences
from warehouse.identity_queries import Explanation, Ref, explain, find, name_of, rows
from warehouse.identity_store import (
    IdentityReport,
    check_map_untouched,
    last_run,
    reresolve,
    transaction,
    try_rules,
)
from warehouse.identity_values import NODE_TEXT, hash_mac

Kind = Literal["must_link", "cannot_link", "cut_edge"]


@dataclass(frozen=True)
class Asserted:
    """What an assertion did. *after*: where the two stand now. *sacrificed*: edges it refused, as pairs of names."""

    assertion_ids: list[str]
    report: IdentityReport
    after: Explanation
    sacrificed: list[tuple[str, str]]


def assert_pair(
    con: duckdb.DuckDBPyConnection,
    rules: IdentityRules,
    kind: Kind,
    a: Ref,
    b: Ref,
    *,
    author: str,
    reason: str,
    now: datetime,
    secret: bytes,
    since: datetime | None = None,
    until: datetime | None = None,
) -> Asserted:
    """Record that *a* and *b* are one (`must_link`), are two (`cannot_link`), or that their common evidence, from
    *since* to
    *until*, does not count (`cut_edge`: other ways may still join them); and resolve what hangs on it."""
    if a.node_id == b.node_id:
        raise FatalError(
            "an identifier cannot be parted from itself or linked with itself", hint="name two identifiers"
        )
    with transaction(con, secret):
        ids = [_record(con, kind, a, b, author=author, reason=reason, now=now, since=since, until=until)]
        report = _resolve(con, rules, ids, now=now, secret=secret)
        return Asserted(ids, report, explain(con, find(con, a.name), find(con, b.name)), _sacrificed(con, a, b))


def detach(
    con: duckdb.DuckDBPyConnection,
    rules: IdentityRules,
    ref: Ref,
    *,
    author: str,
    reason: str,
    now: datetime,
    secret: bytes,
) -> Asserted:
    """Part *ref* from all other ids of class 0 and 1 of its person."""
    others = [
        Ref(*row)
        for row in rows(
            con,
            """
            select item.node_id, item.type, item.scope, item.value_norm, map.one_id from identity.identity_map as map
            inner join identity.identifier as item on map.node_id = item.node_id
            where map.run_to is null and map.one_id = ? and item.class <= 1 and item.node_id <> ? and item.epoch = 1
            order by item.class, item.priority, item.scope, item.value_norm""",
            [ref.one_id, ref.node_id],
        )
    ]
    if not others:
        raise FatalError(f"`{ref.name}` is with no other id of class 0 or 1", hint="there is nothing to part it from")
    with transaction(con, secret):
        ids = [_record(con, "cannot_link", ref, other, author=author, reason=reason, now=now) for other in others]
        report = _resolve(con, rules, ids, now=now, secret=secret)
        after = explain(con, find(con, ref.name), find(con, others[0].name))
        return Asserted(ids, report, after, _sacrificed(con, ref, others[0]))


def withdraw(
    con: duckdb.DuckDBPyConnection, rules: IdentityRules, assertion_id: str, *, now: datetime, secret: bytes
) -> IdentityReport:
    """Take an assertion back; what it did is undone, and ids return."""
    with transaction(con, secret):
        known = rows(
            con, "select 1 from identity.assertion where assertion_id = ? and withdrawn_at is null", [assertion_id]
        )
        if not known:
            raise FatalError(
                "no such assertion in force", hint="`cdp identity health` counts them; ids are shown when made"
            )
        con.execute("update identity.assertion set withdrawn_at = ? where assertion_id = ?", [now, assertion_id])
        return _resolve(con, rules, [assertion_id], now=now, secret=secret)


def _record(
    con: duckdb.DuckDBPyConnection,
    kind: Kind,
    a: Ref,
    b: Ref,
    *,
    author: str,
    reason: str,
    now: datetime,
    since: datetime | None = None,
    until: datetime | None = None,
) -> str:
    text = "\x1f".join((kind, a.name, b.name, author, now.isoformat()))
    assertion_id = hashlib.sha256(text.encode()).hexdigest()[:16]
    con.execute(
        "insert into identity.assertion values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, null)",
        [assertion_id, kind, a.type, a.scope, a.value, b.type, b.scope, b.value, author, reason, now, since, until],
    )
    return assertion_id


def _resolve(
    con: duckdb.DuckDBPyConnection, rules: IdentityRules, ids: Sequence[str], *, now: datetime, secret: bytes
) -> IdentityReport:
    before = last_run(con)
    if before is None:
        raise FatalError("identities were never resolved", hint="`cdp run` comes first")
    check_map_untouched(con, before.state_hash)
    return reresolve(con, rules, run_id=f"assertion-{ids[0]}", as_of=max(now, before.as_of), secret=secret)


def _sacrificed(con: duckdb.DuckDBPyConnection, a: Ref, b: Ref) -> list[tuple[str, str]]:
    found = rows(
        con,
        """
        select x.type, x.scope, x.value_norm, y.type, y.scope, y.value_norm from identity.edge_decision as decision
        inner join identity.node as x on decision.a_node = x.node_id
        inner join identity.node as y on decision.b_node = y.node_id
        inner join identity.raw_component as state on decision.a_node = state.node_id
        where decision.decision = 'rejected_cannot'
            and state.component in (select component from identity.raw_component where node_id in (?, ?))
        order by all""",
        [a.node_id, b.node_id],
    )
    return [(name_of(*row[:3]), name_of(*row[3:])) for row in found]


@dataclass(frozen=True)
class ForgetReport:
    """What a forget took, or would take. *elsewhere*: matches left in any table of the schema; all zero proves
    absence."""

    applied: bool
    identifiers: int
    raw_values: int
    evidence_rows: int
    edges: int
    decisions: int
    map_rows: int
    people_ended: list[str]
    people_changed: list[str]
    shared: list[str]
    elsewhere: dict[str, int] = field(default_factory=dict)


def forget(
    con: duckdb.DuckDBPyConnection,
    rules: IdentityRules,
    refs: Sequence[Ref],
    *,
    now: datetime,
    secret: bytes,
    apply: bool = False,
    whole_person: bool = True,
    keep_days: int | None = None,
) -> ForgetReport:
    """Erase identifiers, or the whole persons they are of, from every table of the schema.

    Only HMAC tombstones stay (for *keep_days*; None: for ever), so that evidence as old as *now* stays out however
    often it comes again; later evidence may start a new person. Without *apply* nothing changes and the report says
    what would.
    """
    with transaction(con, secret):
        choose_forgotten(con, refs, whole_person=whole_person)
        report = _census(con)
        if apply:
            values = _erase(con, now=now, secret=secret, keep_days=keep_days)
            _end_people(con, report.people_ended)
            before = last_run(con)
            reresolve(
                con,
                rules,
                run_id=f"forget-{now.isoformat()}",
                as_of=max(now, before.as_of) if before else now,
                secret=secret,
            )
            left = matches(con, values)
            if any(left.values()):
                raise CheckFailedError(
                    f"forgotten values are still in {', '.join(name for name, count in left.items() if count)}",
                    hint="nothing was erased; report it",
                )
            report = ForgetReport(**{**report.__dict__, "applied": True, "elsewhere": left})
        return report


def choose_forgotten(con: duckdb.DuckDBPyConnection, refs: Sequence[Ref], *, whole_person: bool) -> None:
    """Temp table `forgotten(node_id)`: identifiers with all their epochs and digests."""
    before = last_run(con)
    if before is None:
        raise FatalError("identities were never resolved", hint="`cdp run` comes first")
    check_map_untouched(con, before.state_hash)
    chosen = [ref.node_id for ref in refs]
    people = [ref.one_id for ref in refs if ref.one_id] if whole_person else []
    con.execute(
        """create or replace temp table forgotten as
        with base as (
            select unnest(?::bigint[]) as node_id
            union select node_id from identity.identity_map where run_to is null and one_id in (select
            unnest(?::text[]))
        ),
        bases as (
            select distinct coalesce(node.epoch_of, node.node_id) as node_id
            from base inner join identity.node as node using (node_id)
        )
        select node_id from identity.node
        where coalesce(epoch_of, node_id) in (select node_id from bases) or alias_of in (select node_id from bases)""",
        [chosen, people],
    )


def _census(con: duckdb.DuckDBPyConnection) -> ForgetReport:
    def count(table: str, *names: str) -> int:
        where = " or ".join(f"{name} in (select node_id from forgotten)" for name in names)
        return int(rows(con, f"select count(*) from identity.{table} where {where}")[0][0])

    people = rows(
        con,
        """select one_id, bool_and(node_id in (select node_id from forgotten)) from identity.identity_map
        where run_to is null and number in (
            select number from identity.identity_map where run_to is null and node_id in (select node_id from
            forgotten))
        group by one_id order by one_id""",
    )
    shared = rows(
        con,
        """select type, scope, value_norm from identity.identifier
        where status = 'shared' and node_id in (select node_id from forgotten) order by all""",
    )
    return ForgetReport(
        applied=False,
        identifiers=count("node", "node_id"),
        raw_values=count("identifier_value", "node_id"),
        evidence_rows=int(
            rows(
                con,
                """select count(distinct row_id) from identity.evidence_node
            where node_id in (select node_id from forgotten)""",
            )[0][0]
        ),
        edges=count("edge", "a_node", "b_node"),
        decisions=count("edge_decision", "a_node", "b_node", "left_node", "right_node"),
        map_rows=count("identity_map", "node_id"),
        people_ended=[one for one, whole in people if whole],
        people_changed=[one for one, whole in people if not whole],
        shared=[name_of(*row) for row in shared],
    )


# Every column of the schema that names an identifier by number.
NAMED_IN = {
    "evidence_node": ("node_id",),
    "edge": ("a_node", "b_node"),
    "raw_component": ("node_id",),
    "edge_decision": ("a_node", "b_node", "left_node", "right_node"),
    "slice": ("node_id", "slice_node"),
    "identity_map": ("node_id",),
    "node_home": ("node_id",),
    "frozen_member": ("node_id",),
    "identity_change": ("node_id",),
    "identifier_value": ("node_id",),
    "node": ("node_id",),
    "touched": ("node_id",),
}


def _erase(con: duckdb.DuckDBPyConnection, *, now: datetime, secret: bytes, keep_days: int | None) -> list[str]:
    """Delete all that names the forgotten; returns the texts that must not be found any more."""
    values = [
        row[0]
        for row in rows(
            con,
            """
        (select value from identity.identifier_value where node_id in (select node_id from forgotten)
        union select value_norm from identity.node where node_id in (select node_id from forgotten))
        except -- the same text may be another identifier's: an openid under another appid
        (select value from identity.identifier_value where node_id not in (select node_id from forgotten)
        union select value_norm from identity.node where node_id not in (select node_id from forgotten))""",
        )
    ]
    con.execute("""insert into identity.touched
        select distinct state.node_id from identity.raw_component as state
        where state.extent in (select extent from identity.raw_component where node_id in (select node_id from
        forgotten))
            or state.node_id in (select node_id from identity.evidence_node where row_id in (
                select row_id from identity.evidence_node where node_id in (select node_id from forgotten)))""")
    expires = now + timedelta(days=keep_days) if keep_days else None
    con.execute(
        f"""insert into identity.tombstone select {hash_mac(secret, NODE_TEXT)}, ?, ?
        from identity.node as node where node.epoch = 1 and node.node_id in (select node_id from forgotten)""",
        [now, expires],
    )
    con.execute("""update identity.evidence set source_key = null where row_id in (
        select row_id from identity.evidence_node where node_id in (select node_id from forgotten))""")
    con.execute("""delete from identity.assertion where exists (select 1 from identity.node as node
        where node.node_id in (select node_id from forgotten) and (
            (node.type, node.scope, node.value_norm) = (a_type, a_scope, a_value)
            or (node.type, node.scope, node.value_norm) = (b_type, b_scope, b_value)))""")
    for table, names in NAMED_IN.items():
        where = " or ".join(f"{name} in (select node_id from forgotten)" for name in names)
        con.execute(f"delete from identity.{table} where {where}")
    con.execute("delete from identity.rejects where value in (select unnest(?::text[]))", [values])
    return values


def _end_people(con: duckdb.DuckDBPyConnection, ended: list[str]) -> None:
    """Persons with nothing left are forgotten, with all the ids that had merged into them."""
    run = int(rows(con, "select coalesce(max(run), 0) + 1 from identity.run_manifest")[0][0])
    con.execute(
        f"""update identity.one_id_registry set status = 'forgotten', died_run = {run}, merged_into = null,
            current_number = number
        where current_number in (select number from identity.one_id_registry
            where one_id in (select unnest(?::text[])))""",
        [ended],
    )
    con.execute("delete from identity.person where one_id in (select unnest(?::text[]))", [ended])
    con.execute(f"""insert into identity.identity_change
        select {run}, -row_number() over (order by one_id), 'forget', one_id, null, null, 'assertion'
        from identity.one_id_registry where status = 'forgotten' and died_run = {run}""")


def matches(con: duckdb.DuckDBPyConnection, values: Sequence[str]) -> dict[str, int]:
    """How often any of *values* stands in each text column of the schema's own tables; the proof of absence."""
    columns = rows(
        con,
        """select table_name, column_name from duckdb_columns()
        where schema_name = 'identity' and data_type = 'VARCHAR' and table_name in (
            select table_name from duckdb_tables() where schema_name = 'identity')
            and not starts_with(table_name, 'int_') order by all""",
    )
    return {
        f"{table}.{column}": int(
            rows(
                con,
                f"""select count(*) from identity.{table}
            where {column} in (select unnest(?::text[]))""",
                [list(values)],
            )[0][0]
        )
        for table, column in columns
        if table not in ("type_registry", "rules_version", "run_manifest")
    }


@dataclass(frozen=True)
class WhatIf:
    """What other rules would do to all data. Counts are those the run would report; *examples* name some one_ids."""

    report: IdentityReport
    gates: list[str]
    moved_identifiers: int
    people_before: int
    people_after: int
    merges: list[tuple[str, str]]
    splits: list[tuple[str, str]]
    touched_people: int
    audiences: list[Audience]


def what_if(
    con: duckdb.DuckDBPyConnection, rules: IdentityRules, *, as_of: datetime, secret: bytes, examples: int = 20
) -> WhatIf:
    """Resolve everything under other *rules*, report the exact difference, and undo it: nothing is published."""
    before = rows(con, "select count(*) from identity.person where kind = 'person'")[0][0]
    try:
        con.execute("begin transaction")
        report, gates = try_rules(con, rules, as_of=as_of, secret=secret)
        pairs = {
            op: rows(
                con,
                """select one_id, other_id from identity.identity_change
                where run = ? and op = ? order by seq limit ?""",
                [report.run, op, examples],
            )
            for op in ("merge", "split")
        }
        touched = rows(
            con,
            """select count(distinct one) from (
            select one_id as one from identity.identity_change where run = ?1 and op <> 'mint'
            union select other_id from identity.identity_change where run = ?1)""",
            [report.run],
        )[0][0]
        audiences = affected_audiences(con, report.run)
    finally:
        con.execute("rollback")
    return WhatIf(
        report=report,
        gates=gates,
        moved_identifiers=report.moved,
        people_before=before,
        people_after=report.people,
        merges=_pairs(pairs["merge"]),
        splits=_pairs(pairs["split"]),
        touched_people=touched,
        audiences=audiences,
    )


def _pairs(found: list[tuple[Any, ...]]) -> list[tuple[str, str]]:
    return [(str(a), str(b)) for a, b in found]
