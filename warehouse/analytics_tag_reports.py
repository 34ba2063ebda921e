"""Looking at tags: what a change of definitions would do, why a person has a tag, and how healthy the groups are.

Everything here reads the published version (or any connection with the marts) and writes nothing but temp tables.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import duckdb

from cdp.config import nearest
from cdp.errors import ConfigError
from cdp.tags import compile as compiled
from cdp.tags.config import Group, RuleGroup, StageGroup, TagsConfig, TierGroup
from cdp.tags.expressions import columns_of
from warehouse.analytics_common import MARTS, business_cut
from warehouse.analytics_tags import mart_columns, new_values_sql, prepare
from warehouse.touched_people import touch_nobody

# Columns of the features that come from a model fitted anew each day.
_OF_MODELS = {"p_alive", "exp_orders_90", "exp_orders_365", "pred_net_365", "ltv_total"}
# What stands in the place of a table of tags before the first run.
_NOTHING = (
    "(select null::text as tag_group, null::text as one_id, null::text as value, null::timestamptz as set_at,"
    " null::timestamptz as expires_at where false)"
)


@dataclass(frozen=True)
class PlanRow:
    """One tag of a plan: people holding it now, entering, leaving, and after."""

    tag_group: str
    value: str
    now: int
    entering: int
    leaving: int

    @property
    def after(self) -> int:
        return self.now + self.entering - self.leaving


@dataclass(frozen=True)
class Explanation:
    """Why a person has, or has not, a tag of one group. *rules*: (value, SQL, holds); *inputs*: column -> value."""

    one_id: str
    tag_group: str
    kind: str
    held: tuple[str, ...]
    would_hold: tuple[str, ...]
    rules: tuple[tuple[str, str, bool | None], ...]
    inputs: tuple[tuple[str, Any], ...]
    thresholds: tuple[float, ...]
    history: tuple[tuple[str, datetime, datetime | None, str], ...]


def feature_cut(con: duckdb.DuckDBPyConnection, marts: str) -> datetime:
    """The cut the features stand at. Raises `ConfigError` before the first run."""
    row = con.execute(f"select max(as_of) from {marts}.fct_person_features").fetchall()[0][0]
    if row is None:
        raise ConfigError("there are no people yet", hint="`cdp run` computes features and tags")
    return row


def plan_tags(con: duckdb.DuckDBPyConnection, tags: TagsConfig, *, marts: str = "marts") -> list[PlanRow]:
    """Head-counts entering and leaving every tag if *tags* were published on the present features.

    On unchanged data the counts are those of the next `build_tags`, the first one too. Raises as `build_tags` does.
    """
    prepare(con, tags, cut=feature_cut(con, marts), marts=marts)
    there = mart_columns(con, marts)
    tables = ("fct_tags_current", "fct_tag_manual")
    living, manual = (f"{marts}.{name}" if name in there else _NOTHING for name in tables)
    rows: list[PlanRow] = []
    for group in tags.tag_groups:
        found = con.execute(
            f"""
            with fresh as (
                select distinct one_id, value from
                    ({new_values_sql(group, marts=marts, manual=manual)})
            ),
            living as (
                select one_id, value from {living} where tag_group = $grp
            ),
            joined as (
                select coalesce(fresh.value, living.value) as value, fresh.one_id is not null as after,
                    living.one_id is not null as before
                from fresh full outer join living on living.one_id = fresh.one_id and living.value = fresh.value
            )
            select value, count(*) filter (where before), count(*) filter (where after and not before),
                count(*) filter (where before and not after)
            from joined group by value order by value
            """,
            {"grp": group.id},
        ).fetchall()
        counts = {row[0]: PlanRow(group.id, *row) for row in found}
        ordered = [value for value in group.declared_values if value in counts]
        rows += [counts[value] for value in [*ordered, *sorted(set(counts) - set(ordered))]]
    return rows


def find_group(con: duckdb.DuckDBPyConnection, tags: TagsConfig, name: str, *, marts: str = "marts") -> Any:
    """The group called *name* (its id or label), or that has the tag *name*. Raises `ConfigError` with near names."""
    for group in tags.tag_groups:
        if name in (group.id, group.label) or name in group.declared_values:
            return group
    row = con.execute(f"select min(tag_group) from {marts}.dim_tags where value = ?", [name]).fetchall()[0][0]
    if row is not None:
        return tags.group(row)
    known = [text for group in tags.tag_groups for text in (group.id, *group.declared_values)]
    raise ConfigError(f"no tag or group is called `{name}`{nearest(name, known)}", hint="`cdp tags show` lists all")


def explain_tag(
    con: duckdb.DuckDBPyConnection, tags: TagsConfig, one_id: str, name: str, *, marts: str = "marts"
) -> Explanation:
    """Why person *one_id* has or has not the tag or group *name*: every rule, and the columns it reads."""
    group = find_group(con, tags, name, marts=marts)
    thresholds = prepare(con, tags, cut=feature_cut(con, marts), marts=marts)
    if not con.execute("select count(*) from temp.tag_base where one_id = ?", [one_id]).fetchall()[0][0]:
        raise ConfigError(
            f"no person is called `{one_id}`", hint="`cdp identity show` finds a person by any identifier"
        )
    fresh = con.execute(
        f"select value from ({new_values_sql(group, marts=marts, manual=f'{marts}.fct_tag_manual')})"
        " where one_id = ? order by rank, value",
        [one_id],
    ).fetchall()
    held = con.execute(
        f"select value from {marts}.fct_tags_current where one_id = ? and tag_group = ? order by rank",
        [one_id, group.id],
    ).fetchall()
    history = con.execute(
        f"select value, valid_from, valid_to, coalesce(closed_cause, opened_cause) from {marts}.fct_tag_history"
        " where one_id = ? and tag_group = ? order by valid_from, opened_run, rank",
        [one_id, group.id],
    ).fetchall()
    return Explanation(
        one_id=one_id,
        tag_group=group.id,
        kind=group.kind,
        held=tuple(row[0] for row in held),
        would_hold=tuple(row[0] for row in fresh),
        rules=_rules(con, group, one_id),
        inputs=_inputs(con, group, one_id, tags),
        thresholds=tuple(thresholds.get(group.id, ())),
        history=tuple(history),
    )


def _rules(con: duckdb.DuckDBPyConnection, group: Group, one_id: str) -> tuple[tuple[str, str, bool | None], ...]:
    if not isinstance(group, RuleGroup | StageGroup | TierGroup) or not group.rules:
        return ()
    selected = ", ".join(f"cast(({rule}) as boolean)" for rule in group.rules.values())
    row = con.execute(f"select {selected} from temp.tag_base where one_id = ?", [one_id]).fetchall()[0]
    return tuple((name, rule, holds) for (name, rule), holds in zip(group.rules.items(), row, strict=True))


def _inputs(con: duckdb.DuckDBPyConnection, group: Group, one_id: str, tags: TagsConfig) -> tuple[tuple[str, Any], ...]:
    names: set[str] = set()
    for _, expression in compiled.expressions_of(group):
        names |= set(columns_of(expression))
    for name in sorted(names & set(tags.scores)):
        names |= set(columns_of(tags.scores[name].by))
    ordered = sorted(names)
    if not ordered:
        return ()
    row = con.execute(f"select {', '.join(ordered)} from temp.tag_base where one_id = ?", [one_id]).fetchall()[0]
    return tuple(zip(ordered, row, strict=True))


@dataclass(frozen=True)
class Restatement:
    """One difference between what the history holds for a day and what the data says about it now."""

    one_id: str
    tag_group: str
    value: str
    in_history: bool


def replay_tags(
    con: duckdb.DuckDBPyConnection,
    tags: TagsConfig,
    *,
    models: Mapping[str, str],
    as_of: datetime,
    timezone: str,
) -> tuple[list[Restatement], tuple[str, ...]]:
    """Compute the tags of an earlier day again from today's data and compare them with the history.

    *models*: texts of `fct_person_facts`, `fct_person_activity` and `fct_person_features`, by name. Returns the
    differences, which late events made, in a fixed order (none on unchanged data), and the groups left out because they
    read a model that is not kept per day.
    Writes nothing but temp tables.
    """
    cut = business_cut(con, as_of, timezone)
    now = con.execute("select getvariable('as_of')").fetchall()[0][0]
    con.execute("set variable as_of = ?::timestamptz", [as_of])
    touch_nobody(con)
    marts = re.compile(r"(?<![.\w])marts[.]")
    features = models["fct_person_features"]
    for name in ("fct_person_facts", "fct_person_activity"):
        con.execute(f"create or replace temp table replay_{name} as {marts.sub(f'{MARTS}.', models[name])}")
        features = features.replace(f"marts.{name}", f"temp.replay_{name}")
    con.execute(f"create or replace temp table replay_features as {marts.sub(f'{MARTS}.', features)}")
    con.execute("set variable as_of = ?::timestamptz", [now])
    reads = compiled.lineage(tags)
    skipped = tuple(name for name, columns in reads.items() if any(c.split(".")[-1] in _OF_MODELS for c in columns))
    kept = TagsConfig(scores=tags.scores, tag_groups=tuple(g for g in tags.tag_groups if g.id not in skipped))
    prepare(con, kept, cut=cut.at, features="temp.replay_features")
    found: list[Restatement] = []
    for group in kept.tag_groups:
        rows = con.execute(
            f"""
            with fresh as (select one_id, value, rank from ({new_values_sql(group)})),
            stored as (
                select one_id, value, rank from activation.tag_history
                where tag_group = $grp and valid_from <= $cut and (valid_to is null or valid_to > $cut)
            )
            select one_id, value, true from stored anti join fresh using (one_id, value, rank)
            union all
            select one_id, value, false from fresh anti join stored using (one_id, value, rank)
            order by 1, 2, 3
            """,
            {"grp": group.id, "cut": cut.at},
        ).fetchall()
        found += [Restatement(one_id, group.id, value, in_history) for one_id, value, in_history in rows]
    return found, skipped


def health_rows(con: duckdb.DuckDBPyConnection, *, marts: str = "marts") -> Sequence[tuple[Any, ...]]:
    """(tag_group, status, reason, as_of, tagged, people, entering, leaving, metric, value, low, high, passed) of the
    newest run: one row per group and bound, a group without bounds once. *as_of*: when its tags were last published."""
    return con.execute(
        f"""
        select runs.tag_group, runs.status, runs.reason, published.as_of, runs.tagged, runs.people, runs.entering,
            runs.leaving, health.metric, health.value, health.low, health.high, health.passed
        from {marts}.fct_tag_group_runs as runs
        left join (
            select tag_group, max(as_of) as as_of from {marts}.fct_tag_group_runs where status = 'published' group by 1
        ) as published on published.tag_group = runs.tag_group
        left join {marts}.fct_tag_health as health on health.run = runs.run and health.tag_group = runs.tag_group
        where runs.run = (select max(run) from {marts}.fct_tag_group_runs)
        order by runs.tag_group, health.metric
        """
    ).fetchall()
