"""A first mapping for a file nobody has described yet: which canonical stream it is, and which column means what. Pure.

Guesses are proposals for a person to read: names are compared with the words exporters use, then the cells are tried.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl

from cdp.cells import misfits, typed
from cdp.streams import Column, Stream
from connectors import canonical
from connectors.mapping import cleaned

SURE = 0.9
_POSSIBLE = 0.62
_SAMPLE = 2000
# Canonical column -> what exporters call it. A name stands under the column it most often means.
WORDS: dict[str, str] = {
    "person_key": "用户编号 用户id 编号 id customer_id uid user_id",
    "member_id": "会员编号 会员号 会员id 会员卡号 member_no membership_id",
    "crm_id": "客户编号 客户号 客户id contact_id",
    "reg_id": "注册id 注册号",
    "phone": "手机 手机号 手机号码 联系电话 联系手机 电话 买家手机号 mobile tel telephone phone_number",
    "receiver_phone": "收货人手机 收货人手机号 收件人手机号 收货电话",
    "email": "邮箱 电子邮箱 邮件 e-mail mail",
    "unionid": "微信unionid union_id",
    "openid": "微信openid open_id mp_openid",
    "appid": "小程序appid app_id",
    "external_userid": "外部联系人id 企微客户id",
    "name": "姓名 客户姓名 会员姓名 昵称 full_name nickname",
    "gender": "性别 sex",
    "birthday": "生日 出生日期 birth_date dob",
    "province": "省 省份 所在省 state",
    "city": "市 城市 所在城市",
    "member_level": "会员等级 等级 级别 level tier",
    "points": "积分 会员积分 可用积分",
    "registered_at": "注册时间 注册日期 入会时间 入会日期 开卡时间 登记日期 登记时间 register_time created_at",
    "channel": "渠道 来源 来源渠道 注册渠道 source",
    "store_id": "门店 门店编号 门店id 所属门店 店铺编号",
    "staff_userid": "导购 接待导购 专属导购 销售导购 顾问 员工账号 guide_userid",
    "inviter_member_id": "邀请人 推荐人 推荐会员 邀请人会员号",
    "consent_marketing": "同意营销 营销授权 接受营销 opt_in marketing_consent",
    "updated_at": "更新时间 修改时间 最后更新 modified_at update_time",
    "order_id": "订单号 订单编号 订单id 主订单编号 order_no order_number",
    "platform": "平台 电商平台",
    "shop": "店铺 店铺名称 归属店铺",
    "buyer_id": "买家 买家账号 买家会员名 下单帐号 buyer_nick",
    "status": "状态 订单状态 order_status",
    "ordered_at": "下单时间 订单创建时间 创建时间 下单日期 order_time",
    "paid_at": "付款时间 支付时间 支付完成时间 成交时间 支付日期 pay_time payment_time",
    "amount": "实付金额 支付金额 实际支付金额 订单金额 金额 总金额 pay_amount total_amount total",
    "refund_amount": "退款金额 refund",
    "refunded_at": "退款时间 refund_time",
    "discount_amount": "优惠金额 折扣 折扣金额 discount",
    "freight_amount": "运费 邮费 freight shipping_fee",
    "coupon_id": "优惠券编号 优惠券id 券号",
    "coupon_amount": "优惠券金额 券金额",
    "subsidy_amount": "平台补贴 补贴金额",
    "currency": "币种 货币",
    "refund_id": "退款编号 退款单号 售后单号",
    "reason": "原因 退款原因",
    "line_id": "子订单编号 子订单号 明细编号 行号 line_no",
    "product_id": "商品id 商品编号 商品编码 宝贝id spu",
    "sku": "sku编码 商家编码 规格编码 货号 sku_id",
    "product_name": "商品名称 商品 宝贝标题 品名 title",
    "category": "品类 类目 商品分类 分类 意向品类",
    "brand": "品牌",
    "quantity": "数量 购买数量 商品数量 件数 qty",
    "price": "单价 价格 售价 商品单价",
    "cost": "成本 费用 花费 投放费用",
    "event_id": "事件id 记录编号",
    "event_name": "事件 事件名 事件名称 行为 action",
    "event_at": "事件时间 发生时间 行为时间 time timestamp",
    "anonymous_id": "匿名id 访客id visitor_id",
    "user_id": "用户id 登录id",
    "device_id": "设备id 设备号",
    "session_id": "会话id",
    "page": "页面 页面路径 url",
    "campaign_id": "活动id 活动编号 活动",
    "userid": "员工账号 员工id 企微账号 成员账号",
    "department": "部门",
    "channel_id": "渠道编号 渠道id 活码",
    "channel_name": "渠道名称",
    "channel_kind": "渠道类型",
    "date": "日期 day",
    "cost_id": "费用编号",
    "referral_id": "裂变编号 邀请编号",
    "invited_at": "邀请时间",
}
# Cell texts -> canonical values, for columns with a closed set of them.
VALUES: dict[str, dict[str, str]] = {
    "gender": {"男": "male", "女": "female", "未知": "unknown", "M": "male", "F": "female", "U": "unknown"},
    "status": {
        "待付款": "created", "等待买家付款": "created", "未付款": "created", "待支付": "created",
        "已付款": "paid", "待发货": "paid", "已支付": "paid", "买家已付款，等待卖家发货": "paid",
        "已发货": "shipped", "待收货": "shipped", "卖家已发货，等待买家确认": "shipped",
        "已完成": "done", "交易成功": "done", "已签收": "done", "完成": "done",
        "已关闭": "closed", "交易关闭": "closed", "已取消": "closed", "取消": "closed",
        "已退款": "refunded", "退款成功": "refunded",
    },
}  # fmt: skip
_FORMATS = (
    "%Y/%m/%d %H:%M", "%Y年%m月%d日", "%Y年%m月%d日 %H:%M:%S", "%Y.%m.%d", "%Y%m%d", "%Y-%m-%d %H:%M", "%d/%m/%Y",
    "epoch_s", "epoch_ms",
)  # fmt: skip
# Required keys that another column may stand in for, best first.
_STANDS_IN = {"person_key": ("member_id", "crm_id", "reg_id", "unionid", "openid", "external_userid", "phone")}


@dataclass(frozen=True)
class Guess:
    """One column's proposal. *values*: source text -> canonical one; *unknown*: texts without a known meaning."""

    source: str
    score: float
    format: str | None = None
    values: Mapping[str, str] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True)
class Proposal:
    """A stream and its columns. *hashed*: what to make a missing key of. *lacking*: required, and no column found."""

    stream: Stream
    columns: Mapping[str, Guess]
    hashed: Mapping[str, tuple[str, ...]]
    lacking: tuple[str, ...]
    unused: tuple[str, ...]


def propose(frame: pl.DataFrame, stream: Stream | None = None) -> Proposal:
    """What *frame* (source columns, text or typed) most likely is; *stream* settles that question beforehand."""
    names = [name for name in frame.columns if name != "_row_number"]
    chosen = stream or max(canonical.STREAMS, key=lambda option: _fit(names, option))
    sample = frame.head(_SAMPLE)
    found = {
        target: guess
        for target, (source, score) in match(names, chosen).items()
        if (guess := _tried(sample, chosen.column(target), source, score)) is not None
    }
    for target, others in _STANDS_IN.items():
        other = next((found[name] for name in others if name in found), None)
        if other is not None and target not in found and any(column.name == target for column in chosen.columns):
            found[target] = Guess(other.source, SURE)
    missing = [column.name for column in chosen.columns if column.required and column.name not in found]
    hashed = {name: (*names[:6], "_occurrence") for name in missing if name == chosen.key[-1] and names}
    used = {guess.source for guess in found.values()}
    return Proposal(
        chosen,
        {column.name: found[column.name] for column in chosen.columns if column.name in found},
        hashed,
        tuple(name for name in missing if name not in hashed),
        tuple(name for name in names if name not in used),
    )


def match(names: Sequence[str], stream: Stream) -> dict[str, tuple[str, float]]:
    """Canonical column -> (source column, score 0..1). Best pairs first, each column once; ties go by their order."""
    pairs = [
        (likeness(name, column.name), -place, -position, column.name, name)
        for place, column in enumerate(stream.columns)
        for position, name in enumerate(names)
        if column.type != "identifiers"
    ]
    taken: dict[str, tuple[str, float]] = {}
    for score, _, _, target, name in sorted(pairs, reverse=True):
        if score >= _POSSIBLE and target not in taken and all(name != source for source, _ in taken.values()):
            taken[target] = (name, score)
    return taken


def likeness(name: str, target: str) -> float:
    """How likely a source column called *name* means the canonical column *target*: 1 the same, 0.95 a known word."""
    plain = _plain(name)
    if plain == _plain(target):
        return 1.0
    words = [_plain(word) for word in WORDS.get(target, "").split()]
    if plain in words:
        return 0.95
    if any(len(word) > 1 and word in plain and not word.isascii() for word in words):
        return 0.8
    nearest = max((difflib.SequenceMatcher(None, plain, word).ratio() for word in (_plain(target), *words)), default=0)
    return nearest * 0.85 if nearest >= 0.75 else 0.0


def _plain(name: str) -> str:
    return re.sub(r"[\s_\-./（）()【】\[\]:：#]", "", name).lower()


def _fit(names: Sequence[str], stream: Stream) -> float:
    matched = match(names, stream)
    required = [column.name for column in stream.columns if column.required]
    return sum(score for _, score in matched.values()) + sum(name in matched for name in required) / len(required)


def _tried(sample: pl.DataFrame, column: Column, source: str, score: float) -> Guess | None:
    """The guess with what its cells need to be read; None when most of them are of another kind altogether."""
    cells = cleaned(sample[source])
    known = VALUES.get(column.name)
    if known is not None and cells.dtype == pl.String:
        return _with_values(cells, known, source, score)
    if _share(cells, column, None) >= 0.9:
        return Guess(source, score)
    if column.type in ("timestamp", "date"):
        for form in _FORMATS:
            if _share(cells, column, form) >= 0.9:
                return Guess(source, score, format=form)
    return Guess(source, min(score, 0.7)) if _share(cells, column, None) >= 0.5 else None


def _share(cells: pl.Series, column: Column, form: str | None) -> float:
    """The share of filled cells that fit; an empty column fits."""
    filled = cells.drop_nulls()
    if not len(filled):
        return 1.0
    result = typed(filled, column.type, formats=[form] if form else [])
    return 1.0 - float(misfits(filled, result).sum()) / len(filled)


def _with_values(cells: pl.Series, known: Mapping[str, str], source: str, score: float) -> Guess:
    found = cells.drop_nulls().unique(maintain_order=True).to_list()[:50]
    if all(value in known.values() for value in found):
        return Guess(source, score)
    values = {value: known.get(value, value) for value in found if value in known or value in known.values()}
    return Guess(source, score, values=values, unknown=tuple(value for value in found if value not in values))
