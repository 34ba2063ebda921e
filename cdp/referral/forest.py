"""The referral forest: one credited inviter per invitee, and what follows from it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba import njit
from numpy.typing import NDArray

Ints = NDArray[np.int64]


def credit_edges(inviter: Ints, invitee: Ints, people: int) -> NDArray[np.bool_]:
    """Which of the valid edges (in order of time, people numbered 0…) earn credit: the first for each invitee that
    closes no circle. A person whose own invitation would come from someone below them stays a root."""
    return np.asarray(_credit(inviter, invitee, people))


@njit(cache=True)
def _credit(inviter, invitee, people):  # type: ignore[no-untyped-def]
    root = np.arange(people)
    has_parent = np.zeros(people, np.bool_)
    credited = np.zeros(len(inviter), np.bool_)
    for edge in range(len(inviter)):
        child = invitee[edge]
        if has_parent[child]:
            continue
        top = inviter[edge]
        while root[top] != top:
            root[top] = root[root[top]]
            top = root[top]
        if top == child:
            continue
        root[child] = top
        has_parent[child] = True
        credited[edge] = True
    return credited


def generations(inviter: Ints, invitee: Ints, campaign: Ints, people: int) -> Ints:
    """Per credited edge the generation of its invitee inside the edge's campaign: 1 when the inviter was not brought by
    that campaign, else one more than the inviter's."""
    return np.asarray(_generations(inviter, invitee, campaign, people))


@njit(cache=True)
def _generations(inviter, invitee, campaign, people):  # type: ignore[no-untyped-def]
    edge_of = np.full(people, -1, np.int64)
    for edge in range(len(invitee)):
        edge_of[invitee[edge]] = edge
    result = np.zeros(len(inviter), np.int64)
    stack = np.empty(len(inviter), np.int64)
    for edge in range(len(inviter)):
        size = 0
        now = edge
        while now >= 0 and result[now] == 0:
            stack[size] = now
            size += 1
            parent = edge_of[inviter[now]]
            now = parent if parent >= 0 and campaign[parent] == campaign[now] else -1
        depth = result[now] if now >= 0 else 0
        while size > 0:
            size -= 1
            depth += 1
            result[stack[size]] = depth
    return result


def ceiling(seeds: float, k: float) -> float | None:
    """People reached in the end when each brings k more: seeds ÷ (1 - k); None when k >= 1, where there is no end."""
    return seeds / (1 - k) if k < 1 else None


def people_at(seeds: float, k: float, elapsed: float, cycle: float) -> float:
    """People reached after *elapsed* time with cycle time *cycle*: U0 (K^(t/p + 1) - 1) / (K - 1) (Skok, Reiss)."""
    if k == 1:
        return seeds * (elapsed / cycle + 1)
    return seeds * (k ** (elapsed / cycle + 1) - 1) / (k - 1)


def k_factor(invitations_per_user: float, conversion: float) -> float:
    """K = invitations per user × conversion per invitation."""
    return invitations_per_user * conversion


def reach_of(seeds: int, factors: Sequence[float]) -> float:
    """Seeds × Σ of the running products of the generations' K factors, the seeds themselves included."""
    total, product = 1.0, 1.0
    for factor in factors:
        product *= factor
        total += product
    return seeds * total
