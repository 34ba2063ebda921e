"""Encrypted callbacks (回调) of WeCom: verify, decrypt, parse, and read back what the collector stored, as a stream.

Callbacks say *what to re-read*; they are hints and may be lost or repeated, so a periodic pull stays the truth.
The collector stores the decrypted XML as it came and answers; nothing of it is interpreted before it is on disk.
Source: 接收消息与事件 and 加解密方案说明 of the WeCom API.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from xml.parsers import expat

import orjson
import polars as pl
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from cdp.errors import ConfigError
from cdp.streams import POLARS_TYPES, Batch, Column, Reject, Stream
from connectors.wecom.parse import Row, UnreadableError, instant, integer, text

PADDING_BLOCK = 32
_OVERLAP = timedelta(minutes=10)
_SEGMENT_NAME = re.compile(r"^\d{8}T\d{6}\.\d{6}Z-\w+\.jsonl$")
_STAMP = "%Y%m%dT%H%M%S.%fZ"
_MAX_DEPTH = 8

CALLBACKS_STREAM = Stream(
    family="wecom",
    name="callbacks",
    key=("corpid", "callback_id"),
    mode="append",
    description="One row per callback event received; repeats of one event are one row.",
    columns=(
        Column("callback_id", required=True, description="SHA-256 of the whole decrypted XML"),
        Column("corpid", required=True),
        Column("agentid"),
        Column("received_at", "timestamp", required=True, description="by the collector's clock"),
        Column("happened_at", "timestamp", description="`CreateTime`: whole seconds, many events share one"),
        Column("event", description="`change_external_contact`, `change_external_chat`, `change_external_tag`, …"),
        Column("change_type", description="`add_external_contact`, `del_follow_user`, `update`, …"),
        Column("userid", description="staff member"),
        Column("external_userid", description="customer"),
        Column("state", description="channel parameter of the contact way (活码)"),
        Column("source", description="`DELETE_BY_TRANSFER` on a removal caused by a transfer"),
        Column("fail_reason", description="of `transfer_fail`"),
        Column("chat_id", description="customer group to re-read"),
        Column(
            "update_detail", description="`add_member`, `del_member`, `change_owner`, `change_name`, `change_notice`"
        ),
        Column("join_scene", "int"),
        Column("quit_scene", "int", description="0 left, 1 was removed"),
        Column("tag_id", description="tag or tag group that changed"),
        Column("tag_type", description="`tag` or `tag_group`"),
        Column("strategy_id", "int"),
        Column("fields", "json", sensitivity="personal", description="all fields but the welcome code"),
    ),
)

_TEXTS = {
    "userid": "UserID", "external_userid": "ExternalUserID", "state": "State", "source": "Source",
    "fail_reason": "FailReason", "chat_id": "ChatId", "update_detail": "UpdateDetail", "tag_id": "Id",
    "tag_type": "TagType", "change_type": "ChangeType",
}  # fmt: skip
_NUMBERS = {"join_scene": "JoinScene", "quit_scene": "QuitScene", "strategy_id": "StrategyId"}


class CallbackError(Exception):
    """A callback that is refused. *forbidden*: signature or receiver is wrong; otherwise it is malformed."""

    def __init__(self, message: str, *, forbidden: bool = False) -> None:
        super().__init__(message)
        self.message, self.forbidden = message, forbidden


@dataclass(frozen=True)
class CallbackReceiver:
    """Token, AES key and expected receiver (the corpid) of one callback address."""

    token: str
    key: bytes
    receive_id: str

    @classmethod
    def of(cls, token: str, encoding_aes_key: str, receive_id: str, *, where: str = "wecom") -> CallbackReceiver:
        """Raises `ConfigError` unless *encoding_aes_key* is the 43 characters the WeCom console shows."""
        try:
            key = base64.b64decode(encoding_aes_key + "=", validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if len(encoding_aes_key) != 43 or len(key) != 32:
            raise ConfigError(
                f"sources.{where}.callback_aes_key: expected 43 letters and digits",
                hint="copy EncodingAESKey from 接收事件服务器 in the WeCom console",
            )
        return cls(token, key, receive_id)

    def verify(self, query: Mapping[str, str]) -> str:
        """The text to answer the console's GET check with. Raises `CallbackError`."""
        return self.open(query, query.get("echostr", "")).decode("utf-8", "replace")

    def receive(self, query: Mapping[str, str], body: bytes, *, now: datetime) -> bytes:
        """A POST as the line to store: callback_id, corpid, agentid, received_at, xml. Raises `CallbackError`."""
        envelope = parse_xml(body)
        xml = self.open(query, str(envelope.get("Encrypt") or ""))
        line = {
            "callback_id": hashlib.sha256(xml).hexdigest(),
            "corpid": self.receive_id,
            "agentid": text(envelope.get("AgentID")),
            "received_at": now.astimezone(UTC).isoformat(),
            "xml": xml.decode("utf-8", "replace"),
        }
        return orjson.dumps(line) + b"\n"

    def open(self, query: Mapping[str, str], encrypted: str) -> bytes:
        """Check the signature and decrypt. A `+` that became a space on the way is put back. Raises `CallbackError`."""
        encrypted = encrypted.replace(" ", "+")
        expected = signature(self.token, query.get("timestamp", ""), query.get("nonce", ""), encrypted)
        if not encrypted or not hmac.compare_digest(expected.encode(), query.get("msg_signature", "").encode()):
            raise CallbackError(
                "the signature does not fit: is `callback_token` the one of the console?", forbidden=True
            )
        return decrypt(encrypted, self.key, self.receive_id)


def signature(token: str, timestamp: str, nonce: str, encrypted: str) -> str:
    """SHA-1 over the four parts, sorted and joined."""
    return hashlib.sha1("".join(sorted((token, timestamp, nonce, encrypted))).encode()).hexdigest()  # noqa: S324 WeCom's


def decrypt(encrypted: str, key: bytes, receive_id: str) -> bytes:
    """The XML inside: 16 random bytes, 4 of length (big-endian), XML, receiver; AES-256-CBC, padded to 32 bytes.

    Raises `CallbackError` when it is not so, or is meant for another receiver.
    """
    try:
        data = base64.b64decode(encrypted, validate=True)
        decryptor = Cipher(algorithms.AES(key), modes.CBC(key[:16])).decryptor()
        plain = decryptor.update(data) + decryptor.finalize()
    except (binascii.Error, ValueError) as error:
        raise CallbackError("the message is not base64 of whole cipher blocks") from error
    padding = plain[-1] if plain else 0
    if not 1 <= padding <= PADDING_BLOCK or plain[-padding:] != bytes([padding]) * padding:
        raise CallbackError("the message cannot be decrypted: is `callback_aes_key` the one of the console?")
    content = plain[16:-padding]
    length = int.from_bytes(content[:4], "big")
    if len(content) < 4 + length:
        raise CallbackError("the message says it is longer than it is")
    if content[4 + length :] != receive_id.encode():
        raise CallbackError("the message is meant for another receiver than this corpid", forbidden=True)
    return content[4 : 4 + length]


def parse_xml(data: bytes) -> dict[str, Any]:
    """The children of the root: text, a mapping for nested elements, a list where a name repeats.

    Raises `CallbackError` on anything that is not plain XML: document types, and with them entities, are refused
    before anything is expanded.
    """
    parser = expat.ParserCreate(encoding="UTF-8")
    parser.buffer_text = True
    tree = _Tree()
    parser.StartElementHandler = tree.start
    parser.EndElementHandler = tree.end
    parser.CharacterDataHandler = tree.characters
    parser.StartDoctypeDeclHandler = _refuse_doctype
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise CallbackError(f"expected XML: {expat.ErrorString(error.code)} in line {error.lineno}") from error
    return tree.root if isinstance(tree.root, dict) else {}


def _refuse_doctype(*_: Any) -> None:
    raise CallbackError("a document type is not allowed in a callback")


class _Tree:
    """Builds nested dicts from parser events."""

    def __init__(self) -> None:
        self.root: Any = {}
        self._stack: list[tuple[dict[str, Any], list[str]]] = []

    def start(self, _name: str, _attributes: Any) -> None:
        if len(self._stack) >= _MAX_DEPTH:
            raise CallbackError("the XML is nested too deeply")
        self._stack.append(({}, []))

    def characters(self, piece: str) -> None:
        self._stack[-1][1].append(piece)

    def end(self, name: str) -> None:
        children, pieces = self._stack.pop()
        value: Any = children or "".join(pieces).strip()
        if not self._stack:
            self.root = value
            return
        parent = self._stack[-1][0]
        if name not in parent:
            parent[name] = value
        elif isinstance(parent[name], list):
            parent[name].append(value)
        else:
            parent[name] = [parent[name], value]


def callback_row(line: Mapping[str, Any]) -> Row:
    """One stored line as a row of `CALLBACKS_STREAM`. Raises `UnreadableError`."""
    try:
        fields = parse_xml(str(line["xml"]).encode())
        received = datetime.fromisoformat(str(line["received_at"]))
    except (CallbackError, KeyError, ValueError) as error:
        raise UnreadableError(f"not a stored callback: {error}", "xml") from error
    fields.pop("WelcomeCode", None)  # lets its holder greet the customer; of no use to data
    return {
        "callback_id": text(line.get("callback_id")),
        "corpid": text(line.get("corpid")),
        "agentid": text(line.get("agentid")),
        "received_at": received,
        "happened_at": instant(fields.get("CreateTime") or fields.get("TimeStamp")),
        "event": text(fields.get("Event")) or text(fields.get("InfoType")),
        "fields": orjson.dumps(fields).decode(),
        **{column: text(fields.get(name)) for column, name in _TEXTS.items()},
        **{column: integer(fields.get(name)) for column, name in _NUMBERS.items()},
    }


def read_callbacks(folder: Path, corpid: str, state: Mapping[str, Any]) -> Iterator[Batch]:
    """A batch per closed segment of *folder* not read yet, in the order of closing; rows of other corps are left out.

    State: `{"read": [names]}`, the files of the last ten minutes before the newest one read. Older ones are known to
    be read; within those minutes two collectors may close their files in another order than they are named.
    """
    read = sorted(str(name) for name in state.get("read", ()))
    for path in sorted(folder.glob("*.jsonl")):
        if not _SEGMENT_NAME.match(path.name) or was_read(path.name, read):
            continue
        read = sorted({*read, path.name})
        read = [name for name in read if name >= _floor(read[-1])]
        yield _segment(path, corpid, {"read": read})


def was_read(name: str, read: Sequence[str]) -> bool:
    """Whether the segment called *name* has been read, by the names in a state."""
    return name in read or (bool(read) and name < _floor(max(read)))


def _floor(name: str) -> str:
    """The lowest file name that may still turn up once *name* has."""
    stamp = datetime.strptime(name.split("-")[0], _STAMP).replace(tzinfo=UTC)
    return (stamp - _OVERLAP).strftime(_STAMP)


def _segment(path: Path, corpid: str, state: Mapping[str, Any]) -> Batch:
    rows: list[Row] = []
    rejects: list[Reject] = []
    with path.open("rb") as lines:
        for number, raw in enumerate(lines, start=1):
            try:
                line = orjson.loads(raw)
                if line.get("corpid") == corpid:
                    rows.append(callback_row(line))
            except UnreadableError as error:
                rejects.append(Reject(error.reason, raw.decode("utf-8", "replace"), number, error.column))
            except (orjson.JSONDecodeError, AttributeError):
                rejects.append(Reject("expected one JSON object a line", raw.decode("utf-8", "replace"), number))
    schema = {column.name: POLARS_TYPES[column.type] for column in CALLBACKS_STREAM.columns}
    frame = pl.DataFrame(rows, schema=schema) if rows else pl.DataFrame(schema=schema)
    return Batch(CALLBACKS_STREAM.name, frame, state=state, rejects=tuple(rejects), source_file=path.name)
