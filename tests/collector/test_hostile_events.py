"""What the collector keeps, landing can read: one odd event never costs the file it lies in."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest

from connectors.collector import segment, sensors
from connectors.collector.bodies import Limits, loads
from connectors.registry import build, source_streams
from connectors.settings import SegmentSource, SensorsSource
from warehouse.home import Home
from warehouse.landing import land

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
LIMITS = Limits(body=1 << 24, unpacked=1 << 24, event=1 << 22)


def nested(depth: int) -> bytes:
    return b'{"a":' * depth + b"1" + b"}" * depth


ODD = {
    "a NUL": rb'"\u0000"',
    "a NUL in a name": rb'{"\u0000": 1}',
    "half a surrogate pair": rb'"\ud83d"',
    "an id of 40 digits": b"1234567890123456789012345678901234567890",
    "a number past all bounds": b"1e999",
    "NaN": b"NaN",
    "the same name twice": b'{"a": 1, "a": 2}',
    "an empty name": b'{"": 1}',
    "line separators": '"\u2028\u2029\x85\\n\\r"'.encode(),
    "200 levels": nested(200),
    "900 levels": nested(900),
    "a megabyte": b'"' + b"x" * 1_000_000 + b'"',
    "numbers as texts": b'["1", 1, "1e5", null, true]',
    "emoji": '"👨‍👩‍👧‍👦 山茶花"'.encode(),
    "a name with a quote": rb'{"a\"b\\": "\"\\"}',
}


def kept_and_landed(root: Path, lines: bytes, settings: Any, log: str) -> tuple[int, int]:
    """(rows landed, rows rejected) of a closed segment with *lines*."""
    folder = root / "data" / "collected" / log
    folder.mkdir(parents=True)
    (folder / "20261121T120000.000000Z-ab.jsonl").write_bytes(lines)
    source = build("odd", settings, root=root, environment={}, now=NOW)
    (stream,) = source_streams(settings)
    report = land(Home(root), "odd", source, stream, now=NOW)
    return report.landed, report.rejected


@pytest.mark.parametrize("name", ODD)
def test_an_odd_sensors_event_and_its_neighbours_land(tmp_path: Path, name: str) -> None:
    plain = b'{"type":"track","event":"E","distinct_id":"d%d","time":1,"properties":{"p":%s}}'
    body = b"[" + b",".join([plain % (1, b"1"), plain % (2, ODD[name]), plain % (3, b"3")]) + b"]"
    received = sensors.events(loads(body), project=None, now_ms=1, limits=LIMITS)
    settings = SensorsSource(connector="sensors", path="data/collected/sensors/*.jsonl")
    assert received.count + len(received.refused) == 3
    assert received.count >= 2
    assert kept_and_landed(tmp_path, received.lines, settings, "sensors") == (received.count, 0)


@pytest.mark.parametrize("name", ODD)
def test_an_odd_segment_message_and_its_neighbours_land(tmp_path: Path, name: str) -> None:
    plain = b'{"type":"track","event":"E","userId":"u%d","context":{"c":%s},"properties":{"p":%s}}'
    batch = [plain % (1, b"1", b"1"), plain % (2, ODD[name], ODD[name]), plain % (3, b"3", b"3")]
    value = segment.body(b'{"batch":[' + b",".join(batch) + b"]}")
    received = segment.messages(value, kind=None, now=NOW, limits=LIMITS)
    settings = SegmentSource(connector="segment", path="data/collected/segment/*.jsonl")
    assert received.count >= 2
    assert kept_and_landed(tmp_path, received.lines, settings, "segment") == (received.count, 0)
    assert all(isinstance(orjson.loads(item.raw), (dict, type(None))) for item in received.refused)
