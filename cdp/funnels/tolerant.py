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

from cdp.funnels.kernel import _bound, _has_between, _spans_clear


@njit(cache=True)
def _search(  # type: ignore[no-untyped-def]
    t,
    mask,
    excl,
    day,
    day_end,
    lo,
    hi,
    low,
    high,
    e0,
    goal,
    level,
    win,
    within,
    boundary,
    tolerance,
    limit,
    ex_from,
    ex_to,
    ex_drop,
    out,
):
    """First chain, in event order step by step, of *level* distinct steps from event e0 whose last event is at *goal*,
    among events low..high-1 of the unit's lo..hi-1. Fills out[:level]."""
    pointer = np.full(level, -1, np.int64)
    latest = np.zeros(level, np.int64)
    out[0] = e0
    latest[0] = t[e0]
    j = 1
    while j >= 1:
        if j == level:
            if t[out[level - 1]] == goal and _spans_clear(
                t, excl, lo, hi, level, limit, win, boundary, ex_from, ex_to, ex_drop, out
            ):
                return True
            j -= 1
            continue
        e = pointer[j] + 1 if pointer[j] >= 0 else low
        p = out[j - 1]
        bound = min(limit, _bound(within[j, 0], within[j, 1], boundary, t[p], day[p], day_end))
        while e < high and t[e] <= bound:
            if (
                (mask[e] >> j) & 1
                and t[e] >= latest[j - 1] - tolerance
                and (j < level - 1 or t[e] == goal)
                and not _taken(out, j, e)
                and not _excluded(t, excl, lo, hi, ex_from, ex_to, j, t[e], tolerance, out)
            ):
                break
            e += 1
        if e >= high or t[e] > bound:
            pointer[j] = -1
            j -= 1
            continue
        pointer[j] = e
        out[j] = e
        latest[j] = max(latest[j - 1], t[e])
        j += 1
    return False


@njit(cache=True)
def _taken(out, count, event):  # type: ignore[no-untyped-def]
    for q in range(count):
        if out[q] == event:
            return True
    return False


@njit(cache=True)
def _excluded(t, excl, lo, hi, ex_from, ex_to, j, moment, tolerance, out):  # type: ignore[no-untyped-def]
    """Is a span broken whatever follows, when step *j* is put at *moment*? Later steps come at most *tolerance*
    earlier than it, so an open span reaches at least that far."""
    for r in range(len(ex_from)):
        if ex_from[r] >= j:
            continue
        if ex_to[r] == j:
            end = moment
        elif ex_to[r] > j:
            end = moment - tolerance
        else:
            continue
        if _has_between(t, excl, lo, hi, r, t[out[ex_from[r]]], end):
            return True
    return False


@njit(cache=True)
def _from_start(  # type: ignore[no-untyped-def]
    t, mask, excl, day, day_end, lo, hi, e0, k, win, within, boundary, tolerance, ex_from, ex_to, ex_drop, out
):
    """(level, goal) of the best chain that begins at event e0, its events in out[:level]."""
    limit = _bound(win[0], win[1], boundary, t[e0], day[e0], day_end)
    low = e0
    while low > lo and t[low - 1] >= t[e0] - tolerance:
        low -= 1
    high = e0
    while high < hi and t[high] <= limit:
        high += 1
    n = high - low
    best = np.full((k, n), np.int64(2**62))
    best[0, e0 - low] = t[e0]
    depth = 1
    for j in range(1, k):
        some = False
        for e in range(n):
            if not (mask[low + e] >> j) & 1:
                continue
            x = t[low + e]
            for f in range(n):
                if f == e or best[j - 1, f] == 2**62 or x < best[j - 1, f] - tolerance:
                    continue
                p = low + f
                if x > _bound(within[j, 0], within[j, 1], boundary, t[p], day[p], day_end):
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
            if best[level - 1, e] == 2**62 or t[low + e] == previous:
                continue
            previous = t[low + e]
            if _search(
                t, mask, excl, day, day_end, lo, hi, low, high, e0, previous, level, win, within, boundary, tolerance,
                limit, ex_from, ex_to, ex_drop, out,
            ):  # fmt: skip
                return level, previous
    return 0, np.int64(-1)


@njit(cache=True)
def walk_tolerant(  # type: ignore[no-untyped-def]
    starts,
    stops,
    t,
    mask,
    excl,
    day,
    day_end,
    k,
    win,
    within,
    boundary,
    tolerance,
    first,
    ex_from,
    ex_to,
    ex_drop,
    unit_out,
    level_out,
    entry_out,
    goal_out,
    chain_out,
):
    """As `kernel.walk`."""
    rows = 0
    chain = np.zeros(k, np.int64)
    for u in range(len(starts)):
        lo, hi = starts[u], stops[u]
        s = lo
        while s < hi and not mask[s] & 1:
            s += 1
        if s == hi:
            continue
        entry = t[s]
        unit_out[rows], level_out[rows], entry_out[rows], goal_out[rows] = u, 0, entry, -1
        while s < hi and (not first or t[s] == entry):
            if mask[s] & 1:
                level, goal = _from_start(
                    t, mask, excl, day, day_end, lo, hi, s, k, win, within, boundary, tolerance, ex_from, ex_to,
                    ex_drop, chain,
                )  # fmt: skip
                better = level > level_out[rows] or (
                    level == level_out[rows]
                    and level > 0
                    and (goal < goal_out[rows] or (goal == goal_out[rows] and t[s] > entry_out[rows]))
                )
                if better:
                    level_out[rows], entry_out[rows], goal_out[rows] = level, t[s], goal
                    for j in range(level):
                        chain_out[rows, j] = chain[j]
            s += 1
        for j in range(level_out[rows], k):
            chain_out[rows, j] = -1
        rows += 1
    return rows
