"""Marts by hand: the tables analytics reads, with the columns the marts models give them."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl

from warehouse.models import ModelGraph, load_models, run_models

ROOT = Path(__file__).parents[2]
AS_OF = datetime(2026, 3, 1, 21, 0, tzinfo=UTC)  # 05:00 of 2 March in Shanghai
ZONE = "Asia/Shanghai"

COLUMNS = {
    "dim_people": "one_id text, is_anonymous boolean, first_seen_at timestamptz, last_seen_at timestamptz, "
    "identifier_count"
    " bigint, member_id text, member_level text, points bigint, name_masked text, phone_masked text, phone_count "
    "bigint,"
    " gender text, birthday date, province text, city text, registered_at timestamptz, store_id text, consent_marketing"
    " boolean, origin_channel_id text, origin_channel text, origin_state text, friend_added_at timestamptz, is_friend"
    " boolean, relation_count bigint, staff_count bigint, group_count bigint, is_follower boolean, followed_at"
    " timestamptz, referred_by_one_id text, identifier_types text[]",
    "fct_orders": "order_key text, source text, platform text, shop text, order_id text, one_id text, status text, "
    "is_paid"
    " boolean, ordered_at timestamptz, paid_at timestamptz, paid_date date, amount decimal(18,2), refund_amount"
    " decimal(18,2), refunded_at timestamptz, net_amount decimal(18,2), discount_amount decimal(18,2), coupon_id text,"
    " coupon_amount decimal(18,2), subsidy_amount decimal(18,2), channel text, campaign_id text, store_id text,"
    " staff_userid text, currency text, order_no bigint, is_first_order boolean",
    "fct_order_lines": "order_line_key text, order_key text, one_id text, paid_at timestamptz, product_id text,"
    " product_name text, category text, quantity bigint, price decimal(18,2), amount decimal(18,2)",
    "fct_events": "event_key text, source text, one_id text, event_name text, event_at timestamptz, event_date date,"
    " session_id text, page text, channel text, campaign_id text, utm_source text, utm_medium text, utm_campaign text,"
    " order_key text, product_id text, amount decimal(18,2), properties text",
    "fct_journey": "event_key text, one_id text, event_name text, event_at timestamptz, event_date date, channel text,"
    " campaign_id text, order_key text, product_id text, amount decimal(18,2), order_no bigint, properties text,"
    " source text",
    "fct_relations": "relation_key text, corpid text, userid text, external_userid text, one_id text, added_at "
    "timestamptz,"
    " removed_at timestamptz, is_active boolean, state text, channel_id text, add_way bigint, tag_ids text[], read_at"
    " timestamptz",
    "fct_group_memberships": "membership_key text, chat_id text, corpid text, member_id text, member_type bigint, "
    "group_role text, one_id text, joined_at timestamptz, join_scene bigint",
    "fct_touches": "touch_key text, one_id text, touched_at timestamptz, channel text, campaign_id text, medium text,"
    " source_kind text",
    "fct_referrals": "referral_key text, campaign_id text, inviter_one_id text, invitee_one_id text, invited_at"
    " timestamptz",
    "fct_refunds": "refund_key text, order_key text, one_id text, refunded_at timestamptz, refunded_date date, amount"
    " decimal(18,2)",
    "dim_channels": "channel_id text, channel_name text, channel_kind text, campaign_id text, cost decimal(18,2)",
    "dim_products": "product_id text, sku text, product_name text, category text, brand text, price decimal(18,2), cost"
    " decimal(18,2)",
}
CHANNELS = ["门店扫码", "直播间", "朋友圈广告", "老带新"]
CATEGORIES = ["护肤", "彩妆", "个护", "母婴"]


def open_memory(as_of: datetime, zone: str) -> duckdb.DuckDBPyConnection:
    con = duckdb.connect(":memory:")
    con.execute("set global TimeZone = 'UTC'")
    con.execute("attach ':memory:' as marts_db")
    con.execute("create schema marts_db.marts")
    con.execute("create schema activation")
    con.execute("set variable as_of = ?::timestamptz", [as_of])
    con.execute("set variable timezone = ?", [zone])
    for name, columns in COLUMNS.items():
        con.execute(f"create table marts_db.marts.{name} ({columns})")
    return con


def insert(con: duckdb.DuckDBPyConnection, table: str, rows: list[dict[str, Any]]) -> None:
    """Insert *rows*; columns left out are null."""
    for row in rows:
        names = ", ".join(row)
        marks = ", ".join("?" for _ in row)
        con.execute(f"insert into marts_db.marts.{table} ({names}) values ({marks})", list(row.values()))


def at(text: str) -> datetime:
    """Brand-local `2026-01-05 10:00` as a UTC instant."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC) - timedelta(hours=8)


def run_model(con: duckdb.DuckDBPyConnection, name: str) -> None:
    """Make one analytics model as a run does, with the models of its layer that it reads."""
    graph = model_graph()
    names = [needed for needed in graph.upstream(graph[name].name) if graph[needed].layer == "analytics"]
    run_models(con, graph, [*names, name])


@cache
def model_graph() -> ModelGraph:
    return load_models(ROOT / "models")


def build_marts(con: duckdb.DuckDBPyConnection, *, people: int, seed: int, as_of: datetime = AS_OF) -> None:
    """A brand of *people* with relations, groups, referrals, orders (from a BG/NBD with known parameters) and
    events."""
    rng = np.random.default_rng(seed)
    start = as_of - timedelta(days=420)
    ids = [f"p{i:06d}" for i in range(people)]
    joined = [start + timedelta(days=float(d)) for d in rng.uniform(0, 380, people)]
    channel = [CHANNELS[i] for i in rng.integers(0, 4, people)]
    referred_by = [ids[int(rng.integers(0, i))] if i > 20 and rng.random() < 0.2 else None for i in range(people)]
    rows = {
        "one_id": ids,
        "first_seen_at": joined,
        "last_seen_at": joined,
        "registered_at": joined,
        "member_id": ids,
        "origin_channel": channel,
        "origin_channel_id": channel,
        "friend_added_at": joined,
        "is_follower": [bool(v) for v in rng.random(people) < 0.3],
        "followed_at": joined,
        "referred_by_one_id": referred_by,
        "is_anonymous": [False] * people,
    }
    _load(con, "dim_people", pl.DataFrame(rows))
    _load(
        con,
        "fct_relations",
        pl.DataFrame({"relation_key": ids, "one_id": ids, "added_at": joined, "is_active": [True] * people}),
    )
    in_group = [i for i in range(people) if rng.random() < 0.4]
    members = pl.DataFrame(
        {
            "membership_key": [f"m{i}" for i in in_group],
            "one_id": [ids[i] for i in in_group],
            "chat_id": [f"chat{i % 5}" for i in in_group],
            "corpid": ["corp"] * len(in_group),
            "member_id": [ids[i] for i in in_group],
            "joined_at": [joined[i] + timedelta(hours=3) for i in in_group],
            "member_type": [2] * len(in_group),
        }
    )
    _load(con, "fct_group_memberships", members)
    invited = [(i, who) for i, who in enumerate(referred_by) if who]
    referrals = pl.DataFrame(
        {
            "referral_key": [f"r{i}" for i, _ in invited],
            "campaign_id": ["春节裂变" if i % 2 else "会员日" for i, _ in invited],
            "inviter_one_id": [who for _, who in invited],
            "invitee_one_id": [ids[i] for i, _ in invited],
            "invited_at": [joined[i] - timedelta(hours=2) for i, _ in invited],
        }
    )
    _load(con, "fct_referrals", referrals)
    orders = _orders(rng, ids, joined, channel, as_of)
    _load(con, "fct_orders", orders)
    _load(con, "fct_order_lines", _lines(rng, orders))
    _load(con, "fct_events", _events(rng, ids, joined, channel, as_of))
    _journey(con)


def _orders(rng: Any, ids: list[str], joined: list[datetime], channel: list[str], as_of: datetime) -> pl.DataFrame:
    rows = []
    for i, one_id in enumerate(ids):
        if rng.random() < 0.35:
            continue
        rate, quits = rng.gamma(0.8, 1 / 20.0), rng.beta(0.8, 2.5)
        moment, number = joined[i] + timedelta(days=float(rng.exponential(6))), 1
        while moment < as_of:
            amount = round(float(rng.gamma(6, 20)), 2)
            coupon = rng.random() < 0.3
            refund = amount if rng.random() < 0.03 else 0
            rows.append(
                {
                    "order_key": f"o{i:06d}-{number}",
                    "order_id": f"o{i:06d}-{number}",
                    "one_id": one_id,
                    "is_paid": True,
                    "status": "refunded" if refund else "done",
                    "ordered_at": moment,
                    "paid_at": moment,
                    "paid_date": (moment + timedelta(hours=8)).date(),
                    "amount": amount,
                    "refund_amount": refund,
                    "refunded_at": moment + timedelta(days=2) if refund else None,
                    "net_amount": amount - refund,
                    "coupon_id": "c1" if coupon else None,
                    "subsidy_amount": 5.0 if coupon else 0.0,
                    "channel": channel[i],
                    "order_no": number,
                    "is_first_order": number == 1,
                }
            )
            number += 1
            if rng.random() < quits:
                break
            moment = moment + timedelta(days=float(rng.exponential(1 / rate)))
    schema: dict[str, Any] = {
        "refunded_at": pl.Datetime("us", "UTC"),
        "coupon_id": pl.String,
        "refund_amount": pl.Float64,
    }
    return pl.DataFrame(rows, schema_overrides=schema, infer_schema_length=None)


def _lines(rng: Any, orders: pl.DataFrame) -> pl.DataFrame:
    picks = rng.integers(0, 4, orders.height)
    return pl.DataFrame(
        {
            "order_line_key": [f"{key}-1" for key in orders["order_key"]],
            "order_key": orders["order_key"],
            "one_id": orders["one_id"],
            "paid_at": orders["paid_at"],
            "product_id": [f"sku{int(k) * 5 + i % 5}" for i, k in enumerate(picks)],
            "category": [CATEGORIES[int(k)] for k in picks],
            "amount": orders["amount"],
        }
    )


def _events(rng: Any, ids: list[str], joined: list[datetime], channel: list[str], as_of: datetime) -> pl.DataFrame:
    names = ["page_view", "product_view", "add_to_cart"]
    rows = []
    for i, one_id in enumerate(ids):
        for n in range(int(rng.poisson(6))):
            moment = joined[i] + timedelta(days=float(rng.uniform(-2, max((as_of - joined[i]).days, 1))))
            rows.append(
                {
                    "event_key": f"e{i:06d}-{n}",
                    "one_id": one_id,
                    "event_name": names[int(rng.integers(0, 3))],
                    "event_at": moment,
                    "event_date": (moment + timedelta(hours=8)).date(),
                    "session_id": f"s{i}-{n // 3}",
                    "channel": channel[i],
                    "product_id": f"sku{int(rng.integers(0, 20))}",
                    "source": "web",
                }
            )
    return pl.DataFrame(rows)


def _journey(con: duckdb.DuckDBPyConnection) -> None:
    con.execute(
        """
        insert into marts_db.marts.fct_journey by name
        select event_key, one_id, event_name, event_at, event_date, channel, product_id, source
        from marts_db.marts.fct_events
        union all by name
        select 'paid|' || order_key as event_key, one_id, 'order_paid' as event_name, paid_at as event_at,
            paid_date as event_date, channel, order_key, amount, order_no from marts_db.marts.fct_orders where is_paid
        union all by name
        select 'friend|' || one_id as event_key, one_id, 'friend_added' as event_name, friend_added_at as event_at,
            origin_channel as channel from marts_db.marts.dim_people
        union all by name
        select 'invited|' || referral_key as event_key, invitee_one_id as one_id, 'invited' as event_name,
            invited_at as event_at, campaign_id from marts_db.marts.fct_referrals
        """
    )


def _load(con: duckdb.DuckDBPyConnection, table: str, data: pl.DataFrame) -> None:
    con.register("loaded", data.to_arrow())
    con.execute(f"insert into marts_db.marts.{table} by name select * from loaded")
    con.unregister("loaded")


__all__ = ["AS_OF", "ZONE", "at", "build_marts", "date", "insert", "open_memory", "run_model"]
