"""Running one analyst's query on the published version: guarded, timed, capped, logged, and rendered."""

from __future__ import annotations

import getpass
import hashlib
import io
import json
import re
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import duckdb
import pyarrow as pa

from cdp.config import nearest
from cdp.errors import ConfigError, FatalError
from warehouse.guard import SCHEMAS, RefusedError, approve
from warehouse.home import Home
from warehouse.publish import Published
from warehouse.reader import connect, published

Role = Literal["viewer", "analyst", "analyst_pii"]
Format = Literal["table", "csv", "json", "xlsx", "parquet"]
STALE_AFTER = timedelta(hours=26)  # a daily run that is two hours late
_BATCH = 10_000
_EXCEL_ROWS = 1_048_575


@dataclass(frozen=True)
class QueryResult:
    """Rows of one query with where they come from. *table*: an Arrow table; *tables*: the published tables read.

    *truncated*: there were more than the limit. *ms*: from the start of the query to the last row. *scanned*: rows read
    from tables, before any filter that reads whole row groups.
    """

    table: pa.Table
    version: str
    published_at: datetime
    age: timedelta
    tables: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    truncated: bool = False
    ms: int = 0
    scanned: int = 0
    columns: tuple[str, ...] = field(default=())

    @property
    def rows(self) -> list[tuple[Any, ...]]:
        """The rows as Python values."""
        columns = [self.table.column(index).to_pylist() for index in range(self.table.num_columns)]
        return list(zip(*columns, strict=True)) if columns else []


def run_query(
    home: Home,
    sql: str,
    *,
    limit: int | None = 1_000,
    timeout_s: float = 60,
    role: Role = "analyst",
    purpose: str | None = None,
    version: str | None = None,
    user: str | None = None,
    now: datetime | None = None,
) -> QueryResult:
    """Run one SELECT on the published version (or *version*) and log that it ran.

    At most *limit* rows come back (None for all). Role `analyst_pii` reads the edition with personal data and must
    state a *purpose*. Raises `RefusedError` before anything runs when the query may not, `FatalError` when it
    fails or passes *timeout_s* seconds. The log (`logs/queries.jsonl`) holds a hash of the text, never text or rows.
    """
    if role not in ("analyst", "analyst_pii"):
        raise RefusedError(
            f"the role `{role}` may not run SQL", hint="roles that may: analyst, analyst_pii; viewers run saved queries"
        )
    return answer(
        home, sql, limit=limit, timeout_s=timeout_s, role=role, purpose=purpose, version=version, user=user, now=now
    )


def answer(
    home: Home,
    sql: str,
    *,
    limit: int | None,
    timeout_s: float,
    role: Role,
    purpose: str | None = None,
    version: str | None = None,
    user: str | None = None,
    now: datetime | None = None,
) -> QueryResult:
    """`run_query` for every role, without asking whether the role may write its own SQL: callers have asked."""
    started_at = now or datetime.now(UTC)
    if role == "analyst_pii" and not (purpose or "").strip():
        raise RefusedError("personal data needs a purpose", hint="say why: --purpose '…'; it is kept in the query log")
    item = published(home, version)
    entry = _LogEntry(home, sql, user or _user(), role, purpose, item.version, started_at)
    pii = role == "analyst_pii"
    with entry, connect(home, version=item.version, pii=pii, timeout_s=timeout_s, measured=True) as con:
        known = _tables(con)
        approved = approve(con, sql, known)
        entry.tables = approved.tables
        begun = time.perf_counter()
        table, truncated = _fetch(con, approved.sql, limit, timeout_s)
        entry.rows, entry.scanned = table.num_rows, _rows_scanned(con)
        return QueryResult(
            table=table,
            version=item.version,
            published_at=item.published_at,
            age=started_at - item.published_at,
            tables=approved.tables,
            warnings=_warnings(item, approved.tables, started_at),
            truncated=truncated,
            ms=round((time.perf_counter() - begun) * 1000),
            scanned=entry.scanned,
            columns=tuple(table.column_names),
        )


class _LogEntry:
    """One line of the query log, written when the query has ended, however it ended."""

    def __init__(
        self, home: Home, sql: str, user: str, role: str, purpose: str | None, version: str, at: datetime
    ) -> None:
        self._path = home.logs / "queries.jsonl"
        self._facts: dict[str, Any] = {
            "at": at.isoformat(),
            "user": user,
            "role": role,
            "purpose": purpose,
            "version": version,
            "sql_sha256": hashlib.sha256(sql.encode("utf-8", "surrogatepass")).hexdigest(),
        }
        self.tables: tuple[str, ...] = ()
        self.rows = self.scanned = 0

    def __enter__(self) -> _LogEntry:
        self._begun = time.perf_counter()
        # Made before the query: where it cannot be written, nothing is read.
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("a", encoding="utf-8")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        facts = self._facts | {
            "tables": list(self.tables),
            "rows": self.rows,
            "scanned": self.scanned,
            "ms": round((time.perf_counter() - self._begun) * 1000),
            "outcome": "ok" if kind is None else kind.__name__,
        }
        with self._file as file:
            file.write(json.dumps(facts, ensure_ascii=False) + "\n")


def _fetch(con: duckdb.DuckDBPyConnection, sql: str, limit: int | None, timeout_s: float) -> tuple[pa.Table, bool]:
    # `max_execution_time` does not reach every function; the timer does.
    timer = threading.Timer(timeout_s + 0.5, con.interrupt)
    timer.start()
    try:
        with con.sql(sql).to_arrow_reader(_BATCH) as reader:
            batches: list[pa.RecordBatch] = []
            rows = 0
            for batch in reader:
                batches.append(batch)
                rows += batch.num_rows
                if limit is not None and rows > limit:
                    break
            table = pa.Table.from_batches(batches, reader.schema)
    except duckdb.InterruptException as error:
        raise FatalError(
            f"the query took longer than {timeout_s:g} s and was stopped",
            hint="narrow it by date or person, aggregate earlier, or raise --timeout",
        ) from error
    except duckdb.OutOfMemoryException as error:
        raise FatalError(
            "the query needs more memory than it may use", hint="narrow it, or aggregate earlier"
        ) from error
    except duckdb.Error as error:
        raise FatalError(_explain(con, str(error)), hint="`describe select * from <table>` shows columns") from error
    finally:
        timer.cancel()
    if limit is not None and table.num_rows > limit:
        return table.slice(0, limit), True
    return table, False


def _rows_scanned(con: duckdb.DuckDBPyConnection) -> int:
    """Rows that the scans of the last query read, from DuckDB's profile of it."""
    try:
        profile = json.loads(con.get_profiling_information())
    except (duckdb.Error, ValueError):
        return 0  # a query without a plan of its own, such as `describe`, has no profile
    found, queue = 0, [profile]
    while queue:
        item = queue.pop()
        if isinstance(item, dict):
            found += int(item.get("rows_scanned", 0))
            queue.extend(item.values())
        elif isinstance(item, list):
            queue.extend(item)
    return found


def _explain(con: duckdb.DuckDBPyConnection, text: str) -> str:
    """DuckDB's message in one line, with the nearest column of all published tables where one is unknown."""
    line = text.splitlines()[0]
    found = re.search(r'column "?([\w.]+)"? not found|column named "([\w.]+)"', line)
    if found:
        name = (found[1] or found[2]).split(".")[-1]
        columns = con.execute("select distinct column_name from information_schema.columns order by 1").fetchall()
        close = nearest(name, [row[0] for row in columns])
        return f"no column is called `{name}`{close if close.startswith('; did') else ''}"
    return f"the query failed: {line}"


def _tables(con: duckdb.DuckDBPyConnection) -> list[str]:
    rows = con.execute(
        "select table_schema || '.' || table_name from information_schema.tables "
        "where table_schema in (?, ?) order by 1",
        list(SCHEMAS),
    ).fetchall()
    return [row[0] for row in rows]


def _warnings(item: Published, tables: Sequence[str], now: datetime) -> tuple[str, ...]:
    about = [text for text in item.warnings if text.split(":")[0] in tables]
    if now - item.published_at > STALE_AFTER:
        about.append(
            f"published {age_text(now - item.published_at)} ago: has the daily run failed? (`cdp publish list`)"
        )
    return tuple(about)


def age_text(age: timedelta) -> str:
    """`3 min`, `5 h`, `2 days`."""
    minutes = max(0, int(age.total_seconds() // 60))
    if minutes < 120:
        return f"{minutes} min"
    return f"{minutes // 60} h" if minutes < 48 * 60 else f"{minutes // 1440} days"


def _user() -> str:
    with suppress(OSError, KeyError):
        return getpass.getuser()
    return "unknown"


def to_bytes(result: QueryResult, form: Format) -> bytes:
    """The rows in a download format. CSV starts with a BOM, so that Excel opens it in Chinese; ids stay text."""
    if form == "csv":
        return b"\xef\xbb\xbf" + to_csv(result).encode()
    if form == "json":
        return (to_json(result) + "\n").encode()
    if form == "xlsx":
        return _to_xlsx(result)
    if form == "parquet":
        import pyarrow.parquet as pq  # 0.1 s, for this format only

        sink = io.BytesIO()
        pq.write_table(result.table, sink, compression="zstd")
        return sink.getvalue()
    raise ConfigError(f"`{form}` is no download format", hint="csv, json, xlsx, parquet")


def to_csv(result: QueryResult) -> str:
    """RFC 4180 text with a header line. A cell that a spreadsheet would run as a formula gets a leading apostrophe."""
    import csv

    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(result.columns)
    for row in result.rows:
        writer.writerow([_harmless(plain(value)) for value in row])
    return out.getvalue()


def to_json(result: QueryResult) -> str:
    """A JSON list of objects; instants as ISO 8601, money as text so that no cent is lost."""
    rows = [dict(zip(result.columns, row, strict=True)) for row in result.rows]
    return json.dumps(rows, ensure_ascii=False, indent=1, default=_jsonable)


def plain(value: Any) -> str:
    """One cell as text."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return value.isoformat(sep=" ", timespec="seconds")
    if isinstance(value, list | dict | tuple):
        return json.dumps(value, ensure_ascii=False, default=_jsonable)
    return str(value)


def _harmless(text: str) -> str:
    numeric = re.fullmatch(r"-?\d+(\.\d+)?([eE][+-]?\d+)?", text)
    return "'" + text if text[:1] in ("=", "+", "-", "@", "\t", "\r") and not numeric else text


def _jsonable(value: Any) -> Any:
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.hex()
    return str(value)


def _to_xlsx(result: QueryResult) -> bytes:
    import xlsxwriter  # only this format needs it

    if result.table.num_rows > _EXCEL_ROWS:
        raise ConfigError(f"an Excel sheet holds {_EXCEL_ROWS:,} rows", hint="use csv or parquet, or a smaller --limit")
    sink = io.BytesIO()
    options = {"in_memory": True, "strings_to_formulas": False, "strings_to_urls": False, "strings_to_numbers": False}
    with xlsxwriter.Workbook(sink, options) as book:
        head = book.add_format({"bold": True, "bottom": 1})
        sheet = book.add_worksheet("data")
        for place, name in enumerate(result.columns):
            sheet.write_string(0, place, name, head)
        for number, row in enumerate(result.rows, start=1):
            for place, value in enumerate(row):
                _write_cell(sheet, number, place, value)
        sheet.freeze_panes(1, 0)
        if result.columns:
            sheet.autofilter(0, 0, max(1, result.table.num_rows), len(result.columns) - 1)
            sheet.autofit(300)
        about = book.add_worksheet("about")
        facts = (
            ("version", result.version),
            ("published_at", result.published_at.isoformat()),
            ("tables", ", ".join(result.tables)),
            ("cut at the limit", "yes" if result.truncated else "no"),
        )
        for number, (name, value) in enumerate([*facts, *(("warning", text) for text in result.warnings)]):
            about.write_string(number, 0, name)
            about.write_string(number, 1, value)
    return sink.getvalue()


def _write_cell(sheet: Any, row: int, column: int, value: Any) -> None:
    if isinstance(value, bool) or value is None:
        sheet.write_string(row, column, plain(value))
    elif isinstance(value, int | float | Decimal) and abs(float(value)) < 1e15:
        sheet.write_number(row, column, value)  # Excel keeps 15 digits: longer ones go in as text
    else:
        sheet.write_string(row, column, plain(value))


def save(result: QueryResult, form: Format, path: Path) -> None:
    """Write a download to *path*, whole or not at all."""
    data = to_bytes(result, form)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(data)
    temporary.replace(path)
