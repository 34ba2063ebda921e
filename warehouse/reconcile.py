"""Vertical checks: does each layer hold exactly what the layer above gave it, once, under keys that lead somewhere?

They are written another way than the models they test: counts of distinct keys against counts of rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import duckdb

from warehouse.expectations import CheckResult, Severity
from warehouse.models import Model, ModelGraph, qualified_name

# staging model <- raw stream: one row for each key whose latest version is not a deletion
_LATEST = (
    ("staging.stg_canonical__people", "raw.canonical__people", ("person_key",)),
    ("staging.stg_canonical__orders", "raw.canonical__orders", ("platform", "shop", "order_id")),
    ("staging.stg_canonical__order_lines", "raw.canonical__order_lines", ("platform", "shop", "order_id", "line_id")),
    ("staging.stg_canonical__refunds", "raw.canonical__refunds", ("platform", "shop", "refund_id")),
    ("staging.stg_canonical__products", "raw.canonical__products", ("product_id",)),
    ("staging.stg_wecom__staff", "raw.wecom__staff", ("corpid", "userid")),
    ("staging.stg_wecom__group_members", "raw.wecom__group_members", ("corpid", "chat_id", "member_id")),
)
# staging <- raw append stream: as many rows
_APPENDED = (
    ("staging.stg_canonical__events", "raw.canonical__events"),
    ("staging.stg_sensors__records", "raw.sensors__records"),
    ("staging.stg_segment__messages", "raw.segment__messages"),
    ("staging.stg_thinkingdata__records", "raw.thinkingdata__records"),
)
# mart <- staging: as many rows
_CARRIED = (
    ("marts.fct_orders", "staging.stg_orders"),
    ("marts.fct_order_lines", "staging.stg_order_lines"),
    ("marts.fct_events", "staging.stg_events"),
    ("marts.fct_relations", "staging.stg_relations"),
    ("marts.fct_group_memberships", "staging.stg_group_members"),
    ("marts.fct_referrals", "staging.stg_referrals"),
    ("marts.dim_people", "identity.people"),
)
# mart column -> the mart column it must be found in
_KEYS = (
    ("marts.fct_orders", "one_id", "marts.dim_people", "one_id"),
    ("marts.fct_relations", "one_id", "marts.dim_people", "one_id"),
    ("marts.fct_group_memberships", "one_id", "marts.dim_people", "one_id"),
    ("marts.fct_person_events", "one_id", "marts.dim_people", "one_id"),
    ("marts.fct_order_lines", "product_id", "marts.dim_products", "product_id"),
)
_FILTERS = {"identity.people": "kind = 'person'"}


def reconcile_layers(con: duckdb.DuckDBPyConnection, graph: ModelGraph) -> list[CheckResult]:
    """Every vertical check on what lies in the warehouse of *con* now, in a fixed order.

    Grain: a table's declared grain is unique. Rows: raw, less what was deleted since, equals staging; staging equals
    marts. Keys: each leads somewhere. A table that has not been made yet is left out.
    """
    there = _tables(con)
    return [
        *grain_checks(con, graph, [name for name in graph.order if name in there]),
        *_rows(con, there),
        *_led(con, there),
    ]


def grain_checks(con: duckdb.DuckDBPyConnection, graph: ModelGraph, names: Sequence[str]) -> list[CheckResult]:
    """Whether a row of each of the models *names* is what its `grain:` says."""
    return [check for name in names for check in _grain(con, graph.models[name])]


def _grain(con: duckdb.DuckDBPyConnection, model: Model) -> Iterator[CheckResult]:
    if model.materialized == "view":
        return  # its rows are those of tables that are checked
    columns = ", ".join(f"coalesce(cast(\"{column}\" as varchar), '∅')" for column in model.grain)
    # A digest of the key takes a fraction of the memory of the key itself at 20 M rows. Not DuckDB's own hash: it takes
    # keys of one shape for the same (36 of 4.8 million that were all different).
    key = f"md5_number_lower(concat_ws('\x1f', {columns}))"
    total, distinct = con.execute(
        f"select count(*), count(distinct {key}) from {qualified_name(model.name)}"
    ).fetchall()[0]
    yield _check(
        model.name,
        "grain__unique",
        total == distinct,
        f"{total - distinct:,} of {total:,} rows share their key",
        f"one row per {', '.join(model.grain)}",
    )


def _rows(con: duckdb.DuckDBPyConnection, there: set[str]) -> Iterator[CheckResult]:
    for staging, raw, key in _LATEST:
        if {staging, raw} <= there:
            columns = ", ".join(("_source", *key))
            expected = _scalar(
                con,
                f"select count(*) from (select arg_max(_deleted is true, (_batch_seq, _row_number)) as gone "
                f"from {raw} group by {columns}) where not gone",
            )
            yield _equal(con, staging, expected, f"latest versions in {raw}")
    for staging, raw in _APPENDED:
        if {staging, raw} <= there:
            yield _equal(con, staging, _scalar(con, f"select count(*) from {raw} where _deleted is not true"), raw)
    for mart, staging in _CARRIED:
        if {mart, staging} <= there:
            where = f" where {_FILTERS[staging]}" if staging in _FILTERS else ""
            yield _equal(con, mart, _scalar(con, f"select count(*) from {staging}{where}"), staging)


def _led(con: duckdb.DuckDBPyConnection, there: set[str]) -> Iterator[CheckResult]:
    for table, column, target, key in _KEYS:
        if {table, target} <= there:
            lost = _scalar(
                con,
                f"select count(*) from {qualified_name(table)} as rows where rows.{column} is not null and not exists "
                f"(select 1 from {qualified_name(target)} as target where target.{key} = rows.{column})",
            )
            yield _check(table, f"{column}__reconciles", lost == 0, f"{lost:,} rows", f"every {column} is in {target}")


def _equal(con: duckdb.DuckDBPyConnection, table: str, expected: int, source: str) -> CheckResult:
    found = _scalar(con, f"select count(*) from {qualified_name(table)}")
    return _check(
        table,
        "rows__reconcile",
        found == expected,
        f"{found:,} rows, {expected:,} expected",
        f"as many rows as {source}",
    )


def _check(table: str, name: str, passed: bool, observed: str, says: str, severity: Severity = "error") -> CheckResult:
    return CheckResult(name, table, passed, severity, observed, (), says)


def _scalar(con: duckdb.DuckDBPyConnection, sql: str) -> int:
    return int(con.execute(sql).fetchall()[0][0])


def _tables(con: duckdb.DuckDBPyConnection) -> set[str]:
    rows: Sequence[tuple[str]] = con.execute(
        "select table_schema || '.' || table_name from information_schema.tables "
        "where table_catalog in (current_database(), 'marts_db')"
    ).fetchall()
    return {row[0] for row in rows}
