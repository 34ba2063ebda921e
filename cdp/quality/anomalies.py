"""Freshness and volume, judged by a source's own past: median and median absolute deviation (MAD).

Both are told by robust measures, so that one outage or one sale in the past does not hide the next. A day's volume is
compared after taking out the week's rhythm (Saturdays with Saturdays), once the past holds enough weeks to know it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import pairwise
from statistics import median
from typing import Literal

from pydantic import Field

from cdp.config import Strict

# MAD times this estimates the standard deviation of a normal distribution (Rousseeuw and Croux 1993).
MAD_TO_SIGMA = 1.4826
_WEEKS_TO_KNOW_THE_RHYTHM = 3
_ONE_ARRIVAL = timedelta(minutes=30)


class AnomalyRules(Strict):
    """When a volume or an age is told. Defaults suit a shop with hundreds of orders a day."""

    history_days: int = Field(default=28, ge=7, description="days before the judged one that it is compared with")
    minimum_days: int = Field(default=7, ge=3, description="with fewer days of history nothing is judged")
    deviations: float = Field(default=5.0, gt=0, description="robust standard deviations from the median")
    tolerance: float = Field(
        default=0.4, ge=0, description="share of the median that is never told, however steady the past"
    )
    minimum_rows: int = Field(
        default=20, ge=0, description="streams with a median below this many rows a day are not judged"
    )
    max_age_hours: float = Field(
        default=26.0, gt=0, description="allowed age where the past does not say how often data comes"
    )
    severity: Literal["warn", "error"] = "warn"


@dataclass(frozen=True)
class Verdict:
    """*judged*: False when there was too little to compare with, and then *passed* is True.

    *value*, *low*, *high*: rows, or hours for an age; *low* is 0 for ages.
    """

    passed: bool
    judged: bool
    value: float
    expected: float
    low: float
    high: float
    reason: str


def judge_volume(counts: Mapping[date, int], day: date, rules: AnomalyRules) -> Verdict:
    """Whether the rows of *day* lie within what the days before it lead one to expect.

    *counts*: rows per day; a day of the window that is absent counts as 0 rows, except before the first day known. The
    band is median ± the larger of `deviations` robust standard deviations and `tolerance` of the median, never below 0.
    """
    value = float(counts.get(day, 0))
    past = _window(counts, day, rules.history_days)
    if len(past) < rules.minimum_days:
        return _not_judged(value, f"{len(past)} days of history; {rules.minimum_days} are needed")
    rhythm = _rhythm(past)
    level = [count / rhythm[at.weekday()] for at, count in past.items()]
    middle = median(level)
    if middle < rules.minimum_rows:
        return _not_judged(value, f"usually {middle:.0f} rows a day; judged from {rules.minimum_rows}")
    spread = MAD_TO_SIGMA * median(abs(item - middle) for item in level)
    width = max(rules.deviations * spread, rules.tolerance * middle)
    factor = rhythm[day.weekday()]
    low, expected, high = max(0.0, middle - width) * factor, middle * factor, (middle + width) * factor
    # With a band reaching down to 0, nothing at all would pass: a day without a row is never usual here.
    passed = low <= value <= high and value > 0
    reason = "" if passed else f"{value:,.0f} rows; usual for such a day is {low:,.0f} to {high:,.0f}"
    return Verdict(passed, True, value, expected, low, high, reason)


def judge_freshness(arrivals: Sequence[datetime], now: datetime, rules: AnomalyRules) -> Verdict:
    """Whether data is older than usual. *arrivals*: instants at which rows came, any order, repeats allowed; those
    less than half an hour after the one before belong to the same arrival.

    With at least four arrivals the allowed age is the usual gap between them plus `deviations` robust
    standard deviations, and never less than half as much again as that gap; with fewer it is `max_age_hours`.
    """
    instants = _apart(sorted(at for at in arrivals if at <= now))
    if not instants:
        return _not_judged(math.inf, "nothing has arrived yet")
    age = (now - instants[-1]) / timedelta(hours=1)
    gaps = [(later - earlier) / timedelta(hours=1) for earlier, later in pairwise(instants)]
    if len(gaps) < 3:
        expected = high = rules.max_age_hours
    else:
        expected = median(gaps)
        spread = MAD_TO_SIGMA * median(abs(gap - expected) for gap in gaps)
        high = max(expected + rules.deviations * spread, 1.5 * expected, 1.0)
    reason = "" if age <= high else f"the newest data came {age:,.1f} h ago; usually it comes within {high:,.1f} h"
    return Verdict(age <= high, True, age, expected, 0.0, high, reason)


def _window(counts: Mapping[date, int], day: date, days: int) -> dict[date, int]:
    """The days before *day*, from the first day that is known on."""
    known = [at for at in counts if at < day]
    if not known:
        return {}
    first = max(min(known), day - timedelta(days=days))
    return {first + timedelta(days=n): counts.get(first + timedelta(days=n), 0) for n in range((day - first).days)}


def _apart(instants: Sequence[datetime]) -> list[datetime]:
    """The last instant of each arrival: one that another follows within half an hour is left out."""
    ends = [at for at, following in pairwise(instants) if following - at > _ONE_ARRIVAL]
    return [*ends, instants[-1]] if instants else []


def _rhythm(past: Mapping[date, int]) -> dict[int, float]:
    """Weekday -> its usual share of a usual day (1.0 = like the others); 1.0 where the weeks are too few."""
    overall = median(past.values())
    shares = {}
    for weekday in range(7):
        same = [count for at, count in past.items() if at.weekday() == weekday]
        known = len(same) >= _WEEKS_TO_KNOW_THE_RHYTHM and overall > 0 and median(same) > 0
        shares[weekday] = median(same) / overall if known else 1.0
    return shares


def _not_judged(value: float, reason: str) -> Verdict:
    return Verdict(True, False, value, math.nan, math.nan, math.nan, reason)
