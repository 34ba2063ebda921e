"""Line files (one JSON object a line) read in one streaming pass, in bounded memory.

DuckDB parses, on all cores; each chunk of rows then gets its digests, loses what landed before or cannot land, and is
written, while the next one is parsed. So a line is parsed and written once, whether or not the file holds broken lines
or ones delivered before. The digest of a whole line is taken of its bytes in the file, beside the parser.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from cdp.ahead import ahead
from cdp.errors import FatalError
from cdp.streams import Column, JsonLines, Reject, Stream
from warehouse.landing_digests import Digests, digests, digests_of

# Larger than any honest event; a line beyond it is an error that names the file.
MAX_LINE_BYTES = 64 * 1024 * 1024
CHUNK_ROWS = 100_000
_SQL_TYPES = {
    "text": "varchar",
    "json": "varchar",
    "int": "bigint",
    "float": "double",
    "decimal": "decimal(18, 2)",
    "bool": "boolean",
    "timestamp": "timestamptz",
    "date": "date",
}
# A field `messageId|_line` is that key where the line has it, else the hash of the whole line.
OR_LINE = "|_line"
_WORKING = ("_key", "_news", "_reject")  # what a chunk carries beside the columns that land
_BLOCK = 8 * 1024 * 1024
_DICTIONARY_ROWS, _DICTIONARY_VALUES = 2_000, 500

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class LinesResult:
    """*path*: the finished but not yet renamed Parquet file. received = landed + duplicates + len(rejects)."""

    path: Path
    received: int
    landed: int
    duplicates: int
    rejects: tuple[Reject, ...]
    drift: tuple[str, ...]

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)


class KnownKeys:
    """The digests of what has landed, as two sorted arrays: a large one, and a small one of what came lately."""

    def __init__(self, keys: Digests) -> None:
        self._old = np.sort(keys)
        self._late = keys[:0]

    def first_seen(self, keys: Digests) -> npt.NDArray[np.bool_]:
        """Which of *keys* are news, the first of equal ones; from now on all of them are known."""
        values, places = np.unique(keys, return_index=True)
        fresh = ~(_among(values, self._old) | _among(values, self._late))
        self._late = _merged(self._late, values[fresh])
        if len(self._late) * 8 > len(self._old):
            self._old, self._late = _merged(self._old, self._late), self._late[:0]
        news = np.zeros(len(keys), dtype=np.bool_)
        news[places[fresh]] = True
        return news


def _among(values: Digests, known: Digests) -> npt.NDArray[np.bool_]:
    if not len(known):
        return np.zeros(len(values), dtype=np.bool_)
    places = np.minimum(np.searchsorted(known, values), len(known) - 1)
    found: npt.NDArray[np.bool_] = known[places] == values
    return found


def _merged(left: Digests, right: Digests) -> Digests:
    """Two sorted arrays as one; the stable sort of NumPy merges runs that are sorted already."""
    return np.sort(np.concatenate([left, right]), kind="stable")


def read_lines(
    con: duckdb.DuckDBPyConnection,
    lines: JsonLines,
    stream: Stream,
    target: Path,
    constants: Mapping[str, Any],
    known: KnownKeys,
) -> LinesResult:
    """Read *lines* into a file beside *target*. *constants*: metadata columns that are the same for every row.

    *known* knows the keys that landed before, and afterwards those of this file too. Raises `FatalError` when the
    file is no text of lines, or when a line of it was not read.
    """
    name = lines.source_file or str(lines.path)
    temporary = target.with_name(f".{target.name}.tmp")
    run = _Run(temporary, _Lines(lines.path), dict(constants), known)
    try:
        with run:
            for chunk in ahead(_chunks(con, lines, stream)):
                run.take(chunk)
        run.check_all_read()
    except (duckdb.Error, pa.ArrowException) as error:
        temporary.unlink(missing_ok=True)
        raise FatalError(
            f"{name}: cannot be read as JSON lines: {str(error).splitlines()[0]}",
            hint="expected UTF-8 text with one JSON object on each line",
        ) from error
    except _UnreadError as error:
        temporary.unlink(missing_ok=True)
        raise FatalError(f"{name}: {error}", hint="report this file's shape: nothing of it was landed") from None
    rejects = _rejects(run.faults, lines.path)
    duplicates = run.received - run.landed - len(rejects)
    return LinesResult(temporary, run.received, run.landed, duplicates, rejects, tuple(sorted(run.news)))


class _UnreadError(Exception):
    """The parser gave another number of rows than the file has lines."""


def _chunks(con: duckdb.DuckDBPyConnection, lines: JsonLines, stream: Stream) -> Iterator[pa.RecordBatch]:
    """The parsed lines in the order of the file. DuckDB reads ahead: parsing goes on while a chunk is written."""
    con.execute("set streaming_buffer_size = '64MB'")
    yield from con.sql(_parsing(lines, stream)).to_arrow_reader(CHUNK_ROWS)


@dataclass
class _Run:
    """One file on its way: what was read of it so far, and the Parquet file it becomes."""

    path: Path
    lines: _Lines
    constants: dict[str, Any]
    known: KnownKeys
    received: int = 0
    landed: int = 0
    faults: list[tuple[int, str]] = field(default_factory=list)
    news: set[str] = field(default_factory=set)
    writer: pq.ParquetWriter | None = None
    pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))
    writing: Future[None] | None = None

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        """Ends what is being written; a fault of it is raised."""
        try:
            if self.writing is not None:
                self.writing.result()
        finally:
            self.pool.shutdown()
            if self.writer is not None:
                self.writer.close()

    def take(self, chunk: pa.RecordBatch) -> None:
        numbers, whole = self.lines.take(chunk.num_rows)
        self.received += chunk.num_rows
        reasons = chunk.column("_reject")
        good = reasons.is_null().to_numpy(zero_copy_only=False)
        keys = _key_digests(chunk.column("_key"), whole)
        keep = good.copy()
        keep[good] = self.known.first_seen(keys[good])
        self.faults += [(int(numbers[place]), reasons[place].as_py()) for place in np.flatnonzero(~good)]
        self._note_news(chunk, good)
        rows = chunk.drop_columns(list(_WORKING))
        if not keep.all():
            rows, keys, numbers = rows.filter(pa.array(keep)), keys[keep], numbers[keep]
        if rows.num_rows:
            self._write(rows, keys, numbers)

    def check_all_read(self) -> None:
        """Raises where a line that holds something was not read, or one was read twice."""
        filled = self.received + self.lines.left()
        if filled != self.received:
            raise _UnreadError(f"{filled} lines hold something, yet {self.received} were read")

    def _note_news(self, chunk: pa.RecordBatch, good: npt.NDArray[np.bool_]) -> None:
        told = chunk.column("_news")
        if told.null_count < len(told):
            self.news |= {name for names in told.filter(pa.array(good)).to_pylist() for name in names or ()}

    def _write(self, rows: pa.RecordBatch, keys: Digests, numbers: Numbers) -> None:
        place = np.arange(self.landed + 1, self.landed + 1 + rows.num_rows)
        # A row that stands where its line stood needs no number: readers take its place in the file.
        told = None if np.array_equal(place, numbers) else numbers
        count = rows.num_rows
        more = {name: pa.repeat(pa.scalar(value), count) for name, value in self.constants.items()}
        more["_row_number"] = pa.nulls(count, pa.int64()) if told is None else pa.array(told, pa.int64())
        more["_row_hash"] = pa.nulls(count, pa.uint64())  # lines never change: the key says it all
        more["_key_hash"] = pa.array(keys)
        table = pa.table({**dict(zip(rows.schema.names, rows.columns, strict=True)), **more})
        if self.writer is None:
            self.writer = _writer(self.path, table)
        if self.writing is not None:
            self.writing.result()
        self.writing = self.pool.submit(self.writer.write_table, table, row_group_size=CHUNK_ROWS)
        self.landed += count


def _writer(path: Path, first: pa.Table) -> pq.ParquetWriter:
    """A dictionary is tried only for columns that repeat themselves: building one that is then thrown away is dear."""
    head = first.slice(0, _DICTIONARY_ROWS)
    repeating = [name for name in head.schema.names if len(head[name].unique()) <= _DICTIONARY_VALUES]
    return pq.ParquetWriter(path, first.schema, compression="zstd", compression_level=1, use_dictionary=repeating)


class _Lines:
    """The lines of a file that hold something, in order: their numbers from 1, and the digests of what they hold."""

    def __init__(self, path: Path) -> None:
        self._blocks = _filled_lines(path)
        self._numbers, self._digests = np.empty(0, np.int64), np.empty(0, np.uint64)

    def take(self, count: int) -> tuple[Numbers, Digests]:
        """Of the next *count* of them. Raises `_UnreadError` when there are fewer."""
        parts, there = [(self._numbers, self._digests)], len(self._numbers)
        while there < count and (block := next(self._blocks, None)) is not None:
            parts.append(block)
            there += len(block[0])
        if there < count:
            raise _UnreadError(f"{there} more lines hold something, yet {count} were read")
        numbers, found = (np.concatenate(cells) for cells in zip(*parts, strict=True))
        self._numbers, self._digests = numbers[count:], found[count:]
        return numbers[:count], found[:count]

    def left(self) -> int:
        return len(self._numbers) + sum(len(numbers) for numbers, _ in self._blocks)


def _filled_lines(path: Path) -> Iterator[tuple[Numbers, Digests]]:
    """Numbers and digests of the lines that are not blank, block by block; white space around a line is not its own."""
    first, cut = 1, b""
    with path.open("rb") as handle:
        while block := handle.read(_BLOCK):
            lines = (cut + block).split(b"\n")
            cut = lines.pop()
            yield _numbered(lines, first)
            first += len(lines)
    yield _numbered([cut], first)


def _numbered(lines: Sequence[bytes], first: int) -> tuple[Numbers, Digests]:
    held = list(map(bytes.strip, lines))
    numbers = np.arange(first, first + len(held))
    if b"" in held:
        numbers = numbers[np.fromiter(map(bool, held), np.bool_, len(held))]
        held = list(filter(None, held))
    return numbers, digests_of(held)


def _key_digests(keys: pa.Array, whole: Digests) -> Digests:
    """The digest of a line's own key, or of the whole line where it has none."""
    if keys.null_count == len(keys):
        return whole
    return np.where(keys.is_null().to_numpy(zero_copy_only=False), whole, digests(keys))


def _parsing(lines: JsonLines, stream: Stream) -> str:
    declared = [column for column in stream.columns if lines.fields.get(column.name, "_line") != "_line"]
    wanted = {
        lines.fields[column.name].removesuffix(OR_LINE): "JSON" if column.type == "json" else "VARCHAR"
        for column in declared
    }
    shape = json.dumps({**wanted, **dict.fromkeys(lines.known, "JSON")}, ensure_ascii=False)
    cells = [_cell(column, lines.fields) for column in stream.columns]
    return f"""
        select
            {", ".join(cells)},
            {_extra(list(wanted), lines.known)} as _extra,
            _news,
            {_reject(declared, lines.fields)} as _reject,
            {_key(stream, lines.fields)} as _key
        from (
            select *, {_news(list(wanted), lines.known)} as _news
            from (
                select json, from_json(json, {_literal(shape)}) as f
                from read_ndjson_objects(
                    {_literal(str(lines.path))}, ignore_errors = true, maximum_object_size = {MAX_LINE_BYTES},
                    compression = 'none'
                )
            )
        )
    """


def _cell(column: Column, fields: Mapping[str, str]) -> str:
    """One declared column out of the parsed line; what does not fit its type is null here and a reject below.

    A key that is the hash of the line is not written out: the raw view makes it of `_key_hash`.
    """
    kind = _SQL_TYPES[column.type]
    key = fields.get(column.name)
    if key is None or key == "_line":
        return f"cast(null as {kind}) as {_quoted(column.name)}"
    if key.endswith(OR_LINE):
        return f"nullif(f.{_quoted(key.removesuffix(OR_LINE))}, '') as {_quoted(column.name)}"
    value = f"f.{_quoted(key)}"
    if column.type == "json":
        value = f"cast({value} as varchar)"
    elif column.type != "text":
        value = f"try_cast({value} as {kind})"
    return f"{value} as {_quoted(column.name)}"


def _key(stream: Stream, fields: Mapping[str, str]) -> str:
    """A line's own key as one text, null where it has none and its content is its key."""
    names = [fields.get(name, "_line") for name in stream.key]
    if "_line" in names:
        return "cast(null as varchar)"
    cells = [f"f.{_quoted(name.removesuffix(OR_LINE))}" for name in names]
    if len(cells) == 1:
        return f"nullif({cells[0]}, '')"
    return f"concat_ws(chr(31), {', '.join(f'coalesce({cell}, chr(1))' for cell in cells)})"


def _news(declared: list[str], known: tuple[str, ...]) -> str:
    """The keys of a line that nobody expects, null in the usual line.

    The usual line has to be cheap: it has as many keys as expected columns are filled. Only where the count differs
    are the names compared.
    """
    listed = ", ".join(_literal(name) for name in [*declared, *known])
    filled = " + ".join(f"cast(f.{_quoted(name)} is not null as integer)" for name in [*declared, *known])
    return f"""
        case when len(json_keys(json)) <> {filled}
            then list_filter(json_keys(json), lambda k: k not in ({listed}))
        end"""


def _extra(declared: list[str], known: tuple[str, ...]) -> str:
    """Keys nobody declared, as JSON; only a line with an unexpected one is patched, the others are put together."""
    patch = _literal(json.dumps(dict.fromkeys(declared), ensure_ascii=False))
    usual = "cast(null as varchar)"
    if known:
        parts = [f"'\"{name}\":' || cast(f.{_quoted(name)} as varchar)" for name in known]
        some = f"coalesce({', '.join(f'cast(f.{_quoted(name)} as varchar)' for name in known)})"
        usual = f"case when {some} is not null then '{{' || concat_ws(',', {', '.join(parts)}) || '}}' end"
    return f"case when len(_news) > 0 then cast(json_merge_patch(json, {patch}) as varchar) else {usual} end"


def _reject(declared: list[Column], fields: Mapping[str, str]) -> str:
    """Why a line cannot land, as `column<TAB>reason`; null where it can.

    What is no object has no required column either, so the usual line is not asked for its type.
    """
    tests = []
    for column in declared:
        value = f"f.{_quoted(fields[column.name].removesuffix(OR_LINE))}"
        if column.required and not fields[column.name].endswith(OR_LINE):
            tests.append((f"coalesce(cast({value} as varchar), '') = ''", f"{column.name}\tis required and empty"))
        if column.type not in ("text", "json"):
            misfit = f"{value} is not null and try_cast({value} as {_SQL_TYPES[column.type]}) is null"
            tests.append((misfit, f"{column.name}\tis not a valid {column.type}"))
    broken = [
        ("json is null", "\tis not valid JSON"),
        ("json_type(json) <> 'OBJECT'", "\tis not a JSON object"),
    ]
    required = any(column.required and not fields[column.name].endswith(OR_LINE) for column in declared)
    suspect = " or ".join(f"({test})" for test, _ in (tests if required else [*broken, *tests]))
    told = " ".join(f"when {test} then {_literal(reason)}" for test, reason in [*broken, *tests])
    return f"case when {suspect} then case {told} end end"


def _rejects(faults: Sequence[tuple[int, str]], path: Path) -> tuple[Reject, ...]:
    """*faults*: (line, why it cannot land); the lines themselves are fetched from the file once more."""
    wanted = {line for line, _ in faults}
    raw = {}
    if wanted:
        with path.open("rb") as handle:
            raw = {n: line.decode("utf-8", "replace").rstrip("\r\n") for n, line in enumerate(handle, 1) if n in wanted}
    rejects = []
    for line, told in faults:
        column, _, reason = told.partition("\t")
        text = f"`{column}` {reason}" if column else f"line {reason}"
        rejects.append(Reject(text, raw[line], line, column or None))
    return tuple(rejects)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
