"""What an incremental model has to make again, and how far its table has come.

A model with `follows:` takes the changes of landing batches. Followed is a table with `batch_seq` and `digest`, where
a digest that differs means that the batch must be read again, or another incremental model that follows one. The rows
of changed batches are made again: those with their `batch_seq`, or those in the model's `scope:`, a condition on its
columns that may name `getvariable('new_batches')`. Where rows carry no batch, a batch that changed or went makes the
whole table again, since nothing tells what it had brought.

`cursor:` is a query of one number that grows with the changes of another table. The model's query finds in
`getvariable('cursor')` what it gave on the last run, null when everything is to be made. `getvariable('made_at')` is a
number for others' cursors: the clock in microseconds, yet always more than on the table's last run, for clocks go back.

`digest:` names a column that is equal where rows are. Rows made again that the table has already then stay as they are,
with what they say of when they were made.

How far a table has come is noted in `meta.increments` of the same file, in the same transaction as its rows: a killed
run leaves both as they were.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, replace

import duckdb
import sqlglot

from warehouse.connection import MARTS_CATALOG, MARTS_SCHEMA
from warehouse.model_files import DIALECT, Model, ModelGraph, table_name, tables_read

# What models see of an increment: `new_batches` (null: all), `cursor` (null: from the beginning), `made_at`.
INCREMENT_VARIABLES = ("new_batches", "cursor", "made_at")
_CODE, _CURSOR, _MADE, _BATCH = "code", "cursor", "made at", "batch "


@dataclass(frozen=True)
class Increment:
    """*whole*: make everything. Else *batches* are the landing batches to make again (None where none are followed),
    and *cursor* is how far the last run had come. *made_at*: microseconds, more than the last run's. *marks*:
    what to note when it is done."""

    whole: bool
    batches: list[int] | None
    cursor: int | None
    made_at: int
    marks: dict[str, str]

    def everything(self) -> Increment:
        return replace(self, whole=True, batches=None, cursor=None)


def plan_increment(con: duckdb.DuckDBPyConnection, graph: ModelGraph, model: Model, *, whole: bool) -> Increment:
    """Compare what *model*'s table has seen with what there is now. *whole*: it is not there yet, or all is wanted."""
    batches = _followed(con, graph, model)
    cursor = _cursor(con, model)
    marks = {_CODE: _code(con, graph, model)} | {f"{_BATCH}{number}": digest for number, digest in batches.items()}
    if cursor is not None:
        marks[_CURSOR] = str(cursor)
    seen = _marks(con, model)
    made_at = max(time.time_ns() // 1000, int(seen.get(_MADE, 0)) + 1)
    marks[_MADE] = str(made_at)
    before = {int(part.removeprefix(_BATCH)): value for part, value in seen.items() if part.startswith(_BATCH)}
    changed = sorted(number for number in batches.keys() | before if batches.get(number) != before.get(number))
    since = int(seen[_CURSOR]) if _CURSOR in seen else None
    todo = Increment(False, changed if model.follows else None, since, made_at, marks)
    if whole or seen.get(_CODE) != marks[_CODE] or _went_back(model, since, cursor):
        return todo.everything()
    carries_batches = any(column.name == "batch_seq" for column in model.columns)
    if not carries_batches and any(number in before for number in changed):
        return todo.everything()
    return todo


def remember(con: duckdb.DuckDBPyConnection, model: Model, done: Increment) -> None:
    """Note how far the table of *model* has come, in the caller's transaction."""
    table = _table(con, model)
    con.execute(f"delete from {table} where model = ?", [model.name])
    con.execute(
        f"insert into {table} select ?, unnest(?::varchar[]), unnest(?::varchar[])",
        [model.name, list(done.marks), list(done.marks.values())],
    )


def _went_back(model: Model, since: int | None, now: int | None) -> bool:
    """Whether the table that the cursor counts is not the one of the last run, or an older copy of it."""
    return "cursor" in model.header and (since is None or now is None or now < since)


def _followed(con: duckdb.DuckDBPyConnection, graph: ModelGraph, model: Model) -> dict[int, str]:
    """Number of every landing batch to follow -> its digest."""
    if model.follows is None:
        return {}
    source = graph.models.get(model.follows)
    if source is not None and source.follows:
        seen = _marks(con, source)
        return {int(part.removeprefix(_BATCH)): value for part, value in seen.items() if part.startswith(_BATCH)}
    rows = con.execute(
        f"select batch_seq, md5(string_agg(digest, '|' order by source)) from {model.follows} group by batch_seq"
    ).fetchall()
    return dict(rows)


def _cursor(con: duckdb.DuckDBPyConnection, model: Model) -> int | None:
    if "cursor" not in model.header:
        return None
    query = sqlglot.parse_one(model.header["cursor"], dialect=DIALECT)
    if not all(_there(con, table_name(table)) for table in tables_read(query)):
        return None  # nothing to go on from
    found = con.execute(model.header["cursor"]).fetchall()[0][0]
    return None if found is None else int(found)


def _there(con: duckdb.DuckDBPyConnection, name: str) -> bool:
    found = con.execute(
        "select 1 from information_schema.tables where table_schema || '.' || table_name = ? limit 1", [name]
    )
    return bool(found.fetchall())


def _code(con: duckdb.DuckDBPyConnection, graph: ModelGraph, model: Model) -> str:
    """A digest of all text that decides what the rows are: the model's, its update's, and that of all it reads through.

    Tables count as well: what follows a table follows its batches, which stay as they were when its own text changes.
    """
    parameters = con.execute("select concat(getvariable('timezone'), '|', getvariable('salt'))").fetchall()[0][0]
    read = [model, *(graph.models[name] for name in sorted(graph.upstream(model.name)))]
    texts = [query.sql for part in read for query in (part, part.update) if query]
    return hashlib.sha256("\0".join([parameters, *texts]).encode()).hexdigest()


def _marks(con: duckdb.DuckDBPyConnection, model: Model) -> dict[str, str]:
    return dict(con.execute(f"select part, value from {_table(con, model)} where model = ?", [model.name]).fetchall())


def _table(con: duckdb.DuckDBPyConnection, model: Model) -> str:
    """Where it is noted, in the file of *model*'s table; made when it is not there."""
    schema = f"{MARTS_CATALOG}.meta" if model.schema == MARTS_SCHEMA else "meta"
    con.execute(f"create schema if not exists {schema}")
    con.execute(f"create table if not exists {schema}.increments (model varchar, part varchar, value varchar)")
    return f"{schema}.increments"
