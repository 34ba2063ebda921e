"""What each address of the collector does with a request: read within limits, decode, keep, answer."""

from __future__ import annotations

import asyncio
import base64
import hmac
from collections.abc import Callable, Mapping
from typing import Any

import orjson
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from connectors.collector import segment, sensors
from connectors.collector.bodies import BodyError, Limits, Received, gunzip, unbase64
from connectors.collector.collector import CALLBACKS, SEGMENT, SENSORS, Collector, Receiver

GIF = base64.b64decode("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7")
READ_SECONDS = 30.0
_LARGE = 256 << 10  # bodies above this are decoded beside the event loop


def failure(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """An error as `{"code": …, "message": …}`, the shape Segment SDKs print."""
    return reply({"code": code, "message": message}, status, headers)


def reply(value: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(orjson.dumps(value), status, dict(headers or {}), media_type="application/json")


def outcome(received: Received) -> Response:
    """What a POST is answered: 200 when anything was kept, 400 when all was refused (which is stored as rejects)."""
    errors = [{"index": item.index, "reason": item.reason} for item in received.refused[:20]]
    counts = {"accepted": received.count, "rejected": len(received.refused)}
    if received.count or not errors:
        return reply({"success": True, **counts, **({"errors": errors} if errors else {})})
    return reply({"code": "malformed", "message": errors[0]["reason"], **counts, "errors": errors}, 400)


async def _body(collector: Collector, request: Request) -> bytes:
    """The whole body as it came. Raises `BodyError` and `TimeoutError`.

    One over the limit is read on (within reason) before it is refused, so that its sender gets to see the answer.
    """
    limit, size, chunks = collector.limits.body, 0, []
    async with asyncio.timeout(READ_SECONDS):
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


# 神策 / Sensors Analytics ------------------------------------------------------------------------------------------


async def sensors_events(collector: Collector, request: Request) -> Response:
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


async def segment_messages(collector: Collector, request: Request) -> Response:
    kind = request.path_params["kind"]
    if kind not in segment.ENDPOINTS:
        return failure(404, "not_found", f"unknown path; valid: {', '.join(sorted(segment.ENDPOINTS))}")
    pixel = request.method == "GET"
    body = request.query_params.get("data", "").encode() if pixel else await _body(collector, request)
    now = collector.clock()
    known = _is_known(collector, _basic_user(request.headers.get("authorization", "")), request.query_params)

    def read() -> Received:
        value = segment.body(unbase64(body.decode()) if pixel else _unpacked(request, body, collector.limits))
        if not known and not _is_known(collector, value.get("writeKey"), {}):
            raise BodyError("unauthorized", "the write key is not one of those configured here")
        return segment.messages(value, kind=segment.ENDPOINTS[kind], now=now, limits=collector.limits)

    try:
        received = await _decode(read, len(body))
    except BodyError as error:
        await collector.keep_body(SEGMENT, error, body if known else b"")
        raise
    await collector.keep(SEGMENT, received)
    if pixel and received.count:
        return Response(GIF, media_type="image/gif", headers={"Cache-Control": "no-store"})
    return outcome(received)


def _is_known(collector: Collector, key: Any, query: Mapping[str, str]) -> bool:
    """Whether *key*, or else the `writeKey` of *query*, may send; anybody may where no keys are configured."""
    given = str(key or query.get("writeKey") or "").encode("utf-8", "replace")
    matches = [hmac.compare_digest(given, accepted.encode()) for accepted in collector.write_keys]
    return any(matches) or not collector.write_keys


def _basic_user(header: str) -> str:
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(encoded, validate=True).decode().partition(":")[0]
    except ValueError:
        return ""


# 企业微信 callbacks --------------------------------------------------------------------------------------------------


async def wecom_callback(collector: Collector, request: Request) -> Response:
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
    await collector.keep_callback(line)
    return PlainTextResponse("success")


def _receiver(collector: Collector, source: str | None) -> Receiver | None:
    """The receiver of *source*; without a name, the only one there is."""
    if source is not None:
        return collector.receivers.get(source)
    return next(iter(collector.receivers.values())) if len(collector.receivers) == 1 else None


async def health(collector: Collector, _: Request) -> Response:
    """Counts since the start; 503 while the last write failed."""
    state = {
        "status": "ok" if collector.journal.healthy else "storage_failed",
        "seconds": round((collector.clock() - collector.started).total_seconds()),
        "counts": dict(sorted(collector.counts.items())),
    }
    return reply(state, 200 if collector.journal.healthy else 503)
