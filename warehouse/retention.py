"""Retention: what is older than `config/privacy.yaml` lets it grow goes, and the ledgers say so.

Raw rows go from their files (crash-safely, with the landing ledger's counts), rows of tables from the warehouse and the
marts file, files from their folders. Published versions lose what a run no longer puts in. Safe to repeat.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb

from cdp.errors import ConfigError
from cdp.metrics.durations import microseconds
from cdp.privacy.config import PrivacyConfig, Retention
from cdp.privacy.traces import TIMES
from cdp.streams import Stream
from warehouse.connection import open_warehouse
from warehouse.erasure_files import Hits, engine, put_in_place, quoted, rewrite_parquet, text
from warehouse.home import Home, load_config
from warehouse.landing import stream_lock
from warehouse.landing_ledger import BatchRecord, LandingLedger, Part
from warehouse.models import qualified_name
from warehouse.privacy_ledger import PrivacyLedger

FILE = "privacy.yaml"
# Never by age: what says who is who and who was forgotten.
_LASTING = ("identity",)


@dataclass(frozen=True)
class Aged:
    """What one rule takes of one place: rows (files for a folder) from before *cut*."""

    rule: str
    place: str
    cut: datetime
    rows: int


@dataclass(frozen=True)
class RetentionReport:
    """What retention took, or would take."""

    applied: bool
    removals: tuple[Aged, ...]

    @property
    def rows(self) -> int:
        return sum(item.rows for item in self.removals)


def load_privacy(home: Home) -> PrivacyConfig:
    """`config/privacy.yaml`; a home of before that has none keeps everything."""
    return load_config(home, FILE, PrivacyConfig) if (home.config / FILE).exists() else PrivacyConfig()


def enforce_retention(
    home: Home,
    *,
    now: datetime,
    streams: Sequence[Stream],
    timezone: str,
    apply: bool = True,
    con: duckdb.DuckDBPyConnection | None = None,
) -> RetentionReport:
    """Remove what is too old as of *now* by every rule of `config/privacy.yaml`; without *apply* only count it.

    *con*: an open writing connection on the warehouse, where the caller has one. Raises `ConfigError` when a rule names
    a stream, table or column there is not, before anything is removed.
    """
    rules = load_privacy(home).retention
    _check_streams(rules, streams)
    found: list[Aged] = []
    for rule in rules:
        cut = now - timedelta(microseconds=microseconds(rule.keep))
        if rule.stream is not None or rule.rejects:
            found += _raw(home, rule, cut, now=now, apply=apply)
        elif rule.files is not None:
            found += _files(home, rule, cut, apply=apply)
    tables = [rule for rule in rules if rule.table is not None]
    if tables and con is not None:
        found += _tables(con, tables, now, apply=apply)
    elif tables and home.warehouse.exists():
        with open_warehouse(home, as_of=now, timezone=timezone) as own:
            found += _tables(own, tables, now, apply=apply)
    if found and apply:
        PrivacyLedger(home).note_retention(
            (now.isoformat(), item.rule, item.place, item.cut.isoformat(), item.rows) for item in found
        )
    return RetentionReport(apply, tuple(found))


def _check_streams(rules: Sequence[Retention], streams: Sequence[Stream]) -> None:
    known = {f"{stream.family}.{stream.name}": stream for stream in streams}
    faults = []
    for rule in rules:
        if rule.stream is None:
            continue
        if rule.stream not in known:
            faults.append(f"`{rule.stream}` is no stream; there are {', '.join(sorted(known))}")
        elif rule.by is not None and rule.by not in {column.name for column in known[rule.stream].columns}:
            faults.append(f"`{rule.stream}` has no column `{rule.by}`")
    if faults:
        raise ConfigError("\n".join(f"privacy.yaml: {fault}" for fault in faults), hint="mend config/privacy.yaml")


# ---------------------------------------------------------------------------------------------------- raw


def _raw(home: Home, rule: Retention, cut: datetime, *, now: datetime, apply: bool) -> list[Aged]:
    """Rows of raw (or of its rejects) from before *cut*, file by file."""
    part: Part = "rejects" if rule.rejects else "raw"
    counts: dict[str, int] = {}
    for record in LandingLedger(home.landing_ledger).batches():
        if rule.stream is not None and f"{record.family}.{record.stream}" != rule.stream:
            continue
        if rule.source is not None and record.source != rule.source:
            continue
        if not (record.rejected if rule.rejects else record.landed + record.deleted):
            continue
        by = "rejected_at" if rule.rejects else _age_sql(rule, record)
        gone = _one_batch(home, record, part, by, cut, cause=f"retention {rule.name}", now=now, apply=apply)
        place = f"data/{part}/{record.source}/{record.stream}"
        if gone:
            counts[place] = counts.get(place, 0) + gone
    return [Aged(rule.name, place, cut, rows) for place, rows in sorted(counts.items())]


def _age_sql(rule: Retention, record: BatchRecord) -> str:
    """When a raw row is of: the rule's column, else when its person acted, else when it was loaded."""
    if rule.by is not None:
        return quoted(rule.by)
    names = next((TIMES[end] for end in TIMES if record.stream.endswith(end)), ())
    return f"coalesce({', '.join([*map(quoted, names), '_loaded_at'])})" if names else "_loaded_at"


def _one_batch(
    home: Home, record: BatchRecord, part: Part, by: str, cut: datetime, *, cause: str, now: datetime, apply: bool
) -> int:
    folder = home.raw if part == "raw" else home.rejects
    path = folder / record.source / record.stream / f"{record.batch_id}.parquet"
    with closing(engine(home.root / "data" / "tmp" / "duckdb")) as con:
        source = f"read_parquet({text(str(path))}, file_row_number = true)"
        rows = con.execute(
            f"select file_row_number from {source} where {_instant_sql(con, source, by)} < ?::timestamptz", [cut]
        ).fetchall()
        if not rows or not apply:
            return len(rows)
        total = con.execute("select count(*) from read_parquet(?)", [str(path)]).fetchall()[0][0]
        with stream_lock(home, record.source, record.stream):
            temporary = rewrite_parquet(con, path, Hits(total, frozenset(row[0] for row in rows)))
            ledger = LandingLedger(home.landing_ledger)
            committed = record.landed + record.deleted if part == "raw" else record.rejected
            others = ledger.erased(but=cause).get((record.batch_id, part), 0)
            ledger.note_erased(record.batch_id, part, cause, committed - others - total + len(rows), at=now)
            put_in_place(temporary, path)
    return len(rows)


def _instant_sql(con: duckdb.DuckDBPyConnection, source: str, by: str) -> str:
    """The age column as an instant: instants as they are, milliseconds and texts read."""
    cells = []
    names = [part.strip() for part in by.removeprefix("coalesce(").removesuffix(")").split(",")]
    kinds = {row[0]: row[1] for row in con.execute(f"describe select * from {source}").fetchall()}
    for name in names:
        kind = kinds.get(name.strip('"'), "")
        if kind == "BIGINT":
            cells.append(f"timezone('UTC', epoch_ms(nullif({name}, 0)))")
        elif kind:
            cells.append(f"try_cast({name} as timestamptz)")
    return f"coalesce({', '.join(cells)})"


# ---------------------------------------------------------------------------------------------------- tables


def _tables(con: duckdb.DuckDBPyConnection, rules: Sequence[Retention], now: datetime, *, apply: bool) -> list[Aged]:
    """Rows of warehouse tables; all rules are checked before the first row goes."""
    faults, wheres = [], []
    for rule in rules:
        schema, _, table = str(rule.table).partition(".")
        columns = {
            row[0]
            for row in con.execute(
                "select column_name from duckdb_columns() where schema_name = ? and table_name = ? and not internal",
                [schema, table],
            ).fetchall()
        }
        if schema in _LASTING:
            faults.append(f"`{rule.table}` says who is who and does not age; forget people instead")
        elif columns and rule.by not in columns:
            faults.append(f"`{rule.table}` has no column `{rule.by}`")
        wheres.append(bool(columns))
    if faults:
        raise ConfigError("\n".join(f"privacy.yaml: {fault}" for fault in faults), hint="mend config/privacy.yaml")
    found = []
    for rule, there in zip(rules, wheres, strict=True):
        if not there:
            continue
        cut = now - timedelta(microseconds=microseconds(rule.keep))
        name = qualified_name(str(rule.table))
        where = f"cast({quoted(str(rule.by))} as timestamptz) < ?::timestamptz"
        rows = int(con.execute(f"select count(*) from {name} where {where}", [cut]).fetchall()[0][0])
        if rows and apply:
            con.execute(f"delete from {name} where {where}", [cut])
        if rows:
            found.append(Aged(rule.name, str(rule.table), cut, rows))
    return found


# ---------------------------------------------------------------------------------------------------- files


def _files(home: Home, rule: Retention, cut: datetime, *, apply: bool) -> list[Aged]:
    """Files last written before *cut*; lines of the query log by their own time."""
    folder = home.root / str(rule.files)
    if not folder.is_dir():
        return []
    old = [path for path in sorted(folder.rglob("*")) if path.is_file() and _written(path) < cut and _may_go(path)]
    if apply:
        for path in old:
            path.unlink()
        for place in sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True):
            if not any(place.iterdir()):
                place.rmdir()
    return [Aged(rule.name, str(rule.files), cut, len(old))] if old else []


def _written(path: Path) -> datetime:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC)


def _may_go(path: Path) -> bool:
    """Not what a living process writes to, nor the list that keeps a restored backup from bringing people back."""
    return path.suffix != ".open" and path.name != "forgotten.json"


__all__ = ["Aged", "RetentionReport", "enforce_retention", "load_privacy"]
