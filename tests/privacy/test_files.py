"""Files that people keep in a home: what is of the forgotten goes, all else stays as it was."""

from __future__ import annotations

import zipfile
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
import xlsxwriter

from cdp.privacy.traces import Traces
from warehouse.erasure_files import bytes_hits, text_without, workbook_without, write_over
from warehouse.home import Home
from warehouse.privacy_ledger import RESTORED, PrivacyLedger
from warehouse.secrets import identity_secret

TRACES = Traces(
    frozenset({("member_id", "77"), ("phone", "13612345678"), ("email", "a.b@x.cn")}), names=frozenset({"欧阳铁柱"})
)
NOW = datetime(2026, 11, 20, tzinfo=UTC)


@pytest.mark.parametrize("constant_memory", [False, True], ids=["shared texts", "texts in their cells"])
def test_a_workbook_loses_the_rows_of_a_person_and_nothing_else(tmp_path: Path, constant_memory: bool) -> None:
    path = tmp_path / "rejects.xlsx"
    rows: list[tuple[str, str, str, float]] = [
        ("欧阳铁柱", "136-1234-5678", "金卡", 10.5),
        ("钱多多", "13700000002", "金卡", 20.0),
        ("铁柱爸爸 <&>", "13612345678", "银卡", 30.0),
        ("赵桂花", "13700000003", "欧阳铁柱的朋友", 77.0),
    ]
    with xlsxwriter.Workbook(str(path), {"constant_memory": constant_memory}) as book:
        bold = book.add_format({"bold": True})
        for name in ("一", "二"):
            sheet = book.add_worksheet(name)
            sheet.write_row(0, 0, ("name", "mobile", "level", "amount"), bold)
            for place, row in enumerate(rows, start=1):
                for column, cell in enumerate(row):
                    sheet.write(place, column, cell)
            sheet.write_number(5, 0, 13612345678)
            sheet.write_row(6, 0, ("last", "13700000009", "金卡", 1.0))
    assert bytes_hits(path, TRACES)
    done = workbook_without(path, TRACES)
    assert done is not None
    assert done[1] == 2 * 3 + (2 if TRACES.in_text("欧阳铁柱的朋友") else 0)
    write_over(path, done[0])
    assert bytes_hits(path, TRACES) == 0
    with zipfile.ZipFile(path) as book_file:
        assert book_file.testzip() is None
        assert not any(b"13612345678" in book_file.read(item) for item in book_file.namelist())
    for name in ("一", "二"):
        left = pl.read_excel(path, sheet_name=name, drop_empty_rows=True).drop_nulls("name").rows()
        assert ("钱多多", "13700000002", "金卡", 20.0) in left, "a text that others show too stays"
        assert ("last", "13700000009", "金卡", 1.0) in left
        assert not {"欧阳铁柱", "铁柱爸爸 <&>"} & {row[0] for row in left}
    assert workbook_without(path, TRACES) is None, "again, there is nothing to do"


def test_a_workbook_without_the_person_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "other.xlsx"
    with xlsxwriter.Workbook(str(path)) as book:
        book.add_worksheet().write_row(0, 0, ("钱多多", "13700000002", 77))
    assert workbook_without(path, TRACES) is None


def test_an_export_of_a_shop_keeps_its_encoding_and_its_other_rows(tmp_path: Path) -> None:
    path = tmp_path / "orders.csv"
    path.write_bytes('订单,手机,备注\r\nA1,13612345678,急\r\nA2,13700000002,"两\r\n行"\r\n'.encode("gb18030"))
    assert text_without(path, TRACES) == ('订单,手机,备注\r\nA2,13700000002,"两\r\n行"\r\n'.encode("gb18030"), 1)


def test_restoring_a_ledger_adds_to_the_one_there_and_loses_nothing(tmp_path: Path) -> None:
    """An older ledger comes back over a newer one: requests of both, the newest instants, work under way of both."""
    old, new = (PrivacyLedger(Home(tmp_path / name)) for name in ("old", "new"))
    secret = identity_secret(new.home)
    later = NOW.replace(day=22)
    other = Traces(frozenset({("phone", "13700000002")}))

    def ask(ledger: PrivacyLedger, traces: Traces, node: str, at: datetime) -> str:
        return ledger.begin(
            traces, [node], secret=secret, actor="dpo", reason="asked", now=at, whole_person=True, expires_at=None
        )

    shared = ask(old, TRACES, "n1", NOW)
    open_one = ask(old, other, "n2", NOW)
    (new.home.root / "data").mkdir(exist_ok=True)
    assert new.join(old.home.root, tmp_path / "a.tar") == 5, "three texts, two nodes"
    assert [request.request_id for request, _ in new.running()] == sorted([shared, open_one])
    new.finish(shared, {"raw": [1, 0]}, now=later)
    newest = ask(new, TRACES, "n1", later)
    new.finish(newest, {}, now=later)
    new.note_retention([("2026-11-22", "logs", "logs", "2026-01-01", 3)])
    before = new.requests()

    assert new.join(old.home.root, tmp_path / "a.tar") == 5
    assert new.requests() == before, "neither lost nor opened again"
    assert [request.request_id for request, _ in new.running()] == [open_one]
    assert new.digests("node", now=later)["n1"] == later, "the newer instant counts"
    assert set(new.unfinished()) == {open_one, RESTORED}
