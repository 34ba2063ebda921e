"""A small home: landing ledger with raw files, both databases, a sync ledger, a key."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import datetime
from pathlib import Path

import pytest

from tests.operations.homes import NOW, land_batches
from warehouse.connection import open_warehouse
from warehouse.home import Home
from warehouse.sync_ledger import SyncLedger


@pytest.fixture
def now() -> datetime:
    return NOW


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path / "品牌 home")
    for folder in ("config", "dagster", "inbox", "data/published", "secrets"):
        (made.root / folder).mkdir(parents=True)
    made.secrets.chmod(0o700)
    (made.config / "cdp.yaml").write_text("name: 山茶集\n", encoding="utf-8")
    (made.config / "sources.yaml").write_text("sources: {}\n", encoding="utf-8")
    (made.dagster / "dagster.yaml").write_text("telemetry: {enabled: false}\n", encoding="utf-8")
    (made.secrets / "identity.key").write_text("6b" * 32, encoding="ascii")
    (made.secrets / "identity.key").chmod(0o600)
    land_batches(made, "shop", "orders", [100] * 3)
    with open_warehouse(made, as_of=NOW, timezone="Asia/Shanghai") as con:
        con.execute("create table identity.one_id_registry as select 'p' || range as one_id from range(50000)")
        con.execute("create table marts_db.marts.dim_people as select 'p' || range as one_id from range(1000)")
    with SyncLedger(made.sync_ledger):
        pass
    with closing(sqlite3.connect(made.sync_ledger)) as con:
        con.executemany(
            "insert into ops (run_id, seq, phase, userid, external_userid, add_keys, remove_keys, state)"
            " values (1, ?, 1, 'u', 'e', '[]', '[]', 'verified')",
            [(number,) for number in range(500)],
        )
        con.commit()
    return made
