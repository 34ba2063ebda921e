"""The funnel level of every unit, by one compiled loop over its events in time order.

A unit's events lie together, ordered by (time, event key); `mask` says which steps an event matches (bit i = step i),
`excl` which exclusion rules it triggers. Two facts make the loop short. Among chains that reach a step by now, one is
the latest in every step at once, and it serves any continuation best, so one state per step is enough. And events of
one instant may stand in any order, so a run of steps inside an instant is a matching of events to steps.

Where a chain's own start decides (exclusions, `first`, `each`) the loop is run from each start; otherwise once.
"""

# Compiled code reads better as plain loops.
# ruff: noqa: SIM102, SIM110

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

Ints = NDArray[np.int64]
NEVER = np.int64(2**62)
NO_BOUND, ROLLING, DAYS = 0, 1, 2


class Timeline(NamedTuple):
    """The events of all units. *t*: instant. *mask*: bit i = matches step i. *excl*: bit i = triggers exclusion i.
    *day*: local day, an index into *day_end*, the last instant of each. *any_step*: nonzero where an event matches any
    step of the funnel, of which the steps of *mask* may be a part."""

    t: Ints
    mask: Ints
    excl: Ints
    day: Ints
    day_end: Ints
    any_step: Ints


class Shape(NamedTuple):
    """The funnel. *k*: its steps. *win*, *within*: (kind, length) of the window and of each step's bound since the step
    before. *boundary*: 1 where the end of a window is outside it. *strict*: a step is later than the one before it.
    *adjacent*: no event between two steps. *from_first*: chains begin at the unit's first entry event. *attempt*: an
    exclusion that ends the chain also ends the reading. *tolerance*: events at most this far apart are simultaneous.
    *ex_from*, *ex_to*, *ex_drop*: per exclusion, the steps it lies between, and whether it voids the chain or cuts it.
    *until*: the last instant at which a chain may begin; only `order: any` looks at it (elsewhere later events are no
    entries in the masks).
    """

    k: int
    win: Ints
    within: Ints
    boundary: int
    strict: bool
    adjacent: bool
    from_first: bool
    attempt: bool
    tolerance: int
    ex_from: Ints
    ex_to: Ints
    ex_drop: NDArray[np.bool_]
    until: int


class Rows(NamedTuple):
    """Where the result goes, one row per unit that has an entry event: the unit, its level, most distinct steps done
    (`order: any`), entry instant, goal instant (-1 at level 0), the instant an exclusion ended the attempt (NEVER if
    none did) and the event of each step (-1 where not reached)."""

    unit: Ints
    level: Ints
    distinct: Ints
    entry: Ints
    goal: Ints
    over: Ints
    chain: Ints


@njit(cache=True)
def _bound(kind, length, boundary, moment, day, day_end):  # type: ignore[no-untyped-def]
    """Last instant allowed by a bound that starts at *moment* (on local day *day*)."""
    if kind == 0:
        return np.int64(2**62)
    if kind == 1:
        return moment + length - boundary
    return day_end[min(day + length - 1, len(day_end) - 1)]


@njit(cache=True)
def _window_end(line, shape, entry):  # type: ignore[no-untyped-def]
    """Last instant inside the window of a chain that begins at event *entry*."""
    return _bound(shape.win[0], shape.win[1], shape.boundary, line.t[entry], line.day[entry], line.day_end)


@njit(cache=True)
def _step_end(line, shape, step, previous):  # type: ignore[no-untyped-def]
    """Last instant allowed to *step* after event *previous*."""
    kind, length = shape.within[step, 0], shape.within[step, 1]
    return _bound(kind, length, shape.boundary, line.t[previous], line.day[previous], line.day_end)


@njit(cache=True)
def _matchable(mask, first, last, a, b):  # type: ignore[no-untyped-def]
    """Can steps a..b each have an event of their own among events first..last-1?"""
    size = last - first
    steps = b - a + 1
    if size < steps:
        return False
    single = True
    union = np.int64(0)
    wanted = ((np.int64(1) << steps) - 1) << a
    for i in range(first, last):
        bits = mask[i] & wanted
        union |= bits
        if bits & (bits - 1):
            single = False
    if union != wanted:
        return False
    if single or steps == 1:
        return True
    owner = np.full(size, -1, np.int64)
    for step in range(a, b + 1):
        if not _augment(mask, first, size, step, owner):
            return False
    return True


@njit(cache=True)
def _augment(mask, first, size, step, owner):  # type: ignore[no-untyped-def]
    """Give *step* an event among first..first+size-1, moving other steps where needed (Kuhn's algorithm, breadth first:
    compiled code that calls itself cannot be loaded from the cache safely). *owner*: step of each event, or -1."""
    came = np.full(size, -1, np.int64)
    queue = np.zeros(size + 1, np.int64)
    queue[0] = step
    head, tail = 0, 1
    while head < tail:
        present = queue[head]
        head += 1
        for e in range(size):
            if came[e] >= 0 or not (mask[first + e] >> present) & 1:
                continue
            came[e] = present
            if owner[e] >= 0:
                queue[tail] = owner[e]
                tail += 1
                continue
            while True:
                before = -1
                for f in range(size):
                    if owner[f] == came[e]:
                        before = f
                owner[e] = came[e]
                if came[e] == step:
                    return True
                e = before
    return False


@njit(cache=True)
def _run(line, shape, lo, hi, start, goal_t, goal_s, state_t):  # type: ignore[no-untyped-def]
    """Walk events lo..hi-1. *start* >= 0: chains begin at that event's instant; -1: anywhere (without exclusions).

    Fills *goal_t* (earliest instant each step is validly reached, -1 if never) and *goal_s* (its latest start, an event
    index). Returns (level, end): steps reached, and the instant an exclusion ended the walk (NEVER if none did).
    """
    rules = len(shape.ex_from)
    alive = np.zeros(shape.k, np.bool_)
    frozen = np.zeros(shape.k, np.bool_)
    last = np.zeros(shape.k, np.int64)
    origin = np.zeros(shape.k, np.int64)
    done = np.zeros(shape.k, np.bool_)
    source = np.zeros(shape.k, np.int64)
    for j in range(shape.k):
        goal_t[j] = -1
        goal_s[j] = -1
    end = np.int64(2**62)
    limit = np.int64(2**62)
    i = lo
    if start >= 0:
        i = start
        while i > lo and line.t[i - 1] == line.t[start]:
            i -= 1
        limit = _window_end(line, shape, start)
    open_end = np.int64(0) if (shape.win[0] == 1 and shape.boundary == 0) else np.int64(1)
    while i < hi and line.t[i] <= limit:
        x = line.t[i]
        g = i
        union = np.int64(0)
        broken = np.int64(0)
        while g < hi and line.t[g] == x:
            union |= line.mask[g]
            broken |= line.excl[g]
            g += 1
        for j in range(shape.k):
            if broken and alive[j] and not done[j]:
                for r in range(rules):
                    if (broken >> r) & 1 and shape.ex_drop[r] and shape.ex_from[r] <= j < shape.ex_to[r]:
                        if state_t[j, shape.ex_from[r]] < x and x < limit + open_end:
                            goal_t[j] = -1
        if union:
            for b in range(shape.k):
                source[b] = -1
                if not (union >> b) & 1:
                    continue
                frozen_source = -1
                a = b
                if not shape.strict:
                    while a > 0 and (union >> (a - 1)) & 1:
                        a -= 1
                while a <= b:
                    usable = False
                    if a == 0:
                        usable = start < 0 or x == line.t[start]
                    elif alive[a - 1] and not frozen[a - 1]:
                        p = last[a - 1]
                        o = origin[a - 1]
                        usable = x <= _window_end(line, shape, o) and x <= _step_end(line, shape, a, p)
                        if shape.strict and line.t[p] == x:
                            usable = False
                    if usable and g - i == 1 and a != b:
                        usable = False
                    if usable and a != b and not _matchable(line.mask, i, g, a, b):
                        usable = False
                    if usable:
                        tainted = False
                        if broken and a > 0:
                            for r in range(rules):
                                if (
                                    (broken >> r) & 1
                                    and shape.ex_from[r] <= a - 1 < shape.ex_to[r]
                                    and b < shape.ex_to[r]
                                    and x < limit + open_end
                                ):
                                    if state_t[a - 1, shape.ex_from[r]] < x:
                                        tainted = True
                                        if shape.ex_drop[r]:
                                            usable = False
                        if usable and not tainted:
                            source[b] = a
                            break
                        if usable and frozen_source < 0:
                            frozen_source = a
                    a += 1
                if source[b] < 0 and frozen_source >= 0:
                    source[b] = frozen_source
            for b in range(shape.k - 1, -1, -1):
                a = source[b]
                if a < 0:
                    continue
                if a > 0:
                    origin[b] = origin[a - 1]
                    for j in range(a):
                        state_t[b, j] = state_t[a - 1, j]
                else:
                    origin[b] = i if start < 0 else start
                for j in range(a, b + 1):
                    state_t[b, j] = x
                alive[b] = True
                frozen[b] = False
                last[b] = i
                if not done[b]:
                    open_drop = False
                    for r in range(rules):
                        if shape.ex_drop[r] and shape.ex_from[r] <= b < shape.ex_to[r]:
                            open_drop = True
                    if not open_drop or goal_t[b] < 0:
                        goal_t[b] = x
                        goal_s[b] = origin[b]
                    if not open_drop:
                        done[b] = True
        if broken:
            deepest = -1
            for j in range(shape.k):
                if alive[j]:
                    deepest = j
            for r in range(rules):
                if not (broken >> r) & 1:
                    continue
                for j in range(shape.ex_from[r], shape.ex_to[r]):
                    if not alive[j] or state_t[j, shape.ex_from[r]] >= x or x >= limit + open_end:
                        continue
                    if shape.ex_drop[r]:
                        alive[j] = False
                    else:
                        frozen[j] = True
                    if shape.attempt and j == deepest:
                        end = x
            if end == x:
                break
        if done[shape.k - 1]:
            break
        i = g
    level = 0
    for j in range(shape.k):
        if goal_t[j] >= 0:
            level = j + 1
    return level, end


@njit(cache=True)
def _evidence(line, shape, lo, hi, start, goal, level, out):  # type: ignore[no-untyped-def]
    """The valid chain of *level* steps from the instant of event *start* to the instant *goal* whose events come first
    in (time, key) order, step by step. Fills out[:level] with event indices."""
    first = start
    while first > lo and line.t[first - 1] == line.t[start]:
        first -= 1
    stop = first
    while stop < hi and line.t[stop] <= goal:
        stop += 1
    n = stop - first
    limit = _window_end(line, shape, start)
    reach = np.zeros((level, n), np.bool_)
    for j in range(level - 1, -1, -1):
        following = np.int64(2**62)  # earliest usable event of the next step, at or after the present one
        i = n - 1
        while i >= 0:
            x = line.t[first + i]
            h = i
            while h >= 0 and line.t[first + h] == x:
                h -= 1
            if j < level - 1 and not shape.strict:
                for e in range(h + 1, i + 1):
                    if reach[j + 1, e]:
                        following = x
            for e in range(h + 1, i + 1):
                q = first + e
                if (line.mask[q] >> j) & 1 and (j > 0 or x == line.t[start]):
                    if j == level - 1:
                        reach[j, e] = x == goal
                    else:
                        reach[j, e] = following <= _step_end(line, shape, j + 1, q)
            if j < level - 1 and shape.strict:
                for e in range(h + 1, i + 1):
                    if reach[j + 1, e]:
                        following = x
            i = h
    pointer = np.full(level, -1, np.int64)
    j = 0
    while j >= 0:
        e = pointer[j] + 1
        if pointer[j] < 0 and j > 0:
            e = 0
            while e < n and line.t[first + e] < line.t[out[j - 1]]:
                e += 1
        found = False
        while e < n:
            if reach[j, e] and _fits(line, shape, lo, hi, first + e, j, out):
                found = True
                break
            e += 1
        if not found:
            pointer[j] = -1
            j -= 1
            continue
        pointer[j] = e
        out[j] = first + e
        if j < level - 1:
            j += 1
            continue
        if _spans_clear(line, shape, lo, hi, level, limit, out):
            return True
    return False


@njit(cache=True)
def _fits(line, shape, lo, hi, q, j, out):  # type: ignore[no-untyped-def]
    """May event *q* be step j after out[:j]?"""
    for p in range(j):
        if out[p] == q:
            return False
    if j == 0:
        return True
    p = out[j - 1]
    if line.t[q] < line.t[p] or (shape.strict and line.t[q] == line.t[p]):
        return False
    if line.t[q] > _step_end(line, shape, j, p):
        return False
    for r in range(len(shape.ex_from)):
        if shape.ex_to[r] == j and _has_between(line, lo, hi, r, line.t[out[shape.ex_from[r]]], line.t[q]):
            return False
    if shape.adjacent:
        return _next_to(line, lo, hi, q, j, out)
    return True


@njit(cache=True)
def _next_to(line, lo, hi, q, j, out):  # type: ignore[no-untyped-def]
    """Is there an order of simultaneous events in which *q* comes directly after out[j-1]?"""
    p = out[j - 1]
    if line.t[p] == line.t[q]:
        return True
    left = p
    while left > lo and line.t[left - 1] == line.t[p]:
        left -= 1
    right = p
    while right < hi and line.t[right] == line.t[p]:
        right += 1
    if right >= hi or line.t[right] != line.t[q]:
        return False
    if line.t[out[0]] == line.t[p]:
        return True  # the chain's first instant: what is not in the chain came before it
    used = 0
    for i in range(j):
        if line.t[out[i]] == line.t[p]:
            used += 1
    return used == right - left


@njit(cache=True)
def _has_between(line, lo, hi, rule, after, before):  # type: ignore[no-untyped-def]
    """Does an event of exclusion *rule* lie strictly between two instants?"""
    left, right = lo, hi
    while left < right:
        middle = (left + right) // 2
        if line.t[middle] <= after:
            left = middle + 1
        else:
            right = middle
    while left < hi and line.t[left] < before:
        if (line.excl[left] >> rule) & 1:
            return True
        left += 1
    return False


@njit(cache=True)
def _spans_clear(line, shape, lo, hi, level, limit, out):  # type: ignore[no-untyped-def]
    """No excluding event inside any span of the finished chain."""
    open_end = limit if shape.win[0] == 1 and shape.boundary == 0 else limit + 1
    for r in range(len(shape.ex_from)):
        if level <= shape.ex_from[r]:
            continue
        if level > shape.ex_to[r]:
            until = line.t[out[shape.ex_to[r]]]
        elif shape.ex_drop[r]:
            until = open_end
        else:
            until = line.t[out[level - 1]]
        if _has_between(line, lo, hi, r, line.t[out[shape.ex_from[r]]], until):
            return False
    return True


@njit(cache=True)
def _adjacent_level(line, shape, lo, hi, start, goal_t, chain):  # type: ignore[no-untyped-def]
    """Level of the longest chain of directly following events that begins at the instant of event *start*; fills goal_t
    per step (earliest goal)."""
    for j in range(shape.k):
        goal_t[j] = -1
    limit = _window_end(line, shape, start)
    g = start
    while g < hi and line.t[g] == line.t[start]:
        g += 1
    most = 1 if shape.strict else min(shape.k, g - start)
    level = 0
    for a in range(1, most + 1):
        if a > 1 and not _matchable(line.mask, start, g, 0, a - 1):
            continue
        if a == 1 and not _any_bit(line.mask, start, g, 0):
            continue
        for j in range(a):
            chain[j] = line.t[start]
        reached = _follow(line, shape, g, hi, a, limit, start, chain)
        for j in range(reached):
            if goal_t[j] < 0 or chain[j] < goal_t[j]:
                if _chain_clear(line, shape, lo, hi, j + 1, limit, chain):
                    goal_t[j] = chain[j]
    for j in range(shape.k):
        if goal_t[j] >= 0:
            level = j + 1
    return level


@njit(cache=True)
def _any_bit(mask, first, last, step):  # type: ignore[no-untyped-def]
    for i in range(first, last):
        if (mask[i] >> step) & 1:
            return True
    return False


@njit(cache=True)
def _follow(line, shape, i, hi, a, limit, previous, chain):  # type: ignore[no-untyped-def]
    """Continue a chain of *a* steps into the instants that follow; whole instants must be used up except the last."""
    while a < shape.k and i < hi and line.t[i] <= limit:
        if line.t[i] > _step_end(line, shape, a, previous):
            break
        g = i
        while g < hi and line.t[g] == line.t[i]:
            g += 1
        size = g - i
        if shape.strict:
            if not _any_bit(line.mask, i, g, a):
                return a
            chain[a] = line.t[i]
            a += 1
            if size > 1:
                return a
        else:
            taken = 0
            for b in range(min(size, shape.k - a), 0, -1):
                if _matchable(line.mask, i, g, a, a + b - 1):
                    taken = b
                    break
            for j in range(a, a + taken):
                chain[j] = line.t[i]
            a += taken
            if taken < size:
                return a
        previous = i
        i = g
    return a


@njit(cache=True)
def _chain_clear(line, shape, lo, hi, level, limit, chain):  # type: ignore[no-untyped-def]
    """`_spans_clear` on instants instead of events."""
    open_end = limit if shape.win[0] == 1 and shape.boundary == 0 else limit + 1
    for r in range(len(shape.ex_from)):
        if level <= shape.ex_from[r]:
            continue
        if level > shape.ex_to[r]:
            until = chain[shape.ex_to[r]]
        elif shape.ex_drop[r]:
            until = open_end
        else:
            until = chain[level - 1]
        if _has_between(line, lo, hi, r, chain[shape.ex_from[r]], until):
            return False
    return True


@njit(cache=True)
def walk(line, shape, starts, stops, into):  # type: ignore[no-untyped-def]
    """All units, of events starts[u]..stops[u]-1. *first*: chains begin at the unit's first step-1 event; *attempt*: an
    exclusion that ends the chain also ends the reading. One output row per unit that has a step-1 event.

    Output row: unit, level, entry instant, goal instant (-1 at level 0), the instant an exclusion ended the attempt
    (NEVER if none did) and the events of the chain (-1 where not reached). Returns the number of rows.
    """
    rows = 0
    goal_t = np.zeros(shape.k, np.int64)
    goal_s = np.zeros(shape.k, np.int64)
    best_chain = np.zeros(shape.k, np.int64)
    state_t = np.zeros((shape.k, shape.k), np.int64)
    chain = np.zeros(shape.k, np.int64)
    free = not shape.from_first and len(shape.ex_from) == 0 and not shape.adjacent
    for u in range(len(starts)):
        lo, hi = starts[u], stops[u]
        s = lo
        while s < hi and not line.mask[s] & 1:
            s += 1
        best_level, best_goal, best_start = 0, np.int64(-1), s
        while s < hi:
            end = np.int64(2**62)
            if shape.adjacent:
                start = s
                while start > lo and line.t[start - 1] == line.t[s]:
                    start -= 1
                level = _adjacent_level(line, shape, lo, hi, start, goal_t, chain)
            else:
                level, end = _run(line, shape, lo, hi, -1 if free else s, goal_t, goal_s, state_t)
            goal = goal_t[level - 1] if level > 0 else np.int64(-1)
            begin = s
            if free and level > 0:
                begin = goal_s[level - 1]
            if level > best_level or (level == best_level and level > 0 and goal <= best_goal):
                best_level, best_goal, best_start = level, goal, begin
            following = s
            while following < hi and (line.t[following] == line.t[s] or not line.mask[following] & 1):
                following += 1
            last = (
                free or shape.from_first or following == hi or (best_level == shape.k and line.t[following] > best_goal)
            )
            if not last:
                s = following
                continue
            stop = _index_after(line.t, lo, hi, end) if end != 2**62 else hi
            _emit(line, shape, lo, stop, u, best_level, best_start, best_goal, best_chain, rows, into)
            into.over[rows] = end
            rows += 1
            break
    return rows


@njit(cache=True)
def _index_after(t, lo, hi, moment):  # type: ignore[no-untyped-def]
    """First event later than *moment*."""
    i = lo
    while i < hi and t[i] <= moment:
        i += 1
    return i


@njit(cache=True)
def next_starts(starts, stops, t, mask, moment, later, tolerance, chain):  # type: ignore[no-untyped-def]
    """Where the events of each row's next attempt begin, between starts[row] and stops[row] (which means: nowhere).

    Its entry is the first event of *mask* after the instant *moment*, or, where not *later*, at that instant with a key
    after the events of *chain* there. It has the events from its entry on, and those before it that count as
    simultaneous (the same instant, or *tolerance*) and are later than *moment*.
    """
    result = stops.copy()
    for row in range(len(stops)):
        begin = starts[row]
        while begin < stops[row] and t[begin] < moment[row]:
            begin += 1
        used = np.int64(-1)
        for event in chain[row]:
            used = max(used, event)
        for event in range(begin, stops[row]):
            if not mask[event] & 1 or event <= used or (later[row] and t[event] == moment[row]):
                continue
            first = event
            while first - 1 > max(used, begin - 1) and t[first - 1] > moment[row]:
                if t[first - 1] < t[event] - tolerance:
                    break
                first -= 1
            result[row] = first
            break
    return result


@njit(cache=True)
def _emit(line, shape, lo, hi, u, level, start, goal, chain, rows, into):  # type: ignore[no-untyped-def]
    """Write one output row, with its evidence."""
    into.unit[rows] = u
    into.level[rows] = level
    into.entry[rows] = line.t[start]
    into.goal[rows] = goal
    for j in range(shape.k):
        chain[j] = -1
        into.chain[rows, j] = -1
    if level > 0:
        _evidence(line, shape, lo, hi, start, goal, level, chain)
        for j in range(level):
            into.chain[rows, j] = chain[j]
