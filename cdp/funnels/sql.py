"""A funnel as plain SQL: a chain of ASOF joins for DuckDB, `windowFunnel` for ClickHouse. Counts without evidence.

Why one ASOF join per step is exact: the best chain to a step's event is the one with the latest start, starts never
fall as time goes on, and an older start fits a window worse. That holds where every event serves one step; `is_plain`
tells which funnels may be compiled, and the caller checks on the data that no event serves two.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from cdp.errors import ConfigError
from cdp.funnels.config import Funnel
from cdp.metrics.durations import microseconds

Dialect = Literal["duckdb", "clickhouse"]


def reasons_not_plain(funnel: Funnel) -> list[str]:
    """Why *funnel* needs the kernel; empty when it can be compiled to a chain of joins."""
    found = []
    if funnel.order != "ordered":
        found.append(f"order: {funnel.order}")
    if funnel.entry != "any":
        found.append(f"entry: {funnel.entry}")
    if funnel.exclude:
        found.append("exclude")
    if funnel.tolerance_us:
        found.append("ties: tolerance")
    if any(step.optional for step in funnel.steps):
        found.append("optional steps")
    if funnel.window.clock == "natural_day":
        found.append("clock: natural_day")
    if any(step.hold for step in funnel.steps):
        found.append("hold keys named differently per step")
    return found


def level_sql(
    funnel: Funnel, source: str, conditions: Sequence[str], *, unit: str, time: str, dialect: Dialect = "duckdb"
) -> str:
    """A query (unit columns, level, and in DuckDB entry_us, goal_us) over the events of *source*.

    *conditions*: per step, SQL on an event; *unit*: its column or columns (comma separated); *time*: an integer
    column in microseconds. Raises `ConfigError` when the funnel is not plain.
    """
    reasons = reasons_not_plain(funnel)
    if dialect == "clickhouse":
        reasons += ["within"] * any(step.within for step in funnel.steps)
        reasons += ["ties: strictly_after"] * (funnel.ties == "strictly_after")
    if reasons:
        raise ConfigError(
            f"funnel `{funnel.id}` cannot be compiled to {dialect}: {', '.join(reasons)}",
            hint="the kernel computes every funnel: `cdp funnel run`",
        )
    if dialect == "clickhouse":
        return _window_funnel(funnel, source, conditions, unit, time)
    return _asof_chain(funnel, source, conditions, unit, time)


def _bounds(funnel: Funnel, number: int) -> str:
    """The window and the step's own bound, on a joined row."""
    slack = "<" if funnel.window.boundary == "exclusive" else "<="
    parts = []
    if funnel.window.total:
        parts.append(f"later.t - chain.start_t {slack} {microseconds(funnel.window.total)}")
    within = funnel.steps[number].within
    if within:
        parts.append(f"later.t - chain.t {slack} {microseconds(within)}")
    return f"where {' and '.join(parts)}" if parts else ""


def _asof_chain(funnel: Funnel, source: str, conditions: Sequence[str], unit: str, time: str) -> str:
    columns = [name.strip() for name in unit.split(",")]
    same = " and ".join(f"later.{name} = chain.{name}" for name in columns)
    kept = ", ".join(f"later.{name}" for name in columns)
    before = "<" if funnel.ties == "strictly_after" else "<="
    parts = [f"chain_1 as (select {unit}, {time} as t, {time} as start_t from {source} where {conditions[0]})"]
    parts += [
        f"""chain_{number + 1} as (
    select {kept}, later.t, chain.start_t
    from (select {unit}, {time} as t from {source} where {conditions[number]}) as later
    asof join chain_{number} as chain on {same} and chain.t {before} later.t
    {_bounds(funnel, number)}
)"""
        for number in range(1, len(funnel.steps))
    ]
    reached = " union all ".join(
        f"select {unit}, {number + 1} as level, min((t, -start_t)) as best from chain_{number + 1} group by {unit}"
        for number in range(len(funnel.steps))
    )
    return f"""with {", ".join(parts)},
reached as ({reached})
select {unit}, max(level) as level, -arg_max(best, level)[2] as entry_us, arg_max(best, level)[1] as goal_us
from reached group by {unit}"""


def _window_funnel(funnel: Funnel, source: str, conditions: Sequence[str], unit: str, time: str) -> str:
    window = microseconds(funnel.window.total) if funnel.window.total else 2**62
    if funnel.window.boundary == "exclusive" and funnel.window.total:
        window -= 1
    steps = ", ".join(f"({condition})" for condition in conditions)
    return (
        f"select {unit}, windowFunnel({window}, 'strict_once')(toUInt64({time}), {steps}) as level"
        f" from {source} where {' or '.join(f'({c})' for c in conditions)} group by {unit} having level > 0"
    )
