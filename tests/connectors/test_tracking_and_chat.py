"""ThinkingData lines and decrypted chat-archive lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.source_support import Brand


def _write(path: Path, *rows: dict[str, Any] | str) -> None:
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_thinkingdata_lines_land_once_by_uuid_or_by_content(tmp_path: Path) -> None:
    track = {
        "#account_id": "M1",
        "#distinct_id": "a1",
        "#type": "track",
        "#event_name": "pay",
        "#time": "2026-01-01 10:00:00.123",
        "#uuid": "11111111-2222-3333-4444-555555555555",
        "properties": {"amount": 9.9, "#zone_offset": 8, "#device_id": "d1"},
    }
    profile = {
        "#type": "user_set",
        "#distinct_id": "a1",
        "#time": "2026-01-01 10:00:01.000",
        "properties": {"vip": True},
    }
    _write(tmp_path / "a.log", track, profile, {**track, "#time": "2026-01-01 10:00:09.000"}, profile)
    _write(tmp_path / "b.log", {"#type": "track"}, track, profile)
    brand = Brand(tmp_path, 'sources: {ta: {connector: thinkingdata, path: "*.log", anonymous_scope: app}}')
    report = brand.land("ta")["records"]
    assert (report.landed, report.duplicates, report.rejected) == (2, 4, 1)
    rows = brand.sql(
        "select record_key, type, event_name, time, account_id, distinct_id"
        " from raw.thinkingdata__records order by time"
    )
    assert rows[0] == (track["#uuid"], "track", "pay", "2026-01-01 10:00:00.123", "M1", "a1")
    assert len(rows[1][0]) == 16, "without an id of its own a line is known by its hash"
    assert ("account_id", "member_id", "") in brand.sql("select field, type, scope from raw._identity_fields")


def test_batches_of_segment_messages_are_found_wherever_they_stand(tmp_path: Path) -> None:
    single = {"type": "page", "anonymousId": "a", "messageId": "1", "properties": {"note": 'a "batch" of milk'}}
    batch = {
        "sentAt": "2026-01-01T00:00:01Z",
        "batch": ["no message"]
        + [{"type": "track", "event": f"E{n}", "anonymousId": "a", "messageId": f"b{n}"} for n in range(3)],
    }
    _write(tmp_path / "web.log", single, batch, {**single, "messageId": "2"})
    brand = Brand(tmp_path, "sources: {web: {connector: segment, path: web.log}}")
    report = brand.land("web")["messages"]
    assert (report.landed, report.rejected) == (5, 1)
    assert brand.sql("select count(*) from raw.segment__messages where sent_at is not null") == [(3,)]


CHAT = "sources: {chat: {connector: chat_archive, path: chat.jsonl, corpid: ww1, keep_text: %s, reject_budget: 1}}"


def test_chat_lines_become_events_of_the_customer(tmp_path: Path) -> None:
    text = {"msgid": "m1", "action": "send", "from": "wmA", "tolist": ["li"], "roomid": "", "msgtime": 1767225600000,
            "msgtype": "text", "text": {"content": "多少钱"}}  # fmt: skip
    reply = text | {"msgid": "m2", "from": "li", "tolist": ["wmA"]}
    group = text | {"msgid": "m3", "from": "li", "tolist": ["wmA", "wmB"], "roomid": "wr1"}
    recall = {"msgid": "m4", "action": "recall", "from": "wmA", "tolist": ["li"], "msgtime": 1767225601000,
              "msgtype": "revoke", "revoke": {"pre_msgid": "m1"}}  # fmt: skip
    switch = {"msgid": "m5", "action": "switch", "time": 1767225602000, "user": "li"}
    bad = ["broken", {"msgid": "x"}, {"msgid": "y", "msgtime": 1e30}]
    _write(tmp_path / "chat.jsonl", text, reply, group, recall, switch, text, *bad)
    brand = Brand(tmp_path, CHAT % "false")
    report = brand.land("chat")["events"]
    assert (report.landed, report.duplicates, report.rejected) == (5, 1, 3)
    rows = brand.sql(
        "select event_id, event_name, event_at::text, session_id, identifiers[1].value, identifiers[1].scope,"
        " properties"
        " from raw.canonical__events order by event_id"
    )
    assert [row[:6] for row in rows] == [
        ("m1", "chat_customer_message", "2026-01-01 00:00:00+00", None, "wmA", "ww1"),
        ("m2", "chat_staff_message", "2026-01-01 00:00:00+00", None, "wmA", "ww1"),
        ("m3", "chat_staff_message", "2026-01-01 00:00:00+00", "wr1", None, None),
        ("m4", "chat_recall", "2026-01-01 00:00:01+00", None, "wmA", "ww1"),
        ("m5", "chat_switch", "2026-01-01 00:00:02+00", None, None, None),
    ]
    assert "多少钱" not in str(rows), "what people wrote stays out unless asked for"
    assert json.loads(rows[0][6])["staff"] == "li"


def test_the_words_are_kept_where_the_source_says_so(tmp_path: Path) -> None:
    text = {"msgid": "m1", "action": "send", "from": "wmA", "tolist": ["li"], "msgtime": 1, "msgtype": "text",
            "text": {"content": "多少钱"}}  # fmt: skip
    _write(tmp_path / "chat.jsonl", text)
    brand = Brand(tmp_path, CHAT % "true")
    brand.land("chat")
    assert "多少钱" in brand.sql("select properties from raw.canonical__events")[0][0]
