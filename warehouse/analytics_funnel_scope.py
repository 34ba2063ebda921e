"""Whose funnels a run computes again: people of whom something that the funnels read is new since the last run.

That is told by three things. Tracked events have a feed of the people whose rows a run touched
(`warehouse.touched_people`). Of all else that is read (business events of the journey, touches, consent, columns of
people) a digest per person is kept. And time: rows that lie behind the cut for the first time, entries that left
`since`. Whether a window has ended is no reason: it follows from `window_ends_at` and is set for everyone.

What was seen stands in `meta.funnel_seen` and `meta.funnel_inputs` of the marts file, written in the transaction of the
results: a killed run and an older file brought back leave both as they belong together. Everyone is computed where it
cannot be told who changed: another definition, time zone or code, time that went back, a feed that does not know, or
rows that somebody else took out of the tables (an erasure).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path

import duckdb
import sqlglot
from sqlglot import exp

import cdp
from cdp.funnels.config import Funnel
from cdp.funnels.engine import longest_chain
from cdp.funnels.kernel import DAYS, NO_BOUND
from cdp.metrics.durations import microseconds
from warehouse.analytics_common import MARTS, quoted
from warehouse.analytics_funnel_conditions import BREAKDOWN_TABLES, columns_read, events_read, named, version_of
from warehouse.touched_people import EVENTS, newest_run, touched_since_sql

_CATALOG, _SCHEMA = MARTS.split(".")
_SEEN, _INPUTS = f"{_CATALOG}.meta.funnel_seen", f"{_CATALOG}.meta.funnel_inputs"
_DDL = f"""
create schema if not exists {_CATALOG}.meta;
create table if not exists {_SEEN} (
    definition varchar, cut timestamptz, events_run bigint, people_rows bigint, input_rows bigint
);
create table if not exists {_INPUTS} (one_id varchar, row_count bigint, one ubigint, two ubigint);
"""
_TEMPORARY = ("funnel_inputs_changed", "funnel_scope", "funnel_journey")
_DAY = 86_400_000_000
# A window of calendar days ends up to a day and a change of clocks before or after one of as many hours.
_CLOCKS = 2 * _DAY


@dataclass(frozen=True)
class FunnelScope:
    """*people*: how many are computed (they are in `temp.funnel_scope`, their rows of the journey in
    `temp.funnel_journey`); None: everyone. The others: what to remember when it is done."""

    people: int | None
    definition: str
    cut: datetime
    events_run: int | None


def plan_funnel_scope(
    con: duckdb.DuckDBPyConnection,
    funnels: Sequence[Funnel],
    *,
    cut: datetime,
    timezone: str,
    purposes: Mapping[str, str],
) -> FunnelScope:
    """Find out whom *funnels*, all of which count persons, have to be computed for."""
    con.execute(_DDL)
    columns = _columns(con, funnels)
    journey, is_fed = _untold(con)
    names = _names(funnels)
    inputs = list(_inputs(funnels, journey, columns, names, purposes))
    definition = _definition([*map(version_of, funnels), *inputs, timezone, str(is_fed)])
    seen = con.execute(f"select definition, cut, events_run, people_rows, input_rows from {_SEEN}").fetchall()
    rows = (_rows(con, f"{MARTS}.fct_funnel_people"), _rows(con, _INPUTS))
    _digest(con, inputs)
    scope = FunnelScope(None, definition, cut, newest_run(con, EVENTS) if is_fed else None)
    if not seen or seen[0][0] != definition or seen[0][1] > cut or seen[0][3:] != rows:
        return scope
    touched = touched_since_sql(con, EVENTS, seen[0][2]) if is_fed else "select null::varchar as one_id where false"
    if touched is None:
        return scope
    moved = " union all ".join([touched, *_moved_by_time(funnels, seen[0][1], cut)])
    con.execute(
        "create or replace temp table funnel_scope as select distinct one_id"
        f" from (select one_id from temp.funnel_inputs_changed union all {moved}) where one_id is not null"
    )
    con.execute(
        f"create or replace temp table funnel_journey as select {', '.join(columns)} from {MARTS}.fct_journey"
        " where one_id in (select one_id from temp.funnel_scope)"
    )
    return FunnelScope(_rows(con, "temp.funnel_scope"), definition, cut, scope.events_run)


def remember_funnel_scope(con: duckdb.DuckDBPyConnection, scope: FunnelScope) -> None:
    """Note what the results were made from, in the transaction that writes them, after they are written."""
    con.execute(f"delete from {_INPUTS} where one_id in (select one_id from temp.funnel_inputs_changed)")
    con.execute(f"insert into {_INPUTS} select * from temp.funnel_inputs_changed where row_count is not null")
    con.execute(f"delete from {_SEEN}")
    con.execute(
        f"insert into {_SEEN} values (?, ?, ?, ?, ?)",
        [scope.definition, scope.cut, scope.events_run, _rows(con, f"{MARTS}.fct_funnel_people"), _rows(con, _INPUTS)],
    )


def drop_funnel_scope(con: duckdb.DuckDBPyConnection) -> None:
    """Drop the temporary tables of a run."""
    for name in _TEMPORARY:
        con.execute(f"drop table if exists temp.{name}")


def _rows(con: duckdb.DuckDBPyConnection, table: str) -> int | None:
    """Rows of *table*; None where it is not there."""
    try:
        return int(con.execute(f"select count(*) from {table}").fetchall()[0][0])
    except duckdb.CatalogException:
        return None


def _definition(parts: Sequence[str]) -> str:
    return hashlib.sha256("\0".join([*parts, _code(), duckdb.__version__]).encode()).hexdigest()


@cache
def _code() -> str:
    """A digest of the text of what computes funnels."""
    here, core = Path(__file__).parent, Path(cdp.__file__).parent
    files = [*here.glob("analytics_funnel*.py"), *core.glob("funnels/*.py"), core / "metrics" / "durations.py"]
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in sorted(files))).hexdigest()


def _columns(con: duckdb.DuckDBPyConnection, funnels: Sequence[Funnel]) -> dict[str, str]:
    """Columns of the journey that one of *funnels* reads -> type."""
    read = {name for funnel in funnels for name in columns_read(funnel)}
    rows = con.execute(
        "select column_name, data_type from duckdb_columns() where database_name = ? and schema_name = ?"
        " and table_name = 'fct_journey' order by column_name",
        [_CATALOG, _SCHEMA],
    ).fetchall()
    return {f'"{name}"': kind for name, kind in rows if name.lower() in read}


def _names(funnels: Sequence[Funnel]) -> set[str] | None:
    """Names of the events that matter to one of *funnels*; None: any."""
    read = [events_read(funnel) for funnel in funnels]
    return None if None in read else {name for names in read for name in names or ()}


# ---------------------------------------------------------------- what has no feed


def _untold(con: duckdb.DuckDBPyConnection) -> tuple[str, bool]:
    """(the rows of the journey whose people no feed tells, whether the others are those of tracked events).

    A view that only unites tables gives each row of tracked events to the person whose event it is, so that without
    tracked events it gives the rest. Any other journey is taken whole.
    """
    whole = f"{MARTS}.fct_journey"
    found = con.execute(
        "select sql from duckdb_views() where database_name = ? and schema_name = ? and view_name = 'fct_journey'",
        [_CATALOG, _SCHEMA],
    ).fetchall()
    query = sqlglot.parse_one(found[0][0], dialect="duckdb").expression if found else None
    if query is None or not _only_unites(query):
        return whole, False
    for table in list(query.find_all(exp.Table)):
        if table.db != _SCHEMA:
            continue  # a name of the query's own
        read = f"{MARTS}.{table.name}"
        if f"{table.db}.{table.name}" == EVENTS:
            read = f"(select * from {read} where false)"
        table.replace(exp.select("*").from_(read, dialect="duckdb").subquery(table.alias_or_name))
    return f"({query.sql(dialect='duckdb')})", True


def _only_unites(query: exp.Expr) -> bool:
    """Whether every row of *query* is made from one row of one table."""
    mixing = (exp.Join, exp.Lateral, exp.Window, exp.AggFunc, exp.Group, exp.Distinct, exp.Limit, exp.Offset,
              exp.Except, exp.Intersect, exp.Qualify)  # fmt: skip
    if query.find(*mixing) or any(union.args.get("distinct") for union in query.find_all(exp.Union)):
        return False
    parts = [
        part
        for select in query.find_all(exp.Select)
        for part in (*select.expressions, select.args.get("where"))
        if part
    ]
    return not any(part.find(exp.Select) for part in parts)


def _inputs(
    funnels: Sequence[Funnel],
    journey: str,
    columns: Mapping[str, str],
    names: set[str] | None,
    purposes: Mapping[str, str],
) -> Iterator[str]:
    """Queries (one_id, one, two) of all rows that *funnels* read and no feed tells of, as two hashes.

    Over the columns in opposite orders, and hashed once more: DuckDB's `hash` of several columns is linear in the last.
    """
    read = [_plain(name, kind) for name, kind in columns.items() if name != '"one_id"']
    yield _hashed("journey", journey, read, named(names))
    broken = {
        (BREAKDOWN_TABLES[item.at], item.by)
        for item in (funnel.breakdown for funnel in funnels)
        if item and item.at in BREAKDOWN_TABLES
    }
    for table, by in sorted(broken):
        order = ["touched_at", "touch_key"] if table == "fct_touches" else []
        yield _hashed(f"{table}.{by}", f"{MARTS}.{table}", [f"cast({by} as text)", *order], f"{by} is not null")
    for purpose in sorted({funnel.consent_purpose for funnel in funnels if funnel.consent_purpose}):
        yield _hashed(f"purpose {purpose}", f"{MARTS}.fct_person_features", [], purposes[purpose])


def _hashed(what: str, table: str, columns: Sequence[str], where: str) -> str:
    one, two = (", ".join([quoted(what), *order]) for order in (columns, columns[::-1]))
    return (
        f"select one_id, hash(hash({one})) as one, hash(hash('again', {two})) as two from {table}"
        f" where one_id is not null and ({where})"
    )


def _plain(name: str, kind: str) -> str:
    is_nested = kind.endswith(("]", ")")) and not kind.startswith("DECIMAL")
    return f"cast({name} as text)" if is_nested else name


def _digest(con: duckdb.DuckDBPyConnection, inputs: Sequence[str]) -> None:
    """`temp.funnel_inputs_changed`: the digests that are not as stored; one of a person who has no rows is null."""
    con.execute(
        f"""
        create or replace temp table funnel_inputs_changed as
        with rows (one_id, one, two) as (
            {" union all ".join(inputs)}
        ),
        fresh as (
            select one_id, count(*) as row_count, bit_xor(one) as one, bit_xor(two) as two from rows group by one_id
        )
        select coalesce(fresh.one_id, stored.one_id) as one_id, fresh.row_count, fresh.one, fresh.two
        from fresh
        full outer join {_INPUTS} as stored on stored.one_id = fresh.one_id
        where (fresh.row_count, fresh.one, fresh.two) is distinct from (stored.row_count, stored.one, stored.two)
        """
    )


# ---------------------------------------------------------------- time


def _moved_by_time(funnels: Sequence[Funnel], before: datetime, now: datetime) -> Iterator[str]:
    """Queries (one_id) of people with events that count for the first time, or no longer as entries, since the cut
    *before*."""
    if before == now:
        return
    yield _between(_names(funnels), before, now, 0)
    for funnel in funnels:
        if funnel.since:
            yield _between(set(funnel.steps[0].events), before, now, microseconds(funnel.since))
        kind, length = longest_chain(funnel)
        if kind == NO_BOUND or not (funnel.entry == "any" or funnel.mature_only):
            continue
        # Entries whose window has ended since: another chain of theirs may be the best one of those that are no longer
        # young.
        slack = _CLOCKS if kind == DAYS else 0
        entries = events_read(funnel) if funnel.order == "any" else set(funnel.steps[0].events)
        back = length * _DAY if kind == DAYS else length
        yield _between(entries, before, now, back + slack, until=back - slack)


def _between(names: set[str] | None, before: datetime, now: datetime, back: int, *, until: int | None = None) -> str:
    """People with an event of *names* from *back* microseconds before one cut to as many (*until*) before the other."""
    until = back if until is None else until
    return (
        f"select one_id from {MARTS}.fct_journey where {named(names)}"
        f" and event_at >= timestamptz '{before.isoformat()}' - to_microseconds({back})"
        f" and event_at < timestamptz '{now.isoformat()}' - to_microseconds({until})"
    )
