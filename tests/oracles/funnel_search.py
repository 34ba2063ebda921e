"""The funnel level by exhaustive search, straight from the definition; shares no code with the platform.

level = the largest k for which k distinct events exist, the i-th matching step i, in order, inside the windows, with no
excluding event inside an exclusion span. Events are (time, steps it matches, exclusions it triggers).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import combinations, permutations


@dataclass(frozen=True)
class Rules:
    steps: int
    order: str = "ordered"
    window: int | None = None
    exclusive: bool = False
    natural_day: int | None = None  # length of a day in the test's clock
    within: tuple[int | None, ...] = ()
    strict: bool = False
    tolerance: int = 0
    exclude: tuple[tuple[int, int, bool], ...] = ()  # (from, to, drop)
    optional: frozenset[int] = frozenset()
    entry: str = "any"
    days: Callable[[int], int] = field(default=lambda t: 0)


@dataclass(frozen=True)
class Event:
    t: int
    steps: frozenset[int]
    excludes: frozenset[int] = frozenset()


def best(events: list[Event], rules: Rules) -> tuple[int, int | None, int | None]:
    """(level, goal time, entry time) of the best chain; level 0 without one."""
    found: list[tuple[int, int, int]] = []
    starts = sorted({e.t for e in events if (e.steps if rules.order == "any" else 0 in e.steps)})
    fixed = starts[0] if rules.entry == "first" else None
    for chain, steps in chains(events, rules, fixed):
        times = [events[i].t for i in chain]
        level = steps[-1] + 1
        goal = max(times) if rules.order == "any" else times[-1]
        entry = fixed if fixed is not None else min(times) if rules.order == "any" else times[0]
        found.append((level, -goal, entry))
    if not found:
        return 0, None, None
    level, goal, entry = max(found)
    return level, -goal, entry


def chains(events: list[Event], rules: Rules, entry: int | None = None) -> Iterator[tuple[list[int], tuple[int, ...]]]:
    """Every valid chain (that begins at the instant *entry*): event numbers, and the steps they are."""
    for steps in step_lists(rules):
        yield from grow(events, rules, steps, [], entry)


def step_lists(rules: Rules) -> Iterator[tuple[int, ...]]:
    """Step sequences a chain may have: every required step before its last one."""
    required = [s for s in range(rules.steps) if s not in rules.optional]
    for count in range(len(rules.optional) + 1):
        for kept in combinations(sorted(rules.optional), count):
            full = tuple(sorted([*required, *kept]))
            for length in range(1, len(full) + 1):
                yield full[:length]


def grow(
    events: list[Event], rules: Rules, steps: tuple[int, ...], chain: list[int], entry: int | None
) -> Iterator[tuple[list[int], tuple[int, ...]]]:
    if len(chain) == len(steps):
        if valid(events, rules, steps, chain, entry):
            yield list(chain), steps
        return
    for i, event in enumerate(events):
        if i not in chain and steps[len(chain)] in event.steps:
            chain.append(i)
            yield from grow(events, rules, steps, chain, entry)
            chain.pop()


def valid(events: list[Event], rules: Rules, steps: tuple[int, ...], chain: list[int], entry: int | None) -> bool:
    times = [events[i].t for i in chain]
    if rules.order == "any":
        start = min(times) if entry is None else entry
        fits = all(time >= start and inside(rules, start, time, rules.window) for time in times)
        return fits and clear_unordered(events, rules, steps, start, max(times))
    return (
        (entry is None or times[0] == entry)
        and follows(events, rules, steps, chain)
        and clear(events, rules, steps, times)
    )


def follows(events: list[Event], rules: Rules, steps: tuple[int, ...], chain: list[int]) -> bool:
    """Order, windows and adjacency, exclusions aside."""
    times = [events[i].t for i in chain]
    for a in range(len(times)):
        for b in range(a + 1, len(times)):
            if times[b] < times[a] - rules.tolerance or (rules.strict and times[b] <= times[a]):
                return False
    if not all(inside(rules, times[0], time, rules.window) for time in times):
        return False
    for place in range(1, len(times)):
        limit = rules.within[steps[place]] if rules.within else None
        if not inside(rules, times[place - 1], times[place], limit):
            return False
    return rules.order != "adjacent" or consecutive(events, rules, chain)


def inside(rules: Rules, start: int, end: int, length: int | None) -> bool:
    if length is None:
        return True
    if rules.natural_day:
        return end // rules.natural_day - start // rules.natural_day <= length - 1
    return end - start < length if rules.exclusive else end - start <= length


def clear(events: list[Event], rules: Rules, steps: tuple[int, ...], times: list[int]) -> bool:
    for number, (start, stop, drop) in enumerate(rules.exclude):
        if start not in steps:
            continue
        begin = times[steps.index(start)]
        later = [times[place] for place, step in enumerate(steps) if step >= stop and step > start]
        if later:
            end: float = later[0]
        elif drop:
            end = window_end(rules, times[0])
        else:
            end = times[-1]
        if any(number in e.excludes and begin < e.t < end for e in events):
            return False
    return True


def clear_unordered(events: list[Event], rules: Rules, steps: tuple[int, ...], begin: int, last: int) -> bool:
    """The span is the whole chain: from its entry to the finish, when the last step is done."""
    for number, (_, _, drop) in enumerate(rules.exclude):
        finished = steps[-1] == rules.steps - 1
        end = window_end(rules, begin) if drop and not finished else last
        if any(number in e.excludes and begin < e.t < end for e in events):
            return False
    return True


def window_end(rules: Rules, start: int) -> float:
    if rules.window is None:
        return float("inf")
    if rules.natural_day:
        return (start // rules.natural_day + rules.window) * rules.natural_day
    return start + rules.window


def consecutive(events: list[Event], rules: Rules, chain: list[int]) -> bool:
    """Is there an order of all events, true to time, in which the chain's events follow each other directly?"""
    by_time: dict[int, list[int]] = {}
    for i, event in enumerate(events):
        by_time.setdefault(event.t, []).append(i)
    used = sorted({events[i].t for i in chain})
    moments = [t for t in sorted(by_time) if used[0] <= t <= used[-1]]
    if moments != used:
        return False
    for t in used[1:-1]:
        if set(by_time[t]) - set(chain):
            return False
    # Inside the first instant the rest goes before, inside the last after; one instant alone needs no more.
    return list(chain) == sorted(chain, key=lambda i: (events[i].t, chain.index(i)))


def distinct_steps(events: list[Event], rules: Rules) -> int:
    """Most steps done by distinct events inside one window (order: any)."""
    most = 0
    for size in range(1, rules.steps + 1):
        for picked in combinations(range(len(events)), size):
            times = [events[i].t for i in picked]
            if not inside(rules, min(times), max(times), rules.window):
                continue
            for steps in permutations(range(rules.steps), size):
                if all(s in events[i].steps for s, i in zip(steps, picked, strict=True)):
                    most = max(most, size)
                    break
    return most


def attempts(events: list[Event], rules: Rules) -> list[tuple[int, int]]:
    """(entry time, level) of every attempt, one after the other: begin at an entry, take the best reading from it, and
    begin again after the finish, the excluding event, the event that broke an adjacent chain, or the window.

    A next attempt at the very instant the one before ended has only events from its own entry on, in key order, and
    none that the one before used. Exclusions end an attempt when they break every deepest chain there is by then.
    """
    found: list[tuple[int, int]] = []
    moment, later, used = -1, True, -1
    while True:
        start = next_entry(events, rules, moment, later, used)
        if start is None:
            return found
        t = events[start].t
        pool = [
            i for i, e in enumerate(events) if i >= start or (i > used and e.t > moment and e.t >= t - rules.tolerance)
        ]
        options: list[tuple[int, int, list[float], list[int], float]] = [(0, 0, [], [], 10**9)]
        for steps in full_step_lists(rules):
            over = exclusion_end([events[i] for i in pool], rules, steps, t)
            options[0] = (0, 0, [], [], min(over, options[0][4]))
            shown = [i for i in pool if events[i].t <= over]
            for chain, done in prefix_chains([events[i] for i in shown], rules, steps, t):
                times = [events[shown[i]].t for i in chain]
                goal = max(times) if rules.order == "any" else times[-1]
                keys = [shown[chain[done.index(s)]] if s in done else float("inf") for s in range(rules.steps)]
                options.append((-done[-1] - 1, goal, keys, [shown[i] for i in chain], over))
        level, goal, _, chain, over = min(options, key=lambda option: option[:3])
        level = -level
        found.append((t, level))
        used = max(chain, default=-1)
        if level == rules.steps or (rules.order == "adjacent" and level):
            moment, later = goal, rules.strict
        elif over < 10**9 and rules.order != "adjacent":
            moment, later = int(over), rules.strict
        elif rules.order == "adjacent":
            moment, later = t, True
        else:
            moment, later = window_last(rules, t), True


def next_entry(events: list[Event], rules: Rules, moment: int, later: bool, used: int) -> int | None:
    for i, event in enumerate(events):
        if i <= used or event.t < moment or (event.t == moment and later):
            continue
        if rules.order != "any":
            if 0 in event.steps:
                return i
        elif event.steps:
            same = event.t == moment
            rest = [e for n, e in enumerate(events) if e.t > event.t or (e.t == event.t and (not same or n >= i))]
            if any(0 in e.steps and inside(rules, event.t, e.t, rules.window) for e in rest):
                return i
    return None


def full_step_lists(rules: Rules) -> list[tuple[int, ...]]:
    """The plain funnels hidden in one with optional steps, the longest first."""
    optional = sorted(rules.optional)
    return [
        tuple(s for s in range(rules.steps) if s not in rules.optional or s in kept)
        for count in range(len(optional), -1, -1)
        for kept in combinations(optional, count)
    ]


def prefix_chains(
    events: list[Event], rules: Rules, steps: tuple[int, ...], entry: int
) -> Iterator[tuple[list[int], tuple[int, ...]]]:
    for length in range(1, len(steps) + 1):
        yield from grow(events, rules, steps[:length], [], entry)


def exclusion_end(events: list[Event], rules: Rules, steps: tuple[int, ...], entry: int) -> float:
    """The instant at which an excluding event ends the attempt begun at *entry*; 10**9 when none does."""
    end = window_end(rules, entry)
    instants = sorted({e.t for e in events if e.excludes and entry < e.t < end})
    if rules.order == "any":
        for chain, done in prefix_chains(events, rules, steps, entry):
            finished = done[-1] == rules.steps - 1
            if finished and not any(entry < x < max(events[i].t for i in chain) for x in instants):
                return 10**9
        return instants[0] if instants else 10**9
    for x in instants:
        seen = [e for e in events if e.t <= x]
        unbroken = []
        for length in range(1, len(steps) + 1):
            for chain, done in every(seen, steps[:length], []):
                times = [seen[i].t for i in chain]
                before = any(broken_at(seen, rules, done, times, y) for y in instants if y < x)
                if times[0] == entry and not before and follows(seen, rules, done, chain):
                    unbroken.append((length, done, times))
        deepest = max(length for length, _, _ in unbroken)
        if all(broken_at(seen, rules, done, times, x) for length, done, times in unbroken if length == deepest):
            return x
    return 10**9


def every(events: list[Event], steps: tuple[int, ...], chain: list[int]) -> Iterator[tuple[list[int], tuple[int, ...]]]:
    if len(chain) == len(steps):
        yield list(chain), steps
        return
    for i, event in enumerate(events):
        if i not in chain and steps[len(chain)] in event.steps:
            yield from every(events, steps, [*chain, i])


def broken_at(events: list[Event], rules: Rules, done: tuple[int, ...], times: list[int], x: int) -> bool:
    """Does an excluding event at *x* lie in a span that is open there, in the chain *done* at *times*?"""
    for number, (start, stop, _) in enumerate(rules.exclude):
        if start not in done or not any(e.t == x and number in e.excludes for e in events):
            continue
        later = [times[place] for place, step in enumerate(done) if step >= stop and step > start]
        if times[done.index(start)] < x and (not later or x < later[0]):
            return True
    return False


def window_last(rules: Rules, start: int) -> int:
    if rules.window is None:
        bounds = rules.within[1 : rules.steps]
        if not bounds or None in bounds:
            return 10**9
        return start + sum(bound or 0 for bound in bounds) - (1 if rules.exclusive else 0)
    return start + rules.window - (1 if rules.exclusive else 0)
