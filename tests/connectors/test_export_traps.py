"""Exports as they really come: titles above the header, several sheets, merged cells, totals, rows of another kind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pytest
import xlsxwriter
from typer.testing import CliRunner

from app.main import app
from cdp.config import parse
from cdp.errors import ConfigError, FatalError
from connectors.marketplaces.draft import profile_draft
from connectors.marketplaces.profile import Profile
from connectors.marketplaces.tables import unknown
from tests.connectors.test_shop_exports import DOUYIN, JD, TAOBAO
from tests.source_support import Brand

YAML = "sources: {shop: {connector: shop_export, path: inbox/, shop: 旗舰店, reject_budget: 0.7}}"
TAB = "\t"


@pytest.fixture
def brand(tmp_path: Path) -> Brand:
    (tmp_path / "inbox").mkdir()
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "cdp.yaml").write_text("name: 测试\n", encoding="utf-8")
    (tmp_path / "config" / "sources.yaml").write_text(YAML, encoding="utf-8")
    return Brand(tmp_path, YAML)


def workbook(path: Path, sheets: dict[str, Sequence[Sequence[str | None]]]) -> None:
    with xlsxwriter.Workbook(str(path)) as book:
        for name, rows in sheets.items():
            sheet = book.add_worksheet(name)
            for place, row in enumerate(rows):
                for column, cell in enumerate(row):
                    if cell is not None:
                        sheet.write_string(place, column, cell)


def table(text: str) -> list[list[str | None]]:
    return [[cell or None for cell in line.split(",")] for line in text.strip().splitlines()]


# ruff: noqa: E501 - rows of exports as they stand
WEIXIN = """
订单号,订单下单时间,订单发货时间,订单状态,收件人手机,市,订单实际支付金额,订单运费,支付时间,带货账号昵称,企微工号,企业微信加密id,商品名称,商品编码(平台),SKU编码(自定义),商品属性,商品价格(单件),商品实际价格(总共),商品数量,商品已退款金额
3711,2026-01-01 10:00:00,2026-01-02 08:00:00,已完成,138****0000,杭州市,115.00,5.00,2026-01-01 10:00:20,小店主播,ZhangSan,wmEncrypted,奶粉,100,S1,1段,50.00,45.00,1,0
3711,2026-01-01 10:00:00,2026-01-02 08:00:00,已完成,138****0000,杭州市,115.00,5.00,2026-01-01 10:00:20,小店主播,ZhangSan,wmEncrypted,尿布,101,S2,L,35.00,65.00,2,32.50
3712,2026-01-02 10:00:00,,待付款,13800138001,,20.00,0.00,,,,,湿巾,102,,10包,20.00,20.00,1,
"""


def test_a_weixin_shop_order_costs_what_stands_on_each_of_its_rows(brand: Brand) -> None:
    workbook(brand.root / "inbox" / "微信小店.xlsx", {"订单": table(WEIXIN)})
    brand.land("shop")
    columns = "order_id, platform, amount::text, refund_amount::text, freight_amount::text, status, receiver_phone"
    assert brand.latest("canonical__orders", f"{columns}, staff_userid, external_userid, updated_at::text") == [
        ("3711", "weixin_shop", "115.00", "32.50", "5.00", "done", None, "ZhangSan", None, "2026-01-02 00:00:00+00"),
        ("3712", "weixin_shop", "20.00", None, "0.00", "created", "13800138001", None, None, "2026-01-02 02:00:00+00"),
    ], "the step an order has reached dates it; WeChat's own encrypted id is no external_userid"
    lines = brand.latest("canonical__order_lines", "sku, quantity, price::text, amount::text")
    assert lines == [("10包", 1, "20.00", "20.00"), ("S1", 1, "50.00", "45.00"), ("S2", 2, "35.00", "65.00")]


MEITUAN = """
基础信息,,,,,,,,商家应收,,,,,
门店id,门店名称,交易类型,交易描述,订单号,下单时间,完成时间,退款时间,订单状态,商家应收款,商品总价,商家活动支出,美团活动补贴,用户支付配送费,用户线上支付金额,账单日期
1001,西湖店,外卖订单,,2001\t,2026-01-01 10:00:00,2026-01-01 10:40:00,-,订单完成,30.00,40.00,-5.00,-2.00,3.00,36.00,2026-01-01
1001,西湖店,外卖订单,,2002,2026-01-01 11:00:00,2026-01-01 11:40:00,-,订单取消,0.00,20.00,0.00,0.00,0.00,20.00,2026-01-01
1001,西湖店,外卖订单退款,部分退款,2001,2026-01-01 10:00:00,-,2026-01-02 09:00:00,订单完成,-9.00,-10.00,0,0,0,-10.00,2026-01-02
1001,西湖店,保险,商家险,-,-,-,-,-,-2.28,-,-,-,-,-,2026-01-01
1001,西湖店,流量助手节省转入广告,,-,-,-,-,-,76.41,-,-,-,-,-,2026-01-01
"""
BILL = "结算,,\n结算id,门店id,账单金额\n9,1001,1747.95\n"


def test_a_meituan_bill_tells_orders_from_refunds_and_passes_over_the_rest(brand: Brand) -> None:
    workbook(brand.root / "inbox" / "mt.xlsx", {"账单明细": table(BILL), "订单明细": table(MEITUAN)})
    reports = brand.land("shop")
    assert (reports["orders"].landed, reports["orders"].rejected, reports["refunds"].landed) == (2, 0, 1)
    columns = "order_id, amount::text, discount_amount::text, subsidy_amount::text, store_id, status, paid_at::text"
    assert brand.latest("canonical__orders", columns) == [
        ("2001", "36.00", "5.00", "2.00", "1001", "done", "2026-01-01 02:00:00+00"),
        ("2002", "20.00", "0.00", "0.00", "1001", "closed", "2026-01-01 03:00:00+00"),
    ]
    assert brand.latest("canonical__refunds", "order_id, amount::text, refunded_at::text, platform, shop") == [
        ("2001", "10.00", "2026-01-02 01:00:00+00", "meituan", "旗舰店")
    ]


def test_meituan_items_and_vouchers(brand: Brand) -> None:
    (brand.root / "inbox" / "items.csv").write_text(
        "订单编号,下单时间,订单完成时间,商家名称,商家ID,商家所在城市,订单状态,商品分类,商品名称,UPC码,店内码/货号,"
        "订单实付交易额（元）,商家承担活动金额（元）,商品销售数量,商品实付交易额（元）,部分退款商品金额（元）\n"
        "1,2026-01-01 10:00:00,2026-01-01 11:00:00,店,77,杭州,已完成,奶粉,奶粉1段,690,A1,95.5,5,1,60,0\n"
        "1,2026-01-01 10:00:00,2026-01-01 11:00:00,店,77,杭州,已完成,尿布,尿布L,691,A2,95.5,5,2,35.5,17.75\n",
        encoding="utf-8-sig",
    )
    (brand.root / "inbox" / "vouchers.csv").write_text(
        "券号,订单号,下单时间,消费时间,消费门店,项目名称,售价（美团售价）,用户手机号\n"
        "v1,2,2026-01-02 10:00:00,2026-01-05 12:00:00,西湖店,双人餐,88,138****0000\n"
        "v2,2,2026-01-02 10:00:00,2026-01-06 12:00:00,西湖店,双人餐,88,138****0000\n",
        encoding="gb18030",
    )
    brand.land("shop")
    columns = "order_id, platform, amount::text, refund_amount::text, status, phone, updated_at::text"
    assert brand.latest("canonical__orders", columns) == [
        ("1", "meituan", "95.50", "17.75", "done", None, "2026-01-01 03:00:00+00"),
        ("2", "meituan_dianping", "176.00", None, "done", None, "2026-01-06 04:00:00+00"),
    ]
    assert brand.latest("canonical__order_lines", "order_id, product_name, quantity, amount::text") == [
        ("1", "奶粉1段", 1, "60.00"),
        ("1", "尿布L", 2, "35.50"),
        ("2", "双人餐", 1, "88.00"),
        ("2", "双人餐", 1, "88.00"),
    ]


def test_douyin_refunds_and_settlement(brand: Brand) -> None:
    (brand.root / "inbox" / "after.csv").write_text(
        "售后单号,订单号,商品单号,商品ID,售后类型,退商品金额（元）,售后状态,售后申请时间,用户到账时间,售后原因\n"
        "\t71,\t500,\t501,9,退货退款,9.50,同意退款，退款成功,2026-01-03 10:00:00,2026-01-04 10:00:00,不喜欢\n"
        "\t72,\t500,\t502,8,仅退款,5.50,售后关闭,2026-01-03 10:00:00,-,-\n",
        encoding="utf-8-sig",
    )
    (brand.root / "inbox" / "settle.csv").write_text(
        "结算时间,订单号,子订单号,结算金额,结算账户,结算单类型,有结算前退款,下单时间,收入合计,支出合计,平台服务费,达人佣金\n"
        " , , ,收入+支出, , , , , , , , \n"
        "2026-01-10 05:59:20,'500,'501,8.02,聚合账户,已结算,否,2026-01-01 10:00:00,9.50,-1.48,-0.48,-1.00\n"
        "2026-01-12 05:59:20,'500,'501,-8,聚合账户,结算后退款-非原路退回,否,2026-01-01 10:00:00,0,8,0,0\n",
        encoding="utf-8-sig",
    )
    reports = brand.land("shop")
    assert brand.latest("canonical__refunds", "refund_id, order_id, amount::text, refunded_at::text, reason") == [
        ("71", "500", "9.50", "2026-01-04 02:00:00+00", "不喜欢")
    ]
    assert brand.latest("canonical__costs", "channel_id, date::text, amount::text") == [
        ("douyin", "2026-01-10", "1.48")
    ], "a formula row and a refund after settlement are no costs"
    assert all(report.rejected == 0 for report in reports.values())


def test_a_title_above_the_header_a_totals_row_and_empty_rows(brand: Brand) -> None:
    text = "天猫订单 2026-01-01 至 2026-01-31\n\n" + TAOBAO.replace(",", "\t").replace("买家已付款\t", "买家已付款,")
    text = text.replace('"1\t100', '"1,100') + f"合计{TAB * 6}1150{TAB * 15}\n" + TAB * 21 + "\n"
    (brand.root / "inbox" / "t.csv").write_bytes(text.encode("gb18030"))
    report = brand.land("shop")["orders"]
    assert (report.landed, report.rejected) == (3, 1)
    assert brand.sql("select reason like 'a row of totals%', row_number from raw._rejects") == [(True, 7)]


def test_every_sheet_with_orders_is_read_and_an_unknown_one_is_told(brand: Brand) -> None:
    rows = table(WEIXIN)
    later = [rows[0], ["3799", *rows[1][1:]]]
    changed = [["单号", "金额"], ["1", "2"]]
    workbook(brand.root / "inbox" / "m.xlsx", {"1月": rows, "2月": later, "3月": changed, "空": []})
    report = brand.land("shop")["orders"]
    assert (report.landed, report.rejected, report.batches) == (3, 1, 2)
    [(reason,)] = brand.sql("select distinct reason from raw._rejects")
    assert reason.startswith("sheet `3月` was not read: inbox/m.xlsx: no profile knows this header")
    assert brand.land("shop")["orders"].received == 0


def test_an_order_id_that_merged_cells_left_out_is_that_of_the_row_above(brand: Brand) -> None:
    rows = table(WEIXIN)
    rows[2][:6] = [None] * 6
    rows[2][6] = rows[2][7] = rows[2][8] = None
    workbook(brand.root / "inbox" / "m.xlsx", {"订单": rows})
    brand.land("shop")
    assert brand.latest("canonical__orders", "order_id, amount::text") == [("3711", "115.00"), ("3712", "20.00")]
    assert brand.latest("canonical__order_lines", "order_id, product_id") == [
        ("3711", "100"),
        ("3711", "101"),
        ("3712", "102"),
    ]


def _cdp(brand: Brand, *words: str) -> str:
    result = CliRunner().invoke(app, ["--home", str(brand.root), *words], env={"COLUMNS": "250"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output


def test_an_order_is_rejected_whole_mended_and_lands_with_its_whole_amount(brand: Brand) -> None:
    export = brand.root / "dy.csv"
    export.write_bytes(DOUYIN.replace(",10,5.5,0.00", ",10,五元,0.00").encode("utf-8-sig"))
    book = brand.root / "mend.xlsx"
    told = _cdp(brand, "load", str(export), "--shop", "旗舰店", "--yes", "--rejects", str(book))
    assert "row 2: row 3 of the same order: `订单应付金额` is not a valid decimal" in told
    assert "shop.orders: 3 received = 1 landed + 0 duplicates + 2 rejected" in told, "into the configured source"
    rows = pl.read_excel(book, infer_schema_length=0)
    assert rows.columns[-1] == "reject_reason"
    assert rows.height == 2
    mended = rows.with_columns(pl.col("订单应付金额").replace("五元", "5.5"))
    workbook(book, {"rejects": [mended.columns, *mended.rows()]})
    told = _cdp(brand, "load", str(book), "--shop", "旗舰店", "--yes")
    assert "shop.orders: 1 received = 1 landed" in told
    assert "reject_reason" not in told
    assert brand.latest("canonical__orders", "order_id, amount::text") == [("500", "15.00"), ("600", "30.00")]
    assert len(brand.latest("canonical__order_lines", "line_id")) == 3, "lines that had landed are not there twice"


def test_a_row_rejected_only_as_a_line_comes_back_with_its_whole_order(brand: Brand) -> None:
    export = brand.root / "dy.csv"
    text = DOUYIN.replace("\t502,尿布,L,8,2,", "\t502,尿布,L,8,两个,").replace("\t600,奶粉;尿布", "\t600,奶粉;尿布,多")
    export.write_bytes((text + DOUYIN.splitlines()[3] + "\n").encode("utf-8-sig"))
    book = brand.root / "mend.xlsx"
    told = _cdp(brand, "load", str(export), "--shop", "旗舰店", "--yes", "--budget", "1", "--rejects", str(book))
    assert "shop.orders: 3 received = 1 landed + 0 duplicates + 2 rejected" in told, "one order has a torn line"
    assert brand.latest("canonical__orders", "order_id, amount::text") == [("500", "15.00")]
    rows = pl.read_excel(book, infer_schema_length=0)
    assert sorted(rows["子订单编号"]) == ["\t501", "\t502", "\t600", "\t600"]
    mended = rows.with_columns(pl.col("商品数量").replace("两个", "2")).filter(pl.col("extra_1").is_null())
    workbook(book, {"rejects": [mended.columns, *mended.rows()]})
    _cdp(brand, "load", str(book), "--shop", "旗舰店", "--yes")
    assert brand.latest("canonical__orders", "order_id, amount::text") == [("500", "15.00"), ("600", "30.00")]
    assert brand.latest("canonical__order_lines", "line_id, quantity") == [("501", 1), ("502", 2), ("600", 3)]


def test_replayed_rejects_of_lines_leave_their_orders_alone(brand: Brand) -> None:
    (brand.root / "inbox" / "dy.csv").write_bytes(
        DOUYIN.replace("\t502,尿布,L,8,2,", "\t502,尿布,L,8,两个,").encode("utf-8-sig")
    )
    _cdp(brand, "source", "pull", "shop")
    book = brand.root / "mend.xlsx"
    _cdp(brand, "source", "rejects", "shop", "--to", str(book))
    mended = pl.read_excel(book, sheet_name="order_lines", infer_schema_length=0)
    mended = mended.with_columns(pl.col("商品数量").replace("两个", "2"))
    workbook(book, {"order_lines": [mended.columns, *mended.rows()]})
    assert "shop.order_lines: 1 received = 1 landed" in _cdp(brand, "source", "replay", "shop", str(book))
    assert brand.latest("canonical__orders", "order_id, amount::text") == [("500", "15.00"), ("600", "30.00")]


def test_a_line_of_too_many_cells_comes_back_in_its_columns(brand: Brand) -> None:
    export = brand.root / "jd.csv"
    export.write_bytes((JD + "102,9,湿巾,1,在线,多余\n").encode("gb18030"))
    book = brand.root / "mend.xlsx"
    assert "gb18030" in _cdp(brand, "load", str(export), "--yes", "--rejects", str(book))
    [row] = pl.read_excel(book, infer_schema_length=0).to_dicts()
    assert (row["订单号"], row["商品名称"], row["下单时间"]) == ("102", "湿巾", "多余")


UNKNOWN = (
    "微店报表\n微店单号,下单时间,付款时间,实付金额,订单状态,商品名称,数量,客服备注\n"
    "W1,2026/1/1 9:05,2026/1/1 9:06,9.90,已完成,奶粉,1,急\nW1,2026/1/1 9:05,2026/1/1 9:06,9.90,已完成,尿布,2,\n"
)


def test_an_unknown_header_gives_a_draft_that_loads_the_file(brand: Brand) -> None:
    export = brand.root / "w.csv"
    export.write_bytes(UNKNOWN.replace("微店单号", "订单编号").encode("gb18030"))
    with pytest.raises(FatalError, match=r"unknown to `\w+`: .*客服备注") as caught:
        _cdp(brand, "load", str(export), "--yes")
    assert "--draft" in str(caught.value)
    draft = brand.root / "config" / "profiles" / "weidian.yaml"
    told = _cdp(brand, "load", str(export), "--draft", str(draft))
    assert "客服备注" in told
    profile = parse(draft.read_text(encoding="utf-8"), Profile, file=str(draft))
    assert (profile.grain, profile.platform) == ("item", "weidian")
    assert "1 received = 1 landed" in _cdp(brand, "load", str(export), "--yes")
    assert brand.latest("canonical__orders", "order_id, platform, amount::text, status, paid_at::text") == [
        ("W1", "weidian", "9.90", "done", "2026-01-01 01:06:00+00")
    ]
    assert len(brand.latest("canonical__order_lines", "line_id")) == 2
    with pytest.raises(ConfigError, match="is known: profile `weidian`"):
        _cdp(brand, "load", str(export), "--draft", str(brand.root / "other.yaml"))


def test_a_draft_says_what_it_did_not_find(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("甲,乙\n1,2\n", encoding="utf-8")
    text = profile_draft(unknown(path, {}), "x", file=path.name)
    assert "no column was found for the required order_id" in text


def test_a_profile_with_an_unknown_column_is_told_with_the_nearest(brand: Brand) -> None:
    folder = brand.root / "config" / "profiles"
    folder.mkdir()
    (folder / "x.yaml").write_text(
        "name: x\nplatform: x\ntitle: x\ngrain: order\nrequires: [单号]\n"
        "streams: {orders: {columns: {orderid: 单号}}}\n",
        encoding="utf-8",
    )
    with pytest.raises(ConfigError, match="orders has no column `orderid`; did you mean `order_id`"):
        brand.connector("shop")


def test_the_newest_taobao_template_and_items_with_order_columns(brand: Brand) -> None:
    (brand.root / "inbox" / "qn.csv").write_bytes(
        "订单编号,支付单号,支付详情,买家应付货款,买家应付邮费,总金额,买家实付金额,订单创建时间,订单付款时间,商品标题,退款金额,确认收货打款金额\n"
        "2601,1,x,90,0,90,90.00,2026-01-01 10:00:00,2026-01-01 10:00:01,奶粉,无退款申请,90\n".encode("gb18030")
    )
    (brand.root / "inbox" / "items.csv").write_bytes(
        "订单编号,标题,价格,购买数量,外部系统编号,商品属性,订单状态,商家编码,买家应付货款,买家实际支付金额,退款状态,退款金额,"
        "订单创建时间,订单付款时间\n"
        "2602,奶粉,50.00,2,null,1段,交易成功,SKU1,100,98.00,没有申请退款,无退款申请,2026-01-01 10:00:00,"
        "2026-01-01 10:00:01\n".encode("gb18030")
    )
    reports = brand.land("shop")
    assert brand.latest("canonical__orders", "order_id, amount::text, status, refund_amount") == [
        ("2601", "90.00", None, None)
    ], "a file of items is not taken for one of orders"
    assert reports["order_lines"].landed == 1
