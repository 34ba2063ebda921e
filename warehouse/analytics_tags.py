"""Building tags: one pass over features, history by difference, and marts that readers and sync use.

History lives in the internal warehouse (`activation.tag_history`) and survives rebuilding the marts; the marts get
copies in a second transaction, so that a stop between the two is mended by running again. Groups are computed for the
people of whom something can differ (`warehouse.analytics_tag_scope`) and compared with what those hold
(`activation.tag_living`) in one join; only people who differ are looked at further.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

import duckdb

from cdp.config import nearest
from cdp.errors import CheckFailedError, ConfigError
from cdp.metrics.durations import microseconds
from cdp.tags import compile as compiled
from cdp.tags.config import Group, ManualGroup, ModelGroup, RuleGroup, TagsConfig
from warehouse.analytics_common import MARTS, business_cut, quoted, transaction
from warehouse.analytics_tag_living import (
    changed_values_sql,
    compare_elsewhere,
    compare_with_living,
    count_tagged,
    drop_fresh,
    held_before_sql,
    holders_sql,
    is_listed,
    keep_living,
    living_column,
    make_fresh,
)
from warehouse.analytics_tag_scope import (
    TagScope,
    drop_scope,
    plan_scope,
    remember_scope,
    slice_marts,
)
from warehouse.analytics_tag_tables import publish_tags

_DDL = """
create schema if not exists activation;
create table if not exists activation.tag_history (
    row_id bigint not null, person bigint not null, one_id text not null, tag_group text not null, value text not null,
    rank int not null, valid_from timestamptz not null, valid_to timestamptz, opened_run bigint not null,
    closed_run bigint, opened_cause text not null, closed_cause text, kept_since timestamptz, tag_version text not null
);
create table if not exists activation.tag_runs (
    run bigint primary key, as_of timestamptz not null, definition text not null
);
create table if not exists activation.tag_group_runs (
    run bigint not null, tag_group text not null, as_of timestamptz not null, tag_version text not null,
    status text not null, reason text, people bigint, tagged bigint, entering bigint, leaving bigint,
    thresholds double[], primary key (run, tag_group)
);
create table if not exists activation.tag_health (
    run bigint not null, tag_group text not null, metric text not null, value double not null, low double, high double,
    severity text not null, passed boolean not null, primary key (run, tag_group, metric)
);
create table if not exists activation.tag_living (person bigint, one_id text);
create table if not exists activation.tag_seen (facts_run bigint, cut timestamptz, consent text);
create table if not exists activation.tag_manual (
    one_id text not null, tag_group text not null, value text not null, set_by text not null,
    set_at timestamptz not null, expires_at timestamptz, primary key (one_id, tag_group, value)
);
"""


@dataclass(frozen=True)
class GroupReport:
    """One tag group of one run. *status*: published, or kept (the last good version stays, for *reason*)."""

    tag_group: str
    tag_version: str
    status: str
    reason: str | None
    tagged: int
    entering: int
    leaving: int
    health: tuple[HealthValue, ...] = ()


@dataclass(frozen=True)
class HealthValue:
    """One measured bound. *low*, *high*: where it may lie; *severity* error keeps the last good version."""

    metric: str
    value: float
    low: float | None
    high: float | None
    severity: str

    @property
    def passed(self) -> bool:
        below = self.low is not None and self.value < self.low
        return not below and not (self.high is not None and self.value > self.high)


@dataclass(frozen=True)
class TagReport:
    """What one run of `build_tags` did. *run*: number in `activation.tag_runs`, unchanged when nothing changed."""

    run: int
    as_of: datetime
    people: int
    groups: tuple[GroupReport, ...]
    history_added: int
    tables: dict[str, int]


def build_tags(con: duckdb.DuckDBPyConnection, tags: TagsConfig, *, as_of: datetime, timezone: str) -> TagReport:
    """Compute every group as of the last closed business day, difference it into the history, and publish copies.

    Idempotent: on unchanged data the history gains no row. Raises `ConfigError` on expressions that do not fit the
    features, `CheckFailedError` when an exclusive group's rules overlap.
    """
    con.execute(_DDL)
    cut = business_cut(con, as_of, timezone)
    check_tags(con, tags)
    scope = plan_scope(con, tags, cut.at)
    newest = con.execute("select max(as_of) from activation.tag_runs").fetchall()[0][0]
    if newest is not None and newest > cut.at:
        raise ConfigError(
            f"tag history already holds {newest.isoformat()}, later than this run's {cut.at.isoformat()}",
            hint="history only grows forwards; compare an earlier day with `warehouse.analytics.replay_tags`",
        )
    if scope.groups is None:
        thresholds = prepare(con, tags, cut=cut.at)
        make_fresh(con, tags, {group.id: new_values_sql(group) for group in tags.tag_groups if _has_rows(group)})
    else:
        thresholds = _narrow(con, tags, scope, cut.at)
    people = con.execute("select count(*) from temp.tag_all").fetchall()[0][0]
    with transaction(con):
        compare_with_living(con, tags, scoped=scope.groups is not None)
        run, reports, added = _apply(con, tags, cut.at, thresholds, people)
        remember_scope(con, tags, scope)
    counts = publish_tags(con, tags)
    _clean(con)
    return TagReport(run, cut.at, people, tuple(reports), added, counts)


# ---------------------------------------------------------------- computing


def check_tags(con: duckdb.DuckDBPyConnection, tags: TagsConfig, *, marts: str = MARTS) -> None:
    """Raise one `ConfigError` with every expression and source that does not fit the marts there are."""
    faults = compiled.faults_of(tags, mart_columns(con, marts))
    if faults:
        raise ConfigError("\n".join(map(partial(_placed, tags), faults)), hint="mend config/tags.yaml")


def _placed(tags: TagsConfig, fault: str) -> str:
    """*fault*, which begins with its place in the configuration, behind file and line."""
    path = fault.split(": ")[0].split(".")
    top = () if path[0] in ("scores", "purposes") else ("tag_groups",)
    return f"{tags.place(*top, *path) or 'tags.yaml'}: {fault}"


def mart_columns(con: duckdb.DuckDBPyConnection, marts: str = MARTS) -> dict[str, list[str]]:
    """Mart -> its columns."""
    catalog, _, schema = marts.rpartition(".")
    rows = con.execute(
        "select table_name, column_name from duckdb_columns() where schema_name = ? and (? = '' or database_name = ?)"
        " order by table_name, column_index",
        [schema, catalog, catalog],
    ).fetchall()
    found: dict[str, list[str]] = {}
    for table, column in rows:
        found.setdefault(table, []).append(column)
    return found


def prepare(
    con: duckdb.DuckDBPyConnection, tags: TagsConfig, *, cut: datetime, marts: str = MARTS, features: str | None = None
) -> dict[str, list[float]]:
    """Make temp table `tag_wide`: one row per person, one column per group over features. Returns the thresholds.

    *features*: another relation with the columns of `fct_person_features`.
    """
    check_tags(con, tags, marts=marts)
    con.execute("set variable tag_cut = ?::timestamptz", [cut])
    source = features or f"{marts}.fct_person_features"
    cuts = _make_base(con, tags, tags, "tag_all", f"select {_listed(compiled.features_read(tags))} from {source}")
    con.execute("create or replace temp view tag_base as select * from temp.tag_all")
    _make_wide(con, tags, cuts, "table")
    _prove_exclusive(con, tags)
    return cuts


def _listed(columns: Iterable[str]) -> str:
    return ", ".join(["one_id", *sorted(set(columns) - {"one_id"})])


def _make_base(
    con: duckdb.DuckDBPyConnection, tags: TagsConfig, wanted: TagsConfig, name: str, query: str
) -> dict[str, list[float]]:
    """Temp view *name*: *query*, kept in a table, and the scores over it. Returns the thresholds of *wanted*."""
    con.execute(f"create or replace temp table {name}_read as {query}")
    quantiles = compiled.quantiles_of(wanted)
    cuts = {item.name: _lookup(con, item, f"temp.{name}_read") for item in quantiles if item.kind == "score"}
    _score_view(con, tags, cuts, name, wanted.scores)
    return cuts | {item.name: _lookup(con, item, f"temp.{name}") for item in quantiles if item.kind != "score"}


def _score_view(
    con: duckdb.DuckDBPyConnection, tags: TagsConfig, cuts: dict[str, list[float]], name: str, scores: Iterable[str]
) -> None:
    columns = "".join(
        f", {compiled.score_sql(tags.scores[score], cuts.get(score, list(tags.scores[score].thresholds)))} as {score}"
        for score in scores
    )
    con.execute(f"create or replace temp view {name} as select *{columns} from temp.{name}_read")


def _make_wide(con: duckdb.DuckDBPyConnection, tags: TagsConfig, cuts: dict[str, list[float]], kind: str) -> None:
    """`tag_wide` over `tag_base`, for the groups of *tags*. *kind*: table or view."""
    columns = [(group, compiled.column_sql(group, cuts)) for group in tags.tag_groups]
    selected = "".join(f", {_agreed(tags, group, sql)} as g_{group.id}" for group, sql in columns if sql)
    purposes = sorted({group.consent_purpose for group in tags.tag_groups if group.consent_purpose})
    selected += "".join(
        f", coalesce({tags.purposes[name]}, false) as {compiled.consent_column(name)}" for name in purposes
    )
    for other in ("table", "view"):
        if other != kind and _is_there(con, "tag_wide", other):
            con.execute(f"drop {other} temp.tag_wide")
    con.execute(f"create or replace temp {kind} tag_wide as select one_id{selected} from temp.tag_base")


def _is_there(con: duckdb.DuckDBPyConnection, name: str, kind: str) -> bool:
    found = con.execute(f"select 1 from duckdb_{kind}s() where temporary and {kind}_name = ?", [name])
    return bool(found.fetchall())


def _has_rows(group: Group) -> bool:
    """Whether the group's values come as rows rather than as a column of `tag_wide`."""
    return bool(group.overrides) or compiled.reads_rows(group)


def _narrow(con: duckdb.DuckDBPyConnection, tags: TagsConfig, scope: TagScope, cut: datetime) -> dict[str, list[float]]:
    """`tag_wide` and `tag_fresh` for the people in scope, `tag_changed` for the others, for whom only the groups are
    computed that may change for anyone. Returns the thresholds."""
    con.execute("set variable tag_cut = ?::timestamptz", [cut])
    anyone = tags.model_copy(update={"tag_groups": tuple(g for g in tags.tag_groups if g.id in (scope.groups or ()))})
    used = {name for group in anyone.tag_groups for name in compiled.columns_read(group)}
    anyone = anyone.model_copy(update={"scores": {name: tags.scores[name] for name in tags.scores if name in used}})
    source = f"{MARTS}.fct_person_features"
    read = _listed(compiled.features_read(anyone))
    cuts = _make_base(con, tags, anyone, "tag_all", f"select {read} from {source}")
    con.execute("create or replace temp view tag_base as select * from temp.tag_all")
    _make_wide(con, anyone, cuts, "view")
    rows = {group.id: new_values_sql(group) for group in anyone.tag_groups if _has_rows(group)}
    make_fresh(con, anyone, rows)
    compare_elsewhere(con, tags, anyone)
    read = _listed(compiled.features_read(tags))
    con.execute(
        f"create or replace temp table tag_near_read as select {read} from {source}"
        " where one_id in (select one_id from temp.tag_scope)"
    )
    known = [name for name, score in tags.scores.items() if name in cuts or score.thresholds]
    _score_view(con, tags, cuts, "tag_near", known)
    con.execute("create or replace temp view tag_base as select * from temp.tag_near")
    _make_wide(con, tags, cuts, "table")
    _prove_exclusive(con, tags)
    slice_marts(con, tags, scope)
    others = [group for group in tags.tag_groups if _has_rows(group) and group.id not in rows]
    make_fresh(con, tags, {group.id: new_values_sql(group, marts="temp") for group in others}, made=rows)
    return cuts


def _agreed(tags: TagsConfig, group: Group, sql: str) -> str:
    """The group's column, for people who agree to its purpose."""
    return f"case when {tags.purposes[group.consent_purpose]} then {sql} end" if group.consent_purpose else sql


def _refusing(group: Group) -> str:
    """A query of the people who do not agree to the group's purpose."""
    if not group.consent_purpose:
        return "select one_id from temp.tag_wide where false"
    return f"select one_id from temp.tag_wide where not {compiled.consent_column(group.consent_purpose)}"


def _lookup(con: duckdb.DuckDBPyConnection, wanted: compiled.Quantiles, source: str) -> list[float]:
    row = con.execute(compiled.quantile_sql(wanted, source)).fetchall()[0][0]
    # Nobody to take quantiles of: a threshold nobody reaches (SQL has no literal for infinity).
    return [float(value) for value in row] if row else [sys.float_info.max] * len(wanted.shares)


def _prove_exclusive(con: duckdb.DuckDBPyConnection, tags: TagsConfig) -> None:
    """Groups that promise disjoint rules must keep the promise for every person."""
    for group in tags.tag_groups:
        if not (isinstance(group, RuleGroup) and group.exclusive and group.resolve == "none"):
            continue
        found = con.execute(
            f"select count(*), min(one_id), arg_min(g_{group.id}, one_id) from temp.tag_wide where len(g_{group.id}) "
            f"> 1"
        ).fetchall()[0]
        if found[0]:
            raise CheckFailedError(
                f"tag group `{group.id}` is exclusive, but the rules of {', '.join(found[2])} both hold for person "
                f"{found[1]} ({found[0]} people in all)",
                hint="make the rules disjoint, or say which wins with `resolve: first_match` or `last_match`",
            )


def values_sql(group: Group, *, marts: str = MARTS) -> str:
    """A query (one_id, value, rank) of what the group's definition gives, from `tag_wide` or its own mart."""
    own = compiled.rows_sql(group, marts=marts, cut="getvariable('tag_cut')")
    if own is not None:
        body = own
        if group.among:
            body = f"select own.* from ({own}) as own inner join (select one_id from temp.tag_base where {group.among})"
            body += " as among on among.one_id = own.one_id"
    elif is_listed(group):
        body = (
            f"select one_id, unnest(g_{group.id}) as value, generate_subscripts(g_{group.id}, 1) as rank "
            f"from temp.tag_wide where g_{group.id} is not null"
        )
    else:
        body = f"select one_id, g_{group.id} as value, 1 as rank from temp.tag_wide where g_{group.id} is not null"
    return (
        f"select one_id, value, cast(rank as int) as rank from ({body}) where value is not null and one_id is not null"
    )


def new_values_sql(group: Group, *, marts: str = MARTS, manual: str = "activation.tag_manual") -> str:
    """A query (one_id, value, rank) of what the group should hold: `values_sql`, under manual and imported values where
    declared, in the order declared. A person with a value of one source has none of a later one."""
    layers = [_layer(group, name, marts=marts, manual=manual) for name in group.overrides]
    if isinstance(group, ManualGroup):
        layers.append(_layer(group, "manual", marts=marts, manual=manual))
    layers.append(values_sql(group, marts=marts))
    # Imported and mart rows may name people who are no longer there, or never were.
    # Nor may a value by hand or of another system tag people who do not agree to the group's purpose.
    agreeing = compiled.consent_column(group.consent_purpose) if group.consent_purpose else "true"
    known = f"semi join (select one_id from temp.tag_wide where {agreeing}) as known on known.one_id = found.one_id"
    if len(layers) == 1:
        return f"select found.* from ({layers[0]}) as found {known}"
    named = ", ".join(f"layer_{number} as ({layer})" for number, layer in enumerate(layers))
    parts = []
    for number in range(len(layers)):
        earlier = " union all ".join(f"select one_id from layer_{n}" for n in range(number))
        part = f"select layer_{number}.* from layer_{number}"
        if earlier:
            part += f" anti join ({earlier}) as won on won.one_id = layer_{number}.one_id"
        parts.append(part)
    return f"with {named}, found as ({' union all '.join(parts)}) select found.* from found {known}"


def _layer(group: Group, name: str, *, marts: str, manual: str) -> str:
    """Values of one source that may win over the rules."""
    if name == "import":
        table = f"{marts}.{compiled.table_of(group.imported_from or '')}"
        source = f"select distinct one_id, cast(value as text) as value from {table} where value is not null"
        order = "value"
    else:
        source = (
            f"select one_id, value, set_at from {manual} where tag_group = {quoted(group.id)}"
            " and set_at < getvariable('tag_cut') and coalesce(expires_at > getvariable('tag_cut'), true)"
        )
        order = "set_at desc, value"
    chosen = (
        f"select one_id, value, cast(row_number() over (partition by one_id order by {order}) as int) as rank"
        f" from ({source})"
    )
    return f"select * from ({chosen}) where rank = 1" if group.exclusive else chosen


def set_manual_tag(
    con: duckdb.DuckDBPyConnection,
    tags: TagsConfig,
    *,
    one_id: str,
    group: str,
    value: str | None,
    by: str,
    at: datetime,
    expires_at: datetime | None = None,
) -> None:
    """Set (or, with *value* None, take back) a value by hand. It counts from the first run whose cut is after *at*.

    Raises `ConfigError` when the group takes no manual values, or not this one.
    """
    known = {item.id: item for item in tags.tag_groups if item.kind == "manual" or "manual" in item.overrides}
    if group not in known:
        raise ConfigError(
            f"tag group `{group}` takes no manual values{nearest(group, sorted(known))}",
            hint="`kind: manual`, or `overrides: [manual]` on another kind, allows it",
        )
    values = known[group].declared_values
    if value is not None and values and value not in values:
        raise ConfigError(f"`{group}` has no value `{value}`{nearest(value, values)}")
    con.execute(_DDL)
    with transaction(con):
        if value is None or known[group].exclusive:
            con.execute("delete from activation.tag_manual where one_id = ? and tag_group = ?", [one_id, group])
        if value is not None:
            con.execute(
                "insert or replace into activation.tag_manual values (?, ?, ?, ?, ?, ?)",
                [one_id, group, value, by, at, expires_at],
            )


def forget_tags(con: duckdb.DuckDBPyConnection, one_ids: Sequence[str]) -> int:
    """Remove every trace of these people from the tag history and the manual tags, in one transaction. Returns rows
    removed; the marts' copies lose them with the next `build_tags`."""
    con.execute(_DDL)
    removed = 0
    with transaction(con):
        con.execute(
            "delete from activation.tag_living where list_contains($people::text[], one_id)", {"people": list(one_ids)}
        )
        for table in ("tag_history", "tag_manual"):
            where = "list_contains($people::text[], one_id)"
            query = f"select count(*) from activation.{table} where {where}"
            removed += con.execute(query, {"people": list(one_ids)}).fetchall()[0][0]
            con.execute(f"delete from activation.{table} where {where}", {"people": list(one_ids)})
    return removed


# ---------------------------------------------------------------- history

# People who were merged or forgotten since the last run.
_GONE = "select one_id from temp.tag_changed where is_gone"


def _apply(
    con: duckdb.DuckDBPyConnection,
    tags: TagsConfig,
    cut: datetime,
    thresholds: dict[str, list[float]],
    people: int,
) -> tuple[int, list[GroupReport], int]:
    """Difference every group into the history, inside the caller's transaction."""
    definition = ";".join(f"{group.id}:{compiled.version_of(group, tags.scores)}" for group in tags.tag_groups)
    last = con.execute("select run, as_of, definition from activation.tag_runs order by run desc limit 1").fetchall()
    same = bool(last) and last[0][1] == cut and last[0][2] == definition
    run = (last[0][0] if last else 0) + 1
    con.execute("create or replace temp table tag_closing (row_id bigint, cause text)")
    tagged = count_tagged(con, tags)
    reports: list[GroupReport] = []
    added = 0
    for group in tags.tag_groups:
        version = compiled.version_of(group, tags.scores)
        report, rows = _apply_group(con, group, run, cut, people, version, *tagged[group.id])
        reports.append(report)
        added += rows
    _close(con, tags, run, cut)
    keep_living(con, tags, kept={report.tag_group for report in reports if report.status == "kept"})
    added += _close_dropped_groups(con, tags, run, cut)
    if same and added == 0 and _statuses(con, int(last[0][0])) == {r.tag_group: r.status for r in reports}:
        return int(last[0][0]), reports, 0
    con.execute("insert into activation.tag_runs values (?, ?, ?)", [run, cut, definition])
    for report in reports:
        con.execute(
            "insert into activation.tag_group_runs values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                run,
                report.tag_group,
                cut,
                report.tag_version,
                report.status,
                report.reason,
                people,
                report.tagged,
                report.entering,
                report.leaving,
                thresholds.get(report.tag_group),
            ],
        )
        for item in report.health:
            con.execute(
                "insert into activation.tag_health values (?, ?, ?, ?, ?, ?, ?, ?)",
                [run, report.tag_group, item.metric, item.value, item.low, item.high, item.severity, item.passed],
            )
    return run, reports, added


def _statuses(con: duckdb.DuckDBPyConnection, run: int) -> dict[str, str]:
    """Tag group -> status of run *run*."""
    return dict(con.execute("select tag_group, status from activation.tag_group_runs where run = ?", [run]).fetchall())


def _apply_group(
    con: duckdb.DuckDBPyConnection,
    group: Group,
    run: int,
    cut: datetime,
    people: int,
    version: str,
    tagged: int,
    tagged_before: int,
) -> tuple[GroupReport, int]:
    _difference(con, group, cut)
    entering, leaving = con.execute(
        "select (select count(*) from temp.tag_enter), (select count(*) from temp.tag_leave)"
    ).fetchall()[0]
    health = _health(con, group, people, cut, tagged, tagged_before)
    reason = _reason_to_keep(con, group, health) or _not_due(con, group, cut, version)
    if reason:
        gone = _close_gone(con, group, run, cut)
        return GroupReport(group.id, version, "kept", reason, tagged, 0, gone, health), gone
    _write_group(con, group, run, cut, version, entering=entering, leaving=leaving)
    return GroupReport(group.id, version, "published", None, tagged, entering, leaving, health), entering + leaving


def _close_gone(con: duckdb.DuckDBPyConnection, group: Group, run: int, cut: datetime) -> int:
    """End the rows of people who were merged, forgotten or took consent back: a kept group keeps its values, not its
    ghosts, and what nobody agrees to does not wait for the group to be well."""
    where = f"tag_group = $grp and valid_to is null and one_id in ({_GONE} union all {_refusing(group)})"
    query = f"select count(*) from activation.tag_history where {where}"
    count = con.execute(query, {"grp": group.id}).fetchall()[0][0]
    if count:
        con.execute(
            "update activation.tag_history set valid_to = $cut, closed_run = $run,"
            f" closed_cause = case when one_id in ({_GONE}) then 'identity' else 'consent' end where {where}",
            {"grp": group.id, "cut": cut, "run": run},
        )
    return int(count)


def _not_due(con: duckdb.DuckDBPyConnection, group: Group, cut: datetime, version: str) -> str | None:
    """Why a weekly group waits: its definition is the one published less than seven days ago."""
    if group.refresh == "daily":
        return None
    last = con.execute(
        "select as_of, tag_version from activation.tag_group_runs where tag_group = ? and status = 'published'"
        " order by run desc limit 1",
        [group.id],
    ).fetchall()
    if last and last[0][1] == version and cut < last[0][0] + timedelta(days=7) and cut != last[0][0]:
        return f"refreshed weekly, last on {last[0][0]:%Y-%m-%d %H:%M}"
    return None


def _difference(con: duckdb.DuckDBPyConnection, group: Group, cut: datetime) -> None:
    """Temp tables `tag_open` and `tag_new` (what people who differ hold and should hold), `tag_enter`, `tag_leave`."""
    con.execute(
        "create or replace temp table tag_open as select row_id, one_id, value, rank, valid_from, kept_since"
        " from temp.tag_open_all where tag_group = ?",
        [group.id],
    )
    con.execute(f"create or replace temp table tag_new as {changed_values_sql(group)}")
    same = "living.one_id = fresh.one_id and living.value = fresh.value and living.rank = fresh.rank"
    con.execute(
        "create or replace temp table tag_enter as"
        f" select * from temp.tag_new as fresh anti join temp.tag_open as living on {same}"
    )
    con.execute(
        "create or replace temp table tag_leave as"
        f" select * from temp.tag_open as living anti join temp.tag_new as fresh on {same}"
    )
    if group.on_empty == "keep_last":
        limit = microseconds(group.ttl) if group.ttl else None
        expired = f"coalesce(kept_since, $cut) + to_microseconds({limit}) <= $cut" if limit else "$cut is null"
        con.execute(
            f"""
            delete from temp.tag_leave
            where one_id not in (select one_id from temp.tag_new)
                and one_id not in ({_GONE})
                and one_id not in ({_refusing(group)})
                and not ({expired})
            """,
            {"cut": cut},
        )


def _write_group(
    con: duckdb.DuckDBPyConnection, group: Group, run: int, cut: datetime, version: str, *, entering: int, leaving: int
) -> None:
    """Close what left, open what entered."""
    if leaving:
        con.execute(
            f"""
            insert into temp.tag_closing
            select row_id, case when valid_from = $cut then 'restated'
                when one_id in ({_GONE}) then 'identity'
                when one_id in ({_refusing(group)}) then 'consent'
                else 'changed' end
            from temp.tag_leave
            """,
            {"cut": cut},
        )
    if entering:
        con.execute(
            """
            insert into activation.tag_history
            select getvariable('tag_rows') + row_number() over (), changed.person, fresh.one_id, $grp, fresh.value,
                fresh.rank, $cut, null, $run, null,
                case when restated.one_id is not null then 'restated' else 'computed' end, null, null, $version
            from temp.tag_enter as fresh
            inner join temp.tag_changed as changed on changed.one_id = fresh.one_id
            left join (select distinct one_id from temp.tag_leave where valid_from = $cut) as restated
                on restated.one_id = fresh.one_id
            """,
            {"grp": group.id, "cut": cut, "run": run, "version": version},
        )
        con.execute("set variable tag_rows = getvariable('tag_rows') + ?::bigint", [entering])
    _mark_kept(con, group, cut)


def _close(con: duckdb.DuckDBPyConnection, tags: TagsConfig, run: int, cut: datetime) -> None:
    """End the rows of `tag_closing`: the ended row is appended and the living one deleted, for an update scattered over
    the history would write all of it anew."""
    con.execute(
        """
        create or replace temp table tag_closed as
        select history.* replace (
            cast($cut as timestamptz) as valid_to, cast($run as bigint) as closed_run, closing.cause as closed_cause
        )
        from activation.tag_history as history
        inner join temp.tag_closing as closing on closing.row_id = history.row_id
        """,
        {"run": run, "cut": cut},
    )
    con.execute("delete from activation.tag_history where row_id in (select row_id from temp.tag_closing)")
    forgotten = [group.id for group in tags.tag_groups if group.history == "none"]
    con.execute(
        "insert into activation.tag_history select * from temp.tag_closed"
        " where not list_contains($names::text[], tag_group)",
        {"names": forgotten},
    )
    if forgotten:
        con.execute(
            "delete from activation.tag_history"
            " where valid_to is not null and list_contains($names::text[], tag_group)",
            {"names": forgotten},
        )


def _mark_kept(con: duckdb.DuckDBPyConnection, group: Group, cut: datetime) -> None:
    """Remember since when a value outlives its rule, for `ttl`; forget it when the rule gives the value again."""
    if group.on_empty != "keep_last":
        return
    living, column = "tag_group = $grp and valid_to is null", living_column(group)
    con.execute(
        f"update activation.tag_history set kept_since = $cut where {living} and kept_since is null"
        " and one_id in (select one_id from temp.tag_open) and one_id not in (select one_id from temp.tag_new)",
        {"grp": group.id, "cut": cut},
    )
    con.execute(
        f"update activation.tag_history set kept_since = null where {living} and kept_since is not null"
        f" and one_id in (select one_id from temp.tag_fresh where {column} is not null)",
        {"grp": group.id},
    )


def _close_dropped_groups(con: duckdb.DuckDBPyConnection, tags: TagsConfig, run: int, cut: datetime) -> int:
    """End the living rows of groups that are no longer declared."""
    names = [group.id for group in tags.tag_groups]
    where = "valid_to is null and not list_contains($names::text[], tag_group)"
    count = con.execute(f"select count(*) from activation.tag_history where {where}", {"names": names}).fetchall()[0][0]
    if count:
        con.execute(
            "update activation.tag_history set valid_to = $cut, closed_run = $run, closed_cause = 'dropped'"
            f" where {where}",
            {"names": names, "cut": cut, "run": run},
        )
    return int(count)


# ---------------------------------------------------------------- health


def _health(
    con: duckdb.DuckDBPyConnection, group: Group, people: int, cut: datetime, tagged: int, before: int
) -> tuple[HealthValue, ...]:
    """Every declared bound, measured on what is about to be published. *tagged*, *before*: people with a value, now
    and at the last run."""
    bounds = group.health
    found: list[HealthValue] = []
    if bounds.coverage:
        share = tagged / people if people else 0.0
        found.append(HealthValue("coverage", share, *bounds.coverage, bounds.severity))
    if bounds.value_share_max is not None:
        top = con.execute(f"select max(holders) from ({holders_sql(group)})").fetchall()[0][0]
        share = (top or 0) / tagged if tagged else 0.0
        found.append(HealthValue("value_share", share, None, bounds.value_share_max, bounds.severity))
    if bounds.psi_max is not None and before and tagged:
        found.append(HealthValue("psi", _psi(con, group), None, bounds.psi_max, bounds.severity))
    if bounds.daily_churn_max is not None and before:
        found.append(
            HealthValue("daily_churn", _churn(con, group, cut, before), None, bounds.daily_churn_max, bounds.severity)
        )
    if bounds.input_age_max:
        limit = microseconds(bounds.input_age_max) / 3_600_000_000
        found.append(HealthValue("input_age_hours", _input_age(con, group, cut), None, limit, bounds.severity))
    return tuple(found)


# Where features come from: a group over features is as old as the newest row of these.
_FEATURE_SOURCES = ("fct_orders", "fct_events", "fct_relations")


def _input_age(con: duckdb.DuckDBPyConnection, group: Group, cut: datetime) -> float:
    """Hours from the newest row the group reads to the cut; infinite when there is none."""
    source = getattr(group, "source", None)
    tables = [compiled.table_of(source)] if source else _FEATURE_SOURCES
    newest = [
        con.execute(
            f"select max({compiled.TIME_COLUMNS[table]}) from {MARTS}.{table} where {compiled.TIME_COLUMNS[table]} < ?",
            [cut],
        ).fetchall()[0][0]
        for table in tables
        if table in compiled.TIME_COLUMNS
    ]
    known = [moment for moment in newest if moment is not None]
    return (cut - max(known)).total_seconds() / 3600 if known else math.inf


def _psi(con: duckdb.DuckDBPyConnection, group: Group) -> float:
    """Population stability index of the values, new against living; shares below 1 in 10,000 count as that."""
    rows = con.execute(
        f"""
        select coalesce(a.holders, 0) / sum(coalesce(a.holders, 0)) over (),
            coalesce(b.holders, 0) / sum(coalesce(b.holders, 0)) over ()
        from ({holders_sql(group)}) as a
        full outer join ({held_before_sql(group)}) as b on a.value = b.value
        """
    ).fetchall()
    pairs = [(max(new, 1e-4), max(old, 1e-4)) for new, old in rows]
    return math.fsum((new - old) * math.log(new / old) for new, old in pairs)


def _churn(con: duckdb.DuckDBPyConnection, group: Group, cut: datetime, before: int) -> float:
    """People whose tags changed ÷ people tagged before, per day since the last published run."""
    changed = con.execute("select count(distinct one_id) from temp.tag_leave").fetchall()[0][0]
    last = con.execute(
        "select max(as_of) from activation.tag_group_runs where tag_group = ? and status = 'published' and as_of < ?",
        [group.id, cut],
    ).fetchall()[0][0]
    days = max((cut - last).total_seconds() / 86400.0, 1.0) if last else 1.0
    return changed / before / days if before else 0.0


def _reason_to_keep(con: duckdb.DuckDBPyConnection, group: Group, health: Sequence[HealthValue]) -> str | None:
    """Why the last good version must stay, or None."""
    bad = [value for value in health if not value.passed and value.severity == "error"]
    if bad:
        return "; ".join(f"{v.metric} {v.value:.4f} outside {v.low}..{v.high}" for v in bad)
    if isinstance(group, ModelGroup) and group.on_unpublished == "keep_last":
        scored = con.execute(f"select count(*) from temp.tag_all where ({group.value}) is not null").fetchall()[0][0]
        if not scored:
            return f"no person has `{group.value}`: the model is not published"
    return None


def _clean(con: duckdb.DuckDBPyConnection) -> None:
    for name in ("tag_changed", "tag_open_all", "tag_new", "tag_open", "tag_enter", "tag_leave", "tag_closing",
                 "tag_differing", "tag_open_rows"):  # fmt: skip
        con.execute(f"drop table if exists temp.{name}")
    con.execute("drop table if exists temp.tag_closed")
    drop_fresh(con)
    drop_scope(con)
    con.execute("drop table if exists temp.tag_wide")
    for name in ("tag_base", "tag_all", "tag_near"):
        con.execute(f"drop view if exists temp.{name}")
        con.execute(f"drop table if exists temp.{name}_read")
