"""Bytes of a request to JSON values, within limits: base64, gzip, form fields, forgiving JSON. Pure."""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import orjson

# orjson turns integers past 64 bits into floats; ids are never cut, so such texts take the slower, exact way.
_LONG_NUMBER = re.compile(rb"\d{19}")

_BASE64_REPAIRS = str.maketrans({" ": "+", "-": "+", "_": "/", "\n": None, "\r": None})

Code = Literal["malformed", "too_large", "encrypted", "unsupported", "forbidden", "unauthorized"]
STATUS: dict[Code, int] = {
    "malformed": 400,
    "encrypted": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "too_large": 413,
    "unsupported": 415,
}


class BodyError(Exception):
    """The whole body is unreadable or refused. The message says what was expected; it quotes nothing of the body."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code: Code = code
        self.message = message

    @property
    def status(self) -> int:
        return STATUS[self.code]


@dataclass(frozen=True)
class Limits:
    """Sizes in bytes: body as it came, body unpacked, one event."""

    body: int
    unpacked: int
    event: int


@dataclass(frozen=True)
class Refused:
    """One item of a batch that is not kept as an event. *index* counts from 0; *raw* is the item as JSON."""

    index: int
    reason: str
    raw: bytes


@dataclass(frozen=True)
class Received:
    """What one request brought: *lines* (whole JSON lines, ready to append), how many, and what was refused."""

    lines: bytes
    count: int
    refused: tuple[Refused, ...] = field(default_factory=tuple)


def gunzip(data: bytes, limit: int) -> bytes:
    """Unpack gzip or zlib *data*. Raises `BodyError` when it is neither, torn, or larger than *limit* unpacked."""
    unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
    try:
        result = unpacker.decompress(data, limit + 1)
    except zlib.error as error:
        raise BodyError("malformed", "the body is marked as gzip but cannot be unpacked") from error
    if len(result) > limit:
        raise BodyError("too_large", f"the body unpacks to more than {limit} bytes")
    if not unpacker.eof:
        raise BodyError("malformed", "the gzip body ends early")
    return result


def unbase64(text: str) -> bytes:
    """Decode base64, also the URL-safe alphabet, without padding, or with `+` turned into a space on the way."""
    plain = text.translate(_BASE64_REPAIRS).rstrip("=")
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise BodyError("malformed", "expected base64") from error


def loads(data: bytes) -> Any:
    """JSON of *data*; integers of any length stay exact, NaN and Infinity become null. Raises `BodyError`."""
    if not _LONG_NUMBER.search(data):
        try:
            return orjson.loads(data)
        except orjson.JSONDecodeError:
            pass  # the exact way below also takes NaN and halves of surrogate pairs, which real SDKs send
    try:
        return json.loads(data.decode("utf-8-sig"), parse_constant=lambda _: None, parse_float=_finite)
    except UnicodeDecodeError as error:
        raise BodyError("malformed", f"expected UTF-8 text, byte {error.start} is not") from error
    except json.JSONDecodeError as error:
        raise BodyError("malformed", f"expected JSON: {error.msg} at character {error.pos}") from error
    except ValueError as error:
        raise BodyError("malformed", "expected JSON: a number is too long") from error
    except RecursionError as error:
        raise BodyError("malformed", "the JSON is nested too deeply") from error


def _finite(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None


def dumps(value: Any) -> bytes:
    """*value* as compact UTF-8 JSON on one line; halves of surrogate pairs become `?`."""
    try:
        return orjson.dumps(value)
    except TypeError:  # an integer past 64 bits, or half a surrogate pair
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def accept(items: Sequence[Any], read: Callable[[Any], Mapping[str, Any]], *, limit: int) -> Received:
    """Each of *items* through *read* to a line; one *read* raises `ValueError` on, or over *limit*, is refused.

    Raises `BodyError` when one is nested too deeply to be written down at all.
    """
    lines: list[bytes] = []
    refused: list[Refused] = []
    try:
        for index, item in enumerate(items):
            try:
                line = dumps(read(item))
                if len(line) > limit:
                    raise ValueError(f"the event has {len(line)} bytes; the limit is {limit}")
                lines.append(line)
            except ValueError as error:
                refused.append(Refused(index, str(error), dumps(item)))
    except RecursionError as error:
        raise BodyError("malformed", "an event is nested too deeply") from error
    return Received(b"".join(line + b"\n" for line in lines), len(lines), tuple(refused))


def java_hash(text: str) -> int:
    """`String.hashCode()` of *text*: the `crc` SDKs send along with their base64 text (signed 32 bits)."""
    units = np.frombuffer(text.encode("utf-16-le", "surrogatepass"), dtype="<u2").astype(np.uint32)
    powers = np.ones(len(units), dtype=np.uint32)
    if len(units) > 1:
        powers[1:] = 31
        powers = np.cumprod(powers, dtype=np.uint32)[::-1]
    return int(np.sum(units * powers, dtype=np.uint32).astype(np.int32)) if len(units) else 0
