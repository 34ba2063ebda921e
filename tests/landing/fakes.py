"""A source that gives what a test tells it to, and faults where it is told to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import duckdb
import polars as pl

from cdp.streams import Batch, Column, JsonLines, SourceCheck, Stream
from warehouse.home import Home
from warehouse.raw import register_raw

PEOPLE = Stream("canonical", "people", ("id",), (Column("id", required=True), Column("name"), Column("points", "int")))
EVENTS = Stream(
    "canonical",
    "events",
    ("id",),
    (Column("id", required=True), Column("name"), Column("at", "timestamp")),
    mode="append",
)


class Scripted:
    """Yields *items* in order; an exception among them is raised at its place. Keeps the state it was given."""

    def __init__(self, items: Sequence[Any]) -> None:
        self.items, self.given = items, dict[str, Any]()

    def streams(self) -> tuple[Stream, ...]:
        return (PEOPLE,)

    def pull(self, stream: Stream, state: Mapping[str, Any]) -> Iterator[Batch | JsonLines]:
        self.given = dict(state)
        for item in self.items:
            if isinstance(item, BaseException):
                raise item
            yield item

    def check(self) -> SourceCheck:
        return SourceCheck(True, ())


def page(*rows: tuple[Any, ...], **facts: Any) -> Batch:
    """A batch of people from (id, name, points) tuples, short ones filled up with null."""
    filled = [(*row, *[None] * (3 - len(row))) for row in rows]
    frame = pl.DataFrame(filled, schema={"id": pl.String, "name": pl.String, "points": pl.String}, orient="row")
    return Batch("people", frame, **facts)


def rows_of(home: Home, stream: Stream, select: str = "*") -> list[tuple[Any, ...]]:
    with duckdb.connect() as con:
        con.execute("set timezone = 'UTC'")
        register_raw(con, home, [], [stream])
        view = f"raw.{stream.family}__{stream.name}"
        return con.execute(f"select {select} from {view} order by _batch_seq, _row_number").fetchall()
