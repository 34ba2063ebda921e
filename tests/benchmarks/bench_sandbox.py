"""Speed of the practice world: generating a brand, and answering tag calls.

    python -m tests.benchmarks.bench_sandbox [PEOPLE] [EVENTS] [CALLS]

Prints seconds and peak memory of the generator, then calls a second of `mark_tag` with four in flight (no server delay)
and the share of what four in flight at 50 ms allow. The client is a bare socket, so the server is what is measured.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sqlite3
import sys
import tempfile
import time
from pathlib import Path

import httpx

from sandbox.brand import generate, names
from sandbox.server import RunningServer, start

IN_FLIGHT = 4
MARK = "externalcontact/mark_tag"


async def _mark(server: RunningServer, token: str, tag: str, pairs: list[tuple[str, str]]) -> float:
    """Seconds for one call per pair, `IN_FLIGHT` at a time."""
    waiting = iter(pairs)

    async def worker() -> None:
        reader, writer = await asyncio.open_connection(server.host, server.port)
        for userid, external_userid in waiting:
            body = json.dumps({"userid": userid, "external_userid": external_userid, "add_tag": [tag]}).encode()
            head = f"POST /cgi-bin/{MARK}?access_token={token} HTTP/1.1\r\nHost: sandbox\r\n"
            writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            answer = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(answer.split(b"content-length: ")[1].split(b"\r")[0])
            reply = json.loads(await reader.readexactly(length))
            if reply["errcode"]:
                raise RuntimeError(f"mark_tag refused: {reply}")
        writer.close()
        await writer.wait_closed()

    began = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))
    return time.perf_counter() - began


def _pairs(state: Path, count: int) -> list[tuple[str, str]]:
    """One relation for each of *count* customers."""
    con = sqlite3.connect(state)
    sql = "select min(userid), external_userid from relations where status = 'normal' group by external_userid limit ?"
    found = con.execute(sql, (count,)).fetchall()
    con.close()
    return found


def _login(server: RunningServer) -> tuple[str, str]:
    """A token, and a tag of our own."""
    with httpx.Client(base_url=server.base_url, trust_env=False) as client:
        query = {"corpid": names.CORPID, "corpsecret": names.APP_SECRET}
        token = client.get("gettoken", params=query).json()["access_token"]
        body = {"group_name": "bench", "tag": [{"name": "t"}]}
        reply = client.post("externalcontact/add_corp_tag", params={"access_token": token}, json=body).json()
    return token, reply["tag_group"]["tag"][0]["id"]


def main(people: int = 20_000, events: int = 400_000, calls: int = 5_000) -> None:
    with tempfile.TemporaryDirectory() as folder:
        brand = Path(folder)
        report = generate(brand, people=people, events=events, seed=7)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"brand: {people:,} people, {events:,} events in {report.seconds:.1f} s, peak {peak:.2f} GiB")
        pairs = _pairs(brand / "wecom.sqlite", calls)
        with start(brand / "wecom.sqlite", limits=False) as server:
            token, tag = _login(server)
            seconds = asyncio.run(_mark(server, token, tag, pairs))
            print(f"mark_tag: {len(pairs) / seconds:,.0f} calls/s with {IN_FLIGHT} in flight and no delay")
            server.admin("POST", "settings", {"latency_ms": {MARK: 50}})
            some = pairs[: 20 * 4 * 5]
            seconds = asyncio.run(_mark(server, token, tag, some))
            print(
                f"mark_tag: {len(some) / seconds / (IN_FLIGHT / 0.05):.1%} of what {IN_FLIGHT} in flight at 50 ms allow"
            )


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
