"""Exports and lists as people hand them over: Taobao, Douyin, a hand-kept workbook, channel lists."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import xlsxwriter

from sandbox.brand import names
from sandbox.brand.commerce import DOUYIN, TAOBAO, Products, Purchases, money, order_ids
from sandbox.brand.ids import gather, local_text, masked, numbered, random_text
from sandbox.brand.people import DAY, Calendar, People, full_names
from sandbox.brand.records import order_lines, pick, staff_ids, words
from sandbox.brand.truth import Evidence
from sandbox.brand.wecom_relations import channel_ids

TAOBAO_HEADERS = [
    "订单编号",
    "买家会员名",
    "买家支付宝账号",
    "买家应付货款",
    "买家应付邮费",
    "买家支付积分",
    "总金额",
    "返点积分",
    "买家实际支付金额",
    "买家实际支付积分",
    "订单状态",
    "买家留言",
    "收货人姓名",
    "收货地址",
    "运送方式",
    "联系电话",
    "联系手机",
    "订单创建时间",
    "订单付款时间",
    "宝贝标题",
    "宝贝种类",
    "物流单号",
    "物流公司",
    "订单备注",
    "宝贝总数量",
    "店铺Id",
    "店铺名称",
    "订单关闭原因",
    "卖家服务费",
    "买家服务费",
    "发票抬头",
    "是否手机订单",
    "分阶段订单信息",
    "特权订金订单id",
    "定金排名",
    "修改后的sku",
    "修改后的收货地址",
    "异常信息",
    "天猫卡券抵扣",
    "集分宝抵扣",
    "是否是O2O交易",
    "打款商家金额",
    "退款金额",
    "确认收货时间",
]
TAOBAO_STATUS = (
    "等待买家付款",
    "交易关闭",
    "买家已付款，等待卖家发货",
    "卖家已发货，等待买家确认",
    "交易成功",
    "交易关闭",
)
DOUYIN_HEADERS = [
    "主订单编号",
    "子订单编号",
    "选购商品",
    "商品规格",
    "商品ID",
    "商品数量",
    "商家编码",
    "商品金额",
    "订单应付金额",
    "商家收入金额",
    "运费",
    "收件人",
    "收件人手机号",
    "详细地址",
    "订单提交时间",
    "支付完成时间",
    "支付方式",
    "商家备注",
    "订单完成时间",
    "订单状态",
    "售后状态",
    "取消原因",
    "发货时间",
    "快递信息",
    "平台实际承担优惠金额",
    "商家实际承担优惠金额",
    "达人实际承担优惠金额",
    "达人ID",
    "达人昵称",
    "流量体裁",
    "流量渠道",
    "流量来源",
    "流量类型",
]
DOUYIN_STATUS = ("待支付", "已关闭", "待发货", "已发货", "已完成", "已关闭")


def write_taobao(
    path: Path, rng: np.random.Generator, people: People, products: Products, purchases: Purchases, evidence: Evidence,
    time: Calendar,
) -> int:  # fmt: skip
    """ExportOrderList in GB18030. Numbers are shown in full only in the older half."""
    row = np.flatnonzero(purchases.platform == TAOBAO)
    person, size = purchases.person[row], len(row)
    full = (purchases.at[row] < time.start + 300 * DAY) | (rng.random(size) < 0.12)
    phone = people.phone_first[person] + ((people.phone_count[person] > 1) & (person % 3 == 0))
    evidence.link("buyer", person, "phone", np.where(full, phone, -1))
    text = gather(people.phones, phone)
    hidden = masked(text)
    evidence.extra += [("phone", "", item, "masked_phone") for item in hidden.filter(pl.Series(~full)).to_list()]
    pays = purchases.status[row] >= 2
    order = gather(order_ids(purchases), row)
    paid_text = money(purchases.paid[row])
    first_line = np.full(len(purchases), -1)
    first_line[purchases.line_order[::-1]] = purchases.line_product[::-1]
    quantity = np.bincount(
        purchases.line_order, weights=purchases.line_quantity.astype(float), minlength=len(purchases)
    )
    kinds = np.bincount(purchases.line_order, minlength=len(purchases))
    done = purchases.status[row] == 4
    purchases.identified[row] = True
    columns: dict[str, pl.Series | list[str]] = {
        "订单编号": '="' + order + '"',
        "买家会员名": gather(people.buyer_id, person),
        "买家支付宝账号": hidden,
        "买家应付货款": money(
            purchases.total[row] - purchases.discount[row] - purchases.coupon[row] - purchases.subsidy[row]
        ),
        "买家应付邮费": money(purchases.freight[row]),
        "总金额": money(purchases.total[row] + purchases.freight[row]),
        "买家实际支付金额": pick(rng.random(size) < 0.1, paid_text + "元").fill_null(paid_text),
        "订单状态": words(TAOBAO_STATUS, purchases.status[row]),
        "收货人姓名": gather(full_names(people), person).str.slice(0, 1) + "**",
        "收货地址": [
            f"{names.PLACES[item][0]} {names.PLACES[item][1]} **区 **路****号" for item in people.city[person]
        ],
        "联系手机": "'" + pick(full, text).fill_null(hidden),
        "订单创建时间": local_text(purchases.at[row]),
        "订单付款时间": pick(pays, local_text(np.nan_to_num(purchases.paid_at[row])), ""),
        "宝贝标题": gather(pl.Series(products.name), first_line[row]),
        "宝贝种类": pl.Series(kinds[row]).cast(pl.String),
        "宝贝总数量": pl.Series(quantity[row].astype(np.int64)).cast(pl.String),
        "店铺名称": [names.TAOBAO_SHOP] * size,
        "订单关闭原因": pick(purchases.status[row] == 1, pl.lit("买家不想要了"), ""),
        "是否手机订单": ["手机订单"] * size,
        "打款商家金额": paid_text + "元",
        "退款金额": money(purchases.refund[row]),
        "确认收货时间": pick(done, local_text(purchases.at[row] + 8 * DAY), ""),
    }
    frame = pl.DataFrame({name: columns.get(name, [""] * size) for name in TAOBAO_HEADERS})
    text_form = (
        frame.filter(pl.Series(purchases.shown[row]))
        .select(pl.all().replace("", None))
        .write_csv(line_terminator="\r\n")
    )
    path.write_bytes(text_form.encode("gb18030"))
    return size


def write_douyin(
    path: Path, rng: np.random.Generator, people: People, products: Products, purchases: Purchases, evidence: Evidence,
) -> int:  # fmt: skip
    """One row per sub-order; recipients are encrypted, numbers are relay, encrypted, or (rarely) real."""
    lines = order_lines(purchases, products, (DOUYIN,))
    keep = (purchases.platform[purchases.line_order] == DOUYIN) & purchases.shown[purchases.line_order]
    row = purchases.line_order[keep]
    person, size = purchases.person[row], len(row)
    style = (row * 7 + row // 5) % 10  # of the order, not of the line
    real = style < 3
    evidence.see("phone", np.where(real, people.phone_first[person], -1))
    purchases.identified[row[real]] = True
    relay = (
        "1"
        + pl.Series(row % 10**4 + 7012340000).cast(pl.String)
        + "-"
        + pl.Series(row * 37 % 9000 + 1000).cast(pl.String)
    )
    evidence.extra += [
        ("phone_relay", "", item, "relay_phone") for item in relay.filter(pl.Series(style >= 6)).to_list()
    ]
    cipher = "$$" + random_text(rng, len(purchases), 24).gather(pl.Series(row)) + "$1$"
    phone = pl.select(
        pl.when(pl.Series(real)).then(gather(people.phones, people.phone_first[person]))
        .when(pl.Series(style >= 6)).then(relay).otherwise(cipher)
    ).to_series()  # fmt: skip
    pays = purchases.status[row] >= 2
    dash = ["-"] * size
    refunded = (purchases.refund[row] > 0) & ((purchases.status[row] == 5) | (lines["line_no"] == 1).to_numpy())
    influencer = row % 4 == 0
    columns: dict[str, pl.Series | list[str]] = {
        "主订单编号": lines["order_id"],
        "子订单编号": "\t" + pl.Series(row * 10 + lines["line_no"].to_numpy() + 5 * 10**18).cast(pl.String),
        "选购商品": lines["product_name"],
        "商品规格": lines["category"],
        "商品ID": lines["product_id"],
        "商品数量": lines["quantity"].cast(pl.String),
        "商家编码": lines["sku"],
        "商品金额": lines["amount"],
        "订单应付金额": money(shares(purchases.paid, row)),
        "商家收入金额": money(shares(purchases.paid, row)),
        "运费": money(shares(purchases.freight, row)),
        "收件人": "##" + random_text(rng, len(purchases), 20).gather(pl.Series(row)),
        "收件人手机号": phone,
        "详细地址": ["##********"] * size,
        "订单提交时间": local_text(purchases.at[row]),
        "支付完成时间": pick(pays, local_text(np.nan_to_num(purchases.paid_at[row])), "-"),
        "支付方式": ["抖音支付"] * size,
        "订单完成时间": pick(purchases.status[row] == 4, local_text(purchases.at[row] + 8 * DAY), "-"),
        "订单状态": words(DOUYIN_STATUS, purchases.status[row]),
        "售后状态": pick(refunded, pl.lit("退款成功"), "-"),
        "取消原因": pick(purchases.status[row] == 1, pl.lit("不想要了"), "-"),
        "平台实际承担优惠金额": ["0.00"] * size,
        "商家实际承担优惠金额": money(shares(purchases.discount + purchases.coupon, row)),
        "达人ID": pick(influencer, numbered("77", row % 50, 8), "0"),
        "达人昵称": pick(influencer, "山茶达人" + pl.Series(row % 50).cast(pl.String), "-"),
        "流量渠道": words(("直播", "短视频", "商品卡", "其他"), row % 4),
    }
    frame = pl.DataFrame({name: columns.get(name, dash) for name in DOUYIN_HEADERS})
    path.write_bytes(b"\xef\xbb\xbf" + frame.write_csv(line_terminator="\r\n").encode())
    return size


def shares(amounts: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Each order's amount over its child orders, to the cent, as the platform does. *row*: their order, ascending."""
    first = np.flatnonzero(np.r_[True, row[1:] != row[:-1]])
    counts = np.diff(np.r_[first, len(row)])
    parts, place = np.repeat(counts, counts), np.arange(len(row)) - np.repeat(first, counts)
    whole, rest = np.divmod(amounts[row], parts)
    return np.asarray(whole + (place < rest))


def write_visits(path: Path, rng: np.random.Generator, people: People, evidence: Evidence, time: Calendar) -> int:
    """The stores' hand-kept list: spaces, full-width digits, blanks."""
    chosen = np.sort(rng.permutation(people.count)[: min(people.count // 40 + 5, 50_000)])
    planted = np.array([item for pair in people.family + people.recycled for item in pair], dtype=np.int64)
    chosen = chosen[~np.isin(chosen, planted)]
    member = people.is_member[chosen] & (chosen % 3 > 0)
    has_phone = chosen % 10 < 8
    phone = np.where(has_phone, people.phone_first[chosen], -1)
    evidence.link("member", np.where(member, chosen, -1), "phone", phone)
    when = np.minimum(people.born[chosen] + rng.exponential(60 * DAY, len(chosen)), time.end - DAY)
    text = gather(people.phones, phone, has_phone).fill_null("").to_list()
    wide = str.maketrans("0123456789", "０１２３４５６７８９")
    text = [
        f" {item}" if place % 17 == 3 else item.translate(wide) if place % 23 == 5 else item
        for place, item in enumerate(text)
    ]
    columns = [
        local_text(when, "%Y/%m/%d").to_list(),
        [f"山茶集{number + 1:03d}店" for number in people.store[chosen]],
        gather(full_names(people), chosen).to_list(),
        text,
        gather(people.member_id, chosen, member).fill_null("").to_list(),
        gather(staff_ids(people), people.staff[chosen]).to_list(),
        [names.CATEGORIES[item] for item in people.taste[chosen]],
        ["要小样" if place % 9 == 0 else "" for place in range(len(chosen))],
    ]
    book = xlsxwriter.Workbook(path, {"constant_memory": False, "in_memory": True})
    book.set_properties({"created": datetime(2026, 1, 1, tzinfo=UTC)})
    sheet = book.add_worksheet("到店登记")
    sheet.write_row(0, 0, ["登记日期", "门店", "姓名", "手机号", "会员号", "接待导购", "意向品类", "备注"])
    seen = when < time.view
    for place, column in enumerate(columns):
        sheet.write_column(1, place, [cell for cell, known in zip(column, seen, strict=True) if known])
    book.close()
    return len(chosen)


def write_lists(folder: Path, people: People, evidence: Evidence, time: Calendar) -> None:
    """channels.csv, costs.csv, referrals.csv."""
    folder.mkdir(parents=True, exist_ok=True)
    known = list(names.CHANNELS)
    rows = [(item[0], item[1], item[2], item[3], f"{item[4]}.00") for item in known]
    rows += [(state, f"门店柜台码 {state[-4:]}", "门店", "", "3000.00") for state in channel_ids(people)[len(known) :]]
    rows.append(("group_qr", "入群活码", "社群", "", "0.00"))
    header = ["channel_id", "channel_name", "channel_kind", "campaign_id", "cost"]
    table = pl.DataFrame(rows, schema=header, orient="row")
    table.with_columns(pl.col("campaign_id").replace("", None)).write_csv(folder / "channels.csv")
    months = 12
    days = local_text(time.end - DAY * 30 * np.arange(months, 0, -1), "%Y-%m-%d").to_list()
    costs = [
        (f"COST{place * months + number + 1:05d}", row[0], days[number], f"{float(row[4]) / months:.2f}", "CNY")
        for place, row in enumerate(rows)
        for number in range(months)
        if float(row[4]) > 0
    ]
    pl.DataFrame(costs, schema=["cost_id", "channel_id", "date", "amount", "currency"], orient="row").write_csv(
        folder / "costs.csv"
    )
    account = people.account_first
    brought = np.flatnonzero((people.inviter >= 0) & people.account_mp[account])
    invited = people.registered[brought] - 300 - brought % 500
    evidence.see("openid_mp", account[brought])
    evidence.see("member", people.inviter[brought])
    size = len(brought)
    referrals = pl.DataFrame(
        {
            "referral_id": numbered("RF", np.arange(size) + 1, 8),
            "campaign_id": ["invite_2026"] * size,
            "inviter_type": ["member_id"] * size,
            "inviter_scope": pl.repeat(None, size, dtype=pl.String, eager=True),
            "inviter_value": gather(people.member_id, people.inviter[brought]),
            "invitee_type": ["openid"] * size,
            "invitee_scope": [names.MP_APPID] * size,
            "invitee_value": gather(people.openid["mp"], account[brought]),
            "invited_at": local_text(invited, "%Y-%m-%dT%H:%M:%S") + "+08:00",
        }
    )
    referrals.filter(pl.Series(invited < time.view)).write_csv(folder / "referrals.csv")
