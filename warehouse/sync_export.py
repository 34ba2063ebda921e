"""The sync ledger as ordinary marts, so that outcomes can be joined to orders in SQL."""

from __future__ import annotations

import duckdb
import polars as pl

from warehouse.sync_ledger import SyncLedger

# table -> (what one row is, query on the ledger, columns in its order). Instants are UTC.
_TEXT, _INT = pl.String(), pl.Int64()
TABLES: dict[str, tuple[str, str, dict[str, pl.DataType]]] = {
    "fct_tag_sync": (
        "标签同步：每条关系、每个改动它的计划一行 | One row per relation and plan that changed it.",
        "select plan_id, kind, seq, userid, external_userid, one_id, add_keys, remove_keys, ops.state, attempt, code,"
        " ops.reason, ops.started_at, at from ops join runs using (run_id) join plans using (plan_id)"
        " order by run_id, seq",
        {
            **dict.fromkeys(("plan_id", "kind"), _TEXT),
            "seq": _INT,
            **dict.fromkeys(("userid", "external_userid", "one_id", "add_tags", "remove_tags", "state"), _TEXT),
            "attempts": _INT,
            "code": _INT,
            **dict.fromkeys(("reason", "sent_at", "settled_at"), _TEXT),
        },
    ),
    "fct_tag_control": (
        "对照组：每人、每个实验、每个暂不打的标签一行 | One row per person, experiment and tag"
        " held back as control; first_held_at is when it would have been tagged.",
        "select one_id, experiment, key, first_at, last_at from held_control order by 1, 2, 3",
        dict.fromkeys(("one_id", "experiment", "tag", "first_held_at", "last_held_at"), _TEXT),
    ),
    "fct_tag_drift": (
        "标签偏移：每个被他人改动的受管标签一行 | One row per managed tag that somebody else put on or took off.",
        "select userid, external_userid, key, direction, seen_at, expected_at, by, policy from drift"
        " order by seen_at, userid, external_userid, key",
        dict.fromkeys(
            ("userid", "external_userid", "tag", "direction", "seen_at", "expected_at", "by_whom", "policy"), _TEXT
        ),
    ),
}
_LISTS = ("add_tags", "remove_tags")


_EVENT = (
    *("corpid", "userid", "external_userid", "tag_id", "change"),
    *("actor", "plan_id", "after_at", "seen_at"),
)
# What the models read of the ledger, in schema `raw`: the read-back enters as a source like any other.
SOURCES: dict[str, tuple[str, dict[str, pl.DataType]]] = {
    "sync__tags": (
        "select tag_id, key, name, group_name, state from register order by tag_id",
        dict.fromkeys(("tag_id", "key", "name", "group_name", "state"), _TEXT),
    ),
    # Where a key was retired and made anew it has two ids; the one in use stands for both.
    "sync__tag_events": (
        """
        with written as (
            select runs.app as corpid, ops.userid, ops.external_userid, sides.value as key, 'added' as change, plan_id,
                null as after_at, coalesce(ops.started_at, ops.at) as seen_at
            from ops join runs using (run_id), json_each(ops.add_keys) as sides
            where ops.state in ('acked', 'verified', 'gap', 'human_changed')
            union all
            select runs.app, ops.userid, ops.external_userid, sides.value, 'removed', plan_id,
                null, coalesce(ops.started_at, ops.at)
            from ops join runs using (run_id), json_each(ops.remove_keys) as sides
            where ops.state in ('acked', 'verified', 'gap', 'human_changed')
        ),
        ids as (
            select key, tag_id, row_number() over (partition by key order by state = 'retired', tag_id) as place
            from register
        ),
        corp as (select max(app) as corpid from runs)
        select corpid, userid, external_userid, tag_id, change, 'platform' as actor, plan_id, after_at, seen_at
        from written join ids using (key) where place = 1
        union all
        select corpid, userid, external_userid, tag_id, direction, case by when 'staff' then 'staff' else 'unknown' end,
            null, nullif(expected_at, ''), seen_at
        from drift join ids using (key), corp where place = 1
        order by 9, 2, 3, 4, 5
        """,
        dict.fromkeys(_EVENT, _TEXT),
    ),
}


def register_sync(con: duckdb.DuckDBPyConnection, ledger: SyncLedger) -> int:
    """Write what the ledger knows of tags and their changes as `raw.sync__…`, for the models; returns rows written.
    Replaces what was there."""
    return sum(_write(con, ledger, f"raw.{name}", sql, columns) for name, (sql, columns) in SOURCES.items())


def export_activation(con: duckdb.DuckDBPyConnection, ledger: SyncLedger, *, schema: str = "marts_db.marts") -> int:
    """Write the ledger's outcomes as tables of *schema*, replacing what was there; returns rows written. Idempotent."""
    total = 0
    for name, (text, sql, columns) in TABLES.items():
        total += _write(con, ledger, f"{schema}.{name}", sql, columns)
        con.execute(f"comment on table {schema}.{name} is '{text}'")
    return total


def _write(
    con: duckdb.DuckDBPyConnection, ledger: SyncLedger, table: str, sql: str, columns: dict[str, pl.DataType]
) -> int:
    """The rows of a query on the ledger as *table*: columns ending in `_at` as instants, those of `_LISTS` as lists."""
    frame = ledger.frame(sql, columns).with_columns(
        *(
            pl.col(column).str.to_datetime(time_unit="us", time_zone="UTC", strict=False)
            for column in columns
            if column.endswith("_at")
        ),
        *(pl.col(column).str.json_decode(pl.List(pl.String)) for column in columns if column in _LISTS),
    )
    con.register("exported", frame.to_arrow())
    con.execute(f"create or replace table {table} as select * from exported")
    con.unregister("exported")
    return frame.height
