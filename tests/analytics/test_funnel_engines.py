"""One definition, three engines: the kernel, plain DuckDB SQL, and ClickHouse's windowFunnel give the same levels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pytest

from cdp.errors import ConfigError
from cdp.funnels.config import Funnel
from cdp.funnels.engine import Events, levels
from cdp.funnels.sql import level_sql

STEPS = ["view", "cart", "order", "again"]
CONDITIONS = [f"event = '{name}'" for name in STEPS]


def funnel(**options: Any) -> Funnel:
    steps = [{"id": name, "event": name} for name in STEPS]
    return Funnel.model_validate({"id": "f", "steps": steps, "window": {"total": "2h"}, **options})


def journey(events: int, users: int, seed: int) -> pl.DataFrame:
    """Random events of four steps and noise, a week long, seconds resolution so that ties occur."""
    rng = np.random.default_rng(seed)
    return pl.DataFrame(
        {
            "user_id": rng.integers(0, users, events),
            "t": rng.integers(0, 7 * 86_400, events) * 1_000_000,
            "event": rng.choice([*STEPS, "noise"], events, p=[0.3, 0.2, 0.15, 0.1, 0.25]),
        }
    )


def kernel_levels(data: pl.DataFrame, definition: Funnel) -> pl.DataFrame:
    ordered = (
        data.with_columns(mask=sum((pl.col("event") == name).cast(pl.Int64) * (1 << i) for i, name in enumerate(STEPS)))
        .filter(pl.col("mask") > 0)
        .sort("user_id", "t", "event")
    )
    users = ordered["user_id"].unique(maintain_order=True)
    offsets = np.searchsorted(ordered["user_id"].to_numpy(), users.to_numpy())
    zeros = np.zeros(ordered.height, dtype=np.int64)
    events = Events(
        np.append(offsets, ordered.height), ordered["t"].to_numpy(), ordered["mask"].to_numpy(), zeros, zeros
    )
    found = levels(definition, events, timezone="UTC")
    return pl.DataFrame(
        {
            "user_id": users.gather(found.unit),
            "level": found.level,
            "entry_us": found.entry,
            "goal_us": found.goal,
        }
    ).sort("user_id")


@pytest.fixture(scope="module")
def parquet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("journey") / "journey.parquet"
    journey(200_000, 8_000, 11).write_parquet(path)
    return path


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"ties": "strictly_after"},
        {"window": {}},
        {"window": {"total": "90m", "boundary": "exclusive"}},
        {"steps": [{"id": n, "event": n, **({"within": "40m"} if n != "view" else {})} for n in STEPS]},
    ],
    ids=["plain", "strictly_after", "unbounded", "exclusive", "within"],
)
def test_plain_sql_gives_levels_entries_and_goals_of_the_kernel(parquet: Path, options: dict[str, Any]) -> None:
    definition = funnel(**options)
    sql = level_sql(definition, f"read_parquet('{parquet}')", CONDITIONS, unit="user_id", time="t")
    with duckdb.connect() as con:
        ours = pl.from_arrow(
            con.sql(f"select user_id, level, entry_us, goal_us from ({sql}) order by 1").to_arrow_table()
        )
    expected = kernel_levels(pl.read_parquet(parquet), definition)
    assert ours.cast(pl.Int64).equals(expected.cast(pl.Int64))


@pytest.mark.parametrize(
    ("events", "users"), [(200_000, 8_000), pytest.param(1_000_000, 40_000, marks=pytest.mark.slow)]
)
def test_clickhouse_gives_the_same_table(tmp_path: Path, events: int, users: int) -> None:
    """Design row 24: one definition compiled for both engines, and the kernel."""
    chdb = pytest.importorskip("chdb", reason="test dependency of half a gigabyte, not on every machine")
    definition, parquet = funnel(), tmp_path / "journey.parquet"
    data = journey(events, users, 11)
    data.write_parquet(parquet)
    sql = level_sql(
        definition, f"file('{parquet}', Parquet)", CONDITIONS, unit="user_id", time="t", dialect="clickhouse"
    )
    rows = str(chdb.query(f"{sql} order by user_id", "CSV")).strip().splitlines()
    theirs = [tuple(map(int, row.split(","))) for row in rows]
    ours = kernel_levels(data, definition).select("user_id", "level").rows()
    assert theirs == ours
    plain = level_sql(definition, f"read_parquet('{parquet}')", CONDITIONS, unit="user_id", time="t")
    with duckdb.connect() as con:
        assert con.execute(f"select user_id, level from ({plain}) order by 1").fetchall() == ours


def test_a_funnel_that_is_not_plain_says_why() -> None:
    definition = funnel(order="adjacent", entry="first")
    with pytest.raises(ConfigError, match=r"order: adjacent, entry: first"):
        level_sql(definition, "events", CONDITIONS, unit="user_id", time="t")
