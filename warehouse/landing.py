"""Landing: what a connector yields, once, as Parquet in the raw zone, together with the state to resume from.

For every batch: received = landed + duplicates + rejected + suppressed. A batch is written to a temporary name, synced,
renamed, and only then committed to the ledger with its state; whatever a crash leaves beside that is an orphan and
removed by the next landing of the stream. Re-delivered rows are dropped by key (append) or by key and content
(versioned, snapshot).
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl

from cdp.errors import CdpError, FatalError, RejectBudgetError
from cdp.streams import POLARS_TYPES, Batch, Connector, JsonLines, Reject, Stream
from warehouse.home import Home
from warehouse.landing_digests import row_digests
from warehouse.landing_frames import META, Prepared, empty, prepare, with_extra
from warehouse.landing_ledger import BatchRecord, LandingLedger
from warehouse.landing_lines import KnownKeys, LinesResult, read_lines
from warehouse.suppression import Barrier

COMMIT_ROWS = 50_000
# A handful of bad rows in a small file is told, not fatal: the budget is a share, and shares of few rows say little.
GRACE_ROWS = 10
MEMORY_LIMIT = "2GB"
_REJECT_SCHEMA = {
    "source": pl.String(),
    "stream": pl.String(),
    "batch_id": pl.String(),
    "file": pl.String(),
    "row_number": pl.Int64(),
    "column": pl.String(),
    "reason": pl.String(),
    "value": pl.String(),
    "raw": pl.String(),
    "rejected_at": pl.Datetime("us", "UTC"),
    "landed": pl.Boolean(),
}


@dataclass(frozen=True)
class LandingReport:
    """What one landing of one stream did. *suppressed*: rows of people who were forgotten; *drift*: columns that came
    undeclared; *notes*: what a person should know."""

    source: str
    stream: str
    received: int = 0
    landed: int = 0
    duplicates: int = 0
    rejected: int = 0
    deleted: int = 0
    batches: int = 0
    seconds: float = 0.0
    drift: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    suppressed: int = 0


@dataclass
class _Totals:
    report: LandingReport
    drift: dict[str, None] = field(default_factory=dict)
    files: dict[str, None] = field(default_factory=dict)

    def add(self, record: BatchRecord) -> None:
        old = self.report
        self.report = replace(
            old,
            received=old.received + record.received,
            landed=old.landed + record.landed,
            duplicates=old.duplicates + record.duplicates,
            rejected=old.rejected + record.rejected,
            deleted=old.deleted + record.deleted,
            suppressed=old.suppressed + record.suppressed,
            batches=old.batches + 1,
        )


def land(
    home: Home,
    source: str,
    connector: Connector,
    stream: Stream,
    *,
    now: datetime,
    progress: Callable[[int], None] | None = None,
    full: bool = False,
) -> LandingReport:
    """Pull *stream* of *source* from where it stopped and land it; *full* starts over (unchanged rows change nothing).

    *now* becomes `_loaded_at`; *progress* is told the rows received after each commit. Raises `RejectBudgetError` when
    more rows were rejected than allowed (that batch is not landed, its rejects are kept for a look), and whatever the
    connector raises, after the pages read so far were committed.
    """
    ledger = LandingLedger(home.landing_ledger)
    with stream_lock(home, source, stream.name):
        ledger.start_attempt(source, stream.name, now)
        landing = _Landing(home, ledger, source, stream, now, full=full)
        try:
            report = landing.run(connector, progress)
        except CdpError as error:
            ledger.end_attempt(source, stream.name, now, f"{error.code}: {error.message}")
            raise
        except Exception as error:
            ledger.end_attempt(source, stream.name, now, type(error).__name__)
            raise
        finally:
            landing.close()
        ledger.end_attempt(source, stream.name, now, None)
    return report


class _Landing:
    """One run over one stream, under its lock."""

    def __init__(
        self, home: Home, ledger: LandingLedger, source: str, stream: Stream, now: datetime, *, full: bool
    ) -> None:
        self.home, self.ledger, self.source, self.stream, self.now = home, ledger, source, stream, now
        self.folder = home.raw / source / stream.name
        self.rejects_folder = home.rejects / source / stream.name
        self.seen_folder = home.root / "data" / "tmp" / "pulls" / source / stream.name
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_orphans(self.folder, self.rejects_folder, ledger.batches(source, stream.name))
        self.state, open_pull = ({}, None) if full else ledger.state(source, stream.name)
        self.pull_id = open_pull or f"p{ledger.reserve():010d}"
        self.resumed = open_pull is not None
        self.compares = stream.mode == "snapshot"
        self.totals = _Totals(LandingReport(source, stream.name))
        self.rejected_before = sum(
            record.rejected for record in ledger.batches(source, stream.name) if record.pull_id == self.pull_id
        )
        self.barrier = Barrier(home, source, stream, now)
        self.connection: duckdb.DuckDBPyConnection | None = None
        self.holds_known = False  # whether the connection has `known` and `seen`
        self.keys: KnownKeys | None = None  # what line files need of it; loaded when the first one comes

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()

    def run(self, connector: Connector, progress: Callable[[int], None] | None) -> LandingReport:
        started = time.perf_counter()
        for record in self._commits(connector):
            if progress is not None:
                progress(record.received)
        return replace(
            self.totals.report,
            seconds=time.perf_counter() - started,
            drift=tuple(self.totals.drift),
            files=tuple(self.totals.files),
        )

    def _commits(self, connector: Connector) -> Iterator[BatchRecord]:
        """Group what is pulled into commits of a sensible size; what comes from a file is committed as it comes.

        An item that cannot be landed is thrown into the connector, which goes on without it or lets the fault pass.
        """
        pending: list[Batch] = []
        pull = iter(connector.pull(self.stream, self.state))
        fault: CdpError | None = None
        unlanded: list[int] | None = None
        while True:
            try:
                item = _next(pull, unlanded) if fault is None else _throw(pull, fault)
            except Exception:
                # The pages before the fault are whole: commit them, so that the next try goes on behind them.
                if pending and fault is None:
                    yield self._commit(pending)
                raise
            fault, unlanded = None, None
            compares = isinstance(item, Batch) and item.keys_only and not item.complete
            if isinstance(item, Batch) and not compares:
                pending.append(item)
                if not (item.complete or item.source_file) and _rows(pending) < COMMIT_ROWS:
                    continue
            try:
                if pending:
                    yield self._commit(pending)
                if isinstance(item, JsonLines):
                    yield self._commit_lines(item)
                if isinstance(item, Batch) and compares:  # against all that came before it
                    unlanded = self._unlanded(item)
            except CdpError as error:
                fault = error
            pending = [item] if isinstance(item, Batch) and compares and fault is None else []
            if item is None and fault is None:
                return
            if item is None and fault is not None:
                raise fault

    # -- frames ------------------------------------------------------------------------------------------------------

    def _commit(self, batches: Sequence[Batch]) -> BatchRecord:
        started = time.perf_counter()
        complete, file = batches[-1].complete, batches[-1].source_file
        received = sum(batch.received for batch in batches)
        prepared = prepare(batches, self.stream)
        told = 0
        if any(batch.again for batch in batches):
            prepared, told = self._without_told(prepared)
        compared = sum(batch.frame.height for batch in batches if batch.keys_only)
        seq = self.ledger.reserve()
        self._check_budget(received + compared, prepared.rejects, seq, file)
        con = self._engine()
        hashed = self._hashed(prepared)
        news = self._fresh(con, hashed)
        fresh, suppressed = self.barrier.sift(con, news)
        self._note_seen(con, hashed, batches)
        tombstones = self._tombstones(con) if complete and self._may_delete(len(prepared.rejects)) else None
        frame = self._with_meta(fresh, tombstones, seq)
        self._write(frame, seq)
        self._write_rejects(prepared.rejects, seq, landed=True)
        self._write_seen(hashed, seq, complete=complete)
        record = BatchRecord(
            batch_seq=seq,
            batch_id=_batch_id(seq),
            source=self.source,
            stream=self.stream.name,
            family=self.stream.family,
            file=file,
            received=received,
            landed=fresh.height,
            duplicates=hashed.height - news.height + told,
            rejected=len(prepared.rejects),
            deleted=0 if tombstones is None else tombstones.height,
            loaded_at=self.now.isoformat(),
            pull_id=self.pull_id,
            seconds=time.perf_counter() - started,
            suppressed=suppressed,
        )
        known = {name for batch in batches for name in batch.known}
        drift = tuple(name for name in prepared.extras if not name.startswith("_") and name not in known)
        self._finish(record, batches[-1].state, drift, complete=complete)
        self._note(note for batch in batches for note in batch.notes)
        self._remember(con, fresh, tombstones)
        self.keys = None
        return record

    def _hashed(self, prepared: Prepared) -> pl.DataFrame:
        """The prepared rows with `_extra`, `_row_hash`, `_key_hash` and their order `_ord`.

        Rows of no file are numbered anew: their pages each count from 1, and of two versions of a row that came in one
        commit the higher number is the later one.
        """
        frame = with_extra(prepared.frame).with_row_index("_ord").with_columns(pl.col("_ord").cast(pl.Int64))
        placed = pl.when(pl.col("_source_file").is_null()).then(pl.col("_ord") + 1).otherwise(pl.col("_row_number"))
        frame = frame.with_columns(placed.alias("_row_number"))
        content = [*[column.name for column in self.stream.columns], "_extra"]
        return frame.with_columns(
            row_digests(frame, content).alias("_row_hash"), row_digests(frame, self.stream.key).alias("_key_hash")
        )

    def _fresh(self, con: duckdb.DuckDBPyConnection, hashed: pl.DataFrame) -> pl.DataFrame:
        """Rows that are news: a new key (append), or content other than the version before it (versioned)."""
        con.register("hashes", hashed.select("_ord", "_key_hash", "_row_hash").to_arrow())
        try:
            again = con.execute("select count(*) from hashes semi join known using (_key_hash)").fetchall()[0][0]
            if not again and hashed["_key_hash"].n_unique() == hashed.height:
                return hashed
            if self.stream.mode == "append":
                sql = """
                    select min(_ord) as _ord from hashes anti join known using (_key_hash) group by _key_hash
                """
            else:
                sql = """
                    select _ord from (
                        select hashes._ord, hashes._row_hash, coalesce(
                            lag(hashes._row_hash) over (partition by hashes._key_hash order by hashes._ord),
                            known._row_hash
                        ) as before
                        from hashes left join known using (_key_hash)
                    ) where before is distinct from _row_hash
                """
            keep = _frame(con, sql)["_ord"].cast(pl.Int64)
        finally:
            con.unregister("hashes")
        return hashed if keep.len() == hashed.height else hashed.filter(pl.col("_ord").is_in(keep.implode()))

    def _with_meta(self, fresh: pl.DataFrame, tombstones: pl.DataFrame | None, seq: int) -> pl.DataFrame:
        frame = fresh.drop("_ord").with_columns(pl.lit(False).alias("_deleted"))
        if tombstones is not None and tombstones.height:
            frame = pl.concat([frame, tombstones], how="diagonal_relaxed")
        frame = frame.with_columns(
            pl.lit(self.source).alias("_source"),
            pl.lit(_batch_id(seq)).alias("_batch_id"),
            pl.lit(seq, dtype=pl.Int64).alias("_batch_seq"),
            pl.lit(self.now, dtype=pl.Datetime("us", "UTC")).alias("_loaded_at"),
            self._version_at().alias("_version_at"),
        )
        return frame.select(*[column.name for column in self.stream.columns], "_extra", *META)

    def _version_at(self) -> pl.Expr:
        """When a row was true at its source; a row that does not say, when it was loaded. Null where order tells."""
        instant, dated_by = pl.Datetime("us", "UTC"), self.stream.dated_by
        if dated_by is None or self.stream.mode != "versioned":
            return pl.lit(None, dtype=instant)
        return pl.coalesce(dated_by, pl.lit(self.now, dtype=instant))

    def _write(self, frame: pl.DataFrame, seq: int) -> None:
        if not frame.height:
            return
        target = self.folder / f"{_batch_id(seq)}.parquet"
        temporary = target.with_name(f".{target.name}.tmp")
        frame.write_parquet(temporary, compression="zstd", compression_level=1)
        _rename_synced(temporary, target)

    # -- line files --------------------------------------------------------------------------------------------------

    def _commit_lines(self, lines: JsonLines) -> BatchRecord:
        """Land one line file as one batch. Only append streams come as lines."""
        if self.stream.mode != "append":
            raise FatalError(f"stream `{self.stream.name}` is {self.stream.mode}: only append streams come as lines")
        started = time.perf_counter()
        seq = self.ledger.reserve()
        target = self.folder / f"{_batch_id(seq)}.parquet"
        file = lines.source_file or str(lines.path)
        constants = {
            "_source": self.source,
            "_batch_id": _batch_id(seq),
            "_batch_seq": seq,
            "_loaded_at": self.now,
            "_source_file": file,
            "_deleted": False,
        }
        known, self.keys = self._known_keys(), None  # a file that does not land leaves its keys in there
        result = read_lines(self._connect(), lines, self.stream, target, constants, known)
        rejects = tuple((file, reject) for reject in result.rejects)
        try:
            self._check_budget(result.received, rejects, seq, file)
        except RejectBudgetError:
            result.discard()
            raise
        suppressed = self.barrier.sift_file(self._connect(), result.path) if result.landed else 0
        result = replace(result, landed=result.landed - suppressed)
        if result.landed:
            _rename_synced(result.path, target)
        else:
            result.discard()
        self._write_rejects(rejects, seq, landed=True)
        seconds = time.perf_counter() - started
        record = replace(self._lines_record(file, result, seq, seconds), suppressed=suppressed)
        self._finish(record, lines.state, result.drift, complete=False)
        self.keys = known
        if result.landed and self.holds_known:
            self._connect().execute("insert into known select _key_hash, null from read_parquet(?)", [str(target)])
        return record

    def _known_keys(self) -> KnownKeys:
        """The digests of what has landed of this stream."""
        if self.keys is None:
            files = landed_files(self.home, self.ledger, self.source, self.stream.name)
            digests = [pl.read_parquet(file, columns=["_key_hash"])["_key_hash"].to_numpy() for file in files]
            self.keys = KnownKeys(np.concatenate([np.empty(0, np.uint64), *digests]))
        return self.keys

    def _lines_record(self, file: str, result: LinesResult, seq: int, seconds: float) -> BatchRecord:
        return BatchRecord(
            batch_seq=seq,
            batch_id=_batch_id(seq),
            source=self.source,
            stream=self.stream.name,
            family=self.stream.family,
            file=file,
            received=result.received,
            landed=result.landed,
            duplicates=result.duplicates,
            rejected=len(result.rejects),
            deleted=0,
            loaded_at=self.now.isoformat(),
            pull_id=self.pull_id,
            seconds=seconds,
        )

    # -- both --------------------------------------------------------------------------------------------------------

    def _finish(self, record: BatchRecord, state: Any, drift: Sequence[str], *, complete: bool) -> None:
        """Commit: from here on the batch is true."""
        open_pull = None if complete or not self.compares else self.pull_id
        if record.received or record.deleted or record.file:
            self.ledger.commit(record, state, drift=drift, open_pull=open_pull)
            self.totals.add(record)
        else:  # nothing came, yet the cursor may have moved on
            self.ledger.save_state(self.source, self.stream.name, state, at=self.now, open_pull=open_pull)
        if complete:
            shutil.rmtree(self.seen_folder, ignore_errors=True)
        self.totals.drift.update(dict.fromkeys(drift))
        if record.file:
            self.totals.files[record.file] = None

    def _note(self, notes: Iterable[str]) -> None:
        report = self.totals.report
        self.totals.report = replace(report, notes=tuple(dict.fromkeys([*report.notes, *notes])))

    def _check_budget(
        self, received: int, rejects: Sequence[tuple[str | None, Reject]], seq: int, file: str | None
    ) -> None:
        count = len(rejects)
        small = count <= GRACE_ROWS and count * 2 <= received and self.stream.reject_budget > 0
        if count <= self.stream.reject_budget * received or small:
            return
        self._write_rejects(rejects, seq, landed=False)
        shown = "; ".join(f"row {reject.row_number}: {reject.reason}" for _, reject in rejects[:3])
        raise RejectBudgetError(
            f"{self.source}.{self.stream.name}{f' ({file})' if file else ''}: {count} of {received} rows were rejected,"
            f" more than the budget of {self.stream.reject_budget:.1%}; first: {shown}",
            hint=f"see them with `cdp source rejects {self.source}`; mend the input or the mapping,"
            " or raise `reject_budget` in config/sources.yaml",
        )

    def _connect(self) -> duckdb.DuckDBPyConnection:
        """A DuckDB of this run's own, in memory."""
        if self.connection is None:
            spill = self.home.root / "data" / "tmp" / "duckdb"
            spill.mkdir(parents=True, exist_ok=True)
            self.connection = duckdb.connect(config={"memory_limit": MEMORY_LIMIT, "temp_directory": str(spill)})
            self.connection.execute("set timezone = 'UTC'")
        return self.connection

    def _engine(self) -> duckdb.DuckDBPyConnection:
        """That DuckDB, holding the hashes of what has landed."""
        con = self._connect()
        if not self.holds_known:
            _load_known(con, landed_files(self.home, self.ledger, self.source, self.stream.name), self.stream)
            con.execute("create table seen (_key_hash ubigint)")
            files = [str(path) for path in sorted(self.seen_folder.glob(f"{self.pull_id}-*.parquet"))]
            if self.resumed and files:
                con.execute("insert into seen select _key_hash from read_parquet(?)", [files])
            self.holds_known = True
        return con

    def _remember(self, con: duckdb.DuckDBPyConnection, fresh: pl.DataFrame, tombstones: pl.DataFrame | None) -> None:
        parts = [part.select("_key_hash", "_row_hash") for part in (fresh, tombstones) if part is not None]
        latest = pl.concat(parts).unique("_key_hash", keep="last", maintain_order=True)
        if not latest.height:
            return
        con.register("latest", latest.to_arrow())
        con.execute("delete from known where _key_hash in (select _key_hash from latest)")
        con.execute("insert into known select _key_hash, _row_hash from latest")
        con.unregister("latest")

    # -- deletes -----------------------------------------------------------------------------------------------------

    def _note_seen(self, con: duckdb.DuckDBPyConnection, hashed: pl.DataFrame, batches: Sequence[Batch]) -> None:
        keys = [batch for batch in batches if batch.keys_only]
        if keys and not self.compares:
            self.compares = True  # a key comparison follows an incremental pull: only its keys count as seen
        if self.stream.mode == "snapshot" and hashed.height:
            con.register("hashes", hashed.select("_key_hash").to_arrow())
            con.execute("insert into seen select _key_hash from hashes")
            con.unregister("hashes")
        for batch in keys:
            self._note_keys(con, batch)

    def _note_keys(self, con: duckdb.DuckDBPyConnection, batch: Batch) -> None:
        if not batch.frame.height:
            return
        con.register("keys", self._keys(batch).to_arrow())
        con.execute("insert into seen select _key_hash from keys")
        con.unregister("keys")

    def _keys(self, batch: Batch) -> pl.DataFrame:
        """`_row_number` and `_key_hash` of a batch of keys."""
        typed = prepare([replace(batch, keys_only=False)], replace(self.stream, columns=self._key_columns())).frame
        return typed.select("_row_number", row_digests(typed, self.stream.key).alias("_key_hash"))

    def _unlanded(self, batch: Batch) -> list[int]:
        """The rows of a batch of keys that have never landed, or landed as deleted."""
        if not batch.frame.height:
            return []
        con = self._engine()
        con.register("keys", self._keys(batch).to_arrow())
        try:
            sql = """
                select _row_number from keys anti join (select _key_hash from known where _row_hash <> 0) as known
                using (_key_hash) order by _row_number
            """
            return _frame(con, sql)["_row_number"].to_list()
        finally:
            con.unregister("keys")

    def _without_told(self, prepared: Prepared) -> tuple[Prepared, int]:
        """*prepared* without the rejects that are kept already, and how many those were."""
        files = [*self.rejects_folder.glob("b*.parquet")]
        if not prepared.rejects or not files:
            return prepared, 0
        kept = set(pl.read_parquet(files, columns=["raw"])["raw"])
        new = tuple(pair for pair in prepared.rejects if self.barrier.reject(pair[1]).raw not in kept)
        return replace(prepared, rejects=new), len(prepared.rejects) - len(new)

    def _key_columns(self) -> tuple[Any, ...]:
        return tuple(self.stream.column(name) for name in self.stream.key)

    def _may_delete(self, rejected: int) -> bool:
        """Only where every row of the pull could be read: a row in rejects is still there at the source."""
        if not self.compares:
            return False
        if rejected + self.rejected_before + self.totals.report.rejected:
            self._note(["rows were rejected, so nothing was marked deleted"])
            return False
        return True

    def _tombstones(self, con: duckdb.DuckDBPyConnection) -> pl.DataFrame | None:
        """One row per key that is known, not deleted, and was not in this pull: key columns, the rest empty."""
        files = landed_files(self.home, self.ledger, self.source, self.stream.name)
        if not files:
            return None
        gone = _frame(
            con,
            "select _key_hash from known where _row_hash <> 0 and _key_hash not in (select _key_hash from seen)",
        )
        if not gone.height:
            return None
        con.register("gone", gone.to_arrow())
        names = ", ".join(f"arg_max({_quoted(name)}, (_batch_seq, _row_number)) as {_quoted(name)}"
                          for name in self.stream.key)  # fmt: skip
        rows = _frame(
            con,
            f"select _key_hash, {names} from read_parquet(?, union_by_name = true)"
            " where _key_hash in (select _key_hash from gone) group by _key_hash order by _key_hash",
            [files],
        )
        con.unregister("gone")
        blank = empty(self.stream).with_columns(pl.lit(None, pl.String).alias("_extra"))
        return pl.concat([blank, rows], how="diagonal_relaxed").with_columns(
            pl.int_range(1, pl.len() + 1, dtype=pl.Int64).alias("_row_number") + 2**40,
            pl.lit(0, dtype=pl.UInt64).alias("_row_hash"),
            pl.lit(True).alias("_deleted"),
        )

    def _write_seen(self, hashed: pl.DataFrame, seq: int, *, complete: bool) -> None:
        """Keep the keys of an unfinished full pull, so that its resumption knows what the first part held."""
        if complete or self.stream.mode != "snapshot" or not hashed.height:
            return
        self.seen_folder.mkdir(parents=True, exist_ok=True)
        target = self.seen_folder / f"{self.pull_id}-{seq}.parquet"
        temporary = target.with_name(f".{target.name}.tmp")
        hashed.select("_key_hash").write_parquet(temporary)
        _rename_synced(temporary, target)

    def _write_rejects(self, rejects: Sequence[tuple[str | None, Reject]], seq: int, *, landed: bool) -> None:
        if not rejects:
            return
        self.rejects_folder.mkdir(parents=True, exist_ok=True)
        name = f"{_batch_id(seq)}.parquet" if landed else "failed.parquet"
        rows = [
            (
                self.source,
                self.stream.name,
                _batch_id(seq),
                file,
                reject.row_number,
                reject.column,
                reject.reason,
                reject.value,
                reject.raw,
                self.now,
                landed,
            )
            for file, reject in ((file, self.barrier.reject(reject)) for file, reject in rejects)
        ]
        target = self.rejects_folder / name
        temporary = target.with_name(f".{name}.tmp")
        pl.DataFrame(rows, schema=_REJECT_SCHEMA, orient="row").write_parquet(temporary)
        _rename_synced(temporary, target)


def _rows(batches: Sequence[Batch]) -> int:
    return sum(batch.frame.height for batch in batches)


def _next(pull: Iterator[Batch | JsonLines], unlanded: list[int] | None) -> Batch | JsonLines | None:
    """The connector's next item, None at its end; *unlanded* answers the keys it gave last."""
    if unlanded is None or not isinstance(pull, Generator):
        return next(pull, None)
    try:
        item: Batch | JsonLines = pull.send(unlanded)
    except StopIteration:
        return None
    return item


def _throw(pull: Iterator[Batch | JsonLines], fault: CdpError) -> Batch | JsonLines | None:
    """Tell the connector that its last item was not landed; its next item, None at its end."""
    if not isinstance(pull, Generator):
        raise fault
    try:
        item: Batch | JsonLines = pull.throw(fault)
    except StopIteration:
        return None
    return item


def _frame(con: duckdb.DuckDBPyConnection, sql: str, parameters: Sequence[Any] = ()) -> pl.DataFrame:
    frame = pl.from_arrow(con.sql(sql, params=list(parameters) or None).to_arrow_table())
    return frame if isinstance(frame, pl.DataFrame) else frame.to_frame()


def landed_files(home: Home, ledger: LandingLedger, source: str, stream: str) -> list[str]:
    """The committed Parquet files of a stream, in commit order."""
    return [
        str(home.raw / source / stream / f"{record.batch_id}.parquet")
        for record in ledger.batches(source, stream)
        if record.landed + record.deleted
    ]


def _load_known(con: duckdb.DuckDBPyConnection, files: list[str], stream: Stream) -> None:
    con.execute("create table known (_key_hash ubigint, _row_hash ubigint)")
    if not files:
        return
    if stream.mode == "append":
        sql = "insert into known select _key_hash, _row_hash from read_parquet(?, union_by_name = true)"
    else:
        sql = """
            insert into known select _key_hash, arg_max(_row_hash, (_batch_seq, _row_number))
            from read_parquet(?, union_by_name = true) group by _key_hash
        """
    con.execute(sql, [files])


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _batch_id(seq: int) -> str:
    return f"b{seq:010d}"


def _rename_synced(temporary: Path, target: Path) -> None:
    """Rename once the bytes are on disk, and the name too."""
    _sync(temporary)
    os.replace(temporary, target)
    _sync(target.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_orphans(folder: Path, rejects: Path, records: Sequence[BatchRecord]) -> None:
    """Remove what a crash left in the two folders of a stream: files of batches that were never committed."""
    known = {record.batch_id for record in records}
    for path in [item for place in (folder, rejects) if place.is_dir() for item in place.iterdir()]:
        half_written = path.name.startswith(".") and path.name.endswith(".tmp")
        unknown = path.suffix == ".parquet" and path.stem not in known and path.stem != "failed"
        if half_written or unknown:
            path.unlink()


@contextmanager
def stream_lock(home: Home, source: str, stream: str) -> Iterator[None]:
    """One landing of a stream at a time, over all processes; a second one is told, not queued."""
    folder = home.root / "data" / "tmp" / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / f"{source}.{stream}", "w", encoding="utf-8") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FatalError(
                f"{source}.{stream} is being landed by another process", hint="wait for it to end, then try again"
            ) from None
        yield


__all__ = ["POLARS_TYPES", "LandingReport", "land", "landed_files", "remove_orphans"]
