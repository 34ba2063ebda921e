"""Health of tags: every declared bound, measured on what is about to be published, and whether the last good version
must stay."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import duckdb

from cdp.metrics.durations import microseconds
from cdp.tags import compile as compiled
from cdp.tags.config import Group, ModelGroup
from warehouse.analytics_common import MARTS
from warehouse.analytics_tag_living import held_before_sql, holders_sql


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


def measure_health(
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
    changed = con.execute(
        "select count(distinct one_id) from temp.tag_leave where tag_group = ?", [group.id]
    ).fetchall()[0][0]
    last = con.execute(
        "select max(as_of) from activation.tag_group_runs where tag_group = ? and status = 'published' and as_of < ?",
        [group.id, cut],
    ).fetchall()[0][0]
    days = max((cut - last).total_seconds() / 86400.0, 1.0) if last else 1.0
    return changed / before / days if before else 0.0


def reason_to_keep(con: duckdb.DuckDBPyConnection, group: Group, health: Sequence[HealthValue]) -> str | None:
    """Why the last good version must stay, or None."""
    bad = [value for value in health if not value.passed and value.severity == "error"]
    if bad:
        return "; ".join(f"{v.metric} {v.value:.4f} outside {v.low}..{v.high}" for v in bad)
    if isinstance(group, ModelGroup) and group.on_unpublished == "keep_last":
        scored = con.execute(f"select count(*) from temp.tag_all where ({group.value}) is not null").fetchall()[0][0]
        if not scored:
            return f"no person has `{group.value}`: the model is not published"
    return None
