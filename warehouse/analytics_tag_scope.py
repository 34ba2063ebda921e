"""Whose tags a run computes: the people of whom something can differ since the last run, found without computing it.

A group is either steady (its value for a person changes only with the person's facts and rows, or when a row of theirs
enters or leaves its window) or may change for anyone from one day to the next: it reads days counted to the cut or a
model's output, its thresholds come from everyone, its definition is new, its last version was kept, or its source is
not followed. The latter are computed for everyone, the former for the people in scope alone. Outside it they differ for
nobody, so the result is that of computing everything.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import duckdb

from cdp.metrics.durations import microseconds
from cdp.tags import compile as compiled
from cdp.tags.config import Group, ModelGroup, RankingGroup, TagsConfig, TierGroup
from cdp.tags.expressions import columns_of
from warehouse.analytics_common import MARTS
from warehouse.analytics_tag_living import fit_columns
from warehouse.touched_people import FACTS, newest_run, touched_since_sql

# Marts of which every changed row touches the facts of its person.
_FOLLOWED = ("fct_orders", "fct_order_lines", "fct_events", "fct_relations", "fct_group_memberships")


@dataclass(frozen=True)
class TagScope:
    """*groups*: those to compute for everyone, the others for the people of `temp.tag_scope`; None: all for everyone.
    *facts_run*, *cut*: how far this run sees."""

    groups: frozenset[str] | None
    facts_run: int | None
    cut: datetime


def plan_scope(con: duckdb.DuckDBPyConnection, tags: TagsConfig, cut: datetime) -> TagScope:
    """Compare what the last run has seen with what there is; makes `temp.tag_scope(one_id)` unless all is computed."""
    drop_scope(con)
    facts_run = newest_run(con, FACTS)
    seen = con.execute("select facts_run, cut, consent from activation.tag_seen").fetchall()
    touched = touched_since_sql(con, FACTS, seen[0][0]) if seen else None
    if touched is None or cut < seen[0][1] or seen[0][2] != _consent(tags) or not _is_consent_steady(con, tags):
        return TagScope(None, facts_run, cut)
    fit_columns(con, tags)
    groups = frozenset(_for_everyone(con, tags))
    moved = [touched, *_moved_by_time(tags, groups, seen[0][1], cut)]
    moved.append("select one_id from activation.tag_history where valid_to is null and kept_since is not null")
    con.execute(f"create or replace temp table tag_scope as {' union '.join(moved)}")
    return TagScope(groups, facts_run, cut)


def remember_scope(con: duckdb.DuckDBPyConnection, tags: TagsConfig, scope: TagScope) -> None:
    """Note how far the run has seen, in the caller's transaction."""
    con.execute("delete from activation.tag_seen")
    con.execute("insert into activation.tag_seen values (?, ?, ?)", [scope.facts_run, scope.cut, _consent(tags)])


def slice_marts(con: duckdb.DuckDBPyConnection, tags: TagsConfig, scope: TagScope) -> None:
    """Temp tables, named as the marts, with the rows and columns that steady groups read of the people in scope."""
    for table, groups in _sources(tags, scope.groups or frozenset()).items():
        columns = {"one_id", compiled.TIME_COLUMNS[table], compiled.KEY_COLUMNS[table]}
        for group in groups:
            parts = [group.value, group.where, getattr(group, "amount", None)]
            columns |= {name for part in parts if part for name in columns_of(part)}
        con.execute(
            f"create or replace temp table {table} as select {', '.join(sorted(columns))} from {MARTS}.{table}"
            " where one_id in (select one_id from temp.tag_scope)"
        )


def drop_scope(con: duckdb.DuckDBPyConnection) -> None:
    """Drop what `plan_scope` and `slice_marts` made."""
    for table in ("tag_scope", *_FOLLOWED):
        con.execute(f"drop table if exists temp.{table}")


def _for_everyone(con: duckdb.DuckDBPyConnection, tags: TagsConfig) -> list[str]:
    """Groups whose value may differ for people of whom nothing changed."""
    published = {
        (name, version)
        for name, version in con.execute(
            "select tag_group, tag_version from activation.tag_group_runs"
            " where status = 'published' and run = (select max(run) from activation.tag_runs)"
        ).fetchall()
    }
    steady = _steady_columns(con)
    return [
        group.id
        for group in tags.tag_groups
        if (group.id, compiled.version_of(group, tags.scores)) not in published or not _is_steady(group, tags, steady)
    ]


def _steady_columns(con: duckdb.DuckDBPyConnection) -> set[str]:
    """Features that change only with the person's facts."""
    rows = con.execute(
        "select column_name from duckdb_columns() where database_name || '.' || schema_name = ?"
        " and table_name = 'fct_person_facts' and column_name <> 'as_of'",
        [MARTS],
    ).fetchall()
    return {row[0] for row in rows}


def _consent(tags: TagsConfig) -> str:
    """What the groups' purposes ask, as text."""
    used = {group.consent_purpose for group in tags.tag_groups if group.consent_purpose}
    return json.dumps({name: tags.purposes[name] for name in sorted(used)})


def _is_consent_steady(con: duckdb.DuckDBPyConnection, tags: TagsConfig) -> bool:
    asked = json.loads(_consent(tags)).values()
    return {name for condition in asked for name in columns_of(condition)} <= _steady_columns(con)


def _is_steady(group: Group, tags: TagsConfig, steady: set[str]) -> bool:
    reads = compiled.columns_read(group)
    for name in reads & set(tags.scores):
        if not tags.scores[name].thresholds:
            return False
        reads = reads - {name} | compiled.score_columns(tags.scores[name])
    relative = isinstance(group, RankingGroup | ModelGroup) or (isinstance(group, TierGroup) and group.by)
    special = group.overrides or group.consent_purpose or group.on_empty == "keep_last"
    followed = _source(group) in _FOLLOWED if compiled.reads_rows(group) else True
    return bool(not relative and not special and followed and reads <= steady)


def _sources(tags: TagsConfig, but: frozenset[str]) -> dict[str, list[Any]]:
    """Mart -> the groups that read its rows, without those named."""
    found: dict[str, list[Any]] = defaultdict(list)
    for group in tags.tag_groups:
        if group.id not in but and compiled.reads_rows(group):
            found[_source(group)].append(group)
    return found


def _source(group: Group) -> str:
    """The mart whose rows the group reads; empty when it reads none."""
    return compiled.table_of(getattr(group, "source", None) or "")


def _moved_by_time(tags: TagsConfig, but: frozenset[str], old: datetime, new: datetime) -> list[str]:
    """Queries (one_id) of people with rows that came before the cut, or left the window of a group, since *old*."""
    queries = []
    for table, groups in _sources(tags, but).items():
        at = compiled.TIME_COLUMNS[table]
        windows = {0} | {microseconds(group.window) for group in groups if getattr(group, "window", None)}
        moved = " or ".join(
            f"({at} >= timestamptz '{old}' - to_microseconds({window})"
            f" and {at} < timestamptz '{new}' - to_microseconds({window}))"
            for window in sorted(windows)
        )
        queries.append(f"select one_id from {MARTS}.{table} where one_id is not null and ({moved})")
    return queries
