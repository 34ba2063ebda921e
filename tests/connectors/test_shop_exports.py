"""Order files of the public platforms, with every trap they are known for."""

from __future__ import annotations

from pathlib import Path

import pytest
import xlsxwriter

from cdp.errors import FatalError
from connectors.marketplaces.profile import load_profiles
from tests.source_support import Brand

YAML = "sources: {{shop: {{connector: shop_export, path: inbox/, shop: 旗舰店{more}}}}}"


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    (tmp_path / "inbox").mkdir()
    return tmp_path / "inbox"


def _brand(inbox: Path, more: str = "") -> Brand:
    return Brand(inbox.parent, YAML.format(more=more))


def _orders(brand: Brand, columns: str) -> list[tuple[object, ...]]:
    return brand.latest("canonical__orders", columns)


def _lines(brand: Brand, columns: str) -> list[tuple[object, ...]]:
    return brand.latest("canonical__order_lines", columns)


TAOBAO = (
    "订单编号,买家会员名,买家支付宝账号,买家应付货款,买家应付邮费,总金额,买家实际支付金额,订单状态,买家留言,收货人姓名,收货地址,"
    "联系电话,联系手机,订单创建时间,订单付款时间,宝贝标题,宝贝种类,物流单号,宝贝总数量,店铺名称,退款金额,打款商家金额\n"
    '="2600001234567890001",小明,a@b.c,90.00,10.00,100.00,"1,100.00元",交易成功,,张三,浙江,\'0571-88888888,\'13800138000,'
    '2026-01-01 10:00:00,2026-01-01 10:01:00,奶粉,1,="SF1",2,甲店,0.00,90.00元\n'
    '="2600001234567890002",小**,,50,0,50,0.00,交易关闭,,李*,浙江,,1**********,2026-01-02 10:00:00,,尿布,1,,1,甲店,0,'
    "0\n"
    '="2600001234567890003",阿红,,50,0,50,50.00,"买家已付款,等待卖家发货",,王五,,,,2026-01-03 10:00:00,'
    "2026-01-03 10:00:09,尿布,1,,1,甲店,,\n"
)


def test_taobao_orders_in_gb18030(inbox: Path) -> None:
    (inbox / "ExportOrderList1.csv").write_bytes(TAOBAO.encode("gb18030"))
    brand = _brand(inbox)
    assert brand.land("shop")["orders"].landed == 3
    rows = _orders(
        brand,
        "order_id, platform, shop, buyer_id, receiver_phone, status, paid_at::text, amount::text, freight_amount::text",
    )
    assert rows == [
        (
            "2600001234567890001",
            "taobao",
            "旗舰店",
            "小明",
            "13800138000",
            "done",
            "2026-01-01 02:01:00+00",
            "1100.00",
            "10.00",
        ),
        ("2600001234567890002", "taobao", "旗舰店", None, None, "closed", None, "0.00", "0.00"),
        ("2600001234567890003", "taobao", "旗舰店", "阿红", None, "paid", "2026-01-03 02:00:09+00", "50.00", "0.00"),
    ]
    [(extra,)] = brand.sql("select _extra from raw.canonical__orders where order_id like '%1'")
    assert '"宝贝种类":"1"' in extra, "a count, not an id: kept beside"
    assert '"买家支付宝账号":"a@b.c"' in extra


def test_a_newer_export_of_the_same_orders_replaces_and_the_same_file_is_a_no_op(inbox: Path) -> None:
    (inbox / "1.csv").write_bytes(TAOBAO.encode("gb18030"))
    brand = _brand(inbox)
    brand.land("shop")
    (inbox / "2.csv").write_bytes(TAOBAO.encode("gb18030"))
    assert brand.land("shop")["orders"].received == 0
    (inbox / "3.csv").write_text(TAOBAO.replace("买家已付款,等待卖家发货", "交易成功"), encoding="utf-8")
    report = brand.land("shop")["orders"]
    assert (report.landed, report.duplicates) == (1, 2)
    assert [row[0] for row in _orders(brand, "status")] == ["closed", "done", "done"]


def test_the_newer_taobao_template_is_known_by_its_other_names(inbox: Path) -> None:
    names = "订单编号,买家实付金额,订单状态,买家下单时间,买家付款时间,运单号,宝贝规格\n"
    text = names + "1,9.9,交易成功,2026-01-01 10:00:00,2026-01-01 10:00:01,,红\n"
    (inbox / "n.csv").write_text(text, encoding="utf-8-sig")
    brand = _brand(inbox)
    brand.land("shop")
    assert _orders(brand, "order_id, amount::text, paid_at::text") == [("1", "9.90", "2026-01-01 02:00:01+00")]


def test_taobao_items_from_a_workbook(inbox: Path) -> None:
    names = ["子订单编号", "主订单编号", "标题", "价格", "购买数量", "外部系统编号", "商品属性", "订单状态", "商家编码"]
    names.append("买家实际支付金额")
    rows = [["11", "10", "奶粉", "50.00", "2", "null", "1段", "交易成功", "SKU1", "98.00"],
            ["12", "10", "尿布", "20.00", "1", "null", "L", "交易成功", "SKU2", "20.00"]]  # fmt: skip
    with xlsxwriter.Workbook(str(inbox / "ExportOrderDetailList.xlsx")) as book:
        sheet = book.add_worksheet()
        for place, row in enumerate([names, *rows]):
            for column, cell in enumerate(row):
                sheet.write_string(place, column, cell)
    brand = _brand(inbox)
    reports = brand.land("shop")
    assert (reports["orders"].received, reports["order_lines"].landed) == (0, 2)
    assert _lines(brand, "order_id, product_id, quantity, amount::text") == [
        ("10", "SKU1", 2, "98.00"),
        ("10", "SKU2", 1, "20.00"),
    ]


JD = (
    "订单号,商品ID,商品名称,订购数量,支付方式,下单时间,京东价,订单金额,结算金额,余额支付,应付金额,订单状态,订单类型,下单帐号,客户姓名,"
    "客户地址,联系电话,订单备注,商家备注等级（等级1-5为由高到低）,运费金额,付款确认时间,货号\n"
    "100,1,奶粉,1,在线,2026-01-01 10:00:00,50,90,80,0,80,完成,SOP,jd_1,张,浙,1******6198,,,5,2026-01-01 10:01:00,A\n"
    "100,2,尿布,2,在线,2026-01-01 10:00:00,20,90,80,0,80,完成,SOP,jd_1,张,浙,1******6198,,,5,2026-01-01 10:01:00,B\n"
    "101,2,尿布,1,在线,2026-01-02 10:00:00,20,20,20,0,20,(删除)等待付款,SOP,jd_2,张,浙,13800138000,,,0,,B\n"
)


def test_jd_amounts_that_stand_on_every_row_are_taken_once(inbox: Path) -> None:
    (inbox / "jd.csv").write_bytes(JD.encode("gb18030"))
    brand = _brand(inbox)
    reports = brand.land("shop")
    assert (reports["orders"].landed, reports["order_lines"].landed) == (2, 3)
    assert _orders(brand, "order_id, amount::text, freight_amount::text, receiver_phone, buyer_id, status") == [
        ("100", "80.00", "5.00", None, "jd_1", "done"),
        ("101", "20.00", "0.00", "13800138000", "jd_2", "closed"),
    ]
    assert _lines(brand, "order_id, product_id, sku, quantity, price::text")[1] == ("100", "2", "B", 2, "20.00")


DOUYIN = (
    "主订单编号,子订单编号,选购商品,商品规格,商品ID,商品数量,商家编码,商品金额,订单应付金额,运费,收件人,收件人手机号,订单提交时间,"
    "支付完成时间,订单完成时间,订单状态,平台实际承担优惠金额,达人ID,流量渠道\n"
    "\t500,\t501,奶粉,1段,9,1,A,10,9.5,-,##x##,##abc##,2026-01-01 10:00:00,2026-01-01 10:00:05,-,已完成,1.5,-,直播\n"
    "\t500,\t502,尿布,L,8,2,B,10,5.5,0.00,##x##,$$abc$$,2026-01-01 10:00:00,2026-01-01 10:00:05,-,已完成,-,-,直播\n"
    "\t600,\t600,奶粉;尿布,-,9;8,3,-,30,30,0,##x##,##abc##,2026-01-01 10:00:00,-,-,待支付,-,77,短视频\n"
)


def test_douyin_child_orders_add_up_and_encrypted_recipients_identify_nobody(inbox: Path) -> None:
    (inbox / "dy.csv").write_bytes(DOUYIN.encode("utf-8-sig"))
    brand = _brand(inbox)
    brand.land("shop")
    assert _orders(
        brand,
        "order_id, amount::text, subsidy_amount::text, receiver_phone, status, paid_at::text, campaign_id, channel",
    ) == [
        ("500", "15.00", "1.50", None, "done", "2026-01-01 02:00:05+00", None, "直播"),
        ("600", "30.00", None, None, "created", None, "77", "短视频"),
    ]
    assert _lines(brand, "order_id, line_id, product_name, quantity, amount::text") == [
        ("500", "501", "奶粉", 1, "9.50"),
        ("500", "502", "尿布", 2, "5.50"),
        ("600", "600", "奶粉;尿布", 3, "30.00"),
    ], "several items in one cell, with one sum for all, cannot be told apart"


@pytest.mark.parametrize("time_column", ["订单成交时间", "支付时间", "拼单成功时间"])
def test_pinduoduo_whatever_its_time_column_is_called(inbox: Path, time_column: str) -> None:
    text = (
        "商品,订单号,订单状态,商品总价(元),邮费(元),店铺优惠折扣(元),平台优惠折扣(元),用户实付金额(元),商家实收金额(元),"
        f"商品数量(件),{time_column},"
        "发货时间,确认收货时间,商品id,商品规格,样式ID,商家编码-规格维度,售后状态,省,市\n"
        "奶粉,260101-111,已发货，待签收,100,0,5,3,92,95,1,2026-01-01 10:00:00,,,9,1段,77,A,无售后,浙江,杭州市\n"
        "奶粉,260102-222,待付款,100,0,0,0,0,0,1,,,,9,1段,77,A,无售后,***,***\n"
    )
    (inbox / "pdd.csv").write_text(text, encoding="utf-8")
    brand = _brand(inbox)
    brand.land("shop")
    assert _orders(brand, "order_id, buyer_id, paid_at::text, amount::text, city, status") == [
        ("260101-111", None, "2026-01-01 02:00:00+00", "92.00", "杭州市", "shipped"),
        ("260102-222", None, None, "0.00", None, "created"),
    ]


YOUZAN = (
    "订单号,销售渠道,归属店铺,订单类型,订单状态,订单来源,订单创建时间,买家付款时间,交易成功时间,商品金额合计,运费,店铺优惠合计,"
    "应收订单金额,订单实付金额,收货人城市,收货人手机号/提货人手机号,买家昵称,买家是否会员,买家手机号,下单网点,分销员,专属导购,订单退款状态,订单已退款金额,"
    "分销员,分销员手机号\n"
    "E1,小程序,总店,普通,交易完成,微信,2026-01-01 10:00:00,2026-01-01 10:00:01,2026-01-05 10:00:00,100,0,10,90,90.00,"
    "杭州,13900139000,明,是,13800138000,西湖店,甲,导购小李,部分退款,30.00,乙,13700137000\n"
)


def test_youzan_tells_the_buyer_from_the_receiver_and_keeps_both_distributors(inbox: Path) -> None:
    (inbox / "yz.csv").write_bytes(YOUZAN.encode("utf-8-sig"))
    brand = _brand(inbox)
    brand.land("shop")
    assert _orders(brand, "phone, receiver_phone, amount::text, refund_amount::text, store_id, status") == [
        ("13800138000", "13900139000", "90.00", "30.00", "西湖店", "done")
    ]
    [(extra,)] = brand.sql("select _extra from raw.canonical__orders")
    assert '"分销员#1":"甲"' in extra
    assert '"分销员#2":"乙"' in extra
    assert '"专属导购":"导购小李"' in extra


def test_destroyed_ids_are_refused_and_tell_to_export_again(inbox: Path) -> None:
    (inbox / "t.csv").write_bytes(TAOBAO.replace('="2600001234567890003"', "2.60000E+18").encode("gb18030"))
    brand = _brand(inbox)
    report = brand.land("shop")["orders"]
    assert (report.landed, report.rejected) == (2, 1)
    [(reason,)] = brand.sql("select reason from raw._rejects")
    assert "export again" in reason


def test_an_unknown_header_gets_a_report_that_helps_to_write_a_profile(inbox: Path) -> None:
    (inbox / "x.csv").write_text("订单号,订单状态,商品总价(元),金额\n1,2,3,4\n", encoding="utf-8")
    with pytest.raises(FatalError) as caught:
        _brand(inbox).land("shop")
    told = str(caught.value)
    assert "x.csv: no profile knows this header (4 columns: 订单号, 订单状态, 商品总价(元), 金额)" in told
    assert "`pinduoduo_orders` lacks 商家实收金额(元), 商品数量(件)" in told


def test_a_new_profile_is_one_yaml_file(inbox: Path) -> None:
    folder = inbox.parent / "config" / "profiles"
    folder.mkdir(parents=True)
    (folder / "weidian.yaml").write_text(
        "name: weidian_orders\nplatform: weidian\ntitle: 微店 订单\ngrain: order\nrequires: [微店订单号, 实付]\n"
        "streams: {orders: {columns: {order_id: 微店订单号, amount: 实付,"
        " status: {from: 状态, contains: {完成: done}}}}}\n",
        encoding="utf-8",
    )
    (inbox / "w.csv").write_text("微店订单号,实付,状态\nW1,9.9,已完成\n", encoding="utf-8")
    brand = _brand(inbox, ", profiles: config/profiles")
    brand.land("shop")
    assert _orders(brand, "order_id, platform, amount::text, status") == [("W1", "weidian", "9.90", "done")]


def test_every_profile_recognises_itself_alone() -> None:
    profiles = load_profiles()
    for profile in profiles.values():
        core = [item if isinstance(item, str) else item[0] for item in profile.requires]
        assert [other.name for other in profiles.values() if other.fits(core)] == [profile.name]


def test_xiaohongshu_adds_up_what_was_paid_per_sku(inbox: Path) -> None:
    text = (
        "订单号,订单状态,售后状态,支付时间,订单创建时间,SKU名称,SKU规格,SKU件数,商品总价(元),商家应收金额(元)（支付金额）\n"
        "P1,已完成,无售后,2026-01-01 10:00:00,2026-01-01 09:59:00,奶粉,1段,1,50,45.5\n"
        "P1,已完成,无售后,2026-01-01 10:00:00,2026-01-01 09:59:00,奶粉,2段,2,80,70\n"
        "P2,待配货,无售后,2026-01-02 10:00:00,2026-01-02 09:59:00,尿布,L,1,20,20\n"
    )
    (inbox / "xhs.csv").write_text(text, encoding="utf-8-sig")
    brand = _brand(inbox)
    brand.land("shop")
    assert _orders(brand, "order_id, platform, amount::text, status, paid_at::text") == [
        ("P1", "xiaohongshu", "115.50", "done", "2026-01-01 02:00:00+00"),
        ("P2", "xiaohongshu", "20.00", "paid", "2026-01-02 02:00:00+00"),
    ]
    assert len(_lines(brand, "line_id")) == 3


def test_kuaishou_orders(inbox: Path) -> None:
    text = (
        "订单号,订单创建时间,订单支付时间,订单状态,实付款,快递费,店铺优惠,平台补贴,成交数量,商品名称,商品ID,商品规格,SKU编码,商品单价,"
        "渠道,CPS达人ID,收货人电话,收货地址-市,发货时间\n"
        "K1,2026-01-01 10:00:00,2026-01-01 10:00:30,交易成功,￥45.50,0,5,1,1,奶粉,9,1段,S1,50,分销,77,138****0000,"
        "杭州市,\n"
        "K2,2026-01-02 10:00:00,,待付款,20,0,0,0,1,尿布,8,L,-,20,自建,-,,,\n"
    )
    (inbox / "ks.csv").write_bytes(text.encode("gb18030"))
    brand = _brand(inbox)
    brand.land("shop")
    assert _orders(brand, "order_id, platform, amount::text, status, campaign_id, receiver_phone, channel") == [
        ("K1", "kuaishou", "45.50", "done", "77", None, "分销"),
        ("K2", "kuaishou", "20.00", "created", None, None, "自建"),
    ]
    assert _lines(brand, "sku, quantity, price::text") == [("L", 1, "20.00"), ("S1", 1, "50.00")]
