"""Funnels with `ties: tolerance`: events at most that far apart count as simultaneous for order, not for windows.

A chain then needs, for every earlier step i and later step j, t_j >= t_i - tolerance. With the start given, the best
way to arrive at an event as step j is the one whose latest instant so far is smallest, so one number per step and event
bounds the level from above; a search over the events that are left finds the chain, exclusions included.
"""

# Compiled code reads better as plain loops.
# ruff: noqa: SIM110

from __future__ import annotations

import numpy as np
from numba import njit

from cdp.funnels.kernel import _has_between, _spans_clear, _step_end, _window_end


@njit(cache=True)
def _search(line, shape, lo, hi, low, high, e0, goal, level, limit, out):  # type: ignore[no-untyped-def]
    """First chain, in event order step by step, of *level* distinct steps from event e0 whose last event is at *goal*,
    among events low..high-1 of the unit's lo..hi-1. Fills out[:level]."""
    pointer = np.full(level, -1, np.int64)
    latest = np.zeros(level, np.int64)
    out[0] = e0
    latest[0] = line.t[e0]
    j = 1
    while j >= 1:
        if j == level:
            if line.t[out[level - 1]] == goal and _spans_clear(line, shape, lo, hi, level, limit, out):
                return True
            j -= 1
            continue
        e = pointer[j] + 1 if pointer[j] >= 0 else low
        p = out[j - 1]
        bound = min(limit, _step_end(line, shape, j, p))
        while e < high and line.t[e] <= bound:
            if (
                (line.mask[e] >> j) & 1
                and line.t[e] >= latest[j - 1] - shape.tolerance
                and (j < level - 1 or line.t[e] == goal)
                and not _taken(out, j, e)
                and not _excluded(line, shape, lo, hi, j, line.t[e], out)
            ):
                break
            e += 1
        if e >= high or line.t[e] > bound:
            pointer[j] = -1
            j -= 1
            continue
        pointer[j] = e
        out[j] = e
        latest[j] = max(latest[j - 1], line.t[e])
        j += 1
    return False


@njit(cache=True)
def _taken(out, count, event):  # type: ignore[no-untyped-def]
    for q in range(count):
        if out[q] == event:
            return True
    return False


@njit(cache=True)
def _excluded(line, shape, lo, hi, j, moment, out):  # type: ignore[no-untyped-def]
    """Is a span broken whatever follows, when step *j* is put at *moment*? Later steps come at most *tolerance*
    earlier than it, so an open span reaches at least that far."""
    for r in range(len(shape.ex_from)):
        if shape.ex_from[r] >= j:
            continue
        if shape.ex_to[r] == j:
            end = moment
        elif shape.ex_to[r] > j:
            end = moment - shape.tolerance
        else:
            continue
        if _has_between(line, lo, hi, r, line.t[out[shape.ex_from[r]]], end):
            return True
    return False


@njit(cache=True)
def _from_start(line, shape, lo, hi, e0, out):  # type: ignore[no-untyped-def]
    """(level, goal) of the best chain that begins at event e0, its events in out[:level]."""
    limit = _window_end(line, shape, e0)
    low = e0
    while low > lo and line.t[low - 1] >= line.t[e0] - shape.tolerance:
        low -= 1
    high = e0
    while high < hi and line.t[high] <= limit:
        high += 1
    n = high - low
    best = np.full((shape.k, n), np.int64(2**62))
    best[0, e0 - low] = line.t[e0]
    depth = 1
    for j in range(1, shape.k):
        some = False
        for e in range(n):
            if not (line.mask[low + e] >> j) & 1:
                continue
            x = line.t[low + e]
            for f in range(n):
                if f == e or best[j - 1, f] == 2**62 or x < best[j - 1, f] - shape.tolerance:
                    continue
                p = low + f
                if x > _step_end(line, shape, j, p):
                    continue
                best[j, e] = min(best[j, e], max(best[j - 1, f], x))
                some = True
        if not some:
            break
        depth = j + 1
    # The table lets an event serve two steps that are not neighbours, so it bounds the level from above.
    for level in range(depth, 0, -1):
        previous = np.int64(-(2**62))
        for e in range(n):
            if best[level - 1, e] == 2**62 or line.t[low + e] == previous:
                continue
            previous = line.t[low + e]
            if _search(line, shape, lo, hi, low, high, e0, previous, level, limit, out):
                return level, previous
    return 0, np.int64(-1)


@njit(cache=True)
def walk_tolerant(line, shape, starts, stops, into):  # type: ignore[no-untyped-def]
    """As `kernel.walk`."""
    rows = 0
    chain = np.zeros(shape.k, np.int64)
    for u in range(len(starts)):
        lo, hi = starts[u], stops[u]
        s = lo
        while s < hi and not line.mask[s] & 1:
            s += 1
        if s == hi:
            continue
        entry = line.t[s]
        into.unit[rows], into.level[rows], into.entry[rows], into.goal[rows] = u, 0, entry, -1
        while s < hi and (not shape.from_first or line.t[s] == entry):
            if line.mask[s] & 1:
                level, goal = _from_start(line, shape, lo, hi, s, chain)
                better = level > into.level[rows] or (
                    level == into.level[rows]
                    and level > 0
                    and (goal < into.goal[rows] or (goal == into.goal[rows] and line.t[s] > into.entry[rows]))
                )
                if better:
                    into.level[rows], into.entry[rows], into.goal[rows] = level, line.t[s], goal
                    for j in range(level):
                        into.chain[rows, j] = chain[j]
            s += 1
        for j in range(into.level[rows], shape.k):
            into.chain[rows, j] = -1
        rows += 1
    return rows
