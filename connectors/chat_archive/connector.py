"""会话内容存档: decrypted messages, one JSON object a line, as events of the customer they came from or went to.

The vendor's C library fetches and decrypts; that stays outside. What people wrote is left out unless the source says
`keep_text`: that a message was sent, by which side and of what kind, is what tags need.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import orjson
import polars as pl

from cdp.errors import CdpError, FatalError
from cdp.streams import IDENTIFIER_DTYPE, Batch, Reject, SourceCheck, Stream
from connectors import canonical
from connectors.files.discover import find, raise_all, unread
from connectors.registry import SourceContext
from connectors.sample import sample
from connectors.settings import ChatArchiveSource
from connectors.tracking.lines import plain_lines

EVENTS = canonical.STREAMS_BY_NAME["events"]
ROWS_PER_BATCH = 20_000
_CUSTOMER = ("wm", "wo")
_SCHEMA = {
    "event_id": pl.String(),
    "event_name": pl.String(),
    "event_at": pl.Datetime("us", "UTC"),
    "session_id": pl.String(),
    "properties": pl.String(),
    "identifiers": IDENTIFIER_DTYPE,
    "_row_number": pl.Int64(),
}


def build(context: SourceContext) -> ChatArchiveConnector:
    return ChatArchiveConnector(context)


def streams_of(settings: ChatArchiveSource) -> tuple[Stream, ...]:
    """Chat messages are events."""
    return (EVENTS if settings.reject_budget is None else replace(EVENTS, reject_budget=settings.reject_budget),)


class ChatArchiveConnector:
    """Files of decrypted chat-archive lines."""

    def __init__(self, context: SourceContext) -> None:
        self.context = context
        self.settings: ChatArchiveSource = context.settings

    def streams(self) -> tuple[Stream, ...]:
        return streams_of(self.settings)

    def pull(self, stream: Stream, state: Mapping[str, Any]) -> Iterator[Batch]:
        faults: dict[str, CdpError] = {}
        before: Mapping[str, Any] = state
        for found in unread(self.settings.path, self.context.root, state, failed=faults):
            try:
                with plain_lines(found.path, None) as path, path.open("rb") as handle:
                    for rows, rejects, last in _batches(enumerate(handle, start=1), self.settings):
                        reached = found.state if last else before
                        frame = pl.DataFrame(rows, schema=_SCHEMA, orient="row")
                        yield Batch(stream.name, frame, reached, tuple(rejects), found.name)
                before = found.state
            except FatalError as error:
                faults[found.name] = error
        raise_all(faults)

    def check(self) -> SourceCheck:
        try:
            files = find(self.settings.path, self.context.root)
            if not files:
                return SourceCheck(True, (("files", True, "no file there yet"),))
            with plain_lines(files[0], None) as path, path.open("rb") as handle:
                rows, rejects, _ = next(_batches(enumerate(handle, start=1), self.settings))
        except CdpError as error:
            return SourceCheck(False, (("files", False, error.message),))
        told = f"{len(rows)} messages read, {len(rejects)} lines do not fit"
        frame = pl.DataFrame(rows, schema=_SCHEMA, orient="row")
        return SourceCheck(bool(rows), ((files[0].name, bool(rows), told),), sample(frame, EVENTS))


def _batches(
    lines: Iterator[tuple[int, bytes]], settings: ChatArchiveSource
) -> Iterator[tuple[list[tuple[Any, ...]], list[Reject], bool]]:
    """(rows, rejects, whether it is the last batch)."""
    rows: list[tuple[Any, ...]] = []
    rejects: list[Reject] = []
    for number, line in lines:
        if not line.strip():
            continue
        try:
            rows.append((*event(line, settings), number))
        except ValueError as error:
            rejects.append(Reject(str(error), line.decode("utf-8", "replace").rstrip("\r\n"), number))
        if len(rows) >= ROWS_PER_BATCH:
            yield rows, rejects, False
            rows, rejects = [], []
    yield rows, rejects, True


def event(line: bytes, settings: ChatArchiveSource) -> tuple[Any, ...]:
    """One message as (event_id, event_name, event_at, session_id, properties, identifiers). ValueError says why not."""
    try:
        message = orjson.loads(line)
    except orjson.JSONDecodeError:
        raise ValueError("line is not valid JSON") from None
    if not isinstance(message, dict):
        raise ValueError("line is not a JSON object")
    at = message.get("msgtime") or message.get("time")
    if not message.get("msgid") or not isinstance(at, (int, float)):
        raise ValueError("`msgid` or `msgtime` is missing")
    sender = str(message.get("from") or message.get("user") or "")
    receivers = [str(item) for item in message.get("tolist") or [] if item]
    customers = [item for item in [sender, *receivers] if item.startswith(_CUSTOMER)]
    # In a group everybody reads: the message says something about its sender only.
    person = sender if sender.startswith(_CUSTOMER) else customers[0] if len(customers) == 1 else None
    kind = str(message.get("msgtype") or message.get("action") or "unknown")
    properties: dict[str, Any] = {
        "action": message.get("action"),
        "kind": kind,
        "staff": next((item for item in [sender, *receivers] if not item.startswith((*_CUSTOMER, "wb"))), None),
        "receivers": len(receivers),
        "room": message.get("roomid") or None,
    }
    if settings.keep_text and isinstance(message.get("text"), dict):
        properties["text"] = message["text"].get("content")
    identifiers = [{"type": "external_userid", "scope": settings.corpid, "value": person}] if person else []
    return (
        str(message["msgid"]),
        _name(str(message.get("action") or "send"), by_customer=sender.startswith(_CUSTOMER)),
        _instant(at),
        message.get("roomid") or None,
        orjson.dumps({key: value for key, value in properties.items() if value is not None}).decode(),
        identifiers,
    )


def _instant(milliseconds: float) -> datetime:
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        raise ValueError("`msgtime` is no time in milliseconds") from None


def _name(action: str, *, by_customer: bool) -> str:
    if action != "send":
        return f"chat_{action}"
    return "chat_customer_message" if by_customer else "chat_staff_message"
