"""What people ask and decide: show, explain, why-not, cut, link, unlink, detach, withdraw, what-if, health, as-of."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from datetime import datetime

import networkx as nx
import pytest

from cdp.errors import CheckFailedError, FatalError
from cdp.identity.drawing import draw
from cdp.identity.explain import chain, hinges, smallest_cut
from cdp.identity.memory import Identifier, Item, micros, resolve_items
from cdp.identity.rules import IdentityRules
from tests.identity.brands import AS_OF, SECRET, Brand, day, seen
from tests.identity.random_evidence import RULES, as_seen, rows
from warehouse import identity_assertions as decide
from warehouse import identity_queries as ask
from warehouse.identity_queries import find

NOW = day(160)


@pytest.fixture
def brand() -> Brand:
    """Two members whose evidence meets in a family's phone and in a tablet."""
    made = Brand()
    made.run(
        seen("bind", 0, member_id="m1", unionid="u1"),
        seen("login", 1, unionid="u1", openid_wx1="o1"),
        seen("login", 2, openid_wx1="o1", anonymous_id="a1"),
        seen("bind", 0, member_id="m1", phone="13612340001"),
        seen("order", 9, member_id="m2", phone="13612340001"),
        seen("bind", 3, member_id="m2", unionid="u2"),
        seen("login", 4, unionid="u2", phone="13612340002"),
        seen("login", 5, member_id="m1", phone="13800138000"),
    )
    return made


def pair(brand: Brand, kind: decide.Kind, a: str, b: str, **more: object) -> decide.Asserted:
    return decide.assert_pair(
        brand.con,
        brand.rules,
        kind,
        find(brand.con, a),
        find(brand.con, b),
        author="tester",
        reason="test",
        now=NOW,
        secret=SECRET,
        **more,  # type: ignore[arg-type]
    )


def test_identifiers_are_found_by_type_scope_raw_value_and_one_id(brand: Brand) -> None:
    node = find(brand.con, "o1")
    assert node == find(brand.con, "openid@wx1:o1") == find(brand.con, "openid:o1")
    assert find(brand.con, str(node.one_id)).name == "member_id:m1"
    with pytest.raises(FatalError, match="no identifier or one_id"):
        find(brand.con, "nobody")
    brand.run(seen(unionid="twice"), seen(openid_wx1="twice"))
    with pytest.raises(FatalError, match="several identifiers: openid@wx1, unionid@"):
        find(brand.con, "twice")


def test_explain_tells_the_chain_with_its_rows_and_the_smallest_cut(brand: Brand) -> None:
    found = ask.explain(brand.con, find(brand.con, "m1"), find(brand.con, "a1"))
    assert found.same
    assert [(link.a, link.b, link.tier) for link in found.chain] == [
        ("member_id:m1", "unionid:u1", 1),
        ("unionid:u1", "openid@wx1:o1", 2),
        ("openid@wx1:o1", "anonymous_id:a1", 2),
    ]
    assert [link.evidence[0][1] for link in found.chain] == ["k1", "k2", "k3"]
    assert len(found.cut) == 1


def test_why_not_names_the_rule_and_the_other_owner(brand: Brand) -> None:
    found = ask.explain(brand.con, find(brand.con, "m1"), find(brand.con, "m2"))
    assert not found.same
    assert found.why == [
        "`member_id:m2` – `phone:13612340001` was kept back: one of them is kept with its better owner only "
        "(`max_links`)"
    ]
    blocked = ask.explain(brand.con, find(brand.con, "m1"), find(brand.con, "phone:13800138000"))
    assert "links nobody: blocked" in blocked.why[0]


def test_why_not_of_a_limit_names_both_values() -> None:
    brand = Brand()
    brand.run(seen(member_id="m1", unionid="u1"), seen("login", 1, member_id="m2", unionid="u1"))
    found = ask.explain(brand.con, find(brand.con, "m1"), find(brand.con, "m2"))
    assert found.why == [
        "`member_id:m2` – `unionid:u1` was rejected: a person may not hold both `member_id:m2` and `member_id:m1` "
        "(limit:member_id), and stronger evidence had joined them to either side"
    ]


def test_cut_that_does_not_part_tells_the_way_that_is_left(brand: Brand) -> None:
    brand.run(seen("login", 7, member_id="m1", openid_wx1="o1"))
    done = pair(brand, "cut_edge", "m1", "u1")
    assert done.after.same
    assert [link.b for link in done.after.chain] == ["openid@wx1:o1", "unionid:u1"]
    done = pair(brand, "cut_edge", "m1", "o1")
    assert not done.after.same


def test_unlink_parts_whatever_the_evidence_and_withdrawing_returns_the_ids(brand: Brand) -> None:
    before = brand.mapping()
    done = pair(brand, "cannot_link", "m1", "a1")
    assert not done.after.same
    assert done.sacrificed == [("openid@wx1:o1", "anonymous_id:a1")]
    brand.run(seen("bind", 20, member_id="m1", anonymous_id="a1"))
    assert brand.id("member_id", "m1") != brand.id("anonymous_id", "a1")
    decide.withdraw(brand.con, brand.rules, done.assertion_ids[0], now=NOW, secret=SECRET)
    assert brand.mapping() == before


def test_link_joins_two_members_against_the_limit_and_is_flagged(brand: Brand) -> None:
    done = pair(brand, "must_link", "m1", "m2")
    assert done.after.same
    assert brand.id("member_id", "m1") == brand.id("unionid", "u2")
    assert brand.con.execute(
        "select decision, reason from identity.edge_decision where decision = 'overridden'"
    ).fetchall() == [("overridden", "limit:member_id")]


def test_decisions_survive_replays_and_rebuilds(brand: Brand) -> None:
    from warehouse.identity_store import rebuild_identities

    pair(brand, "cannot_link", "m1", "a1")
    before = brand.mapping()
    rebuild_identities(brand.con, brand.rules, run_id="again", as_of=NOW, secret=SECRET)
    assert brand.mapping() == before
    assert brand.run(as_of=NOW).changes == 0


def test_detach_parts_an_identifier_from_all_accounts(brand: Brand) -> None:
    decide.detach(
        brand.con, brand.rules, find(brand.con, "13612340001"), author="t", reason="t", now=NOW, secret=SECRET
    )
    assert brand.id("phone", "13612340001") not in (brand.id("member_id", "m1"), brand.id("unionid", "u1"))


def test_cut_of_a_time_leaves_other_evidence_of_the_pair() -> None:
    brand = Brand()
    brand.run(seen("bind", 0, member_id="m1", unionid="u1"), seen("bind", 50, member_id="m1", unionid="u1"))
    pair(brand, "cut_edge", "m1", "u1", since=day(-1), until=day(10))
    assert brand.id("member_id", "m1") == brand.id("unionid", "u1")
    pair(brand, "cut_edge", "m1", "u1", since=day(40), until=day(60))
    assert brand.id("member_id", "m1") != brand.id("unionid", "u1")


@pytest.mark.parametrize("seed", range(3))
def test_what_if_counts_are_those_of_the_real_change_and_nothing_is_stored(seed: int) -> None:
    rng = random.Random(seed)
    brand = Brand(RULES)
    brand.add(*(as_seen(item) for item in rows(rng, 40, manual=False)))
    brand.run()
    before, runs = brand.mapping(), brand.con.execute("select count(*) from identity.run_manifest").fetchall()
    data = RULES.model_dump(by_alias=True)
    data["types"]["member_id"]["limit"] = 3
    data["types"]["phone"]["max_links"] = {}
    data["types"]["unionid"]["limit"] = 1
    other = IdentityRules.model_validate(data)
    told = decide.what_if(brand.con, other, as_of=AS_OF, secret=SECRET)
    assert brand.mapping() == before
    assert brand.con.execute("select count(*) from identity.run_manifest").fetchall() == runs
    real = brand.run(rules=other)
    for name in ("merges", "splits", "minted", "resurrected", "retired", "moved", "changes", "people", "map_hash"):
        assert getattr(told.report, name) == getattr(real, name), name
    assert told.moved_identifiers == real.moved > 0


@pytest.mark.parametrize("seed", range(3))
def test_what_if_names_the_tags_whose_holders_would_change(seed: int) -> None:
    """Counted from the maps before and after by another way: every tag goes along with identifiers."""
    rng = random.Random(seed)
    brand = Brand(RULES)
    brand.add(*(as_seen(item) for item in rows(rng, 40, manual=False)))
    brand.run()
    assert decide.what_if(brand.con, RULES, as_of=AS_OF, secret=SECRET).audiences == []
    brand.con.execute("attach ':memory:' as marts_db")
    brand.con.execute("create schema marts_db.marts")
    brand.con.execute("create table marts_db.marts.fct_tags_current (one_id text, tag_group text, value text)")
    before = brand.mapping()
    tags = {(one, rng.choice(["value", "stage"]), rng.choice("ab")) for one in sorted(set(before.values()))}
    brand.con.executemany("insert into marts_db.marts.fct_tags_current values (?, ?, ?)", sorted(tags))
    other = IdentityRules.model_validate({**RULES.model_dump(by_alias=True), "source_tiers": {"shop": {"bind": 4}}})
    other.types["member_id"] = other.types["member_id"].model_copy(update={"limit": 3})
    told = decide.what_if(brand.con, other, as_of=AS_OF, secret=SECRET).audiences
    brand.run(rules=other)
    after = brand.mapping()
    moved = {(before.get(name), after.get(name)) for name in {*before, *after} if before.get(name) != after.get(name)}
    expected = {}
    for group, value in {tag[1:] for tag in tags}:
        holders = {one for one, *tag in tags if tag == [group, value]}
        gone = holders - set(after.values())
        heirs = {new for old, new in moved if old in holders and new} - holders
        touched = {one for pair in moved for one in pair if one in holders} - gone
        if gone or heirs or touched:
            expected[group, value] = (len(holders), len(gone), len(heirs), len(touched))
    assert expected
    assert {
        (tag.tag_group, tag.value): (tag.holders, tag.leaving, tag.entering, tag.regrouped) for tag in told
    } == expected


def test_what_if_names_the_gates_that_would_stop_it() -> None:
    brand = Brand()
    brand.run(*(seen(member_id=f"m{i}", unionid="u1") for i in range(4)))
    free = IdentityRules.model_validate(
        {"types": {"member_id": {"limit": None}, "unionid": {"limit": None}}, "gates": {"max_person_identifiers": 4}}
    )
    told = decide.what_if(brand.con, free, as_of=AS_OF, secret=SECRET)
    assert told.gates == ["max_person_identifiers: a person would have 5 identifiers, allowed 4"]


def test_a_map_changed_by_other_hands_stops_the_run(brand: Brand) -> None:
    """Two people change places: as many rows as before, every number as often as before."""
    swap = "number = (select max(number) + min(number) from identity.identity_map) - number"
    ends = "number in (select unnest([max(number), min(number)]) from identity.identity_map)"
    brand.con.execute(f"update identity.identity_map set {swap} where {ends}")
    with pytest.raises(CheckFailedError, match="changed by other hands"):
        brand.run(seen(member_id="m9"))


def test_a_damaged_edge_store_is_found_by_the_sample(brand: Brand) -> None:
    brand.con.execute("delete from identity.evidence_node where node_id = ?", [find(brand.con, "a1").node_id])
    brand.con.execute(
        "insert into identity.evidence_node select row_id, ? from identity.evidence where source_key = 'k6'",
        [find(brand.con, "a1").node_id],
    )
    with pytest.raises(CheckFailedError, match="differ from a resolution from scratch"):
        brand.run(seen(member_id="m9"))


def test_health_counts_contradictions_and_rejects(brand: Brand) -> None:
    brand.run(seen("login", 9, member_id="m2", unionid="u1"), seen(member_id="null", unionid="u5"))
    found = ask.health(brand.con)
    assert found["contradictions"] == 1
    assert 0 < found["contradiction_rate"] < 1
    assert ("member_id", "placeholder", 1) in found["rejected_values"]


def test_as_of_and_changes_by_cursor(brand: Brand) -> None:
    before = brand.id("member_id", "m2")
    pair(brand, "must_link", "m1", "m2")
    known = ask.as_of(brand.con, find(brand.con, "m2"), valid=AS_OF, known=AS_OF)
    assert [(row["one_id"], row["current_one_id"]) for row in known] == [(before, brand.id("member_id", "m1"))]
    feed = ask.changes(brand.con, after_run=1)
    assert [(row["op"], row["one_id"], row["cause"]) for row in feed] == [("merge", before, "assertion")]
    assert len(ask.changes(brand.con, after_run=1, identifiers=True)) > 1


def test_the_picture_shows_identifiers_chain_and_refusals(brand: Brand) -> None:
    person = ask.show(brand.con, find(brand.con, "m1"))
    names = [f"{item['type']}:{item['value']}" for item in person["identifiers"]]
    picture = draw(
        names,
        person["links"],
        [(item["a"], item["b"], item["reason"]) for item in person["refused"]],
        ["member_id:m1", "unionid:u1"],
        title=person["one_id"],
    )
    assert picture.startswith("<svg")
    assert picture.endswith("</svg>")
    assert picture.count("<circle") == len(set(names) | {"openid@wx1:o1", "member_id:m2", "phone:13800138000"})
    assert 'stroke-width="4"' in picture
    assert draw([], [], [], [], title="nobody").endswith("</svg>")


@pytest.mark.parametrize("seed", range(60))
def test_the_smallest_cut_parts_and_no_proper_subset_does(seed: int) -> None:
    graph = nx.gnm_random_graph(8, 13, seed=seed)
    edges, start, end = list(graph.edges), 0, 7
    cut = smallest_cut(edges, start, end)
    if not nx.has_path(graph, start, end):
        assert cut == []
        return
    assert len(cut) == nx.edge_connectivity(graph, start, end)
    for size in range(len(cut) + 1):
        for part in itertools.combinations(cut, size):
            left = [edge for edge in edges if edge not in part]
            assert bool(chain(left, start, end)) == (size < len(cut))
    assert {node for node, _ in hinges(edges)} == set(nx.articulation_points(graph))


@pytest.mark.parametrize("seed", range(4))
def test_random_decisions_give_what_a_fresh_resolution_with_them_gives(seed: int) -> None:
    rng = random.Random(5000 + seed)
    brand = Brand(RULES)
    kept: list[Item] = []
    asserted: dict[str, list[tuple[Identifier, Identifier]]] = {"must_link": [], "cannot_link": [], "cut_edge": []}
    for step in range(3):
        fresh = rows(rng, 8)
        kept += fresh
        at = day(120 + 20 * step)
        brand.run(*map(as_seen, fresh), as_of=at)
        a, b = rng.sample(known(brand), 2)
        kind = rng.choice(["must_link", "cannot_link", "cut_edge"])
        decide.assert_pair(brand.con, RULES, kind, a, b, author="t", reason="t", now=at, secret=SECRET)  # type: ignore
        asserted[kind].append(((a.type, a.scope, a.value), (b.type, b.scope, b.value)))
        assert brand.partition() == expected(kept, asserted, at)
    gone = rng.choice(known(brand))
    decide.forget(brand.con, RULES, [gone], now=day(210), secret=SECRET, apply=True, whole_person=False)
    name = (gone.type, gone.scope, gone.value)
    left = [replace(item, ids=tuple(identifier for identifier in item.ids if identifier != name)) for item in kept]
    assert brand.partition() == expected(left, asserted, day(210))


def known(brand: Brand) -> list[ask.Ref]:
    found = brand.con.execute("""select node_id, type, scope, value_norm from identity.node
        where epoch = 1 order by type, scope, value_norm""").fetchall()  # fmt: skip
    return [ask.Ref(*row, None) for row in found]


def expected(
    items: list[Item], asserted: dict[str, list[tuple[Identifier, Identifier]]], at: datetime
) -> frozenset[frozenset[tuple[str, str, str, int]]]:
    return resolve_items(
        items, RULES, as_of=micros(at), barred=[("phone", "", "p0")], must=asserted["must_link"],
        cannot=asserted["cannot_link"], cut=asserted["cut_edge"],
    ).partition()  # fmt: skip
