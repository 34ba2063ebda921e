"""Bytes of a file to frames of text columns: CSV in any usual encoding, XLSX, Parquet, JSONL.

CSV and XLSX cells are text, exactly as they stand; Parquet and JSONL keep their types. Every frame has `_row_number`:
the line of the file, or the row for formats without lines. Rows that do not fit the header are rejects.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import fastexcel
import numpy as np
import orjson
import polars as pl

from cdp.errors import FatalError
from cdp.streams import Reject
from connectors.settings import FileStream

CHUNK_ROWS = 200_000
_BLOCK, _ROWS_BLOCK = 1 << 20, 1 << 24
_SUFFIXES = {
    ".csv": "csv",
    ".txt": "csv",
    ".tsv": "csv",
    ".xlsx": "xlsx",
    ".xlsm": "xlsx",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".log": "jsonl",
}
_SEPARATORS = (",", "\t", ";", "|")
_BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))


@dataclass(frozen=True)
class Part:
    """Some rows of a file. *last*: no more of it follows."""

    frame: pl.DataFrame
    rejects: tuple[Reject, ...] = ()
    last: bool = True


@dataclass(frozen=True)
class Text:
    """A text file as UTF-8 without a mark. *encoding*: what it was."""

    path: Path
    encoding: str


def read(path: Path, settings: FileStream, *, name: str) -> Iterator[Part]:
    """The rows of *path*, in parts of bounded size. Raises `FatalError` when the file cannot be read at all."""
    with tempfile.TemporaryDirectory(prefix="cdp-text-") as folder:
        plain = _unzipped(path, Path(folder), name)
        kind = settings.format if settings.format != "auto" else format_of(plain, name)
        if kind == "xlsx":
            yield _read_xlsx(plain, settings, name)
        elif kind == "parquet":
            yield from _read_parquet(plain, name)
        else:
            text = as_utf8(plain, settings.encoding, Path(folder), name)
            yield from _read_jsonl(text) if kind == "jsonl" else _read_csv(text, settings, name)


@dataclass(frozen=True)
class Top:
    """The first rows of a text file or of one sheet, to find the header in. *rows*: (rows or lines above it, cells)."""

    sheet: str | None
    delimiter: str | None
    rows: tuple[tuple[int, list[str]], ...]


def tops(path: Path, *, name: str, rows: int = 20) -> list[Top]:
    """The top of a file, sheet by sheet; empty rows are left out. Raises `FatalError` when it cannot be read at all."""
    with tempfile.TemporaryDirectory(prefix="cdp-text-") as folder:
        plain = _unzipped(path, Path(folder), name)
        kind = format_of(plain, name)
        if kind == "xlsx":
            return _workbook_tops(plain, name, rows)
        if kind == "csv":
            return [_text_top(as_utf8(_head(plain, Path(folder)), "auto", Path(folder), name).path, rows)]
    part = next(read(path, FileStream.model_validate({"path": str(path)}), name=name))
    return [Top(None, None, ((0, [column for column in part.frame.columns if column != "_row_number"]),))]


def _head(path: Path, folder: Path) -> Path:
    """The first lines of a large text file as a file of their own: its top needs no more of it decoded."""
    with path.open("rb") as handle:
        block = handle.read(_BLOCK)
    whole_lines = block[: block.rfind(b"\n") + 1]
    if len(block) < _BLOCK or not whole_lines or b"\x00" in block:  # the lines of UTF-16 do not end in a single byte
        return path
    head = folder / "head"
    head.write_bytes(whole_lines)
    return head


def _workbook_tops(path: Path, name: str, rows: int) -> list[Top]:
    book = _workbook(path, name)
    found = []
    for sheet in book.sheet_names:
        grid = book.load_sheet(sheet, header_row=None, skip_rows=0, n_rows=rows, dtypes="string").to_polars()
        cells = [[cell or "" for cell in row] for row in grid.iter_rows()]
        found.append(Top(sheet, None, tuple((above, row) for above, row in enumerate(cells) if any(row))))
    return found


def _text_top(path: Path, rows: int) -> Top:
    """A title above the header has no separators: the separator is the one that splits any of the lines into most."""
    with path.open(encoding="utf-8", newline="") as handle:
        lines = [line for _, line in zip(range(rows), handle, strict=False)]
    delimiter = max(_SEPARATORS, key=lambda mark: max((line.count(mark) for line in lines), default=0))
    found, above = [], 0
    with path.open(encoding="utf-8", newline="") as handle:
        reader = csv.reader(handle, delimiter=delimiter)
        try:
            for cells in reader:
                if any(cell.strip() for cell in cells):
                    found.append((above, cells))
                above = reader.line_num
                if above >= rows:
                    break
        except csv.Error:
            pass  # what was read until here has the header in it, or there is none
    return Top(None, delimiter, tuple(found))


def _unzipped(path: Path, folder: Path, name: str) -> Path:
    """*path* itself, or the content of a gzip file in *folder*."""
    with path.open("rb") as handle:
        if handle.read(2) != b"\x1f\x8b":
            return path
    target = folder / "unzipped"
    try:
        with gzip.open(path) as source, target.open("wb") as copy:
            shutil.copyfileobj(source, copy, _BLOCK)
    except (EOFError, OSError) as error:
        raise FatalError(f"{name}: the gzip file is cut short or damaged", hint="copy or export it again") from error
    return target


def encoding_of(path: Path) -> str:
    """What a person is told of a file's text: its encoding, or its format where it is no text."""
    with tempfile.TemporaryDirectory(prefix="cdp-text-") as folder:
        plain = _unzipped(path, Path(folder), path.name)
        kind = format_of(plain, path.name)
        return as_utf8(plain, "auto", Path(folder), path.name).encoding if kind in ("csv", "jsonl") else kind


def format_of(path: Path, name: str) -> str:
    """The format by the first bytes, else by the suffix: exports lie about their suffix."""
    with path.open("rb") as handle:
        head = handle.read(4)
    if head == b"PAR1":
        return "parquet"
    if head[:2] == b"PK":
        return "xlsx"
    if head == b"\xd0\xcf\x11\xe0":
        raise FatalError(f"{name}: an old .xls workbook", hint="save it as .xlsx or CSV and try again")
    suffixes = [suffix.lower() for suffix in Path(name).suffixes if suffix.lower() != ".gz"]
    kind = _SUFFIXES.get(suffixes[-1] if suffixes else "", "")
    if not kind:
        raise FatalError(f"{name}: cannot tell its format by its name", hint="give `format:` in config/sources.yaml")
    return kind


# -- text ------------------------------------------------------------------------------------------------------------


def as_utf8(path: Path, encoding: str, folder: Path, name: str) -> Text:
    """*path* where it is plain UTF-8, else a copy in *folder*. Tried: mark, strict UTF-8, strict GB18030, UTF-16.

    Raises `FatalError` when none fits: a file half in one encoding and half in another is not guessed at.
    """
    with path.open("rb") as handle:
        head = handle.read(_BLOCK)
    for bom, marked in _BOMS:
        if head.startswith(bom):
            return _transcoded(path, marked, folder, name, skip=len(bom))
    if encoding != "auto":
        return Text(path, "utf-8") if encoding == "utf-8" and _is(path, "utf-8") else _transcoded(
            path, encoding, folder, name
        )  # fmt: skip
    if _looks_utf16(head):
        return _transcoded(path, _looks_utf16(head), folder, name)
    if _is(path, "utf-8"):
        return Text(path, "utf-8")
    return _transcoded(path, "gb18030", folder, name)


def _looks_utf16(head: bytes) -> str:
    """UTF-16 without a mark shows as a zero in every other byte of ASCII, which no other text encoding has."""
    if b"\x00" not in head[:4096]:
        return ""
    even, odd = head[:4096:2].count(0), head[1:4096:2].count(0)
    return "utf-16-le" if odd > even else "utf-16-be"


def _is(path: Path, encoding: str) -> bool:
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        with path.open("rb") as handle:
            while block := handle.read(_BLOCK):
                decoder.decode(block)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def _transcoded(path: Path, encoding: str, folder: Path, name: str, skip: int = 0) -> Text:
    decoder, place = codecs.getincrementaldecoder(encoding)(), skip
    target = folder / "text.utf8"
    try:
        with path.open("rb") as source, target.open("wb") as copy:
            source.seek(skip)
            while block := source.read(_BLOCK):
                copy.write(decoder.decode(block).encode())
                place += len(block)
            copy.write(decoder.decode(b"", final=True).encode())
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        raise FatalError(
            f"{name}: not text in UTF-8, GB18030 or UTF-16 (tried {encoding}; bytes near {place} do not fit)",
            hint="save the file as CSV UTF-8 and try again; a file of mixed encodings has to be mended by hand",
        ) from error
    return Text(target, encoding)


# -- CSV -------------------------------------------------------------------------------------------------------------


def _read_csv(text: Text, settings: FileStream, name: str) -> Iterator[Part]:
    if text.path.stat().st_size == 0:
        yield Part(pl.DataFrame(schema={"_row_number": pl.Int64()}))
        return
    delimiter = settings.delimiter or sniff_delimiter(text.path, settings.skip_rows)
    given = settings.header if isinstance(settings.header, list) else None
    names, above = (given, settings.skip_rows) if given else _header(text.path, delimiter, settings.skip_rows)
    names = unique_names(names, name)
    yield from _with_last(_read_rows(text.path, delimiter, names, above), names)


def sniff_delimiter(path: Path, skip: int = 0) -> str:
    """The separator that splits the first line into most cells; a comma when none does."""
    with path.open(encoding="utf-8", newline="") as handle:
        line = next((line for place, line in enumerate(handle) if place >= skip and line.strip()), "")
    counts = {mark: line.count(mark) for mark in _SEPARATORS}
    best = max(counts, key=lambda mark: counts[mark])
    return best if counts[best] else ","


def _header(path: Path, delimiter: str, skip: int) -> tuple[list[str], int]:
    """The header's cells, and the lines it ends after."""
    with path.open(encoding="utf-8", newline="") as handle:
        for _ in range(skip):
            next(handle, None)
        if delimiter == "whitespace":
            return next(handle, "").split(), skip + 1
        reader = csv.reader(handle, delimiter=delimiter)
        for row in reader:
            if any(cell.strip() for cell in row):
                return row, skip + reader.line_num
    return [], skip


def unique_names(cells: Sequence[str], name: str) -> list[str]:
    """Header cells as column names, trimmed: one that stands twice becomes `名#1`, `名#2`, a blank one `column_3`.

    Raises `FatalError` on a header without any name.
    """
    names = [cell.strip().strip("\ufeff\u200b\u3000\t ") for cell in cells]
    if not any(names):
        raise FatalError(f"{name}: the header is empty", hint="give the names in `header:`, or `skip_rows:` above it")
    names = [cell or f"column_{place}" for place, cell in enumerate(names, start=1)]
    seen: dict[str, int] = {}
    result = []
    for cell in names:
        seen[cell] = seen.get(cell, 0) + 1
        result.append(f"{cell}#{seen[cell]}" if names.count(cell) > 1 else cell)
    return result


def _read_rows(path: Path, delimiter: str, names: list[str], above: int) -> Iterator[Part]:
    """Block by block while that is exact; from the first block on where it is not, row by row."""
    for block in _blocks(path, above):
        rows = _regular(block, delimiter, len(names))
        frame = None if rows is None else _read_fast(block, delimiter, names)
        if rows is None or frame is None or frame.height != rows:
            yield from _read_exactly(path, delimiter, names, above)
            return
        yield from _parts(_numbered(frame, above + 1))
        above += rows


def _blocks(path: Path, above: int) -> Iterator[bytes]:
    """The bytes of a file behind *above* lines, cut at ends of lines; what is short stays with those before."""
    left = path.stat().st_size
    with path.open("rb") as handle:
        for _ in range(above):
            handle.readline()
        while block := handle.read(_ROWS_BLOCK if left - handle.tell() > _ROWS_BLOCK * 3 // 2 else -1):
            if handle.tell() < left:
                block += handle.readline()
            yield block


def _regular(block: bytes, delimiter: str, width: int) -> int | None:
    """The number of rows, where every row has as many separators as the header has and every quote closes; else None.

    Then, and only then, the fast reader is exact. A byte is inside quotes after an odd number of quotes.
    """
    if len(delimiter) != 1:
        return None
    told = f'{delimiter}"\n'.encode()
    cells = np.frombuffer(block.translate(None, bytes(sorted({*range(256)} - {*told}))), dtype=np.uint8)
    marks, quotes, ends = (cells == mark for mark in told)
    inside = np.cumsum(quotes, dtype=np.int32) % 2 == 1
    if inside[ends].any() or (len(inside) and inside[-1]):
        return None  # a line break inside quotes, or a quote that never closes
    before = np.cumsum(marks & ~inside, dtype=np.int32)
    at_ends = before[ends] if block.endswith(b"\n") else np.append(before[ends], before[-1:])
    return None if (np.diff(at_ends, prepend=0) != width - 1).any() else len(at_ends)


def _read_fast(block: bytes, delimiter: str, names: list[str]) -> pl.DataFrame | None:
    try:
        return pl.read_csv(block, separator=delimiter, has_header=False, schema=dict.fromkeys(names, pl.String()))
    except pl.exceptions.PolarsError:
        return None


def _read_exactly(path: Path, delimiter: str, names: list[str], above: int) -> Iterator[Part]:
    """Row by row: a row with more or fewer cells than the header, or with a quote that never closes, is a reject."""
    width, rows, numbers, rejects = len(names), [], [], []
    for number, cells, fault in _records(path, delimiter, above):
        if not cells and not fault:
            continue
        if not fault and len(cells) == width:
            rows.append(cells)
            numbers.append(number)
        elif not fault and len(cells) > width and not any(cells[width:]):
            rows.append(cells[:width])  # empty cells beyond the header: a trailing separator
            numbers.append(number)
        else:
            told = fault or f"row has {len(cells)} cells, the header has {width}"
            rejects.append(Reject(told, delimiter_join(cells, delimiter), number))
        if len(rows) >= CHUNK_ROWS:
            yield Part(_text_frame(rows, numbers, names), tuple(rejects), last=False)
            rows, numbers, rejects = [], [], []
    yield Part(_text_frame(rows, numbers, names), tuple(rejects))


def _records(path: Path, delimiter: str, above: int) -> Iterator[tuple[int, list[str], str | None]]:
    """(line the record starts on, cells, fault)."""
    with path.open(encoding="utf-8", newline="") as handle:
        for _ in range(above):
            next(handle, None)
        if delimiter == "whitespace":
            for number, line in enumerate(handle, start=above + 1):
                yield number, line.split(), None
            return
        reader = csv.reader(handle, delimiter=delimiter, strict=False)
        start = above + 1
        while True:
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield start, [], f"not readable as CSV: {error}"
                start = above + reader.line_num + 1
                continue
            unclosed = reader.line_num + above > start + 500
            yield start, cells, "a quote opens here and does not close within 500 lines" if unclosed else None
            start = above + reader.line_num + 1


def delimiter_join(cells: Sequence[str], delimiter: str) -> str:
    """Cells as one CSV line again, for a reject's raw text."""
    text = io.StringIO()
    csv.writer(text, delimiter="," if delimiter == "whitespace" else delimiter, lineterminator="").writerow(cells)
    return text.getvalue()


def _text_frame(rows: list[list[str]], numbers: list[int], names: list[str]) -> pl.DataFrame:
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(names)
    frame = pl.DataFrame([pl.Series(name, cells, dtype=pl.String) for name, cells in zip(names, columns, strict=True)])
    return frame.with_columns(pl.Series("_row_number", numbers, dtype=pl.Int64))


# -- XLSX, Parquet, JSONL --------------------------------------------------------------------------------------------


def _workbook(path: Path, name: str) -> fastexcel.ExcelReader:
    try:
        return fastexcel.read_excel(path)
    except Exception as error:
        size = path.stat().st_size
        told = "the file is empty (0 bytes)" if size == 0 else str(error).splitlines()[0][:200]
        raise FatalError(
            f"{name}: not a readable XLSX workbook: {told}", hint="open it in Excel or WPS and save it again as .xlsx"
        ) from error


def _read_xlsx(path: Path, settings: FileStream, name: str) -> Part:
    book = _workbook(path, name)
    sheet = settings.sheet if settings.sheet is not None else 0
    try:
        loaded = book.load_sheet(sheet, header_row=None, skip_rows=settings.skip_rows, dtypes="string")
        grid = loaded.to_polars()
    except Exception as error:
        raise FatalError(
            f"{name}: sheet `{sheet}` cannot be read: {str(error).splitlines()[0][:200]}",
            hint=f"its sheets are: {', '.join(book.sheet_names)}",
        ) from error
    if isinstance(settings.header, list):
        names, body, first = settings.header, grid, 1 + settings.skip_rows
    elif grid.height == 0:
        return Part(pl.DataFrame(schema={"_row_number": pl.Int64()}))
    else:
        names, body, first = [cell or "" for cell in grid.row(0)], grid.slice(1), 2 + settings.skip_rows
    names = unique_names(names, name)
    body = _destroyed_shown(body, book, sheet, first - 1)
    body = _numbered(body.rename(dict(zip(body.columns, names, strict=True))), first)
    return Part(body.filter(~pl.all_horizontal(pl.col(names).is_null())))


def _destroyed_shown(body: pl.DataFrame, book: Any, sheet: str | int, above: int) -> pl.DataFrame:
    """Numbers past fifteen digits as `6.91793E+18`: a workbook keeps no more of them, so as ids they are destroyed.

    Read as text they would look whole. Only a column of nothing but numbers is sure to hold numbers.
    """
    long = [name for name in body.columns if body[name].str.contains(r"^\d{16,}$").any()]
    if not long:
        return body
    native = book.load_sheet(sheet, header_row=None, skip_rows=above).to_polars()
    changes = []
    for name in long:
        numbers = native[native.columns[body.columns.index(name)]]
        if numbers.dtype.is_numeric() and len(numbers) == body.height:
            shown = [f"{value:.5E}" if value is not None and abs(value) >= 1e15 else None for value in numbers]
            text = pl.Series(name, shown, dtype=pl.String)
            changes.append(text.to_frame("a").with_columns(b=body[name]).select(pl.coalesce("a", "b").alias(name)))
    return body.with_columns([change.to_series() for change in changes])


def _read_parquet(path: Path, name: str) -> Iterator[Part]:
    try:
        whole = pl.read_parquet(path)
    except Exception as error:
        raise FatalError(
            f"{name}: not a readable Parquet file: {str(error).splitlines()[0][:200]}", hint="is it cut short?"
        ) from error
    yield from _parts(_numbered(whole, 1))


def _read_jsonl(text: Text) -> Iterator[Part]:
    """One JSON object a line; nested values become JSON text. A line that is no object is a reject."""
    rows: list[dict[str, Any]] = []
    numbers: list[int] = []
    rejects: list[Reject] = []
    with text.path.open("rb") as handle:
        for number, line in enumerate(handle, start=1):
            if not line.strip():
                continue
            row = _json_row(line)
            if isinstance(row, str):
                rejects.append(Reject(row, line.decode("utf-8", "replace").rstrip("\r\n"), number))
                continue
            rows.append(row)
            numbers.append(number)
            if len(rows) >= CHUNK_ROWS:
                yield Part(_json_frame(rows, numbers), tuple(rejects), last=False)
                rows, numbers, rejects = [], [], []
    yield Part(_json_frame(rows, numbers), tuple(rejects))


def _json_row(line: bytes) -> dict[str, Any] | str:
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError:
        return "line is not valid JSON"
    return row if isinstance(row, dict) else "line is not a JSON object"


def _json_frame(rows: list[dict[str, Any]], numbers: list[int]) -> pl.DataFrame:
    names = list(dict.fromkeys(key for row in rows for key in row))
    columns = [pl.Series(key, [_json_cell(row.get(key)) for row in rows], dtype=pl.String) for key in names]
    return pl.DataFrame([*columns, pl.Series("_row_number", numbers, dtype=pl.Int64)])


def _json_cell(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return orjson.dumps(value).decode()


def _numbered(frame: pl.DataFrame, first: int) -> pl.DataFrame:
    return frame.with_columns(pl.int_range(first, first + pl.len(), dtype=pl.Int64).alias("_row_number"))


def _with_last(parts: Iterator[Part], names: Sequence[str]) -> Iterator[Part]:
    """*parts*, the last of them and no other one told as the last; a file without rows is one part too."""
    held: Part | None = None
    for part in parts:
        if held is not None:
            yield replace(held, last=False)
        held = part
    if held is None:
        held = Part(_text_frame([], [], list(names)))
    yield replace(held, last=True)


def _parts(frame: pl.DataFrame) -> Iterator[Part]:
    pieces = max(1, -(-frame.height // CHUNK_ROWS))
    for piece in range(pieces):
        yield Part(frame.slice(piece * CHUNK_ROWS, CHUNK_ROWS), last=piece == pieces - 1)
