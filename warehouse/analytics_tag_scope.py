"""Whose tags a run computes: the people of whom something can differ since the last run, found without computing it.

Of a person who is not in scope, no tag differs, so the result is that of computing everything. People come into scope
where

1. their facts changed, or a row that a group reads came before the cut or left the group's window;
2. a threshold or a day moved across them: for a group that counts days to the cut, or cuts at quantiles of everyone,
   the same condition is asked of the same facts as the last run asked it and as this run asks it, and compared;
3. neither tells, because a group reads a model's output, has a new definition, was kept, may be set from outside or
   reads a mart that is not followed: such groups are computed for everyone and compared with what people hold.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from typing import Any

import duckdb
import sqlglot
from sqlglot import exp

from cdp.metrics.durations import microseconds
from cdp.tags import compile as compiled
from cdp.tags.config import Group, ModelGroup, TagsConfig
from cdp.tags.expressions import columns_of, renamed
from warehouse.analytics_common import MARTS
from warehouse.analytics_tag_living import fit_columns
from warehouse.touched_people import ACTIVITY, EVENTS, FACTS, FOLLOWED, INPUTS, newest_run, touched_since_sql


@dataclass(frozen=True)
class TagScope:
    """How far a run sees (*feeds*: table -> its newest run; *cut*; *day* of the features), and how it computes what.

    *whole*: everything for everyone. Else *moving* are the groups of 2., *anew* those of 3., and *rows* the people (a
    query of one_id) for whom each group over rows is computed. *counters*: features that have grown by *days* since the
    last run; *then*: thresholds of that run.
    """

    feeds: Mapping[str, int | None]
    cut: datetime
    day: date | None
    whole: bool = True
    moving: frozenset[str] = frozenset()
    anew: frozenset[str] = frozenset()
    rows: Mapping[str, str] = field(default_factory=dict)
    counters: frozenset[str] = frozenset()
    days: int = 0
    then: Mapping[str, list[float]] = field(default_factory=dict)


def plan_scope(con: duckdb.DuckDBPyConnection, tags: TagsConfig, cut: datetime) -> TagScope:
    """Compare what the last run has seen with what there is; makes `temp.tag_scope(one_id)`, the people of 1., unless
    the whole is computed."""
    drop_scope(con)
    feeds = {feed: newest_run(con, feed) for feed in (FACTS, ACTIVITY, EVENTS, INPUTS)}
    if feeds[FACTS] is None:
        return TagScope(feeds, cut, None)
    day = con.execute(f"select max(as_of_date) from {MARTS}.fct_person_facts").fetchall()[0][0]
    now = TagScope(feeds, cut, day)
    seen = con.execute("select * from activation.tag_seen").fetchall()
    if not seen:
        return now
    seen_feeds, old_cut, old_day, consent, thresholds = seen[0]
    since = {feed: touched_since_sql(con, feed, run) for feed, run in json.loads(seen_feeds).items()}
    touched = f"{since[FACTS]} union {since[ACTIVITY]}" if since[FACTS] and since[ACTIVITY] else None
    steady, counters = feature_columns(con)
    asked = {name for condition in _consent(tags).values() for name in columns_of(condition)}
    if (
        touched is None
        or old_day is None
        or cut < old_cut
        or json.loads(consent) != _consent(tags)
        or not asked <= steady
    ):
        return now
    fit_columns(con, tags)
    con.execute(f"create or replace temp table tag_touched as {touched}")
    events, inputs = since[EVENTS], since[INPUTS]
    then, published = json.loads(thresholds), _published(con)
    moving: set[str] = set()
    anew: set[str] = set()
    rows: dict[str, str] = {}
    for group in tags.tag_groups:
        if (group.id, compiled.version_of(group, tags.scores)) not in published or _may_be_set(group):
            anew.add(group.id)
        elif compiled.reads_rows(group):
            table = compiled.table_of(getattr(group, "source", None) or "")
            if table in FOLLOWED and events and inputs and _inputs(group, tags) <= steady:
                # Whoever is new had events perhaps before they were somebody.
                newcomers = (
                    f"select one_id from ({inputs}) where one_id not in (select one_id from activation.tag_living)"
                )
                changed = [events, newcomers] if table == "fct_events" else [inputs]
                people = _row_people(group, table, changed, old_cut, cut)
                con.execute(f"create or replace temp table tag_people_of_{group.id} as {people}")
                rows[group.id] = f"select one_id from temp.tag_people_of_{group.id}"
            else:
                anew.add(group.id)
        elif isinstance(group, ModelGroup) or not _inputs(group, tags) <= steady | counters:
            anew.add(group.id)
        elif (cuts := _quantiles(group, tags)) or _inputs(group, tags) & counters:
            (moving if cuts <= then.keys() else anew).add(group.id)
    kept = "select one_id from activation.tag_history where valid_to is null and kept_since is not null"
    parts = ["select one_id from temp.tag_touched", kept, *rows.values()]
    con.execute(f"create or replace temp table tag_scope as {' union '.join(parts)}")
    return replace(
        now,
        whole=False,
        moving=frozenset(moving),
        anew=frozenset(anew),
        rows=rows,
        counters=frozenset(counters),
        days=(day - old_day).days,
        then=then,
    )


def moved_sql(tags: TagsConfig, scope: TagScope, now: Mapping[str, list[float]]) -> str:
    """A query (one_id) of the people of `temp.tag_all` across whom a day or a threshold of the moving groups moved.
    *now*: the thresholds of this run."""
    groups = [group for group in tags.tag_groups if group.id in scope.moving]
    used = {name for group in groups for name in compiled.columns_read(group)}
    scores = {name: tags.scores[name] for name in tags.scores if name in used}
    used |= {name for score in scores.values() for name in compiled.score_columns(score)}
    counters = {name: f"{name}__then" for name in sorted(used & scope.counters)}
    shifted = "".join(f", {name} - {scope.days} as {old}" for name, old in counters.items())
    scored = "".join(
        f", {renamed(compiled.score_sql(score, scope.then.get(name, score.thresholds)), counters)} as {name}__then"
        for name, score in scores.items()
    )
    earlier = counters | {name: f"{name}__then" for name in scores}
    differs = [compiled.differs_sql(group, now, scope.then, earlier) for group in groups]
    return (
        f"select one_id from (select *{scored} from (select *{shifted} from temp.tag_all)) where"
        f" {' or '.join(f'({condition})' for condition in differs) or 'false'}"
    )


def remember_scope(
    con: duckdb.DuckDBPyConnection, tags: TagsConfig, scope: TagScope, thresholds: Mapping[str, list[float]]
) -> None:
    """Note how far the run has seen, in the caller's transaction."""
    con.execute("delete from activation.tag_seen")
    con.execute(
        "insert into activation.tag_seen values (?, ?, ?, ?, ?)",
        [json.dumps(scope.feeds), scope.cut, scope.day, json.dumps(_consent(tags)), json.dumps(thresholds)],
    )


def drop_scope(con: duckdb.DuckDBPyConnection) -> None:
    """Drop what `plan_scope` made."""
    names = con.execute(
        "select table_name from duckdb_tables() where temporary and"
        " (table_name in ('tag_scope', 'tag_touched') or table_name like 'tag@_people@_of@_%' escape '@')"
    )
    for (name,) in names.fetchall():
        con.execute(f"drop table temp.{name}")


def feature_columns(con: duckdb.DuckDBPyConnection) -> tuple[set[str], set[str]]:
    """Columns of `fct_person_features` that change only with the person's facts, and those that grow by one each day
    for everyone who has them: `cut.as_of_date - <a day of theirs>`. Read from the view; none where it is a table."""
    found = con.execute(
        "select sql from duckdb_views() where database_name || '.' || schema_name = ? and view_name = ?",
        [MARTS, "fct_person_features"],
    ).fetchall()
    steady: set[str] = set()
    counters: set[str] = set()
    if not found:
        return steady, counters
    made = sqlglot.parse_one(found[0][0], dialect="duckdb").find_all(exp.CTE)
    query = next(part.this for part in made if part.alias == "fct_person_features")
    for column in query.selects:
        body = column.unalias().unnest()
        if _is_steady(body):
            steady.add(column.alias_or_name)
        elif isinstance(body, exp.Sub) and body.this.sql() == "cut.as_of_date" and _is_steady(body.expression):
            counters.add(column.alias_or_name)
    return steady, counters


def _is_steady(expression: exp.Expression) -> bool:
    """Does it change only with the person? `as_of` and `as_of_date` of the facts say when those were last made."""
    read = {(column.table, column.name) for column in expression.find_all(exp.Column)}
    tables, columns = {table for table, _ in read}, {column for _, column in read}
    return bool(read) and tables <= {"facts", "activity"} and not columns & {"as_of", "as_of_date"}


def _published(con: duckdb.DuckDBPyConnection) -> set[tuple[str, str]]:
    """(group, version) of what the last run published."""
    return set(
        con.execute(
            "select tag_group, tag_version from activation.tag_group_runs"
            " where status = 'published' and run = (select max(run) from activation.tag_runs)"
        ).fetchall()
    )


def _consent(tags: TagsConfig) -> dict[str, str]:
    """What the groups' purposes ask."""
    used = {group.consent_purpose for group in tags.tag_groups if group.consent_purpose}
    return {name: tags.purposes[name] for name in sorted(used)}


def _may_be_set(group: Group) -> bool:
    """Whether more than the definition and the facts decide what a person holds."""
    return bool(group.overrides or group.consent_purpose or group.on_empty == "keep_last")


def _inputs(group: Group, tags: TagsConfig) -> set[str]:
    """Features that the group reads, scores followed to theirs."""
    names = compiled.columns_read(group)
    for score in names & set(tags.scores):
        names = names - {score} | compiled.score_columns(tags.scores[score])
    return names


def _quantiles(group: Group, tags: TagsConfig) -> set[str]:
    """Names of the thresholds, taken from everyone, that the group cuts at."""
    names = {group.id} | (compiled.columns_read(group) & set(tags.scores))
    return {item.name for item in compiled.quantiles_of(tags)} & names


def _row_people(group: Any, table: str, changed: list[str], old: datetime, new: datetime) -> str:
    """A query (one_id) of the people for whom *group* may find other rows than at the cut *old*."""
    at = compiled.TIME_COLUMNS[table]
    windows = sorted({0} | ({microseconds(group.window)} if getattr(group, "window", None) else set()))
    moved = " or ".join(
        f"({at} >= timestamptz '{old}' - to_microseconds({window})"
        f" and {at} < timestamptz '{new}' - to_microseconds({window}))"
        for window in windows
    )
    parts = [f"select one_id from {MARTS}.{table} where one_id is not null and ({moved})"]
    among = ["select one_id from temp.tag_touched"] if group.among else []
    return " union ".join([*parts, *changed, *among])
