"""What an apply will cost in calls, time and quota, at present limits."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from cdp.sync.config import SyncLimits
from cdp.sync.model import Forecast

PAGE = 100
STAFF_PER_CALL = 50
AGREEMENT_SAMPLE = 20  # customers that a verification also reads one by one


def forecast(
    limits: SyncLimits,
    *,
    ops: int,
    read_calls: int,
    library_calls: int,
    call_ms: float,
    now: datetime,
    timezone: str,
) -> Forecast:
    """One call per op; *read_calls* and a sample of single reads for the verification, one after the other.

    *call_ms*: time of one `mark_tag`. The pace is the lower of the configured rate and what *concurrency* calls at a
    time allow.
    """
    pages = read_calls + min(ops, AGREEMENT_SAMPLE)
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


def calls_to_read(relations: Mapping[str, int]) -> int:
    """Calls that reading back takes for *relations* (employee -> how many): lists of 50 employees, 100 rows a page."""
    ordered = sorted(relations)
    lists = [ordered[start : start + STAFF_PER_CALL] for start in range(0, len(ordered), STAFF_PER_CALL)]
    return sum(max(1, math.ceil(sum(relations[userid] for userid in part) / PAGE)) for part in lists)


def sampled(userids: Sequence[str], share: float) -> list[str]:
    """At least *share* of *userids*, rounded up, always the same ones: those with the lowest hashes."""
    ordered = sorted(userids, key=lambda userid: hashlib.blake2b(userid.encode(), digest_size=8).digest())
    return ordered[: math.ceil(len(ordered) * share)]
