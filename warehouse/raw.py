"""Views over the raw zone: `raw.<family>__<stream>` unites what every source of a family landed.

Every declared stream has its view, with its columns, whether or not anything has landed. Views list the files the
ledger knows, so a file that a crash left behind is never read.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import duckdb
import polars as pl

from cdp.streams import RawSource, Stream
from warehouse.home import Home
from warehouse.landing_ledger import BatchRecord, LandingLedger

__all__ = ["RawSource", "ReconcileRow", "reconcile", "register_raw"]

_SQL_TYPES = {
    "text": "varchar",
    "int": "bigint",
    "float": "double",
    "decimal": "decimal(18, 2)",
    "bool": "boolean",
    "timestamp": "timestamptz",
    "date": "date",
    "json": "varchar",
    "text_list": "varchar[]",
    "identifiers": 'struct("type" varchar, "scope" varchar, "value" varchar)[]',
}
_META = {
    "_extra": "varchar",
    "_source": "varchar",
    "_batch_id": "varchar",
    "_batch_seq": "bigint",
    "_loaded_at": "timestamptz",
    "_version_at": "timestamptz",
    "_source_file": "varchar",
    "_row_number": "bigint",
    "_row_hash": "ubigint",
    "_key_hash": "ubigint",
    "_deleted": "boolean",
}
_REJECTS = {
    "source": "varchar",
    "stream": "varchar",
    "batch_id": "varchar",
    "file": "varchar",
    "row_number": "bigint",
    "column": "varchar",
    "reason": "varchar",
    "value": "varchar",
    "raw": "varchar",
    "rejected_at": "timestamptz",
    "landed": "boolean",
}


@dataclass(frozen=True)
class ReconcileRow:
    """One batch held against its file. *ok*: the counts add up, and the files hold just that many.

    *suppressed*: rows of people who were forgotten that came again; *erased*: rows taken out since, of raw and rejects.
    """

    source: str
    stream: str
    batch_id: str
    received: int
    landed: int
    duplicates: int
    rejected: int
    deleted: int
    rows_in_file: int
    rejects_in_file: int
    ok: bool
    suppressed: int = 0
    erased: int = 0


def register_raw(
    con: duckdb.DuckDBPyConnection, home: Home, sources: Sequence[RawSource], streams: Sequence[Stream]
) -> None:
    """Make schema `raw` anew in *con*: a view per stream, `_rejects`, `_batches`, and the two settings tables."""
    con.execute("create schema if not exists raw")
    by_stream: dict[tuple[str, str], list[str]] = defaultdict(list)
    ledger = LandingLedger(home.landing_ledger)
    records = ledger.batches()
    for record in records:
        if record.landed + record.deleted:
            path = home.raw / record.source / record.stream / f"{record.batch_id}.parquet"
            by_stream[record.family, record.stream].append(str(path))
    for stream in streams:
        con.execute(_stream_view(stream, by_stream[stream.family, stream.name]))
    con.execute(_rejects_view(home, records))
    _register_batches(con, records, ledger.rewritten())
    _register_settings(con, sources)


def reconcile(home: Home) -> list[ReconcileRow]:
    """Every committed batch, held against the rows its files really have."""
    ledger = LandingLedger(home.landing_ledger)
    erased = ledger.erased()
    return [_reconciled(home, record, erased) for record in ledger.batches()]


def _reconciled(home: Home, record: BatchRecord, erased: Mapping[tuple[str, str], int]) -> ReconcileRow:
    name = f"{record.batch_id}.parquet"
    rows = _rows(home.raw / record.source / record.stream / name)
    rejects = _rows(home.rejects / record.source / record.stream / name)
    adds_up = record.received == record.landed + record.duplicates + record.rejected + record.suppressed
    raw, refused = (erased.get((record.batch_id, part), 0) for part in ("raw", "rejects"))
    whole = rows == record.landed + record.deleted - raw and rejects == record.rejected - refused
    return ReconcileRow(
        record.source,
        record.stream,
        record.batch_id,
        record.received,
        record.landed,
        record.duplicates,
        record.rejected,
        record.deleted,
        rows,
        rejects,
        adds_up and whole,
        record.suppressed,
        raw + refused,
    )


def _rows(path: object) -> int:
    from pathlib import Path

    file = Path(str(path))
    return int(pl.scan_parquet(file).select(pl.len()).collect().item()) if file.exists() else 0


def _stream_view(stream: Stream, files: list[str]) -> str:
    columns = {column.name: _SQL_TYPES[column.type] for column in stream.columns} | _META
    nothing = ", ".join(f"cast(null as {kind}) as {_quoted(name)}" for name, kind in columns.items())
    # One all-null row that no reader sees gives the columns no file has yet their names and types.
    body = f"select {nothing} where false"
    if files:
        listed = ", ".join(_text(file) for file in files)
        body = (
            f"select * replace (coalesce(_row_number, file_row_number + 1) as _row_number) from ("
            f"select null::bigint as file_row_number, * from ({body}) union all by name"
            f" select * from read_parquet([{listed}], union_by_name = true, file_row_number = true))"
        )
    cells = ", ".join(f"cast({_value(name, stream)} as {kind}) as {_quoted(name)}" for name, kind in columns.items())
    name = f"raw.{_quoted(f'{stream.family}__{stream.name}')}"
    return f"create or replace view {name} as select {cells} from ({body})"


def _value(name: str, stream: Stream) -> str:
    """A column as stored; a line known by its content alone has its hash for a key, which is not stored twice."""
    if stream.mode == "append" and (name,) == stream.key:
        return f"coalesce(cast({_quoted(name)} as varchar), lpad(lower(to_hex(_key_hash)), 16, '0'))"
    if name == "_row_hash":
        return "coalesce(_row_hash, _key_hash)"
    return _quoted(name)


def _rejects_view(home: Home, records: Sequence[BatchRecord]) -> str:
    files = [
        str(home.rejects / record.source / record.stream / f"{record.batch_id}.parquet")
        for record in records
        if record.rejected
    ]
    files += sorted(str(path) for path in home.rejects.glob("*/*/failed.parquet"))
    cells = ", ".join(f"cast({_quoted(name)} as {kind}) as {_quoted(name)}" for name, kind in _REJECTS.items())
    if not files:
        nothing = ", ".join(f"cast(null as {kind}) as {_quoted(name)}" for name, kind in _REJECTS.items())
        return f"create or replace view raw._rejects as select {nothing} where false"
    listed = ", ".join(_text(file) for file in files)
    return f"create or replace view raw._rejects as select {cells} from read_parquet([{listed}], union_by_name = true)"


def _register_batches(
    con: duckdb.DuckDBPyConnection, records: Sequence[BatchRecord], rewritten: Mapping[str, str]
) -> None:
    con.execute(
        "create or replace table raw._batches (batch_seq bigint, batch_id varchar, source varchar, stream varchar,"
        " family varchar, file varchar, received bigint, landed bigint, duplicates bigint, rejected bigint,"
        " deleted bigint, loaded_at timestamptz, erased_at timestamptz)"
    )
    rows = [
        (
            record.batch_seq,
            record.batch_id,
            record.source,
            record.stream,
            record.family,
            record.file,
            record.received,
            record.landed,
            record.duplicates,
            record.rejected,
            record.deleted,
            record.loaded_at,
            rewritten.get(record.batch_id),
        )
        for record in records
    ]
    _insert(con, "raw._batches", rows)


def _register_settings(con: duckdb.DuckDBPyConnection, sources: Sequence[RawSource]) -> None:
    con.execute(
        "create or replace table raw._source_settings (source varchar, connector varchar, family varchar,"
        " key varchar, value varchar)"
    )
    con.execute(
        "create or replace table raw._identity_fields (source varchar, field varchar, type varchar, scope varchar)"
    )
    settings = [
        (source.name, source.connector, source.family, key, value)
        for source in sources
        for key, value in sorted(source.settings.items())
    ]
    fields = [(source.name, *row) for source in sources for row in source.identity_fields]
    _insert(con, "raw._source_settings", settings)
    _insert(con, "raw._identity_fields", fields)


def _insert(con: duckdb.DuckDBPyConnection, table: str, rows: Sequence[tuple[object, ...]]) -> None:
    if rows:
        con.executemany(f"insert into {table} values ({', '.join('?' for _ in rows[0])})", rows)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
