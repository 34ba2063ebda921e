"""HTTP collector: sustained events per second and latency, beside the same server keeping nothing.

Run: `python tests/benchmarks/bench_collector.py [seconds]`. Client and server share the machine's cores. The peer is
the collector's own `/health` (same HTTP stack, nothing decoded, nothing stored): the ratio is what decoding and
durability cost. A probe measures what the disk itself allows: appends with `fdatasync`, one at a time.
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import itertools
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import orjson

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.collector.running import Running, lines_of

CONNECTIONS = 32


@dataclass(frozen=True)
class Case:
    name: str
    request: bytes
    events: int


def http(method: str, path: str, body: bytes = b"", kind: str = "application/json") -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def sensors(count: int) -> Case:
    """*count* events of about 600 bytes, as an SDK posts them: a list, gzipped, base64, URL-encoded."""
    events = [
        {
            "type": "track", "event": "ProductView", "time": 1_790_000_000_000 + number, "distinct_id": f"d{number}",
            "identities": {"$identity_mp_id": f"d{number}", "$identity_mp_openid": f"o{number:028d}"},
            "lib": {"$lib": "MiniProgram", "$lib_version": "3.21.1", "$lib_method": "code"}, "_track_id": number,
            "properties": {
                "$os": "iOS", "$model": "iPhone15,3", "$url_path": "pages/product/detail", "$title": "山茶花精华水",
                "product_id": "SP0001", "category": "护肤", "$is_login_id": False, "$session_id": f"s{number}",
                "$screen_width": 390, "$screen_height": 844, "$network_type": "wifi", "$timezone_offset": -480,
            },
        }
        for number in range(count)
    ]  # fmt: skip
    data = quote(base64.b64encode(gzip.compress(orjson.dumps(events), 6)).decode(), safe="")
    body = f"data_list={data}&gzip=1".encode()
    return Case(
        f"sensors, {count} a request", http("POST", "/sa?project=p", body, "application/x-www-form-urlencoded"), count
    )


def segment(count: int) -> Case:
    messages = [
        {
            "type": "track", "event": "Product Viewed", "userId": f"M{number:08d}", "messageId": f"m{number}",
            "timestamp": "2026-11-21T10:00Z", "properties": {"product_id": "SP0001", "price": 128.0, "path": "/p/1"},
            "context": {"library": {"name": "bench", "version": "1"}, "page": {"path": "/p/1", "title": "精华水"}},
        }
        for number in range(count)
    ]  # fmt: skip
    body = orjson.dumps({"batch": messages, "sentAt": "2026-11-21T10:00:01Z"})
    return Case(f"segment, {count} a request", http("POST", "/v1/batch", body), count)


async def drive(port: int, request: bytes, seconds: float, rate: float | None = None) -> list[float]:
    """Latencies (s) over `CONNECTIONS` connections; any answer but 200 raises.

    Without *rate*, requests follow one another as fast as they are answered. With it (requests a second over all
    connections) each has a time at which it is due, and its latency counts from there: waiting in line is not left out.
    """
    latencies: list[float] = []
    start = time.perf_counter()

    async def worker(place: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number in itertools.count():
            begun = time.perf_counter()
            if rate is not None:
                begun = start + (number * CONNECTIONS + place) / rate
                await asyncio.sleep(max(0.0, begun - time.perf_counter()))
            if begun >= start + seconds:
                break
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(head.decode())
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            latencies.append(time.perf_counter() - begun)
        writer.close()

    await asyncio.gather(*(worker(place) for place in range(CONNECTIONS)))
    return latencies


def report(name: str, latencies: list[float], seconds: float, events: int) -> float:
    """Print one line; returns requests a second."""
    ordered = sorted(latencies)
    rate = len(ordered) / seconds
    p50, p99 = (ordered[int(len(ordered) * share)] * 1000 for share in (0.5, 0.99))
    print(f"{name:26} {rate:9,.0f} requests/s {rate * events:11,.0f} events/s   p50 {p50:6.1f} ms   p99 {p99:6.1f} ms")
    return rate


def disk(folder: Path, seconds: float = 1.0) -> float:
    """Appends of 16 KB with `fdatasync` a second, one after the other."""
    block, count, begun = b"x" * 16384, 0, time.perf_counter()
    with (folder / "probe").open("ab", buffering=0) as file:
        while time.perf_counter() - begun < seconds:
            file.write(block)
            os.fdatasync(file.fileno())
            count += 1
    return count / seconds


def main(seconds: float) -> None:
    cases = [sensors(1), sensors(50), segment(1), segment(100)]
    with tempfile.TemporaryDirectory() as folder:
        print(f"{os.cpu_count()} cores, {CONNECTIONS} connections, {seconds:.0f} s each")
        print(f"disk: {disk(Path(folder)):,.0f} syncs/s")
        with Running(Path(folder), segment_mb=64) as collector:
            port, sent = collector.port, {"sensors": 0, "segment": 0}
            peer = report(
                "/health (nothing kept)", asyncio.run(drive(port, http("GET", "/health"), seconds)), seconds, 0
            )
            for case in cases:
                latencies = asyncio.run(drive(port, case.request, seconds))
                rate = report(case.name, latencies, seconds, case.events)
                print(f"{'':26} {peer / rate:9.2f} times the peer's time a request")
                paced = asyncio.run(drive(port, case.request, seconds, rate / 2))
                report("  at half that rate", paced, seconds, case.events)
                sent[case.name.split(",")[0]] += (len(latencies) + len(paced)) * case.events
            collector.stop()
        for log, count in sent.items():
            found = len(lines_of(Path(folder), log))
            print(f"{log}: {count:,} acknowledged, {found:,} on disk")
            if found != count:
                raise SystemExit(f"{log}: acknowledged and kept differ")


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 5.0)
