"""What must hold for any evidence: order, batches, limits, incremental runs, the feed."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import networkx as nx
import numpy as np
import pytest

from cdp.identity.components import components, spanning_forest
from cdp.identity.graph import ACCEPTED, OVERRIDDEN, REDUNDANT, REJECTED
from cdp.identity.memory import Resolved, micros, resolve_items
from cdp.identity.replay import _replay, replay
from cdp.identity.rules import IdentityRules
from tests.identity.brands import Brand, day
from tests.identity.random_evidence import POOL, RULES, as_seen, blocked, rows

AS_OF = micros(day(180))
BARRED = [item for item in POOL if blocked(item)]


def resolved(items: list, rules: IdentityRules = RULES, **more: object) -> Resolved:  # type: ignore[type-arg]
    return resolve_items(items, rules, as_of=AS_OF, barred=BARRED, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(120))
def test_order_of_rows_and_of_places_in_them_never_matters(seed: int) -> None:
    rng = random.Random(seed)
    items = rows(rng, rng.randrange(2, 40))
    expected = resolved(items).partition()
    for _ in range(3):
        shuffled = [
            replace(item, ids=tuple(rng.sample(item.ids, len(item.ids)))) for item in rng.sample(items, len(items))
        ]
        assert resolved(shuffled).partition() == expected


@pytest.mark.parametrize("seed", range(80))
def test_limits_hold_for_every_person(seed: int) -> None:
    rng = random.Random(seed)
    items = rows(rng, 40, manual=False)
    for person in resolved(items).partition():
        held = Counter((kind, scope) for kind, scope, _, _ in person)
        for (kind, scope), count in held.items():
            item = RULES.types[kind]
            if item.limit and not item.limit_window_days:
                assert count <= item.limit, (kind, scope, person)


@pytest.mark.parametrize("seed", range(60))
def test_without_limits_persons_are_connected_components(seed: int) -> None:
    """networkx as the oracle."""
    rng = random.Random(seed)
    free = {
        "limit": None,
        "limit_window_days": None,
        "max_links": {},
        "ttl_days": None,
        "recycle_gap_days": None,
        "block": (),
    }
    rules = RULES.model_copy(
        update={"types": {name: item.model_copy(update=free) for name, item in RULES.types.items()}}
    )
    items = [item for item in rows(rng, 25) if item.kind != "unbind"]
    graph = nx.Graph()
    for item in items:
        linking = [identifier for identifier in item.ids if identifier[0] != "phone_relay"]
        graph.add_nodes_from(item.ids)
        nx.add_path(graph, linking)
    expected = {frozenset((*node, 1) for node in part) for part in nx.connected_components(graph)}
    assert resolve_items(items, rules, as_of=AS_OF).partition() == expected


@pytest.mark.parametrize("seed", range(60))
def test_forcing_a_refused_edge_alone_breaks_its_constraint(seed: int) -> None:
    rng = random.Random(seed)
    outcome = resolved(rows(rng, 40, manual=False)).outcome
    people = outcome.person
    for place, edge in enumerate(outcome.refusals.edge.tolist()):
        a, b = int(outcome.edges.a[edge]), int(outcome.edges.b[edge])
        left, right = int(outcome.refusals.left[place]), int(outcome.refusals.right[place])
        assert people[a] != people[b]
        assert people[left] == people[a]
        assert people[right] == people[b]


@pytest.mark.parametrize("seed", range(80))
def test_parallel_choice_of_edges_first_for_both_sides_equals_the_sequential_replay(seed: int) -> None:
    """Property (d) of § 2.4, by a second implementation."""
    rng = np.random.default_rng(seed)
    count, edges = 14, 30
    a, b = rng.integers(0, count, edges), rng.integers(0, count, edges)
    a, b = a[a != b].astype(np.int32), b[a != b].astype(np.int32)
    group = rng.integers(-1, 3, count).astype(np.int32)
    limit = np.array([1, 2, 3], dtype=np.int32)
    cannot = rng.integers(0, count, (2, 2))
    cannot = cannot[cannot[:, 0] != cannot[:, 1]]
    forced = np.zeros(len(a), dtype=np.bool_)
    decided = replay(count, a, b, forced=forced, group=group, limit=limit, cannot=cannot)
    joined = (decided.decision == ACCEPTED) | (decided.decision == OVERRIDDEN)
    labels = components(count, a[joined], b[joined])

    cluster = list(range(count))
    left = list(range(len(a)))
    banned: set[frozenset[int]] = set()
    while left:
        first: dict[int, int] = {}
        for edge in left:
            for end in (cluster[a[edge]], cluster[b[edge]]):
                first.setdefault(end, edge)
        for edge in [edge for edge in left if first[cluster[a[edge]]] == first[cluster[b[edge]]] == edge]:
            x, y = cluster[a[edge]], cluster[b[edge]]
            if x == y:
                continue
            members = [node for node in range(count) if cluster[node] in (x, y)]
            counts = Counter(int(group[node]) for node in members if group[node] >= 0)
            apart = any(p in members and q in members for p, q in cannot.tolist())
            mine = Counter(int(group[node]) for node in members if cluster[node] == x)
            if apart or any(held > limit[kind] and 0 < mine[kind] < held for kind, held in counts.items()):
                banned.add(frozenset((x, y)))
            else:
                cluster = [x if item == y else item for item in cluster]
                banned = {frozenset(x if item == y else item for item in pair) for pair in banned}
        left = [
            edge
            for edge in left
            if cluster[a[edge]] != cluster[b[edge]] and frozenset((cluster[a[edge]], cluster[b[edge]])) not in banned
        ]
    assert (
        len({(int(label), mine) for label, mine in zip(labels, cluster, strict=True)})
        == len(set(cluster))
        == len(set(labels.tolist()))
    )


def test_compiled_and_interpreted_replay_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    count, edges = 3_000, 12_000
    a, b = rng.integers(0, count, edges).astype(np.int32), rng.integers(0, count, edges).astype(np.int32)
    arguments = {
        "forced": rng.random(edges) < 0.01,
        "group": rng.integers(-1, 2, count).astype(np.int32),
        "limit": np.array([1, 3], dtype=np.int32),
        "cannot": rng.integers(0, count, (50, 2)),
    }
    plain = replay(count, a, b, **arguments)
    monkeypatch.setattr("cdp.identity.replay.COMPILE_FROM", 0)
    compiled = replay(count, a, b, **arguments)
    for one, other in zip(vars(plain).values(), vars(compiled).values(), strict=True):
        assert np.array_equal(one, other)
    assert set(plain.decision.tolist()) >= {ACCEPTED, REDUNDANT, REJECTED}
    assert _replay([], [], [], [], [], [0], [], {}) == ([], [], [], [])


@pytest.mark.parametrize("seed", range(40))
def test_the_chain_between_two_identifiers_is_the_strongest(seed: int) -> None:
    """Property (e): the weakest link of the forest's path is the best bottleneck there is."""
    rng = np.random.default_rng(seed)
    count = 12
    pairs = sorted({(min(x, y), max(x, y)) for x, y in rng.integers(0, count, (30, 2)).tolist() if x != y})
    rng.shuffle(pairs)
    a, b = (np.array(side, dtype=np.int32) for side in zip(*pairs, strict=True))
    taken = spanning_forest(count, a, b)
    everything, forest = nx.Graph(), nx.Graph()
    for place, pair in enumerate(pairs):
        everything.add_edge(*pair, place=place)
        if taken[place]:
            forest.add_edge(*pair, place=place)
    for source in everything:
        for target in nx.node_connected_component(everything, source) - {source}:
            chain = nx.shortest_path(forest, source, target)
            weakest = max(forest.edges[pair]["place"] for pair in pairwise(chain))
            better = nx.Graph([pair for place, pair in enumerate(pairs) if place < weakest])
            assert not (better.has_node(source) and better.has_node(target) and nx.has_path(better, source, target))


def feed_applied(brand: Brand, before: dict[int, str], run: int) -> dict[int, str]:
    """An old map with the feed's rows of one run applied, in order."""
    after = dict(before)
    for op, one, other, node in brand.con.execute(
        """select op, one_id, other_id, node_id from identity.identity_change
        where run = ? and node_id is not null order by seq""",
        [run],
    ).fetchall():
        if op == "attach":
            assert node not in after
            after[node] = one
        elif op == "move":
            assert after[node] == other
            after[node] = one
        else:
            assert after.pop(node) == other
    return after


def node_map(brand: Brand) -> dict[int, str]:
    return dict(brand.con.execute("select node_id, one_id from identity.identity_map where run_to is null").fetchall())


@pytest.mark.parametrize("seed", range(6))
def test_incremental_equals_full_and_the_feed_carries_the_map_over(seed: int) -> None:
    rng = random.Random(1000 + seed)
    brand = Brand(RULES, stale=seed % 2 == 1)
    kept: dict[str, object] = {}
    before: dict[int, str] = {}
    for step in range(5):
        items = rows(rng, rng.randrange(1, 14))
        for item in items:
            kept[brand.add(as_seen(item))[0]] = item
        gone = rng.sample(sorted(kept), min(len(kept), rng.choice((0, 0, 1, 3))))
        brand.remove(gone)
        for key in gone:
            del kept[key]
        as_of = day(120 + 20 * step)
        report = brand.run(as_of=as_of)
        assert (report.mode == "full") == (step == 0)
        expected = resolve_items(list(kept.values()), RULES, as_of=micros(as_of), barred=BARRED).partition()
        assert brand.partition() == expected
        after = node_map(brand)
        assert feed_applied(brand, before, report.run) == after
        before = after
    mapped = brand.mapping()
    fresh = Brand(RULES, brand.con)
    fresh.runs = brand.runs
    assert rebuild(brand, as_of) == mapped


def rebuild(brand: Brand, as_of: object) -> dict[tuple[str, str, str, int], str]:
    """Everything derived thrown away; registry, homes, map and evidence stay."""
    from tests.identity.brands import SECRET
    from warehouse.identity_store import rebuild_identities

    report = rebuild_identities(brand.con, brand.rules, run_id="rebuild", as_of=as_of, secret=SECRET)
    assert report.mode == "full"
    assert report.changes == 0
    return brand.mapping()
