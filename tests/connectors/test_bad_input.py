"""Bad files: each gets its error (what, where, expected against found, next step) or its reject row; good rows land."""

from __future__ import annotations

import gzip
from pathlib import Path

import polars as pl
import pytest
import xlsxwriter

from cdp.errors import CdpError, ConfigError, FatalError, RejectBudgetError
from connectors.files.reader import tops
from tests.source_support import Brand

ORDERS = """
sources:
  shop:
    connector: file
    streams:
      orders:
        path: inbox/
        {more}
        columns: {{order_id: 订单号, amount: 实付, paid_at: 付款时间, member_id: 会员号}}
"""
HEADER = "订单号,实付,付款时间,会员号\n"
GOOD = "".join(f"A{n},{n}.5,2026-01-01 10:00:00,M{n}\n" for n in range(30))


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    (tmp_path / "inbox").mkdir()
    return tmp_path / "inbox"


def _brand(inbox: Path, more: str = "nulls: []") -> Brand:
    return Brand(inbox.parent, ORDERS.format(more=more))


def _rejects(brand: Brand) -> list[tuple[int, str, str]]:
    return brand.sql('select row_number, "column", reason from raw._rejects order by row_number')  # type: ignore[return-value]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030", "utf-16", "utf-16-le", "utf-16-be"])
def test_every_usual_encoding_is_read(inbox: Path, encoding: str) -> None:
    (inbox / "o.csv").write_bytes((HEADER + GOOD + "甲乙,1,2026-01-01,𠮷\n").encode(encoding))
    brand = _brand(inbox)
    assert brand.land("shop")["orders"].landed == 31
    assert brand.sql("select order_id, member_id from raw.canonical__orders where _row_number = 32") == [("甲乙", "𠮷")]


def test_a_file_of_mixed_encodings_is_refused_and_the_others_land(inbox: Path) -> None:
    (inbox / "a.csv").write_bytes(HEADER.encode() + "甲,1,2026-01-01,x\n".encode("gb18030") + b"\xff\xff\n")
    (inbox / "b.csv").write_text(HEADER + GOOD, encoding="utf-8")
    brand = _brand(inbox)
    with pytest.raises(FatalError, match=r"inbox/a\.csv: not text in UTF-8, GB18030 or UTF-16"):
        brand.land("shop")
    assert brand.sql("select count(*) from raw.canonical__orders") == [(30,)]
    (inbox / "a.csv").write_text(HEADER + "甲,1,2026-01-01,x\n", encoding="utf-8")
    assert brand.land("shop")["orders"].landed == 1


def test_wrong_types_are_rejects_with_their_cell(inbox: Path) -> None:
    (inbox / "o.csv").write_text(HEADER + "X,一百,2026-01-01,M\nY,1,昨天,M\n,1,2026-01-01,M\n" + GOOD, encoding="utf-8")
    brand = _brand(inbox)
    assert brand.land("shop")["orders"].landed == 30
    assert _rejects(brand) == [
        (2, "实付", "`实付` is not a valid decimal"),
        (3, "付款时间", "`付款时间` is not a valid timestamp"),
        (4, "订单号", "`订单号` is empty, and `order_id` is required"),
    ]


def test_a_missing_column_names_the_nearest(inbox: Path) -> None:
    (inbox / "o.csv").write_text("订单编号,实付,付款时间,会员号\n" + GOOD, encoding="utf-8")
    with pytest.raises(
        FatalError, match=r"`order_id` is mapped from `订单号`, which is not there; did you mean `订单编号`"
    ):
        _brand(inbox).land("shop")


def test_a_header_that_stands_twice_must_be_told_apart(inbox: Path) -> None:
    (inbox / "o.csv").write_text("订单号,实付,实付,付款时间,会员号\nA,1,2,2026-01-01,M\n", encoding="utf-8")
    brand = _brand(inbox)
    with pytest.raises(FatalError, match=r"`实付` stands 2 times in the header: name one of 实付#1, 实付#2"):
        brand.land("shop")
    brand.yaml = brand.yaml.replace("amount: 实付", "amount: 实付#2")
    brand.land("shop")
    assert brand.sql("select amount::text from raw.canonical__orders") == [("2.00",)]


def test_rows_that_do_not_fit_the_header_are_rejects(inbox: Path) -> None:
    (inbox / "o.csv").write_text(HEADER + "A,1\nB,1,2026-01-01,M,more\nC,1,2026-01-01,M,\n" + GOOD, encoding="utf-8")
    brand = _brand(inbox)
    assert brand.land("shop")["orders"].landed == 31, "an empty cell beyond the header is a trailing comma"
    assert [row[2] for row in _rejects(brand)] == [
        "row has 2 cells, the header has 4",
        "row has 5 cells, the header has 4",
    ]


def test_a_truncated_file_loses_its_last_row_to_rejects(inbox: Path) -> None:
    whole = (HEADER + GOOD).encode()
    (inbox / "o.csv").write_bytes(whole[:-12])
    brand = _brand(inbox)
    assert brand.land("shop")["orders"].landed == 29
    assert _rejects(brand) == [(31, None, "row has 3 cells, the header has 4")]


def test_a_quote_that_never_closes_is_one_reject(inbox: Path) -> None:
    (inbox / "o.csv").write_text(HEADER + GOOD + 'Z,1,2026-01-01,"M\n', encoding="utf-8")
    brand = _brand(inbox)
    brand.land("shop")
    assert brand.sql("select count(*) from raw.canonical__orders")[0][0] >= 30


def test_quoted_cells_hold_commas_and_line_breaks(inbox: Path) -> None:
    (inbox / "o.csv").write_text(HEADER + 'A,"1,234.5",2026-01-01,"甲\n乙,""丙"""\n' + GOOD, encoding="utf-8")
    brand = _brand(inbox)
    assert brand.land("shop")["orders"].landed == 31
    rows = brand.sql(
        "select member_id, amount::text, _row_number from raw.canonical__orders order by _row_number limit 2"
    )
    assert rows == [('甲\n乙,"丙"', "1234.50", 2), ("M0", "0.50", 4)]


@pytest.mark.parametrize("content", ["", HEADER, "\n\n" + HEADER])
def test_an_empty_file_is_a_result(inbox: Path, content: str) -> None:
    (inbox / "o.csv").write_text(content, encoding="utf-8")
    brand = _brand(inbox)
    assert brand.land("shop")["orders"].received == 0
    assert brand.sql("from raw.canonical__orders") == []


def test_an_empty_folder_is_a_result_and_a_missing_one_an_error(inbox: Path) -> None:
    brand = _brand(inbox)
    assert brand.land("shop")["orders"].received == 0
    inbox.rmdir()
    with pytest.raises(FatalError, match=r"inbox is not there"):
        brand.land("shop")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a workbook", b"\xd0\xcf\x11\xe0old"])
def test_a_broken_workbook_is_an_error(inbox: Path, content: bytes) -> None:
    (inbox / "o.xlsx").write_bytes(content)
    with pytest.raises(FatalError, match=r"o\.xlsx: (not a readable XLSX|an old \.xls)") as caught:
        _brand(inbox).land("shop")
    assert caught.value.hint


def test_a_workbook_is_read_as_it_shows(inbox: Path) -> None:
    with xlsxwriter.Workbook(str(inbox / "o.xlsx")) as book:
        sheet = book.add_worksheet()
        day = book.add_format({"num_format": "yyyy-mm-dd hh:mm:ss"})
        sheet.write_row(0, 0, ["订单号", "实付", "付款时间", "会员号"])
        sheet.write_string(1, 0, "260000123456789012345")
        sheet.write_number(1, 1, 12.5)
        sheet.write_number(1, 2, 46023.5, day)
        sheet.write_string(1, 3, "0012")
        sheet.write_number(3, 0, 7)
    brand = _brand(inbox)
    assert brand.land("shop")["orders"].landed == 2
    rows = brand.sql("select order_id, amount::text, paid_at::text, member_id, _row_number from raw.canonical__orders")
    assert rows == [
        ("260000123456789012345", "12.50", "2026-01-01 04:00:00+00", "0012", 2),
        ("7", None, None, None, 4),
    ]


def test_ids_that_excel_destroyed_are_refused(inbox: Path) -> None:
    (inbox / "o.csv").write_text(HEADER + "6.91793E+18,1,2026-01-01,M\n" + GOOD, encoding="utf-8")
    with xlsxwriter.Workbook(str(inbox / "p.xlsx")) as book:
        sheet = book.add_worksheet()
        sheet.write_row(0, 0, ["订单号", "实付", "付款时间", "会员号"])
        sheet.write_number(1, 0, 6917930123456789012)
        sheet.write_number(2, 0, 1001)
    brand = _brand(inbox)
    brand.land("shop")
    reasons = [row[2] for row in _rejects(brand)]
    assert len(reasons) == 2
    assert brand.sql("select order_id from raw.canonical__orders where _source_file = 'inbox/p.xlsx'") == [("1001",)]
    assert all("Excel has destroyed the id" in reason for reason in reasons)


def test_a_parquet_file_keeps_its_types_and_a_cut_one_is_an_error(inbox: Path) -> None:
    frame = pl.DataFrame(
        {"订单号": [1, 2], "实付": [1.5, None], "付款时间": ["2026-01-01", None], "会员号": ["a", "b"]}
    )
    frame.write_parquet(inbox / "a.parquet")
    brand = _brand(inbox)
    assert brand.land("shop")["orders"].landed == 2
    whole = (inbox / "a.parquet").read_bytes()
    (inbox / "b.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FatalError, match=r"inbox/b\.parquet: not a readable Parquet file"):
        brand.land("shop")


def test_a_damaged_gzip_is_an_error(inbox: Path) -> None:
    (inbox / "o.csv.gz").write_bytes(gzip.compress((HEADER + GOOD).encode())[:-20])
    with pytest.raises(FatalError, match=r"o\.csv\.gz: the gzip file is cut short"):
        _brand(inbox).land("shop")


def test_an_unknown_format_is_an_error(inbox: Path) -> None:
    (inbox / "o.dat").write_text(HEADER + GOOD, encoding="utf-8")
    with pytest.raises(FatalError, match=r"cannot tell its format") as caught:
        _brand(inbox).land("shop")
    assert "format:" in str(caught.value)
    assert _brand(inbox, "format: csv").land("shop")["orders"].landed == 30


def test_a_value_the_map_does_not_know_is_a_reject(inbox: Path) -> None:
    (inbox / "o.csv").write_text("订单号,状态\n" + "A,已完成\n" * 30 + "B,飞走了\n", encoding="utf-8")
    brand = _brand(inbox)
    brand.yaml = brand.yaml.replace(
        "{order_id: 订单号, amount: 实付, paid_at: 付款时间, member_id: 会员号}",
        "{order_id: 订单号, status: {from: 状态, map: {已完成: done}}}",
    )
    brand.land("shop")
    assert _rejects(brand) == [(32, "状态", "`状态` holds a value that `map` does not know; it knows `已完成`")]


def test_too_many_bad_rows_fail_the_load_and_land_nothing(inbox: Path) -> None:
    (inbox / "o.csv").write_text(HEADER + GOOD + "X,一百,2026-01-01,M\n" * 20, encoding="utf-8")
    brand = _brand(inbox)
    with pytest.raises(RejectBudgetError, match=r"20 of 50 rows.*budget of 1\.0%"):
        brand.land("shop")
    assert brand.sql("from raw.canonical__orders") == []
    assert len(_rejects(brand)) == 20, "its rejects can be seen all the same"
    brand.yaml = brand.yaml.replace("nulls: []", "reject_budget: 0.5")
    assert brand.land("shop")["orders"].landed == 30


LOG = "sources: {log: {connector: sensors, path: inbox/}}"
LINE = '{"type":"track","event":"E","time":%d,"distinct_id":"d","properties":{}}\n'


def test_broken_lines_are_rejects_with_their_line_number(inbox: Path) -> None:
    bad = [
        '{"type":"track"\n',
        "[1,2]\n",
        "\n",
        '"text"\n',
        '{"type":"track","time":"soon"}\n',
        '{"time":1}\n',
        "\x00\n",
    ]
    text = LINE % 1 + "".join(bad) + "".join(LINE % n for n in range(2, 40)) + '{"type":"tra'
    (inbox / "a.log").write_bytes(text.encode() + b'\n{"type":"\xff"}\n')
    brand = Brand(inbox.parent, LOG)
    report = brand.land("log")["records"]
    assert (report.landed, report.rejected) == (39, 8)
    assert [row[0] for row in _rejects(brand)] == [2, 3, 5, 6, 7, 8, 47, 48]
    numbers = brand.sql(
        "select min(_row_number), max(_row_number), count(distinct _row_number) from raw.sensors__records"
    )
    assert numbers == [(1, 46, 39)]


def test_unknown_events_and_fields_land_and_new_fields_are_told(inbox: Path) -> None:
    (inbox / "a.log").write_text('{"type":"未知","event":"没见过","time":1,"新字段":{"a":1}}\n', encoding="utf-8")
    brand = Brand(inbox.parent, LOG)
    assert brand.land("log")["records"].drift == ("新字段",)
    assert brand.sql("select type, event, _extra from raw.sensors__records") == [
        ("未知", "没见过", '{"新字段":{"a":1}}')
    ]


@pytest.mark.parametrize("kind", ["gz", "bom", "utf-16", "gb18030", "array"])
def test_logs_that_are_not_plain_utf8_lines_are_read_too(inbox: Path, kind: str) -> None:
    lines = [f'{{"type":"track","event":"看商品","time":{n},"distinct_id":"甲"}}' for n in range(20)]
    text = "\n".join(lines)
    content = {
        "gz": gzip.compress(text.encode()),
        "bom": text.encode("utf-8-sig"),
        "utf-16": text.encode("utf-16"),
        "gb18030": text.encode("gb18030"),
        "array": f"[{','.join(lines)}]".encode(),
    }[kind]
    (inbox / "a.log").write_bytes(content)
    brand = Brand(inbox.parent, LOG)
    assert brand.land("log")["records"].landed == 20
    assert brand.sql("select distinct event, distinct_id, _source_file from raw.sensors__records") == [
        ("看商品", "甲", "inbox/a.log")
    ]


def test_one_bad_log_does_not_hold_up_the_others(inbox: Path) -> None:
    (inbox / "a.log").write_text("not json\n" * 50, encoding="utf-8")
    (inbox / "b.log").write_text("".join(LINE % n for n in range(9)), encoding="utf-8")
    brand = Brand(inbox.parent, LOG)
    with pytest.raises(RejectBudgetError, match=r"inbox/a\.log\): 50 of 50"):
        brand.land("log")
    assert brand.sql("select count(*) from raw.sensors__records") == [(9,)]
    (inbox / "a.log").write_text(LINE % 100, encoding="utf-8")
    assert brand.land("log")["records"].landed == 1


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("connector: fil", "found `fil`; did you mean `file`?"),
        ("order_idd: 订单号", "orders has no column `order_idd`; did you mean `order_id`"),
        ("pfad: inbox", "unknown key `pfad`"),
    ],
)
def test_a_wrong_configuration_is_told_with_its_line(tmp_path: Path, change: str, told: str) -> None:
    yaml = ORDERS.format(more="nulls: []")
    old = {"connector: fil": "connector: file", "order_idd: 订单号": "order_id: 订单号", "pfad: inbox": "nulls: []"}[
        change
    ]
    with pytest.raises(ConfigError) as caught:
        _ = Brand(tmp_path, yaml.replace(old, change)).config
    assert told in str(caught.value)
    assert "config/sources.yaml:" in str(caught.value)


def test_a_secret_in_plain_text_is_refused_and_not_repeated(tmp_path: Path) -> None:
    yaml = "sources: {oa: {connector: official_account, appid: wx1, secret: hunter2}}"
    with pytest.raises(CdpError, match="`env:NAME` or `file:PATH`") as caught:
        _ = Brand(tmp_path, yaml).config
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-8", "gb18030", "utf-16", "utf-8-sig"])
def test_the_top_of_a_large_file_is_that_of_the_whole(tmp_path: Path, encoding: str) -> None:
    lines = ["门店导出,,", "订单号,实付,买家", *(f"{n},1.50,张三丰{n}" for n in range(60_000))]
    path = tmp_path / "large.csv"
    path.write_bytes("\n".join(lines).encode(encoding))
    assert path.stat().st_size > 1 << 20
    [top] = tops(path, name=path.name)
    assert top.rows[:3] == ((0, ["门店导出", "", ""]), (1, ["订单号", "实付", "买家"]), (2, ["0", "1.50", "张三丰0"]))
