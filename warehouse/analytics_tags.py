"""Building tags: one pass over features, history by difference, and a current copy that readers and sync use.

History lives in the internal warehouse (`activation.tag_history`) and survives rebuilding the marts; the marts get
copies
in a second transaction, so that a stop between the two is mended by running again.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import duckdb
import polars as pl

from cdp.config import nearest
from cdp.errors import CheckFailedError, ConfigError
from cdp.metrics.durations import microseconds
from cdp.tags import compile as compiled
from cdp.tags.config import Group, ManualGroup, ModelGroup, RuleGroup, TagsConfig
from warehouse.analytics_common import MARTS, Table, business_cut, quoted, transaction, view_of, write_marts

_DDL = """
create schema if not exists activation;
create table if not exists activation.tag_history (
    one_id text not null, tag_group text not null, value text not null, rank int not null,
    valid_from timestamptz not null, valid_to timestamptz, opened_run bigint not null, closed_run bigint,
    opened_cause text not null, closed_cause text, kept_since timestamptz, tag_version text not null
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
    thresholds = prepare(con, tags, cut=cut.at)
    newest = con.execute("select max(as_of) from activation.tag_runs").fetchall()[0][0]
    if newest is not None and newest > cut.at:
        raise ConfigError(
            f"tag history already holds {newest.isoformat()}, later than this run's {cut.at.isoformat()}",
            hint="history only grows forwards; compare an earlier day with `warehouse.analytics.replay_tags`",
        )
    with transaction(con):
        run, reports, added = _apply(con, tags, cut.at, thresholds)
    counts = _publish(con, tags)
    people = con.execute("select count(*) from temp.tag_wide").fetchall()[0][0]
    _clean(con)
    return TagReport(run, cut.at, people, tuple(reports), added, counts)


# ---------------------------------------------------------------- computing


def check_tags(con: duckdb.DuckDBPyConnection, tags: TagsConfig, *, marts: str = MARTS) -> None:
    """Raise one `ConfigError` with every expression and source that does not fit the marts there are."""
    faults = compiled.faults_of(tags, mart_columns(con, marts))
    if faults:
        raise ConfigError("\n".join(f"tags.yaml: {fault}" for fault in faults), hint="mend config/tags.yaml")


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
    thresholds: dict[str, list[float]] = {}
    source = features or f"{marts}.fct_person_features"
    wanted = compiled.quantiles_of(tags)
    for item in wanted:
        if item.kind == "score":
            thresholds[item.name] = _lookup(con, item, source)
    cuts = {name: thresholds.get(name, list(score.thresholds)) for name, score in tags.scores.items()}
    scores = ", ".join(f"{compiled.score_sql(score, cuts[name])} as {name}" for name, score in tags.scores.items())
    con.execute(f"create or replace temp table tag_base as select *{', ' + scores if scores else ''} from {source}")
    for item in wanted:
        if item.kind != "score":
            thresholds[item.name] = _lookup(con, item, "temp.tag_base")
    columns = [(group.id, compiled.column_sql(group, thresholds)) for group in tags.tag_groups]
    selected = "".join(f", {sql} as g_{name}" for name, sql in columns if sql)
    kept = "".join(f", {name}" for name in tags.scores)
    con.execute(f"create or replace temp table tag_wide as select one_id{kept}{selected} from temp.tag_base")
    _prove_exclusive(con, tags)
    return thresholds


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
    elif isinstance(group, RuleGroup) and (not group.exclusive or group.resolve == "none"):
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
    known = "semi join temp.tag_wide as known on known.one_id = found.one_id"
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
        for table in ("tag_history", "tag_manual"):
            where = "list_contains($people::text[], one_id)"
            query = f"select count(*) from activation.{table} where {where}"
            removed += con.execute(query, {"people": list(one_ids)}).fetchall()[0][0]
            con.execute(f"delete from activation.{table} where {where}", {"people": list(one_ids)})
    return removed


# ---------------------------------------------------------------- history


def _apply(
    con: duckdb.DuckDBPyConnection, tags: TagsConfig, cut: datetime, thresholds: dict[str, list[float]]
) -> tuple[int, list[GroupReport], int]:
    """Difference every group into the history, inside the caller's transaction."""
    definition = ";".join(f"{group.id}:{compiled.version_of(group, tags.scores)}" for group in tags.tag_groups)
    last = con.execute("select run, as_of, definition from activation.tag_runs order by run desc limit 1").fetchall()
    same = bool(last) and last[0][1] == cut and last[0][2] == definition
    run = (last[0][0] if last else 0) + 1
    people = con.execute("select count(*) from temp.tag_wide").fetchall()[0][0]
    reports: list[GroupReport] = []
    added = 0
    for group in tags.tag_groups:
        report, rows = _apply_group(con, group, run, cut, people, compiled.version_of(group, tags.scores))
        reports.append(report)
        added += rows
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
    con: duckdb.DuckDBPyConnection, group: Group, run: int, cut: datetime, people: int, version: str
) -> tuple[GroupReport, int]:
    con.execute(f"create or replace temp table tag_new as {new_values_sql(group)}")
    _difference(con, group, cut)
    counts = con.execute(
        "select (select count(distinct one_id) from temp.tag_new), (select count(*) from temp.tag_enter),"
        " (select count(*) from temp.tag_leave)"
    ).fetchall()[0]
    health = _health(con, group, people, cut)
    reason = _reason_to_keep(con, group, health) or _not_due(con, group, cut, version)
    if reason:
        gone = _close_gone(con, group, run, cut)
        return GroupReport(group.id, version, "kept", reason, counts[0], 0, gone, health), gone
    changed = _write_group(con, group, run, cut, version)
    return GroupReport(group.id, version, "published", None, counts[0], counts[1], counts[2], health), changed


def _close_gone(con: duckdb.DuckDBPyConnection, group: Group, run: int, cut: datetime) -> int:
    """End the rows of people who were merged or forgotten: a kept group keeps its values, not its ghosts."""
    where = "tag_group = $grp and valid_to is null and one_id not in (select one_id from temp.tag_wide)"
    query = f"select count(*) from activation.tag_history where {where}"
    count = con.execute(query, {"grp": group.id}).fetchall()[0][0]
    if count:
        con.execute(
            "update activation.tag_history set valid_to = $cut, closed_run = $run, closed_cause = 'identity'"
            f" where {where}",
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
    """Temp tables `tag_open` (living rows), `tag_enter` and `tag_leave` against `tag_new`."""
    con.execute(
        "create or replace temp table tag_open as select one_id, value, rank, valid_from, kept_since"
        " from activation.tag_history where tag_group = ? and valid_to is null",
        [group.id],
    )
    con.execute(
        "create or replace temp table tag_enter as select * from temp.tag_new as fresh anti join temp.tag_open as "
        "living"
        " on living.one_id = fresh.one_id and living.value = fresh.value and living.rank = fresh.rank"
    )
    con.execute(
        "create or replace temp table tag_leave as select * from temp.tag_open as living anti join temp.tag_new as "
        "fresh"
        " on living.one_id = fresh.one_id and living.value = fresh.value and living.rank = fresh.rank"
    )
    if group.on_empty == "keep_last":
        limit = microseconds(group.ttl) if group.ttl else None
        expired = f"coalesce(kept_since, $cut) + to_microseconds({limit}) <= $cut" if limit else "$cut is null"
        con.execute(
            f"""
            delete from temp.tag_leave
            where one_id not in (select one_id from temp.tag_new)
                and one_id in (select one_id from temp.tag_wide)
                and not ({expired})
            """,
            {"cut": cut},
        )


def _write_group(con: duckdb.DuckDBPyConnection, group: Group, run: int, cut: datetime, version: str) -> int:
    """Close what left, open what entered. Returns the number of history rows changed."""
    names = {"grp": group.id, "cut": cut, "run": run, "version": version}
    con.execute(
        """
        update activation.tag_history as history
        set valid_to = $cut, closed_run = $run,
            closed_cause = case when history.valid_from = $cut then 'restated'
                when history.one_id not in (select one_id from temp.tag_wide) then 'identity'
                else 'changed' end
        from temp.tag_leave as leaving
        where history.tag_group = $grp and history.valid_to is null and history.one_id = leaving.one_id
            and history.value = leaving.value and history.rank = leaving.rank
        """,
        {key: names[key] for key in ("grp", "cut", "run")},
    )
    con.execute(
        """
        insert into activation.tag_history
        select fresh.one_id, $grp, fresh.value, fresh.rank, $cut, null, $run, null,
            case when restated.one_id is not null then 'restated' else 'computed' end, null, null, $version
        from temp.tag_enter as fresh
        left join (select distinct one_id from temp.tag_leave where valid_from = $cut) as restated
            on restated.one_id = fresh.one_id
        """,
        names,
    )
    _mark_kept(con, group, cut)
    if group.history == "none":
        con.execute("delete from activation.tag_history where tag_group = ? and valid_to is not null", [group.id])
    rows = con.execute(
        "select (select count(*) from temp.tag_enter) + (select count(*) from temp.tag_leave)"
    ).fetchall()
    return int(rows[0][0])


def _mark_kept(con: duckdb.DuckDBPyConnection, group: Group, cut: datetime) -> None:
    """Remember since when a value outlives its rule, for `ttl`; forget it when the rule gives the value again."""
    if group.on_empty != "keep_last":
        return
    living = "tag_group = $grp and valid_to is null"
    con.execute(
        f"update activation.tag_history set kept_since = $cut where {living} and kept_since is null"
        " and one_id not in (select one_id from temp.tag_new)",
        {"grp": group.id, "cut": cut},
    )
    con.execute(
        f"update activation.tag_history set kept_since = null where {living} and kept_since is not null"
        " and one_id in (select one_id from temp.tag_new)",
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


def _health(con: duckdb.DuckDBPyConnection, group: Group, people: int, cut: datetime) -> tuple[HealthValue, ...]:
    """Every declared bound, measured on what is about to be published."""
    bounds = group.health
    tagged, top = con.execute(
        "select (select count(distinct one_id) from temp.tag_new),"
        " (select max(holders) from (select count(*) as holders from temp.tag_new group by value))"
    ).fetchall()[0]
    found: list[HealthValue] = []
    if bounds.coverage:
        share = tagged / people if people else 0.0
        found.append(HealthValue("coverage", share, *bounds.coverage, bounds.severity))
    if bounds.value_share_max is not None:
        found.append(
            HealthValue(
                "value_share", (top or 0) / tagged if tagged else 0.0, None, bounds.value_share_max, bounds.severity
            )
        )
    before = con.execute("select count(*) from temp.tag_open").fetchall()[0][0]
    if bounds.psi_max is not None and before and tagged:
        found.append(HealthValue("psi", _psi(con), None, bounds.psi_max, bounds.severity))
    if bounds.daily_churn_max is not None and before:
        found.append(HealthValue("daily_churn", _churn(con, group, cut), None, bounds.daily_churn_max, bounds.severity))
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


def _psi(con: duckdb.DuckDBPyConnection) -> float:
    """Population stability index of the values, new against living; shares below 1 in 10,000 count as that."""
    rows = con.execute(
        """
        select coalesce(a.n, 0) / sum(coalesce(a.n, 0)) over (), coalesce(b.n, 0) / sum(coalesce(b.n, 0)) over ()
        from (select value, count(*) as n from temp.tag_new group by value) as a
        full outer join (select value, count(*) as n from temp.tag_open group by value) as b on a.value = b.value
        """
    ).fetchall()
    pairs = [(max(new, 1e-4), max(old, 1e-4)) for new, old in rows]
    return math.fsum((new - old) * math.log(new / old) for new, old in pairs)


def _churn(con: duckdb.DuckDBPyConnection, group: Group, cut: datetime) -> float:
    """People whose tags changed ÷ people tagged before, per day since the last published run."""
    changed, before = con.execute(
        "select (select count(distinct one_id) from (select one_id from temp.tag_leave)),"
        " (select count(distinct one_id) from temp.tag_open)"
    ).fetchall()[0]
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
        scored = con.execute(f"select count(*) from temp.tag_base where ({group.value}) is not null").fetchall()[0][0]
        if not scored:
            return f"no person has `{group.value}`: the model is not published"
    return None


# ---------------------------------------------------------------- publishing


def _publish(con: duckdb.DuckDBPyConnection, tags: TagsConfig) -> dict[str, int]:
    """Copy the present state and the history into the marts, in one transaction."""
    with view_of(con, "tag_declared", _declared(tags)):
        return write_marts(
            con, [_current_table(), _history_table(con), _dim_table(), _runs_table(), _health_table(), _manual_table()]
        )


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


_CURRENT_SQL = """
    select living.one_id, living.tag_group, living.value, living.rank, runs.as_of, runs.tag_version
    from activation.tag_history as living
    inner join (
        select tag_group, arg_max(as_of, run) as as_of, arg_max(tag_version, run) as tag_version
        from activation.tag_group_runs where status = 'published' group by tag_group
    ) as runs on runs.tag_group = living.tag_group
    where living.valid_to is null
"""


def _current_table() -> Table:
    return Table(
        "fct_tags_current",
        f"{_CURRENT_SQL} order by living.tag_group, living.one_id, living.rank",
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
        select {current} as one_id, history.one_id as recorded_one_id, history.tag_group, history.value, history.rank,
            history.valid_from, history.valid_to, opened.as_of, history.opened_cause, history.closed_cause,
            history.opened_run, history.closed_run, history.tag_version
        from activation.tag_history as history
        inner join activation.tag_runs as opened on opened.run = history.opened_run
        {alias}
        order by history.tag_group, 1, history.valid_from, history.rank, history.value, history.opened_run
        """,
        "标签历史：一人持有一个标签的每段时间一行 | "
        "One row per period in which a person held a tag (SCD2); valid_to is null while it lasts.",
        {
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
        f"""
        with holders as (
            select tag_group, value, count(*) as holders from ({_CURRENT_SQL}) group by tag_group, value
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


def _clean(con: duckdb.DuckDBPyConnection) -> None:
    for name in ("tag_base", "tag_wide", "tag_new", "tag_open", "tag_enter", "tag_leave"):
        con.execute(f"drop table if exists temp.{name}")
