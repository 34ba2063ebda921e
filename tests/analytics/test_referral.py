"""The referral forest: one credit per invitee, no circles, and K that rebuilds the observed reach."""

from __future__ import annotations

import duckdb
import numpy as np
import pytest

from cdp.metrics.config import MetricsConfig, ReferralConfig
from cdp.referral.forest import ceiling, credit_edges, generations, k_factor, people_at, reach_of
from tests.analytics.brand import at, insert
from warehouse.analytics_common import write_marts
from warehouse.analytics_referral import referral_tables


def test_textbook_values_of_k() -> None:
    """100 seeds × 5 invitations, 100 conversions of 500: K = 1; at 30 %: 1.5."""
    assert k_factor(5, 100 / 500) == 1.0
    assert k_factor(5, 0.3) == 1.5
    assert ceiling(100, 0.5) == 200
    assert ceiling(100, 1.0) is None
    assert people_at(100, 0.5, 1_000, 1) == pytest.approx(200)
    assert people_at(10, 2.0, 3, 1) == 150


def test_random_graphs_give_forests() -> None:
    rng = np.random.default_rng(8)
    for _ in range(200):
        people = int(rng.integers(2, 12))
        edges = int(rng.integers(1, 30))
        inviter, invitee = rng.integers(0, people, edges), rng.integers(0, people, edges)
        credited = credit_edges(inviter, invitee, people)
        children = invitee[credited].tolist()
        assert len(children) == len(set(children))
        parent = dict(zip(children, inviter[credited].tolist(), strict=True))
        for person in range(people):
            seen = set()
            while person in parent:
                assert person not in seen, "a circle"
                seen.add(person)
                person = parent[person]


def test_generations_follow_the_longest_way_up_inside_a_campaign() -> None:
    inviter, invitee = np.array([0, 1, 2, 2]), np.array([1, 2, 3, 4])
    campaign = np.array([0, 0, 0, 1])
    assert generations(inviter, invitee, campaign, 5).tolist() == [1, 2, 3, 1]


@pytest.fixture
def campaign(con: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
    """s invites a and b; a invites c and (again) b; c invites a (a circle) and s; x invites themself; old is a
    customer;
    gone leaves at once; late joins after the window."""
    edges = [
        ("s", "a", "2026-01-01"),
        ("s", "b", "2026-01-01"),
        ("a", "b", "2026-01-02"),
        ("a", "c", "2026-01-03"),
        ("c", "a", "2026-01-04"),
        ("c", "s", "2026-01-04"),
        ("x", "x", "2026-01-05"),
        ("s", "old", "2026-01-05"),
        ("s", "gone", "2026-01-05"),
        ("s", "late", "2025-10-01"),
        ("s", "never", "2026-01-05"),
    ]
    for number, (inviter, invitee, day) in enumerate(edges):
        row = {"referral_key": f"r{number:02d}", "campaign_id": "新年", "inviter_one_id": inviter}
        insert(con, "fct_referrals", [row | {"invitee_one_id": invitee, "invited_at": at(f"{day} 10:00")}])
    joins = {"a": "2026-01-01", "b": "2026-01-03", "c": "2026-01-04", "s": "2026-01-05", "x": "2026-01-05"}
    joins |= {"old": "2026-01-06", "gone": "2026-01-06", "late": "2026-01-06"}
    for one_id, day in joins.items():
        row = {"event_key": f"j{one_id}", "one_id": one_id, "event_name": "friend_added"}
        insert(con, "fct_journey", [row | {"event_at": at(f"{day} 12:00")}])
    removed = {"relation_key": "gone", "one_id": "gone", "added_at": at("2026-01-06 12:00")}
    insert(con, "fct_relations", [removed | {"removed_at": at("2026-01-06 15:00")}])
    for one_id, day in (("old", "2025-06-01"), ("b", "2026-01-10")):
        row = {"order_key": f"o{one_id}", "one_id": one_id, "is_paid": True, "paid_at": at(f"{day} 12:00")}
        insert(con, "fct_orders", [row | {"paid_date": day, "amount": 10}])
    con.execute("set variable cut_at = timestamptz '2026-03-01 16:00:00+00'")
    write_marts(con, referral_tables(con, ReferralConfig()))
    return con


def test_each_edge_has_its_outcome(campaign: duckdb.DuckDBPyConnection) -> None:
    rows = campaign.execute(
        "select inviter_one_id || '>' || invitee_one_id, outcome from marts_db.marts.fct_referral_edges order by "
        "referral_key"
    ).fetchall()
    assert dict(rows) == {
        "s>a": "credited",
        "s>b": "credited",
        "a>b": "not_first",
        "a>c": "credited",
        "c>a": "not_joined",
        "c>s": "not_first",
        "x>x": "self",
        "s>old": "customer",
        "s>gone": "lost",
        "s>late": "not_joined",
        "s>never": "not_joined",
    }


def test_reach_is_rebuilt_from_the_generations(campaign: duckdb.DuckDBPyConnection) -> None:
    """Design row 9."""
    factors = campaign.execute(
        "select k from marts_db.marts.fct_referral_generations where members > 0 order by generation"
    ).fetchall()
    seeds, reach, orders = campaign.execute(
        "select seeds, reach, first_orders from marts_db.marts.fct_referral_campaigns"
    ).fetchall()[0]
    # x only invited themself: a seed that brings nobody.
    assert (seeds, reach, orders) == (2, 5, 1)
    assert reach_of(seeds, [k for (k,) in factors]) == pytest.approx(reach)


def test_credited_invitees_are_distinct(campaign: duckdb.DuckDBPyConnection) -> None:
    """Design row 8: no circle, no self-invitation, nobody twice (the outcomes are told above)."""
    total, distinct = campaign.execute(
        "select count(*), count(distinct invitee_one_id) from marts_db.marts.fct_referral_edges where is_credited"
    ).fetchall()[0]
    assert total == distinct == 3


def test_no_referrals_is_a_result(con: duckdb.DuckDBPyConnection) -> None:
    con.execute("set variable cut_at = timestamptz '2026-03-01 16:00:00+00'")
    counts = write_marts(con, referral_tables(con, MetricsConfig().referral))
    assert set(counts.values()) == {0}
