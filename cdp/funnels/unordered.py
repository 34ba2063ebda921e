"""Funnels with `order: any`: steps 1…k are all done inside one window, in any order."""

# Compiled code reads better as plain loops.
# ruff: noqa: SIM110

from __future__ import annotations

import numpy as np
from numba import njit

from cdp.funnels.kernel import _augment, _window_end


@njit(cache=True)
def _assign(mask, first, last, steps, owner_of_step):  # type: ignore[no-untyped-def]
    """Give as many of the first *steps* steps as possible an event of their own among first..last-1; returns how many.

    Steps are served in order, so that the number of leading steps served is as large as can be. Fills
    *owner_of_step* with event indices (-1 where none).
    """
    size = last - first
    owner = np.full(size, -1, np.int64)
    served = 0
    for step in range(steps):
        if _augment(mask, first, size, step, owner):
            served += 1
    for step in range(steps):
        owner_of_step[step] = -1
    for e in range(size):
        if owner[e] >= 0:
            owner_of_step[owner[e]] = first + e
    return served


@njit(cache=True)
def _leading(mask, first, last, k, work):  # type: ignore[no-untyped-def]
    """Largest n for which steps 1…n all have an event of their own among first..last-1."""
    n = 0
    while n < k and _assign(mask, first, last, n + 1, work) == n + 1:
        n += 1
    return n


@njit(cache=True)
def walk_unordered(line, shape, starts, stops, into):  # type: ignore[no-untyped-def]
    """As `kernel.walk`. A chain's entry is its first event in time, and exclusions watch the whole chain.

    *any_step*: nonzero where an event matches any step of the funnel; *from_first* fixes the entry to the unit's first
    such event, for an *attempt* to the first one whose window holds an event of step 1. Units need an event of step 1
    to have a row. *distinct_out*: most distinct steps done inside one window, exclusions aside.
    """
    rows = 0
    work = np.zeros(shape.k, np.int64)
    for u in range(len(starts)):
        lo, hi = starts[u], stops[u]
        first = _entry(line, shape, lo, hi)
        if first == hi or not _may_begin(line, shape, first, hi):
            continue
        over = np.int64(2**62)
        if shape.from_first or len(shape.ex_drop) or shape.until < 2**62:
            best, distinct, best_left, best_right, over = _each_left(line, shape, first, hi, work)
        else:
            best, distinct, best_left, best_right = _sliding(line, shape, first, hi, work)
        if best > 0:
            _first_choice(line.mask, best_left, best_right, best, work)
            if not shape.from_first:
                _use_instant(line.t, line.mask, best_left, best, work)
            for step in range(best):
                into.chain[rows, step] = work[step]
        into.unit[rows] = u
        into.level[rows] = best
        into.distinct[rows] = distinct
        into.entry[rows] = line.t[best_left]
        into.goal[rows] = _latest(line.t, work, best) if best > 0 else -1
        into.over[rows] = over if shape.attempt else np.int64(2**62)
        rows += 1
    return rows


@njit(cache=True)
def _sliding(line, shape, first, hi, work):  # type: ignore[no-untyped-def]
    """(level, distinct steps, first event, end of events) without exclusions: one window slides over the events."""
    best, distinct = 0, 0
    left, best_left, best_right = first, first, first
    right = first
    while right < hi:
        g = right
        while g < hi and line.t[g] == line.t[right]:
            g += 1
        while line.t[right] > _window_end(line, shape, left):
            left += 1
        distinct = max(distinct, _assign(line.mask, left, g, shape.k, work))
        if best < shape.k:
            n = _leading(line.mask, left, g, shape.k, work)
            if n > best:
                best, best_left, best_right = n, left, g
        right = g
    # The latest entry that still reaches this level by the earliest goal.
    i = best_left + 1
    while best > 0 and i < best_right and _assign(line.mask, i, best_right, best, work) == best:
        best_left = i
        i += 1
    # All events of the entry's instant, so that the lowest can be chosen.
    while best_left > first and line.t[best_left - 1] == line.t[best_left]:
        best_left -= 1
    return best, distinct, best_left, best_right


@njit(cache=True)
def _each_left(line, shape, first, hi, work):  # type: ignore[no-untyped-def]
    """As `_sliding`, judging each entry by itself (or only the first), and the instant an exclusion broke the last."""
    best, distinct = 0, 0
    best_left, best_right = first, first
    broken = np.int64(2**62)
    end_open = shape.win[0] == 1 and shape.boundary == 0
    left = first
    while left < hi and line.t[left] <= shape.until:
        limit = _window_end(line, shape, left)
        stop = left
        while stop < hi and line.t[stop] <= limit:
            stop += 1
        distinct = max(distinct, _assign(line.mask, left, stop, shape.k, work))
        n, right, broken = _from_left(line, shape, left, stop, limit, end_open)
        if n > best or (n == best and n > 0 and line.t[right - 1] <= line.t[best_right - 1]):
            best, best_left, best_right = n, left, right
        if shape.from_first:
            break
        moment = line.t[left]
        while left < hi and line.t[left] == moment:
            left += 1
    return best, distinct, best_left, best_right, broken


@njit(cache=True)
def _may_begin(line, shape, first, hi):  # type: ignore[no-untyped-def]
    """Does a window that begins at *first* or later, and not after *until*, hold an event of step 1?"""
    has = first
    for i in range(first, hi):
        if line.t[i] > shape.until:
            return False
        has = max(has, i)
        while has < hi and not line.mask[has] & 1:
            has += 1
        if has == hi:
            return False
        if line.any_step[i] and line.t[has] <= _window_end(line, shape, i):
            return True
    return False


@njit(cache=True)
def _entry(line, shape, lo, hi):  # type: ignore[no-untyped-def]
    """The event at which reading begins; *hi* when the unit has no event of step 1 (an attempt: in no window)."""
    has = lo
    while has < hi and not line.mask[has] & 1:
        has += 1
    if has == hi:
        return hi
    for i in range(lo, hi):
        if not line.any_step[i]:
            continue
        first = i
        while first > lo and line.t[first - 1] == line.t[i]:
            first -= 1
        if not shape.attempt:
            return first
        while has < hi and (has < first or not line.mask[has] & 1):
            has += 1
        if has == hi:
            return hi
        if line.t[has] <= _window_end(line, shape, i):
            return first
    return hi


@njit(cache=True)
def _from_left(line, shape, left, stop, limit, end_open):  # type: ignore[no-untyped-def]
    """(level, end of its events, instant an exclusion broke it) of chains that begin at the instant of event *left*,
    among events left..stop-1. What excludes lies after the entry and before the finish, or, where the
    last step is not reached, before the end of the window (`drop`) or of the chain (`truncate`)."""
    broken = np.int64(2**62)
    drops = False
    for i in range(left, stop):
        if not line.excl[i] or line.t[i] == line.t[left] or (end_open and line.t[i] == limit):
            continue
        if shape.attempt and line.t[i] > broken:
            break  # the attempt was over before
        broken = min(broken, line.t[i])
        for r in range(len(shape.ex_drop)):
            if (line.excl[i] >> r) & 1 and shape.ex_drop[r]:
                drops = True
    owner = np.full(stop - left, -1, np.int64)
    best, best_right = 0, left
    right = left
    while right < stop and best < shape.k and line.t[right] <= broken:
        g = right
        union = np.int64(0)
        while g < stop and line.t[g] == line.t[right]:
            union |= line.mask[g]
            g += 1
        while union and best < shape.k and _augment(line.mask, left, g - left, best, owner):
            best, best_right = best + 1, g
        right = g
    if best == shape.k and (not len(shape.ex_to) or shape.ex_to[0] < shape.k):
        broken = np.int64(2**62)
    elif drops:
        best = 0
    if best > 0 and not shape.from_first:
        # A chain that needs no event of this instant begins later, and is judged there.
        union = np.int64(0)
        i = left
        while i < stop and line.t[i] == line.t[left]:
            union |= line.mask[i]
            i += 1
        if not union & ((np.int64(1) << best) - 1):
            best = 0
    return best, best_right, broken


@njit(cache=True)
def _first_choice(mask, first, last, steps, out):  # type: ignore[no-untyped-def]
    """The assignment whose events come first, step by step."""
    size = last - first
    taken = np.zeros(size, np.bool_)
    rest = mask[first:last].copy()
    for step in range(steps):
        for e in range(size):
            if taken[e] or not (mask[first + e] >> step) & 1:
                continue
            saved = rest[e]
            rest[e] = 0
            for other in range(size):
                if not taken[other]:
                    rest[other] = rest[other] & ~((np.int64(1) << (step + 1)) - 1)
            if _assign_from(rest, size, step + 1, steps):
                taken[e] = True
                out[step] = first + e
                break
            rest[e] = saved


@njit(cache=True)
def _use_instant(t, mask, left, steps, out):  # type: ignore[no-untyped-def]
    """Let the chain have an event of its entry's instant, where the first choice has none."""
    for step in range(steps):
        if t[out[step]] == t[left]:
            return
    i = left
    while t[i] == t[left]:
        for step in range(steps):
            if (mask[i] >> step) & 1:
                out[step] = i
                return
        i += 1


@njit(cache=True)
def _latest(t, events, count):  # type: ignore[no-untyped-def]
    latest = t[events[0]]
    for step in range(1, count):
        latest = max(latest, t[events[step]])
    return latest


@njit(cache=True)
def _assign_from(mask, size, start, steps):  # type: ignore[no-untyped-def]
    owner = np.full(size, -1, np.int64)
    for step in range(start, steps):
        if not _augment(mask, 0, size, step, owner):
            return False
    return True
