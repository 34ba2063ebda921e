"""The contract between connectors and landing: streams, columns, batches and rejects.

A connector declares `Stream`s and yields `Batch`es (or `JsonLines` pointers for large line files); it knows nothing of
DuckDB or Dagster. Landing adds the load metadata, types the declared columns, routes what cannot be read to rejects,
drops re-deliveries and commits data and state together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import polars as pl

ColumnType = Literal["text", "int", "float", "decimal", "bool", "timestamp", "date", "json", "text_list", "identifiers"]
Sensitivity = Literal["none", "personal", "secret"]
# append: a row never changes; the key alone drops re-deliveries (events).
# versioned: a changed row makes a new version of its key (tables read by cursor, files).
# snapshot: versioned, and a pull that ended cleanly marks keys that vanished as deleted.
Mode = Literal["append", "versioned", "snapshot"]

IDENTIFIER_DTYPE = pl.List(pl.Struct({"type": pl.String, "scope": pl.String, "value": pl.String}))

# What each declared type is in raw Parquet. Instants are UTC; money is decimal(18,2); ids are text and never cut.
POLARS_TYPES: dict[str, pl.DataType] = {
    "text": pl.String(),
    "int": pl.Int64(),
    "float": pl.Float64(),
    "decimal": pl.Decimal(18, 2),
    "bool": pl.Boolean(),
    "timestamp": pl.Datetime("us", "UTC"),
    "date": pl.Date(),
    "json": pl.String(),
    "text_list": pl.List(pl.String),
    "identifiers": IDENTIFIER_DTYPE,
}


@dataclass(frozen=True)
class Column:
    """One declared column of a stream. *required*: a row without it is rejected, a batch lacking the column fails."""

    name: str
    type: ColumnType = "text"
    required: bool = False
    sensitivity: Sensitivity = "none"
    description: str = ""


@dataclass(frozen=True)
class Stream:
    """One kind of row a source gives.

    *family* groups streams of the same shape over all sources: the raw view `raw.<family>__<name>` unites them, with
    `_source` telling them apart. *key* names the columns that identify a row inside one source. *reject_budget* is the
    share of rows of one load that may be rejected before the load fails. *dated_by*: a column that says when a row was
    true at its source, for rows that may come in any order (an older export loaded after a newer one); of two versions
    of a key the later dated one counts, and only among equal ones the one that came last.
    """

    family: str
    name: str
    key: tuple[str, ...]
    columns: tuple[Column, ...]
    mode: Mode = "versioned"
    cursor: str | None = None
    reject_budget: float = 0.01
    description: str = ""
    dated_by: str | None = None

    def column(self, name: str) -> Column:
        """The declared column called *name*; KeyError when there is none."""
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(name)


@dataclass(frozen=True)
class Reject:
    """One row that could not be read. *row_number* counts from 1 in its file or page; *raw* is the row as it came."""

    reason: str
    raw: str
    row_number: int | None = None
    column: str | None = None
    value: str | None = None


@dataclass(frozen=True)
class Batch:
    """Rows of one stream, in source order. Landing commits the rows and *state* together.

    *frame*: the declared columns, typed as in `POLARS_TYPES` or still text (landing casts text and rejects the rows
    whose cells do not fit); columns not declared are kept as one JSON object in `_extra` and reported as drift. An
    optional Int64 column `_row_number` gives each row's place in its file or page. *state*: what to resume from once
    this batch is committed. *received*: rows that came, rejected ones included. *complete*: True on the last batch of a
    full pull that ended cleanly; only then are vanished keys of a snapshot stream marked deleted. *keys_only*: the rows
    hold just the key columns of what still exists; they land nothing, and with *complete* they show what was deleted.
    *known*: columns beside the declared ones that are expected, so no drift. *again*: the rows were asked for by key;
    one that was rejected before with the same content is no new reject. *notes*: what a person should know.

    A pull that is a generator is sent, for a batch of `keys_only`, the `_row_number`s whose keys have never landed.
    """

    stream: str
    frame: pl.DataFrame
    state: Mapping[str, Any] = field(default_factory=dict)
    rejects: tuple[Reject, ...] = ()
    source_file: str | None = None
    complete: bool = False
    keys_only: bool = False
    known: tuple[str, ...] = ()
    again: bool = False
    notes: tuple[str, ...] = ()

    @property
    def received(self) -> int:
        return (0 if self.keys_only else self.frame.height) + len(self.rejects)


@dataclass(frozen=True)
class JsonLines:
    """A file of one JSON object a line, read by landing's engine instead of row by row in Python.

    *fields*: declared column -> top-level JSON key; the pseudo key `_line` is the hash of the whole line. Lines that
    are not JSON objects become rejects with their line number. *known*: further keys to expect; they are kept in
    `_extra` but are no news. *source_file*: the name to record, where *path* is a decompressed or transcoded copy.
    """

    stream: str
    path: Path
    fields: Mapping[str, str]
    state: Mapping[str, Any] = field(default_factory=dict)
    known: tuple[str, ...] = ()
    source_file: str | None = None


@dataclass(frozen=True)
class SourceCheck:
    """What `cdp source check` shows: one line per thing tried. *sample*: up to five rows, personal columns masked."""

    ok: bool
    steps: tuple[tuple[str, bool, str], ...]
    sample: pl.DataFrame | None = None


@dataclass(frozen=True)
class RawSource:
    """What SQL may know of one configured source; holds no secret.

    *settings*: rows of `raw._source_settings`. *identity_fields*: rows (field, type, scope) of `raw._identity_fields`,
    which say what identifier a native id field of a tracking source holds.
    """

    name: str
    connector: str
    family: str
    settings: Mapping[str, str] = field(default_factory=dict)
    identity_fields: tuple[tuple[str, str, str], ...] = ()


class Connector(Protocol):
    """One configured source. `pull` yields from *state* (empty = from the start) and may be stopped at any batch."""

    def streams(self) -> tuple[Stream, ...]: ...

    def pull(self, stream: Stream, state: Mapping[str, Any]) -> Iterator[Batch | JsonLines]: ...

    def check(self) -> SourceCheck: ...
