"""Nothing lost, nothing twice: what a source delivers again, late, changed or in pieces."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import polars as pl
import pytest

from cdp.errors import FatalError, RejectBudgetError, RetriableError
from cdp.streams import Batch, Reject
from connectors import registry
from tests.landing.fakes import EVENTS, PEOPLE, Scripted, page, rows_of
from tests.source_support import Brand
from warehouse import landing
from warehouse.home import Home
from warehouse.landing import land
from warehouse.landing_ledger import LandingLedger
from warehouse.raw import reconcile, register_raw

NOW = datetime(2026, 11, 21, tzinfo=UTC)
SNAPSHOT = replace(PEOPLE, mode="snapshot")


def _counts(report: landing.LandingReport) -> tuple[int, int, int, int, int]:
    return report.received, report.landed, report.duplicates, report.rejected, report.deleted


def test_unchanged_rows_are_duplicates_and_changed_rows_new_versions(home: Home) -> None:
    land(home, "crm", Scripted([page(("1", "a"), ("2", "b"))]), PEOPLE, now=NOW)
    report = land(home, "crm", Scripted([page(("1", "a"), ("2", "B"), ("3", "c"))]), PEOPLE, now=NOW)
    assert _counts(report) == (3, 2, 1, 0, 0)
    assert rows_of(home, PEOPLE, "id, name") == [("1", "a"), ("2", "b"), ("2", "B"), ("3", "c")]


def test_a_row_that_turns_back_is_a_new_version(home: Home) -> None:
    for name in ("a", "b", "a"):
        land(home, "crm", Scripted([page(("1", name))]), PEOPLE, now=NOW)
    assert rows_of(home, PEOPLE, "name") == [("a",), ("b",), ("a",)]


def test_versions_inside_one_batch_keep_their_order(home: Home) -> None:
    report = land(home, "crm", Scripted([page(("1", "a"), ("1", "b"), ("1", "b"), ("1", "a"))]), PEOPLE, now=NOW)
    assert _counts(report) == (4, 3, 1, 0, 0)
    assert rows_of(home, PEOPLE, "name, _row_number") == [("a", 1), ("b", 2), ("a", 4)]


def test_null_and_empty_text_are_different_content(home: Home) -> None:
    land(home, "crm", Scripted([page(("1", None))]), PEOPLE, now=NOW)
    assert land(home, "crm", Scripted([page(("1", ""))]), PEOPLE, now=NOW).landed == 1


def test_events_are_known_by_their_key_alone(home: Home) -> None:
    def batch(name: str) -> Batch:
        return Batch("events", pl.DataFrame({"id": ["e1", "e1"], "name": [name, "x"], "at": ["2026-01-01", None]}))

    land(home, "log", Scripted([batch("a")]), EVENTS, now=NOW)
    report = land(home, "log", Scripted([batch("b")]), EVENTS, now=NOW)
    assert _counts(report) == (2, 0, 2, 0, 0)
    assert rows_of(home, EVENTS, "id, name") == [("e1", "a")]


def test_a_fault_between_pages_keeps_the_pages_and_resumes_behind_them(home: Home) -> None:
    broken = Scripted(
        [page(("1", "a"), state={"page": 1}), page(("2", "b"), state={"page": 2}), RetriableError("reset")]
    )
    with pytest.raises(RetriableError, match="reset"):
        land(home, "crm", broken, PEOPLE, now=NOW)
    again = Scripted([page(("3", "c"), state={"page": 3})])
    land(home, "crm", again, PEOPLE, now=NOW)
    assert again.given == {"page": 2}
    assert rows_of(home, PEOPLE, "id") == [("1",), ("2",), ("3",)]


def test_pages_are_gathered_into_commits(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landing, "COMMIT_ROWS", 4)
    pages = [page((str(n), "x"), (str(n + 100), "x"), state={"page": n}) for n in range(6)]
    assert land(home, "crm", Scripted(pages), PEOPLE, now=NOW).batches == 3


def test_a_full_pull_starts_over_and_changes_nothing(home: Home) -> None:
    land(home, "crm", Scripted([page(("1", "a"), state={"page": 1})]), PEOPLE, now=NOW)
    source = Scripted([page(("1", "a"), state={"page": 1})])
    report = land(home, "crm", source, PEOPLE, now=NOW, full=True)
    assert source.given == {}
    assert _counts(report) == (1, 0, 1, 0, 0)


def test_an_empty_pull_moves_the_cursor_on(home: Home) -> None:
    report = land(home, "crm", Scripted([Batch("people", pl.DataFrame(), {"cursor": 9})]), PEOPLE, now=NOW)
    assert _counts(report) == (0, 0, 0, 0, 0)
    assert LandingLedger(home.landing_ledger).state("crm", "people")[0] == {"cursor": 9}
    assert rows_of(home, PEOPLE) == []


def test_what_vanished_from_a_clean_full_pull_is_deleted_and_may_come_back(home: Home) -> None:
    land(home, "wx", Scripted([page(("1", "a"), ("2", "b"), complete=True)]), SNAPSHOT, now=NOW)
    gone = land(home, "wx", Scripted([page(("1", "a"), complete=True)]), SNAPSHOT, now=NOW)
    assert _counts(gone) == (1, 0, 1, 0, 1)
    assert rows_of(home, SNAPSHOT, "id, name, _deleted")[-1] == ("2", None, True)
    same = land(home, "wx", Scripted([page(("1", "a"), complete=True)]), SNAPSHOT, now=NOW)
    assert _counts(same) == (1, 0, 1, 0, 0), "a deleted key is deleted once"
    back = land(home, "wx", Scripted([page(("1", "a"), ("2", "b"), complete=True)]), SNAPSHOT, now=NOW)
    assert _counts(back) == (2, 1, 1, 0, 0)


@pytest.mark.parametrize("ending", [RetriableError("reset"), FatalError("an error reply with an empty list")])
def test_a_pull_that_did_not_end_cleanly_deletes_nothing(home: Home, ending: Exception) -> None:
    land(home, "wx", Scripted([page(("1", "a"), ("2", "b"), complete=True)]), SNAPSHOT, now=NOW)
    with pytest.raises(type(ending)):
        land(home, "wx", Scripted([page(("1", "a")), ending]), SNAPSHOT, now=NOW)
    assert not any(row[0] for row in rows_of(home, SNAPSHOT, "_deleted"))


def test_a_resumed_full_pull_remembers_its_first_part(home: Home) -> None:
    land(home, "wx", Scripted([page(*[(str(n), "x") for n in range(6)], complete=True)]), SNAPSHOT, now=NOW)
    first = Scripted([page(("0", "x"), ("1", "x"), state={"page": 1}), RetriableError("reset")])
    with pytest.raises(RetriableError):
        land(home, "wx", first, SNAPSHOT, now=NOW)
    rest = Scripted([page(("2", "x"), ("3", "x"), state={"page": 2}), page(("4", "x"), complete=True)])
    assert land(home, "wx", rest, SNAPSHOT, now=NOW).deleted == 1
    assert rest.given == {"page": 1}
    assert [row[0] for row in rows_of(home, SNAPSHOT, "id, _deleted") if row[1]] == ["5"]


def test_a_full_pull_with_rejects_deletes_nothing_and_says_so(home: Home) -> None:
    land(home, "wx", Scripted([page(("1", "a"), ("2", "b"), complete=True)]), SNAPSHOT, now=NOW)
    bad = Reject("unreadable", "{}", 2)
    report = land(home, "wx", Scripted([page(("1", "a"), complete=True, rejects=(bad,))]), SNAPSHOT, now=NOW)
    assert report.deleted == 0
    assert report.notes


def test_keys_alone_show_what_was_deleted_from_a_table_read_by_cursor(home: Home) -> None:
    land(home, "crm", Scripted([page(("1", "a"), ("2", "b"))]), PEOPLE, now=NOW)
    keys = Batch("people", pl.DataFrame({"id": ["2"]}), keys_only=True, complete=True)
    assert land(home, "crm", Scripted([page(("3", "c")), keys]), PEOPLE, now=NOW).deleted == 1
    assert land(home, "crm", Scripted([keys]), PEOPLE, now=NOW).deleted == 1, "3 had just landed: the next one tells"
    assert [row for row in rows_of(home, PEOPLE, "id, _deleted") if row[1]] == [("1", True), ("3", True)]


def test_cells_that_do_not_fit_are_rejected_with_their_place(home: Home) -> None:
    rows = [(str(n), "x", "1") for n in range(20)]
    report = land(home, "crm", Scripted([page(*rows, ("a", "x", "many"), (None, "x", "1"))]), PEOPLE, now=NOW)
    assert _counts(report) == (22, 20, 0, 2, 0)
    frame = pl.read_parquet(next((home.rejects / "crm" / "people").glob("*.parquet")))
    assert frame.select("row_number", "column", "reason", "value").rows() == [
        (21, "points", "`points` is not a valid int", "many"),
        (22, "id", "`id` is required and empty", None),
    ]


def test_past_the_budget_nothing_of_the_batch_lands_but_its_rejects_can_be_seen(home: Home) -> None:
    bad = page(*[(str(n), "x", "many" if n % 3 == 0 else "1") for n in range(99)])
    with pytest.raises(RejectBudgetError, match=r"33 of 99 rows were rejected.*1\.0%.*row 1"):
        land(home, "crm", Scripted([bad]), PEOPLE, now=NOW)
    assert rows_of(home, PEOPLE) == []
    assert pl.read_parquet(home.rejects / "crm" / "people" / "failed.parquet").height == 33
    generous = replace(PEOPLE, reject_budget=0.5)
    assert _counts(land(home, "crm", Scripted([bad]), generous, now=NOW)) == (99, 66, 0, 33, 0)


def test_a_missing_required_column_names_what_was_found(home: Home) -> None:
    batch = Batch("people", pl.DataFrame({"Id": ["1"], "name": ["a"]}), source_file="p.csv")
    with pytest.raises(FatalError, match=r"p\.csv: stream `people` needs the columns id; found Id, name"):
        land(home, "crm", Scripted([batch]), PEOPLE, now=NOW)


def test_undeclared_columns_are_kept_and_reported_once_as_drift(home: Home) -> None:
    batch = Batch("people", pl.DataFrame({"id": ["1"], "备注": ["x"], "n": [1]}))
    assert land(home, "crm", Scripted([batch]), PEOPLE, now=NOW).drift == ("备注", "n")
    assert rows_of(home, PEOPLE, "_extra") == [('{"备注":"x","n":1}',)]
    assert [row[2] for row in LandingLedger(home.landing_ledger).drift()] == ["n", "备注"]


def test_files_a_crash_left_behind_are_ignored_and_removed(home: Home) -> None:
    land(home, "crm", Scripted([page(("1", "a"))]), PEOPLE, now=NOW)
    folder = home.raw / "crm" / "people"
    landed = next(folder.glob("*.parquet"))
    orphans = [folder / "b0000009999.parquet", folder / ".b0000009999.parquet.tmp"]
    for orphan in orphans:
        orphan.write_bytes(landed.read_bytes())
    assert len(rows_of(home, PEOPLE)) == 1
    land(home, "crm", Scripted([page(("2", "b"))]), PEOPLE, now=NOW)
    assert not any(orphan.exists() for orphan in orphans)


def test_reconcile_sees_a_file_that_lost_rows(home: Home) -> None:
    land(home, "crm", Scripted([page(("1", "a"), ("2", "b"))]), PEOPLE, now=NOW)
    file = next((home.raw / "crm" / "people").glob("*.parquet"))
    pl.read_parquet(file).head(1).write_parquet(file)
    assert [row.ok for row in reconcile(home)] == [False]


def test_two_sources_of_a_family_share_a_view_and_nothing_else(home: Home) -> None:
    for source in ("crm", "pos"):
        land(home, source, Scripted([page(("1", "a"))]), PEOPLE, now=NOW)
    assert rows_of(home, PEOPLE, "_source, id") == [("crm", "1"), ("pos", "1")]


def test_lines_of_one_shape_are_told_apart(tmp_path: Path) -> None:
    """DuckDB's own `hash` takes some of these for the same: differences in two places cancel out."""
    brand = Brand(tmp_path, 'sources: {log: {connector: sensors, path: "*.log"}}')
    staff = [
        f"ww5a7d0c3b9e1f2468|s{a:03d}_guide{b:02d}|wmDiR-AKm0m5_o9iDdxx2x54Ne5MoNh2"
        for a in range(200)
        for b in range(50)
    ]
    lines = [f'{{"type":"track","event":"E","time":1,"distinct_id":"{name}"}}\n' for name in staff]
    (tmp_path / "a.log").write_text("".join(lines), encoding="utf-8")
    assert brand.land("log")["records"].landed == len(lines)


def test_an_older_export_loaded_later_takes_nothing_back(tmp_path: Path) -> None:
    (tmp_path / "inbox").mkdir()
    header = "order_id,status,amount,updated_at\n"
    exports = {
        "b-newer.csv": "1,done,2.00,2026-03-01 00:00:00\n2,paid,5.00,2026-03-01 00:00:00\n3,paid,1.00,\n",
        "c-older.csv": "1,paid,1.00,2026-02-01 00:00:00\n2,paid,6.00,2026-03-01 00:00:00\n4,paid,1.00,2026-01-01\n",
        "d-undated.csv": "3,closed,1.00,\n4,closed,1.00,\n",
        "e-oldest.csv": "3,created,1.00,2026-01-01 00:00:00\n4,created,1.00,2026-01-01 00:00:00\n",
    }
    brand = Brand(tmp_path, "sources: {shop: {connector: file, streams: {orders: {path: inbox/}}}}")
    for name, rows in exports.items():
        (tmp_path / "inbox" / name).write_text(header + rows, encoding="utf-8")
        brand.land("shop")
    assert brand.sql("select count(*) from raw.canonical__orders") == [(10,)], "raw keeps every version"
    assert brand.latest("canonical__orders", "order_id, status, amount::text") == [
        ("1", "done", "2.00"),
        ("2", "paid", "6.00"),
        ("3", "closed", "1.00"),
        ("4", "closed", "1.00"),
    ]
    staged = _staged(brand, "orders", "trimmed as", "order_id, status, amount::text")
    assert staged == brand.latest("canonical__orders", "order_id, status, amount::text")


def _staged(brand: Brand, name: str, until: str, columns: str) -> list[tuple[object, ...]]:
    """What staging takes for the current version of each row."""
    with duckdb.connect() as con:
        con.execute("set timezone = 'UTC'")
        register_raw(con, brand.home, registry.raw_sources(brand.config), registry.all_streams())
        model = Path(f"models/staging/canonical/stg_canonical__{name}.sql").read_text(encoding="utf-8")
        picked = model[model.index("with versions") : model.index(until)].rstrip().rstrip(",")
        return con.execute(f"{picked} select {columns} from current order by all").fetchall()


def test_lines_and_refunds_follow_the_version_of_their_order(tmp_path: Path) -> None:
    (tmp_path / "inbox").mkdir()
    header = "订单编号,商品名称,支付金额,订单提交时间,支付完成时间,发货时间,订单完成时间\n"
    brand = Brand(
        tmp_path,
        """
sources:
  shop: {connector: shop_export, path: inbox/, shop: s, profiles: profiles}
  erp: {connector: file, streams: {refunds: {path: refunds.csv}}}
""",
    )
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "own.yaml").write_text(
        """
name: own
platform: own
title: own
grain: item
requires: [订单编号, 商品名称, 支付金额]
streams:
  orders:
    columns:
      order_id: 订单编号
      amount: {from: 支付金额, aggregate: sum}
      updated_at: {from: [订单完成时间, 支付完成时间]}
  order_lines: {columns: {order_id: 订单编号, line_id: 商品名称, product_name: 商品名称, amount: 支付金额}}
""",
        encoding="utf-8",
    )
    exports = {
        "newer.csv": "1,奶粉,90.00,2026-03-01 10:00:00,2026-03-01 10:01:00,,2026-03-09 10:00:00\n",
        "older.csv": "1,奶粉,100.00,2026-03-01 10:00:00,2026-03-01 10:01:00,,\n",
    }
    for name, rows in exports.items():
        (tmp_path / "inbox" / name).write_text(header + rows, encoding="utf-8")
        brand.land("shop")
    assert _staged(brand, "orders", "trimmed as", "amount::text") == [("90.00",)]
    assert _staged(brand, "order_lines", "stg_canonical__order_lines as", "amount::text") == [("90.00",)]

    for amount, updated in (("90.00", "2026-03-09"), ("100.00", "2026-03-01")):
        text = f"refund_id,order_id,amount,updated_at\nR1,1,{amount},{updated}\n"
        (tmp_path / "refunds.csv").write_text(text, encoding="utf-8")
        brand.land("erp")
    assert _staged(brand, "refunds", "stg_canonical__refunds as", "amount::text") == [("90.00",)]
