"""Callbacks: signed, encrypted, checked by GET, tried four times, lost and repeated on demand, none for API writes."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import pytest

from sandbox.callbacks import new_aes_key
from sandbox.server import RunningServer
from tests.sandbox.corp import CORPID, STAFF, Corp, customer
from tests.sandbox.receiver import Receiver

TOKEN = "callback-token"
KEY = new_aes_key()


@pytest.fixture
def receiver(server: RunningServer) -> Iterator[Receiver]:
    found = Receiver(TOKEN, KEY, CORPID)
    server.admin("POST", "settings", {"callback": {"url": found.url, "token": TOKEN, "aes_key": KEY}})
    yield found
    server.admin("POST", "settings", {"callback": {"url": "", "loss_rate": 0.0, "repeat_rate": 0.0}})
    found.close()


def settle(server: RunningServer, records: int) -> list[dict[str, object]]:
    """Wait until that many events have been dealt with."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        found = server.admin("GET", "events")
        if found["pending"] == 0 and len(found["events"]) >= records and not found["busy"]:
            return list(found["events"])
        time.sleep(0.02)
    raise AssertionError("events did not settle")


def mark_by_hand(server: RunningServer, *numbers: int) -> int:
    """Staff marks customers in one go; how many events there were before."""
    before = len(server.admin("GET", "events")["events"])
    pairs = [{"userid": STAFF[number % 9], "external_userid": customer(number)} for number in numbers]
    server.admin("POST", "hand", [{"do": "mark", **pair, "add": ["etgold"]} for pair in pairs])
    return before


def field(text: str, name: str) -> str:
    found = re.search(rf"<{name}>(?:<!\[CDATA\[)?(.*?)(?:\]\]>)?</{name}>", text)
    assert found, text
    return found[1]


def test_the_address_is_checked_by_echo(server: RunningServer, receiver: Receiver) -> None:
    assert server.admin("POST", "callback/verify")["ok"] is True


def test_hand_edits_arrive_signed_and_encrypted(server: RunningServer, receiver: Receiver) -> None:
    before = mark_by_hand(server, 1, 2, 3)
    settle(server, before + 3)
    assert [field(text, "ExternalUserID") for text in receiver.messages] == [customer(1), customer(2), customer(3)]
    assert {field(text, "ChangeType") for text in receiver.messages} == {"edit_external_contact"}
    assert {field(text, "FromUserName") for text in receiver.messages} == {"sys"}
    assert {field(text, "ToUserName") for text in receiver.messages} == {CORPID}
    assert len({field(text, "CreateTime") for text in receiver.messages}) <= 2  # same-second events


def test_writes_through_the_api_raise_none_unless_set(server: RunningServer, corp: Corp, receiver: Receiver) -> None:
    before = len(server.admin("GET", "events")["events"])
    corp.mark(4, add=["etgold"])
    time.sleep(0.1)
    assert len(server.admin("GET", "events")["events"]) == before
    server.admin("POST", "settings", {"api_raises_callbacks": True})
    corp.mark(5, add=["etgold"])
    settle(server, before + 1)
    assert [field(text, "ExternalUserID") for text in receiver.messages] == [customer(5)]


def test_three_more_tries_when_not_acknowledged(server: RunningServer) -> None:
    stubborn = Receiver(TOKEN, KEY, CORPID, answers=lambda post: 500 if post < 3 else 200)
    server.admin("POST", "settings", {"callback": {"url": stubborn.url, "token": TOKEN, "aes_key": KEY}})
    before = mark_by_hand(server, 6)
    record = settle(server, before + 1)[-1]
    assert (record["attempts"], record["status"]) == (4, 200)
    assert len(stubborn.messages) == 1
    server.admin("POST", "settings", {"callback": {"url": ""}})
    stubborn.close()


def test_loss_and_repetition_on_demand(server: RunningServer, receiver: Receiver) -> None:
    server.admin("POST", "settings", {"callback": {"loss_rate": 1.0}})
    before = mark_by_hand(server, 7)
    assert settle(server, before + 1)[-1]["lost"] is True
    server.admin("POST", "settings", {"callback": {"loss_rate": 0.0, "repeat_rate": 1.0}})
    before = mark_by_hand(server, 8)
    settle(server, before + 1)
    assert len(receiver.messages) == 2
    assert receiver.messages[0] == receiver.messages[1]


def test_tag_and_group_events_say_what_the_reference_says(server: RunningServer, receiver: Receiver) -> None:
    before = len(server.admin("GET", "events")["events"])
    made = server.admin("POST", "hand", {"do": "create_tag", "group": "客户等级", "name": "银卡"})["done"][0]
    server.admin("POST", "hand", {"do": "delete_tag", "id": made["tag_id"]})
    settle(server, before + 2)
    assert [field(text, "Event") for text in receiver.messages] == ["change_external_tag"] * 2
    assert [field(text, "ChangeType") for text in receiver.messages] == ["create", "delete"]
    assert {field(text, "Id") for text in receiver.messages} == {made["tag_id"]}
