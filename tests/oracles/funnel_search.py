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
    starts = sorted({e.t for e in events if 0 in e.steps})
    for chain, steps in chains(events, rules):
        if rules.entry == "first" and rules.order != "any" and events[chain[0]].t != starts[0]:
            continue
        times = [events[i].t for i in chain]
        level = steps[-1] + 1
        goal = max(times) if rules.order == "any" else times[-1]
        entry = min(times) if rules.order == "any" else times[0]
        found.append((level, -goal, entry))
    if not found:
        return 0, None, None
    level, goal, entry = max(found)
    return level, -goal, entry


def chains(events: list[Event], rules: Rules) -> Iterator[tuple[list[int], tuple[int, ...]]]:
    """Every valid chain: event numbers, and the steps they are."""
    for steps in step_lists(rules):
        yield from grow(events, rules, steps, [])


def step_lists(rules: Rules) -> Iterator[tuple[int, ...]]:
    """Step sequences a chain may have: every required step before its last one."""
    required = [s for s in range(rules.steps) if s not in rules.optional]
    for count in range(len(rules.optional) + 1):
        for kept in combinations(sorted(rules.optional), count):
            full = tuple(sorted([*required, *kept]))
            for length in range(1, len(full) + 1):
                yield full[:length]


def grow(
    events: list[Event], rules: Rules, steps: tuple[int, ...], chain: list[int]
) -> Iterator[tuple[list[int], tuple[int, ...]]]:
    if len(chain) == len(steps):
        if valid(events, rules, steps, chain):
            yield list(chain), steps
        return
    for i, event in enumerate(events):
        if i not in chain and steps[len(chain)] in event.steps:
            chain.append(i)
            yield from grow(events, rules, steps, chain)
            chain.pop()


def valid(events: list[Event], rules: Rules, steps: tuple[int, ...], chain: list[int]) -> bool:
    times = [events[i].t for i in chain]
    if rules.order == "any":
        return inside(rules, min(times), max(times), rules.window)
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
    if rules.order == "adjacent" and not consecutive(events, rules, chain):
        return False
    return clear(events, rules, steps, times)


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
    """(entry time, level) of every attempt, one after the other: begin at a step-1 event, take the best chain from it,
    begin again after the finish, or after the window has run out. For ordered funnels without exclusions."""
    found: list[tuple[int, int]] = []
    used: set[int] = set()
    position, moment, finished = 0, -1, False
    while True:
        start = None
        for i in range(position, len(events)):
            t = events[i].t
            if (
                0 in events[i].steps
                and i not in used
                and (t > moment or (finished and not rules.strict and t == moment))
            ):
                start = i
                break
        if start is None:
            return found
        same = finished and events[start].t == moment
        pool = list(range(start, len(events))) if same else list(range(len(events)))
        options = [
            (steps[-1] + 1, -events[chain[-1]].t, [-i for i in (pool[c] for c in chain)], [pool[c] for c in chain])
            for chain, steps in chains([events[i] for i in pool], rules)
            if events[pool[chain[0]]].t == events[start].t
        ]
        level, goal, _, chain = max(options, key=lambda o: (o[0], o[1], o[2]))
        found.append((events[start].t, level))
        finished = level == rules.steps
        if finished:
            used, moment, position = set(chain), -goal, chain[-1] + 1
        else:
            moment = window_last(rules, events[start].t)
            used, position = set(), start + 1


def window_last(rules: Rules, start: int) -> int:
    if rules.window is None:
        return 10**9
    return start + rules.window - (1 if rules.exclusive else 0)
