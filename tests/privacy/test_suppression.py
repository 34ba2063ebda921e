"""Landing knows the forgotten by digests alone: their rows are counted and do not land, mentions are emptied."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl

from cdp.privacy.traces import Traces
from cdp.streams import Batch, Column, JsonLines, Reject, Stream
from tests.landing.fakes import Scripted
from warehouse.home import Home
from warehouse.landing import LandingReport, land
from warehouse.landing_ledger import LandingLedger
from warehouse.privacy_ledger import PrivacyLedger
from warehouse.raw import reconcile
from warehouse.secrets import identity_secret

FORGOTTEN = datetime(2026, 11, 1, tzinfo=UTC)
NOW = datetime(2026, 11, 20, tzinfo=UTC)
PEOPLE = Stream(
    "canonical",
    "people",
    ("person_key",),
    (
        Column("person_key", required=True), Column("member_id"), Column("phone"), Column("name"),
        Column("registered_at", "timestamp"), Column("points", "int"),
    ),
)  # fmt: skip
RECORDS = Stream(
    "sensors",
    "records",
    ("record_key",),
    (Column("record_key", required=True), Column("time", "int"), Column("distinct_id"), Column("properties", "json")),
    mode="append",
)


def home_that_forgot(tmp_path: Path, *, expires: datetime | None = None) -> Home:
    home = Home(tmp_path)
    traces = Traces(frozenset({("phone", "13612345678"), ("member_id", "77"), ("openid", "oABCdef-123_456")}))
    ledger = PrivacyLedger(home)
    request = ledger.begin(
        traces, [], secret=identity_secret(home), actor="dpo", reason="asked", now=FORGOTTEN, whole_person=True,
        expires_at=expires,
    )  # fmt: skip
    ledger.finish(request, {}, now=FORGOTTEN)
    return home


def people(*rows: tuple[str | None, ...]) -> Batch:
    names = ("person_key", "member_id", "phone", "name", "registered_at", "points")
    return Batch("people", pl.DataFrame(rows, schema=dict.fromkeys(names, pl.String), orient="row"))


def landed(home: Home, report: LandingReport) -> list[dict[str, object]]:
    [row] = [row for row in reconcile(home) if row.batch_id == f"b{report.batches:010d}"] or [reconcile(home)[-1]]
    assert row.ok
    paths = sorted(home.raw.glob("*/*/*.parquet"))
    return pl.read_parquet(paths[-1]).to_dicts() if paths else []


def test_rows_of_the_forgotten_are_counted_and_do_not_land(tmp_path: Path) -> None:
    home = home_that_forgot(tmp_path)
    old, new = "2025-01-01T00:00:00Z", "2026-11-10T00:00:00Z"
    batch = people(
        ("a", "77", None, "甲", old, "1"),  # by a short id in its own field
        ("b", None, "+86 136 1234-5678", "乙", old, "1"),  # by a phone spelt otherwise
        ("c", "78", "13612345678", "丙", old, "77"),  # somebody else with her phone
        ("d", "79", None, "丁", old, "77"),  # a 77 that is no member
        ("e", "77", "13612345678", "戊", new, "1"),  # registered again since
    )
    report = land(home, "crm", Scripted([batch]), PEOPLE, now=NOW)
    assert (report.received, report.landed, report.duplicates, report.rejected, report.suppressed) == (5, 3, 0, 0, 2)
    rows = {row["person_key"]: (row["member_id"], row["phone"], row["points"]) for row in landed(home, report)}
    assert rows == {"c": ("78", None, 77), "d": ("79", None, 77), "e": ("77", "13612345678", 1)}
    again = land(home, "crm", Scripted([batch]), PEOPLE, now=NOW)
    assert (again.landed, again.duplicates, again.suppressed) == (0, 3, 2), "the same rows again are the same again"


def test_line_files_too(tmp_path: Path) -> None:
    home = home_that_forgot(tmp_path)
    path = tmp_path / "log.jsonl"
    path.write_text(
        '{"k":"1","time":1735689600000,"distinct_id":"oABCdef-123_456","properties":{}}\n'
        '{"k":"2","time":1735689600000,"distinct_id":"other-visitor-1","properties":{"note":"call 13612345678"}}\n'
        '{"k":"3","time":1794268800000,"distinct_id":"oABCdef-123_456","properties":{}}\n',
        encoding="utf-8",
    )
    fields = {"record_key": "k", "time": "time", "distinct_id": "distinct_id", "properties": "properties"}
    report = land(home, "app", Scripted([JsonLines("records", path, fields)]), RECORDS, now=NOW)
    assert (report.received, report.landed, report.suppressed) == (3, 2, 1)
    rows = {row["record_key"]: row["properties"] for row in landed(home, report)}
    assert rows == {"2": '{"note":"call ***"}', "3": "{}"}


def test_rejected_rows_of_the_forgotten_say_nothing_of_them(tmp_path: Path) -> None:
    home = home_that_forgot(tmp_path)
    reject = Reject("`points` is not a valid int", '{"phone":"13612345678","name":"甲"}', 1, "points", "x")
    frame = people(("d", "79", None, "丁", None, "1")).frame
    land(home, "crm", Scripted([Batch("people", frame, rejects=(reject,))]), PEOPLE, now=NOW)
    [path] = home.rejects.glob("*/*/*.parquet")
    [row] = pl.read_parquet(path).to_dicts()
    assert (row["raw"], row["value"], row["row_number"]) == ("***", None, 1)
    assert reconcile(home)[0].ok


def test_the_bar_can_end(tmp_path: Path) -> None:
    home = home_that_forgot(tmp_path, expires=NOW - timedelta(days=1))
    report = land(home, "crm", Scripted([people(("a", "77", None, "甲", None, "1"))]), PEOPLE, now=NOW)
    assert (report.landed, report.suppressed) == (1, 0)


def test_a_ledger_of_before_is_carried_over(tmp_path: Path) -> None:
    """The check of an old ledger knows three kinds of rows; its batches and its next ones add up."""
    import sqlite3

    home = Home(tmp_path)
    land(home, "crm", Scripted([people(("a", "1", None, "甲", None, "1"))]), PEOPLE, now=NOW)
    with sqlite3.connect(home.landing_ledger) as con:
        con.executescript(
            "alter table batches rename to b; create table batches as select * from b; drop table b;"
            "alter table batches drop column suppressed;"
        )
    before = LandingLedger(home.landing_ledger).batches()
    assert [(item.landed, item.suppressed) for item in before] == [(1, 0)]
    land(home, "crm", Scripted([people(("b", "2", None, "乙", None, "1"))]), PEOPLE, now=NOW)
    assert [row.ok for row in reconcile(home)] == [True, True]
