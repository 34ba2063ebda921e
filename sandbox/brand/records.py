"""The brand's own tables: members, CRM contacts, orders, order lines, refunds, products, stores."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from sandbox.brand import names
from sandbox.brand.commerce import H5, MP, PLATFORMS, POS, TAOBAO, Products, Purchases, money, order_ids
from sandbox.brand.ids import Bools, Floats, Ints, choose, gather, local_text, masked, numbered
from sandbox.brand.people import DAY, Calendar, People, full_names
from sandbox.brand.truth import Evidence

INTEGERS = frozenset(
    {
        "points",
        "consent_marketing",
        "created_at_epoch",
        "line_no",
        "quantity",
        "refunded_at",
        "created_at",
        "updated_at",
    }
)
CHINESE_STATUS = ("待付款", "已关闭", "已付款", "已发货", "已完成", "已退款")


def pick(keep: Bools, column: pl.Series | pl.Expr, otherwise: str | None = None) -> pl.Series:
    """*column* where *keep*, else *otherwise*."""
    return pl.select(pl.when(pl.Series(keep)).then(column).otherwise(pl.lit(otherwise))).to_series()


def words(options: tuple[str, ...], index: Ints) -> pl.Series:
    return gather(pl.Series(list(options)), index)


def staff_ids(people: People) -> pl.Series:
    """`s001_guide01`-like userids: store and place in it."""
    number = np.arange(people.staffs)
    store = numbered("s", number % people.stores + 1, 3)
    return store + "_guide" + pl.Series(number // people.stores + 1).cast(pl.String).str.zfill(2)


def write_table(con: sqlite3.Connection, name: str, frame: pl.DataFrame, key: str) -> None:
    """Create the table (TEXT, or INTEGER for integer columns) and fill it."""
    kinds = ["integer" if frame[column].dtype.is_integer() else "text" for column in frame.columns]
    columns = ", ".join(f'"{column}" {kind}' for column, kind in zip(frame.columns, kinds, strict=True))
    con.execute(f"create table {name} ({columns}, primary key ({key}))")
    marks = ",".join("?" * frame.width)
    for low in range(0, frame.height, 100_000):
        con.executemany(f"insert into {name} values ({marks})", frame.slice(low, 100_000).iter_rows())


def members(
    rng: np.random.Generator, people: People, evidence: Evidence, time: Calendar, spent: Ints, last_paid: Floats
) -> pl.DataFrame:
    """One row per member, by number. *spent*: net minor units; *last_paid*: latest payment or refund, NaN for none."""
    index = np.argsort(np.where(people.is_member, people.member_no, np.iinfo(np.int64).max), kind="stable")
    index = index[: int(people.is_member.sum())]
    planted = {person for pair in people.family + people.recycled for person in pair}
    certain = np.isin(index, np.array(sorted(planted), dtype=np.int64))
    account = people.account_first[index]
    has_union = (
        certain | (people.account_mp[account] & (rng.random(len(index)) < 0.85)) | (rng.random(len(index)) < 0.25)
    )
    has_open = has_union & people.account_mp[account]
    phone = np.where(certain | (rng.random(len(index)) < 0.97), people.member_phone[index], -1)
    has_email = people.has_email[index]
    own = people.phone_person[np.maximum(phone, 0)] == index
    evidence.link("member", index, "unionid", np.where(has_union, account, -1))
    evidence.link("member", index, "openid_mp", np.where(has_open, account, -1))
    evidence.link("member", index, "phone", np.where(own, phone, -1))
    evidence.see("phone", phone)
    evidence.link("member", index, "email", np.where(has_email, index, -1))
    registered = people.registered[index]
    updated = np.minimum(registered + rng.exponential(60 * DAY, len(index)), time.end - 60)
    updated = np.where(np.isin(index, [giver for giver, _ in people.recycled]), registered, updated)
    updated = np.where(updated < time.view, updated, registered)
    updated = np.fmax(updated, last_paid[index])
    level = np.digitize(spent[index] / 100, [500, 2000, 6000])
    born_year = rng.integers(1962, 2008, len(index))
    birthday = (
        pl.Series(born_year).cast(pl.String)
        + "-"
        + pl.Series(rng.integers(1, 13, len(index))).cast(pl.String).str.zfill(2)
    )
    birthday = birthday + "-" + pl.Series(rng.integers(1, 29, len(index))).cast(pl.String).str.zfill(2)
    birthday = pick(rng.random(len(index)) < 0.004, pl.lit("0000-00-00")).fill_null(birthday)
    places = [names.PLACES[item] for item in people.city[index]]
    channels = pl.Series([item[0] for item in names.CHANNELS])
    weights = [item[5] for item in names.CHANNELS]
    table = pl.DataFrame(
        {
            "member_id": gather(people.member_id, index),
            "mobile": gather(people.phones, phone, phone >= 0),
            "unionid": gather(people.unionid, account, has_union),
            "mp_openid": gather(people.openid["mp"], account, has_open),
            "mp_appid": pick(has_open, pl.lit(names.MP_APPID)),
            "email": gather(people.email, index, has_email),
            "name": gather(full_names(people), index),
            "gender": words(("未知", "男", "女"), people.gender[index]),
            "birthday": pick(rng.random(len(index)) < 0.7, birthday),
            "province": [place[0] for place in places],
            "city": [place[1] for place in places],
            "level": words(names.LEVELS, level),
            "points": (spent[index] // 100).astype(np.int64),
            "register_time": local_text(registered),
            "register_channel": gather(channels, choose(rng, len(index), weights), rng.random(len(index)) < 0.7),
            "store_id": numbered("S", people.store[index] + 1, 3),
            "guide_userid": gather(staff_ids(people), people.staff[index], rng.random(len(index)) < 0.6),
            "inviter_member_id": gather(people.member_id, people.inviter[index], people.inviter[index] >= 0),
            "consent_marketing": (rng.random(len(index)) < 0.86).astype(np.int64),
            "updated_at": local_text(updated),
        }
    )
    return table.filter(pl.Series(registered < time.view))


def crm_contacts(rng: np.random.Generator, people: People, evidence: Evidence, time: Calendar) -> pl.DataFrame:
    """One row per CRM contact: phones as people typed them, some masked, some the default number of a cash desk."""
    index = np.flatnonzero(people.has_crm)
    size = len(index)
    with_member = people.is_member[index] & (rng.random(size) < 0.45)
    kind = choose(rng, size, (0.72, 0.12, 0.05, 0.015, 0.095))  # primary, second number, masked, default, none
    spare = people.phone_first[index] + (people.phone_count[index] > 1)
    phone = np.where(kind == 1, spare, people.phone_first[index])
    real = kind <= 1
    text = gather(people.phones, phone)
    style = choose(rng, size, (0.86, 0.06, 0.04, 0.04))
    wide = text.str.replace_many(list("0123456789"), list("０１２３４５６７８９"))
    spaced = text.str.slice(0, 3) + "-" + text.str.slice(3, 4) + "-" + text.str.slice(7, 4)
    default = words(names.DEFAULT_PHONES, rng.integers(0, len(names.DEFAULT_PHONES), size))
    shown = pl.select(
        pl.when(pl.Series(kind == 4)).then(None).when(pl.Series(kind == 3)).then(default)
        .when(pl.Series(kind == 2)).then(masked(text))
        .when(pl.Series(style == 1)).then("+86 " + spaced).when(pl.Series(style == 2)).then(wide)
        .when(pl.Series(style == 3)).then(spaced).otherwise(text)
    ).to_series()  # fmt: skip
    account = people.account_first[index]
    external = people.account_friend[account] & (rng.random(size) < 0.3)
    evidence.link("crm", index, "member", np.where(with_member, index, -1))
    evidence.link("crm", index, "phone", np.where(real, phone, -1))
    evidence.link("crm", index, "external", np.where(external, account, -1))
    with_email = people.has_email[index] & (rng.random(size) < 0.4)
    evidence.link("crm", index, "email", np.where(with_email, index, -1))
    evidence.extra += [("phone", "", item, "default_phone") for item in names.DEFAULT_PHONES]
    evidence.extra += [
        ("phone", "", item, "masked_phone") for item in masked(text).filter(pl.Series(kind == 2)).to_list()
    ]
    created = np.minimum(people.born[index] + rng.exponential(30 * DAY, size), time.end - 2 * DAY)
    updated = np.minimum(created + rng.exponential(20 * DAY, size), time.end - 60)
    table = pl.DataFrame(
        {
            "crm_id": numbered("C", np.arange(size) + 1, 8),
            "member_id": gather(people.member_id, index, with_member),
            "phone": shown,
            "name": gather(full_names(people), index),
            "gender": words(("U", "M", "F"), people.gender[index]),
            "email": gather(people.email, index, with_email),
            "external_userid": gather(people.external_userid, account, external),
            "source": words(("门店", "导入", "活动"), rng.integers(0, 3, size)),
            "created_at": created.astype(np.int64),
            "updated_at": np.where(updated < time.view, updated, created).astype(np.int64),
        }
    )
    return table.filter(pl.Series(created < time.view))


def crm_ids(people: People) -> pl.Series:
    """crm_id by person (meaningless for those without)."""
    number = np.cumsum(people.has_crm)
    return numbered("C", number, 8)


def orders(
    rng: np.random.Generator, people: People, purchases: Purchases, evidence: Evidence, time: Calendar
) -> pl.DataFrame:
    """Orders of the own channels (mini program, H5, app, web, store)."""
    row = np.flatnonzero(purchases.platform < TAOBAO)
    person, platform = purchases.person[row], purchases.platform[row]
    size = len(row)
    member, account = purchases.member[row], purchases.account[row]
    has_open = account >= 0
    has_union = has_open & people.mp_authorised[np.maximum(account, 0)]
    quiet = np.isin(
        person, np.array([item for pair in people.family + people.recycled for item in pair], dtype=np.int64)
    )
    has_phone = (rng.random(size) < np.where(platform == POS, 0.55, 0.8)) & (~quiet | member)
    spare = people.phone_first[person] + ((people.phone_count[person] > 1) & (rng.random(size) < 0.12))
    phone = np.where(has_phone, spare, -1)
    gift = member & (rng.random(size) < 0.01)
    others = np.flatnonzero(people.is_member)
    receiver = np.where(
        gift, people.phone_first[others[rng.integers(0, len(others), size)]], np.where(phone >= 0, phone, spare)
    )
    who = np.where(member, person, -1)
    evidence.link("member", who, "phone", phone)
    for kind, code in (("openid_mp", MP), ("openid_h5", H5)):
        mine = np.where(platform == code, account, -1)
        evidence.link("member", who, kind, mine)
        evidence.link(kind, mine, "unionid", np.where(has_union, mine, -1))
        evidence.link(kind, mine, "phone", phone)
    purchases.identified[row] = member | has_open | (phone >= 0)
    online = platform != POS
    evidence.see("phone", np.where(online, receiver, -1))
    channel = purchases.channel[row]
    coupon = purchases.coupon[row] > 0
    used = purchases.status[row] >= 0
    names_of = gather(full_names(people), person)
    at, paid_at, refunded = purchases.at[row], purchases.paid_at[row], purchases.refunded_at[row]
    pays = purchases.status[row] >= 2
    latest = np.fmax(np.fmax(at + 60, np.nan_to_num(paid_at)), np.nan_to_num(refunded))
    sent, done = np.isin(purchases.status[row], (3, 4)), purchases.status[row] == 4
    latest = np.where(sent & (platform != POS), np.fmax(latest, at + np.where(done, 9, 3) * DAY), latest)
    updated = np.minimum(latest, time.view - 60)
    appid = pl.select(
        pl.when(pl.Series(platform == MP)).then(pl.lit(names.MP_APPID))
        .when(pl.Series(platform == H5)).then(pl.lit(names.H5_APPID)).otherwise(None)
    ).to_series()  # fmt: skip
    open_mp = gather(people.openid["mp"], account, platform == MP)
    store_name = "山茶集" + numbered("", purchases.store[row] + 1, 3) + "店"
    table = pl.DataFrame(
        {
            "order_id": gather(order_ids(purchases), row),
            "platform": words(PLATFORMS, platform),
            "shop": pick(online, pl.lit(names.MALL)).fill_null(store_name),
            "member_id": gather(people.member_id, person, member),
            "openid": open_mp.fill_null(gather(people.openid["h5"], account, platform == H5)),
            "appid": appid,
            "unionid": gather(people.unionid, account, has_union),
            "buyer_phone": gather(people.phones, phone, phone >= 0),
            "receiver_name": pick(online, names_of),
            "receiver_phone": gather(people.phones, receiver, online),
            "status": words(CHINESE_STATUS, purchases.status[row]),
            "created_at": local_text(at),
            "paid_at": pick(pays, local_text(np.nan_to_num(paid_at, nan=0.0))),
            "total_amount": money(purchases.total[row]),
            "discount_amount": money(purchases.discount[row]),
            "freight_amount": money(purchases.freight[row]),
            "coupon_id": pick(coupon & used, numbered("CP", purchases.coupon[row] // 100, 4)),
            "coupon_amount": money(purchases.coupon[row]),
            "subsidy_amount": money(purchases.subsidy[row]),
            "pay_amount": money(purchases.paid[row]),
            "refund_amount": money(purchases.refund[row]),
            "refunded_at": pl.Series(np.nan_to_num(refunded, nan=-1.0).astype(np.int64)).replace(-1, None),
            "channel": gather(pl.Series([item[0] for item in names.CHANNELS]), channel, channel >= 0),
            "campaign_id": gather(pl.Series([item[3] or None for item in names.CHANNELS]), channel, channel >= 0),
            "store_id": numbered("S", purchases.store[row] + 1, 3),
            "guide_userid": gather(staff_ids(people), people.staff[person], platform == POS),
            "city": [names.PLACES[item][1] for item in people.city[person]],
            "updated_at": local_text(updated),
        }
    )
    return table.filter(pl.Series(purchases.shown[row]))


def order_lines(purchases: Purchases, products: Products, platforms: tuple[int, ...]) -> pl.DataFrame:
    """Lines of the orders on these platforms; `row` is the order's place among all purchases."""
    keep = np.isin(purchases.platform[purchases.line_order], platforms) & purchases.shown[purchases.line_order]
    order, product, quantity = (
        array[keep] for array in (purchases.line_order, purchases.line_product, purchases.line_quantity)
    )
    first = np.concatenate([[True], order[1:] != order[:-1]]) if len(order) else np.zeros(0, dtype=bool)
    starts = np.flatnonzero(first)
    line_no = np.arange(len(order)) - np.repeat(starts, np.diff(np.concatenate([starts, [len(order)]]))) + 1
    return pl.DataFrame(
        {
            "order_id": gather(order_ids(purchases), order),
            "line_no": line_no,
            "product_id": numbered("SP", product + 1, 4),
            "sku": numbered("SKU", product + 1, 5),
            "product_name": gather(pl.Series(products.name), product),
            "category": words(names.CATEGORIES, products.category[product]),
            "quantity": quantity,
            "price": money(products.price[product]),
            "amount": money(products.price[product] * quantity),
        }
    )


def refunds(purchases: Purchases) -> pl.DataFrame:
    row = np.flatnonzero((purchases.refund > 0) & (purchases.platform < TAOBAO) & purchases.shown)
    return pl.DataFrame(
        {
            "refund_id": numbered("R", row + 1, 10),
            "order_id": gather(order_ids(purchases), row),
            "amount": money(purchases.refund[row]),
            "reason": words(names.REFUND_REASONS, row % len(names.REFUND_REASONS)),
            "refunded_at": purchases.refunded_at[row].astype(np.int64),
        }
    )


def products_table(products: Products, time: Calendar) -> pl.DataFrame:
    number = np.arange(len(products.price)) + 1
    return pl.DataFrame(
        {
            "product_id": numbered("SP", number, 4),
            "sku": numbered("SKU", number, 5),
            "product_name": products.name,
            "category": words(names.CATEGORIES, products.category),
            "brand": [names.BRAND] * len(number),
            "price": money(products.price),
            "cost": money(products.cost),
            "updated_at": local_text(np.full(len(number), time.start)),
        }
    )


def stores_table(people: People) -> pl.DataFrame:
    number = np.arange(people.stores)
    places = [names.PLACES[item % len(names.PLACES)] for item in number]
    return pl.DataFrame(
        {
            "store_id": numbered("S", number + 1, 3),
            "store_name": "山茶集" + numbered("", number + 1, 3) + "店",
            "province": [place[0] for place in places],
            "city": [place[1] for place in places],
            "opened_on": [f"{2018 + item % 7}-{item % 12 + 1:02d}-01" for item in number],
        }
    )


def write_database(path: Path, tables: list[tuple[str, Callable[[], pl.DataFrame], str]]) -> None:
    """The brand's SQLite file, made afresh; one table is in memory at a time."""
    path.unlink(missing_ok=True)
    con = sqlite3.connect(path)
    con.execute("pragma journal_mode=off")
    con.execute("pragma synchronous=off")
    for name, make, key in tables:
        write_table(con, name, make(), key)
    con.commit()
    con.close()
