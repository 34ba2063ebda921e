"""Markov attribution, solved exactly: what share of conversions would be lost without a channel.

Paths walk from `start` through the last *order* channels seen to `conversion` or `null`. Removing a channel turns every
state that holds it into null. Conversion probabilities come from the linear system of the absorbing chain (in exact
fractions while it is small), never from simulation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
_EXACT_STATES = 24  # exact elimination grows with the cube of the states and with the length of the fractions


@dataclass(frozen=True)
class Paths:
    """Distinct paths. *channel*: channel codes of all paths, one after the other; *offsets*: where each begins, plus
    the end; *conversions*, *nulls*: how many walks along it ended in an order, or in nothing."""

    channel: Ints
    offsets: Ints
    conversions: Ints
    nulls: Ints


@dataclass(frozen=True)
class MarkovModel:
    """*probability*: chance of conversion from the start. *removal*: per channel code, the share of it that is lost
    without the channel. *low*, *high*: bootstrap bounds (5 %, 95 %) of the removal effects, empty without bootstrap."""

    order: int
    states: int
    probability: float
    removal: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()


def fit_markov(paths: Paths, channels: int, *, order: int = 1, bootstrap: int = 0, seed: int = 0) -> MarkovModel:
    """The chain of *order* over *channels* channel codes. Equal input gives equal bytes; *seed* drives the
    bootstrap."""
    chain = _Chain(paths, channels, order)
    probability, removal = chain.effects(paths.conversions, paths.nulls, exact=True)
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    if bootstrap and paths.conversions.sum():
        draws = _bootstrap(chain, paths, bootstrap, seed)
        low = tuple(float(v) for v in np.quantile(draws, 0.05, axis=0))
        high = tuple(float(v) for v in np.quantile(draws, 0.95, axis=0))
    return MarkovModel(order, chain.size, float(probability), tuple(float(value) for value in removal), low, high)


def credits(removal: Sequence[float], conversions: float) -> list[float]:
    """Conversions shared among channels in proportion to their removal effects."""
    total = sum(removal)
    return [conversions * value / total if total else 0.0 for value in removal]


class _Chain:
    """Transitions of distinct paths, ready to be weighted again (for the bootstrap)."""

    def __init__(self, paths: Paths, channels: int, order: int) -> None:
        lengths = np.diff(paths.offsets)
        state = _states(paths.channel, paths.offsets, channels, order)
        codes, state = np.unique(state, return_inverse=True)
        self.size = len(codes)
        self.channels = channels
        self.members = [_members(int(code), channels, order) for code in codes]
        first = paths.offsets[:-1][lengths > 0]
        last = paths.offsets[1:][lengths > 0] - 1
        owner = np.repeat(np.arange(len(lengths)), lengths)
        inner = np.ones(len(state), dtype=bool)
        inner[last] = False
        where = np.flatnonzero(inner)
        self.from_state, self.to_state, self.inner_owner = state[where], state[where + 1], owner[where]
        self.first_state, self.last_state, self.end_owner = state[first], state[last], owner[first]

    def effects(
        self, conversions: Ints, nulls: Ints, *, exact: bool = False
    ) -> tuple[Fraction | float, list[Fraction | float]]:
        """(conversion probability, removal effect per channel)."""
        size, walks = self.size, conversions + nulls
        moves = np.zeros((size, size), dtype=np.int64)
        np.add.at(moves, (self.from_state, self.to_state), walks[self.inner_owner])
        starts = np.bincount(self.first_state, walks[self.end_owner], size).astype(np.int64)
        wins = np.bincount(self.last_state, conversions[self.end_owner], size).astype(np.int64)
        losses = np.bincount(self.last_state, nulls[self.end_owner], size).astype(np.int64)
        outs = moves.sum(axis=1) + wins + losses
        groups = [np.flatnonzero([channel in members for members in self.members]) for channel in range(self.channels)]
        if not (exact and size <= _EXACT_STATES):
            return _effects_float(moves, wins, outs, starts, groups)
        whole = _solve_exact(moves, wins, outs, starts, np.zeros(size, dtype=bool))
        removal: list[Fraction | float] = []
        for group in groups:
            gone = np.zeros(size, dtype=bool)
            gone[group] = True
            rest = _solve_exact(moves, wins, outs, starts, gone)
            removal.append(1 - rest / whole if whole else 0.0)
        return whole, removal


def _states(channel: Ints, offsets: Ints, channels: int, order: int) -> Ints:
    """Per touch, a number for the last *order* channels up to it (shorter at the beginning of a path)."""
    base = channels + 1
    place = np.arange(len(channel)) - np.repeat(offsets[:-1], np.diff(offsets))
    state = channel + 1
    for back in range(1, order):
        earlier = np.zeros_like(channel)
        earlier[back:] = channel[:-back] + 1
        state = state + np.where(place >= back, earlier, 0) * base**back
    return state


def _members(code: int, channels: int, order: int) -> set[int]:
    found = set()
    for _ in range(order):
        code, digit = divmod(code, channels + 1)
        if digit:
            found.add(digit - 1)
    return found


def _effects_float(
    moves: Ints, wins: Ints, outs: Ints, starts: Ints, groups: Sequence[NDArray[np.intp]]
) -> tuple[float, list[Fraction | float]]:
    """(conversion probability, removal effect of each group of states), from one inverse for all groups.

    With N the fundamental matrix, taking states G away leaves N - N[:,G] N[G,G]^-1 N[G,:] (Schur complement).
    """
    total = starts.sum()
    if not len(starts) or not total:
        return 0.0, [0.0 for _ in groups]
    scale = np.maximum(outs, 1)[:, None]
    fundamental = np.linalg.inv(np.eye(len(starts)) - moves / scale)
    value = fundamental @ (wins / scale[:, 0])
    visits = starts @ fundamental
    whole = float(starts @ value / total)
    if not whole:
        return 0.0, [0.0 for _ in groups]
    lost = [visits[group] @ np.linalg.solve(fundamental[np.ix_(group, group)], value[group]) for group in groups]
    return whole, [float(part / total) / whole for part in lost]


def _solve_exact(moves: Ints, wins: Ints, outs: Ints, starts: Ints, gone: NDArray[np.bool_]) -> Fraction:
    """The same by Gaussian elimination in fractions."""
    kept = [int(i) for i in np.flatnonzero(~gone)]
    total = int(starts.sum())
    if not kept or not total:
        return Fraction(0)
    rows = [
        [Fraction(int(i == j)) * int(outs[i]) - int(moves[i, j]) for j in kept] + [Fraction(int(wins[i]))] for i in kept
    ]
    size = len(kept)
    for column in range(size):
        pivot = next(row for row in range(column, size) if rows[row][column])
        rows[column], rows[pivot] = rows[pivot], rows[column]
        lead = rows[column][column]
        rows[column] = [value / lead for value in rows[column]]
        for row in range(size):
            factor = rows[row][column]
            if row != column and factor:
                rows[row] = [a - factor * b for a, b in zip(rows[row], rows[column], strict=True)]
    return sum((int(starts[i]) * rows[place][-1] for place, i in enumerate(kept)), Fraction(0)) / total


def _bootstrap(chain: _Chain, paths: Paths, times: int, seed: int) -> NDArray[np.float64]:
    """Removal effects of *times* resamples of the walks, one row each."""
    rng = np.random.default_rng(seed)
    counts = np.concatenate([paths.conversions, paths.nulls]).astype(np.float64)
    total, shares = int(counts.sum()), counts / counts.sum()
    size = len(paths.conversions)
    draws = []
    for _ in range(times):
        drawn = rng.multinomial(total, shares).astype(np.int64)
        draws.append([float(value) for value in chain.effects(drawn[:size], drawn[size:])[1]])
    return np.array(draws)


def shapley(orders_by_set: Mapping[frozenset[str], int]) -> dict[str, Fraction]:
    """Shapley value of each channel, where a coalition is worth the orders whose channels it covers.

    With this worth the value is exact and simple: every order is shared equally by the distinct channels on its path.
    """
    result: dict[str, Fraction] = {}
    for channels, orders in orders_by_set.items():
        for channel in channels:
            result[channel] = result.get(channel, Fraction(0)) + Fraction(orders, len(channels))
    return result
