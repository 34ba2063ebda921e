"""What Segment and RudderStack SDKs send, over real HTTP, lands through the `segment` source as it was meant."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import httpx
import pytest
from segment.analytics.client import Client

from connectors.registry import build, source_streams
from connectors.settings import SegmentSource
from tests.collector.running import Threaded
from warehouse.home import Home
from warehouse.landing import land

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
KEY = "write-key-of-the-test"


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[Threaded]:
    with Threaded(tmp_path, keys=[KEY]) as running:
        yield running


def landed(root: Path) -> list[tuple[Any, ...]]:
    settings = SegmentSource(connector="segment", path="data/collected/segment/*.jsonl")
    source = build("web", settings, root=root, environment={}, now=NOW)
    (stream,) = source_streams(settings)
    land(Home(root), "web", source, stream, now=NOW)
    query = "select type, event, user_id, message_id from read_parquet(?)"
    with duckdb.connect() as con:
        return con.execute(query, [f"{root}/data/raw/web/messages/*.parquet"]).fetchall()


@pytest.mark.parametrize("zipped", [False, True])
def test_every_call_of_the_sdk_lands_once(collector: Threaded, zipped: bool) -> None:
    errors: list[Any] = []
    sdk = Client(KEY, host=collector.base, gzip=zipped, on_error=lambda error, _: errors.append(error))
    sdk.identify("M1", {"phone": "13800000001"})
    for number in range(120):
        sdk.track("M1", "Product Viewed", {"number": number})
    sdk.page("M1", "首页")
    sdk.screen("M1", "商品")
    sdk.group("M1", "门店")
    sdk.alias("anonymous-1", "M1")
    sdk.shutdown()
    collector.stop()
    rows = landed(collector.root)
    assert errors == []
    assert len({message_id for *_, message_id in rows}) == len(rows) == 125
    assert {kind for kind, *_ in rows} == {"identify", "track", "page", "screen", "group", "alias"}
    assert KEY not in "".join(json.dumps(line) for line in collector.lines("segment"))


def test_a_wrong_key_is_refused_and_nothing_of_it_is_kept(collector: Threaded) -> None:
    errors: list[Any] = []
    sdk = Client("another-key", host=collector.base, on_error=lambda error, _: errors.append(error))
    sdk.track("M1", "Product Viewed")
    sdk.shutdown()
    collector.stop()
    assert [(error.status, error.code) for error in errors] == [(401, "unauthorized")]
    assert collector.lines("segment") == collector.rejects() == []


def post(collector: Threaded, path: str, body: Any, **more: Any) -> httpx.Response:
    return httpx.post(f"{collector.base}{path}", json=body, auth=(KEY, ""), **more)


def test_clock_skew_is_taken_out_as_the_official_server_does(collector: Threaded) -> None:
    """A device an hour ahead: `timestamp` is put right, its own clock stays in `originalTimestamp`."""
    ahead = datetime.now(UTC).timestamp() + 3600
    happened, sent = (datetime.fromtimestamp(ahead - ago, UTC).isoformat() for ago in (60, 0))
    message = {"type": "track", "event": "View", "anonymousId": "a", "timestamp": happened, "messageId": "m1"}
    post(collector, "/v1/batch", {"batch": [message], "sentAt": sent, "context": {"library": {"name": "x"}}})
    collector.stop()
    (line,) = collector.lines("segment")
    off = datetime.fromisoformat(line["timestamp"]) - datetime.fromisoformat(line["receivedAt"])
    assert off.total_seconds() == pytest.approx(-60, abs=5)
    assert line["originalTimestamp"] == happened
    assert line["context"]["library"]["name"] == "x"


def test_browser_paths_keys_in_the_body_and_pixels(collector: Threaded) -> None:
    message = {"event": "View", "anonymousId": "a", "writeKey": KEY}
    plain = {"content-type": "text/plain"}
    short = httpx.post(f"{collector.base}/v1/t", content=json.dumps(message), headers=plain)
    beacon = httpx.post(
        f"{collector.base}/beacon/v1/batch?writeKey={KEY}", json={"batch": [{**message, "type": "track"}]}
    )
    data = base64.b64encode(json.dumps(message).encode()).decode()
    pixel = httpx.get(f"{collector.base}/v1/pixel/track", params={"data": data})
    unknown = httpx.post(f"{collector.base}/v1/nothing", json=message)
    collector.stop()
    assert (short.status_code, beacon.status_code, unknown.status_code) == (200, 200, 404)
    assert pixel.headers["content-type"] == "image/gif"
    assert [line["type"] for line in collector.lines("segment")] == ["track", "track", "track"]


def test_a_browser_may_ask_first(collector: Threaded) -> None:
    asked = httpx.options(
        f"{collector.base}/v1/batch",
        headers={
            "Origin": "https://m.example.com",
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type",
        },
    )
    assert asked.status_code == 200
    assert "authorization" in asked.headers["access-control-allow-headers"].lower()


def test_a_message_without_an_id_sent_again_lands_once(collector: Threaded) -> None:
    message = {"type": "track", "event": "View", "anonymousId": "a"}
    for sent in ("2026-11-21T10:00:00Z", "2026-11-21T10:00:09Z"):
        post(collector, "/v1/batch", {"batch": [message], "sentAt": sent})
    collector.stop()
    assert len(collector.lines("segment")) == 2
    assert len(landed(collector.root)) == 1


def test_the_good_rest_of_a_batch_is_kept(collector: Threaded) -> None:
    good = {"type": "track", "event": "View", "userId": "M1"}
    bad = [{"type": "track", "userId": "M1"}, {"type": "track", "event": "View"}, {"type": "buy", "userId": "M1"}, 7]
    reply = post(collector, "/v1/batch", {"batch": [good, *bad, good]})
    collector.stop()
    assert (reply.status_code, reply.json()["accepted"], reply.json()["rejected"]) == (200, 2, 4)
    assert [json.loads(line["raw"]) for line in collector.rejects()] == bad


MALFORMED: list[tuple[bytes, dict[str, str], int, str]] = [
    (b"{", {}, 400, "expected JSON"),
    (b"[]", {}, 400, "expected a JSON object"),
    (b'{"batch": 1}', {}, 400, "`batch`"),
    (b"{}", {"content-encoding": "gzip"}, 400, "gzip"),
    (gzip.compress(b"{}")[:-5], {"content-encoding": "gzip"}, 400, "ends early"),
    (b"{}", {"content-encoding": "br"}, 415, "`br`"),
]


def test_a_malformed_body_is_told_what_was_expected_and_kept(tmp_path: Path) -> None:
    with Threaded(tmp_path) as collector:
        for body, headers, status, message in MALFORMED:
            reply = httpx.post(f"{collector.base}/v1/batch", content=body, headers=headers)
            assert reply.status_code == status
            assert message in reply.json()["message"]
        collector.stop()
    assert len(collector.rejects()) == len(MALFORMED)
