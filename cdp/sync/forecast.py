"""What an apply will cost in calls, time and quota, at present limits."""

from __future__ import annotations

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from cdp.sync.config import SyncLimits
from cdp.sync.model import Forecast

PAGE = 100
STAFF_PER_CALL = 50


def forecast(
    limits: SyncLimits,
    *,
    ops: int,
    touched_staff: int,
    touched_relations: int,
    library_calls: int,
    call_ms: float,
    now: datetime,
    timezone: str,
) -> Forecast:
    """One call per op; verification reads every relation of the touched staff, 100 a page. *call_ms*: time of one
    `mark_tag`. The pace is the lower of the configured rate and what *concurrency* calls at a time allow."""
    pages = -(-touched_relations // PAGE) + (-(-touched_staff // STAFF_PER_CALL) if touched_staff else 0)
    rate = min(limits.calls_per_second, limits.concurrency * 1000.0 / call_ms)
    seconds = ops / rate + (pages + library_calls) * max(call_ms / 1000.0, 1.0 / limits.calls_per_second)
    budget = limits.hourly_calls * (1.0 - limits.reserve)
    in_one_hour = min(ops, rate * 3600)
    quiet = False
    if limits.quiet_hours is not None and ops:
        zone = ZoneInfo(timezone)
        ends = (now + timedelta(seconds=seconds)).astimezone(zone).time()
        starts = now.astimezone(zone).time()
        quiet = limits.quiet_hours.covers(ends) or limits.quiet_hours.covers(starts) or seconds > 86_400
    return Forecast(
        calls=ops,
        verify_calls=pages,
        library_calls=library_calls,
        seconds=round(seconds, 1),
        quota_share=round(in_one_hour / budget, 4) if budget else 1.0,
        finishes_in_quiet_hours=quiet,
    )
