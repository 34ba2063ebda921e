"""Tag groups to SQL: every group over features becomes one column of one pass; groups over a mart get a pass each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cdp.config import nearest
from cdp.metrics.durations import microseconds
from cdp.tags.config import (
    Band,
    FactGroup,
    FirstLastGroup,
    Group,
    ImportGroup,
    ManualGroup,
    ModelGroup,
    PreferenceGroup,
    RankingGroup,
    RuleGroup,
    Score,
    StageGroup,
    StatisticGroup,
    TagsConfig,
    TierGroup,
)
from cdp.tags.expressions import check, columns_of, renamed

# The column of each mart that says when its row happened.
TIME_COLUMNS = {
    "fct_orders": "paid_at",
    "fct_order_lines": "paid_at",
    "fct_events": "event_at",
    "fct_person_events": "event_at",
    "fct_journey": "event_at",
    "fct_refunds": "refunded_at",
    "fct_touches": "touched_at",
    "fct_relations": "added_at",
    "fct_group_memberships": "joined_at",
}
# The column that makes the order of rows of equal time unique.
KEY_COLUMNS = {
    "fct_orders": "order_key",
    "fct_order_lines": "order_line_key",
    "fct_events": "event_key",
    "fct_person_events": "event_key",
    "fct_journey": "event_key",
    "fct_refunds": "refund_key",
    "fct_touches": "touch_key",
    "fct_relations": "relation_key",
    "fct_group_memberships": "membership_key",
}


# Between the values of a group of which a person may hold several (SQL): no name has it.
SEPARATOR = "chr(31)"


@dataclass(frozen=True)
class Quantiles:
    """Thresholds a run must look up before it can tag: *shares* of *by* over people meeting *among*. *kind*: `score`
    (quantile + 1), `tier` (quantile) or `ranking` (share counted from the top, ties inside)."""

    name: str
    kind: str
    by: str
    among: str | None
    shares: tuple[float, ...]


def text(value: str) -> str:
    """A SQL string literal."""
    return "'" + value.replace("'", "''") + "'"


def table_of(source: str) -> str:
    """`fct_orders` of `marts.fct_orders` or `fct_orders`."""
    return source.removeprefix("marts.")


def version_of(group: Group, scores: Mapping[str, Score]) -> str:
    """Twelve hex digits that change whenever the group's own definition, or a score it reads, changes."""
    used = {name: score.model_dump(mode="json") for name, score in scores.items() if name in columns_read(group)}
    body = group.model_dump(mode="json", exclude={"write_back", "health", "owner", "description", "max_age", "refresh"})
    return hashlib.sha256(json.dumps([body, used], sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:12]


def expressions_of(group: Group) -> list[tuple[str, str]]:
    """(place in the definition, SQL) of every expression over features."""
    found: list[tuple[str, str]] = [("among", group.among)] if group.among else []
    if isinstance(group, FactGroup | ModelGroup) or (isinstance(group, StatisticGroup) and not group.source):
        found.append(("value", group.value))
    elif isinstance(group, RuleGroup | StageGroup):
        found += [(f"rules.{name}", rule) for name, rule in group.rules.items()]
    elif isinstance(group, TierGroup):
        found += [(f"rules.{name}", rule) for name, rule in group.rules.items()]
        found += [("by", group.by)] if group.by else []
    elif isinstance(group, RankingGroup):
        found.append(("by", group.by))
    return found


def differs_sql(
    group: Group, now: Mapping[str, Sequence[float]], then: Mapping[str, Sequence[float]], earlier: Mapping[str, str]
) -> str:
    """A condition that holds wherever the group, over features, gives another value with the thresholds *now* than it
    gave with the thresholds *then* while the columns in *earlier* were what the columns they map to say."""
    if isinstance(group, RuleGroup):
        rules = [*group.rules.values(), *([group.among] if group.among else [])]
        pairs = [(rule, renamed(rule, earlier)) for rule in rules if set(columns_of(rule)) & set(earlier)]
    else:
        pairs = [(column_sql(group, now) or "null", renamed(column_sql(group, then) or "null", earlier))]
    return " or ".join(f"({new}) is distinct from ({old})" for new, old in pairs) or "false"


def consent_column(purpose: str) -> str:
    """The column of `tag_wide` that says who agrees to *purpose*."""
    return f"agrees_{purpose}"


def columns_read(group: Group) -> set[str]:
    """Features and scores that the group's expressions name."""
    return {name for _, expression in expressions_of(group) for name in columns_of(expression)}


def score_columns(score: Score) -> set[str]:
    """Features that the score is made from."""
    return set(columns_of(score.by)) | (set(columns_of(score.among)) if score.among else set())


def features_read(config: TagsConfig) -> set[str]:
    """Every feature that a group, a score or a purpose in use names."""
    names = {name for score in config.scores.values() for name in score_columns(score)}
    for group in config.tag_groups:
        names |= columns_read(group)
        if group.consent_purpose:
            names |= set(columns_of(config.purposes[group.consent_purpose]))
    return names - set(config.scores)


def reads_rows(group: Group) -> bool:
    """Whether the group's values are rows of a mart, of another system or set by hand, not an expression."""
    has_source = isinstance(group, StatisticGroup) and bool(group.source)
    return has_source or isinstance(group, PreferenceGroup | FirstLastGroup | ImportGroup | ManualGroup)


def lineage(config: TagsConfig) -> dict[str, tuple[str, ...]]:
    """Group id -> the columns it reads, as `table.column`, scores followed to their features."""
    result = {}
    for group in config.tag_groups:
        names = columns_read(group)
        if group.consent_purpose:
            names |= set(columns_of(config.purposes[group.consent_purpose]))
        for name in sorted(names & set(config.scores)):
            names = names - {name} | score_columns(config.scores[name])
        found = {f"marts.fct_person_features.{name}" for name in names}
        if isinstance(group, StatisticGroup | FirstLastGroup | PreferenceGroup) and group.source:
            table = table_of(group.source)
            parts = [group.value, group.where, getattr(group, "amount", None)]
            found |= {f"marts.{table}.{name}" for part in parts if part for name in columns_of(part)}
            found.add(f"marts.{table}.{TIME_COLUMNS.get(table, 'one_id')}")
        result[group.id] = tuple(sorted(found))
    return result


def faults_of(config: TagsConfig, tables: Mapping[str, Collection[str]]) -> list[str]:
    """Every expression or source that does not fit the columns there are. *tables*: mart -> its columns."""
    features = list(tables.get("fct_person_features", ()))
    faults: list[str] = []
    for name, score in config.scores.items():
        if name in features:
            faults.append(f"scores.{name}: a feature has this name already")
        faults += check(score.by, features, where=f"scores.{name}.by")[1]
        faults += check(score.among, features, where=f"scores.{name}.among")[1] if score.among else []
    for purpose, condition in config.purposes.items():
        if any(group.consent_purpose == purpose for group in config.tag_groups):
            faults += check(condition, features, where=f"purposes.{purpose}")[1]
    for group in config.tag_groups:
        for place, expression in expressions_of(group):
            faults += check(expression, [*features, *config.scores], where=f"{group.id}.{place}")[1]
        if isinstance(group, StatisticGroup | FirstLastGroup | PreferenceGroup) and group.source:
            faults += _source_faults(group, tables)
    return faults


def _source_faults(group: Any, tables: Mapping[str, Collection[str]]) -> list[str]:

    table = table_of(group.source)
    if table not in TIME_COLUMNS or table not in tables:
        return [f"{group.id}.source: no mart `{group.source}` to read rows from{nearest(table, sorted(TIME_COLUMNS))}"]
    columns = list(tables[table])
    is_statistic = isinstance(group, StatisticGroup)
    faults = check(group.value, columns, where=f"{group.id}.value", aggregate=is_statistic)[1]
    for place in ("where", "amount"):
        expression = getattr(group, place, None)
        faults += check(expression, columns, where=f"{group.id}.{place}")[1] if expression else []
    return faults


def quantiles_of(config: TagsConfig) -> list[Quantiles]:
    """All thresholds the groups need from the data of the run. Scores come first: groups may read them."""
    found = [
        Quantiles(name, "score", score.by, score.among, tuple(i / score.bins for i in range(1, score.bins)))
        for name, score in config.scores.items()
        if not score.thresholds
    ]
    for group in config.tag_groups:
        if isinstance(group, TierGroup) and group.by:
            found.append(Quantiles(group.id, "tier", group.by, group.among, group.quantiles))
        elif isinstance(group, RankingGroup):
            shares = tuple(top.share for top in group.tops)
            found.append(Quantiles(group.id, "ranking", group.by, group.among, shares))
    return found


def quantile_sql(wanted: Quantiles, source: str) -> str:
    """One row, one list: the thresholds of *wanted* over the rows of *source*."""
    shares = "[" + ", ".join(repr(float(share)) for share in wanted.shares) + "]::double[]"
    where = f"({wanted.among}) and ({wanted.by}) is not null" if wanted.among else f"({wanted.by}) is not null"
    value = f"cast({wanted.by} as double)"
    if wanted.kind == "ranking":
        picked = f"list_transform(quantile_disc(-{value}, {shares}), lambda q: -q)"
    elif wanted.kind == "score":
        picked = f"list_transform(quantile_cont({value}, {shares}), lambda q: q + 1)"
    else:
        picked = f"quantile_cont({value}, {shares})"
    return f"select {picked} from {source} where {where}"


def score_sql(score: Score, cuts: Sequence[float]) -> str:
    """The score as an expression over features: 1 (worst) to `bins` (best), null outside *among*."""
    value = f"cast({score.by} as double)"
    steps = " + ".join(f"({value} >= {cut!r})::int" for cut in cuts) or "0"
    points = f"1 + {steps}" if score.best == "high" else f"{score.bins} - ({steps})"
    condition = f"({score.among}) and ({score.by}) is not null" if score.among else f"({score.by}) is not null"
    return f"case when {condition} then {points} end"


def column_sql(group: Group, thresholds: Mapping[str, Sequence[float]]) -> str | None:
    """The group as one text expression over features, of several values by `SEPARATOR`; None when it reads a mart."""
    body = _column(group, thresholds)
    if body is None:
        return None
    return f"case when {group.among} then {body} end" if group.among else body


def _column(group: Group, thresholds: Mapping[str, Sequence[float]]) -> str | None:
    if isinstance(group, FactGroup):
        return _named(f"cast({group.value} as text)", group.names, group.only_named)
    if isinstance(group, ModelGroup) or (isinstance(group, StatisticGroup) and not group.source):
        return bands_sql(group.value, group.bands)
    if isinstance(group, StageGroup):
        return _cases([(name, group.rules[name]) for name in reversed(group.values)])
    if isinstance(group, RuleGroup):
        return _rules(group)
    if isinstance(group, TierGroup):
        if group.rules:
            return _cases(list(group.rules.items()))
        cuts = thresholds[group.id]
        return bands_sql(
            group.by or "", [Band(name=n, below=c) for n, c in zip(group.values, [*cuts, None], strict=True)]
        )
    if isinstance(group, RankingGroup):
        cuts = thresholds[group.id]
        tops = zip(group.tops, cuts, strict=True)
        return _cases([(top.name, f"cast({group.by} as double) >= {cut!r}") for top, cut in tops])
    return None


def _rules(group: RuleGroup) -> str:
    pairs = list(group.rules.items())
    if not group.exclusive or group.resolve == "none":
        return matches_sql(group)
    return _cases(pairs if group.resolve == "first_match" else pairs[::-1])


def matches_sql(group: RuleGroup) -> str:
    """Every value whose rule holds, in declared order with `SEPARATOR` between them; null when none does."""
    cases = ", ".join(f"case when {rule} then {text(name)} end" for name, rule in group.rules.items())
    return f"nullif(concat_ws({SEPARATOR}, {cases}), '')"


def _cases(pairs: Sequence[tuple[str, str]]) -> str:
    return "case " + " ".join(f"when {rule} then {text(name)}" for name, rule in pairs) + " end"


def bands_sql(value: str, bands: Sequence[Band]) -> str:
    """The band a number falls into: half-open, [previous below, below)."""
    cases = [(band.name, f"({value}) < {band.below!r}") for band in bands[:-1]]
    return _cases([*cases, (bands[-1].name, f"({value}) is not null")])


def _named(value: str, names: Mapping[str, str], only_named: bool = False) -> str:
    if not names:
        return value
    cases = " ".join(f"when {text(key)} then {text(name)}" for key, name in names.items())
    return f"case {value} {cases} {'' if only_named else f'else {value}'} end"


def rows_sql(group: Group, *, marts: str, cut: str, people: str | None = None) -> str | None:
    """A query (one_id, value, rank) for groups that read the rows of a mart before *cut* (SQL instant); else None.

    *people*: a query (one_id) of those whose rows to read; None: everyone's.
    """
    if isinstance(group, PreferenceGroup):
        return _preference_sql(group, marts, cut, people)
    if isinstance(group, FirstLastGroup):
        table = table_of(group.source)
        at, key = TIME_COLUMNS[table], KEY_COLUMNS[table]
        pick = "arg_min" if group.pick == "first" else "arg_max"
        value = _named(f"cast({group.value} as text)", group.names)
        return (
            f"select one_id, {pick}({value}, ({at}, {key})) as value, 1 as rank from {marts}.{table} "
            f"where {_before(table, group.where, None, cut, people)} and ({group.value}) is not null group by one_id"
        )
    if isinstance(group, StatisticGroup) and group.source:
        table = table_of(group.source)
        return (
            f"select one_id, {bands_sql('number', group.bands)} as value, 1 as rank from ("
            f"select one_id, {group.value} as number from {marts}.{table} "
            f"where {_before(table, group.where, group.window, cut, people)} group by one_id)"
        )
    if isinstance(group, ImportGroup):
        value = _named(f"cast({group.value} as text)", group.names)
        table = f"{marts}.{table_of(group.source)}"
        if group.exclusive:
            order = group.rank or value
            return (
                f"select one_id, arg_min({value}, ({order}, {value})) as value, 1 as rank from {table} group by one_id"
            )
        order = f"{group.rank}, {value}" if group.rank else value
        return (
            f"select one_id, {value} as value, row_number() over (partition by one_id order by {order}) as rank"
            f" from (select distinct * from {table})"
        )
    if isinstance(group, ManualGroup):
        return "select null::text as one_id, null::text as value, 1 as rank where false"
    return None


def _before(table: str, where: str | None, window: str | None, cut: str, people: str | None) -> str:
    at = TIME_COLUMNS[table]
    parts = [f"one_id in ({people})" if people else "one_id is not null", f"{at} < {cut}"]
    if window:
        parts.append(f"{at} >= {cut} - to_microseconds({microseconds(window)})")
    return " and ".join([*parts, f"({where})"] if where else parts)


def _preference_sql(group: PreferenceGroup, marts: str, cut: str, people: str | None) -> str:
    table = table_of(group.source)
    return f"""
        with counted as (
            select one_id, cast({group.value} as text) as value, count(*) as entries,
                coalesce(sum({group.amount or 0}), 0) as amount
            from {marts}.{table}
            where {_before(table, group.where, group.window, cut, people)} and ({group.value}) is not null
            group by one_id, cast({group.value} as text)
        ),
        ranked as (
            select one_id, value, entries,
                cast(row_number() over (partition by one_id order by entries desc, amount desc, value) as int) as rank,
                entries / sum(entries) over (partition by one_id) as share
            from counted
        )
        select one_id, value, rank from ranked
        where rank <= {group.top} and entries >= {group.min_count} and share >= {group.min_share!r}
    """
