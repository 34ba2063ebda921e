"""Tag library and `mark_tag`: the rules of § 2, lines 7 and 8 of the checklist."""

from __future__ import annotations

import pytest

from sandbox.server import RunningServer
from tests.sandbox.corp import STAFF, Corp, customer

ADD, EDIT, DELETE = (f"externalcontact/{verb}_corp_tag" for verb in ("add", "edit", "del"))
LIST = "externalcontact/get_corp_tag_list"


def names(corp: Corp) -> dict[str, list[str]]:
    return {group["group_name"]: [tag["name"] for tag in group["tag"]] for group in corp.post(LIST)["tag_group"]}


def test_groups_join_by_name_and_reply_with_new_tags_only(corp: Corp) -> None:
    first = corp.post(ADD, {"group_name": "阶段", "order": 5, "tag": [{"name": "首购", "order": 1}, {"name": "首购"}]})[
        "tag_group"
    ]
    assert [tag["name"] for tag in first["tag"]] == ["首购"]
    again = corp.post(ADD, {"group_name": "阶段", "order": 9, "tag": [{"name": "复购", "order": 3}]})["tag_group"]
    assert again["group_id"] == first["group_id"]
    assert [tag["name"] for tag in again["tag"]] == ["复购"]
    assert names(corp)["阶段"] == ["复购", "首购"]
    by_id = corp.post(ADD, {"group_id": first["group_id"], "group_name": "别的", "tag": [{"name": "沉睡"}]})[
        "tag_group"
    ]
    assert by_id["group_name"] == "阶段"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"group_name": "客户等级", "tag": [{"name": "金卡"}]}, 40071),
        ({"group_name": "空", "tag": [{"name": ""}]}, 41018),
        ({"group_name": "空", "tag": []}, 41018),
        ({"group_name": "空", "tag": [{"name": "长" * 31}]}, 40072),
        ({"group_name": "长" * 31, "tag": [{"name": "一"}]}, 40072),
        ({"group_name": "空", "tag": [{"name": "一", "order": 2**32}]}, 40058),
        ({"group_id": "etnone", "tag": [{"name": "一"}]}, 40068),
    ],
)
def test_add_refuses_and_leaves_nothing_behind(corp: Corp, body: dict[str, object], code: int) -> None:
    before = names(corp)
    assert corp.post(ADD, body)["errcode"] == code
    assert names(corp) == before


def test_cap_counts_corp_and_strategy_tags(corp: Corp, server: RunningServer) -> None:
    server.admin("POST", "settings", {"tag_cap": 2})
    assert corp.post(ADD, {"group_name": "满", "tag": [{"name": "一"}]})["errcode"] == 40126


def test_only_the_owner_edits_and_deletes(corp: Corp, rival: Corp) -> None:
    mine = corp.new_tags("我的组", "甲", "乙")
    for key in (mine[0], "etgold"):
        caller = rival if key == mine[0] else corp
        assert caller.post(EDIT, {"id": key, "name": "改"})["errcode"] == 40068
        assert caller.post(DELETE, {"tag_id": [key]})["errcode"] == 40068
    assert corp.post(EDIT, {"id": mine[0], "name": "乙"})["errcode"] == 40071
    assert corp.post(EDIT, {"id": mine[0], "name": "丙", "order": 7})["errcode"] == 0
    assert corp.post(EDIT, {"name": "无"})["errcode"] == 41017
    assert names(corp)["我的组"] == ["丙", "乙"]
    group = corp.post(LIST, {"tag_id": [mine[0]]})["tag_group"][0]
    assert [tag["name"] for tag in group["tag"]] == ["丙"]
    assert group["tag"][0]["deleted"] is False
    assert corp.post(EDIT, {"id": group["group_id"], "name": "我的新组"})["errcode"] == 0


def test_last_tag_removes_its_group_and_deletion_strips_customers(corp: Corp) -> None:
    tags = corp.new_tags("短命", "一", "二")
    corp.mark(10, add=tags)
    assert corp.post(DELETE, {"tag_id": [tags[0]]})["errcode"] == 0
    assert corp.tags_on(10) == [tags[1]]
    assert corp.post(DELETE, {"tag_id": [tags[1]]})["errcode"] == 0
    assert "短命" not in names(corp)
    assert corp.tags_on(10) == []
    assert corp.mark(10, add=[tags[0]])["errcode"] == 40068
    assert corp.post(DELETE, {})["errcode"] == 41017


def test_strategy_tags_stay_out_of_the_corp_list(corp: Corp, rival: Corp) -> None:
    assert "规则组" not in names(corp)
    own = corp.post("externalcontact/get_strategy_tag_list", {"strategy_id": 7})["tag_group"]
    assert [group["group_name"] for group in own] == ["规则组"]
    assert rival.post("externalcontact/get_strategy_tag_list")["tag_group"] == []
    assert corp.mark(0, add=["etrule"])["errcode"] == 0
    assert corp.mark(1, add=["etrule"])["errcode"] == 40068  # that staff is outside the strategy's range
    follow = corp.get("externalcontact/get", external_userid=customer(0))["follow_user"]
    assert 3 in {tag["type"] for row in follow for tag in row["tags"]}


def test_mark_adds_removes_and_repeats_harmlessly(corp: Corp) -> None:
    one, two = corp.new_tags("标记", "一", "二")
    for _ in range(2):
        assert corp.mark(20, add=[one])["errcode"] == 0
    assert corp.tags_on(20) == [one]
    for _ in range(2):
        assert corp.mark(20, add=[two], remove=[one])["errcode"] == 0
    assert corp.tags_on(20) == [two]
    other_staff = STAFF[(20 + 3) % 9]
    assert corp.tags_on(20, other_staff) == []  # tags belong to the pair


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"userid": STAFF[0], "external_userid": customer(0)}, 41017),
        ({"userid": "nobody", "external_userid": customer(0), "add_tag": ["etgold"]}, 40003),
        ({"external_userid": customer(0), "add_tag": ["etgold"]}, 40003),
        ({"user_id": STAFF[0], "external_userid": customer(0), "add_tag": ["etgold"]}, 40003),
        ({"userid": STAFF[0], "add_tag": ["etgold"]}, 41035),
        ({"userid": STAFF[0], "external_userid": "wmnobody", "add_tag": ["etgold"]}, 40096),
        ({"userid": STAFF[0], "external_userid": customer(0), "add_tag": ["etgold", "etnone"]}, 40068),
        ({"userid": STAFF[1], "external_userid": customer(0), "add_tag": ["etgold"]}, 84061),
    ],
)
def test_mark_refuses_as_a_whole(corp: Corp, body: dict[str, object], code: int) -> None:
    before = corp.tags_on(0)
    assert corp.post("externalcontact/mark_tag", body)["errcode"] == code
    assert corp.tags_on(0) == before


def test_partial_marks_are_a_setting(corp: Corp, server: RunningServer) -> None:
    server.admin("POST", "settings", {"mark_atomic": False})
    assert corp.mark(30, add=["etgold", "etnone"])["errcode"] == 40068
    assert corp.tags_on(30) == ["etgold"]


def test_tags_of_a_pair_are_capped(corp: Corp, server: RunningServer) -> None:
    server.admin("POST", "settings", {"tags_per_pair": 1})
    tags = corp.new_tags("上限", "一", "二")
    assert corp.mark(40, add=tags)["errcode"] == 40058
    assert corp.mark(40, add=tags[:1])["errcode"] == 0


def test_removed_and_half_relations_refuse_one_way_ones_do_not(corp: Corp, server: RunningServer) -> None:
    def hand(action: str, number: int) -> None:
        server.admin("POST", "hand", {"do": action, "userid": STAFF[number % 9], "external_userid": customer(number)})

    hand("remove_customer", 50)
    assert corp.mark(50, add=["etgold"])["errcode"] == 84061
    hand("remove_staff", 51)
    assert corp.mark(51, add=["etgold"])["errcode"] == 0
    assert customer(51) in {row["external_contact"]["external_userid"] for row in corp.pull([STAFF[51 % 9]])}
    server.admin(
        "POST", "hand", {"do": "add_relation", "userid": STAFF[9], "external_userid": customer(52), "half": True}
    )
    assert corp.mark(52, STAFF[9], add=["etgold"])["errcode"] == 84061
    server.admin("POST", "hand", {"do": "add_back", "userid": STAFF[9], "external_userid": customer(52)})
    assert corp.mark(52, STAFF[9], add=["etgold"])["errcode"] == 0
    server.admin("POST", "hand", {"do": "remove_customer", "userid": STAFF[9], "external_userid": customer(52)})
