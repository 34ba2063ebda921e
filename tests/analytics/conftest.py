"""A small brand in the marts, made by rule from a seed, on an in-memory connection like the pipeline's."""

from __future__ import annotations

from collections.abc import Iterator

import duckdb
import pytest

from tests.analytics.brand import AS_OF, ZONE, build_marts, open_memory


@pytest.fixture
def con() -> Iterator[duckdb.DuckDBPyConnection]:
    """An empty warehouse: internal database and marts, both in memory, variables set."""
    connection = open_memory(AS_OF, ZONE)
    yield connection
    connection.close()


@pytest.fixture
def brand(con: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
    """The same with a generated brand of 400 people in its marts."""
    build_marts(con, people=400, seed=7)
    return con
