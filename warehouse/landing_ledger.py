"""The landing ledger: which batches are committed, with their counts and the state to resume from.

One SQLite transaction commits a batch and the state it leads to. A Parquet file the ledger does not know is an orphan
of a crash: readers ignore it and the next landing of its stream removes it.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

_SCHEMA = """
create table if not exists sequence (next integer not null);
create table if not exists batches (
    batch_seq integer primary key,
    batch_id text not null unique,
    source text not null,
    stream text not null,
    family text not null,
    file text,
    received integer not null,
    landed integer not null,
    duplicates integer not null,
    rejected integer not null,
    deleted integer not null,
    loaded_at text not null,
    pull_id text not null,
    seconds real not null,
    suppressed integer not null default 0,
    check (received = landed + duplicates + rejected + suppressed)
);
create index if not exists batches_by_stream on batches (source, stream);
create table if not exists states (
    source text not null,
    stream text not null,
    state_json text not null,
    pull_id text,
    updated_at text not null,
    primary key (source, stream)
);
create table if not exists drift (
    source text not null,
    stream text not null,
    column_name text not null,
    batch_seq integer not null,
    seen_at text not null,
    primary key (source, stream, column_name)
);
create table if not exists attempts (
    source text not null,
    stream text not null,
    started_at text not null,
    ended_at text,
    error text,
    primary key (source, stream)
);
-- rows taken out of a committed batch: by a request to be forgotten, or because their time was over
create table if not exists erasures (
    batch_id text not null,
    part text not null,
    cause text not null,
    rows integer not null,
    erased_at text not null,
    primary key (batch_id, part, cause)
);
"""
# A ledger made before rows could be suppressed: its check knows three kinds of rows.
_WITH_SUPPRESSED = """
alter table batches rename to batches_before;
drop index if exists batches_by_stream;
{schema}
insert into batches select *, 0 from batches_before;
drop table batches_before;
"""

Part = Literal["raw", "rejects"]


@dataclass(frozen=True)
class BatchRecord:
    """One committed batch. received = landed + duplicates + rejected + suppressed (rows of people who were forgotten,
    come again); *deleted*: tombstones beside them."""

    batch_seq: int
    batch_id: str
    source: str
    stream: str
    family: str
    file: str | None
    received: int
    landed: int
    duplicates: int
    rejected: int
    deleted: int
    loaded_at: str
    pull_id: str
    seconds: float
    suppressed: int = 0


_FIELDS = ", ".join(BatchRecord.__dataclass_fields__)


class LandingLedger:
    """The SQLite file at *path*; created on first use, and safe to open from several processes."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        con = sqlite3.connect(self.path, timeout=60, isolation_level=None)
        try:
            con.execute("pragma synchronous = full")
            con.executescript(_SCHEMA)
            _carry_over(con)
            yield con
        finally:
            con.close()

    def reserve(self) -> int:
        """The next batch number. A number lost to a crash is never given again."""
        with self._open() as con:
            con.execute("begin immediate")
            row = con.execute("select next from sequence").fetchone()
            if row is None:
                con.execute("insert into sequence values (2)")
            else:
                con.execute("update sequence set next = next + 1")
            con.execute("commit")
            return int(row[0]) if row else 1

    def commit(
        self,
        record: BatchRecord,
        state: Mapping[str, Any],
        *,
        drift: Sequence[str] = (),
        open_pull: str | None,
    ) -> None:
        """Make *record* and *state* true together. *open_pull*: the pull to go on with, None when it ended."""
        text = json.dumps(state, ensure_ascii=False, sort_keys=True)
        values = [getattr(record, name) for name in BatchRecord.__dataclass_fields__]
        marks = ", ".join("?" for _ in values)
        with self._open() as con:
            con.execute("begin immediate")
            con.execute(f"insert into batches ({_FIELDS}) values ({marks})", values)
            self._put_state(con, record.source, record.stream, text, open_pull, record.loaded_at)
            con.executemany(
                "insert or ignore into drift values (?, ?, ?, ?, ?)",
                [(record.source, record.stream, name, record.batch_seq, record.loaded_at) for name in drift],
            )
            con.execute("commit")

    def save_state(
        self, source: str, stream: str, state: Mapping[str, Any], *, at: datetime, open_pull: str | None
    ) -> None:
        """Save *state* where nothing came with it: an empty pull still moves its cursor on."""
        text = json.dumps(state, ensure_ascii=False, sort_keys=True)
        with self._open() as con:
            con.execute("begin immediate")
            self._put_state(con, source, stream, text, open_pull, at.isoformat())
            con.execute("commit")

    @staticmethod
    def _put_state(
        con: sqlite3.Connection, source: str, stream: str, text: str, open_pull: str | None, at: str
    ) -> None:
        con.execute(
            "insert into states values (?, ?, ?, ?, ?) on conflict (source, stream) do update set"
            " state_json = excluded.state_json, pull_id = excluded.pull_id, updated_at = excluded.updated_at",
            [source, stream, text, open_pull, at],
        )

    def state(self, source: str, stream: str) -> tuple[dict[str, Any], str | None]:
        """The state to resume from and the pull that is still open; ({}, None) at the very start."""
        if not self.path.exists():
            return {}, None
        with self._open() as con:
            row = con.execute(
                "select state_json, pull_id from states where source = ? and stream = ?", [source, stream]
            ).fetchone()
        return (json.loads(row[0]), row[1]) if row else ({}, None)

    def batches(self, source: str | None = None, stream: str | None = None) -> list[BatchRecord]:
        """Committed batches in commit order."""
        if not self.path.exists():
            return []
        with self._open() as con:
            rows = con.execute(
                f"select {_FIELDS} from batches where (?1 is null or source = ?1) and (?2 is null or stream = ?2)"
                " order by batch_seq",
                [source, stream],
            ).fetchall()
        return [BatchRecord(*row) for row in rows]

    def note_erased(self, batch_id: str, part: Part, cause: str, rows: int, *, at: datetime) -> None:
        """*rows* in all of this part of a batch are erased for *cause*. Written before the file changes places, so
        that a run that takes over writes the same."""
        with self._open() as con:
            con.execute(
                "insert or replace into erasures values (?, ?, ?, ?, ?)",
                [batch_id, part, cause, rows, at.isoformat()],
            )

    def erased(self, *, but: str = "") -> dict[tuple[str, str], int]:
        """(batch id, part) -> rows taken out of it since it was committed, for every cause *but* one."""
        if not self.path.exists():
            return {}
        with self._open() as con:
            rows = con.execute(
                "select batch_id, part, sum(rows) from erasures where cause <> ? group by 1, 2", [but]
            ).fetchall()
        return {(batch, part): int(count) for batch, part, count in rows}

    def rewritten(self) -> dict[str, str]:
        """Batch id -> when something was last taken out of its raw file, whole rows or single values (ISO, UTC)."""
        if not self.path.exists():
            return {}
        with self._open() as con:
            rows = con.execute(
                "select batch_id, max(erased_at) from erasures where part = 'raw' group by batch_id"
            ).fetchall()
        return dict(rows)

    def start_attempt(self, source: str, stream: str, at: datetime) -> None:
        """Note that a landing began; a crash leaves it without an end."""
        with self._open() as con:
            con.execute(
                "insert or replace into attempts (source, stream, started_at) values (?, ?, ?)",
                [source, stream, at.isoformat()],
            )

    def end_attempt(self, source: str, stream: str, at: datetime, error: str | None) -> None:
        with self._open() as con:
            con.execute(
                "update attempts set ended_at = ?, error = ? where source = ? and stream = ?",
                [at.isoformat(), error, source, stream],
            )

    def attempts(self) -> dict[tuple[str, str], tuple[str, str | None, str | None]]:
        """(source, stream) -> (started, ended, error) of the last landing tried."""
        if not self.path.exists():
            return {}
        with self._open() as con:
            rows = con.execute("select source, stream, started_at, ended_at, error from attempts").fetchall()
        return {(row[0], row[1]): (row[2], row[3], row[4]) for row in rows}

    def drift(self) -> list[tuple[str, str, str, str]]:
        """(source, stream, column, first seen) of every column that came undeclared."""
        if not self.path.exists():
            return []
        with self._open() as con:
            return con.execute("select source, stream, column_name, seen_at from drift order by 1, 2, 3").fetchall()


def _carry_over(con: sqlite3.Connection) -> None:
    """Give a ledger of before the column `suppressed`; one transaction, and nothing where it is there."""
    if any(row[1] == "suppressed" for row in con.execute("pragma table_info(batches)")):
        return
    con.executescript(f"begin immediate;{_WITH_SUPPRESSED.format(schema=_SCHEMA)}commit;")
