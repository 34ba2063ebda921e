"""From a declared funnel and its events to levels with evidence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from cdp.errors import FatalError
from cdp.funnels import kernel
from cdp.funnels.config import Funnel
from cdp.metrics.durations import microseconds, whole_days

Ints = NDArray[np.int64]
UNBOUNDED = int(kernel.NEVER)


@dataclass(frozen=True)
class Events:
    """Events of all units, ordered by (unit, time, event key). *offsets*: where each unit begins, plus the end. *t*:
    microseconds since 1970 UTC. *mask*: bit i = matches step i. *excl*: bit i = triggers exclusion i. *day*: local
    calendar day since 1970."""

    offsets: Ints
    t: Ints
    mask: Ints
    excl: Ints
    day: Ints


@dataclass(frozen=True)
class Levels:
    """One row per unit (or attempt) that has an entry event, in unit order. *level*: depth reached, counting steps from
    1; *distinct*: distinct steps done; *chain*: event index per step, -1 where not reached or skipped; *entry*, *goal*:
    instants of the chain's first event and of its deepest one (goal -1 at level 0)."""

    unit: Ints
    level: Ints
    distinct: Ints
    entry: Ints
    goal: Ints
    chain: Ints


def bound_of(length: str | None, *, natural: bool) -> tuple[int, int]:
    """(kind, length) of a window as the kernel takes it: unbounded, microseconds, or calendar days."""
    if length is None:
        return kernel.NO_BOUND, 0
    days = whole_days(length)
    if natural and days:
        return kernel.DAYS, days
    return kernel.ROLLING, microseconds(length)


def day_ends(first_day: int, last_day: int, timezone: str) -> Ints:
    """Last microsecond (UTC) of each local day from *first_day* to *last_day*, days since 1970."""
    from datetime import date, datetime, time, timedelta

    zone = ZoneInfo(timezone)
    ends = []
    for number in range(first_day, last_day + 1):
        following = datetime.combine(date(1970, 1, 1) + timedelta(days=number + 1), time.min, tzinfo=zone)
        ends.append(round(following.timestamp() * 1_000_000) - 1)
    return np.array(ends, dtype=np.int64)


def levels(funnel: Funnel, events: Events, *, timezone: str) -> Levels:
    """The level of every unit that has an entry event, with the chain that shows it.

    Among chains of maximal level: earliest goal, then latest entry, then lowest events in (time, key) order.
    """
    first_day = int(events.day.min()) if len(events.day) else 0
    longest = max([whole_days(item) or 0 for item in _lengths(funnel)], default=0)
    last_day = (int(events.day.max()) if len(events.day) else 0) + longest + 1
    clock = _Clock(events.day - first_day, day_ends(first_day, last_day, timezone))
    if funnel.order == "any":
        from cdp.funnels.unordered import unordered_levels

        return unordered_levels(funnel, events, clock.day, clock.ends)
    best: Levels | None = None
    for steps in _step_sets(funnel):
        best = _better(best, _plain(funnel, events, clock, steps))
    if best is None:
        raise FatalError(f"funnel `{funnel.id}` has no steps")
    return best


@dataclass(frozen=True)
class _Clock:
    day: Ints
    ends: Ints


def _lengths(funnel: Funnel) -> list[str]:
    return [item for item in (funnel.window.total, *(step.within for step in funnel.steps)) if item]


def _step_sets(funnel: Funnel) -> Iterator[tuple[int, ...]]:
    """Step positions of each plain funnel hidden in one with optional steps: with all, some or none of them."""
    optional = [i for i, step in enumerate(funnel.steps) if step.optional]
    for count in range(len(optional), -1, -1):
        for kept in combinations(optional, count):
            yield tuple(i for i, step in enumerate(funnel.steps) if not step.optional or i in kept)


def _plain(funnel: Funnel, events: Events, clock: _Clock, steps: tuple[int, ...]) -> Levels:
    """The funnel of *steps* only, all of them required; levels and chains in places of the full funnel."""
    count, total = len(steps), len(funnel.steps)
    mask = _select_bits(events.mask, steps, total)
    window = np.array(bound_of(funnel.window.total, natural=funnel.window.clock == "natural_day"), dtype=np.int64)
    natural = funnel.window.clock == "natural_day"
    within = np.array([bound_of(funnel.steps[i].within, natural=natural) for i in steps], dtype=np.int64)
    rules, excl = _rules(funnel, events.excl, steps)
    size = int((mask & 1).sum()) if funnel.entry == "each" else len(events.offsets) - 1
    unit, level, entry, goal = (np.zeros(size, dtype=np.int64) for _ in range(4))
    chain = np.full((size, count), -1, dtype=np.int64)
    common = (
        window,
        within,
        int(funnel.window.boundary == "exclusive"),
    )
    if funnel.tolerance_us:
        from cdp.funnels.tolerant import walk_tolerant

        rows = walk_tolerant(
            events.offsets, events.t, mask, clock.day, clock.ends, count, *common, funnel.tolerance_us,
            _entry_code(funnel), unit, level, entry, goal, chain,
        )  # fmt: skip
    else:
        rows = kernel.walk(
            events.offsets, events.t, mask, excl, clock.day, clock.ends, count, *common,
            funnel.ties == "strictly_after", funnel.order == "adjacent", _entry_code(funnel), *rules,
            unit, level, entry, goal, chain,
        )  # fmt: skip
    return _widen(funnel, steps, unit[:rows], level[:rows], entry[:rows], goal[:rows], chain[:rows])


def _entry_code(funnel: Funnel) -> int:
    return {"any": 0, "first": 1, "each": 2}[funnel.entry]


def _select_bits(mask: Ints, steps: tuple[int, ...], total: int) -> Ints:
    if len(steps) == total:
        return mask
    result = np.zeros_like(mask)
    for place, step in enumerate(steps):
        result |= ((mask >> step) & 1) << place
    return result


def _rules(funnel: Funnel, excl: Ints, steps: tuple[int, ...]) -> tuple[tuple[Ints, Ints, NDArray[np.bool_]], Ints]:
    """Exclusions in places of *steps*. A span whose from-step is skipped does not exist; one whose to-step is skipped
    runs to the next step that is there."""
    sources, froms, tos, drops = [], [], [], []
    for number, item in enumerate(funnel.exclude):
        start = funnel.position(item.from_) if item.from_ else 0
        stop = funnel.position(item.to) if item.to else len(funnel.steps) - 1
        if start not in steps:
            continue
        later = [place for place, step in enumerate(steps) if step >= stop and step > start]
        if not later:
            continue
        sources.append(number)
        froms.append(steps.index(start))
        tos.append(later[0])
        drops.append(item.effect == "drop")
    bits = np.zeros_like(excl)
    for place, number in enumerate(sources):
        bits |= ((excl >> number) & 1) << place
    arrays = (np.array(froms, dtype=np.int64), np.array(tos, dtype=np.int64), np.array(drops, dtype=np.bool_))
    return arrays, bits


def _widen(
    funnel: Funnel, steps: tuple[int, ...], unit: Ints, level: Ints, entry: Ints, goal: Ints, chain: Ints
) -> Levels:
    depth = np.array([0, *(step + 1 for step in steps)], dtype=np.int64)[level]
    wide = np.full((len(unit), len(funnel.steps)), -1, dtype=np.int64)
    wide[:, list(steps)] = chain
    reached = np.arange(len(steps))[None, :] < level[:, None]
    if bool((reached & (chain < 0)).any()):
        raise FatalError(
            f"funnel `{funnel.id}`: a level was counted without its events",
            hint="this is a fault of the platform: please report the funnel's definition",
        )
    return Levels(unit, depth, reached.sum(axis=1).astype(np.int64), entry, goal, wide)


def _better(left: Levels | None, right: Levels) -> Levels:
    """Row by row the better of two results over the same units (and attempts, numbered within a unit)."""
    if left is None:
        return right
    if len(left.unit) != len(right.unit) or bool((left.unit != right.unit).any()):
        raise FatalError("attempts differ between optional steps: `entry: each` takes no optional steps")
    last = np.int64(UNBOUNDED)

    def key(rows: Levels) -> list[Ints]:
        chain = np.where(rows.chain < 0, last, rows.chain)
        first = np.where(rows.level > 0, rows.entry, 0)
        return [-rows.level, rows.goal, -first, *chain.T]

    wins = np.zeros(len(left.unit), dtype=bool)
    settled = np.zeros(len(left.unit), dtype=bool)
    for ours, theirs in zip(key(left), key(right), strict=True):
        wins |= ~settled & (theirs < ours)
        settled |= theirs != ours
    pick = wins[:, None]
    return Levels(
        left.unit,
        np.where(wins, right.level, left.level),
        np.where(wins, right.distinct, left.distinct),
        np.where(wins, right.entry, left.entry),
        np.where(wins, right.goal, left.goal),
        np.where(pick, right.chain, left.chain),
    )
