"""Generate a brand: everything a real one would hand over, in native forms, with the truth beside it."""

from __future__ import annotations

import json
import shutil
import time as clock
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from sandbox.brand import chats, commerce, files, names, records, tracking, wecom_relations, wecom_state
from sandbox.brand import people as crowd
from sandbox.brand.ids import Floats, gather, numbered
from sandbox.brand.truth import Evidence


@dataclass(frozen=True)
class BrandReport:
    """What was written: counts of people, rows and lines, and the seconds it took."""

    people: int
    accounts: int
    members: int
    relations: int
    orders: int
    lines: dict[str, int]
    identifiers: int
    seconds: float


def _quiet(_: str) -> None:
    return None


def generate(
    out: Path,
    *,
    people: int,
    events: int,
    seed: int = 7,
    as_of: date = date(2026, 11, 20),
    until: date | None = None,
    grow: bool = False,
    echo: Callable[[str], None] = _quiet,
) -> BrandReport:
    """Write the brand into *out* (its earlier contents of the same names go). Same arguments, same bytes.

    *events*: tracking events before repeats and broken lines. *until*: files show what was known before that day 00:00,
    so that the same brand can be met day after day; *grow*: WeCom's state keeps what clients did to it and gains what
    is new. The truth is always that of the whole history. *echo* is told each stage.
    """
    began = clock.monotonic()

    def stage(text: str) -> None:
        echo(f"[{clock.monotonic() - began:6.1f} s] {text}")

    for folder in ("events", "exports", "lists", "truth"):
        shutil.rmtree(out / folder, ignore_errors=True)
        (out / folder).mkdir(parents=True, exist_ok=True)
    streams = np.random.SeedSequence(seed).spawn(9)
    rng = [np.random.default_rng(stream) for stream in streams]
    time = crowd.calendar(as_of, until)
    stage(f"{people:,} people")
    folk = crowd.make_people(rng[0], people, seed, time)
    products = commerce.make_products(rng[1])
    purchases, rate, dropout = commerce.make_purchases(rng[1], folk, products, time)
    relations = wecom_relations.make_relations(rng[2], folk, time)
    groups = chats.make_groups(rng[2], folk, time)
    evidence = _evidence(folk)
    stage(f"{len(purchases):,} orders, {len(relations.account):,} relations")
    devices = tracking.make_devices(rng[3], folk)
    _register_devices(evidence, devices)
    sessions = tracking.make_sessions(rng[3], folk, devices, purchases, relations, time, events)
    tracking.reveal(folk, devices, sessions, evidence)
    seen = commerce.as_seen(purchases, time)
    spent = np.bincount(seen.person, weights=((seen.paid - seen.refund) * seen.shown).astype(float), minlength=people)
    last_paid = np.full(people, np.nan)
    for moment in (seen.paid_at, seen.refunded_at):
        np.fmax.at(last_paid, seen.person[seen.shown], moment[seen.shown])
    stage("brand.sqlite")
    numbers = spent.astype(np.int64)
    tables: list[tuple[str, Callable[[], pl.DataFrame], str]] = [
        ("members", lambda: records.members(rng[4], folk, evidence, time, numbers, last_paid), "member_id"),
        ("crm_contacts", lambda: records.crm_contacts(rng[4], folk, evidence, time), "crm_id"),
        ("orders", lambda: records.orders(rng[4], folk, seen, evidence, time), "order_id"),
        ("order_lines", lambda: records.order_lines(seen, products, (0, 1, 2, 3, 4)), "order_id, line_no"),
        ("refunds", lambda: records.refunds(seen), "refund_id"),
        ("products", lambda: records.products_table(products, time), "product_id"),
        ("stores", lambda: records.stores_table(folk), "store_id"),
    ]
    records.write_database(out / "brand.sqlite", tables)
    stage("wecom.sqlite")
    wecom_state.write_state(out / "wecom.sqlite", rng[5], folk, relations, groups, evidence, time, grow=grow)
    stage("chats")
    chat_lines = chats.write_chats(out / "events" / "chat", rng[8], folk, groups, relations, evidence, time)
    stage("exports and lists")
    files.write_taobao(out / "exports" / "taobao_orders.csv", rng[6], folk, products, seen, evidence, time)
    files.write_douyin(out / "exports" / "douyin_orders.csv", rng[6], folk, products, seen, evidence)
    files.write_visits(out / "exports" / "store_visits.xlsx", rng[6], folk, evidence, time)
    files.write_lists(out / "lists", folk, evidence, time)
    stage(f"{int(sessions.size.sum()):,} events")
    lines = tracking.write_events(out / "events", rng[7], tracking.make_stage(folk, devices, sessions, purchases, time))
    stage("truth")
    purchases.identified[:] = seen.identified
    identifiers = _write_truth(out / "truth", folk, purchases, relations, evidence, (rate, dropout))
    report = BrandReport(
        people=people,
        accounts=len(folk.account_person),
        members=int(folk.is_member.sum()),
        relations=len(relations.account),
        orders=len(purchases),
        lines={**lines, "chat": chat_lines},
        identifiers=identifiers,
        seconds=round(clock.monotonic() - began, 1),
    )
    _write_names(out / "brand.json", report, seed, as_of, until or as_of)
    return report


def _evidence(folk: crowd.People) -> Evidence:
    """Every identifier that may occur, announced with its owner; planted shared phones marked as such."""
    evidence = Evidence()
    person = np.arange(folk.count)
    evidence.register("member", "member_id", "", folk.member_id, person)
    evidence.register("crm", "crm_id", "", records.crm_ids(folk), person)
    evidence.register("email", "email", "", folk.email, person)
    evidence.register("buyer", "buyer_id", f"taobao:{names.TAOBAO_SHOP}", folk.buyer_id, person)
    evidence.register("unionid", "unionid", "", folk.unionid, folk.account_person)
    for key, appid in (("mp", names.MP_APPID), ("oa", names.OA_APPID), ("h5", names.H5_APPID)):
        evidence.register(f"openid_{key}", "openid", appid, folk.openid[key], folk.account_person)
    evidence.register("external", "external_userid", names.CORPID, folk.external_userid, folk.account_person)
    evidence.register("phone", "phone", "", "+86" + folk.phones, folk.phone_person)
    for pairs, reason in ((folk.family, "family_phone"), (folk.recycled, "recycled_phone")):
        owners = np.array([first for first, _ in pairs], dtype=np.int64)
        evidence.share("phone", folk.phone_first[owners], reason)
    return evidence


def _register_devices(evidence: Evidence, devices: tracking.Devices) -> None:
    """Anonymous ids are one block (scope by channel is split when written), app hardware another."""
    evidence.register("anonymous", "anonymous_id", "", devices.anonymous, devices.person)
    app = np.flatnonzero(devices.hardware >= 0)
    evidence.register("device", "device_id", "app", numbered("AD", devices.hardware[app], 9), devices.person[app])
    evidence.kinds["anonymous"].scopes = gather(pl.Series(list(tracking.CHANNELS)), devices.channel)


def _write_truth(
    folder: Path,
    folk: crowd.People,
    purchases: commerce.Purchases,
    relations: wecom_relations.Relations,
    evidence: Evidence,
    rates: tuple[Floats, Floats],
) -> int:
    frame = evidence.identifiers()
    frame.write_parquet(folder / "identifiers.parquet")
    _persons(folk, purchases, rates).write_parquet(folder / "persons.parquet")
    _orders(purchases).write_parquet(folder / "orders.parquet")
    pl.DataFrame(
        {
            "userid": gather(records.staff_ids(folk), relations.staff),
            "external_userid": gather(folk.external_userid, relations.account),
            "person_id": folk.account_person[relations.account],
            "added_at": _instant(relations.at),
            "state": gather(pl.Series(wecom_relations.channel_ids(folk)), relations.channel, relations.channel >= 0),
            "status": relations.status,
        }
    ).with_columns(channel_id=pl.col("state")).write_parquet(folder / "relations.parquet")
    _cases(folk).write_parquet(folder / "hard_cases.parquet")
    return frame.height


def _instant(seconds: Floats) -> pl.Series:
    """Epoch seconds as UTC instants, NaN as null."""
    micros = pl.Series(np.nan_to_num(seconds, nan=-1.0) * 1_000_000).cast(pl.Int64).replace(-1_000_000, None)
    return micros.cast(pl.Datetime("us", "UTC"))


def _persons(folk: crowd.People, purchases: commerce.Purchases, rates: tuple[Floats, Floats]) -> pl.DataFrame:
    totals = commerce.person_totals(folk, purchases)
    return pl.DataFrame(
        {
            "person_id": np.arange(folk.count),
            "member_id": gather(folk.member_id, np.arange(folk.count), folk.is_member),
            "accounts": np.bincount(folk.account_person, minlength=folk.count),
            "phones": folk.phone_count,
            "orders_paid": totals["orders_paid"].fill_null(0).cast(pl.Int64),
            "net_amount": commerce.money(totals["net"].fill_null(0).to_numpy()),
            "first_paid_at": _instant(totals["first_paid_at"].to_numpy()),
            "last_paid_at": _instant(totals["last_paid_at"].to_numpy()),
            "is_friend": folk.account_friend[folk.account_first],
            "inviter_person_id": pl.Series(folk.inviter).replace(-1, None),
            "lambda": rates[0],
            "dropout": rates[1],
        }
    )


def _orders(purchases: commerce.Purchases) -> pl.DataFrame:
    platform = records.words(commerce.PLATFORMS, purchases.platform)
    shops = {commerce.TAOBAO: names.TAOBAO_SHOP, commerce.DOUYIN: names.DOUYIN_SHOP}
    store = "山茶集" + numbered("", purchases.store + 1, 3) + "店"
    shop = records.pick(purchases.platform == commerce.POS, store, names.MALL)
    for code, name in shops.items():
        shop = records.pick(purchases.platform == code, pl.lit(name)).fill_null(shop)
    return pl.DataFrame(
        {
            "platform": platform,
            "shop": shop,
            "order_id": commerce.order_ids(purchases),
            "person_id": purchases.person,
            "is_paid": purchases.is_paid,
            "paid_at": _instant(purchases.paid_at),
            "amount": commerce.money(purchases.paid),
            "refund_amount": commerce.money(purchases.refund),
            "attributable": purchases.identified,
        }
    )


def _cases(folk: crowd.People) -> pl.DataFrame:
    rows = [
        {
            "kind": kind,
            "identifiers": [{"type": "phone", "scope": "", "value": "+86" + folk.phones[int(folk.phone_first[first])]}],
            "persons": [first, second],
            "note": note,
        }
        for kind, pairs, note in (
            ("family_phone", folk.family, "two members, one number: two people"),
            ("recycled_phone", folk.recycled, "the second one registers with the number more than a year later"),
        )
        for first, second in pairs
    ]
    for source, target in ((11, 101), (12, 102)):
        if len(folk.unionid) > 200:
            values = [
                {"type": "openid", "scope": names.MP_APPID, "value": folk.openid["mp"][item]}
                for item in (source, target)
            ]
            owners = [int(folk.account_person[source]), int(folk.account_person[target])]
            rows.append({"kind": "openid_case", "identifiers": values, "persons": owners, "note": "equal but for case"})
    schema: dict[str, Any] = {
        "kind": pl.String,
        "identifiers": pl.List(pl.Struct({"type": pl.String, "scope": pl.String, "value": pl.String})),
        "persons": pl.List(pl.Int64),
        "note": pl.String,
    }
    return pl.DataFrame(rows, schema=schema)


def _write_names(path: Path, report: BrandReport, seed: int, as_of: date, until: date) -> None:
    facts = {
        "brand": names.BRAND, "timezone": names.TIMEZONE, "currency": "CNY", "seed": seed, "as_of": as_of.isoformat(),
        "until": until.isoformat(),
        "corpid": names.CORPID, "app_secret": names.APP_SECRET, "agentid": names.AGENTID,
        "other_app_secret": names.OTHER_SECRET, "other_agentid": names.OTHER_AGENTID,
        "oa_appid": names.OA_APPID, "oa_secret": names.OA_SECRET,
        "mp_appid": names.MP_APPID, "mp_secret": names.MP_SECRET,
        "h5_appid": names.H5_APPID, "taobao_shop": names.TAOBAO_SHOP, "douyin_shop": names.DOUYIN_SHOP,
        "counts": {key: value for key, value in asdict(report).items() if key != "seconds"},
    }  # fmt: skip
    path.write_text(json.dumps(facts, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
