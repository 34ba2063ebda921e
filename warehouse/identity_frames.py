"""Between tables and arrays, without keeping what has been handed over."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa

ROWS_AT_ONCE = 4_000_000  # rows on their way from tables to arrays at one time: about 300 MB


def columns(con: duckdb.DuckDBPyConnection, sql: str) -> dict[str, np.ndarray]:
    """The columns of a query without nulls, as arrays; each lets go of its part of the answer when it is copied.

    By way of Polars: what Arrow has for it loads pandas.
    """
    table = con.sql(sql).to_arrow_table()
    found = {}
    for name in table.column_names:
        found[name] = pl.Series(table.column(0)).to_numpy(writable=True)
        table = table.remove_column(0)
    return found


@contextmanager
def handed_over(
    con: duckdb.DuckDBPyConnection, name: str, count: int, part: Callable[[slice], pl.DataFrame]
) -> Iterator[None]:
    """A table of *count* rows under *name* for one statement that reads it once, made part by part as it is read.

    A whole frame would stay until the transaction ends: DuckDB keeps what was registered in it, unregistered or not.
    """

    def batches() -> Iterator[pa.RecordBatch]:
        for begin in range(0, count, ROWS_AT_ONCE // 4):
            yield from part(slice(begin, begin + ROWS_AT_ONCE // 4)).to_arrow().to_batches()

    con.register(name, pa.RecordBatchReader.from_batches(part(slice(0, 0)).to_arrow().schema, batches()))
    try:
        yield
    except BaseException:
        with suppress(duckdb.TransactionException):  # refused once the transaction is broken; its rollback does it
            con.unregister(name)
        raise
    con.unregister(name)
