"""Freshness and volume checks over the landing ledger and the marts.

What arrived is judged from the ledger: how old, and how many rows a day. What happened is judged from the marts: orders
and events by the brand's day they happened on, so that a first load of a year is judged as a year and not as one day.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Literal
from zoneinfo import ZoneInfo

import duckdb

from cdp.quality.anomalies import AnomalyRules, Verdict, judge_freshness, judge_volume
from warehouse.expectations import CheckResult
from warehouse.home import Home
from warehouse.landing_ledger import BatchRecord, LandingLedger


@dataclass(frozen=True)
class Flow:
    """One mart whose rows belong to days. *by*: the column that splits it into flows judged apart, or None."""

    table: str
    at: str
    by: str | None


FLOWS = (
    Flow("fct_orders", "ordered_at", "source"),
    Flow("fct_orders", "paid_at", None),
    Flow("fct_events", "event_at", "source"),
    Flow("fct_relations", "added_at", None),
)
# Sources report some rows late: the youngest closed day is judged only when it is at least this old.
_SETTLED = timedelta(hours=1)


def check_arrivals(
    home: Home, *, as_of: datetime, timezone: str, rules: AnomalyRules | None = None
) -> list[CheckResult]:
    """Per source and stream: is the newest arrival late (`<source>__<stream>__fresh`), and did the last closed
    day bring unusually many or few rows (`…__volume`, append streams that arrive daily). Sorted by name."""
    rules = rules or AnomalyRules()
    streams: dict[tuple[str, str], list[BatchRecord]] = defaultdict(list)
    for batch in LandingLedger(home.landing_ledger).batches():
        streams[batch.source, batch.stream].append(batch)
    day = _last_closed_day(as_of, timezone)
    results = []
    for (source, stream), batches in sorted(streams.items()):
        arrived = [datetime.fromisoformat(batch.loaded_at) for batch in batches if batch.received]
        table = f"raw.{source}__{stream}"
        fresh = judge_freshness(arrived, as_of, rules)
        results.append(_result(f"{source}__{stream}__fresh", table, fresh, rules.severity, "hours since data came"))
        counts: dict[date, int] = defaultdict(int)
        for batch in batches:
            counts[_brand_day(datetime.fromisoformat(batch.loaded_at), timezone)] += batch.received
        volume = judge_volume(counts, day, rules)
        results.append(_result(f"{source}__{stream}__volume", table, volume, rules.severity, f"rows received on {day}"))
    return results


def check_flows(
    con: duckdb.DuckDBPyConnection,
    *,
    as_of: datetime,
    timezone: str,
    marts: str = "marts_db.marts",
    rules: AnomalyRules | None = None,
    flows: Sequence[Flow] = FLOWS,
) -> list[CheckResult]:
    """Per mart and source: rows of the last closed brand day against the days before it. A mart that is not there is
    left out. *marts*: catalog and schema of the marts as *con* sees them."""
    rules = rules or AnomalyRules()
    day = _last_closed_day(as_of, timezone)
    present = _columns(con, marts)
    results = []
    for flow in flows:
        if {flow.at, *([flow.by] if flow.by else [])} <= present.get(flow.table, set()):
            results += _check_flow(con, flow, day, timezone, marts, rules)
    return results


def _check_flow(
    con: duckdb.DuckDBPyConnection, flow: Flow, day: date, timezone: str, marts: str, rules: AnomalyRules
) -> list[CheckResult]:
    rows = con.execute(
        f"""
        select coalesce({flow.by or "null"}, '') as part, cast(timezone(?, {flow.at}) as date) as day, count(*)
        from {marts}.{flow.table}
        where {flow.at} is not null and cast(timezone(?, {flow.at}) as date) between ?::date and ?::date
        group by all order by all
        """,
        [timezone, timezone, day - timedelta(days=rules.history_days), day],
    ).fetchall()
    counts: dict[str, dict[date, int]] = defaultdict(dict)
    for part, at, count in rows:
        counts[part][at] = count
    return [
        _result(
            "__".join(word for word in (part, flow.at, "volume") if word),
            f"marts.{flow.table}",
            judge_volume(by_day, day, rules),
            rules.severity,
            f"rows whose {flow.at} lies on {day}",
        )
        for part, by_day in sorted(counts.items())
    ]


def _result(
    name: str, table: str, verdict: Verdict, severity: Literal["warn", "error"], description: str
) -> CheckResult:
    return CheckResult(
        name=name,
        table=table,
        passed=verdict.passed,
        severity=severity,
        observed=verdict.reason or f"{verdict.value:,.1f} (usual {verdict.low:,.1f} to {verdict.high:,.1f})",
        failing_rows_sample=(),
        description=description,
    )


def _last_closed_day(as_of: datetime, timezone: str) -> date:
    return _brand_day(as_of - _SETTLED, timezone) - timedelta(days=1)


def _brand_day(at: datetime, timezone: str) -> date:
    return at.astimezone(ZoneInfo(timezone)).date()


def _columns(con: duckdb.DuckDBPyConnection, marts: str) -> dict[str, set[str]]:
    catalog, _, schema = marts.rpartition(".")
    rows = con.execute(
        "select table_name, column_name from duckdb_columns() where schema_name = ? and (? = '' or database_name = ?)",
        [schema, catalog, catalog],
    ).fetchall()
    found: dict[str, set[str]] = defaultdict(set)
    for table, column in rows:
        found[table].add(column)
    return found
