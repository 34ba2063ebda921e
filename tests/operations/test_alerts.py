"""People hear of a fault once, again only when it lasts, and once when it is over; a message that was not sent is sent
the next time."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdp.errors import ConfigError, FatalError, RetriableError
from cdp.quality.alerts import Alert, AlertRules, Condition, compose, decide
from connectors.alerts import send_to_all, senders
from tests.operations.published import CHECKS
from warehouse.alerts import MESSAGE_BYTES, conditions_of, tell
from warehouse.home import Home

NOW = datetime(2026, 11, 20, 5, tzinfo=UTC)
HOUR = timedelta(hours=1)
RULES = AlertRules()
PULL = Condition(key="pull wecom", level="error", text="invalid secret (40001)")


def history(*states: tuple[float, list[Condition]], rules: AlertRules = RULES) -> list[list[str]]:
    """What is told at each (hour, conditions), as `kind key`."""
    told, memory = [], {}
    for hour, conditions in states:
        alerts, memory = decide(conditions, memory, now=NOW + hour * HOUR, rules=rules)
        told.append([f"{alert.kind} {alert.key}" for alert in alerts])
    return told


def test_a_fault_is_told_when_it_begins_lasts_and_ends() -> None:
    told = history((0, []), (1, [PULL]), (2, [PULL]), (24.9, [PULL]), (25, [PULL]), (26, [PULL]), (27, []), (28, []))
    assert told == [[], ["failed pull wecom"], [], [], ["lasting pull wecom"], [], ["recovered pull wecom"], []]


def test_a_warning_is_told_only_to_those_who_asked_and_again_when_it_becomes_an_error() -> None:
    warning = PULL.model_copy(update={"level": "warn"})
    assert history((0, [warning]), (1, [PULL])) == [[], ["failed pull wecom"]]
    everything = AlertRules(level="warn")
    told = history((0, [warning]), (1, [warning]), (2, [PULL]), (3, [warning]), rules=everything)
    assert told == [["failed pull wecom"], [], ["failed pull wecom"], []]


CONDITIONS = st.lists(
    st.builds(
        Condition,
        key=st.sampled_from("abc"),
        level=st.sampled_from(["error", "warn"]),
        text=st.sampled_from(["x", "y"]),
    ),
    max_size=5,
)


@settings(deadline=None)  # it writes files; a busy disk is no failure
@given(st.lists(CONDITIONS, max_size=12), st.randoms())
def test_every_beginning_has_one_end_in_whatever_order(states: list[list[Condition]], random: object) -> None:
    rules = AlertRules(level="warn")
    open_keys: set[str] = set()
    memory: dict = {}
    for hour, conditions in enumerate([*states, []]):
        shuffled = conditions[:]
        random.shuffle(shuffled)  # type: ignore[attr-defined]
        alerts, following = decide(conditions, memory, now=NOW + hour * HOUR, rules=rules)
        assert decide(shuffled, memory, now=NOW + hour * HOUR, rules=rules) == (alerts, following)
        memory = following
        open_keys |= {alert.key for alert in alerts if alert.kind == "failed"}
        ended = [alert.key for alert in alerts if alert.kind == "recovered"]
        assert set(ended) <= open_keys
        open_keys -= set(ended)
        assert open_keys == {condition.key for condition in conditions}
    assert not open_keys


@pytest.mark.parametrize("locale", ["zh", "en"])
def test_a_message_fits_and_counts_what_did_not(locale: str) -> None:
    alerts = [Alert("failed", f"检查 {number}", "error", "很长的说明" * 20, HOUR) for number in range(50)]
    text = compose(alerts, brand="山茶集", locale=locale, limit=MESSAGE_BYTES)  # type: ignore[arg-type]
    assert len(text.encode()) <= MESSAGE_BYTES
    shown = text.count("✗")
    assert 0 < shown < 50
    assert str(50 - shown) in text.splitlines()[-1]
    assert compose(alerts, brand="山" * 2000, locale="zh", limit=100).encode() != b""


def test_what_was_not_sent_is_told_again(home: Home) -> None:
    sent: list[str] = []

    def broken(_: str) -> None:
        raise RetriableError("not reached")

    options = {"now": NOW, "brand": "山茶集", "locale": "zh", "rules": RULES}
    with pytest.raises(RetriableError):
        tell(home, [PULL], send=broken, **options)  # type: ignore[arg-type]
    assert [alert.kind for alert in tell(home, [PULL], send=sent.append, **options)] == ["failed"]  # type: ignore[arg-type]
    assert tell(home, [PULL], send=sent.append, **options) == []  # type: ignore[arg-type]
    assert [alert.kind for alert in tell(home, [], send=sent.append, **options)] == ["recovered"]  # type: ignore[arg-type]
    assert len(sent) == 2
    assert "pull wecom" in sent[0]
    (home.root / "logs" / "alerts.json").write_text("{", encoding="utf-8")
    assert tell(home, [], send=sent.append, **options) == []  # type: ignore[arg-type]


def test_failed_checks_become_conditions() -> None:
    assert [(item.key, item.level) for item in conditions_of(CHECKS)] == [("marts.dim_people city__not_null", "warn")]


ADDRESSES = {"ROBOT": "https://robot.test/cgi-bin/webhook/send?key=the-secret-key", "HOOK": "https://hook.test/x"}
BOTH = AlertRules(robot="env:ROBOT", webhook="env:HOOK")


def post(answer: object, rules: AlertRules = BOTH) -> list[tuple[str, dict]]:
    """Send one text to a server that gives *answer*; returns (host, body) of every request."""
    requests: list[tuple[str, dict]] = []

    def handler(request: httpx.Request) -> httpx.Response:
        requests.append((request.url.host, json.loads(request.content)))
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[return-value]

    targets = senders(rules, environment=ADDRESSES, root=Path(), transport=httpx.MockTransport(handler))
    try:
        send_to_all(targets, "✗ 同步失败")
    finally:
        post.requests = requests  # type: ignore[attr-defined]
    return requests


def test_robot_and_webhook_get_the_text() -> None:
    requests = post(httpx.Response(200, json={"errcode": 0, "errmsg": "ok"}))
    assert requests == [
        ("robot.test", {"msgtype": "text", "text": {"content": "✗ 同步失败"}}),
        ("hook.test", {"text": "✗ 同步失败"}),
    ]
    assert senders(AlertRules(), environment={}, root=Path()) == []


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (httpx.Response(200, json={"errcode": 93000, "errmsg": "invalid webhook url"}), FatalError),
        (httpx.Response(200, json={"errcode": 45009}), RetriableError),
        (httpx.Response(502, text="bad gateway"), RetriableError),
        (httpx.Response(200, text="<html>"), FatalError),
        (httpx.ConnectError("refused https://robot.test/?key=the-secret-key"), RetriableError),
    ],
)
def test_a_fault_names_no_key_and_the_other_address_is_tried(answer: object, error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        post(answer)
    assert "the-secret-key" not in str(caught.value)
    assert "the-secret-key" not in repr(caught.value.__cause__)
    assert [host for host, _ in post.requests] == ["robot.test", "hook.test"]  # type: ignore[attr-defined]


def test_a_reference_that_leads_nowhere_is_told() -> None:
    with pytest.raises(ConfigError, match=r"alerts\.robot"):
        senders(AlertRules(robot="env:NOT_SET"), environment={}, root=Path())
    with pytest.raises(ValueError, match="pattern"):
        AlertRules(robot="https://robot.test/?key=x")
