"""What changes for whom: fan-out, modes, exclusions counted once, and never a tag we do not own. Pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdp.sync import changes as c
from cdp.sync.changes import Changes, State, compute_changes
from cdp.sync.config import Consent, Control
from cdp.sync.control import control_people, is_control, position
from cdp.sync.model import WATERFALL, GroupSpec, RegisteredTag, TagSpec

DAY = datetime(2026, 11, 1, tzinfo=UTC)


def group(key: str = "g", values: str = "ab", **rules: Any) -> GroupSpec:
    return GroupSpec(key, key, 1, tuple(TagSpec(f"{key}/{v}", key, v, v, 1) for v in values), **rules)


def registered(*groups: GroupSpec) -> tuple[RegisteredTag, ...]:
    return tuple(
        RegisteredTag(f"id-{tag.key}", spec.key, tag.key, spec.key, tag.value, tag.name, spec.name, tag.order)
        for spec in groups
        for tag in spec.tags
    )


def state(
    wanted: dict[str, list[str]],
    relations: list[tuple[str, str, str | None, list[str]]],
    *,
    days: dict[tuple[str, str], int] | None = None,
    inactive: frozenset[tuple[str, str]] = frozenset(),
    consent: dict[str, bool] | None = None,
    people: set[str] | None = None,
    visible: set[str] | None = None,
    frozen: list[tuple[str, str, str]] = [],  # noqa: B006 - never changed
    churned: list[tuple[str, str]] = [],  # noqa: B006 - never changed
    control: list[tuple[str, str]] = [],  # noqa: B006 - never changed
    stores: dict[str, str] | None = None,
    owners: dict[str, str] | None = None,
    experiments: dict[str, frozenset[str]] | None = None,
) -> State:
    known = people if people is not None else set(wanted) | {one for _, _, one, _ in relations if one}
    rows = [
        (userid, customer, one, DAY + timedelta(days=(days or {}).get((userid, customer), 0)),
         (userid, customer) not in inactive, tags, DAY)
        for userid, customer, one, tags in relations
    ]  # fmt: skip
    staff = sorted({userid for userid, *_ in relations})
    return State(
        tags=pl.DataFrame([(o, k) for o, ks in wanted.items() for k in ks], schema=c.TAGS_SCHEMA, orient="row"),
        relations=pl.DataFrame(rows, schema=c.RELATIONS_SCHEMA, orient="row"),
        people=pl.DataFrame(
            [
                (one, (consent or {}).get(one, True), (stores or {}).get(one), (owners or {}).get(one))
                for one in sorted(known)
            ],
            schema=c.PEOPLE_SCHEMA,
            orient="row",
        ),
        staff=pl.DataFrame([(u, (stores or {}).get(u)) for u in staff], schema=c.STAFF_SCHEMA, orient="row"),
        frozen=pl.DataFrame(frozen, schema=c.FROZEN_SCHEMA, orient="row"),
        churn_held=pl.DataFrame(churned, schema=c.TAGS_SCHEMA, orient="row"),
        control=pl.DataFrame(control, schema=c.CONTROL_SCHEMA, orient="row"),
        visible=frozenset(visible if visible is not None else staff),
        experiments=experiments or {},
    )


def run(spec: GroupSpec, world: State, **more: Any) -> Changes:
    return compute_changes([spec], registered(spec), world, consent=more.pop("consent", Consent()), **more)


def ops(changes: Changes) -> dict[tuple[str, str], tuple[list[str], list[str]]]:
    return {(row["userid"], row["external_userid"]): (row["add"], row["remove"]) for row in changes.ops.to_dicts()}


def fate(changes: Changes, key: str = "g/a") -> dict[str, int]:
    row = changes.tags.filter(pl.col("key") == key).to_dicts()[0]
    return {step: row[step] for step in WATERFALL if row[step]}


def test_adds_and_removes_of_one_relation_are_one_op() -> None:
    result = run(group(), state({"p": ["g/a"]}, [("s", "w", "p", ["id-g/b", "foreign"])]))
    assert ops(result) == {("s", "w"): (["g/a"], ["g/b"])}


def test_a_relation_that_fits_gives_no_op() -> None:
    result = run(group(), state({"p": ["g/a"]}, [("s", "w", "p", ["id-g/a", "foreign"])]))
    assert result.ops.is_empty()
    assert fate(result) == {"unchanged": 1}


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ({"fan_out": "all"}, {"s1", "s2", "s3"}),
        ({"fan_out": "all", "cap": 2}, {"s2", "s3"}),
        ({"fan_out": "latest_contact"}, {"s3"}),
        ({"fan_out": "owner"}, {"s1"}),
        ({"fan_out": "store"}, {"s2"}),
    ],
)
def test_fan_out(rules: dict[str, Any], expected: set[str]) -> None:
    world = state(
        {"p": ["g/a"]},
        [(f"s{n}", "w", "p", []) for n in (1, 2, 3)],
        days={("s1", "w"): 1, ("s2", "w"): 2, ("s3", "w"): 3},
        stores={"p": "store", "s2": "store", "s1": "elsewhere"},
        owners={"p": "s1"},
    )
    assert {userid for userid, _ in ops(run(group(**rules), world))} == expected


def test_nobody_to_carry_the_tag_is_counted() -> None:
    result = run(group(fan_out="owner"), state({"p": ["g/a"]}, [("s", "w", "p", [])], owners={"p": "somebody"}))
    assert fate(result) == {"no_target": 1}


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("mirror", {("s", "w1"): (["g/a"], ["g/b"]), ("s", "w2"): (["g/a"], []), ("s", "w3"): ([], ["g/b"])}),
        ("add_only", {("s", "w1"): (["g/a"], []), ("s", "w2"): (["g/a"], [])}),
        ("enrich_only", {("s", "w1"): (["g/a"], ["g/b"]), ("s", "w3"): ([], ["g/b"])}),
    ],
)
def test_modes(mode: Any, expected: Any) -> None:
    relations = [("s", "w1", "p1", ["id-g/b"]), ("s", "w2", "p2", []), ("s", "w3", "p3", ["id-g/b"])]
    result = run(group(mode=mode), state({"p1": ["g/a"], "p2": ["g/a"]}, [(*r,) for r in relations]))
    assert ops(result) == expected
    if mode == "enrich_only":
        assert fate(result) == {"planned": 1, "not_enriched": 1}


def test_each_exclusion_has_its_place_in_the_order() -> None:
    names = ["unknown", "stranger", "hidden", "lost", "refused", "held", "frozen", "flipping", "fine", "same"]
    relations = [
        ("s", "w_unknown", "unknown", []),
        ("out", "w_hidden", "hidden", []),
        ("s", "w_lost", "lost", []),
        *(("s", f"w_{name}", name, ["id-g/a"] if name == "same" else []) for name in names[4:]),
    ]
    world = state(
        {name: ["g/a"] for name in names},
        relations,
        people=set(names) - {"unknown"},
        visible={"s"},
        inactive=frozenset({("s", "w_lost")}),
        consent={"refused": False},
        control=[("held", "holdout")],
        frozen=[("s", "w_frozen", "g/a")],
        churned=[("flipping", "g/a")],
    )
    result = run(group(), world)
    expected = ["unresolved", "not_a_contact", "out_of_scope", "lost_relation", "no_consent", "control", "frozen"]
    assert fate(result) == dict.fromkeys([*expected, "churn_held", "planned", "unchanged"], 1)
    assert result.control.rows() == [("held", "holdout", "g/a")]
    assert result.pending.rows() == [("stranger", "g/a")]
    assert fate(run(group(), world, max_ops=0))["over_budget"] == 1


def test_an_experiment_holds_back_only_its_groups() -> None:
    one, two = group("one", "a"), group("two", "a")
    world = state(
        {"p": ["one/a", "two/a"]},
        [("s1", "w", "p", []), ("s2", "w", "p", [])],
        control=[("p", "winback")],
        experiments={"winback": frozenset({"one"})},
    )
    result = compute_changes([one, two], registered(one, two), world, consent=Consent())
    assert ops(result) == {("s1", "w"): (["two/a"], []), ("s2", "w"): (["two/a"], [])}


def test_people_who_withdraw_lose_our_tags_unless_told_otherwise() -> None:
    world = state({"p": ["g/a"]}, [("s", "w", "p", ["id-g/a", "foreign"])], consent={"p": False})
    assert ops(run(group(), world)) == {("s", "w"): ([], ["g/a"])}
    assert run(group(), world, consent=Consent(on_withdrawal="keep")).ops.is_empty()


def test_frozen_and_flipping_pairs_are_neither_added_nor_removed() -> None:
    world = state(
        {"p": []},
        [("s", "w", "p", ["id-g/a"]), ("s", "x", "q", ["id-g/a"])],
        frozen=[("s", "w", "g/a")],
        churned=[("q", "g/a")],
    )
    assert run(group(), world).ops.is_empty()


def test_a_relation_without_a_person_is_left_alone() -> None:
    assert run(group(), state({}, [("s", "w", None, ["id-g/a"])])).ops.is_empty()


def test_a_tag_not_wanted_any_more_is_only_removed() -> None:
    old = registered(group("old", "x"))
    world = state({"p": ["g/a", "old/x"], "q": ["old/x"]}, [("s", "w", "p", ["id-old/x"]), ("s", "v", "q", [])])
    result = compute_changes([group()], [*registered(group()), *old], world, consent=Consent())
    assert ops(result) == {("s", "w"): (["g/a"], ["old/x"])}


people_st = st.sampled_from([f"p{n}" for n in range(6)])
keys_st = st.sampled_from(["g/a", "g/b", "h/a", "h/b", "gone/x"])
tag_ids = st.sampled_from(["id-g/a", "id-g/b", "id-h/a", "id-h/b", "id-gone/x", "foreign1", "foreign2", "et-strategy"])


@settings(max_examples=150, deadline=None)
@given(
    wanted=st.dictionaries(people_st, st.lists(keys_st, max_size=4, unique=True), max_size=6),
    relations=st.lists(
        st.tuples(st.sampled_from(["s1", "s2", "s3"]), st.sampled_from(["w1", "w2", "w3", "w4"]),
                  st.one_of(st.none(), people_st), st.lists(tag_ids, max_size=5, unique=True)),
        max_size=10, unique_by=lambda row: row[:2],
    ),
    mode=st.sampled_from(["mirror", "add_only", "enrich_only"]),
    fan_out=st.sampled_from(["all", "latest_contact", "owner", "store"]),
    known=st.sets(st.sampled_from(["g/a", "g/b", "h/a", "h/b", "gone/x"])),
    refused=st.sets(people_st),
    held=st.sets(people_st),
    max_ops=st.one_of(st.none(), st.integers(0, 5)),
    seed=st.randoms(use_true_random=False),
)  # fmt: skip
def test_only_owned_tags_move_and_every_waterfall_adds_up(
    wanted: Any, relations: Any, mode: Any, fan_out: Any, known: Any, refused: Any, held: Any, max_ops: Any, seed: Any
) -> None:
    specs = [group("g", "ab", mode=mode, fan_out=fan_out), group("h", "ab")]
    register = tuple(tag for tag in registered(*specs, group("gone", "x")) if tag.key in known)
    world = state(
        wanted,
        relations,
        consent=dict.fromkeys(refused, False),
        control=[(one, "holdout") for one in sorted(held)],
        visible={"s1", "s2"},
    )
    result = compute_changes(specs, register, world, consent=Consent(), max_ops=max_ops)
    managed = {tag.key for spec in specs for tag in spec.tags} | known
    for row in result.ops.to_dicts():
        assert set(row["add"]) | set(row["remove"]) <= managed
        assert row["add"] or row["remove"]
        assert not set(row["add"]) & set(row["remove"])
        assert "gone/x" not in row["add"]
        assert row["userid"] in {"s1", "s2"}
        if row["one_id"] in held | refused:
            assert not row["add"]
    for row in result.tags.to_dicts():
        assert row["segment"] == sum(row[step] for step in WATERFALL)
        assert row["segment"] == sum(row["key"] in keys for keys in wanted.values()) or row["key"] == "gone/x"
        assert row["after"] == row["now"] + row["add"] - row["remove"] >= 0
    seed.shuffle(relations)
    again = state(
        dict(sorted(wanted.items(), reverse=True)),
        relations,
        consent=dict.fromkeys(refused, False),
        control=[(one, "holdout") for one in sorted(held, reverse=True)],
        visible={"s1", "s2"},
    )
    other = compute_changes(specs, register, again, consent=Consent(), max_ops=max_ops)
    assert other.ops.equals(result.ops)
    assert other.tags.equals(result.tags)


def test_applying_the_ops_leaves_nothing_to_do() -> None:
    spec = group()
    first = state(
        {"p": ["g/a"], "q": []}, [("s", "w", "p", ["id-g/b"]), ("t", "w", "p", []), ("s", "v", "q", ["id-g/a"])]
    )
    after = []
    for row in first.relations.to_dicts():
        add, remove = ops(run(spec, first)).get((row["userid"], row["external_userid"]), ([], []))
        tags = (set(row["tag_ids"]) | {f"id-{key}" for key in add}) - {f"id-{key}" for key in remove}
        after.append((row["userid"], row["external_userid"], row["one_id"], sorted(tags)))
    assert run(spec, state({"p": ["g/a"], "q": []}, after)).ops.is_empty()


def test_control_is_stable_near_its_target_and_only_shrinks() -> None:
    people = [f"person-{number}" for number in range(200_000)]
    held = {person for person in people if is_control(person, "salt", 0.2)}
    assert abs(len(held) / len(people) - 0.2) < 0.005
    assert {person for person in people if is_control(person, "salt", 0.05)} < held
    assert position("person-1", "salt") != position("person-1", "other salt")
    frame = control_people(people[:1000], Control(holdout=0.2, salt="salt"))
    assert set(frame["one_id"]) == {person for person in people[:1000] if person in held}
