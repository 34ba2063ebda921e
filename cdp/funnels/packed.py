"""The fastest way to the levels of a plain funnel: one number per event, sorted, and one pass.

For funnels in which every event serves exactly one step, simultaneous events may stand in step order, and the only
bound is one window. (unit, time, step) is packed into 64 bits, so that sorting needs no second array.
"""

# Compiled code reads better as plain loops.
# ruff: noqa: SIM110

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cdp.errors import FatalError

Ints = NDArray[np.int64]


def packed_levels(unit: Ints, t: Ints, step: NDArray[np.uint8], steps: int, window: int) -> Ints:
    """Level per unit 0…max(unit). *unit*: small non-negative numbers; *t*: microseconds; *step*: 0…steps-1; *window*:
    microseconds, inclusive. Raises `FatalError` when the three do not fit 64 bits; then use the general kernel."""
    if not len(unit):
        return np.zeros(0, dtype=np.int64)
    scale = _scale(t, window)
    first = int(t.min())
    step_bits = max(int(steps - 1).bit_length(), 1)
    time_bits = max(int((int(t.max()) - first) // scale).bit_length(), 1)
    unit_bits = max(int(unit.max()).bit_length(), 1)
    if step_bits + time_bits + unit_bits > 63 or int(unit.min()) < 0:
        raise FatalError(
            f"units, time and steps need {step_bits + time_bits + unit_bits} bits", hint="use the general kernel"
        )
    packed = _pack(unit, t, step, first, scale, step_bits, time_bits)
    packed.sort()
    return _scan(packed, int(unit.max()) + 1, steps, window // scale, step_bits, time_bits)


def _scale(t: Ints, window: int) -> int:
    """The coarsest of second, millisecond and microsecond that loses nothing."""
    for scale in (1_000_000, 1_000):
        if window % scale == 0 and not _any_rest(t, scale):
            return scale
    return 1


@njit(cache=True)
def _any_rest(t, scale):  # type: ignore[no-untyped-def]
    for value in t:
        if value % scale:
            return True
    return False


@njit(cache=True)
def _pack(unit, t, step, first, scale, step_bits, time_bits):  # type: ignore[no-untyped-def]
    result = np.empty(len(unit), np.int64)
    for i in range(len(unit)):
        moment = (t[i] - first) // scale
        result[i] = (((np.int64(unit[i]) << time_bits) | moment) << step_bits) | step[i]
    return result


@njit(cache=True)
def _scan(packed, units, steps, window, step_bits, time_bits):  # type: ignore[no-untyped-def]
    levels = np.zeros(units, np.int64)
    start = np.empty(steps, np.int64)
    present = np.int64(-1)
    step_mask = (np.int64(1) << step_bits) - 1
    time_mask = (np.int64(1) << time_bits) - 1
    never = np.int64(-(2**62))
    best = 0
    for value in packed:
        unit = value >> (step_bits + time_bits)
        if unit != present:
            if present >= 0:
                levels[present] = best
            present = unit
            best = 0
            for j in range(steps):
                start[j] = never
        moment = (value >> step_bits) & time_mask
        step = value & step_mask
        if step == 0:
            start[0] = moment
            if best == 0:
                best = 1
        elif start[step - 1] != never and moment - start[step - 1] <= window:
            start[step] = start[step - 1]
            if step + 1 > best:
                best = step + 1
    if present >= 0:
        levels[present] = best
    return levels
