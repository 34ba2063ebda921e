"""Funnels: events of the journey to levels, then per-step rates and per-person evidence in the marts."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, replace
from datetime import date, datetime

import duckdb
import numpy as np
import polars as pl

from cdp.config import nearest
from cdp.errors import ConfigError
from cdp.funnels.config import Funnel, FunnelsConfig
from cdp.funnels.engine import UNBOUNDED, Events, Levels, last_matured_entry, levels, longest_chain
from cdp.funnels.kernel import DAYS, NO_BOUND
from cdp.metrics.durations import microseconds
from cdp.metrics.lineage import require_consent
from cdp.tags.config import TagsConfig
from cdp.tags.expressions import check
from warehouse.analytics_common import (
    MARTS,
    Cut,
    Table,
    business_cut,
    put_table,
    quoted,
    transaction,
    view_of,
)
from warehouse.analytics_funnel_conditions import (
    BREAKDOWN_TABLES,
    DERIVED,
    events_read,
    matches,
    named,
    version_of,
)
from warehouse.analytics_funnel_scope import FunnelScope, drop_funnel_scope, plan_funnel_scope, remember_funnel_scope
from warehouse.analytics_funnel_steps import (
    PEOPLE_ORDERED,
    PEOPLE_TEXT,
    PEOPLE_TYPES,
    STEP_TEXT,
    STEP_TYPES,
    STEPS_ORDERED,
    empty,
    steps_sql,
)


@dataclass(frozen=True)
class FunnelRun:
    """One funnel of one run. *units*: units (or attempts) with an entry; *reached*: how many reached each step."""

    funnel: str
    version: str
    units: int
    reached: tuple[int, ...]


@dataclass(frozen=True)
class FunnelReport:
    """What `build_funnels` did. *people*: how many were computed again; None: everyone."""

    funnels: tuple[FunnelRun, ...]
    tables: dict[str, int]
    people: int | None


def build_funnels(
    con: duckdb.DuckDBPyConnection,
    funnels: FunnelsConfig,
    *,
    as_of: datetime,
    timezone: str,
    purposes: Mapping[str, str] | None = None,
) -> FunnelReport:
    """Write `fct_funnel_steps` and `fct_funnel_people` for every declared funnel, as of the last closed business day.

    Computed again are the people of whom something is new (`warehouse.analytics_funnel_scope`), and every unit of the
    funnels whose unit is no person, since nothing tells which of these changed. *purposes*: those of
    `config/tags.yaml`; a funnel with a `consent_purpose` sees only people who agree to it. Raises `ConfigError` on
    conditions, columns or purposes that do not fit, before anything is computed.
    """
    check_funnels(con, funnels, purposes=purposes)
    cut = business_cut(con, as_of, timezone)
    persons = [funnel for funnel in funnels.funnels if funnel.unit == "person"]
    scope = plan_funnel_scope(con, persons, cut=cut.at, timezone=timezone, purposes=purposes or {})
    con.execute("create or replace temp table funnel_people_all as " + empty(PEOPLE_TYPES))
    for funnel in funnels.funnels:
        narrowed = scope.people is not None and funnel.unit == "person"
        journey = "temp.funnel_journey" if narrowed else f"{MARTS}.fct_journey"
        _compute(con, funnel, cut=cut, timezone=timezone, marts=MARTS, journey=journey, purposes=purposes)
        con.execute("insert into temp.funnel_people_all by name select * from temp.funnel_people")
    with transaction(con):
        people = _write_people(con, funnels, scope, cut)
        con.execute("create or replace temp table funnel_steps_all as " + empty(STEP_TYPES))
        for funnel in funnels.funnels:
            own = f"{MARTS}.fct_funnel_people where funnel_id = {quoted(funnel.id)}"
            con.execute(f"insert into temp.funnel_steps_all by name {steps_sql(funnel, cut, own)}")
        steps = put_table(con, Table("fct_funnel_steps", STEPS_ORDERED, *STEP_TEXT))
        remember_funnel_scope(con, scope)
    runs = tuple(_summary(con, funnel) for funnel in funnels.funnels)
    for name in ("funnel_people_all", "funnel_steps_all", *_TEMPORARY):
        con.execute(f"drop table if exists temp.{name}")
    drop_funnel_scope(con)
    return FunnelReport(runs, {"fct_funnel_steps": steps, "fct_funnel_people": people}, scope.people)


def _write_people(con: duckdb.DuckDBPyConnection, funnels: FunnelsConfig, scope: FunnelScope, cut: Cut) -> int:
    """Put the rows of this run in the place of those of the people it computed; the others get its cut and what
    follows from it."""
    target = f"{MARTS}.fct_funnel_people"
    if scope.people is None:
        return put_table(con, Table("fct_funnel_people", PEOPLE_ORDERED, *PEOPLE_TEXT))
    whole = ", ".join(quoted(funnel.id) for funnel in funnels.funnels if funnel.unit != "person")
    con.execute(
        f"delete from {target} where one_id in (select one_id from temp.funnel_scope)"
        f" or {f'funnel_id in ({whole})' if whole else 'false'}"
    )
    con.execute(f"update {target} set as_of = ?::timestamptz where as_of <> ?::timestamptz", [cut.at, cut.at])
    con.execute(
        f"update {target} set is_matured = true, outcome = case outcome when 'window_open' then 'window_ended'"
        " else outcome end where not is_matured and window_ends_at < ?::timestamptz",
        [cut.at],
    )
    con.execute(f"insert into {target} by name {PEOPLE_ORDERED}")
    return int(con.execute(f"select count(*) from {target}").fetchall()[0][0])


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
            known = [*journey, *DERIVED]
            found += check(re.sub(r"\bproperties[.]\w+", "properties", condition), known, where=f"{funnel.id}.{place}")[
                1
            ]
    columns = [(f"hold.{name}", name) for name in funnel.hold if not all(name in s.hold for s in funnel.steps)]
    columns += [(f"steps.{s.id}.hold.{name}", column) for s in funnel.steps for name, column in s.hold.items()]
    found += [f"{funnel.id}.{place}: {_unknown(name, journey)}" for place, name in columns if name not in journey]
    units = [_PERSON, *(name for name in journey if name != "one_id")]
    if funnel.unit not in units:
        found.append(
            f"{funnel.id}.unit: `{funnel.unit}` is neither `{_PERSON}` nor another column of `fct_journey`"
            f"{nearest(funnel.unit, sorted(units))}"
        )
    if funnel.breakdown:
        table = BREAKDOWN_TABLES.get(funnel.breakdown.at, "fct_journey")
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

_PERSON = "person"
_TEMPORARY = ("funnel_events", "funnel_units", "funnel_rows", "funnel_evidence", "funnel_people")


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
    journey = f"{marts}.fct_journey"
    result = _compute(con, funnel, cut=cut, timezone=timezone, marts=marts, journey=journey, purposes=purposes)
    con.execute(f"create or replace temp table funnel_steps as {steps_sql(funnel, cut, 'temp.funnel_people')}")
    return result


def _compute(
    con: duckdb.DuckDBPyConnection,
    funnel: Funnel,
    *,
    cut: Cut,
    timezone: str,
    marts: str,
    journey: str,
    purposes: Mapping[str, str] | None,
) -> Levels:
    """Make temp table `funnel_people` from the events of *journey*."""
    con.execute("set variable funnel_cut = ?::timestamptz", [cut.at])
    con.execute("set variable funnel_zone = ?", [timezone])
    agreeing = (purposes or {})[funnel.consent_purpose] if funnel.consent_purpose else None
    people = f" and one_id in (select one_id from {marts}.fct_person_features where {agreeing})" if agreeing else ""
    _collect(con, funnel, journey, people)
    events, keys = _fetch(con)
    until = _last_matured_entry(funnel, cut, timezone)
    result = levels(funnel, events, timezone=timezone, until=until if funnel.mature_only else UNBOUNDED)
    _store(con, result, _matured_beside(funnel, events, result, timezone, until), keys)
    _people(con, funnel, cut, marts, journey)
    return result


def _last_matured_entry(funnel: Funnel, cut: Cut, timezone: str) -> int:
    """As `last_matured_entry`. Only where the best chain is chosen can a younger entry take the place of another."""
    if funnel.entry != "any":
        return UNBOUNDED
    day = (cut.day - date(1970, 1, 1)).days
    return last_matured_entry(funnel, cut=round(cut.at.timestamp() * 1_000_000), cut_day=day, timezone=timezone)


def _matured_beside(funnel: Funnel, events: Events, best: Levels, timezone: str, until: int) -> Levels:
    """For units whose best chain began after *until*: the best one of those that began before, if there is one. It
    counts among what has matured, so that a young entry changes nothing there."""
    young = best.unit[best.entry > until]
    if not len(young):
        return best.take(young)
    starts, stops = events.offsets[young], events.offsets[young + 1]
    rows = np.concatenate([np.arange(start, stop) for start, stop in zip(starts, stops, strict=True)])
    few = Events(
        np.concatenate([[0], np.cumsum(stops - starts)]).astype(np.int64),
        *(column[rows] for column in (events.t, events.mask, events.excl, events.day)),
    )
    found = levels(funnel, few, timezone=timezone, until=until)
    chain = np.where(found.chain < 0, -1, rows[np.maximum(found.chain, 0)])
    return replace(found, unit=young[found.unit], chain=chain)


def _collect(con: duckdb.DuckDBPyConnection, funnel: Funnel, journey: str, people: str) -> None:
    """Temp tables `funnel_units` (numbered units) and `funnel_events` (their events, with step and exclusion bits).
    *people*: a further condition on events."""
    is_person = funnel.unit == _PERSON
    parts = _hold_mappings(funnel)
    holds = [f"hold_{number}" for number in range(len(funnel.hold))]
    key = ", ".join(["one_id" if is_person else "unit_key", *holds])
    unit = "" if is_person else f", cast({funnel.unit} as text) as unit_key"
    selects = []
    for columns, steps in parts:
        mask = " | ".join(_bit(funnel, number) for number in steps) or "0"
        held = "".join(f", cast({column} as text) as {name}" for column, name in zip(columns, holds, strict=True))
        whole = "".join(f" and {column} is not null" for column in (*columns, *([] if is_person else [funnel.unit])))
        excl = " | ".join(
            f"(case when {matches(item.events, item.where)} then {1 << number} else 0 end)"
            for number, item in enumerate(funnel.exclude)
        )
        selects.append(
            f"select one_id{unit}{held}, event_at, event_key, cast({mask} as bigint) as mask,"
            f" cast({excl or 0} as bigint) as excl from {journey} where {named(events_read(funnel))}"
            f" and one_id is not null and event_at < getvariable('funnel_cut'){whole}{people}"
        )
    body = " union all ".join(selects)
    if len(parts) > 1:
        body = f"select * exclude (mask, excl), bit_or(mask) as mask, bit_or(excl) as excl from ({body}) group by all"
    kept = "" if funnel.order == "adjacent" else " where mask <> 0 or excl <> 0"
    con.execute(f"create or replace temp table funnel_raw as select * from ({body}){kept}")
    if is_person:
        units = f"select distinct {key}, null::text as unit_key from temp.funnel_raw where mask & 1 = 1"
    else:
        units = (
            f"select {key}, case when min(one_id) = max(one_id) then min(one_id) end as one_id"
            f" from temp.funnel_raw group by {key} having bool_or(mask & 1 = 1)"
        )
    con.execute(
        f"create or replace temp table funnel_units as select row_number() over (order by {key}) - 1 as unit_no, *"
        f" from ({units})"
    )
    con.execute(
        "create or replace temp table funnel_events as select units.unit_no, raw.event_at, raw.event_key, raw.mask,"
        f" raw.excl from temp.funnel_raw as raw inner join temp.funnel_units as units using ({key})"
    )
    con.execute("drop table temp.funnel_raw")


def _hold_mappings(funnel: Funnel) -> list[tuple[tuple[str, ...], list[int]]]:
    """Distinct hold columns, each with the steps that use them."""
    found: dict[tuple[str, ...], list[int]] = {}
    for number, step in enumerate(funnel.steps):
        found.setdefault(tuple(step.hold.get(name, name) for name in funnel.hold), []).append(number)
    return list(found.items())


def _bit(funnel: Funnel, number: int) -> str:
    step = funnel.steps[number]
    condition = matches(step.events, step.where)
    if number == 0 and funnel.since:
        condition += f" and event_at >= getvariable('funnel_cut') - to_microseconds({microseconds(funnel.since)})"
    return f"(case when {condition} then {1 << number} else 0 end)"


def _fetch(con: duckdb.DuckDBPyConnection) -> tuple[Events, np.ndarray]:
    """The events as arrays, and the row id of each in `funnel_events`."""
    data = con.execute(
        "select unit_no, epoch_us(event_at) as t, mask, excl,"
        " cast(cast(timezone(getvariable('funnel_zone'), event_at) as date) - date '1970-01-01' as bigint) as day,"
        " rowid as key from temp.funnel_events order by unit_no, event_at"
    ).fetchnumpy()
    names = ("unit_no", "t", "mask", "excl", "day", "key")
    unit, t, mask, excl, day, key = (np.asarray(data[name], dtype=np.int64) for name in names)
    # Keys are texts, slow to sort by: only those of simultaneous events are looked at.
    same = (unit[1:] == unit[:-1]) & (t[1:] == t[:-1])
    places = np.flatnonzero(np.append(same, False) | np.append(False, same))
    if len(places):
        with view_of(con, "funnel_ties", pl.DataFrame({"key": key[places]})):
            found = con.execute(
                "select events.rowid as key from temp.funnel_events as events inner join funnel_ties as ties"
                " on ties.key = events.rowid order by unit_no, event_at, event_key"
            ).fetchnumpy()
        by_key = np.argsort(key[places])
        come = places[by_key[np.searchsorted(key[places], np.asarray(found["key"]), sorter=by_key)]]
        mask[places], excl[places], key[places] = mask[come], excl[come], key[come]
    units = int(unit[-1]) + 1 if len(unit) else 0
    offsets = np.searchsorted(unit, np.arange(units + 1)).astype(np.int64)
    return Events(offsets, t, mask, excl, day), key


def _store(con: duckdb.DuckDBPyConnection, best: Levels, beside: Levels, keys: np.ndarray) -> None:
    """Temp tables `funnel_rows` (levels) and `funnel_evidence` (one row per reached step, with its event)."""
    pairs = ((getattr(best, item.name), getattr(beside, item.name)) for item in fields(Levels))
    result = Levels(*(np.concatenate(pair) for pair in pairs))
    rows = pl.DataFrame(
        {
            "row_no": np.arange(len(result.unit)),
            "is_best": np.arange(len(result.unit)) < len(best.unit),
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


def _people(con: duckdb.DuckDBPyConnection, funnel: Funnel, cut: Cut, marts: str, journey: str) -> None:
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
            select units.one_id, units.unit_key, {hold} as hold_key, rows.row_no, rows.level, rows.distinct_steps,
                rows.is_best,
                row_number() over (partition by rows.unit_no, rows.is_best order by rows.row_no) as attempt,
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
            {_breakdown_join(funnel, marts, journey)}
        )
        select {quoted(funnel.id)} as funnel_id, {quoted(version_of(funnel))} as funnel_version,
            timestamptz '{cut.at.isoformat()}' as as_of, one_id, unit_key, hold_key, attempt, is_best, level,
            distinct_steps,
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
    kind, length = longest_chain(funnel)
    if kind == NO_BOUND:
        return "null::timestamptz"
    if kind == DAYS:
        midnight = f"timezone(getvariable('funnel_zone'), cast(entry_date + {length} as timestamp))"
        return f"{midnight} - interval 1 microsecond"
    return f"entry_at + to_microseconds({length})"


def _breakdown(funnel: Funnel) -> str:
    return "cast(broken.value as text)" if funnel.breakdown else "null::text"


def _breakdown_join(funnel: Funnel, marts: str, journey: str) -> str:
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
        inner join {journey} as journey on journey.event_key = evidence.event_key
        where evidence.step_no = {step}
        group by evidence.row_no
    ) as broken on broken.row_no = rows.row_no"""


def _summary(con: duckdb.DuckDBPyConnection, funnel: Funnel) -> FunnelRun:
    rows = con.execute(
        "select entered, reached from temp.funnel_steps_all"
        " where funnel_id = ? and all_buckets and all_values order by step_no",
        [funnel.id],
    ).fetchall()
    units = rows[0][0] if rows else 0
    return FunnelRun(funnel.id, version_of(funnel), units, tuple(row[1] for row in rows))
