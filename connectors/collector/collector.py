"""The state of one collector process: where lines go, what is counted, and how refusals are kept."""

from __future__ import annotations

import base64
from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import orjson

from connectors.collector.bodies import BodyError, Limits, Received
from connectors.collector.segments import Clock, Journal, SegmentLog, recover, utc_now
from connectors.collector.settings import CollectorConfig

SENSORS, SEGMENT, CALLBACKS, REJECTS = "sensors", "segment", "wecom_callbacks", "rejects"
_REMEMBERED = 20_000  # callbacks whose repeats are dropped at once; landing drops later ones by key


class Receiver(Protocol):
    """What handles the encrypted callbacks of one WeCom address. Both raise an error with `message` and `forbidden`."""

    def verify(self, query: Mapping[str, str]) -> str: ...

    def receive(self, query: Mapping[str, str], body: bytes, *, now: datetime) -> bytes: ...


@dataclass(frozen=True)
class Folders:
    """Where lines go: `<collected>/<sensors|segment|wecom_callbacks>/*.jsonl` and `<rejects>/*.jsonl`."""

    collected: Path
    rejects: Path

    def of(self, log: str) -> Path:
        return self.rejects if log == REJECTS else self.collected / log


@dataclass
class Collector:
    """State of one collector process. *write_keys*: the accepted ones; empty lets any caller in."""

    config: CollectorConfig
    folders: Folders
    write_keys: frozenset[str] = frozenset()
    receivers: Mapping[str, Receiver] = field(default_factory=dict)
    refusals: tuple[type[Exception], ...] = ()
    clock: Clock = utc_now
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        config = self.config
        self.limits = Limits(_mb(config.max_body_mb), _mb(config.max_unpacked_mb), int(config.max_event_kb * 1024))
        self.started = self.clock()
        self.seen: OrderedDict[bytes, None] = OrderedDict()
        logs = {name: self.log(name) for name in (SENSORS, SEGMENT, CALLBACKS, REJECTS)}
        self._rejects = logs[REJECTS]
        self.journal = Journal(logs)

    def log(self, name: str) -> SegmentLog:
        """A file of its own beside those other processes write."""
        return SegmentLog(
            self.folders.of(name),
            max_bytes=_mb(self.config.segment_mb),
            max_seconds=self.config.segment_seconds,
            clock=self.clock,
        )

    def recover(self) -> int:
        """Close what a stopped collector left open; its torn last lines become rejects. Returns the files closed."""
        closed = 0
        for name in (REJECTS, SENSORS, SEGMENT, CALLBACKS):

            def keep(torn: bytes, name: str = name) -> None:
                self._rejects.append(self.reject_line(name, "torn line: the collector stopped while writing it", torn))

            closed += len(recover(self.folders.of(name), keep, clock=self.clock))
        self._rejects.close()
        return closed

    def reject_line(self, endpoint: str, reason: str, raw: bytes, index: int | None = None) -> bytes:
        """One line of the rejects file; *raw* is kept as text, or as base64 where it is not UTF-8."""
        line: dict[str, Any] = {"received_at": self.clock().isoformat(), "endpoint": endpoint, "reason": reason}
        if index is not None:
            line["index"] = index
        try:
            line["raw"] = raw.decode()
        except UnicodeDecodeError:
            line["raw_base64"] = base64.b64encode(raw).decode()
        return orjson.dumps(line) + b"\n"

    async def keep(self, endpoint: str, received: Received) -> None:
        """Store events and refusals of one request; both are durable on return."""
        refused = b"".join(self.reject_line(endpoint, item.reason, item.raw, item.index) for item in received.refused)
        await self.journal.append({endpoint: received.lines, REJECTS: refused})
        self.counts[f"{endpoint}.accepted"] += received.count
        self.counts[f"{endpoint}.rejected"] += len(received.refused)

    async def keep_body(self, endpoint: str, error: BodyError, body: bytes) -> None:
        """Store a body that could not be read: SDKs delete what was answered with most 4xx codes.

        Not so for callers who are not let in: they may not fill the disk.
        """
        self.counts[f"{endpoint}.bad_requests"] += 1
        if body and error.code not in ("unauthorized", "forbidden"):
            await self.journal.append({REJECTS: self.reject_line(endpoint, error.message, body)})

    async def keep_callback(self, line: bytes) -> None:
        """Store one callback, unless the same was stored lately."""
        key: bytes = orjson.loads(line)["callback_id"].encode()
        if key in self.seen:
            self.counts[f"{CALLBACKS}.repeated"] += 1
            return
        await self.journal.append({CALLBACKS: line})
        self.counts[f"{CALLBACKS}.accepted"] += 1
        self.seen[key] = None
        if len(self.seen) > _REMEMBERED:
            self.seen.popitem(last=False)


def _mb(size: float) -> int:
    return int(size * 1024 * 1024)
