"""Decoding of bodies: whatever arrives, every item is either kept or refused with a reason."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.collector import segment, sensors
from connectors.collector.bodies import BodyError, Limits, dumps, java_hash, loads, unbase64

LIMITS = Limits(body=1 << 20, unpacked=1 << 20, event=1 << 16)
NOW = datetime(2026, 11, 21, tzinfo=UTC)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
KEYS = (
    "type",
    "event",
    "distinct_id",
    "time",
    "properties",
    "identities",
    "userId",
    "messageId",
    "timestamp",
    "context",
)
EVENTS = st.lists(
    JSON
    | st.dictionaries(st.sampled_from(KEYS), JSON | st.sampled_from(["track", "profile_set", "alias"]), max_size=6),
    max_size=6,
)


@given(st.text(alphabet=st.characters(codec="utf-16")))
def test_the_checksum_is_javas(text: str) -> None:
    value = 0
    for unit in memoryview(text.encode("utf-16-le")).cast("H"):
        value = (31 * value + unit) & 0xFFFFFFFF
    assert java_hash(text) == (value - (1 << 32) if value >= 1 << 31 else value)


@given(st.binary(max_size=60))
def test_base64_survives_what_happens_on_the_way(data: bytes) -> None:
    sent = base64.b64encode(data).decode()
    assert unbase64(sent) == unbase64(sent.replace("+", " ")) == unbase64(sent.rstrip("=")) == data
    assert unbase64(base64.urlsafe_b64encode(data).decode()) == data


@given(JSON)
def test_numbers_and_texts_come_out_as_they_went_in(value: Any) -> None:
    sent = json.dumps(value)
    expected = json.loads(sent, parse_constant=lambda _: None)
    assert json.loads(dumps(loads(sent.encode()))) == expected


def test_half_a_surrogate_pair_costs_one_character_not_the_batch() -> None:
    assert dumps(loads(b'{"name": "\\ud83d", "n": NaN, "id": 12345678901234567890123}')) == (
        b'{"name":"?","n":null,"id":12345678901234567890123}'
    )


@pytest.mark.parametrize("raw", [b"\xff\xfe", b"{", b"[" * 100_000, b"1" * 5000, b""])
def test_unreadable_json_is_a_body_error(raw: bytes) -> None:
    with pytest.raises(BodyError):
        loads(raw)


@given(EVENTS)
def test_sensors_items_in_are_lines_plus_refusals(items: list[Any]) -> None:
    body = f"data_list={quote(base64.b64encode(json.dumps(items).encode()).decode())}".encode()
    decoded = sensors.payload(sensors.form(body), LIMITS)
    received = sensors.events(decoded, project="p", now_ms=1, limits=LIMITS)
    check(received.lines, received.count)
    assert received.count + len(received.refused) == len(items)


@given(EVENTS)
def test_segment_items_in_are_lines_plus_refusals(items: list[Any]) -> None:
    value = segment.body(json.dumps({"batch": items, "sentAt": "2026-11-21T00:00:00Z"}).encode())
    received = segment.messages(value, kind=None, now=NOW, limits=LIMITS)
    check(received.lines, received.count)
    assert received.count + len(received.refused) == len(items)


def check(lines: bytes, count: int) -> None:
    parsed = [orjson.loads(line) for line in lines.splitlines()] if lines else []
    assert len(parsed) == count
    assert lines.count(b"\n") == count


@given(st.binary(max_size=200) | st.text(max_size=100).map(lambda text: f"data={quote(text)}&gzip=1".encode()))
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    for read in (_as_sensors, _as_segment):
        try:
            read(raw)
        except BodyError as error:
            told = error
        else:
            continue
        assert told.status in (400, 413)
        assert told.message


def _as_sensors(raw: bytes) -> None:
    sensors.events(sensors.payload(sensors.form(raw), LIMITS), project=None, now_ms=1, limits=LIMITS)


def _as_segment(raw: bytes) -> None:
    segment.messages(segment.body(raw), kind=None, now=NOW, limits=LIMITS)


SENT_MS = 1_763_600_000_000


@pytest.mark.parametrize(
    ("time", "sent", "kept"),
    [
        (SENT_MS - 5_000, SENT_MS - 1_000, SENT_MS - 5_000),  # the way of the request is no wrong clock
        (SENT_MS - 3_605_000, SENT_MS - 3_600_000, SENT_MS - 5_000),  # an hour behind
        (SENT_MS + 86_395_000, SENT_MS + 86_400_000, SENT_MS - 5_000),  # a day ahead
        (5_000, 10_000, SENT_MS - 5_000),  # a clock that started in 1970
        (SENT_MS - 500_000_000, SENT_MS, SENT_MS - 500_000_000),  # sent days later, as apps without network do
        (SENT_MS - 5_000, 7, SENT_MS - 5_000),  # sent before it happened: nothing to go by
        (SENT_MS - 5_000, "soon", SENT_MS - 5_000),
        (SENT_MS - 5_000, None, SENT_MS - 5_000),
    ],
)
def test_a_wrong_clock_of_a_sensors_device_is_put_right(time: int, sent: object, kept: int) -> None:
    event = {"type": "track", "event": "E", "distinct_id": "d", "time": time, "_flush_time": sent}
    [line] = sensors.events([event], project=None, now_ms=SENT_MS, limits=LIMITS).lines.splitlines()
    read = json.loads(line)
    assert read["time"] == kept
    assert read.get("_device_time", kept) == time
    assert read["_record_key"] == sensors.record_key(event), "known by what the device sent"
