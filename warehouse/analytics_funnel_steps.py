"""The two tables of funnels, and how the rates per step are counted from the rows per person."""

from __future__ import annotations

from cdp.funnels.config import Funnel
from warehouse.analytics_common import Cut, quoted
from warehouse.analytics_funnel_conditions import version_of

_Z = 1.959963984540054  # two-sided 95 %
_SHARES = {25: 0.25, 50: 0.5, 75: 0.75, 90: 0.9}


def steps_sql(funnel: Funnel, cut: Cut, people: str) -> str:
    """A query of the rates per step for every bucket and breakdown value, for each alone, and for the whole. *people*:
    the relation with the funnel's rows of `fct_funnel_people`.

    The rows are read once, with the steps as columns. Where nothing is split, the parts are the whole: counted once.
    """
    numbers = range(1, len(funnel.steps) + 1)
    split = ["bucket_start"] * (funnel.bucket.grain != "all") + ["breakdown_value"] * (funnel.breakdown is not None)
    totals = [
        f"grouping({column}) = 1 as {name}" if column in split else f"unnest([true, false]) as {name}"
        for column, name in (("bucket_start", "all_buckets"), ("breakdown_value", "all_values"))
    ]
    parts = [
        column if column in split else f"null::{kind} as {column}"
        for column, kind in (("bucket_start", "date"), ("breakdown_value", "text"))
    ]
    places = ", ".join(f"list_position(step_nos, {number}) as place_{number}" for number in numbers)
    times = ", ".join(
        f"epoch_us(step_ats[place_{number}]) - epoch_us(step_ats[place_{number} - 1]) as gap_{number},"
        f" epoch_us(step_ats[place_{number}]) - epoch_us(step_ats[1]) as age_{number}"
        for number in numbers
    )
    counts = ", ".join(_counted(funnel, number) for number in numbers)
    return f"""
        with placed as (
            select bucket_start, breakdown_value, is_best, is_matured, step_ats, {places} from {people}
        ),
        timed as (
            select bucket_start, breakdown_value, is_best, is_matured, {times} from placed
        ),
        cells as (
            select {", ".join([*parts, *totals])}, count(*) filter (where is_best) as entered,
                count(*) filter (where is_matured) as matured_entered, [{counts}] as steps
            from timed group by {f"cube ({', '.join(split)})" if split else "()"}
        ),
        counted as (
            select cells.* exclude (steps), unnest(steps, recursive := true) from cells
            where entered > 0 or matured_entered > 0
        )
        select {quoted(funnel.id)} as funnel_id, {quoted(version_of(funnel))} as funnel_version,
            timestamptz '{cut.at.isoformat()}' as as_of, all_buckets, bucket_start, all_values, breakdown_value,
            step_no, step_id, label, is_optional, entered, reached, reached / nullif(entered, 0) as rate,
            reached / nullif(last_value(case when not is_optional then reached end ignore nulls)
                over required_before, 0) as step_rate,
            {_wilson("reached", "entered")},
            matured_entered, matured_reached, matured_reached / nullif(matured_entered, 0) as matured_rate,
            {_wilson("matured_reached", "matured_entered", "matured_")},
            {", ".join(f"gaps[{place}] / 1e6 as p{share}_seconds" for place, share in enumerate(_SHARES, start=1))},
            age / 1e6 as p50_seconds_from_entry
        from counted
        window required_before as (partition by all_buckets, bucket_start, all_values, breakdown_value order by step_no
            rows between unbounded preceding and 1 preceding)
        """


def _counted(funnel: Funnel, number: int) -> str:
    """What is counted of a step, as a struct. A step was reached where there is a time since entry."""
    step, age = funnel.steps[number - 1], f"age_{number}"
    return (
        f"{{step_no: {number}, step_id: {quoted(step.id)}, label: {quoted(step.label or step.id)},"
        f" is_optional: {str(step.optional).lower()}, reached: count({age}) filter (where is_best),"
        f" matured_reached: count({age}) filter (where is_matured),"
        f" gaps: quantile_cont(gap_{number}, {list(_SHARES.values())}) filter (where is_best),"
        f" age: quantile_cont({age}, 0.5) filter (where is_best)}}"
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


def empty(columns: dict[str, str]) -> str:
    """A query without rows, with these columns."""
    return "select " + ", ".join(f"null::{kind} as {name}" for name, kind in columns.items()) + " where false"


STEPS_ORDERED = (
    "select * from temp.funnel_steps_all"
    " order by funnel_id, all_buckets desc, bucket_start, all_values desc, breakdown_value nulls last, step_no"
)
PEOPLE_ORDERED = (
    "select * from temp.funnel_people_all order by funnel_id, one_id, unit_key, hold_key, attempt, is_best desc"
)

STEP_TYPES = {
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
PEOPLE_TYPES = {
    "funnel_id": "text",
    "funnel_version": "text",
    "as_of": "timestamptz",
    "one_id": "text",
    "unit_key": "text",
    "hold_key": "text[]",
    "attempt": "bigint",
    "is_best": "boolean",
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
STEP_TEXT = (
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
        "step_rate": "reached ÷ reached of the last step before that may not be skipped",
        "rate_low": "Wilson 95 % lower bound of rate",
        "rate_high": "Wilson 95 % upper bound of rate",
        "matured_entered": "units with an entry whose window has ended",
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
PEOPLE_TEXT = (
    "漏斗明细：每个漏斗、每个进入者一行 | "
    "One row per funnel and unit with an entry event (per attempt with `entry: each`), with the events that show it; "
    "beside a young best chain a second row, where `is_best` is false.",
    {
        "funnel_id": "id in config/funnels.yaml",
        "funnel_version": "changes with the definition",
        "as_of": "start of the brand's open day",
        "one_id": "the person; null where the events of a unit are of several people",
        "unit_key": "value of the column that `unit` names; null where the unit is the person",
        "hold_key": "values of the hold keys",
        "attempt": "number of the attempt of the unit, from 1",
        "is_best": "false: the unit's best chain is too young to be judged, and this is the best one of those that are "
        "not; it counts in the matured columns alone",
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
