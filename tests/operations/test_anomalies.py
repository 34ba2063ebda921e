"""What is unusual is told, what is usual is not, and too little history is never called an anomaly."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, timedelta
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdp.quality.anomalies import AnomalyRules, judge_freshness, judge_volume

RULES = AnomalyRules()
DAY = date(2026, 11, 20)


def days(counts: list[int], until: date = DAY) -> dict[date, int]:
    """The last of *counts* is the day *until*."""
    return {until - timedelta(days=len(counts) - 1 - index): count for index, count in enumerate(counts)}


@pytest.mark.parametrize(
    ("today", "passed"),
    [(1000, True), (700, True), (1380, True), (550, False), (0, False), (1500, False), (100_000, False)],
)
def test_a_day_far_from_the_usual_is_told(today: int, passed: bool) -> None:
    past = [1000 + number % 5 for number in range(28)]
    verdict = judge_volume(days([*past, today]), DAY, RULES)
    assert (verdict.judged, verdict.passed) == (True, passed)
    assert bool(verdict.reason) is not passed


def test_one_outage_and_one_sale_in_the_past_do_not_hide_the_next() -> None:
    past = [1000 + number % 5 for number in range(28)]
    past[5], past[11] = 0, 50_000
    assert not judge_volume(days([*past, 0]), DAY, RULES).passed
    assert not judge_volume(days([*past, 50_000]), DAY, RULES).passed
    assert judge_volume(days([*past, 1000]), DAY, RULES).passed


def test_a_restless_past_allows_more() -> None:
    random = Random(7)
    past = [random.randrange(200, 2000) for _ in range(28)]
    assert judge_volume(days([*past, 2300]), DAY, RULES).passed


def test_saturdays_are_compared_with_saturdays() -> None:
    saturday = date(2026, 11, 21)
    past = {saturday - timedelta(days=n): 100 for n in range(1, 29)}
    past.update({saturday - timedelta(weeks=n): 400 for n in range(1, 5)})
    assert judge_volume({**past, saturday: 400}, saturday, RULES).passed
    assert not judge_volume({**past, saturday: 100}, saturday, RULES).passed
    friday = saturday - timedelta(days=1)
    assert not judge_volume({**past, friday: 400}, friday, RULES).passed


@pytest.mark.parametrize("counts", [[], [500], [500] * 6, [3] * 29])
def test_too_little_to_compare_with_is_not_judged(counts: list[int]) -> None:
    verdict = judge_volume(days(counts), DAY, RULES)
    assert (verdict.judged, verdict.passed) == (False, True)
    assert verdict.reason


def test_days_without_rows_count_as_zero() -> None:
    counts = {DAY - timedelta(days=n): 700 for n in range(7, 29, 7)}
    assert judge_volume({**counts, DAY: 700}, DAY, RULES).judged is False, "usually there is nothing on a day"


@given(st.lists(st.integers(0, 10**6), min_size=8, max_size=40), st.randoms())
def test_the_verdict_does_not_depend_on_the_order_of_days(counts: list[int], random: Random) -> None:
    items = list(days(counts).items())
    shuffled = items[:]
    random.shuffle(shuffled)
    first, second = judge_volume(dict(items), DAY, RULES), judge_volume(dict(shuffled), DAY, RULES)
    assert first == second or (math.isnan(first.low) and not second.judged)


def hours(*ages: float) -> list[datetime]:
    return [NOW - timedelta(hours=age) for age in ages]


NOW = datetime(2026, 11, 20, 4, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("arrivals", "judged", "passed"),
    [
        (hours(1, 25, 49, 73, 97), True, True),
        (hours(30, 54, 78, 102), True, True),  # a day's rhythm: six hours late is not told yet
        (hours(49, 73, 97, 121), True, False),
        (hours(2, 3, 4, 5, 6, 7), True, False),  # hourly, and nothing for two hours
        (hours(0.5, 1.5, 2.5, 3.5), True, True),
        (hours(24 * 10, 24 * 40, 24 * 71, 24 * 101), True, True),  # monthly
        (hours(24 * 50, 24 * 80, 24 * 111, 24 * 141), True, False),
        (hours(25), True, True),
        (hours(27, 30), True, False),
        ([], False, True),
        (hours(-5), False, True),  # of the future: says nothing about now
    ],
)
def test_age_is_judged_by_the_usual_gap(arrivals: list[datetime], judged: bool, passed: bool) -> None:
    verdict = judge_freshness(arrivals, NOW, RULES)
    assert (verdict.judged, verdict.passed) == (judged, passed)
    assert judge_freshness([*arrivals, *arrivals][::-1], NOW, RULES) == verdict
