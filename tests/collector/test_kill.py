"""`kill -9` under load: what was acknowledged is there afterwards, and nothing torn is handed to a reader."""

from __future__ import annotations

import base64
import gzip
import random
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import orjson
import pytest

from tests.collector.running import Running, folders

BATCH = 20


@dataclass
class Load:
    """Threads that send batches of numbered events until stopped; *acknowledged*: numbers answered with 200."""

    base: str
    acknowledged: set[int] = field(default_factory=set)
    refused: list[int] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)

    def start(self, threads: int) -> list[threading.Thread]:
        workers = [threading.Thread(target=self._send, args=(number,)) for number in range(threads)]
        for worker in workers:
            worker.start()
        return workers

    def _send(self, worker: int) -> None:
        number = worker * 10_000_000
        client = httpx.Client(trust_env=False, timeout=5)
        while not self.stopping.is_set():
            batch = list(range(number, number + BATCH))
            number += BATCH
            try:
                reply = client.post(*request(self.base, worker, batch))
            except httpx.HTTPError:
                client.close()
                client = httpx.Client(trust_env=False, timeout=5)
                time.sleep(0.02)
                continue
            if reply.status_code == 200:
                self.acknowledged.update(batch)
            else:
                self.refused.append(reply.status_code)
        client.close()


def request(base: str, worker: int, batch: list[int]) -> tuple[str]:
    """Half of the workers speak 神策 by image-style queries, half post; both are real forms of the SDKs."""
    events = [
        {"type": "track", "event": "E", "distinct_id": "d", "time": 1, "properties": {"number": number}}
        for number in batch
    ]
    data = base64.urlsafe_b64encode(gzip.compress(orjson.dumps(events), 1)).decode()
    return (f"{base}/sa?project=p&worker={worker}&gzip=1&data_list={data}",)


def kept(root: Path) -> list[int]:
    """Numbers in the closed files, in order; a line that is not whole fails here."""
    files = sorted(folders(root).of("sensors").glob("*.jsonl"))
    lines = [line for path in files for line in path.read_bytes().splitlines()]
    return [orjson.loads(line)["properties"]["number"] for line in lines]


def check_kills(root: Path, *, kills: int, seconds: float) -> None:
    pause = random.Random(7)
    with Running(root, segment_seconds=1) as collector:
        load = Load(collector.base)
        workers = load.start(4)
        for _ in range(kills):
            time.sleep(seconds * pause.uniform(0.5, 1.5))
            collector.kill()
            collector.start()
        time.sleep(0.2)
        load.stopping.set()
        for worker in workers:
            worker.join()
        collector.stop()
    stored = set(kept(root))
    assert load.refused == []
    assert len(load.acknowledged) > kills * BATCH
    assert load.acknowledged - stored == set()
    assert not list(folders(root).of("sensors").glob("*.open"))


def test_no_acknowledged_event_is_lost(tmp_path: Path) -> None:
    check_kills(tmp_path, kills=2, seconds=0.4)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_acknowledged_event_is_lost_in_many_kills(tmp_path: Path) -> None:
    check_kills(tmp_path, kills=30, seconds=0.5)


def test_a_torn_last_line_is_kept_apart_with_its_reason(tmp_path: Path) -> None:
    with Running(tmp_path) as collector:
        assert httpx.post(*request(collector.base, 0, [1, 2])).status_code == 200
        collector.kill()
        (path,) = folders(tmp_path).of("sensors").glob("*.open")
        with path.open("ab") as file:
            file.write(b'{"type": "track", "event": "to')
        collector.start()
        assert kept(tmp_path) == [1, 2]
        collector.stop()
    (reject,) = collector.rejects()
    assert (reject["endpoint"], reject["raw"]) == ("sensors", '{"type": "track", "event": "to')
    assert "torn line" in reject["reason"]


def test_two_collectors_share_a_folder_without_touching_each_others_files(tmp_path: Path) -> None:
    with Running(tmp_path) as first:
        assert httpx.post(*request(first.base, 0, [1])).status_code == 200
        with Running(tmp_path) as second:
            assert httpx.post(*request(second.base, 0, [2])).status_code == 200
            second.stop()
            assert kept(tmp_path) == [2]
        assert httpx.post(*request(first.base, 0, [3])).status_code == 200
        first.stop()
    assert sorted(kept(tmp_path)) == [1, 2, 3]
