"""An order refunded in parts: what was known at the cut, the same in every table of money."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import duckdb
import pytest

from cdp.metrics.config import MetricsConfig
from tests.analytics.brand import ZONE, at, insert, open_memory, run_model
from warehouse.analytics import build_ltv, build_metrics

MARTS = "marts_db.marts"
MODELS = ("first", "last", "linear", "position", "time_decay", "markov", "shapley")
EVERY = MetricsConfig.model_validate({"attribution": {"models": MODELS}})
PAID = "2026-02-10 12:00"
# Who says what an order of one person came to. GMV: of people who could be reached, which this person can.
NET = {
    "lifetime value": "select hist_net from {marts}.fct_ltv_people",
    "cohorts": "select max_by(cumulative_net, months_since) from {marts}.fct_ltv_cohorts",
    "features": "select net_amount from {marts}.fct_person_features",
    "RFM": "select monetary from {marts}.fct_rfm",
    "GMV": "select sum(gmv_net) from {marts}.fct_gmv_identity",
    **{
        f"credits, {model}": f"select sum(amount) from {{marts}}.fct_attribution_credit where model = '{model}'"
        for model in MODELS
    },
    **{
        f"channels, {model}": "select sum(credited_net) from {marts}.fct_attribution_channels"
        f" where model = '{model}'"
        for model in MODELS
    },
}


def shop(
    amount: float, refunded: float, latest: str | None, refunds: list[dict[str, Any]]
) -> duckdb.DuckDBPyConnection:
    """One person, one order after three touches, as the sources tell it in the end."""
    con = open_memory(at("2026-04-01 05:00"), ZONE)
    insert(con, "dim_people", [{"one_id": "p"}])
    insert(con, "fct_relations", [{"relation_key": "r", "one_id": "p", "added_at": at("2026-01-01 12:00")}])
    order = {"order_key": "100", "one_id": "p", "is_paid": True, "is_first_order": True, "order_no": 1}
    order |= {"paid_at": at(PAID), "paid_date": PAID[:10], "amount": amount, "refund_amount": refunded}
    insert(con, "fct_orders", [order | {"refunded_at": at(latest) if latest else None}])
    for number, channel in enumerate("xyx"):
        touched = {"touch_key": f"t{number}", "one_id": "p", "touched_at": at(PAID) - timedelta(days=3 - number)}
        insert(con, "fct_touches", [touched | {"channel": channel}])
    for number, refund in enumerate(refunds):
        insert(con, "fct_refunds", [{"refund_key": f"r{number}", "order_key": "100", "one_id": "p"} | refund])
    return con


def nets(con: duckdb.DuckDBPyConnection, day: str) -> dict[str, str]:
    """Whose net is how much when *day* is the brand's open one."""
    as_of = at(f"{day} 05:00")
    con.execute("set variable as_of = ?::timestamptz", [as_of])
    build_ltv(con, EVERY, as_of=as_of, timezone=ZONE)
    run_model(con, "fct_person_features")
    build_metrics(con, EVERY, as_of=as_of, timezone=ZONE)
    return {name: str(con.execute(sql.format(marts=MARTS)).fetchall()[0][0]) for name, sql in NET.items()}


def part(when: str | None, amount: float) -> dict[str, Any]:
    return {"refunded_at": at(when) if when else None, "amount": amount}


def test_all_tables_know_the_refunds_of_before_the_cut_and_no_others() -> None:
    """The open day's refund is not known yet, and takes nothing back of what was; a run repeated later agrees."""
    con = shop(100, 50, "2026-03-01 10:00", [part("2026-02-20 10:00", 30), part("2026-03-01 10:00", 20)])
    days = {"2026-02-20": "100.00", "2026-02-21": "70.00", "2026-03-01": "70.00", "2026-03-02": "50.00"}
    for day, net in [*days.items(), *reversed(days.items())]:
        # Sales of the month that is still open on the day are in no row of the GMV identity.
        known = {name: text for name, text in nets(con, day).items() if name != "GMV" or day >= "2026-03"}
        assert known == dict.fromkeys(known, net), day
        refunds = con.execute(f"select refund_amount, refunded_orders from {MARTS}.fct_person_features").fetchall()
        assert refunds == [(100 - float(net), int(net != "100.00"))]
    con.close()


def test_a_full_refund_in_two_parts_brings_every_channel_back_to_zero() -> None:
    """Cents that do not divide among the touches, and the second part on top of the first."""
    con = shop(100.01, 100.01, "2026-03-01 10:00", [part("2026-02-20 10:00", 33.34), part("2026-03-01 10:00", 66.67)])
    for day, net in (("2026-03-01", "66.67"), ("2026-03-02", "0.00")):
        known = nets(con, day)
        assert known == dict.fromkeys(known, net), day
    channels = con.execute(
        f"select distinct model, credited_net::text from {MARTS}.fct_attribution_channels"
    ).fetchall()
    assert sorted(channels) == [(model, "0.00") for model in sorted(MODELS)]
    con.close()


@pytest.mark.parametrize(
    ("refunds", "net"),
    [
        ([], "100.00"),  # the order alone tells of its refund, and that it is of the open day
        ([part("2026-03-01 10:00", 50)], "100.00"),
        ([part(None, 30), part("2026-03-01 10:00", 20)], "70.00"),  # no instant: from the payment on
        ([part("2026-02-20 10:00", 90), part("2026-03-01 10:00", -40)], "50.00"),  # never more than the order's sum
        ([part("2026-02-20 10:00", 30), part("2026-02-28 23:59", 5), part("2026-03-01 00:00", 15)], "65.00"),
    ],
)
def test_what_refunds_say_of_an_order_refunded_in_the_open_day(refunds: list[dict[str, Any]], net: str) -> None:
    con = shop(100, 50, "2026-03-01 10:00", refunds)
    known = nets(con, "2026-03-01")
    assert known == dict.fromkeys(known, net)
    con.close()
