"""What reads show: shapes of `get` and `batch/get_by_user`, paging, groups, contact ways, behaviour."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from sandbox.server import RunningServer, start
from sandbox.state import create
from tests.sandbox.corp import CUSTOMERS, STAFF, Corp, customer, write_corp


def test_batch_gives_one_row_per_pair_and_every_pair_once(corp: Corp) -> None:
    rows = corp.pull(STAFF[:9], limit=37)
    pairs = [(row["follow_info"]["userid"], row["external_contact"]["external_userid"]) for row in rows]
    assert len(pairs) == len(set(pairs)) == 2 * CUSTOMERS
    assert set(Counter(pair[1] for pair in pairs).values()) == {2}


def test_pages_split_a_customers_rows_and_may_come_short(corp: Corp, server: RunningServer) -> None:
    server.admin("POST", "settings", {"short_page_rate": 0.5})
    path = "externalcontact/batch/get_by_user"
    sizes, pages, cursor = [], [], ""
    while True:
        page = corp.post(path, {"userid_list": STAFF[:9], "limit": 50, "cursor": cursor})
        sizes.append(len(page["external_contact_list"]))
        pages.append({row["external_contact"]["external_userid"] for row in page["external_contact_list"]})
        cursor = page["next_cursor"]
        if not cursor:
            break
    assert sum(sizes) == 2 * CUSTOMERS
    assert min(sizes[:-1]) < 50
    assert any(pages[0] & later for later in pages[1:])


def test_shapes_of_the_two_reads_differ_as_the_reference_says(corp: Corp, server: RunningServer) -> None:
    corp.mark(1, add=["etgold"])
    tag = {"group_name": "客户等级", "tag_name": "金卡", "tag_id": "etgold", "type": 1}
    one = corp.get("externalcontact/get", external_userid=customer(1))
    follow = next(row for row in one["follow_user"] if row["userid"] == STAFF[1])
    assert follow["tags"] == [tag]
    assert "tag_id" not in follow
    assert "next_cursor" not in one
    row = next(row for row in corp.pull([STAFF[1]]) if row["external_contact"]["external_userid"] == customer(1))
    assert row["follow_info"]["tag_id"] == ["etgold"]
    assert "tags" not in row["follow_info"]
    assert row["follow_info"]["remark_mobiles"] == ["13712345678"]
    assert row["follow_info"]["state"] == "counter"


def test_unionid_only_for_wechat_users_and_only_when_bound(corp: Corp, server: RunningServer) -> None:
    wechat = corp.get("externalcontact/get", external_userid=customer(3))["external_contact"]
    wecom = corp.get("externalcontact/get", external_userid=customer(200))["external_contact"]
    assert wechat["unionid"]
    assert "corp_name" not in wechat
    assert wecom["type"] == 2
    assert "unionid" not in wecom
    assert wecom["corp_name"] == "某公司"
    server.admin("POST", "settings", {"unionid_bound": False})
    assert "unionid" not in corp.get("externalcontact/get", external_userid=customer(3))["external_contact"]
    assert all("unionid" not in row["external_contact"] for row in corp.pull([STAFF[3]]))


def test_personal_tags_have_no_id_and_batch_leaves_them_out(corp: Corp, server: RunningServer) -> None:
    server.admin(
        "POST", "hand", {"do": "personal_tags", "userid": STAFF[2], "external_userid": customer(2), "tags": ["爱喝茶"]}
    )
    follow = corp.get("externalcontact/get", external_userid=customer(2))["follow_user"]
    tags = next(row["tags"] for row in follow if row["userid"] == STAFF[2])
    assert {"group_name": "", "tag_name": "爱喝茶", "type": 2} in tags


@pytest.mark.parametrize(
    ("path", "query", "code"),
    [
        ("externalcontact/list", {}, 60111),
        ("externalcontact/list", {"userid": "nobody"}, 40003),
        ("externalcontact/list", {"userid": STAFF[9]}, 84061),
        ("externalcontact/get", {}, 41035),
        ("externalcontact/get", {"external_userid": customer(3).upper()}, 40096),
        ("user/get", {"userid": "nobody"}, 60111),
    ],
)
def test_reads_refuse(corp: Corp, path: str, query: dict[str, str], code: int) -> None:
    assert corp.get(path, **query)["errcode"] == code


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, 41009),
        ({"userid": "store00"}, 41009),
        ({"userid_list": ["nobody"]}, 40003),
        ({"userid_list": [f"s{number}" for number in range(101)]}, 40058),
        ({"userid_list": ["store00"], "cursor": "rubbish"}, 40058),
    ],
)
def test_batch_refuses(corp: Corp, body: dict[str, object], code: int) -> None:
    reply = corp.post("externalcontact/batch/get_by_user", body)
    assert reply["errcode"] == code
    assert reply["external_contact_list"] == []


def test_list_gives_every_customer_of_a_staff(corp: Corp, server: RunningServer) -> None:
    found = corp.get("externalcontact/list", userid=STAFF[0])["external_userid"]
    assert len(found) == len(set(found)) == len(corp.pull([STAFF[0]]))
    server.admin("POST", "settings", {"list_empty_code": 0})
    assert corp.get("externalcontact/list", userid=STAFF[9])["external_userid"] == []


def test_staff_names_come_from_simplelist(corp: Corp) -> None:
    rows = corp.get("user/simplelist", department_id=1, fetch_child=1)["userlist"]
    assert [row["userid"] for row in rows] == STAFF
    assert corp.get("user/get", userid=STAFF[0])["name"] == rows[0]["name"]


def test_remark_is_bounded_and_kept(corp: Corp) -> None:
    body = {"userid": STAFF[4], "external_userid": customer(4)}
    path = "externalcontact/remark"
    assert corp.post(path, body)["errcode"] == 40035
    assert corp.post(path, body | {"remark": "长" * 21})["errcode"] == 40058
    assert corp.post(path, body | {"remark": "林女士", "remark_mobiles": ["13900000001"]})["errcode"] == 0
    follow = corp.get("externalcontact/get", external_userid=customer(4))["follow_user"]
    assert {row["remark"] for row in follow if row["userid"] == STAFF[4]} == {"林女士"}


def test_contact_ways_are_made_listed_changed_and_deleted(corp: Corp) -> None:
    path = "externalcontact/"
    made = corp.post(path + "add_contact_way", {"type": 2, "scene": 2, "state": "s1", "user": STAFF[:2]})
    assert made["errcode"] == 0
    way = {"config_id": made["config_id"]}
    assert way in corp.post(path + "list_contact_way", {"limit": 100})["contact_way"]
    assert corp.post(path + "update_contact_way", way | {"state": "s2"})["errcode"] == 0
    assert corp.post(path + "get_contact_way", way)["contact_way"]["state"] == "s2"
    assert corp.post(path + "del_contact_way", way)["errcode"] == 0
    assert corp.post(path + "get_contact_way", way)["errcode"] == 40058
    assert corp.post(path + "add_contact_way", {"type": 2, "scene": 2, "user": ["x"] * 101})["errcode"] == 41041


def test_behaviour_has_a_time_range(corp: Corp) -> None:
    path, now = "externalcontact/get_user_behavior_data", 1_800_000_000
    wide = {"userid": STAFF[:2], "start_time": now - 40 * 86400, "end_time": now}
    assert corp.post(path, wide)["errcode"] == 600018


def test_get_pages_beyond_five_hundred_followers(tmp_path: Path) -> None:
    path = write_corp(tmp_path / "wecom.sqlite")
    con = create(path)
    con.execute("begin")
    con.executemany(
        "insert into staff (userid, name) values (?, '临时')", [(f"temp{number:04d}",) for number in range(600)]
    )
    con.executemany(
        "insert into relations (userid, external_userid, createtime) values (?, ?, 1700000000)",
        [(f"temp{number:04d}", customer(7)) for number in range(600)],
    )
    con.execute("commit")
    con.close()
    with start(path) as server:
        corp = Corp(server)
        first = corp.get("externalcontact/get", external_userid=customer(7))
        second = corp.get("externalcontact/get", external_userid=customer(7), cursor=first["next_cursor"])
        assert len(first["follow_user"]) == 500
        assert len(second["follow_user"]) == 102
        assert "next_cursor" not in second
        corp.http.close()
