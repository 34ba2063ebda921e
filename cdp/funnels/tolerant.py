"""Funnels with `ties: tolerance`: events at most that far apart count as simultaneous for order, not for windows.

A chain then needs, for every earlier step i and later step j, t_j >= t_i - tolerance. With the start given, the best
    way to
arrive at an event as step j is the one whose latest instant so far is smallest, so one number per step and event
    decides.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from cdp.funnels.kernel import _bound, _next_entry


@njit(cache=True)
def _search(t, mask, day, day_end, low, high, e0, goal, level, within, boundary, tolerance, limit, out):  # type: ignore[no-untyped-def]
    """First chain, in event order step by step, of *level* distinct steps from event e0 whose last event is at
    *goal*."""
    pointer = np.full(level, -1, np.int64)
    latest = np.zeros(level, np.int64)
    out[0] = e0
    latest[0] = t[e0]
    if level == 1:
        return t[e0] == goal
    j = 1
    while j >= 1:
        e = pointer[j] + 1 if pointer[j] >= 0 else low
        p = out[j - 1]
        bound = min(limit, _bound(within[j, 0], within[j, 1], boundary, t[p], day[p], day_end))
        found = False
        while e < high and t[e] <= bound:
            ok = (mask[e] >> j) & 1 and t[e] >= latest[j - 1] - tolerance
            if ok and j == level - 1:
                ok = t[e] == goal
            if ok:
                for q in range(j):
                    if out[q] == e:
                        ok = False
            if ok:
                found = True
                break
            e += 1
        if not found:
            pointer[j] = -1
            j -= 1
            continue
        pointer[j] = e
        out[j] = e
        latest[j] = max(latest[j - 1], t[e])
        if j == level - 1:
            return True
        j += 1
    return False


@njit(cache=True)
def _from_start(t, mask, day, day_end, lo, hi, e0, k, win, within, boundary, tolerance, out):  # type: ignore[no-untyped-def]
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
            if _search(t, mask, day, day_end, low, high, e0, previous, level, within, boundary, tolerance, limit, out):
                return level, previous
    return 0, np.int64(-1)


@njit(cache=True)
def walk_tolerant(  # type: ignore[no-untyped-def]
    offsets,
    t,
    mask,
    day,
    day_end,
    k,
    win,
    within,
    boundary,
    tolerance,
    entry,
    unit_out,
    level_out,
    entry_out,
    goal_out,
    chain_out,
):
    """As `kernel.walk`, for funnels without exclusions."""
    rows = 0
    chain = np.zeros(k, np.int64)
    for u in range(len(offsets) - 1):
        lo, hi = offsets[u], offsets[u + 1]
        first = lo
        while first < hi and not mask[first] & 1:
            first += 1
        if first == hi:
            continue
        best_level, best_goal, best_entry = 0, np.int64(0), np.int64(0)
        s = first
        while s < hi:
            level, goal = _from_start(t, mask, day, day_end, lo, hi, s, k, win, within, boundary, tolerance, chain)
            better = level > best_level or (
                level == best_level and (goal < best_goal or (goal == best_goal and t[s] > best_entry))
            )
            if entry == 2 or better:
                best_level, best_goal, best_entry = level, goal, t[s]
                unit_out[rows] = u
                level_out[rows] = level
                entry_out[rows] = t[s]
                goal_out[rows] = goal
                for j in range(k):
                    chain_out[rows, j] = chain[j] if j < level else -1
            if entry == 2:
                rows += 1
                s = _next_entry(
                    t, mask, day, day_end, hi, s, level, k, goal, np.int64(2**62), win, boundary, False, chain
                )
                continue
            s += 1
            while s < hi and not mask[s] & 1:
                s += 1
            if entry == 1 and s < hi and t[s] > t[first]:
                break
        if entry != 2:
            rows += 1
    return rows
