"""Taking people out of the files of a home: Parquet, lines, workbooks, SQLite, and any text.

Each function does one file, whole or not at all: the new content is written beside it, synced, and renamed over it. Run
again after a stop, it finds less to do and ends the same.
"""

from __future__ import annotations

import fcntl
import gzip
import io
import json
import os
import re
import sqlite3
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import duckdb
import pyarrow as pa

from cdp.errors import RetriableError
from cdp.privacy.traces import Traces

BLOCK = 4 * 1024 * 1024
_OVERLAP = 512  # longer than any identifier is spelt
WORKBOOKS = (".xlsx", ".xlsm")
# Keys of tracking messages as SDKs write them -> the columns they land in.
_NATIVE = {"userId": "user_id", "anonymousId": "anonymous_id", "previousId": "previous_id"}


@dataclass(frozen=True)
class Hits:
    """What a relation holds of some people: places of rows that go whole, and rows of which only cells change."""

    total: int = 0
    whole: frozenset[int] = frozenset()
    cells: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    rows: tuple[dict[str, Any], ...] = ()

    @property
    def count(self) -> int:
        return len(self.whole) + len(self.cells)


# ---------------------------------------------------------------------------------------------------- Parquet


def engine(spill: Path) -> duckdb.DuckDBPyConnection:
    """A DuckDB in memory for reading and writing Parquet; instants in UTC."""
    spill.mkdir(parents=True, exist_ok=True)
    con = duckdb.connect(config={"memory_limit": "2GB", "temp_directory": str(spill)})
    con.execute("set TimeZone = 'UTC'")
    return con


def parquet_hits(
    con: duckdb.DuckDBPyConnection, path: Path, traces: Traces, *, relation: str, key: Sequence[str] = ()
) -> Hits:
    """Rows of a Parquet file that hold something of *traces*; a row's place counts from 0."""
    source = f"read_parquet({text(str(path))}, file_row_number = true)"
    columns = [(row[0], row[1]) for row in con.execute(f"describe select * from {source}").fetchall()]
    found = fetch(con, f"select * from {source} where {traces.hit_sql(columns, relation)}")
    whole: set[int] = set()
    cells: dict[int, dict[str, Any]] = {}
    for row in found:
        place = int(row.pop("file_row_number"))
        if traces.judge(row, relation=relation, key=key) == "whole":
            whole.add(place)
        elif changed := traces.emptied(row, relation=relation):
            cells[place] = changed
    total = con.execute("select count(*) from read_parquet(?)", [str(path)]).fetchall()[0][0] if found else 0
    return Hits(total, frozenset(whole), cells, tuple(found))


def rewrite_parquet(con: duckdb.DuckDBPyConnection, path: Path, hits: Hits) -> Path:
    """A synced copy of *path* without what *hits* names, under a temporary name; rename it with `put_in_place`.

    A row that was known by its place keeps its number.
    """
    target = path.with_name(f".{path.name}.tmp")
    source = f"read_parquet({text(str(path))}, file_row_number = true)"
    names = [row[0] for row in con.execute(f"describe select * from read_parquet({text(str(path))})").fetchall()]
    listed = ", ".join(
        '(coalesce("_row_number", file_row_number + 1)) as "_row_number"' if name == "_row_number" else quoted(name)
        for name in names
    )
    gone = sorted(hits.whole | set(hits.cells))
    con.register("gone_places", pa.table({"file_row_number": pa.array(gone, pa.int64())}))
    body = f"select {listed}, file_row_number from {source} anti join gone_places using (file_row_number)"
    if hits.cells:
        con.register("changed_rows", _changed(con, source, hits))
        body += f" union all select {listed}, file_row_number from changed_rows"
    try:
        con.execute(
            f"copy (select * exclude (file_row_number) from ({body}) order by file_row_number) to {text(str(target))}"
            " (format parquet, compression zstd, compression_level 1)"
        )
    finally:
        con.unregister("gone_places")
        if hits.cells:
            con.unregister("changed_rows")
    sync(target)
    return target


def _changed(con: duckdb.DuckDBPyConnection, source: str, hits: Hits) -> pa.Table:
    places = ", ".join(map(str, sorted(hits.cells)))
    table: pa.Table = con.sql(f"select * from {source} where file_row_number in ({places})").to_arrow_table()
    rows = [row | hits.cells[row["file_row_number"]] for row in table.to_pylist()]
    return pa.Table.from_pylist(rows, schema=table.schema)


def fetch(con: duckdb.DuckDBPyConnection, sql: str) -> list[dict[str, Any]]:
    """Rows as dicts; not by way of Arrow, which cannot give infinite instants to Python."""
    rows = con.execute(sql).fetchall()
    names = [column[0] for column in con.description or ()]
    return [dict(zip(names, row, strict=True)) for row in rows]


# ---------------------------------------------------------------------------------------------------- texts


def text_without(path: Path, traces: Traces) -> tuple[bytes, int] | None:
    """The content of a file of lines (JSON, CSV, plain; gzip too) without the records of these people, and how many
    changed; None when there is nothing of them."""
    return _lines_without(path.read_bytes(), path, traces)


def archive_without(path: Path, traces: Traces) -> tuple[bytes, int] | None:
    """The same for the files in a zip."""
    sink, changed = io.BytesIO(), 0
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as new:
        for item in old.infolist():
            data = old.read(item)
            done = _lines_without(data, PurePath(item.filename), traces)
            changed += done[1] if done else 0
            new.writestr(item, done[0] if done else data)
    return (sink.getvalue(), changed) if changed else None


def _lines_without(raw: bytes, name: PurePath, traces: Traces) -> tuple[bytes, int] | None:
    zipped = raw[:2] == b"\x1f\x8b"
    data = gzip.decompress(raw) if zipped else raw
    content, encoding = _decoded(data)
    if content is None:
        return None
    table = name.suffixes[:1] and name.suffixes[0].lower() in (".csv", ".tsv")
    kept, changed = [], 0
    for number, record in enumerate(_records(content, quoted_breaks=bool(table))):
        new = _record_without(record, traces, header=bool(table) and number == 0)
        changed += new != record
        kept.append(new)
    if not changed:
        return None
    done = "".join(kept).encode(encoding)
    return (gzip.compress(done, mtime=0) if zipped else done), changed


def _decoded(data: bytes) -> tuple[str | None, str]:
    for encoding in ("utf-8", "gb18030"):
        try:
            return data.decode(encoding), encoding
        except UnicodeDecodeError:
            continue
    return None, ""


def _records(content: str, *, quoted_breaks: bool) -> Iterator[str]:
    """Lines with their ends; in a table, lines that a quoted cell spans belong together."""
    held = ""
    for line in content.splitlines(keepends=True) if "\r\n" not in content else re.split(r"(?<=\n)", content):
        held += line
        if quoted_breaks and held.count('"') % 2:
            continue
        yield held
        held = ""
    if held:
        yield held


def _record_without(record: str, traces: Traces, *, header: bool) -> str:
    """One line as it stays: "" when it was theirs, blanked where it only names them."""
    if header or not traces.in_text(record):
        return record
    if not traces.names_in(record):
        return traces.without(record)
    body = record.rstrip("\r\n")
    try:
        data = json.loads(body.lstrip("\ufeff"))
    except ValueError:
        data = None
    if not isinstance(data, dict):
        return ""
    row = {
        _NATIVE.get(str(name), str(name)): json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else value
        for name, value in data.items()
    }
    if traces.judge(row) == "whole":
        return ""
    return traces.without(body) + record[len(body) :]


def workbook_without(path: Path, traces: Traces) -> tuple[bytes, int] | None:
    """A workbook without the rows of these people, its form kept; None when there is nothing of them.

    Works on the parts of the file: rows that show an identifier lose their cells, and shared texts that no other row
    shows are emptied; names that stand alone are blanked.
    """
    with zipfile.ZipFile(path) as book:
        parts = {item.filename: book.read(item) for item in book.infolist()}
    shared = parts.get("xl/sharedStrings.xml", b"").decode()
    texts = re.findall(r"<si>.*?</si>|<si/>", shared, re.DOTALL)
    ours = {place for place, item in enumerate(texts) if traces.names_in(re.sub(r"<[^>]+>", " ", item))}
    kept: set[int] = set()
    lost: set[int] = set()
    changed = 0

    def row(match: re.Match[str]) -> str:
        nonlocal changed
        used = {int(place) for place in re.findall(r't="s"[^>]*>\s*<v>(\d+)</v>', match[0])}
        plain = re.sub(r't="s"[^>]*>\s*<v>\d+</v>', "", match[0])
        if used & ours or traces.names_in(re.sub(r"<[^>]+>", " ", plain)):
            changed += 1
            lost.update(used)
            return match[1] + "</row>"
        kept.update(used)
        return blanked(match[0])

    def blanked(part: str) -> str:
        nonlocal changed
        new = traces.without(part)
        changed += new != part
        return new

    for name in [name for name in parts if re.match(r"xl/worksheets/[^/]+\.xml\Z", name)]:
        sheet = parts[name].decode()
        parts[name] = re.sub(r"(<row\b[^>]*>)(.*?)</row>", row, sheet, flags=re.DOTALL).encode()
    empty = {place for place in lost | ours if place not in kept}
    place = iter(range(len(texts)))
    parts["xl/sharedStrings.xml"] = re.sub(
        r"<si>.*?</si>|<si/>", lambda found: "<si><t/></si>" if next(place) in empty else blanked(found[0]), shared,
        flags=re.DOTALL,
    ).encode()  # fmt: skip
    for name in [name for name in parts if name.endswith(".xml") and not name.startswith("xl/worksheets/")]:
        if name != "xl/sharedStrings.xml":  # sheet names, comments, properties
            parts[name] = blanked(parts[name].decode()).encode()
    if not changed:
        return None
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as book:
        for name, data in parts.items():
            if data or name != "xl/sharedStrings.xml":
                book.writestr(name, data)
    return sink.getvalue(), changed


# ---------------------------------------------------------------------------------------------------- SQLite


def sqlite_scrub(path: Path, traces: Traces, *, apply: bool) -> int:
    """Cells of a foreign SQLite file (a scheduler's, say) that hold identifiers; with *apply* they lose them, and
    freed pages are overwritten. Raises `RetriableError` when another process holds the file."""
    cells = 0
    try:
        with closing(sqlite3.connect(path, timeout=30, isolation_level=None)) as con:
            con.execute("pragma secure_delete = on")
            con.create_function("has_one", 1, lambda cell: isinstance(cell, str) and traces.in_text(cell))
            con.create_function("without", 1, traces.without)
            con.execute("begin immediate" if apply else "begin")
            for table in _tables(con):
                for (column,) in con.execute("select name from pragma_table_info(?)", [table]).fetchall():
                    where = f'typeof("{column}") = \'text\' and has_one("{column}")'
                    cells += int(con.execute(f'select count(*) from "{table}" where {where}').fetchone()[0])
                    if apply:
                        con.execute(f'update or ignore "{table}" set "{column}" = without("{column}") where {where}')
            con.execute("commit")
            if apply and cells:
                compact_sqlite(con)
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            raise RetriableError(f"{path.name} is in use", hint="stop the scheduler for a moment and repeat") from error
        raise
    return cells


def _tables(con: sqlite3.Connection) -> list[str]:
    rows = con.execute("select name from sqlite_master where type = 'table' and name not like 'sqlite_%'").fetchall()
    return [row[0] for row in rows]


def compact_sqlite(con: sqlite3.Connection) -> None:
    """Write the file anew, so that nothing deleted stays in free pages or in the write-ahead log."""
    con.execute("vacuum")
    con.execute("pragma wal_checkpoint(truncate)").fetchall()


def is_sqlite(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(16) == b"SQLite format 3\0"


# ---------------------------------------------------------------------------------------------------- bytes


def bytes_hits(path: Path, traces: Traces) -> int:
    """How often the bytes of a file, inside zip and gzip too, spell an identifier."""
    with path.open("rb") as file:
        head = file.read(4)
    if head[:2] == b"\x1f\x8b":
        with gzip.open(path) as stream:
            return _stream_hits(stream.read, traces)
    if head == b"PK\x03\x04":
        with zipfile.ZipFile(path) as book:
            return sum(len(traces.in_bytes.findall(book.read(item))) for item in book.infolist())
    with path.open("rb") as file:
        return _stream_hits(file.read, traces)


def _stream_hits(read: Callable[[int], bytes], traces: Traces) -> int:
    found, tail = 0, b""
    while block := read(BLOCK):
        data = tail + block
        matches = [match for match in traces.in_bytes.finditer(data) if match.end() > len(tail)]
        found += len(matches)
        tail = data[-_OVERLAP:]
        if matches and matches[-1].end() > len(data) - _OVERLAP:
            tail = data[max(matches[-1].end(), len(data) - _OVERLAP) :]
    return found


def is_held(path: Path) -> bool:
    """Whether another holds the advisory lock of a file that is being written: it would go on in the old one."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def put_in_place(temporary: Path, target: Path) -> None:
    """Rename a synced file over *target*, durably."""
    os.replace(temporary, target)
    sync(target.parent)


def write_over(path: Path, data: bytes) -> None:
    """Replace a file's content, whole or not at all; its mode stays."""
    temporary = path.with_name(f".{path.name}.tmp")
    with os.fdopen(
        os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, path.stat().st_mode & 0o777), "wb"
    ) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    put_in_place(temporary, path)


def sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
