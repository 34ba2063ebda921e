"""What is too old goes by rule, once, and the ledgers know."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from cdp.errors import ConfigError
from cdp.streams import Batch, Column, Stream
from tests.landing.fakes import Scripted
from warehouse.connection import open_warehouse
from warehouse.home import Home
from warehouse.landing import land
from warehouse.raw import reconcile
from warehouse.retention import RetentionReport, enforce_retention

NOW = datetime(2026, 11, 20, 4, 0, tzinfo=UTC)
EVENTS = Stream(
    "canonical",
    "events",
    ("event_id",),
    (Column("event_id", required=True), Column("event_at", "timestamp"), Column("name")),
    mode="append",
)


def home_with(tmp_path: Path, rules: str) -> Home:
    home = Home(tmp_path / "home")
    (home.config).mkdir(parents=True)
    (home.config / "cdp.yaml").write_text("name: x\n", encoding="utf-8")
    (home.config / "privacy.yaml").write_text(f"retention:\n{rules}", encoding="utf-8")
    rows = [(f"e{days}", (NOW - timedelta(days=days)).isoformat(), "view") for days in (1, 20, 40, 400)]
    frame = pl.DataFrame([*rows, ("e-none", None, "view")], schema=["event_id", "event_at", "name"], orient="row")
    land(home, "app", Scripted([Batch("events", frame)]), EVENTS, now=NOW)
    return home


def enforce(home: Home, *, apply: bool = True) -> RetentionReport:
    return enforce_retention(home, now=NOW, streams=[EVENTS], timezone="Asia/Shanghai", apply=apply)


def test_raw_rows_go_by_when_the_person_acted_and_batches_reconcile(tmp_path: Path) -> None:
    home = home_with(tmp_path, "  - {stream: canonical.events, keep: 30d}\n")
    assert [(item.place, item.rows) for item in enforce(home, apply=False).removals] == [("data/raw/app/events", 2)]
    [path] = home.raw.glob("*/*/*.parquet")
    assert pl.read_parquet(path).height == 5, "asking removes nothing"
    assert enforce(home).rows == 2
    left = pl.read_parquet(path).select("event_id", "_row_number").rows()
    assert left == [("e1", 1), ("e20", 2), ("e-none", 5)], "what has no time counts from when it was loaded"
    assert [(row.ok, row.erased) for row in reconcile(home)] == [(True, 2)]
    assert enforce(home).rows == 0, "once"
    later = enforce_retention(home, now=NOW + timedelta(days=15), streams=[EVENTS], timezone="Asia/Shanghai")
    assert later.rows == 1
    assert [(row.ok, row.erased) for row in reconcile(home)] == [(True, 3)]


def test_another_source_is_left_alone(tmp_path: Path) -> None:
    assert enforce(home_with(tmp_path, "  - {stream: canonical.events, source: web, keep: 30d}\n")).rows == 0


def test_tables_and_folders(tmp_path: Path) -> None:
    home = home_with(
        tmp_path, "  - {table: activation.tag_history, by: valid_to, keep: 30d}\n  - {files: logs, keep: 7d}\n"
    )
    with open_warehouse(home, as_of=NOW, timezone="Asia/Shanghai") as con:
        con.execute("create table activation.tag_history as select 'p' as one_id, null::timestamptz as valid_to")
        con.execute("insert into activation.tag_history values ('q', ?), ('r', ?)", [NOW - timedelta(days=40), NOW])
    home.logs.mkdir()
    for name, days in (("old.log", 8), ("new.log", 1)):
        (home.logs / name).write_text("x", encoding="utf-8")
        stamp = (NOW - timedelta(days=days)).timestamp()
        os.utime(home.logs / name, (stamp, stamp))
    assert {(item.place, item.rows) for item in enforce(home).removals} == {("logs", 1), ("activation.tag_history", 1)}
    assert [path.name for path in home.logs.iterdir()] == ["new.log"]
    with open_warehouse(home, as_of=NOW, timezone="Asia/Shanghai") as con:
        assert con.execute("select one_id from activation.tag_history order by 1").fetchall() == [("p",), ("r",)]


@pytest.mark.parametrize(
    ("rule", "fault"),
    [
        ("{stream: canonical.evnts, keep: 30d}", "`canonical.evnts` is no stream"),
        ("{stream: canonical.events, by: at, keep: 30d}", "has no column `at`"),
        ("{stream: canonical.events, keep: soon}", "expected a length such as"),
        ("{stream: canonical.events, files: logs, keep: 30d}", "a rule is for one of"),
        ("{table: activation.tag_history, keep: 30d}", "says by which column"),
        ("{table: identity.node, by: epoch, keep: 30d}", "does not age"),
    ],
)
def test_a_wrong_rule_is_told_before_anything_goes(tmp_path: Path, rule: str, fault: str) -> None:
    home = home_with(tmp_path, f"  - {{stream: canonical.events, keep: 30d}}\n  - {rule}\n")
    if "identity" in rule:
        with open_warehouse(home, as_of=NOW, timezone="Asia/Shanghai") as con:
            con.execute("create table identity.node (epoch smallint)")
    with pytest.raises(ConfigError, match=fault):
        enforce(home)
