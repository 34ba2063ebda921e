"""What people buy: purchases by a buy-till-you-die process, orders with lines, refunds, coupons."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from sandbox.brand import names
from sandbox.brand.ids import Bools, Floats, Ints, choose, gather
from sandbox.brand.people import DAY, Calendar, People

PLATFORMS = ("mini_program", "h5", "app", "web", "pos", "taobao", "douyin")
MP, H5, APP, WEB, POS, TAOBAO, DOUYIN = range(7)
CHUNK, MOST = 50_000, 60


@dataclass
class Products:
    """One row per product, sorted by category, then price."""

    category: Ints
    price: Ints  # minor units
    cost: Ints
    name: list[str]
    bounds: Ints  # first product of each category, and the end


def make_products(rng: np.random.Generator) -> Products:
    category, price, name = [], [], []
    bounds = [0]
    for number, (low, high) in enumerate(names.CATEGORY_PRICES):
        items = names.CATEGORY_ITEMS[number]
        steps = np.geomspace(low, high, 24)
        for place, value in enumerate(steps):
            category.append(number)
            price.append(round(float(value)) * 100)
            name.append(f"{items[place % len(items)]} {names.SPECS[place // 4]}")
        bounds.append(len(category))
    cost = (np.array(price) * rng.uniform(0.18, 0.42, len(price))).astype(np.int64)
    return Products(np.array(category), np.array(price), cost, name, np.array(bounds))


@dataclass
class Purchases:
    """One row per order of any platform, by time. Money in minor units (分)."""

    person: Ints
    at: Floats
    platform: Ints
    number: Ints  # 0 = the person's first
    account: Ints  # account used on mp/h5 (-1 otherwise)
    member: Bools  # the order carries the member id
    status: Ints  # 0 unpaid, 1 closed, 2 paid, 3 shipped, 4 done, 5 refunded in full
    paid_at: Floats
    total: Ints
    discount: Ints
    coupon: Ints
    subsidy: Ints
    freight: Ints
    paid: Ints
    refund: Ints
    refunded_at: Floats
    channel: Ints  # -1 none; index into names.CHANNELS
    store: Ints
    shown: Bools  # placed before the view of the calendar ends
    identified: Bools  # some identifier of the person stands in the order
    line_order: Ints
    line_product: Ints
    line_quantity: Ints

    def __len__(self) -> int:
        return len(self.person)

    @property
    def is_paid(self) -> Bools:
        return self.status >= 2


def make_purchases(
    rng: np.random.Generator, people: People, products: Products, time: Calendar
) -> tuple[Purchases, Floats, Floats]:
    """The orders of everybody, and each person's true rate (per business day) and drop-out probability."""
    rate = rng.gamma(0.55, 1 / 55.0, people.count)
    dropout = rng.beta(0.9, 2.6, people.count)
    quiet = np.array([giver for giver, _ in people.recycled], dtype=np.int64)
    buys = rng.random(people.count) < 0.45 + 0.4 * people.engagement
    buys[quiet] = False
    person, at = _times(rng, people, time, rate, dropout, buys)
    order = np.lexsort((person, at))
    person, at = person[order], at[order]
    number = _numbers(person)
    platform, account, member = _platforms(rng, people, person, at)
    value = rng.gamma(6.0, 1.0, len(person)) * (1 / rng.gamma(3.2, 1.0, people.count))[person] * 9500
    lines = _lines(rng, people, products, person, value)
    purchases = _settle(rng, people, products, time, (person, at, platform, number, account, member), lines)
    return purchases, rate, dropout


def _times(
    rng: np.random.Generator, people: People, time: Calendar, rate: Floats, dropout: Floats, buys: Bools
) -> tuple[Ints, Floats]:
    """Purchase instants: the first soon after coming (a third within three days), then exponential gaps to drop-out."""
    soon = rng.random(people.count) < 0.38
    delay = np.where(soon, rng.exponential(1.6, people.count), rng.exponential(45.0, people.count)) + 0.02
    first = time.business(people.born) + delay
    found_person, found_time = [], []
    for low in range(0, people.count, CHUNK):
        chunk = np.arange(low, min(low + CHUNK, people.count))
        chunk = chunk[buys[chunk]]
        gaps = rng.exponential(1.0, (len(chunk), MOST)) / np.maximum(rate[chunk], 1e-9)[:, None]
        gaps[:, 0] = first[chunk]
        when = np.cumsum(gaps, axis=1)
        alive = np.ones((len(chunk), MOST), dtype=bool)
        alive[:, 1:] = np.cumprod(rng.random((len(chunk), MOST - 1)) > dropout[chunk][:, None], axis=1).astype(bool)
        keep = alive & (when < time.total - 0.05)
        row, _ = np.nonzero(keep)
        found_person.append(chunk[row])
        found_time.append(when[keep])
    person = np.concatenate(found_person)
    at = _in_the_day(rng, time.at(np.concatenate(found_time)))
    return person, np.minimum(np.maximum(at, people.born[person] + 60), time.end - 7200)


HOURS = np.array(
    [2, 1, 0.6, 0.4, 0.4, 0.6, 1.5, 3, 4, 5, 6, 6, 6.5, 5.5, 5, 5, 5, 5, 5.5, 7, 9, 9.5, 8, 5], dtype=float
)


def _in_the_day(rng: np.random.Generator, seconds: Floats) -> Floats:
    """The same days with hours as people keep them (evenings busy, nights quiet)."""
    midnight = np.floor((seconds + names.OFFSET) / DAY) * DAY - names.OFFSET
    hour = choose(rng, len(seconds), HOURS)
    return np.asarray(midnight + hour * 3600 + np.floor(rng.random(len(seconds)) * 3600), dtype=np.float64)


def _numbers(person: Ints) -> Ints:
    """The place of each row among its person's rows, rows being in time order."""
    order = np.argsort(person, kind="stable")
    sorted_person = person[order]
    starts = np.flatnonzero(np.concatenate([[True], sorted_person[1:] != sorted_person[:-1]]))
    lengths = np.diff(np.concatenate([starts, [len(person)]]))
    number = np.empty(len(person), dtype=np.int64)
    number[order] = np.arange(len(person)) - np.repeat(starts, lengths)
    return number


def _platforms(rng: np.random.Generator, people: People, person: Ints, at: Floats) -> tuple[Ints, Ints, Bools]:
    """Where each order is placed, with which account, and whether the person was a member by then."""
    member_now = people.is_member[person] & (people.registered[person] + 600 < at)
    weights = np.stack(
        [
            5.0 * people.uses["mp"][person],
            0.9 * people.uses["h5"][person],
            1.6 * (people.uses["app"][person] & member_now),
            1.2 * (people.uses["web"][person] & member_now),
            0.8 + 0.6 * member_now,
            3.5 * people.uses["taobao"][person],
            2.5 * people.uses["douyin"][person],
        ],
        axis=1,
    )
    bounds = np.cumsum(weights, axis=1)
    platform = (bounds < (rng.random(len(person)) * bounds[:, -1])[:, None]).sum(axis=1).astype(np.int64)
    platform = np.minimum(platform, DOUYIN)
    first = people.account_first[person]
    second = np.minimum(first + 1, len(people.account_person) - 1)
    spare = (people.account_person[second] == person) & (rng.random(len(person)) < 0.25)
    usable = {MP: people.account_mp, H5: people.account_h5}
    account = np.full(len(person), -1)
    for kind, flags in usable.items():
        here = platform == kind
        account[here] = np.where(spare & flags[second], second, first)[here]
    shop = (platform == TAOBAO) | (platform == DOUYIN)
    carries = member_now & ~shop & ((platform != POS) | (rng.random(len(person)) < 0.8))
    return platform, account, carries


def _lines(
    rng: np.random.Generator, people: People, products: Products, person: Ints, value: Floats
) -> tuple[Ints, Ints, Ints]:
    """Order lines (order, product, quantity) with a sum near the wanted value; half from the favourite category."""
    count = choose(rng, len(person), (0.55, 0.27, 0.12, 0.06)) + 1
    order = np.repeat(np.arange(len(person)), count)
    taste = people.taste[person][order]
    category = np.where(rng.random(len(order)) < 0.55, taste, rng.integers(0, len(names.CATEGORIES), len(order)))
    want = (value / count)[order] * rng.uniform(0.7, 1.3, len(order))
    product = np.empty(len(order), dtype=np.int64)
    for number in range(len(names.CATEGORIES)):
        here = category == number
        low, high = products.bounds[number], products.bounds[number + 1]
        product[here] = low + np.clip(np.searchsorted(products.price[low:high], want[here]), 0, high - low - 1)
    quantity = np.clip(np.round(want / products.price[product]), 1, 5).astype(np.int64)
    return order, product, quantity


def _settle(
    rng: np.random.Generator,
    people: People,
    products: Products,
    time: Calendar,
    base: tuple[Ints, Floats, Ints, Ints, Ints, Bools],
    lines: tuple[Ints, Ints, Ints],
) -> Purchases:
    """Discounts, coupons, subsidies, freight, payment, delivery and refunds."""
    person, at, platform, number, account, member = base
    order, product, quantity = lines
    count = len(person)
    total = np.bincount(order, weights=(products.price[product] * quantity).astype(float), minlength=count).astype(
        np.int64
    )
    day = (time.business(at + DAY / 2) - time.business(at - DAY / 2)) > 2.2  # a campaign day
    discount = np.where(day, (total // 1000) * 100, 0)
    uses_coupon = rng.random(count) < people.coupon_love[person]
    coupon = np.where(uses_coupon, np.minimum(rng.choice(np.array([1000, 2000, 3000, 5000]), count), total // 5), 0)
    subsidy = np.where((number == 0) & (rng.random(count) < 0.25), np.minimum(1000, total // 10), 0)
    freight = np.where((total < 9900) & (platform != POS), 800, 0)
    age = time.end - at
    fate = rng.random(count)
    status = np.where(age < 3 * DAY, 2, np.where(age < 9 * DAY, 3, 4))
    status = np.where((platform == POS) & (status < 4), 4, status)
    status = np.where(fate < 0.05, 1, np.where(fate < 0.065, 0, status))
    pays = status >= 2
    paid = np.where(pays, total - discount - coupon - subsidy + freight, 0)
    paid_at = np.where(pays, at + np.floor(rng.exponential(90, count)) + 5, np.nan)
    full = pays & (rng.random(count) < 0.022) & (age > 6 * DAY)
    part = pays & ~full & (rng.random(count) < 0.018) & (age > 6 * DAY)
    kinds = np.bincount(order, minlength=count)
    video = platform == DOUYIN  # gives back whole child orders: the first one here
    part &= ~video | (kinds >= 2)
    some = (paid * rng.uniform(0.1, 0.6, count)).astype(np.int64)
    some = np.where(video, paid // kinds + (paid % kinds > 0), some)
    refund = np.where(full, paid, np.where(part, some, 0))
    status = np.where(full, 5, status)
    refunded_at = np.where(refund > 0, np.minimum(at + rng.uniform(1, 5, count) * DAY, time.end - 3600), np.nan)
    weights = [item[5] for item in names.CHANNELS]
    channel = np.where(rng.random(count) < 0.55, choose(rng, count, weights), -1)
    return Purchases(
        person=person, at=at, platform=platform, number=number, account=account, member=member, status=status,
        paid_at=paid_at, total=total, discount=discount, coupon=coupon, subsidy=subsidy, freight=freight, paid=paid,
        refund=refund, refunded_at=np.floor(refunded_at), channel=channel, store=people.store[person],
        shown=np.ones(count, dtype=bool), identified=np.zeros(count, dtype=bool),
        line_order=order, line_product=product, line_quantity=quantity,
    )  # fmt: skip


def as_seen(purchases: Purchases, time: Calendar) -> Purchases:
    """The orders as they stand when the view ends: not yet placed, paid, delivered or refunded ones look so."""
    if time.view >= time.end:
        return purchases
    age = time.view - purchases.at
    unpaid = purchases.is_paid & ~(purchases.paid_at < time.view)
    kept = (purchases.refund > 0) & ~(purchases.refunded_at < time.view) | unpaid
    way = np.where(age < 3 * DAY, 2, np.where(age < 9 * DAY, 3, 4))
    way = np.where(purchases.platform == POS, 4, way)
    status = np.where(purchases.is_paid & ((purchases.status != 5) | kept), way, purchases.status)
    return replace(
        purchases,
        status=np.where(unpaid, 0, status),
        paid=np.where(unpaid, 0, purchases.paid),
        paid_at=np.where(unpaid, np.nan, purchases.paid_at),
        refund=np.where(kept, 0, purchases.refund),
        refunded_at=np.where(kept, np.nan, purchases.refunded_at),
        shown=age > 0,
    )


def money(minor: Ints) -> pl.Series:
    """Minor units as text with two decimals."""
    whole, rest = pl.Series(minor // 100).cast(pl.String), pl.Series(minor % 100).cast(pl.String).str.zfill(2)
    return whole + "." + rest


def order_ids(purchases: Purchases) -> pl.Series:
    """Order numbers by platform: mall `O…`, Taobao 19 digits, Douyin 19 digits."""
    place = np.arange(len(purchases))
    mall = pl.Series(place + 1).cast(pl.String).str.zfill(10)
    digits = pl.Series(purchases.at.astype(np.int64) * 10**7 % 10**9 * 10**9 + place + 2 * 10**18).cast(pl.String)
    return pl.select(
        pl.when(pl.Series(purchases.platform < TAOBAO)).then(pl.lit("O") + mall).otherwise(digits)
    ).to_series()


def person_totals(people: People, purchases: Purchases) -> pl.DataFrame:
    """Expected facts per person: paid orders, net amount, first and last payment."""
    kept = purchases.is_paid
    frame = pl.DataFrame(
        {
            "person": purchases.person[kept],
            "net": (purchases.paid - purchases.refund)[kept],
            "paid_at": purchases.paid_at[kept],
        }
    )
    found = frame.group_by("person").agg(
        pl.len().alias("orders_paid"),
        pl.col("net").sum(),
        pl.col("paid_at").min().alias("first_paid_at"),
        pl.col("paid_at").max().alias("last_paid_at"),
    )
    everyone = pl.DataFrame({"person": np.arange(people.count)})
    return everyone.join(found, on="person", how="left", maintain_order="left")


def gather_names(products: Products, index: Ints) -> pl.Series:
    """Product names by product index."""
    return gather(pl.Series(products.name), index)
