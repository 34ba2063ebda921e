"""Why two identifiers are one person, what would part them, and which identifiers hold a person together."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable, Sequence
from itertools import pairwise
from typing import TypeVar

N = TypeVar("N", bound=Hashable)
Pair = tuple[N, N]


def neighbours_of(pairs: Iterable[Pair[N]]) -> dict[N, list[N]]:
    """Adjacency, neighbours in the order of *pairs*."""
    found: dict[N, list[N]] = {}
    for a, b in pairs:
        found.setdefault(a, []).append(b)
        found.setdefault(b, []).append(a)
    return found


def chain(pairs: Iterable[Pair[N]], start: N, end: N) -> list[N]:
    """The nodes from *start* to *end*, empty when there is no way. In a forest this is the only way, and the
    strongest."""
    beside, came_from = neighbours_of(pairs), {start: start}
    waiting = deque([start])
    while waiting and end not in came_from:
        node = waiting.popleft()
        for other in beside.get(node, ()):
            if other not in came_from:
                came_from[other] = node
                waiting.append(other)
    if end not in came_from:
        return []
    way = [end]
    while way[-1] != start:
        way.append(came_from[way[-1]])
    return way[::-1]


def smallest_cut(pairs: Sequence[Pair[N]], start: N, end: N) -> list[Pair[N]]:
    """The fewest pairs without which *start* and *end* are apart: maximum flow of unit edges (Ford and Fulkerson
    1956)."""
    edges = list(dict.fromkeys(pairs))
    spare: dict[N, dict[N, int]] = {}
    for a, b in edges:
        spare.setdefault(a, {})[b] = 1
        spare.setdefault(b, {})[a] = 1
    if start == end or start not in spare:
        return []
    while way := chain_with_room(spare, start, end):
        for a, b in pairwise(way):
            spare[a][b] -= 1
            spare[b][a] += 1
    side = reached(spare, start)
    return [(a, b) for a, b in edges if (a in side) != (b in side)]


def chain_with_room(spare: dict[N, dict[N, int]], start: N, end: N) -> list[N]:
    """A shortest way over edges with room left, empty when there is none."""
    came_from, waiting = {start: start}, deque([start])
    while waiting:
        node = waiting.popleft()
        for other, room in spare.get(node, {}).items():
            if room > 0 and other not in came_from:
                came_from[other] = node
                if other == end:
                    way = [end]
                    while way[-1] != start:
                        way.append(came_from[way[-1]])
                    return way[::-1]
                waiting.append(other)
    return []


def reached(spare: dict[N, dict[N, int]], start: N) -> set[N]:
    found, waiting = {start}, [start]
    while waiting:
        for other, room in spare.get(waiting.pop(), {}).items():
            if room > 0 and other not in found:
                found.add(other)
                waiting.append(other)
    return found


def hinges(pairs: Sequence[Pair[N]]) -> list[tuple[N, int]]:
    """Nodes whose loss parts the rest, with how many nodes would no longer hang with the largest part; most first."""
    beside = neighbours_of(pairs)
    found = []
    for node in beside:
        parts = _parts_without(beside, node)
        if len(parts) > 1:
            found.append((node, sum(parts) - max(parts)))
    return sorted(found, key=lambda item: (-item[1], str(item[0])))


def _parts_without(beside: dict[N, list[N]], lost: N) -> list[int]:
    seen, sizes = {lost}, []
    for start in beside[lost]:
        if start in seen:
            continue
        seen.add(start)
        waiting, size = [start], 0
        while waiting:
            size += 1
            for other in beside[waiting.pop()]:
                if other not in seen:
                    seen.add(other)
                    waiting.append(other)
        sizes.append(size)
    return sizes
