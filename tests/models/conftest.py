from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pytest

from tests.models.model_worlds import make_raw
from warehouse.connection import open_warehouse
from warehouse.home import Home
from warehouse.models import ModelGraph, load_models

MODELS = Path(__file__).parents[2] / "models"
AS_OF = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture(scope="session")
def graph() -> ModelGraph:
    return load_models(MODELS)


@pytest.fixture
def con(tmp_path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """A fresh warehouse with an empty raw layer."""
    with open_warehouse(Home(tmp_path), as_of=AS_OF, timezone="Asia/Shanghai") as connection:
        make_raw(connection)
        yield connection
