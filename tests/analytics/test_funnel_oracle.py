"""Levels, goals and entries against an exhaustive search, on thousands of random sequences in every mode."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdp.funnels.config import Funnel
from cdp.funnels.engine import Events, Levels, levels
from tests.oracles.funnel_search import Event, Rules, attempts, best, distinct_steps

SECOND = 1_000_000
DAY = 86_400
# Names of modes -> options; every one runs over the same kinds of sequences.
MODES: dict[str, dict[str, Any]] = {
    "plain": {},
    "window": {"window": 4},
    "window_exclusive": {"window": 4, "exclusive": True},
    "strict": {"strict": True, "window": 5},
    "within": {"within": (None, 2, 3, 1), "window": 6},
    "within_only": {"within": (None, 2, None, 2)},
    "strict_within": {"within": (None, 2, 3, 1), "strict": True},
    "first": {"entry": "first", "window": 5},
    "first_within": {"entry": "first", "within": (None, 3, 2, 2), "strict": True},
    "drop": {"exclude": ((0, 2, True),), "window": 6},
    "drop_all": {"exclude": ((0, 3, True),), "window": 5},
    "drop_late": {"exclude": ((1, 3, True),), "window": 6},
    "drop_unbounded": {"exclude": ((1, 2, True),)},
    "drop_exclusive": {"exclude": ((0, 2, True),), "window": 5, "exclusive": True},
    "truncate": {"exclude": ((0, 2, False),), "window": 6},
    "truncate_strict": {"exclude": ((1, 3, False),), "strict": True},
    "two_rules": {"exclude": ((0, 1, True), (1, 3, False)), "window": 7},
    "two_drops": {"exclude": ((0, 2, True), (1, 3, True)), "window": 6, "within": (None, 4, 3, 3)},
    "drop_first": {"exclude": ((0, 2, True),), "window": 6, "entry": "first"},
    "optional": {"optional": frozenset({1}), "window": 6},
    "optional_two": {"optional": frozenset({1, 2}), "within": (None, 2, 2, 4)},
    "optional_drop": {"optional": frozenset({1}), "exclude": ((0, 2, True),), "window": 6},
    "optional_last": {"optional": frozenset({3}), "strict": True},
    "adjacent": {"order": "adjacent"},
    "adjacent_window": {"order": "adjacent", "window": 2},
    "adjacent_strict": {"order": "adjacent", "strict": True},
    "adjacent_within": {"order": "adjacent", "within": (None, 1, 2, 1)},
    "adjacent_first": {"order": "adjacent", "entry": "first"},
    "adjacent_drop": {"order": "adjacent", "exclude": ((0, 2, True),), "window": 4},
    "any_order": {"order": "any", "window": 3},
    "any_order_unbounded": {"order": "any"},
    "tolerance": {"tolerance": 1, "window": 5},
    "tolerance_within": {"tolerance": 2, "within": (None, 2, 1, 3)},
    "tolerance_first": {"tolerance": 1, "entry": "first", "window": 4},
    "tolerance_drop": {"tolerance": 1, "exclude": ((0, 2, True),), "window": 6},
    "tolerance_truncate": {"tolerance": 2, "exclude": ((1, 3, False),), "within": (None, 3, 3, 3)},
    "tolerance_rules": {"tolerance": 1, "exclude": ((0, 1, True), (1, 3, False)), "optional": frozenset({2})},
    "optional_last_drop": {"optional": frozenset({3}), "exclude": ((1, 3, True),), "window": 6},
    "any_order_first": {"order": "any", "entry": "first", "window": 4},
    "any_order_optional": {"order": "any", "optional": frozenset({1, 3}), "window": 3},
    "any_order_drop": {"order": "any", "exclude": ((0, 3, True),), "window": 4},
    "any_order_drop_unbounded": {"order": "any", "exclude": ((0, 3, True),)},
    "any_order_truncate": {"order": "any", "exclude": ((0, 3, False),), "window": 5, "exclusive": True},
    "any_order_rules": {
        "order": "any",
        "exclude": ((0, 3, True), (0, 3, False)),
        "window": 5,
        "optional": frozenset({3}),
    },
    "any_order_first_drop": {"order": "any", "entry": "first", "exclude": ((0, 3, True),), "window": 6},
}
# The same for `entry: each`.
ATTEMPTS: dict[str, dict[str, Any]] = {
    "window": {"window": 3},
    "strict": {"window": 4, "strict": True},
    "within": {"within": (None, 2, 2), "window": 5},
    "within_only": {"within": (None, 1, 2)},
    "unbounded": {},
    "tolerance": {"window": 3, "tolerance": 1},
    "adjacent": {"order": "adjacent"},
    "adjacent_window": {"order": "adjacent", "window": 2, "strict": True},
    "adjacent_drop": {"order": "adjacent", "window": 4, "exclude": ((0, 1, True),)},
    "optional": {"window": 4, "optional": frozenset({1})},
    "optional_last": {"window": 4, "optional": frozenset({2})},
    "drop": {"window": 5, "exclude": ((0, 2, True),)},
    "drop_late": {"window": 6, "exclude": ((1, 2, True),)},
    "truncate": {"window": 5, "exclude": ((0, 2, False),), "exclusive": True},
    "rules": {"window": 6, "exclude": ((0, 1, True), (1, 2, False)), "strict": True},
    "drop_unbounded": {"exclude": ((0, 2, True),)},
    "any_order": {"order": "any", "window": 3},
    "any_order_unbounded": {"order": "any"},
    "any_order_optional": {"order": "any", "window": 2, "optional": frozenset({1})},
    "any_order_drop": {"order": "any", "window": 4, "exclude": ((0, 2, True),)},
    "any_order_truncate": {"order": "any", "window": 5, "exclude": ((0, 2, False),)},
}


def funnel(rules: Rules) -> Funnel:
    length = (lambda n: f"{n}d") if rules.natural_day else (lambda n: f"{n}s")
    steps = [
        {
            "id": f"s{i}",
            "event": f"e{i}",
            "within": length(rules.within[i]) if rules.within and rules.within[i] is not None else None,
            "optional": i in rules.optional,
        }
        for i in range(rules.steps)
    ]
    window: dict[str, Any] = {"boundary": "exclusive" if rules.exclusive else "inclusive"}
    if rules.window is not None:
        window["total"] = length(rules.window)
    if rules.natural_day:
        window["clock"] = "natural_day"
    ties: Any = {"tolerance": f"{rules.tolerance}s"} if rules.tolerance else "by_step"
    exclude = [
        {"event": f"x{n}", "effect": "drop" if drop else "truncate"}
        | ({} if rules.order == "any" else {"from": f"s{a}", "to": f"s{b}"})
        for n, (a, b, drop) in enumerate(rules.exclude)
    ]
    return Funnel.model_validate(
        {
            "id": "random",
            "steps": steps,
            "order": rules.order,
            "window": window,
            "ties": "strictly_after" if rules.strict else ties,
            "entry": rules.entry,
            "exclude": exclude,
        }
    )


def sequences(rng: np.random.Generator, count: int, rules: Rules, *, several: bool) -> list[list[Event]]:
    """Random units: few instants, so that ties, windows and exclusions meet often."""
    units = []
    for _ in range(count):
        unit = []
        for _ in range(int(rng.integers(1, 8))):
            if rng.random() < 0.75 or not (rules.exclude or rules.order == "adjacent"):
                steps = {int(rng.integers(0, rules.steps))}
                if several and rng.random() < 0.4:
                    steps.add(int(rng.integers(0, rules.steps)))
            else:
                steps = set()
            excludes = set()
            if not steps and rules.exclude:
                excludes = {int(rng.integers(0, len(rules.exclude)))}
            unit.append(Event(int(rng.integers(0, 9)), frozenset(steps), frozenset(excludes)))
        units.append(sorted(unit, key=lambda e: e.t))
    return units


def as_events(units: list[list[Event]], scale: int = SECOND) -> Events:
    flat = [event for unit in units for event in unit]
    return Events(
        offsets=np.cumsum([0, *(len(unit) for unit in units)]).astype(np.int64),
        t=np.array([e.t * scale for e in flat], dtype=np.int64),
        mask=np.array([sum(1 << s for s in e.steps) for e in flat], dtype=np.int64),
        excl=np.array([sum(1 << s for s in e.excludes) for e in flat], dtype=np.int64),
        day=np.array([e.t * scale // (DAY * SECOND) for e in flat], dtype=np.int64),
    )


def rows_by_unit(result: Levels) -> dict[int, int]:
    return {int(unit): row for row, unit in enumerate(result.unit)}


def compare(units: list[list[Event]], rules: Rules, result: Levels, scale: int = SECOND) -> None:
    rows = rows_by_unit(result)
    for number, unit in enumerate(units):
        if not any(0 in event.steps for event in unit):
            assert number not in rows
            continue
        level, goal, entry = best(unit, rules)
        row = rows[number]
        assert result.level[row] == level, (unit, rules)
        if level:
            assert result.goal[row] == (goal or 0) * scale, (unit, rules)
            assert result.entry[row] == (entry or 0) * scale, (unit, rules)


@pytest.mark.parametrize("several", [False, True], ids=["one_step_per_event", "events_serve_several_steps"])
@pytest.mark.parametrize("mode", MODES)
def test_levels_equal_the_exhaustive_search(mode: str, several: bool) -> None:
    rules = Rules(steps=4, **MODES[mode])
    rng = np.random.default_rng(sum(map(ord, mode)) + several)
    units = sequences(rng, 300, rules, several=several)
    compare(units, rules, levels(funnel(rules), as_events(units), timezone="UTC"))


@pytest.mark.slow
@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_ten_thousand_sequences_equal_the_exhaustive_search(mode: str, several: bool) -> None:
    """Design row 1."""
    rules = Rules(steps=4, **MODES[mode])
    units = sequences(np.random.default_rng(91 + several), 10_000, rules, several=several)
    compare(units, rules, levels(funnel(rules), as_events(units), timezone="UTC"))


@pytest.mark.parametrize("window", [1, 2])
@pytest.mark.parametrize("options", [{}, {"exclude": ((0, 2, True),)}, {"within": (None, 1, 2, 1)}])
def test_natural_days_equal_the_exhaustive_search(window: int, options: dict[str, Any]) -> None:
    """Time runs in thirds of a day; the windows count calendar days."""
    rules = Rules(steps=4, window=window, natural_day=3, **options)
    units = sequences(np.random.default_rng(window), 300, rules, several=False)
    scale = DAY * SECOND // 3
    compare(units, rules, levels(funnel(rules), as_events(units, scale), timezone="UTC"), scale)


def test_distinct_steps_of_unordered_funnels() -> None:
    rules = Rules(steps=3, order="any", window=3)
    units = sequences(np.random.default_rng(5), 300, rules, several=True)
    result = levels(funnel(rules), as_events(units), timezone="UTC")
    for unit, distinct in zip(result.unit, result.distinct, strict=True):
        assert distinct == distinct_steps(units[unit], rules), units[unit]


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("mode", ATTEMPTS)
def test_attempts_follow_one_another(mode: str, several: bool) -> None:
    compare_attempts(mode, several, 200)


@pytest.mark.slow
@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("mode", ATTEMPTS)
def test_attempts_of_ten_thousand_sequences(mode: str, several: bool) -> None:
    compare_attempts(mode, several, 10_000)


def compare_attempts(mode: str, several: bool, count: int) -> None:
    rules = Rules(steps=3, entry="each", **ATTEMPTS[mode])
    units = sequences(np.random.default_rng(17), count, rules, several=several)
    check_attempts(units, rules, levels(funnel(rules), as_events(units), timezone="UTC"))


def check_attempts(units: list[list[Event]], rules: Rules, result: Levels) -> None:
    for number, unit in enumerate(units):
        rows = np.flatnonzero(result.unit == number)
        got = [(int(result.entry[row]) // SECOND, int(result.level[row])) for row in rows]
        assert got == attempts(unit, rules), (unit, rules)


def test_strictly_later_is_not_fooled_by_simultaneous_events() -> None:
    """A@0 B@1 B@2 C@2: ClickHouse's strict_increase stops at 3 of 4 for A, B, B, C and others overcount (design row
    2)."""
    rules = Rules(steps=3, strict=True, window=10)
    unit = [Event(0, frozenset({0})), Event(1, frozenset({1})), Event(2, frozenset({1})), Event(2, frozenset({2}))]
    result = levels(funnel(rules), as_events([unit]), timezone="UTC")
    assert result.level.tolist() == [3]
    assert result.chain.tolist() == [[0, 1, 3]]


def test_a_step_asked_twice_needs_two_events() -> None:
    rules = Rules(steps=2)
    both = [Event(0, frozenset({0, 1}))]
    result = levels(funnel(rules), as_events([both, both + both]), timezone="UTC")
    assert result.level.tolist() == [1, 2]


@st.composite
def definitions(draw: st.DrawFn) -> Rules:
    """Any funnel of two to four steps the configuration accepts."""
    steps = draw(st.integers(2, 4))
    order = draw(st.sampled_from(["ordered", "adjacent", "any"]))
    entry = draw(st.sampled_from(["any", "first", "each"]))
    strict = draw(st.booleans())
    tolerance = draw(st.integers(0, 2)) if order == "ordered" and not strict else 0
    within: tuple[int | None, ...] = ()
    if order != "any" and draw(st.booleans()):
        within = (None, *(draw(st.one_of(st.none(), st.integers(1, 4))) for _ in range(steps - 1)))
    spans = st.just((0, steps - 1)) if order == "any" else st.sampled_from(list(combinations(range(steps), 2)))
    rule = st.tuples(spans, st.booleans()).map(lambda item: (*item[0], item[1]))
    most = 0 if tolerance and entry == "each" else 2
    return Rules(
        steps=steps,
        order=order,
        window=draw(st.one_of(st.none(), st.integers(1, 7))),
        exclusive=draw(st.booleans()),
        within=within,
        strict=strict and order != "any",
        tolerance=tolerance,
        exclude=tuple(draw(st.lists(rule, max_size=most))),
        optional=draw(st.frozensets(st.integers(1, steps - 1), max_size=2)),
        entry=entry,
    )


@given(rules=definitions(), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_any_combination_of_options_equals_the_exhaustive_search(rules: Rules, seed: int) -> None:
    check_combination(rules, seed)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@given(rules=definitions(), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=5_000, deadline=None)
def test_thousands_of_combinations_equal_the_exhaustive_search(rules: Rules, seed: int) -> None:
    check_combination(rules, seed)


def check_combination(rules: Rules, seed: int) -> None:
    units = sequences(np.random.default_rng(seed), 4, rules, several=bool(seed % 2))
    result = levels(funnel(rules), as_events(units), timezone="UTC")
    if rules.entry == "each":
        check_attempts(units, rules, result)
    else:
        compare(units, rules, result)
