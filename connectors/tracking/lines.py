"""What all tracking logs share: finding the files, and handing each to landing as plain UTF-8 lines.

Logs come plain, gzipped, with a byte order mark, in GB18030, or as one JSON array; anything but plain UTF-8 lines is
copied once into a temporary file. Each file is read once per content.
"""

from __future__ import annotations

import codecs
import gzip
import mmap
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import orjson
import polars as pl

from cdp.errors import CdpError, FatalError
from cdp.streams import Batch, JsonLines, SourceCheck, Stream
from connectors.files.discover import find, raise_all, unread
from connectors.registry import SourceContext
from connectors.sample import SAMPLE_ROWS, sample

_GZIP = b"\x1f\x8b"
_PROBE = 1 << 16
Expand = Callable[[Mapping[str, Any]], list[Any]]


class LinesConnector:
    """A tracking source: one append stream out of line files. *expand*: one line that holds several records, split."""

    def __init__(
        self,
        context: SourceContext,
        stream: Stream,
        fields: Mapping[str, str],
        known: tuple[str, ...],
        expand: Expand | None = None,
    ) -> None:
        self.context, self.stream, self.fields, self.known, self.expand = context, stream, fields, known, expand

    def streams(self) -> tuple[Stream, ...]:
        return (self.stream,)

    def pull(self, stream: Stream, state: Mapping[str, Any]) -> Iterator[Batch | JsonLines]:
        """One `JsonLines` a file. A file that landing refuses (thrown in here) is left out and told at the end."""
        faults: dict[str, CdpError] = {}
        for found in unread(self.context.settings.path, self.context.root, state, failed=faults, forget=True):
            try:
                with plain_lines(found.path, self.expand) as path:
                    yield JsonLines(stream.name, path, self.fields, found.state, self.known, found.name)
            except FatalError as error:
                faults[found.name] = error
        raise_all(faults)

    def check(self) -> SourceCheck:
        try:
            files = find(self.context.settings.path, self.context.root)
        except CdpError as error:
            return SourceCheck(False, (("files", False, error.message),))
        steps = [("files", True, f"{len(files)} found")]
        if not files:
            return SourceCheck(True, (*steps, ("sample", True, "nothing to read yet")))
        try:
            with plain_lines(files[0], self.expand) as path:
                rows = _head(path)
        except CdpError as error:
            return SourceCheck(False, (*steps, (files[0].name, False, error.message)))
        ok = bool(rows) or files[0].stat().st_size == 0
        told = f"{len(rows)} of the first {SAMPLE_ROWS} lines are JSON objects"
        frame = pl.DataFrame(
            {name: [_cell(row.get(key)) for row in rows] for name, key in self.fields.items() if key != "_line"},
            schema={name: pl.String() for name, key in self.fields.items() if key != "_line"},
        )
        return SourceCheck(ok, (*steps, (files[0].name, ok, told)), sample(frame, self.stream))


@contextmanager
def plain_lines(path: Path, expand: Expand | None) -> Iterator[Path]:
    """*path* itself where it is plain UTF-8 lines, else a temporary copy that is."""
    with _opened(path) as handle:
        head = handle.read(_PROBE)
    encoding = _encoding(head)
    body = head.decode(encoding or "utf-8", "replace").lstrip("\ufeff \t\r\n")
    array = body.startswith("[")
    batched = expand is not None and (_expands(body, expand) or _mentions_batches(path))
    if not (_is_zipped(path) or encoding or array or batched):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="cdp-lines-") as folder:
        copy = Path(folder) / "lines.jsonl"
        with _opened(path) as source, copy.open("wb") as target:
            _copy(source, target, encoding, path)
        if array:
            _split_array(copy, path)
        if batched and expand is not None:
            _expand_lines(copy, expand)
        yield copy


def _expands(body: str, expand: Expand) -> bool:
    return len(_expanded(body.split("\n", 1)[0], expand)) > 0


def _mentions_batches(path: Path) -> bool:
    """Whether a line further down may be a batch: a copy too many costs time, a batch taken for one message is lost."""
    if path.stat().st_size == 0:
        return False
    with path.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(b'"batch"') >= 0


def _is_zipped(path: Path) -> bool:
    with path.open("rb") as handle:
        return handle.read(2) == _GZIP


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    with path.open("rb") as plain:
        if not _is_zipped(path):
            yield plain
            return
        with gzip.open(plain) as handle:
            try:
                yield handle  # type: ignore[misc]
            except (EOFError, OSError) as error:
                raise FatalError(
                    f"{path.name}: the gzip file is cut short or damaged", hint="copy or export it again"
                ) from error


def _encoding(head: bytes) -> str | None:
    """The encoding to decode from, None for plain UTF-8 without a mark (single bad lines are landing's to reject)."""
    if head.startswith(codecs.BOM_UTF8):
        return "utf-8-sig"
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if _decodes(head, "utf-8"):
        return None
    return "gb18030" if _decodes(head, "gb18030") else None


def _decodes(head: bytes, encoding: str) -> bool:
    try:
        codecs.getincrementaldecoder(encoding)().decode(head)
    except UnicodeDecodeError:
        return False
    return True


def _copy(source: BinaryIO, target: BinaryIO, encoding: str | None, path: Path) -> None:
    if encoding is None:
        shutil.copyfileobj(source, target, 1 << 20)
        return
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        while block := source.read(1 << 20):
            target.write(decoder.decode(block).encode())
        target.write(decoder.decode(b"", final=True).encode())
    except UnicodeDecodeError as error:
        raise FatalError(
            f"{path.name}: neither UTF-8 nor {encoding} (byte {error.start})", hint="save the file as UTF-8"
        ) from error


def _split_array(copy: Path, path: Path) -> None:
    try:
        rows = orjson.loads(copy.read_bytes())
    except orjson.JSONDecodeError:
        return  # not one array after all: landing judges it line by line
    if not isinstance(rows, list):
        raise FatalError(f"{path.name}: expected one JSON object a line, found a JSON array of something else")
    copy.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))


def _expanded(line: str | bytes, expand: Expand) -> list[Any]:
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        return []
    return expand(value) if isinstance(value, dict) else []


def _expand_lines(copy: Path, expand: Expand) -> None:
    expanded = copy.with_suffix(".expanded")
    with copy.open("rb") as source, expanded.open("wb") as target:
        for line in source:
            parts = _expanded(line, expand)
            target.write(b"".join(orjson.dumps(part) + b"\n" for part in parts) if parts else line)
    expanded.replace(copy)


def _head(path: Path) -> list[dict[str, Any]]:
    rows = []
    with path.open("rb") as handle:
        for _, line in zip(range(SAMPLE_ROWS), handle, strict=False):
            try:
                value = orjson.loads(line)
            except orjson.JSONDecodeError:
                continue
            if isinstance(value, dict):
                rows.append(value)
    return rows


def _cell(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return orjson.dumps(value).decode()
