"""What Segment and RudderStack SDKs send to `/v1/…`: JSON to messages. Pure.

A body is one message or `{"batch": [message, …], "sentAt": …}`. Each kept message gets what Segment's own server adds:
`receivedAt`, `sentAt` of its batch, `originalTimestamp` (the device's clock) and `timestamp` corrected by
`receivedAt − sentAt`. Source: Segment HTTP tracking API and its page on timestamps.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from connectors.collector.bodies import BodyError, Limits, Received, accept, dumps, loads

TYPES = ("identify", "track", "page", "screen", "group", "alias")
# Paths under /v1: full names, and the single letters of analytics.js.
ENDPOINTS: dict[str, str | None] = {
    **{name: name for name in TYPES},
    **{name[0]: name for name in TYPES},
    **dict.fromkeys(("batch", "b", "import")),
}
_MAX_BATCH = 5000


def body(data: bytes) -> Mapping[str, Any]:
    """The JSON object of a request. Raises `BodyError`."""
    value = loads(data)
    if not isinstance(value, Mapping):
        raise BodyError("malformed", 'expected a JSON object: a message, or `{"batch": [...]}`')
    return value


def messages(value: Mapping[str, Any], *, kind: str | None, now: datetime, limits: Limits) -> Received:
    """The messages of one request as log lines. *kind*: the type its path names; None for a batch."""
    items = value.get("batch") if kind is None else [value]
    if not isinstance(items, list):
        raise BodyError("malformed", "`batch` is missing or not a list")
    if len(items) > _MAX_BATCH:
        raise BodyError("too_large", f"a batch holds at most {_MAX_BATCH} messages")
    items = [without_key(item) for item in items]
    shared = {name: value.get(name) for name in ("context", "integrations", "sentAt")}
    return accept(items, lambda item: message(item, kind=kind, shared=shared, now=now), limit=limits.event)


def without_key(item: Any) -> Any:
    """*item* without the write key, which is never kept, be the message good or refused."""
    return {name: value for name, value in item.items() if name != "writeKey"} if isinstance(item, Mapping) else item


def message(item: Any, *, kind: str | None, shared: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    """One message as it is kept. Raises `ValueError` when it is none."""
    if not isinstance(item, Mapping):
        raise ValueError("expected a JSON object")
    kept = dict(item)
    kept["type"] = kept.get("type") or kind
    if kept["type"] not in TYPES:
        raise ValueError(f"`type` is not one of {', '.join(TYPES)}")
    if not any(kept.get(name) for name in ("userId", "anonymousId", "previousId")):
        raise ValueError("neither `userId` nor `anonymousId` says whose message it is")
    if kept["type"] == "track" and not kept.get("event"):
        raise ValueError("`event` is missing")
    if not kept.get("messageId"):
        kept["messageId"] = "sha256-" + hashlib.sha256(dumps({**kept, "sentAt": None})).hexdigest()[:32]
    for name in ("context", "integrations"):
        if isinstance(shared.get(name), Mapping) and isinstance(kept.get(name, {}), Mapping):
            kept[name] = {**shared[name], **kept.get(name, {})}
    return _with_times(kept, shared.get("sentAt"), now)


def _with_times(kept: dict[str, Any], sent: Any, now: datetime) -> dict[str, Any]:
    sent_at = kept.get("sentAt") or sent
    original = kept.get("originalTimestamp") or kept.get("timestamp")
    if sent_at:
        kept["sentAt"] = sent_at
    if original:
        kept["originalTimestamp"] = original
    kept["receivedAt"] = iso(now)
    kept["timestamp"] = _corrected(original, sent_at, now) or original or iso(now)
    return kept


def _corrected(original: Any, sent: Any, now: datetime) -> str | None:
    happened, left = instant(original), instant(sent)
    if happened is None or left is None:
        return None
    try:
        return iso(happened + (now - left))
    except OverflowError:
        return None


def instant(value: Any) -> datetime | None:
    """An ISO 8601 text as a UTC instant (UTC where it names no zone); None when it is none."""
    if not isinstance(value, str):
        return None
    try:
        found = datetime.fromisoformat(value)
        return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None


def iso(value: datetime) -> str:
    """ISO 8601 in UTC to the millisecond, as Segment writes it."""
    return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
