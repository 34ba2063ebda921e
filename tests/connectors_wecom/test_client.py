"""Token, pace, retry by code and secrecy of the client, against a handler in memory and a clock that does not wait."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from connectors.wecom.client import Limits, WeComClient
from connectors.wecom.pace import HourBudget, Pacer
from connectors.wecom.replies import KINDS, WeComError, WeComFatalError, WeComItemError, kind_of

SECRET = "planted-secret"


class Server:
    """Answers calls in memory; `answers` gives the reply of a path, or raises. Tokens are numbered."""

    def __init__(self, **answers: Callable[[httpx.Request], Any]) -> None:
        self.answers = answers
        self.tokens = 0
        self.seen: list[httpx.Request] = []
        self.lock = threading.Lock()

    def __call__(self, request: httpx.Request) -> httpx.Response:
        with self.lock:
            self.seen.append(request)
            path = request.url.path.removeprefix("/cgi-bin/")
            if path == "gettoken" and path not in self.answers:
                self.tokens += 1
                return httpx.Response(200, json={"errcode": 0, "access_token": f"T{self.tokens}", "expires_in": 7200})
        reply = self.answers.get(path.rsplit("/", 1)[-1], lambda _: {"errcode": 0})(request)
        return reply if isinstance(reply, httpx.Response) else httpx.Response(200, json=reply)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def client(server: Server, clock: Clock | None = None, **limits: Any) -> WeComClient:
    clock = clock or Clock()
    transport = httpx.MockTransport(server)
    chosen = Limits(**{"calls_per_second": 1000.0, **limits})
    return WeComClient(
        "https://example.invalid", "ww1", SECRET, transport=transport, limits=chosen, clock=clock, sleep=clock.sleep
    )


def in_turn(*replies: Any) -> Callable[[httpx.Request], Any]:
    """The replies one after the other, the last for ever."""
    left = list(replies)

    def answer(_: httpx.Request) -> Any:
        reply = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(reply, Exception):
            raise reply
        return reply

    return answer


def code(number: int) -> dict[str, Any]:
    return {"errcode": number, "errmsg": "secret words of the server", "external_userid": []}


def test_a_token_is_got_once_and_renewed_before_it_ends() -> None:
    server, clock = Server(), Clock()
    wecom = client(server, clock)
    wecom.follow_users()
    wecom.follow_users()
    assert server.tokens == 1
    clock.now += 7100
    wecom.follow_users()
    assert server.tokens == 2


@pytest.mark.parametrize("number", [40014, 42001, 40001])
def test_a_refused_token_is_refreshed_once_however_many_ask(number: int) -> None:
    server = Server(
        get_follow_user_list=lambda request: code(number) if request.url.params["access_token"] == "T1" else {}
    )
    wecom = client(server)
    threads = [threading.Thread(target=wecom.follow_users) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server.tokens == 2


def test_a_second_refusal_stops_the_job() -> None:
    with pytest.raises(WeComFatalError, match="also with a fresh token"):
        client(Server(get_follow_user_list=in_turn(code(40014)))).follow_users()


def test_a_wrong_secret_says_where_to_look() -> None:
    with pytest.raises(WeComFatalError, match="check the app's secret"):
        client(Server(gettoken=in_turn(code(40001)))).follow_users()


@pytest.mark.parametrize(
    "fault", [code(-1), code(6000), httpx.ReadTimeout("x"), httpx.ConnectError("dns"), httpx.Response(502)]
)
def test_passing_faults_are_tried_again(fault: Any) -> None:
    clock = Clock()
    wecom = client(Server(get_follow_user_list=in_turn(fault, fault, {"follow_user": ["a"]})), clock)
    assert wecom.follow_users() == ["a"]
    assert [wait for wait in clock.slept if wait >= 1] == [1, 2]


def test_a_broken_quota_window_is_waited_out() -> None:
    clock = Clock()
    wecom = client(Server(get_follow_user_list=in_turn(code(45009), {"follow_user": ["a"]})), clock, window_s=60.0)
    assert wecom.follow_users() == ["a"]
    assert 60 <= clock.now - 1000 < 62


@pytest.mark.parametrize("number", [40058, 48002, 60020, 40096, 84061, 12345])
def test_other_codes_are_not_tried_again(number: int) -> None:
    server = Server(get_follow_user_list=in_turn(code(number)))
    with pytest.raises(WeComError, match=str(number)):
        client(server).follow_users()
    assert len(server.seen) == 2


def test_a_failed_reply_with_an_empty_list_is_an_error_not_an_answer() -> None:
    with pytest.raises(WeComItemError):
        client(Server(get_follow_user_list=in_turn(code(60111)))).follow_users()


@pytest.mark.parametrize(
    "reply", [httpx.Response(404), httpx.Response(200, text="<html>"), httpx.Response(200, json=[])]
)
def test_what_is_not_a_reply_is_told_as_such(reply: httpx.Response) -> None:
    with pytest.raises(WeComError, match="get_follow_user_list"):
        client(Server(get_follow_user_list=in_turn(reply)), attempts=1).follow_users()


def test_nothing_secret_reaches_logs_errors_or_representation(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    faults = [code(48002), code(-1), httpx.ReadTimeout("x"), httpx.Response(500, text=SECRET)]
    texts = []
    for fault in faults:
        wecom = client(Server(get_follow_user_list=in_turn(fault)), attempts=1)
        with pytest.raises(WeComError) as caught:
            wecom.follow_users()
        texts += [repr(caught.value), str(caught.value), repr(wecom), repr(caught.value.__context__ or "")]
        assert caught.value.__cause__ is None
    texts += [record.getMessage() for record in caplog.records]
    for text in texts:
        for planted in (SECRET, "T1", "secret words", "access_token=", "corpsecret="):
            assert planted not in text


def test_bodies_are_plain_utf_8() -> None:
    server = Server()
    client(server).add_tags([("首购", 1)], group_name="生命周期")
    assert "首购".encode() in server.seen[-1].content
    assert b"\\u" not in server.seen[-1].content


def test_a_refused_staff_list_is_halved() -> None:
    def answer(request: httpx.Request) -> Any:
        users = json.loads(request.content)["userid_list"]
        if len(users) > 20:
            return code(40058)
        rows = [{"external_contact": {"external_userid": f"w{u}"}, "follow_info": {"userid": u}} for u in users]
        return {"external_contact_list": rows}

    rows = list(client(Server(get_by_user=answer)).relations([f"u{n:02d}" for n in range(75)]))
    assert [row["follow_info"]["userid"] for row in rows] == [f"u{n:02d}" for n in range(75)]


def test_the_pace_holds_slows_and_recovers() -> None:
    clock = Clock()
    pace = Pacer(10.0, clock=clock, sleep=clock.sleep, burst=1, recover_after=10)
    for _ in range(101):
        pace.wait()
    assert clock.now - 1000 == pytest.approx(10, rel=0.02)
    pace.slow_down()
    assert pace.per_second == 5
    for _ in range(100):
        pace.good()
    assert pace.per_second == 10


def test_an_hour_has_a_budget_and_the_next_hour_a_new_one() -> None:
    clock = Clock()
    budget = HourBudget(3, clock=clock)
    assert [budget.reserve() for _ in range(3)] == [0, 0, 0]
    clock.now += 600
    assert budget.reserve() == 3000
    clock.now += 3000
    assert [budget.reserve() for _ in range(4)] == [0, 0, 0, 3600]


def test_a_clock_that_jumps_cannot_stall_or_flood() -> None:
    clock = Clock()
    pace = Pacer(10.0, clock=clock, sleep=clock.sleep, burst=2)
    pace.wait()
    clock.now -= 86_400
    before = len(clock.slept)
    pace.wait()
    assert sum(clock.slept[before:]) < 2
    clock.now += 86_400
    start = clock.now
    for _ in range(22):
        pace.wait()
    assert clock.now - start >= 1.9


def test_a_code_belongs_to_one_class_and_configuration_may_say_otherwise() -> None:
    assert (kind_of(45033), kind_of(45009), kind_of(84061), kind_of(99999)) == ("SLOW", "WAIT", "DROP", "UNKNOWN")
    assert kind_of(45033, {45033: "ALERT"}) == "ALERT"
    assert len(KINDS) > 90
