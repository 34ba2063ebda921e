"""Whose rows changed: how models and tags make again the people of whom something is new, and nobody else.

Every run of an incremental model of `marts` with a column `one_id` notes in `meta.touched_runs` and
`meta.touched_people` of the marts file whose rows it took out, put in or changed, in the transaction of the rows. A
reader remembers the number of the last run it saw and asks who was touched since. It takes everyone where that cannot
be told: the run is not noted (an older file was restored), the table was made whole, or its rows are not as many as the
run left (somebody else took some out).

Tables that are made whole each time have no such feed; of these the digest of a person's rows tells.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence

import duckdb

from warehouse.connection import MARTS_CATALOG, MARTS_SCHEMA

_META = f"{MARTS_CATALOG}.meta"
_MARTS = f"{MARTS_CATALOG}.{MARTS_SCHEMA}"
# Runs that are kept for readers. One that was away for longer takes everyone.
KEPT_RUNS = 60
_DDL = f"""
create schema if not exists {_META};
create table if not exists {_META}.touched_runs (model varchar, run bigint, is_whole boolean, row_count bigint);
create table if not exists {_META}.touched_people (model varchar, run bigint, one_id varchar);
"""

FACTS, ACTIVITY, EVENTS = "marts.fct_person_facts", "marts.fct_person_activity", "marts.fct_events"
# Digests of the tables in `FOLLOWED` but the events: their feed tells of whom a row in any of these changed.
INPUTS = "meta.person_inputs"
# What facts are made from: table -> columns that name the person whose rows they are.
_INPUTS = {
    "dim_people": "one_id",
    "fct_orders": "one_id",
    "fct_refunds": "one_id",
    "fct_order_lines": "one_id",
    "fct_relations": "one_id",
    "fct_group_memberships": "one_id",
    "fct_referrals": "inviter_one_id",
}
FOLLOWED = ("fct_events", *_INPUTS)
# Instants that count from the first run whose cut lies after them.
_EVENT_INSTANTS = (("fct_events", "one_id", "event_at"),)
_INSTANTS = (
    ("fct_orders", "one_id", "paid_at"),
    ("fct_orders", "one_id", "refunded_at"),
    ("fct_refunds", "one_id", "refunded_at"),
    ("fct_order_lines", "one_id", "paid_at"),
    ("fct_relations", "one_id", "added_at"),
    ("fct_relations", "one_id", "removed_at"),
    ("fct_group_memberships", "one_id", "joined_at"),
    ("fct_referrals", "inviter_one_id", "invited_at"),
)
# Days that leave a window `cut_date - N`.
_EVENT_DAYS = (("fct_events", "event_date"),)
_DAYS = (("fct_orders", "paid_date"),)
_WINDOW = re.compile(r"cut_date - (\d+)")
_CUT = "timezone($zone, date_trunc('day', timezone($zone, $at::timestamptz)))"


# ---------------------------------------------------------------- the feed


def note_touched(con: duckdb.DuckDBPyConnection, model: str, people: str | None) -> None:
    """Note a run of *model* in the caller's transaction. *people*: a query of the one_ids touched; None: anyone."""
    con.execute(_DDL)
    newest = con.execute(f"select max(run) from {_META}.touched_runs where model = ?", [model]).fetchall()[0][0]
    run = max(time.time_ns() // 1000, (newest or 0) + 1)  # clocks go back
    rows = con.execute(f"select count(*) from {MARTS_CATALOG}.{model}").fetchall()[0][0]
    con.execute(f"insert into {_META}.touched_runs values (?, ?, ?, ?)", [model, run, people is None, rows])
    if people is not None:
        con.execute(
            f"insert into {_META}.touched_people select distinct ?, ?, one_id from ({people}) where one_id is not null",
            [model, run],
        )
    kept = f"select run from {_META}.touched_runs where model = $model order by run desc limit {KEPT_RUNS}"
    for table in ("touched_people", "touched_runs"):
        con.execute(
            f"delete from {_META}.{table} where model = $model and run < (select min(run) from ({kept}))",
            {"model": model},
        )


def newest_run(con: duckdb.DuckDBPyConnection, model: str) -> int | None:
    """The run that made *model* as it is now; None when that is not known."""
    con.execute(_DDL)
    found = con.execute(
        f"select run, row_count from {_META}.touched_runs where model = ? order by run desc limit 1", [model]
    ).fetchall()
    if not found:
        return None
    rows = con.execute(f"select count(*) from {MARTS_CATALOG}.{model}").fetchall()[0][0]
    return found[0][0] if rows == found[0][1] else None


def touched_since_sql(con: duckdb.DuckDBPyConnection, model: str, since: int | None) -> str | None:
    """A query (one_id) of the people touched after the run *since* of *model*; None: it may be anyone."""
    if since is None or newest_run(con, model) is None:
        return None
    known, whole = con.execute(
        f"select count(*) filter (where run = $since), count(*) filter (where run > $since and is_whole)"
        f" from {_META}.touched_runs where model = $model",
        {"model": model, "since": since},
    ).fetchall()[0]
    if not known or whole:
        return None
    return f"select one_id from {_META}.touched_people where model = '{model}' and run > {since}"


# ---------------------------------------------------------------- who is to be made again


def touch_nobody(con: duckdb.DuckDBPyConnection) -> None:
    """Let the queries of `fct_person_facts` and `fct_person_activity` run outside a run: they make everyone."""
    for table in ("touched_people", "active_people"):
        con.execute(f"create or replace temp table {table} (one_id text)")
    con.execute("reset variable cursor")


def fill_touched_people(con: duckdb.DuckDBPyConnection, cursor: int | None, sql: str) -> bool:
    """Fill `temp.touched_people(one_id)` with those whose facts differ from the last run's, which was at the cut
    *cursor* (microseconds; None: everyone is made). *sql*: text of the model, for the windows in it.

    Returns False, leaving it empty, when everyone must be made: there was no last time. Works in the transaction of the
    caller, in the marts file.
    """
    con.execute("create or replace temp table touched_people (one_id text)")
    con.execute(f"create table if not exists {_META}.person_inputs (one_id varchar, row_count bigint, digest ubigint)")
    _digest(con)
    if cursor is None:
        return False
    con.execute(
        f"""
        insert into temp.touched_people
        with moved as (
            select one_id from temp.person_inputs_changed
            union all {_moved_by_time(con, _INSTANTS, _DAYS, cursor, sql)}
            union all select min(one_id) from {_MARTS}.dim_people -- so that the newest `as_of` is always this run's
        ),
        inviters as (
            select inviter_one_id as one_id from {_MARTS}.fct_referrals
            where invitee_one_id in (select one_id from moved)
        )
        select one_id from (select one_id from moved union select one_id from inviters) where one_id is not null
        """
    )
    return True


def fill_active_people(con: duckdb.DuckDBPyConnection, cursor: int | None, sql: str) -> bool:
    """Fill `temp.active_people(one_id)` likewise with those whose activity differs. Returns False also where it is not
    known whose events changed."""
    con.execute("create or replace temp table active_people (one_id text)")
    con.execute(f"create table if not exists {_META}.activity_seen (events_run bigint)")
    seen = con.execute(f"select max(events_run) from {_META}.activity_seen").fetchall()[0][0]
    events = touched_since_sql(con, EVENTS, seen)
    con.execute(f"delete from {_META}.activity_seen")
    con.execute(f"insert into {_META}.activity_seen select ?", [newest_run(con, EVENTS)])
    if cursor is None or events is None:
        return False
    moved = _moved_by_time(con, _EVENT_INSTANTS, _EVENT_DAYS, cursor, sql)
    con.execute(f"insert into temp.active_people select one_id from ({events} union {moved}) where one_id is not null")
    return True


def _digest(con: duckdb.DuckDBPyConnection) -> None:
    """Bring `meta.person_inputs` up to the tables as they are; `temp.person_inputs_changed`: people it differs for.

    Rows have no order and, having keys, no doubles: hence `bit_xor`. DuckDB's `hash` of several columns is linear in
    the last one, so that two rows which exchange its values would leave the `bit_xor` as it was: hashed once more, they
    do not.
    """
    parts = []
    for table, person in _INPUTS.items():
        columns = [
            f'cast("{name}" as text)' if kind.endswith(("]", ")")) and "DECIMAL" not in kind[:7] else f'"{name}"'
            for name, kind in con.execute(
                "select column_name, data_type from duckdb_columns()"
                " where database_name = ? and schema_name = ? and table_name = ? order by column_name",
                [MARTS_CATALOG, MARTS_SCHEMA, table],
            ).fetchall()
        ]
        parts.append(
            f"select {person} as one_id, hash(hash('{table}', {', '.join(columns)})) as digest"
            f" from {_MARTS}.{table} where {person} is not null"
        )
    is_known = newest_run(con, INPUTS) is not None
    con.execute(
        f"""
        create or replace temp table person_inputs_now as
        select one_id, count(*) as row_count, bit_xor(digest) as digest
        from ({" union all ".join(parts)}) group by one_id
        """
    )
    con.execute(
        f"""
        create or replace temp table person_inputs_changed as
        select coalesce(fresh.one_id, stored.one_id) as one_id
        from temp.person_inputs_now as fresh
        full outer join {_META}.person_inputs as stored on stored.one_id = fresh.one_id
        where (fresh.row_count, fresh.digest) is distinct from (stored.row_count, stored.digest)
        """
    )
    changed = "one_id in (select one_id from temp.person_inputs_changed)"
    con.execute(f"delete from {_META}.person_inputs where {changed}")
    con.execute(f"insert into {_META}.person_inputs select * from temp.person_inputs_now where {changed}")
    con.execute("drop table temp.person_inputs_now")
    note_touched(con, INPUTS, "select one_id from temp.person_inputs_changed" if is_known else None)


def _moved_by_time(
    con: duckdb.DuckDBPyConnection,
    instants: Sequence[tuple[str, str, str]],
    days: Sequence[tuple[str, str]],
    cursor: int,
    sql: str,
) -> str:
    """A query (one_id) of people with rows that are counted for the first time since the cut *cursor*, or have left a
    window since."""
    zone, at = con.execute("select getvariable('timezone'), getvariable('as_of')").fetchall()[0]
    old_day, new_day, new_cut = con.execute(
        f"select cast(timezone($zone, make_timestamptz($cursor)) as date), cast(timezone($zone, $at::timestamptz) as"
        f" date), epoch_us({_CUT})",
        {"zone": zone, "at": at, "cursor": cursor},
    ).fetchall()[0]
    parts = [
        f"select {person} from {_MARTS}.{table} where {column} >= make_timestamptz({cursor}::bigint)"
        f" and {column} < make_timestamptz({new_cut}::bigint)"
        for table, person, column in instants
    ]
    for table, column in days:
        left = " or ".join(
            f"({column} >= date '{old_day}' - {length} and {column} < date '{new_day}' - {length})"
            for length in sorted({int(found) for found in _WINDOW.findall(sql)})
        )
        parts.append(f"select one_id from {_MARTS}.{table} where {left or 'false'}")
    return " union all ".join(parts)
