"""Funnels with `order: any`: steps 1…k are all done inside one window, in any order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cdp.funnels.config import Funnel
from cdp.funnels.kernel import _augment, _bound

if TYPE_CHECKING:
    from cdp.funnels.engine import Events, Levels

Ints = NDArray[np.int64]


def unordered_levels(funnel: Funnel, events: Events, day: Ints, day_end: Ints) -> Levels:
    """As `engine.levels`. A chain's entry is its first event in time; `entry: first` fixes it to the unit's first
    event of any step. Units need an event of step 1 to have a row."""
    from cdp.funnels.engine import Levels, bound_of

    count = len(funnel.steps)
    size = len(events.offsets) - 1
    window = np.array(bound_of(funnel.window.total, natural=funnel.window.clock == "natural_day"), dtype=np.int64)
    unit, level, distinct, entry, goal = (np.zeros(size, dtype=np.int64) for _ in range(5))
    chain = np.full((size, count), -1, dtype=np.int64)
    boundary = int(funnel.window.boundary == "exclusive")
    rows = _walk(
        events.offsets, events.t, events.mask, day, day_end, count, window, boundary, funnel.entry == "first",
        unit, level, distinct, entry, goal, chain,
    )  # fmt: skip
    return Levels(unit[:rows], level[:rows], distinct[:rows], entry[:rows], goal[:rows], chain[:rows])


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
        if _augment(mask, first, size, step, owner, np.zeros(size, np.bool_)):
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
def _walk(  # type: ignore[no-untyped-def]
    offsets,
    t,
    mask,
    day,
    day_end,
    k,
    win,
    boundary,
    from_first,
    unit_out,
    level_out,
    distinct_out,
    entry_out,
    goal_out,
    chain_out,
):
    rows = 0
    work = np.zeros(k, np.int64)
    for u in range(len(offsets) - 1):
        lo, hi = offsets[u], offsets[u + 1]
        first = -1
        has_entry = False
        for i in range(lo, hi):
            if mask[i]:
                if first < 0:
                    first = i
                if mask[i] & 1:
                    has_entry = True
        if not has_entry:
            continue
        best, distinct = 0, 0
        best_left, best_right = first, first
        left = first
        stop = hi
        if from_first:
            limit = _bound(win[0], win[1], boundary, t[first], day[first], day_end)
            while stop > lo and t[stop - 1] > limit:
                stop -= 1
        right = first
        while right < stop:
            x = t[right]
            g = right
            while g < stop and t[g] == x:
                g += 1
            if not from_first:
                while x > _bound(win[0], win[1], boundary, t[left], day[left], day_end):
                    left += 1
            distinct = max(distinct, _assign(mask, left, g, k, work))
            if best < k:
                n = _leading(mask, left, g, k, work)
                if n > best:
                    best = n
                    best_left, best_right = left, g
            right = g
        if best > 0 and not from_first:
            # The latest entry that still reaches this level by the earliest goal.
            i = best_left + 1
            while i < best_right and _assign(mask, i, best_right, best, work) == best:
                best_left = i
                i += 1
        if best > 0:
            _first_choice(mask, best_left, best_right, best, work)
            for step in range(best):
                chain_out[rows, step] = work[step]
        unit_out[rows] = u
        level_out[rows] = best
        distinct_out[rows] = distinct
        entry_out[rows] = t[best_left]
        goal_out[rows] = t[best_right - 1] if best > 0 else -1
        rows += 1
    return rows


@njit(cache=True)
def _first_choice(mask, first, last, steps, out):  # type: ignore[no-untyped-def]
    """The assignment whose events come first, step by step."""
    size = last - first
    taken = np.zeros(size, np.bool_)
    rest = mask[first:last].copy()
    scratch = np.zeros(steps, np.int64)
    for step in range(steps):
        for e in range(size):
            if taken[e] or not (mask[first + e] >> step) & 1:
                continue
            saved = rest[e]
            rest[e] = 0
            for other in range(size):
                if not taken[other]:
                    rest[other] = rest[other] & ~((np.int64(1) << (step + 1)) - 1)
            if _assign_from(rest, size, step + 1, steps, scratch):
                taken[e] = True
                out[step] = first + e
                break
            rest[e] = saved


@njit(cache=True)
def _assign_from(mask, size, start, steps, scratch):  # type: ignore[no-untyped-def]
    owner = np.full(size, -1, np.int64)
    for step in range(start, steps):
        if not _augment(mask, 0, size, step, owner, np.zeros(size, np.bool_)):
            return False
    scratch[0] = 0
    return True
