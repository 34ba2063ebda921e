"""What the official 神策 SDK sends, over real HTTP, lands through the `sensors` source as it was meant."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import duckdb
import httpx
import orjson
import pytest
import sensorsanalytics as sa

from connectors.registry import build, source_streams
from connectors.settings import SensorsSource
from tests.collector.running import Running, Threaded
from warehouse.home import Home
from warehouse.landing import land

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[Threaded]:
    with Threaded(tmp_path) as running:
        yield running


def landed(root: Path) -> list[tuple[object, ...]]:
    """Land what was collected and give back (type, event, distinct_id, project, properties) of every raw row."""
    settings = SensorsSource(connector="sensors", path="data/collected/sensors/*.jsonl")
    source = build("web", settings, root=root, environment={}, now=NOW)
    (stream,) = source_streams(settings)
    land(Home(root), "web", source, stream, now=NOW)
    files = f"{root}/data/raw/web/records/*.parquet"
    query = """
        select type, event, distinct_id, project, properties
        from read_parquet(?, file_row_number = true) order by file_row_number
    """
    with duckdb.connect() as con:
        return con.execute(query, [files]).fetchall()


def test_each_event_of_the_default_consumer_lands(collector: Threaded) -> None:
    sdk = sa.SensorsAnalytics(sa.DefaultConsumer(f"{collector.base}/sa?project=production"))
    sdk.track("M1", "PayOrder", {"amount": 128.5, "product": "山茶花"}, is_login_id=True)
    sdk.track_signup("M1", "anonymous-1", {})
    sdk.profile_set("M1", {"$city": "上海"}, is_login_id=True)
    sdk.item_set("product", "SP1", {"name": "口红"})
    sdk.close()
    collector.stop()
    rows = landed(collector.root)
    assert [(kind, event, who, project) for kind, event, who, project, _ in rows] == [
        ("track", "PayOrder", "M1", "production"),
        ("track_signup", "$SignUp", "M1", "production"),
        ("profile_set", None, "M1", "production"),
        ("item_set", None, None, "production"),
    ]
    assert json.loads(str(rows[0][4]))["product"] == "山茶花"


def test_batches_with_bind_events_land_in_order(collector: Threaded) -> None:
    sdk = sa.SensorsAnalytics(sa.BatchConsumer(f"{collector.base}/sa?project=p", max_size=40))
    for number in range(95):
        sdk.track("M1", f"Event{number}", {"number": number})
    sdk.bind(
        sa.SensorsAnalyticsIdentity("$identity_login_id", "M1"),
        sa.SensorsAnalyticsIdentity("$identity_mobile", "13800000001"),
    )
    sdk.close()
    collector.stop()
    rows = landed(collector.root)
    assert [event for _, event, *_ in rows] == [*(f"Event{number}" for number in range(95)), "$BindID"]


def test_the_debug_consumer_checks_without_storing(collector: Threaded, capsys: pytest.CaptureFixture[str]) -> None:
    dry = sa.SensorsAnalytics(sa.DebugConsumer(f"{collector.base}/sa?project=p", write_data=False))
    dry.track("M1", "Checked", {})
    wet = sa.SensorsAnalytics(sa.DebugConsumer(f"{collector.base}/sa?project=p", write_data=True))
    wet.track("M1", "Written", {})
    assert "invalid" not in capsys.readouterr().out
    collector.stop()
    assert [line["event"] for line in collector.lines("sensors")] == ["Written"]


EVENT = {"type": "track", "event": "View", "distinct_id": "d1", "time": 1_700_000_000_000, "properties": {"$url": "/"}}


def encoded(value: object, *, zipped: bool = False) -> str:
    raw = json.dumps(value).encode()
    return base64.b64encode(gzip.compress(raw) if zipped else raw).decode()


def java_hash(text: str) -> int:
    """`String.hashCode`, character by character."""
    value = 0
    for character in text:
        value = (31 * value + ord(character)) & 0xFFFFFFFF
    return value - (1 << 32) if value >= 1 << 31 else value


def test_a_batch_sent_again_lands_once(collector: Threaded) -> None:
    """An SDK that heard no answer sends again: `recv_time` and `_flush_time` differ then, the events do not."""
    for attempt in (1, 2):
        batch = [{**EVENT, "time": EVENT["time"] + number, "_flush_time": attempt} for number in range(3)]
        reply = httpx.post(f"{collector.base}/sa?project=p", data={"data_list": encoded(batch), "gzip": "0"})
        assert reply.json() == {"success": True, "accepted": 3, "rejected": 0}
    collector.stop()
    assert len(collector.lines("sensors")) == 6
    assert len(landed(collector.root)) == 3


def test_an_image_request_gets_a_gif(collector: Threaded) -> None:
    data = encoded(EVENT)
    ext = quote(f"crc={java_hash(data)}")
    reply = httpx.get(
        f"{collector.base}/sa.gif?project=p&data={quote(data)}&ext={ext}", headers={"Origin": "https://m.example.com"}
    )
    assert (reply.status_code, reply.headers["content-type"], reply.content[:6]) == (200, "image/gif", b"GIF89a")
    assert reply.headers["access-control-allow-origin"] == "https://m.example.com"


def test_mini_program_and_beacon_bodies_are_forms_under_another_type(collector: Threaded) -> None:
    data = encoded([EVENT], zipped=True)
    body = f"crc={java_hash(data)}&gzip=1&data_list={quote(data)}&instant_event=true"
    for kind in ("application/json", "text/plain;charset=UTF-8", "application/x-www-form-urlencoded"):
        reply = httpx.post(f"{collector.base}/sa?project=p", content=body, headers={"content-type": kind})
        assert reply.json()["accepted"] == 1


def test_the_good_rest_of_a_batch_is_kept(tmp_path: Path) -> None:
    with Threaded(tmp_path, max_event_kb=2) as collector:
        big = {**EVENT, "properties": {"text": "长" * 2000}}
        batch = [EVENT, "not an object", {**EVENT, "type": ""}, big, {**EVENT, "event": "Last", "id": 2**70}]
        reply = httpx.post(f"{collector.base}/sa?project=p", data={"data_list": encoded(batch)})
        collector.stop()
    assert reply.status_code == 200
    assert (reply.json()["accepted"], reply.json()["rejected"]) == (2, 3)
    assert [line["event"] for line in collector.lines("sensors")] == ["View", "Last"]
    raw = b"".join(path.read_bytes() for path in (tmp_path / "data/collected/sensors").glob("*.jsonl"))
    assert str(2**70).encode() in raw  # ids are never cut
    rejects = collector.rejects()
    assert [line["index"] for line in rejects] == [1, 2, 3]
    assert [orjson.loads(line["raw"]) for line in rejects] == [batch[1], batch[2], big]
    assert "expected a JSON object" in rejects[0]["reason"]


MALFORMED = [
    ("", "expected the field `data`"),
    ("data=%%%", "base64"),
    (f"data={quote(encoded(EVENT))}&gzip=1", "gzip"),
    (f"data={quote(base64.b64encode(b'no json').decode())}", "expected JSON"),
    (f"data={quote(encoded(EVENT))}&crc=1", "crc"),
    (f"data={quote(encoded(EVENT))}&gzip=9", "encrypted"),
    (f"data={quote(encoded({**EVENT, 'time': None}))}", "`time` is missing"),
]


def test_a_malformed_body_is_told_what_was_expected_and_kept(collector: Threaded) -> None:
    for body, message in MALFORMED:
        reply = httpx.post(f"{collector.base}/sa?project=p", content=body)
        assert reply.status_code == 400
        assert reply.json()["code"] in ("malformed", "encrypted")
        assert message in reply.json()["message"]
    collector.stop()
    assert len(collector.rejects()) == len(MALFORMED) - 1
    assert collector.lines("sensors") == []


def test_an_oversized_body_is_refused_and_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    with Threaded(tmp_path, max_body_mb=0.1, max_unpacked_mb=1) as collector:
        large = httpx.post(f"{collector.base}/sa", content=b"data=" + b"A" * 300_000)
        bomb = quote(base64.b64encode(gzip.compress(b"[" + b" " * 20_000_000 + b"]")).decode())
        unpacked = httpx.post(f"{collector.base}/sa", content=f"gzip=1&data_list={bomb}")
        good = httpx.post(f"{collector.base}/sa", data={"data": encoded(EVENT)})
    assert (large.status_code, large.json()["code"]) == (413, "too_large")
    assert (unpacked.status_code, unpacked.json()["code"]) == (413, "too_large")
    assert good.status_code == 200


def test_projects_can_be_limited(tmp_path: Path) -> None:
    with Threaded(tmp_path, projects=["production"]) as collector:
        answers = [
            httpx.post(f"{collector.base}/sa?project={name}", data={"data": encoded(EVENT)}).status_code
            for name in ("production", "test")
        ]
    assert answers == [200, 403]


def test_nothing_personal_is_printed(tmp_path: Path) -> None:
    with Running(tmp_path) as collector:
        httpx.get(f"{collector.base}/sa?project=p&data={quote(encoded({**EVENT, 'distinct_id': '13800000001'}))}")
        httpx.post(f"{collector.base}/sa?project=p", content="data=13800000001")
        printed = collector.stop()
    assert "13800000001" not in printed
    assert "data=" not in printed
