"""What callers hear when the disk fails or a body stops half-way; driven without a socket."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import httpx
import pytest

from cdp.errors import FatalError
from connectors.collector import endpoints, segment, server
from connectors.collector.collector import Collector
from connectors.collector.settings import CollectorConfig
from tests.collector.running import folders, lines_of

MESSAGE = {"type": "track", "event": "E", "userId": "M1"}


def run(root: Path, work: Callable[[httpx.AsyncClient], Awaitable[None]], keys: Sequence[str] = ()) -> None:
    """*work* with a client of a collector over *root*, which is closed afterwards."""

    async def main() -> None:
        collector = Collector(CollectorConfig(), folders(root), frozenset(keys))
        transport = httpx.ASGITransport(server.create_app(collector))
        async with httpx.AsyncClient(transport=transport, base_url="http://collector") as client:
            await work(client)
        await collector.journal.close()

    asyncio.run(main())


def test_a_full_disk_is_told_and_nothing_refused_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    async def work(client: httpx.AsyncClient) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", full)
            refused = await client.post("/v1/track", json=MESSAGE)
            health = await client.get("/health")
        kept = await client.post("/v1/track", json=MESSAGE)
        assert (refused.status_code, refused.json()["code"], refused.headers["retry-after"]) == (503, "storage", "10")
        assert (health.status_code, health.json()["status"]) == (503, "storage_failed")
        assert kept.status_code == (await client.get("/health")).status_code == 200

    run(tmp_path, work)
    assert len(lines_of(tmp_path, "segment")) == 1


def test_a_body_that_stops_half_way_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoints, "READ_SECONDS", 0.05)

    async def endless() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(30)

    async def work(client: httpx.AsyncClient) -> None:
        reply = await client.post("/v1/track", content=endless())
        assert (reply.status_code, reply.json()["code"]) == (408, "timeout")

    run(tmp_path, work)


def test_a_request_given_up_by_its_sender_harms_nobody(tmp_path: Path) -> None:
    async def work(client: httpx.AsyncClient) -> None:
        tasks = [asyncio.create_task(client.post("/v1/track", json=MESSAGE)) for _ in range(20)]
        await asyncio.sleep(0)
        tasks[3].cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert sum(isinstance(reply, httpx.Response) and reply.status_code == 200 for reply in results) == 19

    run(tmp_path, work)


def test_a_fault_of_our_own_is_logged_without_what_was_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("13800000001")

    monkeypatch.setattr(segment, "body", broken)

    async def work(client: httpx.AsyncClient) -> None:
        reply = await client.post("/v1/track", json=MESSAGE)
        assert (reply.status_code, reply.json()["code"]) == (500, "internal")

    run(tmp_path, work)
    assert "RuntimeError" in caplog.text
    assert "13800000001" not in caplog.text


def test_an_unknown_address_is_told_as_json(tmp_path: Path) -> None:
    async def work(client: httpx.AsyncClient) -> None:
        for reply in (await client.get("/config/Android.conf"), await client.put("/sa")):
            assert (reply.status_code, reply.json()["code"]) == (404, "not_found")

    run(tmp_path, work)


def test_who_has_no_key_cannot_fill_the_disk(tmp_path: Path) -> None:
    async def work(client: httpx.AsyncClient) -> None:
        for key, status in (("", 400), ("key-1", 400)):
            assert (await client.post(f"/v1/track?writeKey={key}", content=b"{no json")).status_code == status
        odd = b'{"writeKey": "\\ud83d", "type": "track", "event": "E", "userId": "M1"}'
        assert (await client.post("/v1/track", content=odd)).status_code == 401

    run(tmp_path, work, keys=["key-1"])
    assert len(lines_of(tmp_path, "rejects")) == 1


def test_a_taken_port_or_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    collector = Collector(CollectorConfig(), folders(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(FatalError, match="cannot listen"):
        server.serve(collector, host="127.0.0.1", port=taken.getsockname()[1])
    (tmp_path / "data" / "collected" / "sensors" / "ab.open").mkdir(parents=True)
    with pytest.raises(FatalError, match="cannot be written"):
        server.serve(collector, host="127.0.0.1", port=0)
