"""What 神策 (Sensors Analytics) SDKs send to `/sa`: form fields to events. Pure.

Fields, in the query or the form body: `data` (one event) or `data_list` (a list), base64 of JSON, gzipped when
`gzip=1`; `crc` (or `ext=crc=…`) is the Java hash of the base64 text. Mini Program and beacon bodies carry the same
form under another content type, so the type is not looked at. Source: 数据接入 API of the 神策 manual, and the SDKs.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl

from connectors.collector.bodies import BodyError, Limits, Received, accept, dumps, gunzip, java_hash, loads, unbase64

_MILLISECONDS = re.compile(r"^\d+(\.\d+)?$")
_SKEW_MS = 60_000  # a smaller difference may be the way of the request
ENCRYPTED = {"9", "13"}  # `gzip` values of SDKs with encryption switched on


def form(text: bytes) -> dict[str, str]:
    """URL-encoded fields of a query or body; the first of a repeated name wins. Raises `BodyError`."""
    try:
        pairs = parse_qsl(text.decode("utf-8"), keep_blank_values=True, max_num_fields=100)
    except (UnicodeDecodeError, ValueError) as error:
        raise BodyError("malformed", "expected URL-encoded form fields with `data` or `data_list`") from error
    return dict(reversed(pairs))


def payload(fields: Mapping[str, str], limits: Limits) -> list[Any]:
    """The events of one request, undecoded beyond JSON. Raises `BodyError` when the whole is unreadable."""
    name = next((name for name in ("data_list", "data") if fields.get(name)), None)
    if name is None:
        raise BodyError("malformed", "expected the field `data` or `data_list`")
    text = fields[name].strip("\r\n")
    if fields.get("gzip") in ENCRYPTED:
        raise BodyError("encrypted", "the data is encrypted; switch encryption off in the SDK and use HTTPS")
    _check_crc(text.replace(" ", "+"), fields)
    raw = text.encode("utf-8", "replace") if text.startswith(("{", "[")) else unbase64(text)
    if fields.get("gzip") == "1" or raw[:2] == b"\x1f\x8b":
        raw = gunzip(raw, limits.unpacked)
    value = loads(raw)
    return value if isinstance(value, list) else [value]


def _check_crc(text: str, fields: Mapping[str, str]) -> None:
    given = fields.get("crc") or fields.get("ext", "").partition("crc=")[2]
    if given and given.lstrip("-").isdigit() and int(given) != java_hash(text):
        raise BodyError("malformed", "`crc` does not fit the data: it was cut or changed on its way")


def events(items: Sequence[Any], *, project: str | None, now_ms: int, limits: Limits) -> Received:
    """*items* as log lines: `project` from the address where the event names none, `recv_time` (ms), `_record_key`.

    `_flush_time` is the device's clock when it sent: where it is off by more than a minute, `time` is put right by as
    much, and what it was is kept as `_device_time`.
    An SDK that heard no answer sends its events again: `_record_key` is the same then, so that they land once.
    """

    def read(item: Any) -> dict[str, Any]:
        _check(item)
        event = dict(item)
        if project and not event.get("project"):
            event["project"] = project
        event["_record_key"] = record_key(event)
        event["recv_time"] = now_ms
        return _with_right_time(event, now_ms)

    return accept(items, read, limit=limits.event)


def _with_right_time(event: dict[str, Any], now_ms: int) -> dict[str, Any]:
    happened, sent = _ms(event.get("time")), _ms(event.get("_flush_time"))
    if happened is None or sent is None:
        return event
    skew = now_ms - sent
    if abs(skew) <= _SKEW_MS or happened - sent > _SKEW_MS:  # sent before it happened: another clock altogether
        return event
    return event | {"time": happened + skew, "_device_time": event["time"]}


def _ms(value: Any) -> int | None:
    """Milliseconds, as SDKs write them: numbers nearly always, else texts of digits."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    return int(float(value)) if _MILLISECONDS.match(str(value)) else None


def record_key(event: Mapping[str, Any]) -> str:
    """What an event is known by: its content, without the time of sending (`_flush_time`), which differs by try."""
    content = dumps({name: value for name, value in event.items() if name != "_flush_time"})
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _check(item: Any) -> None:
    """Raise `ValueError` when *item* cannot be an event of any type. Unknown types are kept."""
    if not isinstance(item, Mapping):
        raise ValueError("expected a JSON object")
    kind = item.get("type")
    if not isinstance(kind, str) or not kind:
        raise ValueError("`type` is missing")
    if kind.startswith("item_"):
        if not item.get("item_id"):
            raise ValueError("`item_id` is missing")
        return
    if item.get("distinct_id") in (None, "") and not item.get("identities"):
        raise ValueError("neither `distinct_id` nor `identities` says whose event it is")
    if kind.startswith("track") and not (isinstance(item.get("event"), str) and item["event"]):
        raise ValueError("`event` is missing")
    if not _MILLISECONDS.match(str(item.get("time"))):
        raise ValueError("`time` is missing or not in milliseconds")
    if not isinstance(item.get("properties", {}), Mapping):
        raise ValueError("`properties` is not a JSON object")
