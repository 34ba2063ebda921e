"""Who there is: people, their WeChat accounts, phones, memberships, and the cases that make identity hard."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone

import numpy as np
import polars as pl

from sandbox.brand import names
from sandbox.brand.ids import LETTERS, Bools, Floats, Ints, choose, gather, numbered, phone_numbers, random_text

DAY = 86_400.0


@dataclass(frozen=True)
class Calendar:
    """History in seconds UTC: `start` ≤ everything < `end`. Business time runs faster on campaign days.

    Files show what was known before `view` (≤ end); what happens later is there already, but nobody has seen it yet.
    """

    start: float
    end: float
    view: float
    cumulative: Floats  # business days elapsed at each calendar day boundary, length HISTORY_DAYS + 1

    def at(self, business_days: Floats) -> Floats:
        """The instant (epoch seconds) at which that much business time has gone by since the start."""
        days = np.interp(business_days, self.cumulative, np.arange(len(self.cumulative), dtype=float))
        return np.asarray(self.start + days * DAY, dtype=np.float64)

    def business(self, seconds: Floats) -> Floats:
        """The business days elapsed at an instant."""
        days = (seconds - self.start) / DAY
        return np.interp(days, np.arange(len(self.cumulative), dtype=float), self.cumulative)

    @property
    def total(self) -> float:
        return float(self.cumulative[-1])


def calendar(as_of: date, until: date | None = None) -> Calendar:
    """The history that ends before *as_of* 00:00 of the brand's zone, seen up to *until* 00:00."""
    end, view = _midnight(as_of), _midnight(until or as_of)
    start = end - names.HISTORY_DAYS * DAY
    first = as_of - timedelta(days=names.HISTORY_DAYS)
    weights = [intensity(first + timedelta(days=offset)) for offset in range(names.HISTORY_DAYS)]
    scaled = np.array(weights) / np.mean(weights)
    return Calendar(start, end, min(view, end), np.concatenate([[0.0], np.cumsum(scaled)]))


def _midnight(day: date) -> float:
    zone = timezone(timedelta(seconds=names.OFFSET))
    return datetime(day.year, day.month, day.day, tzinfo=zone).timestamp()


def intensity(day: date) -> float:
    """How busy a day is: weekends a little, 618, 双11, 双12 and 3·8 a lot."""
    busy = 1.15 if day.weekday() >= 5 else 1.0
    key = (day.month, day.day)
    if key in ((11, 11), (6, 18)):
        return 4.0
    if key in ((12, 12), (3, 8), (11, 1), (6, 1)):
        return 2.5
    if (day.month == 11 and day.day <= 12) or (day.month == 6 and day.day <= 20):
        return 1.6 * busy
    return busy


@dataclass
class People:
    """One row per person (index = person), beside accounts and phones with the person they belong to."""

    count: int
    born: Floats  # first contact with the brand, epoch seconds
    churned: Floats  # no browsing after this
    engagement: Floats
    is_member: Bools
    registered: Floats  # inf for people who are no members
    member_no: Ints  # -1 for people who are no members
    is_friend: Bools
    uses: dict[str, Bools]  # mp, h5, app, web, oa, taobao, douyin
    has_crm: Bools
    store: Ints
    staff: Ints
    city: Ints
    surname: Ints
    given: Ints
    gender: Ints
    coupon_love: Floats
    taste: Ints
    email: pl.Series
    has_email: Bools
    member_id: pl.Series
    buyer_id: pl.Series  # Taobao nick
    account_person: Ints
    account_no: Ints
    account_first: Ints  # person -> first account
    unionid: pl.Series
    openid: dict[str, pl.Series]  # mp, oa, h5 by account
    external_userid: pl.Series
    account_mp: Bools
    account_h5: Bools
    account_oa: Bools
    account_friend: Bools
    mp_authorised: Bools
    phone_person: Ints
    phone_first: Ints
    phone_count: Ints
    phones: pl.Series
    member_phone: Ints  # person -> phone index in the member table (a shared one for planted cases), -1 none
    family: list[tuple[int, int]]
    recycled: list[tuple[int, int]]
    inviter: Ints
    stores: int
    staffs: int


def _accounts(rng: np.random.Generator, count: int, share: tuple[float, ...]) -> tuple[Ints, Ints, Ints, Ints]:
    """How many things each person owns: (owner of each, its number, first of each person, how many)."""
    owned = choose(rng, count, share) + 1
    owner = np.repeat(np.arange(count), owned)
    first = np.concatenate([[0], np.cumsum(owned)[:-1]])
    return owner, np.arange(len(owner)) - first[owner], first, owned


def make_people(rng: np.random.Generator, count: int, seed: int, time: Calendar) -> People:
    """*count* people with everything that does not depend on what they do later."""
    engagement = rng.beta(1.6, 2.4, count)
    acquired = np.where(rng.random(count) < 0.18, 0.0, time.total * rng.beta(1.0, 0.9, count))
    born = np.minimum(time.at(acquired) + rng.random(count) * DAY, time.end - 3 * DAY)
    lasting = rng.exponential(40 + 500 * engagement) * DAY
    is_member = rng.random(count) < 0.35 + 0.45 * engagement
    registered = np.where(is_member, np.minimum(born + rng.exponential(12 * DAY, count), time.end - DAY), np.inf)
    order = np.argsort(registered, kind="stable")
    member_no = np.full(count, -1)
    member_no[order[: int(is_member.sum())]] = np.arange(int(is_member.sum())) + 1
    uses = {
        "mp": rng.random(count) < 0.68,
        "h5": rng.random(count) < 0.30,
        "app": (rng.random(count) < 0.22) & is_member,
        "web": rng.random(count) < 0.20,
        "oa": rng.random(count) < 0.42,
        "taobao": rng.random(count) < 0.24,
        "douyin": rng.random(count) < 0.12,
    }
    stores, staffs = max(4, min(400, count // 1500)), max(12, min(2400, count // 400))
    owner, number, first, _ = _accounts(rng, count, (0.895, 0.09, 0.015))
    phone_owner, _, phone_first, phone_count = _accounts(rng, count, (0.86, 0.12, 0.02))
    accounts, primary = len(owner), number == 0
    is_friend = rng.random(count) < 0.40 + 0.35 * engagement
    staff = rng.integers(0, staffs, count)
    people = People(
        count=count,
        born=born,
        churned=np.minimum(born + lasting, time.end),
        engagement=engagement,
        is_member=is_member,
        registered=registered,
        member_no=member_no,
        is_friend=is_friend,
        uses=uses,
        has_crm=rng.random(count) < 0.30,
        store=staff % stores,
        staff=staff,
        city=rng.integers(0, len(names.PLACES), count),
        surname=rng.integers(0, len(names.SURNAMES), count),
        given=rng.integers(0, len(names.GIVEN) // 2, count),
        gender=choose(rng, count, (0.08, 0.22, 0.70)),
        coupon_love=rng.beta(0.6, 1.4, count),
        taste=rng.integers(0, len(names.CATEGORIES), count),
        email=random_text(rng, count, 10, "abcdefghijkmnpqrstuvwxyz23456789", "cam") + "@example.com",
        has_email=rng.random(count) < 0.25,
        member_id=numbered("M", member_no, 8),
        buyer_id=random_text(rng, count, 8, LETTERS, "tb"),
        account_person=owner,
        account_no=number,
        account_first=first,
        unionid=random_text(rng, accounts, 27, prefix="o"),
        openid={key: random_text(rng, accounts, 27, prefix="o") for key in ("mp", "oa", "h5")},
        external_userid=random_text(rng, accounts, 30, prefix="wm"),
        account_mp=np.where(primary, uses["mp"][owner], uses["mp"][owner] & (rng.random(accounts) < 0.6)),
        account_h5=np.where(primary, uses["h5"][owner], uses["h5"][owner] & (rng.random(accounts) < 0.3)),
        account_oa=np.where(primary, uses["oa"][owner], uses["oa"][owner] & (rng.random(accounts) < 0.3)),
        account_friend=np.where(primary, is_friend[owner], is_friend[owner] & (rng.random(accounts) < 0.45)),
        mp_authorised=rng.random(accounts) < 0.93,
        phone_person=phone_owner,
        phone_first=phone_first,
        phone_count=phone_count,
        phones=phone_numbers(len(phone_owner), seed),
        member_phone=np.where(is_member, phone_first, -1),
        family=[],
        recycled=[],
        inviter=np.full(count, -1),
        stores=stores,
        staffs=staffs,
    )
    _plant(rng, people, time)
    _invite(rng, people)
    return people


def _plant(rng: np.random.Generator, people: People, time: Calendar) -> None:
    """Family phones (two members, one number), recycled numbers (new owner later), openids equal but for case."""
    members = np.flatnonzero(people.is_member)
    early = members[(people.registered[members] < time.start + 100 * DAY)]
    late = members[people.registered[members] > time.end - 100 * DAY]
    take = min(max(3, people.count // 2000), len(early) // 2, len(late) // 2)
    givers, takers = rng.permutation(early)[:take], rng.permutation(late)[:take]
    used = set(givers.tolist()) | set(takers.tolist())
    for giver, taker in zip(givers.tolist(), takers.tolist(), strict=True):
        people.member_phone[taker] = people.phone_first[giver]
        people.churned[giver] = min(people.churned[giver], people.registered[giver] + 20 * DAY)
        for flag in ("taobao", "douyin", "app", "web", "h5"):
            people.uses[flag][giver] = False
        people.has_crm[giver] = False
        people.recycled.append((giver, taker))
    free = rng.permutation(np.array([item for item in members.tolist() if item not in used]))
    for left, right in free[: 2 * max(4, people.count // 300)].reshape(-1, 2).tolist():
        first, second = (left, right) if people.registered[left] <= people.registered[right] else (right, left)
        people.member_phone[second] = people.phone_first[first]
        people.family.append((first, second))
    if len(people.unionid) > 200:
        texts = people.openid["mp"].to_list()
        for source, target in ((11, 101), (12, 102)):
            texts[target] = "o" + texts[source][1:].swapcase()
        people.openid["mp"] = pl.Series(texts)


def _invite(rng: np.random.Generator, people: People) -> None:
    """Some members were brought by an earlier member (fission): a forest, since inviters register first."""
    order = np.argsort(people.registered, kind="stable")[: int(people.is_member.sum())]
    if len(order) < 10:
        return
    place = np.arange(len(order))
    invited = (rng.random(len(order)) < 0.16) & (place > 5)
    inviter = (place * rng.beta(2.0, 1.0, len(order))).astype(np.int64)
    people.inviter[order[invited]] = order[np.minimum(inviter, place - 1)[invited]]


def full_names(people: People) -> pl.Series:
    """Surname and a two-character given name."""
    given = np.array([names.GIVEN[2 * item : 2 * item + 2] for item in range(len(names.GIVEN) // 2)])
    return gather(pl.Series(list(names.SURNAMES)), people.surname) + gather(pl.Series(given.tolist()), people.given)
