"""What people do between a pull and a push: staff leaving, hand-over, removals, groups, corp messages."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sandbox.server import RunningServer
from tests.sandbox.corp import CUSTOMERS, OA, OTHER_SECRET, STAFF, Corp, customer

PATH = "externalcontact/"


@pytest.fixture
def world(fresh: RunningServer) -> RunningServer:
    return fresh


@pytest.fixture
def client(world: RunningServer) -> Iterator[Corp]:
    found = Corp(world)
    yield found
    found.http.close()


def hand(server: RunningServer, **action: object) -> object:
    return server.admin("POST", "hand", action)["done"][0]


def test_staff_who_left_are_gone_and_their_customers_wait(world: RunningServer, client: Corp) -> None:
    mine = {row["external_contact"]["external_userid"] for row in client.pull([STAFF[0]])}
    hand(world, do="leave", userid=STAFF[0])
    assert STAFF[0] not in client.get(PATH + "get_follow_user_list")["follow_user"]
    assert client.mark(0, STAFF[0], add=["etgold"])["errcode"] == 40003
    waiting = client.post(PATH + "get_unassigned_list", {"page_size": 1000})
    assert {row["external_userid"] for row in waiting["info"]} == mine
    assert waiting["is_last"] is True


def test_hand_over_takes_a_day_and_leaves_tags_behind(world: RunningServer, client: Corp) -> None:
    client.mark(0, STAFF[0], add=["etgold"])
    ask = {"handover_userid": STAFF[0], "takeover_userid": STAFF[9], "external_userid": [customer(0), customer(1)]}
    answers = client.post(PATH + "transfer_customer", ask)["customer"]
    assert [row["errcode"] for row in answers] == [0, 40096]  # customer 1 is not his
    pair = {"handover_userid": STAFF[0], "takeover_userid": STAFF[9]}
    assert client.post(PATH + "transfer_result", pair)["customer"][0]["status"] == 2
    assert client.post(PATH + "transfer_customer", ask)["customer"][0]["errcode"] == 40099
    world.admin("POST", "clock", {"advance": 86_500})
    client.renew()
    assert client.post(PATH + "transfer_result", pair)["customer"][0]["status"] == 1
    assert client.mark(0, STAFF[0], add=["etgold"])["errcode"] == 84061
    assert client.tags_on(0, STAFF[9]) == []


def test_transfer_by_an_admin_raises_both_events(world: RunningServer, client: Corp) -> None:
    hand(world, do="transfer", userid=STAFF[2], to=STAFF[9], external_userids=[customer(2)])
    kinds = [(event["event"]["ChangeType"], event["event"].get("Source")) for event in _events(world)]
    assert kinds == [("add_external_contact", None), ("del_external_contact", "DELETE_BY_TRANSFER")]
    assert client.mark(2, STAFF[9], add=["etgold"])["errcode"] == 0


def _events(server: RunningServer) -> list[dict[str, dict[str, str]]]:
    """All events, pending ones included (no callback address is set here)."""
    while server.admin("GET", "events")["pending"]:
        pass
    return list(server.admin("GET", "events")["events"])


def test_removal_either_way(world: RunningServer, client: Corp) -> None:
    pair = {"userid": STAFF[3], "external_userid": customer(3)}
    hand(world, do="remove_staff", **pair)
    assert customer(3) in client.get(PATH + "list", userid=STAFF[3])["external_userid"]
    hand(world, do="remove_customer", **pair)
    assert customer(3) not in client.get(PATH + "list", userid=STAFF[3])["external_userid"]
    assert len(client.get(PATH + "get", external_userid=customer(3))["follow_user"]) == 1
    hand(world, do="remove_customer", userid=STAFF[6], external_userid=customer(3))
    assert client.get(PATH + "get", external_userid=customer(3))["errcode"] == 84061


def test_reads_may_lag_behind_a_removal(world: RunningServer, client: Corp) -> None:
    world.admin("POST", "settings", {"removed_lag_seconds": 3600})
    hand(world, do="remove_customer", userid=STAFF[3], external_userid=customer(3))
    assert customer(3) in client.get(PATH + "list", userid=STAFF[3])["external_userid"]
    assert client.mark(3, STAFF[3], add=["etgold"])["errcode"] == 84061


def test_another_app_changes_tags_without_an_event(world: RunningServer, client: Corp) -> None:
    other = Corp(world, OTHER_SECRET)
    tag = client.new_tags("我的", "一")[0]
    client.mark(5, add=[tag])
    assert other.mark(5, remove=[tag])["errcode"] == 0
    assert client.tags_on(5) == []
    assert _events(world) == []
    other.http.close()


def test_groups_are_listed_read_joined_and_dismissed(world: RunningServer, client: Corp) -> None:
    hand(world, do="create_group", chat_id="wrchat1", name="福利群", owner=STAFF[0])
    hand(world, do="join_group", chat_id="wrchat1", external_userid=customer(1), unionid="ou1", state="qr")
    assert client.post(PATH + "groupchat/list", {"limit": 0})["errcode"] == 40058
    assert client.post(PATH + "groupchat/list", {"limit": 10})["group_chat_list"] == [
        {"chat_id": "wrchat1", "status": 0}
    ]
    group = client.post(PATH + "groupchat/get", {"chat_id": "wrchat1", "need_name": 1})["group_chat"]
    assert [member["type"] for member in group["member_list"]] == [1, 2]
    assert group["member_list"][1]["state"] == "qr"
    assert group["admin_list"] == [{"userid": STAFF[0]}]
    hand(world, do="dismiss_group", chat_id="wrchat1")
    assert client.post(PATH + "groupchat/get", {"chat_id": "wrchat1"})["errcode"] == 49008
    assert client.post(PATH + "groupchat/get", {"chat_id": "wrnone"})["errcode"] == 40050


def test_corp_messages_wait_for_the_staff(world: RunningServer, client: Corp) -> None:
    body = {"chat_type": "single", "external_userid": [customer(0), "wmnobody"], "text": {"content": "新品到店"}}
    sent = client.post(PATH + "add_msg_template", body)
    assert sent["fail_list"] == ["wmnobody"]
    key = {"msgid": sent["msgid"]}
    task = client.post(PATH + "get_groupmsg_task", key)["task_list"]
    assert [row["status"] for row in task] == [0]
    hand(world, do="confirm_message", msgid=sent["msgid"], userid=task[0]["userid"])
    results = client.post(PATH + "get_groupmsg_send_result", key | {"userid": task[0]["userid"]})["send_list"]
    assert [(row["external_userid"], row["status"]) for row in results] == [(customer(0), 1)]
    assert client.post(PATH + "add_msg_template", {"text": {"content": "无人"}})["errcode"] == 41048
    assert client.post(PATH + "get_groupmsg_task", {"msgid": "none"})["errcode"] == 41047


def test_messages_to_groups_go_to_those_of_their_sender(world: RunningServer, client: Corp) -> None:
    for number in (1, 2):
        hand(world, do="create_group", chat_id=f"wr{number}", name="福利群", owner=STAFF[0])
    body = {"chat_type": "group", "sender": STAFF[0], "text": {"content": "新品到店"}}
    sent = client.post(PATH + "add_msg_template", body | {"chat_id_list": ["wr2", "wrnone"]})
    assert sent["fail_list"] == ["wrnone"]
    every = client.post(PATH + "add_msg_template", body)
    for msgid, chats in ((sent["msgid"], ["wr2"]), (every["msgid"], ["wr1", "wr2"])):
        hand(world, do="confirm_message", msgid=msgid, userid=STAFF[0])
        results = client.post(PATH + "get_groupmsg_send_result", {"msgid": msgid, "userid": STAFF[0]})["send_list"]
        assert [(row.get("external_userid"), row["chat_id"], row["status"]) for row in results] == [
            (None, chat, 1) for chat in chats
        ]
    assert client.post(PATH + "add_msg_template", body | {"sender": STAFF[1]})["errcode"] == 41048


def test_tasks_come_in_pages(world: RunningServer, client: Corp) -> None:
    asked = {"external_userid": [customer(number) for number in range(9)], "text": {"content": "新品到店"}}
    msgid = client.post(PATH + "add_msg_template", asked)["msgid"]
    whole = client.post(PATH + "get_groupmsg_task", {"msgid": msgid})["task_list"]
    found, cursor = [], ""
    while True:
        page = client.post(PATH + "get_groupmsg_task", {"msgid": msgid, "limit": 2, "cursor": cursor})
        found += page["task_list"]
        cursor = page["next_cursor"]
        if not cursor:
            break
    assert len(whole) > 2
    assert found == whole


def test_tag_filter_is_or_inside_and_between(world: RunningServer, client: Corp) -> None:
    one, two, three = client.new_tags("筛选", "一", "二", "三")
    for number, tags in ((0, [one, three]), (9, [two, three]), (18, [one])):
        client.mark(number, STAFF[0], add=tags)
    groups = {"group_list": [{"tag_list": [one, two]}, {"tag_list": [three]}]}
    body = {"sender": STAFF[0], "tag_filter": groups, "text": {"content": "你好"}}
    msgid = client.post(PATH + "add_msg_template", body)["msgid"]
    sends = client.post(PATH + "get_groupmsg_send_result", {"msgid": msgid, "userid": STAFF[0]})["send_list"]
    assert [row["external_userid"] for row in sends] == [customer(0), customer(9)]


def test_welcome_code_works_once_and_for_twenty_seconds(world: RunningServer, client: Corp) -> None:
    codes = []
    for number in (300, 301):
        hand(world, do="add_relation", userid=STAFF[9], external_userid=customer(number), unionid=f"ou{number}")
        codes.append(_events(world)[-1]["event"]["WelcomeCode"])
    path = PATH + "send_welcome_msg"
    assert [client.post(path, {"welcome_code": codes[0]})["errcode"] for _ in range(2)] == [0, 41050]
    world.admin("POST", "clock", {"advance": 30})
    assert client.post(path, {"welcome_code": codes[1]})["errcode"] == 41050
    assert len(client.pull(STAFF)) == 2 * CUSTOMERS + 2


def test_a_self_built_app_cannot_turn_unionids_into_customers(client: Corp) -> None:
    reply = client.post("idconvert/unionid_to_external_userid", {"unionid": "ou", "openid": "o", "subject_type": 0})
    assert reply["errcode"] == 48002
    assert OA == "wx0a"
