"""Helpers of these tests: landing batches as the project does, reading the identity registry."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime, timedelta

import duckdb
import polars as pl

from warehouse.home import Home
from warehouse.landing_ledger import BatchRecord, LandingLedger

NOW = datetime(2026, 11, 20, 4, 0, tzinfo=UTC)


def land_batches(home: Home, source: str, stream: str, counts: list[int], *, until: datetime = NOW) -> None:
    """One committed batch a day, the last one an hour before *until*, with its Parquet file."""
    ledger = LandingLedger(home.landing_ledger)
    for index, count in enumerate(counts):
        at = until - timedelta(days=len(counts) - 1 - index, hours=1)
        seq = ledger.reserve()
        batch = f"{seq:09d}"
        path = home.raw / source / stream / f"{batch}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pl.DataFrame({"order_id": [f"{batch}-{row}" for row in range(count)]}).write_parquet(path)
        record = BatchRecord(
            seq, batch, source, stream, "canonical", None, count, count, 0, 0, 0, at.isoformat(), batch, 0.1
        )
        ledger.commit(record, {}, open_pull=None)


def registry(home: Home) -> list[tuple[str]]:
    with closing(duckdb.connect(str(home.warehouse), read_only=True)) as con:
        return con.execute("select one_id from identity.one_id_registry order by 1").fetchall()
