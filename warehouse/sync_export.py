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


def export_activation(con: duckdb.DuckDBPyConnection, ledger: SyncLedger, *, schema: str = "marts_db.marts") -> int:
    """Write the ledger's outcomes as tables of *schema*, replacing what was there; returns rows written. Idempotent."""
    total = 0
    for name, (text, sql, columns) in TABLES.items():
        frame = ledger.frame(sql, columns).with_columns(
            *(
                pl.col(column).str.to_datetime(time_unit="us", time_zone="UTC", strict=False)
                for column in columns
                if column.endswith("_at")
            ),
            *(pl.col(column).str.json_decode(pl.List(pl.String)) for column in columns if column in _LISTS),
        )
        con.register("exported", frame.to_arrow())
        con.execute(f"create or replace table {schema}.{name} as select * from exported")
        con.execute(f"comment on table {schema}.{name} is '{text}'")
        con.unregister("exported")
        total += frame.height
    return total
