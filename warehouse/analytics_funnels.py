"""Funnels: events of the journey to levels, then per-step rates and per-person evidence in the marts."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import duckdb
import numpy as np
import polars as pl
import sqlglot
from sqlglot import exp

from cdp.config import nearest
from cdp.errors import ConfigError
from cdp.funnels.config import Funnel, FunnelsConfig
from cdp.funnels.engine import Events, Levels, bound_of, levels
from cdp.metrics.durations import microseconds, whole_days
from cdp.metrics.lineage import require_consent
from cdp.tags.config import TagsConfig
from cdp.tags.expressions import check
from warehouse.analytics_common import MARTS, Cut, Table, business_cut, quoted, view_of, write_marts

_NAMES = "event_name"
# Properties of business events that conditions may name like columns.
_DERIVED = {"is_new": "boolean", "state": "text", "staff_userid": "text", "chat_id": "text", "appid": "text"}
_PROPERTY = {"staff_userid": "userid"}
_Z = 1.959963984540054  # two-sided 95 %


@dataclass(frozen=True)
class FunnelRun:
    """One funnel of one run. *units*: units (or attempts) with an entry; *reached*: how many reached each step."""

    funnel: str
    version: str
    units: int
    reached: tuple[int, ...]


@dataclass(frozen=True)
class FunnelReport:
    """What `build_funnels` did."""

    funnels: tuple[FunnelRun, ...]
    tables: dict[str, int]


def build_funnels(
    con: duckdb.DuckDBPyConnection,
    funnels: FunnelsConfig,
    *,
    as_of: datetime,
    timezone: str,
    purposes: Mapping[str, str] | None = None,
) -> FunnelReport:
    """Write `fct_funnel_steps` and `fct_funnel_people` for every declared funnel, as of the last closed business day.

    *purposes*: those of `config/tags.yaml`; a funnel with a `consent_purpose` sees only people who agree to it.
    Raises `ConfigError` on conditions, columns or purposes that do not fit, before anything is computed.
    """
    check_funnels(con, funnels, purposes=purposes)
    cut = business_cut(con, as_of, timezone)
    con.execute("create or replace temp table funnel_people_all as select * from (" + _empty(_PEOPLE_TYPES) + ")")
    con.execute("create or replace temp table funnel_steps_all as select * from (" + _empty(_STEP_TYPES) + ")")
    runs = []
    for funnel in funnels.funnels:
        run_funnel(con, funnel, cut=cut, timezone=timezone, purposes=purposes)
        con.execute("insert into temp.funnel_people_all by name select * from temp.funnel_people")
        con.execute("insert into temp.funnel_steps_all by name select * from temp.funnel_steps")
        runs.append(_summary(con, funnel))
    counts = write_marts(
        con,
        [
            Table("fct_funnel_steps", _STEPS_ORDERED, *_STEP_TEXT),
            Table("fct_funnel_people", _PEOPLE_ORDERED, *_PEOPLE_TEXT),
        ],
    )
    for name in ("funnel_people_all", "funnel_steps_all", *_TEMPORARY):
        con.execute(f"drop table if exists temp.{name}")
    return FunnelReport(tuple(runs), counts)


def version_of(funnel: Funnel) -> str:
    """Twelve hex digits that change whenever the definition changes (labels and owner aside)."""
    body = funnel.model_dump(mode="json", by_alias=True, exclude={"label", "description", "owner"})
    return hashlib.sha256(json.dumps(body, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:12]


def with_properties(condition: str) -> str:
    """*condition* with `properties.name`, and the named properties of business events, read from the JSON column."""
    tree = sqlglot.parse_one(condition, dialect="duckdb")

    def read(node: exp.Expr) -> exp.Expr:
        if not isinstance(node, exp.Column):
            return node
        name = (
            node.name if node.table == "properties" else node.name if node.name in _DERIVED and not node.table else None
        )
        if name is None:
            return node
        found = f"json_extract_string(properties, '$.{_PROPERTY.get(name, name)}')"
        if _DERIVED.get(name) == "boolean":
            found = f"coalesce({found} = 'true', false)"
        return sqlglot.parse_one(found, dialect="duckdb")

    return tree.transform(read).sql(dialect="duckdb")


# ---------------------------------------------------------------- checking


def check_funnels(
    con: duckdb.DuckDBPyConnection,
    funnels: FunnelsConfig,
    *,
    marts: str = MARTS,
    purposes: Mapping[str, str] | None = None,
) -> None:
    """Raise one `ConfigError` with every condition and column that does not fit `fct_journey`, and every purpose that
    is not declared or does not fit the features."""
    from warehouse.analytics_tags import mart_columns

    columns = mart_columns(con, marts)
    faults = [fault for funnel in funnels.funnels for fault in _faults(funnel, columns)]
    known = purposes or {}
    require_consent(TagsConfig(), funnels, granted=known)
    for purpose in sorted({funnel.consent_purpose for funnel in funnels.funnels if funnel.consent_purpose}):
        faults += check(known[purpose], columns.get("fct_person_features", []), where=f"purposes.{purpose}")[1]
    if faults:
        places = [fault.split(": ")[0].split(".") for fault in faults]
        raise ConfigError(
            "\n".join(
                f"{funnels.place('funnels', *place) or 'funnels.yaml'}: {fault}"
                for place, fault in zip(places, faults, strict=True)
            ),
            hint="mend config/funnels.yaml",
        )


def _faults(funnel: Funnel, tables: dict[str, list[str]]) -> list[str]:
    journey = tables.get("fct_journey", [])
    found: list[str] = []
    conditions = [(f"steps.{step.id}.where", step.where) for step in funnel.steps]
    conditions += [(f"exclude.{number}.where", item.where) for number, item in enumerate(funnel.exclude)]
    for place, condition in conditions:
        if condition:
            known = [*journey, *_DERIVED]
            found += check(re.sub(r"\bproperties[.]\w+", "properties", condition), known, where=f"{funnel.id}.{place}")[
                1
            ]
    columns = [(f"hold.{name}", name) for name in funnel.hold if not all(name in s.hold for s in funnel.steps)]
    columns += [(f"steps.{s.id}.hold.{name}", column) for s in funnel.steps for name, column in s.hold.items()]
    found += [f"{funnel.id}.{place}: {_unknown(name, journey)}" for place, name in columns if name not in journey]
    if funnel.breakdown:
        source = {"person": "dim_people", "first_touch": "fct_touches", "last_touch": "fct_touches"}
        table = source.get(funnel.breakdown.at, "fct_journey")
        if funnel.breakdown.by not in tables.get(table, []):
            found.append(f"{funnel.id}.breakdown.by: {_unknown(funnel.breakdown.by, tables.get(table, []), table)}")
    return found


def silent_steps(con: duckdb.DuckDBPyConnection, funnel: Funnel, *, marts: str = MARTS) -> list[tuple[str, str, str]]:
    """(step, event, how to go on) of every event that nobody in `fct_journey` ever did."""
    found = con.execute(f"select distinct event_name from {marts}.fct_journey where event_name is not null").fetchall()
    names = sorted(row[0] for row in found)
    return [
        (step.id, event, nearest(event, names)) for step in funnel.steps for event in step.events if event not in names
    ]


def _unknown(name: str, columns: Collection[str], table: str = "fct_journey") -> str:
    return f"`{table}` has no column `{name}`{nearest(name, sorted(columns))}"


# ---------------------------------------------------------------- running one

_TEMPORARY = ("funnel_events", "funnel_units", "funnel_rows", "funnel_evidence", "funnel_people", "funnel_steps")


def run_funnel(
    con: duckdb.DuckDBPyConnection,
    funnel: Funnel,
    *,
    cut: Cut,
    timezone: str,
    marts: str = MARTS,
    purposes: Mapping[str, str] | None = None,
) -> Levels:
    """Make temp tables `funnel_people` (one row per unit or attempt) and `funnel_steps` (one per bucket, breakdown and
    step) of one funnel. Returns the levels. *purposes*: as in `build_funnels`."""
    con.execute("set variable funnel_cut = ?::timestamptz", [cut.at])
    con.execute("set variable funnel_zone = ?", [timezone])
    agreeing = (purposes or {})[funnel.consent_purpose] if funnel.consent_purpose else None
    _collect(con, funnel, marts, agreeing)
    events, keys = _fetch(con)
    result = levels(funnel, events, timezone=timezone)
    _store(con, result, keys)
    _people(con, funnel, cut, marts)
    _steps(con, funnel, cut)
    return result


def _collect(con: duckdb.DuckDBPyConnection, funnel: Funnel, marts: str, agreeing: str | None) -> None:
    """Temp tables `funnel_units` (numbered units) and `funnel_events` (their events, with step and exclusion bits).
    *agreeing*: a condition over the features of the people who may be looked at."""
    people = f" and one_id in (select one_id from {marts}.fct_person_features where {agreeing})" if agreeing else ""
    parts = _hold_mappings(funnel)
    holds = [f"hold_{number}" for number in range(len(funnel.hold))]
    extra = "".join(f", {name}" for name in holds)
    selects = []
    for columns, steps in parts:
        mask = " | ".join(_bit(funnel, number) for number in steps) or "0"
        held = "".join(f", cast({column} as text) as {name}" for column, name in zip(columns, holds, strict=True))
        whole = "".join(f" and {column} is not null" for column in columns)
        excl = " | ".join(
            f"(case when {_matches(item.events, item.where)} then {1 << number} else 0 end)"
            for number, item in enumerate(funnel.exclude)
        )
        selects.append(
            f"select one_id{held}, event_at, event_key, cast({mask} as bigint) as mask, cast({excl or 0} as bigint) "
            f"as excl"
            f" from {marts}.fct_journey where one_id is not null and event_at < getvariable('funnel_cut')"
            f"{whole}{people}{_names_filter(funnel)}"
        )
    body = " union all ".join(selects)
    if len(parts) > 1:
        body = (
            f"select one_id{extra}, event_at, event_key, bit_or(mask) as mask, bit_or(excl) as excl from ({body})"
            f" group by one_id{extra}, event_at, event_key"
        )
    kept = "" if funnel.order == "adjacent" else " where mask <> 0 or excl <> 0"
    con.execute(f"create or replace temp table funnel_raw as select * from ({body}){kept}")
    con.execute(
        f"create or replace temp table funnel_units as select row_number() over (order by one_id{extra}) - 1 as "
        f"unit_no,"
        f" one_id{extra} from (select distinct one_id{extra} from temp.funnel_raw where mask & 1 = 1)"
    )
    using = f"(one_id{extra})"
    con.execute(
        "create or replace temp table funnel_events as select units.unit_no, raw.event_at, raw.event_key, raw.mask,"
        f" raw.excl from temp.funnel_raw as raw inner join temp.funnel_units as units using {using}"
    )
    con.execute("drop table temp.funnel_raw")


def _hold_mappings(funnel: Funnel) -> list[tuple[tuple[str, ...], list[int]]]:
    """Distinct hold columns, each with the steps that use them."""
    found: dict[tuple[str, ...], list[int]] = {}
    for number, step in enumerate(funnel.steps):
        found.setdefault(tuple(step.hold.get(name, name) for name in funnel.hold), []).append(number)
    return list(found.items())


def _matches(events: Sequence[str], where: str | None) -> str:
    where = with_properties(where) if where else None
    names = ", ".join(quoted(name) for name in events)
    condition = f"{_NAMES} in ({names})"
    return f"{condition} and ({where})" if where else condition


def _bit(funnel: Funnel, number: int) -> str:
    step = funnel.steps[number]
    condition = _matches(step.events, step.where)
    if number == 0 and funnel.since:
        condition += f" and event_at >= getvariable('funnel_cut') - to_microseconds({microseconds(funnel.since)})"
    return f"(case when {condition} then {1 << number} else 0 end)"


def _names_filter(funnel: Funnel) -> str:
    """Only events that can matter. An adjacent funnel sees its whole universe (every event when none is declared)."""
    names = {name for step in funnel.steps for name in step.events} | {n for e in funnel.exclude for n in e.events}
    if funnel.order == "adjacent":
        if not funnel.universe:
            return ""
        names |= set(funnel.universe)
    return f" and {_NAMES} in ({', '.join(quoted(name) for name in sorted(names))})"


def _fetch(con: duckdb.DuckDBPyConnection) -> tuple[Events, np.ndarray]:
    """The events as arrays, and the row id of each in `funnel_events`."""
    data = con.execute(
        "select unit_no, epoch_us(event_at) as t, mask, excl,"
        " cast(cast(timezone(getvariable('funnel_zone'), event_at) as date) - date '1970-01-01' as bigint) as day,"
        " rowid as key from temp.funnel_events order by unit_no, event_at, event_key"
    ).fetchnumpy()
    unit = np.asarray(data["unit_no"], dtype=np.int64)
    units = int(unit[-1]) + 1 if len(unit) else 0
    offsets = np.searchsorted(unit, np.arange(units + 1)).astype(np.int64)
    t, mask, excl, day = (np.asarray(data[name], dtype=np.int64) for name in ("t", "mask", "excl", "day"))
    return Events(offsets, t, mask, excl, day), np.asarray(data["key"], dtype=np.int64)


def _store(con: duckdb.DuckDBPyConnection, result: Levels, keys: np.ndarray) -> None:
    """Temp tables `funnel_rows` (levels) and `funnel_evidence` (one row per reached step, with its event)."""
    rows = pl.DataFrame(
        {
            "row_no": np.arange(len(result.unit)),
            "unit_no": result.unit,
            "level": result.level,
            "distinct_steps": result.distinct,
            "entry_us": result.entry,
            "goal_us": result.goal,
        }
    )
    row_no, step_no = np.nonzero(result.chain >= 0)
    evidence = pl.DataFrame(
        {"row_no": row_no, "step_no": step_no + 1, "event_row": keys[result.chain[row_no, step_no]]}
    )
    with view_of(con, "funnel_rows_in", rows), view_of(con, "funnel_evidence_in", evidence):
        con.execute("create or replace temp table funnel_rows as select * from funnel_rows_in")
        con.execute(
            "create or replace temp table funnel_evidence as select evidence.row_no, evidence.step_no, "
            "events.event_key,"
            " events.event_at from funnel_evidence_in as evidence"
            " inner join temp.funnel_events as events on events.rowid = evidence.event_row"
        )


def _people(con: duckdb.DuckDBPyConnection, funnel: Funnel, cut: Cut, marts: str) -> None:
    holds = [f"units.hold_{number}" for number in range(len(funnel.hold))]
    hold = f"list_value({', '.join(holds)})" if holds else "null::text[]"
    last = len(funnel.steps)
    ends = _window_end(funnel)
    grain = funnel.bucket.grain
    bucket = f"cast(date_trunc('{grain}', entry_date) as date)" if grain != "all" else "null::date"
    con.execute(
        f"""
        create or replace temp table funnel_people as
        with steps as (
            select row_no, list(event_key order by step_no) as event_keys, list(step_no order by step_no) as step_nos,
                list(event_at order by step_no) as step_ats
            from temp.funnel_evidence group by row_no
        ),
        rows as (
            select units.one_id, {hold} as hold_key, rows.row_no, rows.level, rows.distinct_steps,
                row_number() over (partition by rows.unit_no order by rows.row_no) as attempt,
                make_timestamptz(rows.entry_us) as entry_at,
                case when rows.level > 0 then make_timestamptz(rows.goal_us) end as goal_at,
                cast(timezone(getvariable('funnel_zone'), make_timestamptz(rows.entry_us)) as date) as entry_date,
                steps.event_keys, steps.step_nos, steps.step_ats
            from temp.funnel_rows as rows
            inner join temp.funnel_units as units on units.unit_no = rows.unit_no
            left join steps on steps.row_no = rows.row_no
        ),
        valued as (
            select rows.*, {ends} as window_ends_at, {_breakdown(funnel)} as breakdown_value
            from rows
            {_breakdown_join(funnel, marts)}
        )
        select {quoted(funnel.id)} as funnel_id, {quoted(version_of(funnel))} as funnel_version,
            timestamptz '{cut.at.isoformat()}' as as_of, one_id, hold_key, attempt, level, distinct_steps,
            {last} as step_count, entry_at, goal_at, window_ends_at,
            coalesce(window_ends_at < getvariable('funnel_cut'), true) as is_matured,
            {bucket} as bucket_start, breakdown_value, event_keys, step_nos, step_ats,
            case when level = {last} then 'completed'
                when level = 0 then 'excluded'
                when coalesce(window_ends_at < getvariable('funnel_cut'), true) then 'window_ended'
                else 'window_open' end as outcome
        from valued
        {"where breakdown_value is not null" if funnel.breakdown and funnel.breakdown.missing == "drop" else ""}
        """
    )
    if funnel.mature_only:
        con.execute("delete from temp.funnel_people where not is_matured")


def _window_end(funnel: Funnel) -> str:
    """SQL: the last instant at which a chain that entered at `entry_at` may end; null when nothing bounds it."""
    natural = funnel.window.clock == "natural_day"
    lengths = [funnel.window.total] if funnel.window.total else [step.within for step in funnel.steps[1:]]
    if not lengths or any(item is None for item in lengths):
        return "null::timestamptz"
    if funnel.window.total and natural:
        days = whole_days(funnel.window.total)
        return f"timezone(getvariable('funnel_zone'), cast(entry_date + {days} as timestamp)) - interval 1 microsecond"
    total = sum(bound_of(item, natural=False)[1] for item in lengths if item)
    return f"entry_at + to_microseconds({total})"


def _breakdown(funnel: Funnel) -> str:
    return "cast(broken.value as text)" if funnel.breakdown else "null::text"


def _breakdown_join(funnel: Funnel, marts: str) -> str:
    """Where the breakdown's value comes from: at most one row per row of the funnel."""
    if not funnel.breakdown:
        return ""
    by, at = funnel.breakdown.by, funnel.breakdown.at
    if at == "person":
        return (
            f"left join (select one_id, {by} as value from {marts}.dim_people) as broken on broken.one_id = rows.one_id"
        )
    if at in ("first_touch", "last_touch"):
        pick = "arg_min" if at == "first_touch" else "arg_max"
        return f"""left join (
            select rows.row_no, {pick}(touches.{by}, (touches.touched_at, touches.touch_key)) as value
            from rows inner join {marts}.fct_touches as touches
                on touches.one_id = rows.one_id and touches.touched_at <= rows.entry_at
            where touches.{by} is not null
            group by rows.row_no
        ) as broken on broken.row_no = rows.row_no"""
    step = 1 if at == "entry" else funnel.position(at.removeprefix("step:")) + 1
    return f"""left join (
        select evidence.row_no, any_value(journey.{by}) as value
        from temp.funnel_evidence as evidence
        inner join {marts}.fct_journey as journey on journey.event_key = evidence.event_key
        where evidence.step_no = {step}
        group by evidence.row_no
    ) as broken on broken.row_no = rows.row_no"""


def _steps(con: duckdb.DuckDBPyConnection, funnel: Funnel, cut: Cut) -> None:
    """Rates per step, for every bucket and breakdown value, for each alone, and for the whole."""
    listed = ", ".join(
        f"({number}, {quoted(step.id)}, {quoted(step.label or step.id)}, {str(step.optional).lower()})"
        for number, step in enumerate(funnel.steps, start=1)
    )
    con.execute(
        f"""
        create or replace temp table funnel_steps as
        with steps (step_no, step_id, label, is_optional) as (values {listed}),
        reached as (
            select people.bucket_start, people.breakdown_value, people.is_matured, steps.step_no,
                list_contains(people.step_nos, steps.step_no) as was_reached,
                epoch(people.step_ats[list_position(people.step_nos, steps.step_no)]
                    - people.step_ats[list_position(people.step_nos, steps.step_no) - 1]) as seconds,
                epoch(people.step_ats[list_position(people.step_nos, steps.step_no)] - people.step_ats[1])
                    as seconds_from_entry
            from temp.funnel_people as people
            cross join steps
        ),
        counted as (
            select bucket_start, breakdown_value, step_no,
                grouping(bucket_start) = 1 as all_buckets, grouping(breakdown_value) = 1 as all_values,
                count(*) as entered,
                count(*) filter (where was_reached) as reached,
                count(*) filter (where is_matured) as matured_entered,
                count(*) filter (where is_matured and was_reached) as matured_reached,
                quantile_cont(seconds, [0.25, 0.5, 0.75, 0.9]) filter (where was_reached) as q,
                quantile_cont(seconds_from_entry, 0.5) filter (where was_reached) as p50_from_entry
            from reached
            group by grouping sets ((bucket_start, breakdown_value, step_no), (bucket_start, step_no),
                (breakdown_value, step_no), (step_no))
        )
        select {quoted(funnel.id)} as funnel_id, {quoted(version_of(funnel))} as funnel_version,
            timestamptz '{cut.at.isoformat()}' as as_of, counted.all_buckets, counted.bucket_start,
            counted.all_values, counted.breakdown_value, steps.step_no, steps.step_id, steps.label, steps.is_optional,
            counted.entered, counted.reached, counted.reached / nullif(counted.entered, 0) as rate,
            counted.reached / nullif(lag(counted.reached) over by_step, 0) as step_rate,
            {_wilson("counted.reached", "counted.entered")},
            counted.matured_entered, counted.matured_reached,
            counted.matured_reached / nullif(counted.matured_entered, 0) as matured_rate,
            {_wilson("counted.matured_reached", "counted.matured_entered", "matured_")},
            counted.q[1] as p25_seconds, counted.q[2] as p50_seconds, counted.q[3] as p75_seconds,
            counted.q[4] as p90_seconds, counted.p50_from_entry as p50_seconds_from_entry
        from counted
        inner join steps on steps.step_no = counted.step_no
        window by_step as (partition by counted.all_buckets, counted.bucket_start, counted.all_values,
            counted.breakdown_value order by steps.step_no)
        """
    )


def _wilson(hits: str, total: str, prefix: str = "") -> str:
    """Wilson's 95 % bounds of a share, null over nobody."""
    n, p, z2 = f"nullif({total}, 0)", f"({hits} / nullif({total}, 0))", _Z * _Z
    centre = f"({p} + {z2} / (2 * {n}))"
    spread = f"{_Z} * sqrt({p} * (1 - {p}) / {n} + {z2} / (4 * {n} * {n}))"
    scale = f"(1 + {z2} / {n})"
    return (
        f"greatest(({centre} - {spread}) / {scale}, 0) as {prefix}rate_low,"
        f" least(({centre} + {spread}) / {scale}, 1) as {prefix}rate_high"
    )


def _summary(con: duckdb.DuckDBPyConnection, funnel: Funnel) -> FunnelRun:
    rows = con.execute(
        "select entered, reached from temp.funnel_steps where all_buckets and all_values order by step_no"
    ).fetchall()
    units = rows[0][0] if rows else 0
    return FunnelRun(funnel.id, version_of(funnel), units, tuple(row[1] for row in rows))


def _empty(columns: dict[str, str]) -> str:
    return "select " + ", ".join(f"null::{kind} as {name}" for name, kind in columns.items()) + " where false"


_STEPS_ORDERED = (
    "select * from temp.funnel_steps_all"
    " order by funnel_id, all_buckets desc, bucket_start, all_values desc, breakdown_value nulls last, step_no"
)
_PEOPLE_ORDERED = "select * from temp.funnel_people_all order by funnel_id, one_id, hold_key, attempt"

_STEP_TYPES = {
    "funnel_id": "text",
    "funnel_version": "text",
    "as_of": "timestamptz",
    "all_buckets": "boolean",
    "bucket_start": "date",
    "all_values": "boolean",
    "breakdown_value": "text",
    "step_no": "int",
    "step_id": "text",
    "label": "text",
    "is_optional": "boolean",
    "entered": "bigint",
    "reached": "bigint",
    "rate": "double",
    "step_rate": "double",
    "rate_low": "double",
    "rate_high": "double",
    "matured_entered": "bigint",
    "matured_reached": "bigint",
    "matured_rate": "double",
    "matured_rate_low": "double",
    "matured_rate_high": "double",
    "p25_seconds": "double",
    "p50_seconds": "double",
    "p75_seconds": "double",
    "p90_seconds": "double",
    "p50_seconds_from_entry": "double",
}
_PEOPLE_TYPES = {
    "funnel_id": "text",
    "funnel_version": "text",
    "as_of": "timestamptz",
    "one_id": "text",
    "hold_key": "text[]",
    "attempt": "bigint",
    "level": "bigint",
    "distinct_steps": "bigint",
    "step_count": "int",
    "entry_at": "timestamptz",
    "goal_at": "timestamptz",
    "window_ends_at": "timestamptz",
    "is_matured": "boolean",
    "bucket_start": "date",
    "breakdown_value": "text",
    "event_keys": "text[]",
    "step_nos": "bigint[]",
    "step_ats": "timestamptz[]",
    "outcome": "text",
}
_STEP_TEXT = (
    "漏斗：每个漏斗、进入时段、拆分值、步骤一行，含合计 | "
    "One row per funnel, bucket of entry, breakdown value and step, with totals over buckets and values.",
    {
        "funnel_id": "id in config/funnels.yaml",
        "funnel_version": "changes with the definition",
        "as_of": "start of the brand's open day; events before it count",
        "all_buckets": "total over all buckets",
        "bucket_start": "first day of the bucket of entry, brand time",
        "all_values": "total over all breakdown values",
        "breakdown_value": "value of the breakdown column; null = missing (or a total)",
        "step_no": "1 = entry",
        "step_id": "id of the step",
        "label": "name of the step",
        "is_optional": "the step may be skipped",
        "entered": "units (attempts) with an entry event",
        "reached": "of these, reached the step",
        "rate": "reached ÷ entered, open windows included",
        "step_rate": "reached ÷ reached of the step before",
        "rate_low": "Wilson 95 % lower bound of rate",
        "rate_high": "Wilson 95 % upper bound of rate",
        "matured_entered": "units whose window has ended",
        "matured_reached": "of these, reached the step",
        "matured_rate": "matured_reached ÷ matured_entered",
        "matured_rate_low": "Wilson 95 % lower bound of matured_rate",
        "matured_rate_high": "Wilson 95 % upper bound of matured_rate",
        "p25_seconds": "lower quartile of seconds since the previous step",
        "p50_seconds": "median of seconds since the previous step",
        "p75_seconds": "upper quartile of seconds since the previous step",
        "p90_seconds": "ninth decile of seconds since the previous step",
        "p50_seconds_from_entry": "median of seconds since entry",
    },
)
_PEOPLE_TEXT = (
    "漏斗明细：每个漏斗、每个进入者一行 | "
    "One row per funnel and unit with an entry event (per attempt with `entry: each`), with the events that show it.",
    {
        "funnel_id": "id in config/funnels.yaml",
        "funnel_version": "changes with the definition",
        "as_of": "start of the brand's open day",
        "one_id": "the person",
        "hold_key": "values of the hold keys",
        "attempt": "number of the attempt of the unit, from 1",
        "level": "deepest step reached; 0 = excluded from the first step on",
        "distinct_steps": "distinct steps done",
        "step_count": "steps of the funnel",
        "entry_at": "instant of entry",
        "goal_at": "instant of the deepest step",
        "window_ends_at": "last instant at which the chain may end; null = unbounded",
        "is_matured": "the window has ended",
        "bucket_start": "bucket of entry, brand time",
        "breakdown_value": "value of the breakdown column",
        "event_keys": "events of the chain, in step order",
        "step_nos": "the steps they are",
        "step_ats": "their instants",
        "outcome": "completed | excluded | window_ended | window_open",
    },
)
