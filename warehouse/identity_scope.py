"""What a run must resolve again: identifiers that anything changed about, and all that hangs together with them (§
2.6)."""

from __future__ import annotations

from datetime import datetime, timedelta

import duckdb

from cdp.identity.graph import BLOCKED, LIMIT_ZERO, REASONS, RELAY, SHARED
from cdp.identity.rules import IdentityRules

STATIC = tuple(REASONS[code] for code in (BLOCKED, RELAY, LIMIT_ZERO))


def find_scope(
    con: duckdb.DuckDBPyConnection,
    rules: IdentityRules,
    *,
    as_of: datetime,
    previous: datetime,
    assertions_changed: bool,
) -> int:
    """Fill temp table `scope(node_id, quiet)` from `new_rows`, `gone_nodes`, `touched`, the clock and assertions.

    *quiet* identifiers cannot change what they may do, only when they were seen (a blocked number, a shared device with
    one more login): their neighbours need no second look. Returns how many identifiers are in scope.
    """
    con.execute("""create or replace temp table touched as
        select node_id from identity.evidence_node where row_id in (select row_id from new_rows)
        union select node_id from gone_nodes
        union select node_id from identity.touched""")
    con.execute("""create or replace temp table losing as
        select node_id from gone_nodes union select node_id from identity.touched""")
    con.execute("delete from identity.touched")
    _touch_by_clock(con, rules, as_of=as_of, previous=previous)
    if assertions_changed:
        con.execute("""insert into losing
            select node.node_id from identity.node as node inner join identity.assertion as assertion
                on (node.type, node.scope, node.value_norm) in ((a_type, a_scope, a_value), (b_type, b_scope, b_value))
            where node.epoch = 1""")
    _touch_the_shared(con)
    # an epoch stands for its number: all epochs of it are resolved from the base identifier
    con.execute("""create or replace temp table touched as
        select distinct coalesce(node.epoch_of, node.node_id) as node_id
        from touched inner join identity.node as node on touched.node_id = node.node_id""")
    _mark_quiet(con)
    _close(con)
    return int(con.execute("select count(*) from scope").fetchall()[0][0])


def _touch_by_clock(
    con: duckdb.DuckDBPyConnection, rules: IdentityRules, *, as_of: datetime, previous: datetime
) -> None:
    """Time alone changes results: identifiers whose life or window ended between the last run and this one."""
    for name, item in rules.types.items():
        for days in {days for days in (item.ttl_days, item.limit_window_days) if days}:
            since, until = (moment - timedelta(days) for moment in sorted((previous, as_of)))
            con.execute(
                """insert into losing
                select state.node_id from identity.raw_component as state
                inner join identity.node as node on state.node_id = node.node_id
                where node.type = ? and state.last_seen >= ? and state.last_seen < ?""",
                [name, since, until],
            )


def _touch_the_shared(con: duckdb.DuckDBPyConnection) -> None:
    """Add to `touched` what is in `losing`, and the shared identifiers that were seen with it.

    New evidence alone leaves a shared identifier with as many neighbours or more. It has fewer, and may
    link again, when a neighbour expires, is parted from it by an unbind or a decision, turns out to be another
    one's digest, or when two epochs of a neighbour grow together: those neighbours are the losing ones.
    """
    con.execute("""insert into losing
        select node_id from identity.evidence_node where row_id in (
            select row_id from identity.evidence where kind = 'unbind' and row_id in (select row_id from new_rows))
        union
        select coalesce(node.epoch_of, node.node_id) from identity.node as node
        where node.epoch > 1 and node.epoch_of in (select node_id from touched)""")
    con.execute("""create or replace temp table reconsidered as
        with mates as (
            select node_id from identity.evidence_node where row_id in (
                select row_id from identity.evidence_node where node_id in (
                    select coalesce(node.epoch_of, node.node_id) from losing inner join identity.node as node
                        on losing.node_id = node.node_id))
        )
        select node_id from losing
        union
        select coalesce(node.epoch_of, node.node_id)
        from identity.raw_component as state inner join identity.node as node using (node_id)
        where state.status = 'shared' and coalesce(node.epoch_of, node.node_id) in (select node_id from mates)""")
    con.execute("insert into touched select node_id from reconsidered")


def _mark_quiet(con: duckdb.DuckDBPyConnection) -> None:
    """A shared device that only gained evidence stays shared, unless something may have parted it from somebody."""
    static = ", ".join(f"'{word}'" for word in STATIC)
    con.execute(f"""create or replace temp table touched as
        select touched.node_id, coalesce(
            state.status in ({static}) and node.barred is not distinct from state.barred
            or state.status = '{REASONS[SHARED]}'
                and touched.node_id not in (select node_id from reconsidered),
            false) as quiet
        from touched
        inner join identity.node as node on touched.node_id = node.node_id
        left join identity.raw_component as state on touched.node_id = state.node_id""")


def _close(con: duckdb.DuckDBPyConnection) -> None:
    """Whole extents of the touched; of those that did not link until now, the extents of all their row-mates too."""
    con.execute("""create or replace temp table waking as
        select touched.node_id from touched inner join identity.raw_component as state using (node_id)
        where not quiet and state.status <> ''""")
    con.execute("""create or replace temp table scope as
        with mates as (
            select distinct mate.node_id from identity.evidence_node as mate where mate.row_id in (
                select row_id from identity.evidence_node where node_id in (select node_id from waking)
            )
        ),
        extents as (
            select distinct extent from identity.raw_component
            where status = '' and (
                node_id in (select node_id from touched where not quiet) or node_id in (select node_id from mates)
            )
        ),
        found as (
            select coalesce(node.epoch_of, node.node_id) as node_id, false as quiet
            from identity.raw_component as state inner join identity.node as node using (node_id)
            where state.status = '' and state.extent in (select extent from extents)
            union all
            select node_id, quiet from touched
            union all
            select mates.node_id, false from mates
            left join identity.raw_component as state using (node_id)
            where state.status is null or state.status = ''
        )
        select node_id, bool_and(quiet) as quiet from found group by node_id""")


def sample_scope(con: duckdb.DuckDBPyConnection, *, count: int, run: int) -> int:
    """Fill temp table `scope` with *count* whole extents that this run did not touch, other ones every run."""
    every = int(con.execute("select count(*) from identity.raw_component").fetchall()[0][0])
    thin = max(1, every // (count * 20))  # looks at enough extents to find *count*, not at all of them
    con.execute(f"""create or replace temp table picked as
        select extent from (
            select distinct extent from identity.raw_component
            where hash(extent, {run}) % {thin} = 0 and status = '' and extent not in (select node_id from scope)
                and node_id not in (select node_id from scope)
        )
        order by hash(extent, {run}), extent limit {count}""")
    con.execute("""create or replace temp table scope as
        select distinct coalesce(node.epoch_of, node.node_id) as node_id, false as quiet
        from identity.raw_component as state inner join identity.node as node using (node_id)
        where state.status = '' and state.extent in (select extent from picked)""")
    return int(con.execute("select count(*) from scope").fetchall()[0][0])
