"""The marts tables of tags: history kept in step with the warehouse row by row, the present state a view of it.

Only what a run opened or closed is written to the copy of the history, so a day costs what changed in it. Where the
copy cannot be brought in step that way (a restored file, forgotten people, a new column) it is written anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import duckdb
import polars as pl

from cdp.tags import compile as compiled
from cdp.tags.config import TagsConfig
from warehouse.analytics_common import MARTS, Table, put_table, put_view, transaction, view_of

_HISTORY = f"{MARTS}.fct_tag_history"


def publish_tags(con: duckdb.DuckDBPyConnection, tags: TagsConfig) -> dict[str, int]:
    """Bring the marts' tag tables up to the newest run, in one transaction. Returns rows per table."""
    with view_of(con, "tag_declared", _declared(tags)), transaction(con):
        counts = {"fct_tag_history": _bring_history_in_step(con)}
        for table in (_dim_table(), _runs_table(), _health_table(), _manual_table()):
            counts[table.name] = put_table(con, table)
        current = _current_view()
        put_view(con, current)
        counts[current.name] = int(
            con.execute("select coalesce(sum(holders), 0) from temp.tag_holders").fetchall()[0][0]
        )
        con.execute("drop table temp.tag_holders")
    return counts


def _bring_history_in_step(con: duckdb.DuckDBPyConnection) -> int:
    """Close and open in the copy what runs later than the copy's newest closed and opened. Returns its rows; makes
    `temp.tag_holders` (tag_group, value, holders), who holds what in it now."""
    table = _history_table(con)
    since = _copied_run(con, table)
    if since is None:
        return _copy_whole(con, table)
    listed = ", ".join(table.columns)
    con.execute(
        f"create or replace temp table tag_copied as select {listed} from ({table.select})"
        f" where opened_run > {since} or closed_run > {since}"
    )
    con.execute(f"delete from {_HISTORY} where row_id in (select row_id from temp.tag_copied)")
    con.execute(f"insert into {_HISTORY} ({listed}) select {listed} from temp.tag_copied")
    con.execute(
        f"""
        create or replace temp table tag_holders as
        select tag_group, value, cast(sum(holders) as bigint) as holders from (
            select tag_group, value, holders from {MARTS}.dim_tags
            union all
            select tag_group, value, count(*) filter (where closed_run is null)
                - count(*) filter (where opened_run <= {since}) from temp.tag_copied group by all
        ) group by all having sum(holders) <> 0
        """
    )
    con.execute("drop table temp.tag_copied")
    if _has_alias(con):
        # A merge renames the history copied before it; a split gives it back.
        moved = "select one_id, current_one_id from identity.alias where one_id <> current_one_id"
        con.execute(
            f"update {_HISTORY} as copy set one_id = moved.current_one_id from ({moved}) as moved"
            " where copy.recorded_one_id = moved.one_id and copy.one_id <> moved.current_one_id"
        )
        con.execute(
            f"update {_HISTORY} set one_id = recorded_one_id where one_id <> recorded_one_id"
            f" and recorded_one_id not in (select one_id from ({moved}))"
        )
    copied, kept = (_fingerprint(con, name) for name in (_HISTORY, "activation.tag_history"))
    return int(copied[0]) if copied == kept else _copy_whole(con, table)


def _copy_whole(con: duckdb.DuckDBPyConnection, table: Table) -> int:
    """Write the copy anew, group by group: who asks for a group then reads only its rows."""
    by = "tag_group, one_id, valid_from, rank, value, opened_run"
    rows = put_table(con, replace(table, select=f"{table.select} order by {by}"))
    con.execute(
        "create or replace temp table tag_holders as select tag_group, value, count(*) as holders"
        f" from {_HISTORY} where valid_to is null group by all"
    )
    return rows


def _copied_run(con: duckdb.DuckDBPyConnection, table: Table) -> int | None:
    """The newest run the copy holds; None when it cannot be continued from there."""
    names = con.execute(
        "select column_name from duckdb_columns() where database_name || '.' || schema_name || '.' || table_name = ?"
        " order by column_index",
        [_HISTORY],
    ).fetchall()
    if [row[0] for row in names] != list(table.columns):
        return None
    copied, kept = con.execute(
        f"select (select max(greatest(opened_run, coalesce(closed_run, 0))) from {_HISTORY}),"
        " (select max(run) from activation.tag_runs)"
    ).fetchall()[0]
    return copied if copied is not None and kept is not None and copied <= kept else None


def _fingerprint(con: duckdb.DuckDBPyConnection, name: str) -> tuple[Any, ...]:
    """Equal for a history and its copy: every row is opened once and closed at most once."""
    return con.execute(
        f"select count(*), sum(opened_run), count(closed_run), sum(closed_run),"
        f" max(opened_run), count(*) filter (where valid_to is null) from {name}"
    ).fetchall()[0]


def _declared(tags: TagsConfig) -> pl.DataFrame:
    reads = compiled.lineage(tags)
    rows: list[dict[str, Any]] = []
    for order, group in enumerate(tags.tag_groups):
        base = {
            "group_order": order,
            "tag_group": group.id,
            "kind": group.kind,
            "label": group.label or group.id,
            "description": group.description,
            "owner": group.owner,
            "tag_version": compiled.version_of(group, tags.scores),
            "is_exclusive": group.exclusive,
            "max_age": group.max_age,
            "consent_purpose": group.consent_purpose,
            "wecom_group": group.write_back.wecom.group if group.write_back.wecom else None,
            "reads": ", ".join(reads[group.id]),
        }
        values: Sequence[str | None] = group.declared_values or (None,)
        rows += [{**base, "value": value, "value_order": place} for place, value in enumerate(values)]
    schema: dict[str, Any] = {
        "group_order": pl.Int64,
        "tag_group": pl.String,
        "kind": pl.String,
        "label": pl.String,
        "description": pl.String,
        "owner": pl.String,
        "tag_version": pl.String,
        "is_exclusive": pl.Boolean,
        "max_age": pl.String,
        "consent_purpose": pl.String,
        "wecom_group": pl.String,
        "reads": pl.String,
        "value": pl.String,
        "value_order": pl.Int64,
    }
    return pl.DataFrame(rows, schema=schema)


_CURRENT_SQL = f"""
    select living.one_id, living.tag_group, living.value, living.rank, runs.as_of, runs.tag_version
    from {_HISTORY} as living
    inner join (
        select tag_group, arg_max(as_of, run) as as_of, arg_max(tag_version, run) as tag_version
        from {MARTS}.fct_tag_group_runs where status = 'published' group by tag_group
    ) as runs on runs.tag_group = living.tag_group
    where living.valid_to is null
"""


def _current_view() -> Table:
    return Table(
        "fct_tags_current",
        _CURRENT_SQL,
        "当前标签：每人、每个标签组、每个值一行，用于同步 | "
        "One row per person, tag group and value the person holds now; what sync sends.",
        {
            "one_id": "the person",
            "tag_group": "id of the group in config/tags.yaml",
            "value": "tag name",
            "rank": "1 = first; preference groups hold several",
            "as_of": "start of the open day of the run that last published the group",
            "tag_version": "definition the value was computed with",
        },
    )


def _has_alias(con: duckdb.DuckDBPyConnection) -> bool:
    return bool(
        con.execute(
            "select count(*) from duckdb_columns() where schema_name = 'identity' and table_name = 'alias'"
        ).fetchall()[0][0]
    )


def _history_table(con: duckdb.DuckDBPyConnection) -> Table:
    alias = "left join identity.alias as alias on alias.one_id = history.one_id" if _has_alias(con) else ""
    current = "coalesce(alias.current_one_id, history.one_id)" if alias else "history.one_id"
    return Table(
        "fct_tag_history",
        f"""
        select history.row_id, {current} as one_id, history.one_id as recorded_one_id, history.tag_group,
            history.value, history.rank, history.valid_from, history.valid_to, opened.as_of, history.opened_cause,
            history.closed_cause, history.opened_run, history.closed_run, history.tag_version
        from activation.tag_history as history
        inner join activation.tag_runs as opened on opened.run = history.opened_run
        {alias}
        """,
        "标签历史：一人持有一个标签的每段时间一行 | "
        "One row per period in which a person held a tag (SCD2); valid_to is null while it lasts.",
        {
            "row_id": "number of the row, the same in every version",
            "one_id": "the person, as known now: the history of merged people follows them",
            "recorded_one_id": "the person as known when the row was written",
            "tag_group": "id of the group",
            "value": "tag name",
            "rank": "place among the person's values of the group",
            "valid_from": "start, inclusive",
            "valid_to": "end, exclusive; null = still held; equal to valid_from = restated the same day",
            "as_of": "data cut of the run that wrote the row",
            "opened_cause": "computed | restated (the same cut was run again on changed data)",
            "closed_cause": "changed | identity (merged or gone) | restated | dropped (group no longer declared)",
            "opened_run": "run that wrote the row",
            "closed_run": "run that ended it",
            "tag_version": "definition the row was computed with",
        },
    )


def _dim_table() -> Table:
    return Table(
        "dim_tags",
        """
        with holders as (
            select * from temp.tag_holders
        ),
        declared as (
            select * from tag_declared
        ),
        groups as (
            select distinct on (tag_group) * from declared order by tag_group, value_order
        ),
        listed as (
            select tag_group, value, value_order from declared where value is not null
            union all
            select holders.tag_group, holders.value, 1000 + row_number() over (
                partition by holders.tag_group order by holders.holders desc, holders.value) as value_order
            from holders
            where not exists (
                select 1 from declared
                where declared.tag_group = holders.tag_group and declared.value = holders.value)
        )
        select listed.tag_group, listed.value, groups.kind, groups.label, groups.description, groups.owner,
            coalesce(holders.holders, 0) as holders, groups.is_exclusive, groups.wecom_group, groups.tag_version,
            groups.reads, groups.max_age, groups.consent_purpose, groups.group_order, listed.value_order
        from listed
        inner join groups on groups.tag_group = listed.tag_group
        left join holders on holders.tag_group = listed.tag_group and holders.value = listed.value
        order by groups.group_order, listed.value_order
        """,
        "标签：每个标签组的每个值一行 | One row per tag: group and value, declared or held by someone.",
        {
            "tag_group": "id of the group",
            "value": "tag name",
            "kind": "kind of the group",
            "label": "name of the group for people",
            "description": "what the group means",
            "owner": "who answers for it",
            "holders": "people holding the tag now",
            "is_exclusive": "a person holds at most one value of the group",
            "wecom_group": "WeCom tag group it is sent to; null = not sent",
            "tag_version": "definition now in force",
            "reads": "columns the group is computed from",
            "max_age": "age from which the group counts as stale",
            "consent_purpose": "purpose people must have agreed to; null = none",
            "group_order": "order of the group in the file",
            "value_order": "order of the value in its group",
        },
    )


def _runs_table() -> Table:
    return Table(
        "fct_tag_group_runs",
        """
        select runs.run, runs.tag_group, runs.as_of, runs.tag_version, runs.status, runs.reason, runs.people,
            runs.tagged, runs.entering, runs.leaving, runs.thresholds
        from activation.tag_group_runs as runs
        order by runs.run, runs.tag_group
        """,
        "标签计算：每次每个标签组一行，发布与否及原因 | "
        "One row per run and tag group: what was published, or why the last good version stayed.",
        {
            "run": "run number",
            "tag_group": "id of the group",
            "as_of": "data cut of the run",
            "tag_version": "definition",
            "status": "published | kept",
            "reason": "why kept",
            "people": "people looked at",
            "tagged": "people with a value",
            "entering": "rows opened",
            "leaving": "rows closed",
            "thresholds": "quantile thresholds of the run",
        },
    )


def _health_table() -> Table:
    return Table(
        "fct_tag_health",
        "select * from activation.tag_health order by run, tag_group, metric",
        "标签健康：每次、每个标签组、每条界限一行 | "
        "One row per run, tag group and bound: what was measured before publishing.",
        {
            "run": "run number",
            "tag_group": "id of the group",
            "metric": "coverage | value_share | psi | daily_churn",
            "value": "as measured",
            "low": "lowest value allowed",
            "high": "highest value allowed",
            "severity": "error: the last good version stays | warn",
            "passed": "inside the bounds",
        },
    )


def _manual_table() -> Table:
    return Table(
        "fct_tag_manual",
        "select * from activation.tag_manual order by tag_group, one_id, value",
        "人工标签：每个人工设置的值一行 | One row per value set by hand.",
        {
            "one_id": "the person",
            "tag_group": "id of the group",
            "value": "tag name",
            "set_by": "who set it",
            "set_at": "when, UTC",
            "expires_at": "until when it counts; null = until taken back",
        },
    )
