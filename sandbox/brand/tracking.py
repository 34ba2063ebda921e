"""What people do: sessions on mini program, H5, app and web, written as the trackers write them.

A device is anonymous until its person logs in on it; the login line binds the two. Times are epoch seconds here and
milliseconds in the lines. Lines are written in parts of a channel's month, so memory stays flat.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import polars as pl

from sandbox.brand import names
from sandbox.brand.commerce import APP, H5, MP, WEB, Purchases, order_ids
from sandbox.brand.ids import HEX, Bools, Floats, Ints, choose, gather, numbered, random_text
from sandbox.brand.people import DAY, Calendar, People
from sandbox.brand.records import pick, words
from sandbox.brand.truth import Evidence
from sandbox.brand.wecom_relations import Relations, channel_ids

CHANNELS = ("mp", "h5", "app", "web")
PLATFORM_CHANNEL = {MP: 0, H5: 1, APP: 2, WEB: 3}
SHARE = (0.55, 0.17, 0.13, 0.15)
PART = 400_000
BROKEN = 0.0003

BROWSE, ORDER, SCAN, GUEST = 0, 1, 2, 3
SHOP_DEVICE, FAMILY_DEVICE = 1, 2


@dataclass
class Devices:
    """One row per browser, phone or installation a person uses on one channel."""

    person: Ints
    account: Ints  # WeChat account on mp and (inside WeChat) h5, else -1
    channel: Ints
    anonymous: pl.Series
    hardware: Ints  # app: device number, else -1
    weight: Floats
    logs_in: Bools
    shared: Ints  # 0 own, 1 shop iPad, 2 household browser


@dataclass
class Sessions:
    """One row per session, sorted by device, then start."""

    device: Ints
    person: Ints  # who sat before the device; its owner except on shared devices
    start: Floats
    size: Ints
    kind: Ints
    order: Ints  # place among purchases, -1
    state: Ints  # index into channel_ids for scans, -1
    login: Bools  # the session in which the person logs in
    logged: Bools  # logged in from the session's third event on (the login session) or all along
    campaign: Ints  # index into names.CHANNELS, -1


def make_devices(rng: np.random.Generator, people: People) -> Devices:
    """Devices of everybody, one iPad per store, and which browsers a household shares."""
    account, person, channel = [], [], []
    for code, flags in ((0, people.account_mp), (1, people.account_h5)):
        own = np.flatnonzero(flags)
        account.append(own)
        person.append(people.account_person[own])
        channel.append(np.full(len(own), code))
    for code, key in ((1, "h5"), (2, "app"), (3, "web")):
        own = np.flatnonzero(people.uses[key] & ((rng.random(people.count) < 0.25) if code == 1 else True))
        twice = rng.random(len(own)) < 0.12
        own = np.concatenate([own, own[twice]]) if code != 1 else own
        account.append(np.full(len(own), -1))
        person.append(own)
        channel.append(np.full(len(own), code))
    tablets = np.flatnonzero(people.is_member)[: people.stores]  # one per store; the owner means nothing
    person, account, channel = (
        [*person, tablets],
        [*account, np.full(len(tablets), -1)],
        [*channel, np.full(len(tablets), 2)],
    )
    who, kind, wechat = np.concatenate(person), np.concatenate(channel), np.concatenate(account)
    shared = np.zeros(len(who), dtype=np.int64)
    shared[len(who) - len(tablets) :] = SHOP_DEVICE
    web = np.full(people.count, -1)
    web[who[kind == 3]] = np.flatnonzero(kind == 3)
    families = np.array([first for first, _ in people.family], dtype=np.int64)
    shared[web[families][web[families] >= 0]] = FAMILY_DEVICE
    app = kind == 2
    hardware = np.where(app, np.cumsum(app) - 1, -1)
    likely = np.array([0.75, 0.5, 0.95, 0.55])[kind]
    logs_in = people.is_member[who] & (rng.random(len(who)) < likely)
    return Devices(
        person=who,
        account=wechat,
        channel=kind,
        anonymous=random_text(rng, len(who), 32, HEX),
        hardware=hardware,
        weight=np.where(
            shared == SHOP_DEVICE,
            0.0,
            (0.15 + people.engagement[who]) * rng.gamma(1.2, 1.0, len(who)) * np.array(SHARE)[kind] / _use(kind),
        ),
        logs_in=logs_in & (shared != SHOP_DEVICE),
        shared=shared,
    )


def _use(channel: Ints) -> Floats:
    """Devices per channel, so that each channel gets its share of the sessions."""
    return np.maximum(np.bincount(channel, minlength=len(CHANNELS)), 1).astype(float)[channel]


def make_sessions(
    rng: np.random.Generator, people: People, devices: Devices, purchases: Purchases, relations: Relations,
    time: Calendar, events: int,
) -> Sessions:  # fmt: skip
    """Sessions whose sizes sum to *events* exactly (orders and scans first, browsing fills up)."""
    parts = [
        _order_sessions(rng, devices, purchases),
        _scan_sessions(rng, people, devices, relations),
        _guest_sessions(rng, people, devices, time),
    ]
    fixed = sum(int(part["size"].sum()) for part in parts)
    wanted = max(0, events - fixed)
    count = max(1, int(wanted / 4.6) + 8)
    size = np.minimum(rng.geometric(1 / 5.0, count), 30)
    total = np.cumsum(size)
    last = int(np.searchsorted(total, wanted))
    size = size[: last + 1]
    if wanted and last < count:
        size[last] -= int(total[last]) - wanted
    size = size[size > 0]
    device = choose(rng, len(size), devices.weight)
    person = devices.person[device]
    low, high = time.business(people.born[person]), time.business(people.churned[person])
    start = time.at(low + rng.random(len(size)) * np.maximum(high - low, 0.05))
    start = np.clip(start + rng.normal(0, 3600, len(size)), people.born[person], time.end - 4000)
    parts.append(_part(device, start, size, BROWSE, person))
    table = pl.concat(parts).sort("device", "start", "kind", "order", maintain_order=True)
    device, person, size, kind = (table[name].to_numpy() for name in ("device", "person", "size", "kind"))
    begins = table["start"].to_numpy()
    login, logged = _logins(people, devices, device, begins, size, kind)
    campaign = np.where(
        (rng.random(len(device)) < 0.22) & (kind != SCAN),
        choose(rng, len(device), [item[5] for item in names.CHANNELS]),
        -1,
    )
    order, state = table["order"].to_numpy(), table["state"].to_numpy()
    return Sessions(device, person, begins, size, kind, order, state, login, logged, campaign)


def _part(
    device: Ints, start: Floats, size: Ints, kind: int, person: Ints, *, order: Ints | int = -1, state: Ints | int = -1
) -> pl.DataFrame:
    """Sessions of one kind as a table."""
    count = len(device)
    return pl.DataFrame(
        {
            "device": device,
            "start": np.floor(start),
            "size": size,
            "kind": np.full(count, kind),
            "order": np.broadcast_to(order, count),
            "state": np.broadcast_to(state, count),
            "person": person,
        }
    )


def _first_device(key: Ints, wanted: Ints) -> Ints:
    """The first device whose *key* equals each wanted value, -1 when there is none (keys ≥ 0)."""
    place = np.full(int(max(key.max(initial=-1), wanted.max(initial=-1))) + 2, -1)
    real = np.flatnonzero(key >= 0)[::-1]
    place[key[real]] = real
    return np.where(wanted >= 0, place[wanted], -1)


def _order_sessions(rng: np.random.Generator, devices: Devices, purchases: Purchases) -> pl.DataFrame:
    """One session per online order, ending in the order; the device logs in when the order carries a member."""
    row = np.flatnonzero(np.isin(purchases.platform, list(PLATFORM_CHANNEL)))
    channel = np.array([PLATFORM_CHANNEL.get(code, -1) for code in range(7)])[purchases.platform[row]]
    device = np.full(len(row), -1)
    for code in range(4):
        here = channel == code
        if code < 2:
            key = np.where(devices.channel == code, devices.account, -1)
            device[here] = _first_device(key, purchases.account[row][here])
        else:
            key = np.where(devices.channel == code, devices.person, -1)
            device[here] = _first_device(key, purchases.person[row][here])
    keep = device >= 0
    row, device = row[keep], device[keep]
    devices.logs_in[device[purchases.member[row]]] = True
    size = 4 + np.minimum(rng.geometric(0.4, len(row)), 8) + 1
    start = purchases.at[row] - (size - 2) * 25.0
    return _part(device, start, size, ORDER, devices.person[device], order=row)


def _scan_sessions(rng: np.random.Generator, people: People, devices: Devices, relations: Relations) -> pl.DataFrame:
    """An H5 landing page with a contact-way code, minutes before the friend is added."""
    chosen = np.flatnonzero((relations.channel >= 0) & relations.first & people.account_h5[relations.account])
    key = np.where(devices.channel == 1, devices.account, -1)
    device = _first_device(key, relations.account[chosen])
    chosen, device = chosen[device >= 0], device[device >= 0]
    start = relations.at[chosen] - rng.uniform(40, 240, len(chosen))
    two = np.full(len(chosen), 2)
    return _part(device, start, two, SCAN, devices.person[device], state=relations.channel[chosen])


def _guest_sessions(rng: np.random.Generator, people: People, devices: Devices, time: Calendar) -> pl.DataFrame:
    """Members who log in on a shop's iPad (one in fifty), and second family members on the household's browser."""
    tablets = np.flatnonzero(devices.shared == SHOP_DEVICE)
    guests = np.flatnonzero(
        people.is_member & (rng.random(people.count) < 0.02) & (people.registered < time.end - 3 * DAY)
    )
    tablet = tablets[people.store[guests] % max(1, len(tablets))] if len(tablets) else np.zeros(0, dtype=np.int64)
    guests = guests[: len(tablet)]
    household = np.flatnonzero(devices.shared == FAMILY_DEVICE)
    second = dict(people.family)
    mates = np.repeat(np.array([second[int(owner)] for owner in devices.person[household]], dtype=np.int64), 3)
    device = np.concatenate([tablet, np.repeat(household, 3)])
    person = np.concatenate([guests, mates])
    low = np.maximum(people.registered[person], people.registered[devices.person[device]]) + 3600
    start = low + rng.random(len(person)) * np.maximum(time.end - DAY - low, 1)
    start = np.minimum(start, time.end - 4000)
    return _part(device, start, np.full(len(person), 5), GUEST, person)


def _logins(
    people: People, devices: Devices, device: Ints, start: Floats, size: Ints, kind: Ints
) -> tuple[Bools, Bools]:
    """The login session of each device (first one long enough after registration), and who is logged in when."""
    able = devices.logs_in[device] & (start >= people.registered[devices.person[device]]) & (size >= 3)
    able &= (kind == BROWSE) | (kind == ORDER)
    place = np.where(able, np.arange(len(device)), len(device))
    first = np.full(len(devices.person), len(device))
    np.minimum.at(first, device, place)
    number = np.arange(len(device))
    guest = kind == GUEST  # logs in and out again
    return (number == first[device]) | guest, (number >= first[device]) | guest


def reveal(people: People, devices: Devices, sessions: Sessions, evidence: Evidence) -> None:
    """Tell the evidence which identifiers the lines carry together."""
    for code, reason in ((SHOP_DEVICE, "shop_device"), (FAMILY_DEVICE, "family_device")):
        common = np.flatnonzero(devices.shared == code)
        evidence.share("anonymous", common, reason)
        evidence.share("device", devices.hardware[common][devices.hardware[common] >= 0], reason)
    guest = np.unique(sessions.person[sessions.kind == GUEST])
    evidence.see("member", guest)
    seen = np.unique(sessions.device)
    person, account, channel = devices.person[seen], devices.account[seen], devices.channel[seen]
    login = np.zeros(len(devices.person), dtype=bool)
    login[sessions.device[sessions.login & (sessions.kind != GUEST)]] = True
    who = np.where(login[seen], person, -1)
    evidence.link("anonymous", seen, "member", who)
    for name, code in (("openid_mp", 0), ("openid_h5", 1)):
        shown = np.where((channel == code) & (account >= 0), account, -1)
        if code == 0:
            shown = np.where(people.mp_authorised[np.maximum(shown, 0)], shown, -1)
        evidence.link("anonymous", seen, name, shown)
        evidence.link(name, shown, "unionid", shown)
        evidence.link("member", who, name, shown)
    evidence.link("anonymous", seen, "device", devices.hardware[seen])
    phone = people.phone_first[person]
    by_phone = login_by_phone(people, person) & login[seen]
    evidence.link("member", who, "phone", np.where(by_phone, phone, -1))
    web = (channel == 3) & login[seen]
    evidence.link("member", who, "email", np.where(web & people.has_email[person], person, -1))
    calls = guest[login_by_phone(people, guest)]
    evidence.link("member", calls, "phone", people.phone_first[calls])


def login_by_phone(people: People, person: Ints) -> Bools:
    """Who logs in with the own number (planted cases never do)."""
    planted = np.array(sorted({item for pair in people.family + people.recycled for item in pair}), dtype=np.int64)
    return np.asarray((person % 5 < 3) & ~np.isin(person, planted))


EVENTS = ("$ViewScreen", "ProductView", "Search", "AddToCart", "CouponReceive", "ShareInvite")
EVENT_WEIGHTS = (0.34, 0.40, 0.08, 0.12, 0.04, 0.02)
START = ("$MPLaunch", "$pageview", "$AppStart", "page")
VIEW = ("$MPViewScreen", "$WebPageView", "$AppViewScreen", "page")
PAGES = ("pages/home", "pages/category", "pages/product", "pages/cart", "pages/member", "pages/campaign")
SYSTEMS = ("iOS", "Android", "HarmonyOS", "Windows")


@dataclass(frozen=True)
class Stage:
    """What all log files are written from."""

    people: People
    devices: Devices
    sessions: Sessions
    purchases: Purchases
    end: float
    view: float  # lines received later are not written
    orders: pl.Series  # order ids by purchase
    states: pl.Series  # contact-way states
    first_product: Ints  # purchase -> the product of its first line


def make_stage(people: People, devices: Devices, sessions: Sessions, purchases: Purchases, time: Calendar) -> Stage:
    first_product = np.full(len(purchases), -1)
    first_product[purchases.line_order[::-1]] = purchases.line_product[::-1]
    states = pl.Series(channel_ids(people))
    return Stage(people, devices, sessions, purchases, time.end, time.view, order_ids(purchases), states, first_product)


def write_events(folder: Path, rng: np.random.Generator, stage: Stage) -> dict[str, int]:
    """All log files. Returns lines per channel, repeats and broken ones included."""
    for kind in ("sensors", "segment"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    sessions = stage.sessions
    month = (sessions.start + names.OFFSET).astype(np.int64).astype("datetime64[s]").astype("datetime64[M]")
    channel = stage.devices.channel[sessions.device]
    lines = dict.fromkeys(CHANNELS, 0)
    track_id = 1_000_000
    for code, name in enumerate(CHANNELS):
        ranked = np.flatnonzero(channel == code)
        ranked = ranked[np.argsort(sessions.start[ranked], kind="stable")]
        for label in np.unique(month[ranked]):  # as YYYY-MM
            path = folder / (f"segment/{name}-{label}.jsonl" if code == 3 else f"sensors/{name}-{label}.log")
            with path.open("wb") as file:
                for part in _parts(sessions, ranked[month[ranked] == label]):
                    frame = _events(rng, stage, part, code, track_id)
                    track_id += frame.height
                    lines[name] += _write(rng, file, frame, code, stage.view)
    return lines


def _parts(sessions: Sessions, chosen: Ints) -> Iterator[Ints]:
    """The sessions in pieces of about `PART` events."""
    bounds = np.cumsum(sessions.size[chosen])
    cuts = np.searchsorted(bounds, np.arange(PART, int(bounds[-1]) + PART, PART)) + 1
    low = 0
    for high in cuts.tolist():
        if high > low:
            yield chosen[low:high]
        low = max(low, high)


@dataclass(frozen=True)
class Moments:
    """One row per event of some sessions, in session order."""

    code: int  # channel
    session: Ints
    place: Ints  # from 0
    left: Ints  # 1 = last of its session
    kind: Ints
    device: Ints
    person: Ints
    account: Ints
    signup: Bools
    scan: Bools
    submit: Bools
    pay: Bools
    order: Ints  # purchase of a submit or pay event, -1

    def __len__(self) -> int:
        return len(self.session)


def _moments(stage: Stage, part: Ints, code: int) -> Moments:
    sessions = stage.sessions
    size = sessions.size[part]
    session = np.repeat(part, size)
    place = np.arange(len(session)) - np.repeat(np.cumsum(size) - size, size)
    left = sessions.size[session] - place
    kind, device = sessions.kind[session], sessions.device[session]
    buys = kind == ORDER
    paid = buys & stage.purchases.is_paid[np.maximum(sessions.order[session], 0)]
    submit, pay = buys & (left == 2), paid & (left == 1)
    return Moments(
        code=code,
        session=session,
        place=place,
        left=left,
        kind=kind,
        device=device,
        person=sessions.person[session],
        account=stage.devices.account[device],
        signup=sessions.login[session] & (place == 1),
        scan=(kind == SCAN) & (place == 1),
        submit=submit,
        pay=pay,
        order=np.where(submit | pay, sessions.order[session], -1),
    )


def _names(rng: np.random.Generator, moments: Moments) -> pl.Series:
    """What happens: the session's start, its login, its order at the end, and browsing between."""
    buys, left = moments.kind == ORDER, moments.left
    browsing = words((VIEW[moments.code], *EVENTS[1:]), choose(rng, len(moments), EVENT_WEIGHTS))
    return pl.select(
        pl.when(pl.Series(moments.place == 0)).then(pl.lit(START[moments.code]))
        .when(pl.Series(moments.signup)).then(pl.lit("$SignUp"))
        .when(pl.Series(moments.pay)).then(pl.lit("PayOrder"))
        .when(pl.Series(moments.submit)).then(pl.lit("SubmitOrder"))
        .when(pl.Series(buys & (left == 3))).then(pl.lit("AddToCart"))
        .when(pl.Series(buys & (left == 4))).then(pl.lit("ProductView"))
        .when(pl.Series(moments.scan)).then(pl.lit("QrScan"))
        .otherwise(browsing)
    ).to_series()  # fmt: skip


def _times(rng: np.random.Generator, stage: Stage, moments: Moments) -> tuple[Ints, Ints]:
    """When each event happened and when it was received (one in a hundred hours or days late), in milliseconds."""
    size = len(moments)
    gap = np.where(moments.kind == ORDER, 25.0, rng.exponential(22.0, size))
    elapsed = np.cumsum(gap)
    begun = elapsed[np.maximum(np.arange(size) - moments.place, 0)]
    at = stage.sessions.start[moments.session] + (elapsed - begun)
    order = np.maximum(moments.order, 0)
    at = np.where(moments.submit, stage.purchases.at[order], at)
    at = np.where(moments.pay, np.nan_to_num(stage.purchases.paid_at[order]), at)
    last = int(stage.end * 1000) - 1
    milli = np.minimum((at * 1000).astype(np.int64) + moments.place, last - 2000 + np.minimum(moments.place, 999))
    late = rng.random(size) < 0.01
    wait = np.where(late, rng.uniform(3.6e6, 2.6e8, size), rng.uniform(80, 2500, size)).astype(np.int64)
    return milli, np.maximum(np.minimum(milli + wait, last), milli)


def _products(rng: np.random.Generator, stage: Stage, moments: Moments) -> Ints:
    """What is looked at: the bought product before an order, else the favourite category half of the time."""
    item = rng.integers(0, len(names.CATEGORIES) * 24, len(moments))
    favourite = stage.people.taste[moments.person] * 24 + item % 24
    item = np.where(rng.random(len(moments)) < 0.55, favourite, item)
    bought = stage.first_product[np.maximum(stage.sessions.order[moments.session], 0)]
    return np.where((moments.kind == ORDER) & (moments.left <= 4), bought, item)


def _events(rng: np.random.Generator, stage: Stage, part: Ints, code: int, track_id: int) -> pl.DataFrame:
    """One row per event of these sessions, with every value a line needs (null = absent)."""
    moments = _moments(stage, part, code)
    name = _names(rng, moments)
    milli, received = _times(rng, stage, moments)
    item = _products(rng, stage, moments)
    shows = name.is_in(["ProductView", "AddToCart"]).to_numpy() | (moments.order >= 0)
    order, size = np.maximum(moments.order, 0), len(moments)
    amount = np.where(moments.order >= 0, stage.purchases.paid[order] / 100, np.nan)
    coupon = numbered("CP", (moments.place % 4 + 1) * 10, 4)
    return pl.DataFrame(
        {
            "track_id": np.arange(track_id, track_id + size),
            "name": name,
            "signup": moments.signup,
            "time": milli,
            "recv": received,
            "session": pl.Series(moments.session).cast(pl.String),
            "page": words(PAGES, rng.integers(0, len(PAGES), size)),
            "os": words(SYSTEMS, (moments.device * 7 + moments.device // 3) % 4),
            "product": pick(shows, numbered("SP", item + 1, 4)),
            "order": gather(stage.orders, moments.order, moments.order >= 0),
            "amount": pl.Series(amount).fill_nan(None),
            "state": gather(stage.states, stage.sessions.state[moments.session], moments.scan),
            "coupon": pick((name == "CouponReceive").to_numpy(), coupon),
            **_who(stage, moments),
            **_campaign(stage, moments),
        }
    )


def _who(stage: Stage, moments: Moments) -> dict[str, pl.Series]:
    """The identifiers a line carries, and the login's phone, e-mail and profile."""
    people, devices, sessions = stage.people, stage.devices, stage.sessions
    person, account, signup = moments.person, moments.account, moments.signup
    logged = sessions.logged[moments.session] & (~sessions.login[moments.session] | (moments.place >= 1))
    authorised = (account >= 0) & (people.mp_authorised[np.maximum(account, 0)] | (moments.code != 0))
    profile = sessions.login[moments.session] & (moments.place == 2) & (moments.kind == BROWSE) & (moments.code != 3)
    city = gather(pl.Series([place[1] for place in names.PLACES]), people.city[person])
    return {
        "anonymous": gather(devices.anonymous, moments.device),
        "login": gather(people.member_id, person, logged),
        "openid": gather(people.openid["mp" if moments.code == 0 else "h5"], account, authorised),
        "unionid": gather(people.unionid, account, authorised),
        "phone": gather(people.phones, people.phone_first[person], signup & login_by_phone(people, person)),
        "email": gather(people.email, person, signup & people.has_email[person]),
        "hardware": numbered("AD", devices.hardware[moments.device], 9),
        "profile": pl.Series(profile),
        "city": pick(profile, city),
    }


def _campaign(stage: Stage, moments: Moments) -> dict[str, pl.Series]:
    """Where a campaign session came from, on its first event."""
    campaign = stage.sessions.campaign[moments.session]
    shown = (campaign >= 0) & (moments.place == 0)
    return {
        "source": gather(pl.Series([entry[0] for entry in names.CHANNELS]), campaign, shown),
        "medium": gather(pl.Series([entry[2] for entry in names.CHANNELS]), campaign, shown),
        "campaign": gather(pl.Series([entry[3] or None for entry in names.CHANNELS]), campaign, shown),
    }


def _string(key: str, value: str | pl.Expr) -> pl.Expr:
    """`,"key":"value"` of a column or expression that is never null."""
    return pl.concat_str(pl.lit(f',"{key}":"'), pl.col(value) if isinstance(value, str) else value, pl.lit('"'))


def _text(key: str, column: str) -> pl.Expr:
    """`,"key":"value"`, or nothing when the value is null."""
    return pl.when(pl.col(column).is_null()).then(pl.lit("")).otherwise(
        pl.concat_str(pl.lit(f',"{key}":"'), pl.col(column), pl.lit('"'))
    )  # fmt: skip


def _number(key: str, column: str) -> pl.Expr:
    return pl.when(pl.col(column).is_null()).then(pl.lit("")).otherwise(
        pl.concat_str(pl.lit(f',"{key}":'), pl.col(column).cast(pl.String))
    )  # fmt: skip


LIB = ("MiniProgram", "js", "Android")


def sensors_line(code: int) -> pl.Expr:
    """One Sensors Analytics line (code: 0 mini program, 1 H5, 2 app)."""
    anonymous_key = ("$identity_mp_id", "$identity_cookie_id", "$identity_anonymous_id")[code]
    openid_key = ("$identity_mp_openid", "identity_h5_openid", "_")[code]
    union_key = ("$identity_mp_unionid", "identity_h5_unionid", "_")[code]
    signup = pl.col("signup")
    parts: list[pl.Expr] = [
        pl.lit('{"_track_id":'), pl.col("track_id").cast(pl.String),
        pl.when(signup).then(pl.lit(',"type":"track_signup"')).when(pl.col("profile")).then(pl.lit(',"type":"profile_set"'))
        .otherwise(pl.lit(',"type":"track"')),
        pl.when(pl.col("profile")).then(pl.lit("")).otherwise(_string("event", "name")),
        pl.lit(',"time":'), pl.col("time").cast(pl.String),
        pl.lit(',"distinct_id":"'), pl.coalesce("login", "anonymous"), pl.lit('"'),
        pl.when(signup).then(_string("original_id", "anonymous")).otherwise(pl.lit("")),
        pl.lit(',"anonymous_id":"'), pl.col("anonymous"), pl.lit('"'), _text("login_id", "login"),
        pl.lit(f',"identities":{{"{anonymous_key}":"'), pl.col("anonymous"), pl.lit('"'),
        _text("$identity_login_id", "login"), _text("$identity_mobile", "phone"),
    ]  # fmt: skip
    if code < 2:
        parts += [_text(openid_key, "openid"), _text(union_key, "unionid")]
    parts += [
        pl.lit(f'}},"lib":{{"$lib":"{LIB[code]}","$lib_version":"3.17.2","$lib_method":"code"}},"properties":{{"$session_id":"'),
        pl.col("session"), pl.lit('","$url_path":"'), pl.col("page"), pl.lit('","$os":"'), pl.col("os"), pl.lit('"'),
        pl.when(pl.col("login").is_null()).then(pl.lit("")).otherwise(pl.lit(',"$is_login_id":true')),
        _text("product_id", "product"), _text("order_id", "order"), _number("amount", "amount"),
        _text("channel", "source"), _text("$utm_source", "source"), _text("$utm_medium", "medium"),
        _text("$utm_campaign", "campaign"), _text("campaign_id", "campaign"),
        _text("state", "state"), _text("coupon_id", "coupon"), _text("city", "city"),
    ]  # fmt: skip
    if code == 2:
        parts.append(_text("$device_id", "hardware"))
    parts += [pl.lit('},"project":"production","recv_time":'), pl.col("recv").cast(pl.String), pl.lit("}")]
    return pl.concat_str(parts)


SEGMENT_NAMES = {
    "ProductView": "Product Viewed", "AddToCart": "Product Added", "SubmitOrder": "Checkout Started",
    "PayOrder": "Order Completed", "CouponReceive": "Coupon Received", "Search": "Products Searched",
    "ShareInvite": "Product Shared",
}  # fmt: skip


def _iso(column: str) -> pl.Expr:
    return pl.col(column).cast(pl.Datetime("ms")).dt.strftime("%Y-%m-%dT%H:%M:%S%.3fZ")


def segment_line() -> pl.Expr:
    """One Segment message: the login is an `identify`, every tenth one an `alias` instead, views are `page`."""
    name, signup = pl.col("name"), pl.col("signup")
    alias = signup & (pl.col("track_id") % 10 == 0)
    kind = (
        pl.when(alias).then(pl.lit("alias")).when(signup).then(pl.lit("identify"))
        .when(name == "page").then(pl.lit("page")).otherwise(pl.lit("track"))
    )  # fmt: skip
    event = _string("event", name.replace(SEGMENT_NAMES))
    page = _string("name", "page")
    traits = pl.concat_str(
        pl.lit(',"traits":{"member":true'), _text("phone", "phone"), _text("email", "email"), pl.lit("}")
    )  # fmt: skip
    previous = _string("previousId", "anonymous")
    return pl.concat_str(
        pl.lit('{"type":"'), kind, pl.lit('","messageId":"web-'), pl.col("track_id").cast(pl.String),
        pl.lit('","anonymousId":"'), pl.col("anonymous"), pl.lit('"'), _text("userId", "login"),
        pl.when(alias).then(previous).when(signup).then(traits).when(name == "page").then(page).otherwise(event),
        pl.lit(',"properties":{"session_id":"'), pl.col("session"), pl.lit('","path":"/'), pl.col("page"), pl.lit('"'),
        _text("product_id", "product"), _text("order_id", "order"), _number("amount", "amount"),
        _text("coupon_id", "coupon"),
        pl.lit('},"context":{"library":{"name":"analytics.js","version":"2.11.1"},"page":{"path":"/'),
        pl.col("page"), pl.lit('"}'),
        pl.when(pl.col("source").is_null()).then(pl.lit("")).otherwise(
            pl.concat_str(
                pl.lit(',"campaign":{"source":"'), pl.col("source"), pl.lit('"'), _text("medium", "medium"),
                _text("name", "campaign"), pl.lit("}"),
            )
        ),
        pl.lit('},"integrations":{},"timestamp":"'), _iso("time"), pl.lit('","originalTimestamp":"'), _iso("time"),
        pl.lit('","sentAt":"'), _iso("time"), pl.lit('","receivedAt":"'), _iso("recv"), pl.lit('"}'),
    )  # fmt: skip


def _write(rng: np.random.Generator, file: BinaryIO, frame: pl.DataFrame, code: int, view: float) -> int:
    """Write what was received before *view*, in order of receipt; one in a hundred comes again, a few are cut off."""
    line = segment_line() if code == 3 else sensors_line(code)
    lines = frame.select("recv", "track_id", line.alias("line"))
    again = lines.filter(pl.Series(rng.random(frame.height) < 0.01)).with_columns(pl.col("recv") + 30_000)
    broken = lines.filter(pl.Series(rng.random(frame.height) < BROKEN)).with_columns(
        pl.col("line").str.slice(0, 60) + pl.lit("…")
    )
    everything = pl.concat([lines, again, broken]).filter(pl.col("recv") < int(view * 1000))
    everything = everything.sort("recv", "track_id", maintain_order=True)
    everything.select("line").write_csv(file, include_header=False, quote_style="never")
    return everything.height
