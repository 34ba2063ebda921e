"""What the collector refused, mended: decoded again, as if it came now but at the time it came. Pure.

A line is `{"received_at", "endpoint", …}` with the item or body as `item` (JSON), `raw` (text) or `raw_base64`.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from connectors.collector import segment, sensors
from connectors.collector.bodies import BodyError, Limits, Received, dumps, gunzip, loads
from connectors.collector.collector import SEGMENT, SENSORS

_GZIP = b"\x1f\x8b"


def decoded(line: Mapping[str, Any], limits: Limits) -> Received:
    """The events of one line. Raises `BodyError` when it is still not readable, or of an endpoint without events."""
    endpoint, at = line.get("endpoint"), _received_at(line)
    raw = _raw(line)
    if endpoint == SENSORS:
        return sensors.events(_sensors_items(raw, limits), project=None, now_ms=_ms(at), limits=limits)
    if endpoint == SEGMENT:
        value = segment.body(gunzip(raw, limits.unpacked) if raw.startswith(_GZIP) else raw)
        batch = value if "batch" in value else {"batch": [value]}
        return segment.messages(batch, kind=None, now=at, limits=limits)
    raise BodyError("malformed", f"`endpoint` is `{endpoint}`; {SENSORS} and {SEGMENT} can be collected again")


def _received_at(line: Mapping[str, Any]) -> datetime:
    at = segment.instant(line.get("received_at"))
    if at is None:
        raise BodyError("malformed", "`received_at` is missing or no time")
    return at


def _ms(at: datetime) -> int:
    return int(at.timestamp() * 1000)


def _raw(line: Mapping[str, Any]) -> bytes:
    if "item" in line:
        return dumps(line["item"])
    if isinstance(line.get("raw"), str):
        return str(line["raw"]).encode()
    if isinstance(line.get("raw_base64"), str):
        return base64.b64decode(line["raw_base64"])
    raise BodyError("malformed", "expected `item`, `raw` or `raw_base64`")


def _sensors_items(raw: bytes, limits: Limits) -> list[Any]:
    if raw.lstrip()[:1] in (b"{", b"["):
        value = loads(raw)
        return value if isinstance(value, list) else [value]
    return sensors.payload(sensors.form(raw), limits)
