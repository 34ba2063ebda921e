"""Merge protection: taking a contested component's edges strongest first, refusing those that would break a limit.

Greedy on purpose. The fewest refusals would be a multiway cut (NP-hard), and nobody could say why a pair was parted; in
this order every refusal has one reason that can be read out (identity.md § 2.4).
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdp.identity.graph import ACCEPTED, OVERRIDDEN, REDUNDANT, REJECTED, REJECTED_CANNOT, Bools, Ints, Small

# From here compiled code pays for its start (0.3 s from cache, 5 s the first time on a machine).
COMPILE_FROM = 60_000


@dataclass(frozen=True)
class Replayed:
    """Outcome per edge, in the order given: decision, group whose limit spoke (-1 none), the value on either side (-1
    none)."""

    decision: NDArray[np.int8]
    group: Small
    left: Small
    right: Small


def replay(count: int, a: Small, b: Small, *, forced: Bools, group: Small, limit: Small, cannot: Ints) -> Replayed:
    """Decide edges `(a[i], b[i])` in order. *group*: limit group per node (-1 none); *limit*: most nodes per group.

    *forced* edges may break limits but no cannot-link. *cannot*: n×2 pairs of nodes that must stay apart.
    """
    pairs = np.concatenate([cannot, cannot[:, ::-1]]) if len(cannot) else np.empty((0, 2), dtype=np.int64)
    pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
    start = np.searchsorted(pairs[:, 0], np.arange(count + 1)).astype(np.int64)
    arguments = (a, b, forced, group, limit, start, pairs[:, 1].astype(np.int64))
    if len(a) >= COMPILE_FROM:
        run, counts = _compiled()
        decision, why, left, right = run(*arguments, counts)
    else:
        lists: list[Any] = [item.tolist() for item in arguments]
        decision, why, left, right = _replay(*lists, {})  # type: ignore[call-arg]
    return Replayed(
        np.asarray(decision, dtype=np.int8), np.asarray(why, dtype=np.int32),
        np.asarray(left, dtype=np.int32), np.asarray(right, dtype=np.int32),
    )  # fmt: skip


@cache
def _jitted() -> Callable[..., Any]:
    import numba

    return numba.njit(cache=True)(_replay)


def _compiled() -> tuple[Callable[..., Any], Any]:
    from numba import types
    from numba.typed import Dict

    return _jitted(), Dict.empty(types.int64, types.int64)


def _replay(  # one body for the interpreter (lists) and for numba (arrays): plain integers and lists only
    a: Any, b: Any, forced: Any, group: Any, limit: Any, cannot_start: Any, cannot_other: Any,
    counts: MutableMapping[int, int],
) -> tuple[list[int], list[int], list[int], list[int]]:  # fmt: skip
    nodes, groups, edges = len(group), len(limit), len(a)
    parent = list(range(nodes))
    # Per cluster a chain of the nodes that count towards a limit, and one of those with a cannot-link.
    head, tail, size = [-1] * nodes, [-1] * nodes, [0] * nodes
    following = [-1] * nodes
    apart_head, apart_tail, apart_next = [-1] * nodes, [-1] * nodes, [-1] * nodes
    for node in range(nodes):
        if group[node] >= 0:
            head[node] = tail[node] = node
            size[node] = 1
            counts[node * groups + group[node]] = 1
        if cannot_start[node + 1] > cannot_start[node]:
            apart_head[node] = apart_tail[node] = node
    decision, why, left, right = [0] * edges, [-1] * edges, [-1] * edges, [-1] * edges
    for edge in range(edges):
        x, y = a[edge], b[edge]
        while parent[x] != x:
            parent[x] = parent[parent[x]]
            x = parent[x]
        while parent[y] != y:
            parent[y] = parent[parent[y]]
            y = parent[y]
        if x == y:
            decision[edge] = REDUNDANT
            continue
        swapped = size[x] < size[y]
        if swapped:
            x, y = y, x  # y is the smaller
        parted = False
        node = apart_head[y]
        while node >= 0 and not parted:
            for place in range(cannot_start[node], cannot_start[node + 1]):
                other = cannot_other[place]
                while parent[other] != other:
                    other = parent[other]
                if other == x:
                    decision[edge] = REJECTED_CANNOT
                    left[edge], right[edge] = (node, cannot_other[place]) if swapped else (cannot_other[place], node)
                    parted = True
                    break
            node = apart_next[node]
        if parted:
            continue
        broken = -1
        node = head[y]
        while node >= 0:
            kind = group[node]
            key = x * groups + kind
            over = key in counts and counts[key] + counts[y * groups + kind] > limit[kind]
            if over and (broken < 0 or kind < broken):
                broken = kind
            node = following[node]
        if broken >= 0 and not forced[edge]:
            decision[edge] = REJECTED
            why[edge] = broken
            for side in range(2):
                node = head[x] if side == 0 else head[y]
                best = -1
                while node >= 0:
                    if group[node] == broken and (best < 0 or node < best):
                        best = node
                    node = following[node]
                if (side == 0) != swapped:
                    left[edge] = best
                else:
                    right[edge] = best
            continue
        decision[edge] = ACCEPTED if broken < 0 else OVERRIDDEN
        why[edge] = broken
        parent[y] = x
        node = head[y]
        while node >= 0:
            key = x * groups + group[node]
            counts[key] = counts.get(key, 0) + 1
            node = following[node]
        if head[y] >= 0:
            if head[x] < 0:
                head[x] = head[y]
            else:
                following[tail[x]] = head[y]
            tail[x] = tail[y]
            size[x] += size[y]
        if apart_head[y] >= 0:
            if apart_head[x] < 0:
                apart_head[x] = apart_head[y]
            else:
                apart_next[apart_tail[x]] = apart_head[y]
            apart_tail[x] = apart_tail[y]
    return decision, why, left, right
