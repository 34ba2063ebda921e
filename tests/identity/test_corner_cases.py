"""The corner cases of identity.md § 2.9, by number."""

from __future__ import annotations

import hashlib
import random
from datetime import timedelta

import duckdb
import numpy as np
import polars as pl
import pytest

from cdp.errors import CheckFailedError, RetriableError
from cdp.identity.graph import Ints, Nodes, Rows, Small, no_assertions, type_table
from cdp.identity.memory import Item, micros, resolve_items
from cdp.identity.normalise import normalise, sm3
from cdp.identity.resolve import resolve
from cdp.identity.rules import IdentityRules
from tests.identity.brands import AS_OF, COLUMNS, SECRET, Brand, Seen, day, seen
from warehouse import identity_assertions as decide
from warehouse.identity_queries import find
from warehouse.identity_store import resolve_identities, transaction

RULES = IdentityRules()


def read(
    kind: str, *values: str | None, scope: str = "", rules: IdentityRules = RULES
) -> list[tuple[str, str | None, str | None, str | None]]:
    """(type, normal form, why rejected, why barred) of each raw value."""
    frame = pl.DataFrame(
        {"type": [kind] * len(values), "scope": [scope] * len(values), "value": values, "row": range(len(values))},
        schema={"type": pl.String, "scope": pl.String, "value": pl.String, "row": pl.Int64},
    )
    done = normalise(frame, rules, today=AS_OF.date()).sort("row")
    return done.select("out_type", "value_norm", "reason", "barred").rows()


def rules_with(**types: dict[str, object]) -> IdentityRules:
    return IdentityRules.model_validate({"types": types})


def together(items: list[Item], rules: IdentityRules = RULES, **more: object) -> set[frozenset[str]]:
    """Persons as sets of values."""
    found = resolve_items(items, rules, as_of=micros(AS_OF), **more).partition()  # type: ignore[arg-type]
    return {frozenset(f"{value}#{epoch}" if epoch > 1 else value for _, _, value, epoch in group) for group in found}


def item(*ids: str, kind: str = "bind", at: float = 0, **more: object) -> Item:
    """Evidence over ids such as `m1`, `u2`, `o1@wx`, `p3`, `d4`, `a5`, `b6`, `q7`: the letter is the type."""
    names = {"m": "member_id", "u": "unionid", "o": "openid", "p": "phone", "d": "device_id", "a": "anonymous_id",
             "b": "buyer_id", "q": "pending_id", "e": "external_userid", "r": "phone_relay", "c": "crm_id"}  # fmt: skip
    found = [(names[text[0]], text.partition("@")[2], text.partition("@")[0]) for text in ids]
    return Item(tuple(found), kind, micros(day(at)), **more)  # type: ignore[arg-type]


# -------------------------------------------------------------------------------------------------------------- values


def test_01_nothing_values_are_rejected_with_a_reason() -> None:
    values = [None, "", "  ", "null", "NULL", "undefined", "0", "-1", "0000000", "０００", "无"]
    assert {row[2] for row in read("member_id", *values)} == {"placeholder"}
    assert {row[2] for row in read("phone", *values)} == {"placeholder"}


def test_02_one_phone_in_many_forms() -> None:
    values = [
        "13612340001",
        "＋８６ １３６１２３４０００１",
        "+8613612340001",
        "008613612340001",
        "8613612340001",
        "136 1234 0001",
        "136-1234-0001",
        "(+86)136 1234 0001",
        "\u200b13612340001",
        "１３６１２３４０００１",
    ]
    assert {row[:3] for row in read("phone", *values)} == {("phone", "13612340001", None)}


def test_03_masked_phone_is_nobody() -> None:
    assert {row[2] for row in read("phone", "138****8888", "138＊＊＊＊8888", "138xxxx8888")} == {"masked"}


def test_04_relay_phone_with_extension_becomes_its_own_type() -> None:
    values = [
        "13612340001-1234",
        "13612340001转1234",
        "13612340001,1234",
        "+86 136 1234 0001 ext. 12",
        "95013123456789",
    ]
    assert {row[0] for row in read("phone", *values)} == {"phone_relay"}
    assert all(row[1] for row in read("phone", *values))
    assert together([item("r1", "m1"), item("r1", "m2")]) == {frozenset({"m1"}), frozenset({"m2"}), frozenset({"r1"})}


def test_05_same_text_under_two_appids_is_two_identifiers() -> None:
    assert together([item("o1@wx1", "u1"), item("o1@wx2", "u2")]) == {frozenset({"o1", "u1"}), frozenset({"o1", "u2"})}


def test_06_openids_that_differ_in_case_are_two() -> None:
    assert [row[1] for row in read("openid", "oAbC", "oabc", scope="wx1")] == ["oAbC", "oabc"]


def test_07_email_case_does_not_matter() -> None:
    assert {row[1] for row in read("email", "A.B@Example.CN", " a.b@example.cn ", "ａ.ｂ@example.cn")} == {
        "a.b@example.cn"
    }
    assert read("email", "not an address")[0][2] == "pattern"


@pytest.mark.parametrize("text", ["13612340001", "+8613612340001", "8613612340001"])
def test_08_hash_of_a_phone_with_or_without_86_is_that_phone(text: str) -> None:
    brand = Brand()
    brand.run(
        seen(member_id="m1", phone="136 1234 0001"),
        seen(unionid="u1", phone_md5=hashlib.md5(text.encode()).hexdigest()),
        seen(unionid="u2", phone_sha256=hashlib.sha256(text.encode()).hexdigest()),
        seen(unionid="u3", phone_sm3=sm3(text)),
    )
    assert len({brand.id("unionid", f"u{i}") for i in (1, 2, 3)} | {brand.id("member_id", "m1")}) == 1
    assert sm3("abc") == "66c7f0f462eeedd9d1f2d46bdc10e4e24167c4875cf2f7a2297da02b8f4ba8e0"  # GB/T 32905 example 1


def test_08b_a_hash_that_came_before_its_phone_joins_later_and_equals_plain_only() -> None:
    digest = hashlib.md5(b"13612340001").hexdigest()
    brand = Brand()
    brand.run(seen(member_id="m1", phone_md5=digest), seen(at=1, member_id="m2", phone_md5=digest))
    assert brand.id("member_id", "m1") != brand.id("member_id", "m2")
    brand.run(seen("order", 5, buyer_id="b1", phone="13612340001"))
    plain = Brand()
    plain.run(
        seen(member_id="m1", phone="13612340001"), seen(at=1, member_id="m2", phone="13612340001"),
        seen("order", 5, buyer_id="b1", phone="13612340001"),
    )  # fmt: skip
    assert brand.partition() == plain.partition()


def test_09_hex_case_of_a_digest_does_not_matter() -> None:
    digest = hashlib.md5(b"13612340001").hexdigest()
    assert {row[1] for row in read("phone_md5", digest, digest.upper())} == {digest}
    assert read("phone_md5", digest[:-1])[0][2] == "pattern"


def test_10_overlong_and_emoji_values_are_rejected_with_a_reason() -> None:
    assert [row[2] for row in read("member_id", "x" * 2048, "m😀1", "m\x001", "会员001")] == [
        "too_long", "characters", "characters", None,
    ]  # fmt: skip
    brand = Brand()
    assert brand.run(seen(member_id="x" * 2048, phone="13612340001")).rejected_values == 1
    assert brand.con.execute("select type, reason from identity.rejects").fetchall() == [("member_id", "too_long")]


def test_11_value_that_moves_to_another_type_by_a_change_of_the_registry() -> None:
    brand = Brand()
    rows = [seen(member_id="m1", phone="17012340001"), seen(member_id="m2", unionid="u2")]
    brand.run(*rows, seen("order", 1, buyer_id="b1", phone="17012340001"))
    assert brand.id("buyer_id", "b1") == brand.id("member_id", "m1")
    relay = IdentityRules.model_validate({"phones": {"relay_prefixes": ["170"]}})
    report = brand.run(rules=relay)
    assert report.mode == "full"
    assert brand.id("buyer_id", "b1") != brand.id("member_id", "m1")
    fresh = Brand(relay)
    fresh.run(*rows, seen("order", 1, buyer_id="b1", phone="17012340001"))
    assert brand.partition() == fresh.partition()


def test_12_block_list_entry_added_after_it_merged_10_000_people_then_removed() -> None:
    gates = {"max_person_identifiers": 20_000, "max_people_per_contact": 20_000}
    open_ = {"buyer_id": {"limit": None}, "phone": {"max_links": {}, "block": []}}
    rules = IdentityRules.model_validate({"types": open_, "gates": gates})
    brand = Brand(rules)
    brand.con.execute(f"""insert into identity.int_identity__evidence ({COLUMNS})
        select 'shop', 'o' || i, 'order', moment, moment, moment, 1, 1,
            [{{'type': 'buyer_id', 'scope': '', 'value': 'b' || i}},
            {{'type': 'phone', 'scope': '', 'value': '13612340001'}}]
        from (select i, timestamptz '2025-01-01 00:00:00+00' + to_seconds(i) as moment from range(10000) as t(i))""")
    brand.run()
    assert len(brand.partition()) == 1
    one = brand.id("phone", "13612340001")
    hotline = [{"value": "13612340001", "reason": "hotline"}]
    blocked = {**open_, "phone": {"max_links": {}, "block": hotline}}
    brand.run(rules=IdentityRules.model_validate({"types": blocked, "gates": {**gates, "max_moved_share": 1}}))
    assert len(brand.partition()) == 10_000
    assert brand.id("phone", "13612340001") is None
    brand.run(rules=IdentityRules.model_validate({"types": open_, "gates": {**gates, "max_merged_known_share": 1,
                                                                           "max_moved_share": 1}}))  # fmt: skip
    assert len(brand.partition()) == 1
    assert brand.id("phone", "13612340001") == one


# --------------------------------------------------------------------------------------------------------------- graph


def test_13_empty_single_self_loop_duplicate_and_reversed() -> None:
    assert together([]) == set()
    assert together([item("m1")]) == {frozenset({"m1"})}
    assert together([item("m1", "m1")]) == {frozenset({"m1"})}
    once = together([item("m1", "u1")])
    assert once == together([item("u1", "m1"), item("m1", "u1"), item("m1", "u1", "u1")]) == {frozenset({"m1", "u1"})}
    report = Brand().run()
    assert (report.identifiers, report.people, report.changes) == (0, 0, 0)


def resolved_pairs(a: Ints, b: Ints, kind: str) -> Small:
    """Person of each of the nodes 0…n that rows of evidence `(a[i], b[i])` of one type see together."""
    table, count, rows = type_table(RULES), int(max(a.max(), b.max())) + 1, len(a)
    nodes = Nodes(
        np.arange(count), np.full(count, table.names.index(kind), np.int16), np.zeros(count, np.int32),
        np.zeros(count, np.bool_), np.zeros(count, np.int8),
    )  # fmt: skip
    seen_ = np.arange(rows, dtype=np.int64)
    evidence = Rows(
        kind=np.zeros(rows, np.int8), tier=np.ones(rows, np.int8), first=seen_, last=seen_,
        day=np.zeros(rows, np.int32), source=np.zeros(rows, np.int32), confidence=np.ones(rows, np.float32),
        count=np.ones(rows, np.int32), start=np.arange(0, 2 * rows + 1, 2),
        node=np.sort(np.stack([a, b]), axis=0).T.reshape(-1).astype(np.int32),
    )  # fmt: skip
    return resolve(nodes, evidence, table, no_assertions(), as_of=micros(AS_OF)).person


@pytest.mark.parametrize("shuffled", [False, True])
def test_14_chain_of_100_000(shuffled: bool) -> None:
    a, b = np.arange(100_000), np.arange(1, 100_001)
    if shuffled:
        names = np.random.default_rng(1).permutation(100_001)
        a, b = names[a], names[b]
    assert resolved_pairs(a, b, "anonymous_id").max() == 0
    sizes = np.bincount(resolved_pairs(a, b, "unionid"))  # contested: a person may hold three
    assert sizes.max() == 3
    assert sizes.sum() == 100_001


def test_15_star_of_a_million() -> None:
    leaves = np.arange(1, 1_000_001)
    assert resolved_pairs(np.zeros_like(leaves), leaves, "anonymous_id").max() == 0


def test_16_two_stars_that_share_one_leaf() -> None:
    items = [item("m1", f"a{i}") for i in range(9)] + [item("u1", f"a{i}") for i in range(8, 17)]
    assert len(together(items)) == 1


def test_17_person_exactly_at_the_limit_and_one_above() -> None:
    at = [item("m1", f"u{i}", at=i) for i in range(3)]
    assert together(at) == {frozenset({"m1", "u0", "u1", "u2"})}
    assert together([*at, item("m1", "u3", at=3)]) == {frozenset({"m1", "u0", "u1", "u2"}), frozenset({"u3"})}


def test_18_limit_zero_belongs_to_nobody() -> None:
    rules = rules_with(device_id={"limit": 0})
    assert together([item("m1", "d1"), item("a1", "d1")], rules) == {
        frozenset({"m1"}),
        frozenset({"d1"}),
        frozenset({"a1"}),
    }


def test_19_two_members_joined_only_by_a_device_a_phone_or_both_stay_two() -> None:
    device = [item("m1", "d1", kind="login"), item("m2", "d1", kind="login", at=1)]
    phone = [item("m1", "p1"), item("m2", "p1", at=1)]
    for items in (device, phone, [*device, *phone]):
        groups = together(items)
        assert len(groups) == 2
        assert not any({"m1", "m2"} <= group for group in groups)


def test_20_keys_equal_except_for_bytes_decide_by_bytes() -> None:
    items = [item("u1", f"m{i}") for i in (3, 1, 2)]
    assert together(items) == {frozenset({"m1", "u1"}), frozenset({"m2"}), frozenset({"m3"})}
    assert together(items[::-1]) == together(items)


def test_21_equal_event_times_decide_the_same_in_any_order() -> None:
    items = [item("m1", "u1"), item("m2", "u1"), item("u1", "p1"), item("m2", "p1"), item("m1", "p1")]
    assert len({frozenset(together(random.Random(seed).sample(items, 5))) for seed in range(20)}) == 1


def test_22_times_of_the_future_are_set_back_and_flagged() -> None:
    brand = Brand()
    late = Seen({"member_id": "m1", "phone": "13612340001"}, at=day(5_000), recorded=day(10))
    brand.run(late)
    assert brand.con.execute("select clamped, event_time from identity.evidence").fetchall() == [(True, day(11))]


def test_23_cannot_link_inside_one_row_of_evidence() -> None:
    cannot = [(("unionid", "", "u1"), ("unionid", "", "u2"))]
    groups = together([item("m1", "u1", "u2")], cannot=cannot)
    assert groups == {frozenset({"m1", "u1"}), frozenset({"u2"})}


def test_24_must_link_over_a_limit_against_cannot_and_in_a_chain() -> None:
    m = [("member_id", "", f"m{i}") for i in range(4)]
    items = [item(f"m{i}") for i in range(4)]
    assert together(items, must=[(m[0], m[1])]) == {frozenset({"m0", "m1"}), frozenset({"m2"}), frozenset({"m3"})}
    assert together(items, must=[(m[0], m[1])], cannot=[(m[0], m[1])]) == {frozenset({f"m{i}"}) for i in range(4)}
    assert together(items, must=[(m[0], m[1]), (m[1], m[2]), (m[2], m[3])]) == {frozenset({"m0", "m1", "m2", "m3"})}


def test_25_refused_edge_is_taken_once_the_stronger_one_expired() -> None:
    rules = rules_with(pending_id={"limit": None}, unionid={"limit": 1})
    items = [item("q1", "u1", at=0), item("q1", "m1", at=1), item("m1", "u2", kind="order", at=2)]
    early = resolve_items(items, rules, as_of=micros(day(10))).partition()
    late = resolve_items(items, rules, as_of=micros(day(95))).partition()
    assert not any({"m1", "u2"} <= {value for _, _, value, _ in group} for group in early)
    assert any({"m1", "u2"} <= {value for _, _, value, _ in group} for group in late)


def test_26_new_strong_edge_splits_an_old_person() -> None:
    items = [item("m1", "u1", kind="login"), item("u1", "p1", kind="order")]
    assert len(together(items)) == 1
    assert together([*items, item("m2", "u1", at=1), item("m2", "p1", at=1)]) == {
        frozenset({"m1"}),
        frozenset({"m2", "u1", "p1"}),
    }


def test_27_isolate_threshold_crossed_upward_then_downward() -> None:
    brand = Brand()
    brand.run(*(seen("login", i, member_id=f"m{i}", device_id="d1") for i in range(2)))
    assert brand.id("device_id", "d1") == brand.id("member_id", "m0")
    gone = brand.add(*(seen("login", i, member_id=f"m{i}", device_id="d1") for i in range(2, 5)))
    brand.run()
    assert brand.con.execute("select distinct kind from identity.resolved where type = 'device_id'").fetchall() == [
        ("shared",)
    ]
    brand.remove(gone)
    brand.run()
    assert brand.id("device_id", "d1") == brand.id("member_id", "m0")


def test_27b_isolated_device_comes_back_when_its_neighbours_expire() -> None:
    brand = Brand(rules_with(device_id={"max_links": {"pending_id": 2}}))
    rows = [seen("login", i, pending_id=f"q{i}", device_id="d1") for i in range(2)]
    brand.run(*rows, seen("login", 5, member_id="m1", device_id="d1"), as_of=day(50))
    assert brand.id("device_id", "d1") == brand.id("member_id", "m1")
    brand.run(seen("login", 60, pending_id="q2", device_id="d1"), as_of=day(61))
    assert brand.id("device_id", "d1") != brand.id("member_id", "m1")
    report = brand.run(as_of=day(95))  # the first two pending_ids were valid for 90 days
    assert report.new_evidence == 0
    assert brand.id("device_id", "d1") == brand.id("member_id", "m1") == brand.id("pending_id", "q2")


def test_28_windowed_limit_that_ends_with_no_new_data() -> None:
    brand = Brand(rules_with(phone={"limit": 1, "limit_window_days": 60, "max_links": {}}))
    brand.run(
        seen(at=0, member_id="m1", phone="13612340001"), seen(at=50, member_id="m1", phone="13612340002"), as_of=day(55)
    )
    assert brand.id("phone", "13612340001") != brand.id("phone", "13612340002")
    report = brand.run(as_of=day(65))
    assert (report.mode, report.new_evidence) == ("incremental", 0)
    assert brand.id("phone", "13612340001") == brand.id("phone", "13612340002")
    assert {
        row[0] for row in brand.con.execute("select cause from identity.identity_change where run = 2").fetchall()
    } == {"clock"}


def test_29_shared_phone_of_a_family_two_people_one_household() -> None:
    brand = Brand()
    brand.run(
        seen(member_id="m1", phone="13612340001"), seen(at=9, member_id="m2", phone="13612340001"), seen(member_id="m3")
    )
    households = dict(brand.con.execute("""select value, household_id from identity.resolved
        inner join identity.people using (one_id) where type = 'member_id'""").fetchall())  # fmt: skip
    assert brand.id("member_id", "m1") != brand.id("member_id", "m2")
    assert households["m1"] == households["m2"] != households["m3"]


def test_29b_a_landline_makes_one_household_two_people_and_leaves_every_device_apart() -> None:
    """Person, household and device from one set of evidence (identity.md § 1, row 22)."""
    brand = Brand()
    brand.run(
        seen(member_id="m1", phone="021-6234 5678"), seen(at=9, member_id="m2", phone="+86 21 6234 5678"),
        seen("login", 1, member_id="m1", device_id="d1", anonymous_id="a1"),
        seen("login", 2, member_id="m2", device_id="d2", anonymous_id="a2"),
        seen("co_occurrence", 3, device_id="d1", anonymous_id="a3"),
        seen("co_occurrence", 3, device_id="d2", anonymous_id="a3"),
        seen("co_occurrence", 4, device_id="d2", anonymous_id="a3"),
        seen("login", 5, member_id="m1", anonymous_id="a4"),
    )  # fmt: skip
    levels = {
        value: row for value, *row in brand.con.execute("""
            select value_norm, device_id, one_id, household_id from identity.levels""").fetchall()
    }  # fmt: skip
    assert levels["+862162345678"][1] == levels["m1"][1] != levels["m2"][1]
    assert levels["m1"][2] == levels["m2"][2] is not None
    assert levels["a1"][0] == levels["d1"][0] != levels["d2"][0] == levels["a2"][0] == levels["a3"][0]
    assert levels["a4"][0] not in (levels["d1"][0], levels["d2"][0], None)
    assert levels["m1"][0] is None


def test_30_shop_ipad_with_many_logins_is_owned_by_intervals() -> None:
    brand = Brand(rules_with(device_id={"shared_policy": "time_slice", "max_links": {"member_id": 3}}))
    brand.run(*(seen("login", i, member_id=f"m{i:03}", device_id="ipad") for i in range(60)))
    assert len({brand.id("member_id", f"m{i:03}") for i in range(60)}) == 60
    for i in range(60):
        assert brand.id("device_id", "ipad", at=day(i + 0.5)) == brand.id("member_id", f"m{i:03}")
    assert brand.id("device_id", "ipad", at=day(-5)) == brand.id("member_id", "m000")


def test_31_recycled_phone_same_owner_and_gap_exactly_equal() -> None:
    rules = rules_with(phone={"recycle_gap_days": 100, "limit": 3, "max_links": {}})
    other = [item("u1", "p1", at=0), item("u2", "p1", at=101)]
    assert together(other, rules) == {frozenset({"u1", "p1"}), frozenset({"u2", "p1#2"})}
    same = [item("u1", "p1", at=0), item("u1", "p1", at=101)]
    assert together(same, rules) == {frozenset({"u1", "p1"})}
    equal = [item("u1", "p1", at=0), item("u2", "p1", at=100)]
    assert together(equal, rules) == {frozenset({"u1", "u2", "p1"})}


def test_32_unbind_that_arrives_before_its_bind() -> None:
    brand = Brand()
    brand.run(seen("unbind", 5, member_id="m1", phone="13612340001"))
    brand.run(seen("bind", 1, member_id="m1", phone="13612340001"))
    assert brand.id("member_id", "m1") != brand.id("phone", "13612340001")
    brand.run(seen("bind", 9, member_id="m1", phone="13612340001"))
    assert brand.id("member_id", "m1") == brand.id("phone", "13612340001")


def test_33_unbind_of_a_parent_takes_its_children_along() -> None:
    items = [item("m1", "u1", "o1@wx"), item("m1", "o1@wx", kind="login", at=1), item("m1", "u1", kind="unbind", at=2)]
    assert together(items) == {frozenset({"m1"}), frozenset({"u1", "o1"})}


def test_34_openid_with_two_unionids_is_an_error_of_the_data_not_a_merge() -> None:
    brand = Brand()
    report = brand.run(seen(unionid="u1", openid_wx1="o1"), seen(at=1, unionid="u2", openid_wx1="o1"))
    assert report.data_errors == 1
    assert brand.id("unionid", "u1") != brand.id("unionid", "u2")
    assert brand.con.execute("select reason from identity.edge_decision").fetchall() == [("function_violated",)]


def test_35_external_userids_of_two_providers_are_one_person() -> None:
    brand = Brand()
    brand.run(
        seen(unionid="u1", **{"external_userid_ww1/dev1": "wm1"}),
        seen(unionid="u1", **{"external_userid_ww1/dev2": "wo2"}),
    )
    assert len(brand.partition()) == 1


def test_36_pending_id_used_after_90_days_links_nobody() -> None:
    brand = Brand()
    brand.run(seen(pending_id="q1", unionid="u1"), seen(pending_id="q1", external_userid_ww1="e1"), as_of=day(89))
    assert brand.id("unionid", "u1") == brand.id("external_userid", "e1")
    brand.run(as_of=day(91))
    assert brand.id("unionid", "u1") != brand.id("external_userid", "e1")


# ----------------------------------------------------------------------------------------------------------------- ids


def test_37_run_without_change_writes_no_feed() -> None:
    brand = Brand()
    first = brand.run(seen(member_id="m1", phone="13612340001"), seen(member_id="m2"))
    again = brand.run()
    assert (again.mode, again.changes) == ("unchanged", 0)
    assert (again.rules_hash, again.evidence_hash, again.map_hash) == (
        first.rules_hash,
        first.evidence_hash,
        first.map_hash,
    )


def test_38_known_new_wins_over_anonymous_old() -> None:
    brand = Brand()
    brand.run(seen(at=0, anonymous_id="a1"))
    brand.run(seen(at=30, member_id="m1"))
    known = brand.id("member_id", "m1")
    anonymous = brand.id("anonymous_id", "a1")
    brand.run(seen("login", 31, anonymous_id="a1", member_id="m1"))
    assert brand.id("anonymous_id", "a1") == brand.id("member_id", "m1") == known
    assert brand.feed(3) == [("merge", anonymous, known)]


def test_39_merge_of_two_known_keeps_the_older() -> None:
    brand = Brand()
    brand.run(seen(at=0, unionid="u1"), seen(at=5, unionid="u2"))
    older = brand.id("unionid", "u1")
    brand.run(seen(at=6, unionid=["u1", "u2"]))
    assert brand.id("unionid", "u2") == older


def test_40_split_where_the_best_identifier_leaves_and_where_it_stays() -> None:
    brand = Brand()
    brand.run(seen(at=0, member_id="m1", unionid="u1"))
    link = brand.add(seen(at=1, unionid="u1", anonymous_id="a1"), seen(at=1, unionid="u1", anonymous_id="a2"))
    brand.run()
    one = brand.id("member_id", "m1")
    brand.remove(link)
    brand.run(seen(at=1, anonymous_id=["a1", "a2"]))
    assert brand.id("member_id", "m1") == brand.id("unionid", "u1") == one
    assert brand.id("anonymous_id", "a1") == brand.id("anonymous_id", "a2") != one
    brand.remove(["k1"])
    brand.run(seen(at=3, unionid="u1"), seen(at=3, member_id="m1"))
    assert brand.id("member_id", "m1") == one
    assert brand.id("unionid", "u1") != one


def test_41_merge_grow_unmerge_returns_the_ids_and_growth_stays_with_its_side() -> None:
    brand = Brand()
    brand.run(seen(member_id="m1", unionid="u1"), seen(member_id="m2", unionid="u2"))
    before = brand.mapping()
    link = brand.add(seen("manual", 5, member_id=["m1", "m2"]))
    brand.run()
    brand.run(seen(at=6, unionid="u2", openid_wx1="o2"), seen(at=6, unionid="u1", openid_wx1="o1"))
    brand.remove(link)
    brand.run()
    after = brand.mapping()
    assert {key: after[key] for key in before} == before
    assert brand.id("openid", "o2") == brand.id("unionid", "u2")
    assert brand.id("openid", "o1") == brand.id("unionid", "u1")


def test_42_identifier_that_named_the_id_is_split_off_and_may_name_another() -> None:
    brand = Brand()
    keys = brand.add(seen(at=0, unionid="u1", openid_wx1="o1"), seen(at=1, openid_wx1="o1", phone="13612340001"))
    brand.run()
    one = brand.id("unionid", "u1")
    brand.remove(keys[:1])
    brand.run(seen(at=2, unionid="u1"))
    ids = {brand.id("unionid", "u1"), brand.id("openid", "o1")}
    assert one in ids
    assert len(ids) == 2
    registry = brand.con.execute("select one_id, generation from identity.one_id_registry").fetchall()
    assert len(registry) == len({row[0] for row in registry}) == 2


def test_43_three_way_merge_in_one_run_and_in_three() -> None:
    people = [seen(at=i, unionid=f"u{i}") for i in range(3)]
    links = [seen("manual", 5, unionid=["u0", "u1"]), seen("manual", 6, unionid=["u1", "u2"])]
    at_once, by_steps = Brand(), Brand()
    at_once.run(*people)
    at_once.run(*links)
    by_steps.run(*people)
    for row in links:
        by_steps.run(row)
    assert at_once.mapping() == by_steps.mapping()
    assert len(set(at_once.mapping().values())) == 1


def test_44_id_is_never_used_again_after_forget() -> None:
    brand = Brand()
    brand.run(seen(member_id="m1", phone="13612340001"))
    one = brand.id("member_id", "m1")
    decide.forget(brand.con, brand.rules, [find(brand.con, "m1")], now=day(160), secret=SECRET, apply=True)
    brand.run(Seen({"member_id": "m1"}, at=day(170), recorded=day(170)), as_of=day(171))
    assert brand.id("member_id", "m1") not in (None, one)


def test_45_rebuild_from_registry_and_evidence_changes_nothing() -> None:
    from warehouse.identity_store import rebuild_identities

    brand = Brand()
    brand.run(seen(member_id="m1", phone="13612340001"), seen("order", 1, buyer_id="b1", phone="13612340001"))
    before = brand.mapping()
    report = rebuild_identities(brand.con, brand.rules, run_id="again", as_of=AS_OF, secret=SECRET)
    assert report.changes == 0
    assert brand.mapping() == before


def test_46_failed_run_repeated_gives_the_same_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [seen(member_id=f"m{i}", phone=f"1361234{i:04}") for i in range(5)]
    clean, broken = Brand(), Brand()
    clean.run(*rows)
    broken.add(*rows)
    with monkeypatch.context() as patch:
        patch.setattr("warehouse.identity_store.gate_faults", lambda *_: ["stopped by the test"])
        with pytest.raises(CheckFailedError, match="stopped by the test"):
            broken.run()
    assert broken.con.execute("select count(*) from duckdb_tables() where schema_name = 'identity'").fetchall() == [
        (1,)
    ]
    broken.run()
    assert broken.mapping() == clean.mapping()


def test_47_alias_chains_are_flat() -> None:
    brand = Brand()
    brand.run(*(seen(at=i, unionid=f"u{i}") for i in range(3)))
    old = [brand.id("unionid", f"u{i}") for i in range(3)]
    brand.run(seen("manual", 5, unionid=["u1", "u2"]))
    brand.run(seen("manual", 6, unionid=["u0", "u1"]))
    alias = {one: (now, status) for one, now, status in brand.con.execute("from identity.alias").fetchall()}
    assert alias == {old[0]: (old[1], "merged"), old[1]: (old[1], "live"), old[2]: (old[1], "merged")}


# ---------------------------------------------------------------------------------------------------- time and privacy


def test_48_evidence_older_than_the_last_run_gives_the_same_as_in_time() -> None:
    rows = [
        seen(at=1, member_id="m1", unionid="u1"),
        seen(at=2, member_id="m2", unionid="u1"),
        seen(at=0, member_id="m2", unionid="u1"),
    ]
    late, in_time = Brand(), Brand()
    late.run(*rows[:2])
    late.run(rows[2])
    in_time.run(*rows)
    assert late.partition() == in_time.partition()
    assert late.id("unionid", "u1") == late.id("member_id", "m2")


def test_49_as_of_between_two_runs() -> None:
    brand = Brand()
    brand.run(seen(unionid="u1"), seen(at=1, unionid="u2"), as_of=day(10))
    before = brand.id("unionid", "u2")
    brand.run(seen("manual", 15, unionid=["u1", "u2"]), as_of=day(20))
    after = brand.id("unionid", "u2")
    ask = "select one_id, current_one_id from identity.resolve('unionid', '', 'u2', ?, ?)"
    assert brand.con.execute(ask, [day(15), day(15)]).fetchall() == [(before, after)]
    assert brand.con.execute(ask, [day(15), day(25)]).fetchall() == [(after, after)]
    assert brand.con.execute(ask, [day(15), day(5)]).fetchall() == []


def test_50_as_of_before_a_change_of_rules_answers_with_the_old_ones() -> None:
    brand = Brand()
    brand.run(*(seen(at=i, member_id="m1", phone=f"1361234000{i}") for i in range(3)), as_of=day(10))
    one = brand.id("member_id", "m1")
    stricter = rules_with(phone={"limit": 1})
    report = brand.run(as_of=day(20), rules=stricter)
    assert report.mode == "full"
    fresh = Brand(stricter)
    fresh.run(*(seen(at=i, member_id="m1", phone=f"1361234000{i}") for i in range(3)))
    assert brand.partition() == fresh.partition()
    assert brand.id("phone", "13612340002") != one
    known = brand.con.execute(
        "select one_id from identity.resolve('phone', '', '13612340002', ?, ?)", [day(15), day(15)]
    )
    assert known.fetchall() == [(one,)]
    assert {
        row[0] for row in brand.con.execute("select cause from identity.identity_change where run = 2").fetchall()
    } == {"rule"}
    assert len(brand.con.execute("from identity.rules_version").fetchall()) == 2


def test_51_forget_then_replay_stays_forgotten() -> None:
    rows = [
        seen(member_id="m1", phone="136-1234-0001"),
        seen("login", 1, anonymous_id="a1", member_id="m1"),
        seen(member_id="m2"),
    ]
    brand = Brand()
    brand.run(*rows)
    dry = decide.forget(brand.con, brand.rules, [find(brand.con, "m1")], now=day(160), secret=SECRET)
    assert (dry.applied, dry.identifiers, len(dry.people_ended)) == (False, 3, 1)
    assert brand.id("member_id", "m1") is not None
    done = decide.forget(brand.con, brand.rules, [find(brand.con, "m1")], now=day(160), secret=SECRET, apply=True)
    assert done.applied
    assert set(done.elsewhere.values()) == {0}
    brand.run(*rows, as_of=day(170))  # all history comes once more
    assert brand.id("member_id", "m1") is None
    assert brand.id("member_id", "m2") is not None
    assert not any(decide.matches(brand.con, ["m1", "136-1234-0001", "13612340001", "a1"]).values())
    assert brand.con.execute("select distinct status from identity.alias order by 1").fetchall() == [
        ("forgotten",),
        ("live",),
    ]


def test_52_forget_a_shared_phone_only() -> None:
    brand = Brand()
    brand.run(seen(member_id="m1", phone="13612340001"), seen(at=1, member_id="m2", phone="13612340001"))
    people = brand.id("member_id", "m1"), brand.id("member_id", "m2")
    phone = find(brand.con, "13612340001")
    done = decide.forget(brand.con, brand.rules, [phone], now=day(160), secret=SECRET, apply=True, whole_person=False)
    assert (done.people_ended, done.people_changed) == ([], [people[0]])
    assert (brand.id("member_id", "m1"), brand.id("member_id", "m2")) == people
    assert brand.id("phone", "13612340001") is None


def test_52b_forget_an_openid_whose_text_is_another_one_s_under_another_appid() -> None:
    brand = Brand()
    brand.run(seen(unionid="u1", openid_wx1="same"), seen(unionid="u2", openid_wx2="same"))
    done = decide.forget(brand.con, brand.rules, [find(brand.con, "u1")], now=day(160), secret=SECRET, apply=True)
    assert done.applied
    assert brand.id("openid", "same", scope="wx1") is None
    assert brand.id("openid", "same", scope="wx2") == brand.id("unionid", "u2") is not None


def test_53_forget_during_a_running_build_is_turned_away(tmp_path) -> None:  # type: ignore[no-untyped-def]
    brand = Brand(con=duckdb.connect(str(tmp_path / "w.duckdb")))
    brand.run(seen(member_id="m1"))
    other = brand.con.cursor()
    with transaction(brand.con, SECRET):
        with pytest.raises(RetriableError, match="another step is changing identities"):
            decide.forget(other, brand.rules, [find(other, "m1")], now=day(160), secret=SECRET, apply=True)
        rebuilt = brand.con.execute("select count(*) from identity.identity_map").fetchall()
    assert rebuilt == [(1,)]
    assert decide.forget(other, brand.rules, [find(other, "m1")], now=day(160), secret=SECRET, apply=True).applied


def test_54_registering_again_after_forget_starts_a_new_person() -> None:
    brand = Brand()
    brand.run(seen(member_id="m1", phone="13612340001"))
    decide.forget(brand.con, brand.rules, [find(brand.con, "m1")], now=day(160), secret=SECRET, apply=True)
    brand.run(Seen({"member_id": "m9", "phone": "13612340001"}, at=day(170), recorded=day(170)), as_of=day(171))
    assert brand.id("phone", "13612340001") == brand.id("member_id", "m9") is not None


# --------------------------------------------------------------------------------------------------------------- scale


def test_55_default_phone_trips_the_gate_and_the_old_map_stays_live() -> None:
    brand = Brand()
    brand.run(*(seen(member_id=f"m{i}") for i in range(5)))
    before = brand.mapping()
    brand.con.execute(f"""insert into identity.int_identity__evidence ({COLUMNS})
        select 'shop', 'x' || i, 'order', timestamptz '2025-02-01 00:00:00+00', timestamptz '2025-02-01 00:00:00+00',
            timestamptz '2025-02-01 00:00:00+00', 1, 1, [{{'type': 'member_id', 'scope': '', 'value': 'n' || i}},
            {{'type': 'phone', 'scope': '', 'value': '13612340001'}}] from range(1200) as t(i)""")
    with pytest.raises(CheckFailedError, match="max_people_per_contact") as error:
        brand.run()
    assert "13612340001" not in str(error.value)
    assert brand.mapping() == before
    crowd = Brand(rules_with(device_id={"max_links": {}}, member_id={"limit": None}))
    crowd.run(*(seen(member_id=f"m{i}") for i in range(1_100)))
    crowd.add(*(seen("login", 3, member_id=f"m{i}", device_id="d1") for i in range(300)))
    with pytest.raises(CheckFailedError, match="max_merged_known_share"):
        crowd.run()


def test_56_delta_of_no_rows() -> None:
    brand = Brand()
    brand.run(seen(member_id="m1"))
    assert brand.run(as_of=AS_OF + timedelta(days=1)).mode == "unchanged"


def test_57_collation_of_the_session_does_not_matter() -> None:
    rows = [
        seen(openid_wx1="oAb", unionid="u1"),
        seen(openid_wx1="oaB", unionid="U1"),
        seen(openid_wx2="z", unionid=["u1", "U1"]),
    ]
    plain, nocase = Brand(), Brand()
    nocase.con.execute("set default_collation = 'nocase'")
    plain.run(*rows)
    nocase.run(*rows)
    assert nocase.mapping() == plain.mapping()


def test_58_crash_between_map_and_feed_shows_neither(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    path = str(tmp_path / "w.duckdb")
    brand = Brand(con=duckdb.connect(path))
    brand.run(seen(member_id="m1"))
    state = [
        brand.con.execute(f"select count(*) from identity.{table}").fetchall()
        for table in ("identity_map", "identity_change")
    ]
    brand.add(seen(member_id="m2"))

    def crash(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("warehouse.identity_persons._persons", crash)
        with pytest.raises(KeyboardInterrupt):
            brand.run()
    brand.con.close()
    con = duckdb.connect(path)
    assert [
        con.execute(f"select count(*) from identity.{table}").fetchall()
        for table in ("identity_map", "identity_change")
    ] == state
    resolve_identities(con, RULES, run_id="again", as_of=AS_OF, secret=SECRET)
    assert con.execute("select count(*) from identity.identity_map").fetchall() == [(2,)]
    con.close()


def test_08c_a_digest_joins_whichever_of_the_two_comes_first_over_several_runs() -> None:
    brand = Brand()
    digests = [hashlib.md5(f"1361234000{i}".encode()).hexdigest() for i in range(3)]
    brand.run(seen(member_id="m0", phone="13612340000"), seen(unionid="u1", phone_md5=digests[1]))
    brand.run(seen(unionid="u0", phone_md5=digests[0].upper()))
    brand.run(seen(member_id="m1", phone="13612340001"))
    brand.run(seen(unionid="u2", phone_md5=digests[2]))
    assert brand.id("unionid", "u0") == brand.id("member_id", "m0")
    assert brand.id("unionid", "u1") == brand.id("member_id", "m1")
    assert brand.id("phone_md5", digests[1]) == brand.id("phone", "13612340001")
    assert brand.id("unionid", "u2") not in (brand.id("member_id", "m0"), brand.id("member_id", "m1"))


def test_evidence_may_be_a_view_as_well_as_a_table() -> None:
    plain, viewed = Brand(), Brand()
    viewed.con.execute("alter table identity.int_identity__evidence rename to stored")
    viewed.con.execute("create view identity.int_identity__evidence as from identity.stored")
    rows = [seen(member_id="m1", phone="13612340001"), seen("login", 1, member_id="m1", anonymous_id="a1")]
    for row in rows:
        plain.run(row)
        viewed.add_to("identity.stored", row)
        viewed.run()
    assert viewed.mapping() == plain.mapping()
