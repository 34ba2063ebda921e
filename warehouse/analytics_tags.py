"""Building tags: one pass over features, history by difference, and marts that readers and sync use.

History lives in the internal warehouse (`activation.tag_history`) and survives rebuilding the marts; the marts get
copies in a second transaction, so that a stop between the two is mended by running again. Groups are computed for the
people of whom something can differ (`warehouse.analytics_tag_scope`) and compared with what those hold
(`activation.tag_living`) in one join; only people who differ are looked at further.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial

import duckdb

from cdp.config import nearest
from cdp.errors import CheckFailedError, ConfigError
from cdp.tags import compile as compiled
from cdp.tags.config import Group, ManualGroup, RuleGroup, TagsConfig
from warehouse.analytics_common import MARTS, business_cut, quoted, transaction
from warehouse.analytics_tag_history import GroupReport, drop_comparison, write_history
from warehouse.analytics_tag_living import (
    compare_with_living,
    differing_sql,
    drop_fresh,
    fit_columns,
    is_listed,
    make_fresh,
    make_rows,
)
from warehouse.analytics_tag_scope import TagScope, drop_scope, moved_sql, plan_scope, remember_scope
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
create table if not exists activation.tag_seen (feeds text, cut timestamptz, day date, consent text, thresholds text);
create table if not exists activation.tag_manual (
    one_id text not null, tag_group text not null, value text not null, set_by text not null,
    set_at timestamptz not null, expires_at timestamptz, primary key (one_id, tag_group, value)
);
"""


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
    if scope.whole:
        thresholds = prepare(con, tags, cut=cut.at)
        rows = [group for group in tags.tag_groups if _has_rows(group)]
        for group in rows:
            make_rows(con, group, new_values_sql(group))
        make_fresh(con, tags, [group.id for group in rows])
        fit_columns(con, tags)
    else:
        thresholds = _narrow(con, tags, scope, cut.at)
    count = con.execute("select count(*) from temp.tag_all").fetchall()[0][0]
    with transaction(con):
        people = None if scope.whole else "select one_id from temp.tag_scope"
        compare_with_living(con, tags, people=people, partly=scope.rows.keys())
        run, reports, added = write_history(con, tags, cut=cut.at, thresholds=thresholds, people=count)
        remember_scope(con, tags, scope, thresholds)
    counts = publish_tags(con, tags)
    _clean(con)
    return TagReport(run, cut.at, count, tuple(reports), added, counts)


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
    """Add to `temp.tag_scope` whom a day, a threshold or a model moved, and make `tag_wide` and `tag_fresh` for the
    people in it. Returns the thresholds."""
    con.execute("set variable tag_cut = ?::timestamptz", [cut])
    source = f"{MARTS}.fct_person_features"
    anyone = _only(tags, scope.moving | scope.anew)
    cuts = _make_base(con, tags, anyone, "tag_all", f"select {_listed(compiled.features_read(tags))} from {source}")
    con.execute(f"insert into temp.tag_scope {moved_sql(tags, scope, cuts)}")
    anew = _only(tags, scope.anew)
    con.execute("create or replace temp view tag_base as select * from temp.tag_all")
    _make_wide(con, anew, cuts, "view")
    rows = [group for group in anew.tag_groups if _has_rows(group)]
    for group in rows:
        make_rows(con, group, new_values_sql(group))
    make_fresh(con, anew, [group.id for group in rows])
    con.execute(f"insert into temp.tag_scope {differing_sql(anew)}")
    con.execute(
        "create or replace temp table tag_near_read as select * from temp.tag_all_read"
        " where one_id in (select one_id from temp.tag_scope)"
    )
    _score_view(
        con, tags, cuts, "tag_near", [name for name in tags.scores if name in cuts or tags.scores[name].thresholds]
    )
    con.execute("create or replace temp view tag_base as select * from temp.tag_near")
    _make_wide(con, tags, cuts, "table")
    _prove_exclusive(con, tags)
    for group in tags.tag_groups:
        if group.id in scope.rows:
            make_rows(con, group, new_values_sql(group, people=scope.rows[group.id]), scope.rows[group.id])
    make_fresh(con, tags, {group.id for group in rows} | scope.rows.keys(), partly=scope.rows.keys())
    return cuts


def _only(tags: TagsConfig, groups: frozenset[str]) -> TagsConfig:
    """*tags* with these groups alone, and the scores they read."""
    kept = tuple(group for group in tags.tag_groups if group.id in groups)
    used = {name for group in kept for name in compiled.columns_read(group)}
    scores = {name: score for name, score in tags.scores.items() if name in used}
    return tags.model_copy(update={"tag_groups": kept, "scores": scores})


def _agreed(tags: TagsConfig, group: Group, sql: str) -> str:
    """The group's column, for people who agree to its purpose."""
    return f"case when {tags.purposes[group.consent_purpose]} then {sql} end" if group.consent_purpose else sql


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
            f"select count(*), min(one_id), string_split(arg_min(g_{group.id}, one_id), {compiled.SEPARATOR})"
            f" from temp.tag_wide where contains(g_{group.id}, {compiled.SEPARATOR})"
        ).fetchall()[0]
        if found[0]:
            raise CheckFailedError(
                f"tag group `{group.id}` is exclusive, but the rules of {', '.join(found[2])} both hold for person "
                f"{found[1]} ({found[0]} people in all)",
                hint="make the rules disjoint, or say which wins with `resolve: first_match` or `last_match`",
            )


def values_sql(group: Group, *, marts: str = MARTS, people: str | None = None) -> str:
    """A query (one_id, value, rank) of what the group's definition gives, from `tag_wide` or its own mart. *people*: a
    query (one_id) of those whose rows to read."""
    own = compiled.rows_sql(group, marts=marts, cut="getvariable('tag_cut')", people=people)
    if own is not None:
        body = own
        if group.among:
            body = f"select own.* from ({own}) as own inner join (select one_id from temp.tag_base where {group.among})"
            body += " as among on among.one_id = own.one_id"
    elif is_listed(group):
        body = (
            f"select one_id, unnest(string_split(g_{group.id}, {compiled.SEPARATOR})) as value,"
            f" generate_subscripts(string_split(g_{group.id}, {compiled.SEPARATOR}), 1) as rank"
            f" from temp.tag_wide where g_{group.id} is not null"
        )
    else:
        body = f"select one_id, g_{group.id} as value, 1 as rank from temp.tag_wide where g_{group.id} is not null"
    return (
        f"select one_id, value, cast(rank as int) as rank from ({body}) where value is not null and one_id is not null"
    )


def new_values_sql(
    group: Group, *, marts: str = MARTS, manual: str = "activation.tag_manual", people: str | None = None
) -> str:
    """A query (one_id, value, rank) of what the group should hold: `values_sql`, under manual and imported values where
    declared, in the order declared. A person with a value of one source has none of a later one."""
    layers = [_layer(group, name, marts=marts, manual=manual) for name in group.overrides]
    if isinstance(group, ManualGroup):
        layers.append(_layer(group, "manual", marts=marts, manual=manual))
    layers.append(values_sql(group, marts=marts, people=people))
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


def _clean(con: duckdb.DuckDBPyConnection) -> None:
    drop_comparison(con)
    drop_fresh(con)
    drop_scope(con)
    con.execute("drop table if exists temp.tag_wide")
    for name in ("tag_base", "tag_all", "tag_near"):
        con.execute(f"drop view if exists temp.{name}")
        con.execute(f"drop table if exists temp.{name}_read")
