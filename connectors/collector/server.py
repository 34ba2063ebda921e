"""The HTTP side of the collector: routes, limits, and the rule that nothing is acknowledged before it is on disk."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hmac
import socket
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from cdp.errors import FatalError
from connectors.collector import segment, sensors
from connectors.collector.bodies import BodyError, Limits, Received, gunzip, unbase64
from connectors.collector.segments import BusyError, Clock, Journal, SegmentLog, recover, utc_now
from connectors.collector.settings import CollectorConfig

SENSORS, SEGMENT, CALLBACKS, REJECTS = "sensors", "segment", "wecom_callbacks", "rejects"
GIF = base64.b64decode("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7")
_READ_SECONDS = 30.0
_LARGE = 256 << 10  # bodies above this are decoded beside the event loop
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
        logs = {name: self._log(name) for name in (SENSORS, SEGMENT, CALLBACKS, REJECTS)}
        self._rejects = logs[REJECTS]
        self.journal = Journal(logs)

    def _log(self, name: str) -> SegmentLog:
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


def _mb(size: float) -> int:
    return int(size * 1024 * 1024)


def create_app(collector: Collector) -> Starlette:
    """The ASGI application of *collector*; closes its segments on shutdown."""

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        roller = asyncio.create_task(_roll_forever(collector))
        yield
        roller.cancel()
        await collector.journal.close()

    def handler(work: Callable[[Collector, Request], Any]) -> Callable[[Request], Any]:
        async def handle(request: Request) -> Response:
            return await _guarded(collector, work, request)

        return handle

    takes_sensors, takes_segment, takes_callback = handler(_sensors), handler(_segment), handler(_callback)
    cors = Middleware(
        CORSMiddleware,
        allow_origins=collector.config.allowed_origins,
        allow_methods=["GET", "POST"],
        allow_headers=["*"],
        allow_credentials=True,
        max_age=86_400,
    )
    return Starlette(
        lifespan=lifespan,
        middleware=[cors],
        routes=[
            *(Route(path, takes_sensors, methods=["GET", "POST"]) for path in ("/sa", "/sa.gif", "/debug")),
            Route("/v1/pixel/{kind}", takes_segment, methods=["GET"]),
            Route("/v1/{kind}", takes_segment, methods=["POST"]),
            Route("/beacon/v1/{kind}", takes_segment, methods=["POST"]),
            Route("/wecom/callback", takes_callback, methods=["GET", "POST"]),
            Route("/wecom/callback/{source}", takes_callback, methods=["GET", "POST"]),
            Route("/health", handler(_health), methods=["GET"]),
        ],
    )


async def _roll_forever(collector: Collector) -> None:
    while True:
        await asyncio.sleep(min(1.0, collector.config.segment_seconds))
        with contextlib.suppress(OSError):
            await collector.journal.roll()


async def _guarded(collector: Collector, work: Callable[[Collector, Request], Any], request: Request) -> Response:
    """*work*, with every failure as JSON: what was wrong with the request, or 503 when the disk cannot keep up."""
    try:
        response: Response = await work(collector, request)
        return response
    except BodyError as error:
        return failure(error.status, error.code, error.message)
    except TimeoutError:
        return failure(408, "timeout", f"the body did not arrive within {_READ_SECONDS:.0f} s")
    except ClientDisconnect:
        return Response(status_code=400)
    except BusyError:
        return failure(503, "busy", "too much is waiting to be written; send again", {"Retry-After": "2"})
    except OSError:
        return failure(
            503, "storage", "nothing was stored: the disk refused the write; send again", {"Retry-After": "10"}
        )


def failure(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """An error as `{"code": …, "message": …}`, the shape Segment SDKs print."""
    return reply({"code": code, "message": message}, status, headers)


def reply(value: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(orjson.dumps(value), status, dict(headers or {}), media_type="application/json")


async def _body(collector: Collector, request: Request) -> bytes:
    """The whole body as it came. Raises `BodyError` and `TimeoutError`.

    One over the limit is read on (within reason) before it is refused, so that its sender gets to see the answer.
    """
    limit, size, chunks = collector.limits.body, 0, []
    async with asyncio.timeout(_READ_SECONDS):
        async for chunk in request.stream():
            size += len(chunk)
            if size <= limit:
                chunks.append(chunk)
            elif size > 8 * limit:
                break
    if size > limit:
        collector.counts["too_large"] += 1
        raise BodyError("too_large", f"the body has more than {limit} bytes; send smaller batches")
    return b"".join(chunks)


async def _decode(work: Callable[[], Received], size: int) -> Received:
    """Run *work* here, or in a thread when the body is large enough to hold up other requests."""
    return await run_in_threadpool(work) if size > _LARGE else work()


def _unpacked(request: Request, body: bytes, limits: Limits) -> bytes:
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding in ("gzip", "x-gzip", "deflate"):
        return gunzip(body, limits.unpacked)
    if encoding not in ("", "identity"):
        raise BodyError("unsupported", f"content-encoding `{encoding[:20]}` is not supported; send gzip or none")
    return body


def outcome(received: Received) -> Response:
    """What a POST is answered: 200 when anything was kept, 400 when all was refused (which is stored as rejects)."""
    errors = [{"index": item.index, "reason": item.reason} for item in received.refused[:20]]
    counts = {"accepted": received.count, "rejected": len(received.refused)}
    if received.count or not errors:
        return reply({"success": True, **counts, **({"errors": errors} if errors else {})})
    return reply({"code": "malformed", "message": errors[0]["reason"], **counts, "errors": errors}, 400)


# 神策 / Sensors Analytics ------------------------------------------------------------------------------------------


async def _sensors(collector: Collector, request: Request) -> Response:
    query = request.scope["query_string"]
    body = await _body(collector, request) if request.method == "POST" else b""
    now_ms = int(collector.clock().timestamp() * 1000)

    def read() -> Received:
        fields = sensors.form(query)
        project = fields.get("project")
        _check_project(collector, project)
        if request.method == "POST":
            fields = {**fields, **sensors.form(_unpacked(request, body, collector.limits))}
        items = sensors.payload(fields, collector.limits)
        return sensors.events(items, project=project, now_ms=now_ms, limits=collector.limits)

    try:
        received = await _decode(read, len(body))
    except BodyError as error:
        await collector.keep_body(SENSORS, error, body or (query if b"data" in query else b""))
        raise
    if request.url.path == "/debug" and request.headers.get("dry-run", "").lower() == "true":
        return outcome(received)
    await collector.keep(SENSORS, received)
    if request.method == "GET" and received.count:
        return Response(GIF, media_type="image/gif", headers={"Cache-Control": "no-store"})
    return outcome(received)


def _check_project(collector: Collector, project: str | None) -> None:
    if collector.config.projects and (project or "default") not in collector.config.projects:
        raise BodyError("forbidden", "this `project` is not collected here")


# Segment / RudderStack ---------------------------------------------------------------------------------------------


async def _segment(collector: Collector, request: Request) -> Response:
    kind = request.path_params["kind"]
    if kind not in segment.ENDPOINTS:
        return failure(404, "not_found", f"unknown path; valid: {', '.join(sorted(segment.ENDPOINTS))}")
    pixel = request.method == "GET"
    body = request.query_params.get("data", "").encode() if pixel else await _body(collector, request)
    now = collector.clock()

    def read() -> Received:
        value = segment.body(unbase64(body.decode()) if pixel else _unpacked(request, body, collector.limits))
        _check_write_key(collector, request, value)
        return segment.messages(value, kind=segment.ENDPOINTS[kind], now=now, limits=collector.limits)

    try:
        received = await _decode(read, len(body))
    except BodyError as error:
        await collector.keep_body(SEGMENT, error, body)
        raise
    await collector.keep(SEGMENT, received)
    if pixel and received.count:
        return Response(GIF, media_type="image/gif", headers={"Cache-Control": "no-store"})
    return outcome(received)


def _check_write_key(collector: Collector, request: Request, value: Mapping[str, Any]) -> None:
    if not collector.write_keys:
        return
    given = _basic_user(request.headers.get("authorization", ""))
    given = given or str(value.get("writeKey") or request.query_params.get("writeKey") or "")
    if not any(hmac.compare_digest(given.encode(), key.encode()) for key in collector.write_keys):
        raise BodyError("unauthorized", "the write key is not one of those configured here")


def _basic_user(header: str) -> str:
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(encoded, validate=True).decode().partition(":")[0]
    except ValueError:
        return ""


# 企业微信 callbacks --------------------------------------------------------------------------------------------------


async def _callback(collector: Collector, request: Request) -> Response:
    receiver = _receiver(collector, request.path_params.get("source"))
    if receiver is None:
        return failure(
            404, "not_found", "no WeCom source with `callback_token` and `callback_aes_key` is configured here"
        )
    query = dict(request.query_params)
    try:
        if request.method == "GET":
            return PlainTextResponse(receiver.verify(query))
        line = receiver.receive(query, await _body(collector, request), now=collector.clock())
    except collector.refusals as error:
        collector.counts[f"{CALLBACKS}.bad_requests"] += 1
        forbidden = getattr(error, "forbidden", False)
        return failure(403 if forbidden else 400, "forbidden" if forbidden else "malformed", str(error))
    await _keep_callback(collector, line)
    return PlainTextResponse("success")


def _receiver(collector: Collector, source: str | None) -> Receiver | None:
    """The receiver of *source*; without a name, the only one there is."""
    if source is not None:
        return collector.receivers.get(source)
    return next(iter(collector.receivers.values())) if len(collector.receivers) == 1 else None


async def _keep_callback(collector: Collector, line: bytes) -> None:
    key: bytes = orjson.loads(line)["callback_id"].encode()
    if key in collector.seen:
        collector.counts[f"{CALLBACKS}.repeated"] += 1
        return
    await collector.journal.append({CALLBACKS: line})
    collector.counts[f"{CALLBACKS}.accepted"] += 1
    collector.seen[key] = None
    if len(collector.seen) > _REMEMBERED:
        collector.seen.popitem(last=False)


async def _health(collector: Collector, _: Request) -> Response:
    """Counts since the start; 503 while the last write failed."""
    state = {
        "status": "ok" if collector.journal.healthy else "storage_failed",
        "seconds": round((collector.clock() - collector.started).total_seconds()),
        "counts": dict(sorted(collector.counts.items())),
    }
    return reply(state, 200 if collector.journal.healthy else 503)


# Running -----------------------------------------------------------------------------------------------------------


def serve(collector: Collector, *, host: str, port: int, on_started: Callable[[str, int], None] | None = None) -> None:
    """Collect until SIGINT or SIGTERM, then answer what came in and close every segment.

    What an earlier collector left open is recovered first. Nothing is logged per request: addresses carry personal
    data and keys. *on_started* is told where it listens. Raises `FatalError` when the folders cannot be written or the
    address cannot be had.
    """
    try:
        collector.recover()
    except OSError as error:
        raise FatalError(
            f"{collector.folders.collected} cannot be written: {error.strerror}",
            hint="check owner, mode and free space",
        ) from error
    listener = _listener(host, port)
    if on_started is not None:
        on_started(host, listener.getsockname()[1])
    with contextlib.suppress(KeyboardInterrupt):
        http_server(collector).run(sockets=[listener])


def http_server(collector: Collector) -> uvicorn.Server:
    """The server of *collector*, not yet listening."""
    config = uvicorn.Config(
        create_app(collector),
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=10,
    )
    return uvicorn.Server(config)


def _listener(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=4096)
    except OSError as error:
        raise FatalError(
            f"cannot listen on {host} port {port}: {error.strerror}",
            hint="choose another port, or stop what has it",
        ) from error
