"""From a declared funnel and its events to levels with evidence."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
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
    instants of the chain's first event and of its deepest one (goal -1 at level 0); *over*: the instant at which an
    exclusion ended the attempt (`UNBOUNDED` if none did)."""

    unit: Ints
    level: Ints
    distinct: Ints
    entry: Ints
    goal: Ints
    over: Ints
    chain: Ints

    def take(self, rows: Ints) -> Levels:
        """These rows, in this order."""
        return Levels(*(getattr(self, item.name)[rows] for item in fields(self)))


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


def levels(funnel: Funnel, events: Events, *, timezone: str, until: int = UNBOUNDED) -> Levels:
    """The level of every unit that has an entry event, with the chain that shows it.

    Among chains of maximal level: earliest goal, then latest entry, then lowest events in (time, key) order. *until*:
    the last instant at which a chain may begin.
    """
    if until < UNBOUNDED and funnel.order != "any":
        events = replace(events, mask=np.where(events.t > until, events.mask & ~1, events.mask))
    first_day = int(events.day.min()) if len(events.day) else 0
    longest = sum(whole_days(item) or 0 for item in _lengths(funnel))
    last_day = (int(events.day.max()) if len(events.day) else 0) + longest + 1
    clock = _Clock(events.day - first_day, day_ends(first_day, last_day, timezone), until)
    starts, stops = events.offsets[:-1], events.offsets[1:]
    if funnel.entry == "each":
        return _attempts(funnel, events, clock, starts, stops)
    return _best(funnel, events, clock, starts, stops)


def last_matured_entry(funnel: Funnel, *, cut: int, cut_day: int, timezone: str) -> int:
    """The last instant at which a chain may have begun whose time is over at *cut*, the beginning of the local day
    *cut_day* (microseconds, days since 1970)."""
    kind, length = longest_chain(funnel)
    if kind == kernel.NO_BOUND:
        return UNBOUNDED
    if kind == kernel.DAYS:
        return int(day_ends(cut_day - length, cut_day - length, timezone)[0])
    return cut - length - 1


@dataclass(frozen=True)
class _Clock:
    """*until*: the last instant at which a chain may begin."""

    day: Ints
    ends: Ints
    until: int


def _lengths(funnel: Funnel) -> list[str]:
    return [item for item in (funnel.window.total, *(step.within for step in funnel.steps)) if item]


def _step_sets(funnel: Funnel) -> Iterator[tuple[int, ...]]:
    """Step positions of each plain funnel hidden in one with optional steps: with all, some or none of them."""
    optional = [i for i, step in enumerate(funnel.steps) if step.optional]
    for count in range(len(optional), -1, -1):
        for kept in combinations(optional, count):
            yield tuple(i for i, step in enumerate(funnel.steps) if not step.optional or i in kept)


def _best(funnel: Funnel, events: Events, clock: _Clock, starts: Ints, stops: Ints) -> Levels:
    """The best reading of events starts[u]..stops[u]-1 of each unit, with or without the optional steps."""
    whole, *others = (_plain(funnel, events, clock, steps, starts, stops) for steps in _step_sets(funnel))
    best = whole
    for other in others:
        best = _better(best, other)
    return replace(best, distinct=whole.distinct) if funnel.order == "any" else best


def _attempts(funnel: Funnel, events: Events, clock: _Clock, starts: Ints, stops: Ints) -> Levels:
    """Attempt after attempt of each unit: the best reading from its first entry on, then again from the first entry
    after the finish, the end of the window, the excluding event, or (adjacent) the event that broke the chain."""
    units = np.arange(len(starts))
    entries = (events.mask != 0).astype(np.int64) if funnel.order == "any" else events.mask
    found: list[Levels] = []
    while len(units) or not found:
        rows = _best(funnel, events, clock, starts, stops)
        found.append(replace(rows, unit=units[rows.unit]))
        units, starts, stops = units[rows.unit], starts[rows.unit], stops[rows.unit]
        moment, later = _attempt_end(funnel, clock, rows)
        starts = kernel.next_starts(starts, stops, events.t, entries, moment, later, funnel.tolerance_us, rows.chain)
        going = starts < stops
        units, starts, stops = units[going], starts[going], stops[going]
    merged = Levels(*(np.concatenate([getattr(part, item.name) for part in found]) for item in fields(Levels)))
    return merged.take(np.argsort(merged.unit, kind="stable"))


def _attempt_end(funnel: Funnel, clock: _Clock, rows: Levels) -> tuple[Ints, NDArray[np.bool_]]:
    """(instant at which each attempt is over, whether the next must begin later than it)."""
    kind, length = longest_chain(funnel)
    if kind == kernel.NO_BOUND:
        timed_out = np.full(len(rows.unit), UNBOUNDED)
    elif kind == kernel.ROLLING:
        timed_out = rows.entry + length - (funnel.window.boundary == "exclusive")
    else:
        days = np.searchsorted(clock.ends, rows.entry) + length - 1
        timed_out = clock.ends[np.minimum(days, len(clock.ends) - 1)]
    ended = (rows.level == len(funnel.steps)) | ((funnel.order == "adjacent") & (rows.level > 0))
    excluded = ~ended & (rows.over < UNBOUNDED)
    nothing = ~ended & (funnel.order == "adjacent")
    moment = np.select([ended, excluded, nothing], [rows.goal, rows.over, rows.entry], timed_out)
    strict = funnel.ties == "strictly_after"
    return moment, np.where(ended | excluded, strict, True)


def longest_chain(funnel: Funnel) -> tuple[int, int]:
    """(kind, length) of the longest a chain may take: the window, or else the sum of the steps' own bounds."""
    natural = funnel.window.clock == "natural_day"
    if funnel.window.total:
        return bound_of(funnel.window.total, natural=natural)
    parts = [bound_of(step.within, natural=natural) for step in funnel.steps[1:]]
    if not parts or any(kind == kernel.NO_BOUND for kind, _ in parts):
        return kernel.NO_BOUND, 0
    if all(kind == kernel.DAYS for kind, _ in parts):
        return kernel.DAYS, sum(length - 1 for _, length in parts) + 1
    return kernel.ROLLING, sum(bound_of(step.within, natural=False)[1] for step in funnel.steps[1:])


def _plain(funnel: Funnel, events: Events, clock: _Clock, steps: tuple[int, ...], starts: Ints, stops: Ints) -> Levels:
    """The funnel of *steps* only, all of them required; levels and chains in places of the full funnel."""
    count, total, size = len(steps), len(funnel.steps), len(starts)
    mask = _select_bits(events.mask, steps, total)
    natural = funnel.window.clock == "natural_day"
    exclusions, excl = _exclusions(funnel, events.excl, steps)
    shape = kernel.Shape(
        k=count,
        win=np.array(bound_of(funnel.window.total, natural=natural), dtype=np.int64),
        within=np.array([bound_of(funnel.steps[i].within, natural=natural) for i in steps], dtype=np.int64),
        boundary=int(funnel.window.boundary == "exclusive"),
        strict=funnel.ties == "strictly_after",
        adjacent=funnel.order == "adjacent",
        from_first=funnel.entry != "any",
        attempt=funnel.entry == "each",
        tolerance=funnel.tolerance_us,
        ex_from=exclusions[0],
        ex_to=exclusions[1],
        ex_drop=exclusions[2],
        until=clock.until,
    )
    line = kernel.Timeline(events.t, mask, excl, clock.day, clock.ends, any_step=events.mask)
    unit, level, distinct, entry, goal = (np.zeros(size, dtype=np.int64) for _ in range(5))
    into = kernel.Rows(
        unit, level, distinct, entry, goal, np.full(size, UNBOUNDED), np.full((size, count), -1, dtype=np.int64)
    )
    rows = _walk_of(funnel)(line, shape, starts, stops, into)
    return _widen(funnel, steps, Levels(*(column[:rows] for column in into)))


def _walk_of(funnel: Funnel) -> Callable[[kernel.Timeline, kernel.Shape, Ints, Ints, kernel.Rows], int]:
    """The compiled loop for this kind of funnel (compiled, or loaded from its cache, on first use)."""
    if funnel.order == "any":
        from cdp.funnels.unordered import walk_unordered

        return walk_unordered
    if funnel.tolerance_us:
        from cdp.funnels.tolerant import walk_tolerant

        return walk_tolerant
    return kernel.walk


def _select_bits(mask: Ints, steps: tuple[int, ...], total: int) -> Ints:
    if len(steps) == total:
        return mask
    result = np.zeros_like(mask)
    for place, step in enumerate(steps):
        result |= ((mask >> step) & 1) << place
    return result


def _exclusions(
    funnel: Funnel, excl: Ints, steps: tuple[int, ...]
) -> tuple[tuple[Ints, Ints, NDArray[np.bool_]], Ints]:
    """Exclusions in places of *steps*. A span whose from-step is skipped does not exist; one whose to-step is skipped
    runs to the next step that is there, or else to the end of the window."""
    sources, froms, tos, drops = [], [], [], []
    for number, item in enumerate(funnel.exclude):
        start = funnel.position(item.from_) if item.from_ else 0
        stop = funnel.position(item.to) if item.to else len(funnel.steps) - 1
        if start not in steps:
            continue
        later = [place for place, step in enumerate(steps) if step >= stop and step > start]
        sources.append(number)
        froms.append(steps.index(start))
        tos.append(later[0] if later else len(steps))
        drops.append(item.effect == "drop")
    bits = np.zeros_like(excl)
    for place, number in enumerate(sources):
        bits |= ((excl >> number) & 1) << place
    arrays = (np.array(froms, dtype=np.int64), np.array(tos, dtype=np.int64), np.array(drops, dtype=np.bool_))
    return arrays, bits


def _widen(funnel: Funnel, steps: tuple[int, ...], found: Levels) -> Levels:
    """*found*, counted in *steps*, in places of the full funnel."""
    depth = np.array([0, *(step + 1 for step in steps)], dtype=np.int64)[found.level]
    wide = np.full((len(found.unit), len(funnel.steps)), -1, dtype=np.int64)
    wide[:, list(steps)] = found.chain
    reached = np.arange(len(steps))[None, :] < found.level[:, None]
    if bool((reached & (found.chain < 0)).any()):
        raise FatalError(
            f"funnel `{funnel.id}`: a level was counted without its events",
            hint="this is a fault of the platform: please report the funnel's definition",
        )
    distinct = found.distinct if funnel.order == "any" else found.level
    return replace(found, level=depth, distinct=distinct, chain=wide)


def _better(left: Levels, right: Levels) -> Levels:
    """Row by row the better of two results over the same units."""
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
    both = ((getattr(left, item.name), getattr(right, item.name)) for item in fields(Levels))
    return Levels(*(np.where(wins[:, None] if ours.ndim == 2 else wins, theirs, ours) for ours, theirs in both))
