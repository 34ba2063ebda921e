"""Encrypted WeCom callbacks: verified, decrypted, stored before the answer, and read back as a stream."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from wechatpy.enterprise.crypto import WeChatCrypto

from cdp.errors import ConfigError
from cdp.streams import Batch, SourceCheck, Stream
from connectors.wecom.callbacks import (
    CALLBACKS_STREAM,
    CallbackError,
    CallbackReceiver,
    callback_row,
    decrypt,
    parse_xml,
    read_callbacks,
    signature,
)
from sandbox import server
from tests.collector.running import Threaded, folders
from warehouse.home import Home
from warehouse.landing import land

TOKEN, CORPID = "token-of-the-console", "ww5a7d0c3b9e1f2468"
AES_KEY = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG"
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
RECEIVER = CallbackReceiver.of(TOKEN, AES_KEY, CORPID)
EVENT = """<xml><ToUserName><![CDATA[ww5a7d0c3b9e1f2468]]></ToUserName><FromUserName><![CDATA[sys]]></FromUserName>
<CreateTime>1763700000</CreateTime><MsgType><![CDATA[event]]></MsgType><Event><![CDATA[change_external_contact]]></Event>
<ChangeType><![CDATA[add_external_contact]]></ChangeType><UserID><![CDATA[ZhangSan]]></UserID>
<ExternalUserID><![CDATA[wm0001]]></ExternalUserID><State><![CDATA[店A]]></State>
<WelcomeCode><![CDATA[secret-code]]></WelcomeCode></xml>"""


def sent(xml: str, *, corpid: str = CORPID, token: str = TOKEN) -> tuple[dict[str, str], bytes]:
    """Query and body as WeCom posts them; encrypted and signed by wechatpy."""
    reply = parse_xml(WeChatCrypto(token, AES_KEY, corpid).encrypt_message(xml, "nonce", "1763700000").encode())
    query = {"msg_signature": reply["MsgSignature"], "timestamp": "1763700000", "nonce": "nonce"}
    body = (
        f"<xml><ToUserName>{CORPID}</ToUserName><AgentID>1000002</AgentID><Encrypt>{reply['Encrypt']}</Encrypt></xml>"
    )
    return query, body.encode()


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[Threaded]:
    with Threaded(tmp_path, receivers={"wecom": [TOKEN, AES_KEY, CORPID]}) as running:
        yield running


def rows(root: Path, state: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    batches = read_callbacks(folders(root).of("wecom_callbacks"), CORPID, state or {})
    return [row for batch in batches for row in batch.frame.to_dicts()]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "the events did not arrive"
        time.sleep(0.05)


@given(st.text(min_size=1, max_size=200))
def test_what_wechatpy_encrypts_is_decrypted(text: str) -> None:
    encrypted = parse_xml(WeChatCrypto(TOKEN, AES_KEY, CORPID).encrypt_message(text, "n", "1").encode())["Encrypt"]
    assert decrypt(encrypted, RECEIVER.key, CORPID) == text.encode()


def test_an_event_is_stored_and_answered_and_comes_back_as_a_row(collector: Threaded) -> None:
    query, body = sent(EVENT)
    started_at = time.monotonic()
    reply = httpx.post(f"{collector.base}/wecom/callback", params=query, content=body)
    assert (reply.status_code, reply.text) == (200, "success")
    assert time.monotonic() - started_at < 1
    collector.stop()
    (row,) = rows(collector.root)
    assert (row["event"], row["change_type"]) == ("change_external_contact", "add_external_contact")
    assert (row["userid"], row["external_userid"], row["state"]) == ("ZhangSan", "wm0001", "店A")
    assert row["happened_at"] == datetime.fromtimestamp(1763700000, UTC)
    assert (row["corpid"], row["agentid"]) == (CORPID, "1000002")
    assert "secret-code" not in row["fields"]


def test_the_console_check_is_answered_with_the_plain_text(collector: Threaded) -> None:
    reply = parse_xml(WeChatCrypto(TOKEN, AES_KEY, CORPID).encrypt_message("7381+/902", "n", "1").encode())
    query = {"msg_signature": reply["MsgSignature"], "timestamp": "1", "nonce": "n", "echostr": reply["Encrypt"]}
    answer = httpx.get(f"{collector.base}/wecom/callback/wecom", params=query)
    unescaped = "&".join(f"{name}={value}" for name, value in query.items())  # `+` arrives as a space
    assert (answer.status_code, answer.text) == (200, "7381+/902")
    assert httpx.get(f"{collector.base}/wecom/callback?{unescaped}").text == "7381+/902"


def test_a_repeat_is_dropped_and_events_of_one_second_are_kept_apart(collector: Threaded) -> None:
    other = EVENT.replace("wm0001", "wm0002")
    for xml in (EVENT, other, EVENT, EVENT):
        query, body = sent(xml)
        assert httpx.post(f"{collector.base}/wecom/callback", params=query, content=body).text == "success"
    collector.stop()
    assert [row["external_userid"] for row in rows(collector.root)] == ["wm0001", "wm0002"]


def test_a_wrong_signature_receiver_or_key_is_refused(collector: Threaded) -> None:
    query, body = sent(EVENT)
    url = f"{collector.base}/wecom/callback"
    cases = [
        ({**query, "msg_signature": "0" * 40}, body, 403),
        ({}, body, 403),
        (*sent(EVENT, corpid="wwother"), 403),
        (*sent(EVENT, token="another"), 403),
        (query, b"<xml>", 400),
        (query, b'<!DOCTYPE x [<!ENTITY a "b">]><xml><Encrypt>&a;</Encrypt></xml>', 400),
    ]
    answers = [httpx.post(url, params=params, content=content) for params, content, _ in cases]
    collector.stop()
    assert [answer.status_code for answer in answers] == [status for *_, status in cases]
    assert all(answer.json()["message"] for answer in answers)
    assert rows(collector.root) == []


def test_without_secrets_there_is_no_callback_address(tmp_path: Path) -> None:
    with Threaded(tmp_path) as collector:
        assert httpx.get(f"{collector.base}/wecom/callback").status_code == 404


@pytest.mark.parametrize("key", ["", "short", "!" * 43, AES_KEY + "A"])
def test_a_wrong_aes_key_is_told_before_anything_is_received(key: str) -> None:
    with pytest.raises(ConfigError, match="43 letters"):
        CallbackReceiver.of(TOKEN, key, CORPID)


@given(st.binary(max_size=200))
def test_any_body_is_refused_in_words(body: bytes) -> None:
    with pytest.raises(CallbackError):
        RECEIVER.receive({}, body, now=NOW)


@given(st.binary(min_size=1, max_size=96))
def test_any_signed_nonsense_is_refused_in_words(encrypted: bytes) -> None:
    text = encrypted.hex()
    query = {"timestamp": "1", "nonce": "2", "msg_signature": signature(TOKEN, "1", "2", text)}
    with pytest.raises(CallbackError):
        RECEIVER.open(query, text)


def test_entities_and_deep_nesting_are_refused_unexpanded() -> None:
    laughs = b'<!DOCTYPE l [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]><xml><A>&b;</A></xml>'
    outside = b'<!DOCTYPE x SYSTEM "file:///etc/passwd"><xml/>'
    for attack in (laughs, outside):
        with pytest.raises(CallbackError, match="document type"):
            parse_xml(attack)
    with pytest.raises(CallbackError, match="nested"):
        parse_xml(b"<a>" * 1000 + b"</a>" * 1000)


def test_nested_and_repeated_fields_are_kept() -> None:
    xml = "<xml><ChatId>wr1</ChatId><MemChangeList><Item>a</Item><Item>b</Item><Item>c</Item></MemChangeList></xml>"
    assert parse_xml(xml.encode()) == {"ChatId": "wr1", "MemChangeList": {"Item": ["a", "b", "c"]}}


def test_a_pull_goes_on_where_it_stopped_and_finds_files_closed_out_of_order(tmp_path: Path) -> None:
    folder = tmp_path / "wecom_callbacks"
    folder.mkdir()

    def store(name: str, number: int, corpid: str = CORPID) -> None:
        xml = EVENT.replace("wm0001", f"wm{number}")
        line = {"callback_id": str(number), "corpid": corpid, "received_at": NOW.isoformat(), "xml": xml}
        (folder / f"{name}-ab.jsonl").write_bytes(orjson.dumps(line) + b"\n")

    def pull(state: dict[str, Any]) -> tuple[list[str], dict[str, Any]]:
        found = list(read_callbacks(folder, CORPID, state))
        ids = [name for batch in found for name in batch.frame["callback_id"].to_list()]
        return ids, dict(found[-1].state) if found else state

    store("20261121T100000.000000Z", 1)
    store("20261121T101000.000000Z", 2)
    store("20261121T101001.000000Z", 3, corpid="wwother")
    (folder / "notes.jsonl").write_text("not a segment")
    ids, state = pull({})
    assert ids == ["1", "2"]
    store("20261121T100900.000000Z", 4)  # closed by another process a little earlier than the newest one
    store("20261121T110000.000000Z", 5)
    ids, state = pull(state)
    assert ids == ["4", "5"]
    assert pull(state)[0] == []
    assert state == {"read": ["20261121T110000.000000Z-ab.jsonl"]}


class Reader:
    """The smallest source that gives the stream."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def streams(self) -> tuple[Stream, ...]:
        return (CALLBACKS_STREAM,)

    def pull(self, stream: Stream, state: Mapping[str, Any]) -> Iterator[Batch]:
        assert stream is CALLBACKS_STREAM
        yield from read_callbacks(folders(self.root).of("wecom_callbacks"), CORPID, state)

    def check(self) -> SourceCheck:
        return SourceCheck(True, ())


def test_a_repeat_after_a_restart_lands_once(tmp_path: Path) -> None:
    """The collector's memory of repeats ends with its process; landing's does not."""
    counts = []
    for _ in range(2):
        with Threaded(tmp_path, receivers={"wecom": [TOKEN, AES_KEY, CORPID]}) as collector:
            query, body = sent(EVENT)
            httpx.post(f"{collector.base}/wecom/callback", params=query, content=body)
        report = land(Home(tmp_path), "wecom", Reader(tmp_path), CALLBACKS_STREAM, now=NOW)
        counts.append((report.received, report.landed, report.duplicates))
    assert counts == [(1, 1, 0), (1, 0, 1)]


def test_a_line_that_is_no_callback_becomes_a_reject(tmp_path: Path) -> None:
    good = {"callback_id": "1", "corpid": CORPID, "received_at": NOW.isoformat(), "xml": EVENT}
    bad = [b"{torn", orjson.dumps({**good, "xml": "<xml>"}), orjson.dumps({"corpid": CORPID}), b"7"]
    path = tmp_path / "20261121T100000.000000Z-ab.jsonl"
    path.write_bytes(b"\n".join([orjson.dumps(good), *bad]) + b"\n")
    (batch,) = read_callbacks(tmp_path, CORPID, {})
    assert (batch.frame.height, batch.received) == (1, 5)
    assert [reject.row_number for reject in batch.rejects] == [2, 3, 4, 5]
    assert batch.frame.columns == [column.name for column in CALLBACKS_STREAM.columns]
    assert callback_row(good)["quit_scene"] is None


def test_the_sandbox_delivers_what_people_do_by_hand(collector: Threaded, tmp_path: Path) -> None:
    """Another implementation of the sender, which repeats every event: each arrives, once."""
    with server.start(tmp_path / "wecom.sqlite") as wecom:
        callback = {"url": f"{collector.base}/wecom/callback", "token": TOKEN, "aes_key": AES_KEY, "repeat_rate": 1.0}
        wecom.admin("POST", "settings", {"callback": callback, "corpid": CORPID})
        assert wecom.admin("POST", "callback/verify")["ok"]
        for number in range(5):
            wecom.admin("POST", "hand", {"do": "create_tag", "group": "会员", "name": f"标签{number}"})
        wait_until(lambda: [record["status"] for record in wecom.admin("GET", "events")["events"]] == [200] * 6)
    collector.stop()
    found = rows(collector.root)
    assert len(found) == len({row["tag_id"] for row in found}) == 6  # five tags and their group
    assert {row["event"] for row in found} == {"change_external_tag"}
