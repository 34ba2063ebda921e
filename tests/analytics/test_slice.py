"""The whole of analytics on a small brand, in the order the pipeline runs it."""

from __future__ import annotations

import duckdb
import pytest

from cdp.config import parse
from cdp.funnels.config import FunnelsConfig
from cdp.metrics.config import MetricsConfig
from cdp.tags.config import TagsConfig
from tests.analytics.brand import AS_OF, ROOT, ZONE, run_model
from warehouse.analytics import build_funnels, build_ltv, build_metrics, build_tags

FIRST_TAG_GROUPS = {
    "lifecycle",
    "rfm",
    "value_tier",
    "category_preference",
    "origin_channel",
    "coupon_sensitivity",
    "activity",
    "churn_risk",
    "group_member",
    "repurchase_count",
}


def config(name: str, model: type) -> object:
    return parse((ROOT / "config" / name).read_text(encoding="utf-8"), model, file=name)


@pytest.fixture
def built(brand: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
    everything(brand)
    return brand


def everything(con: duckdb.DuckDBPyConnection) -> int:
    """Run every step; returns the history rows the tags added."""
    metrics = config("metrics.yaml", MetricsConfig)
    build_ltv(con, metrics, as_of=AS_OF, timezone=ZONE)
    run_model(con, "fct_person_features")
    report = build_tags(con, config("tags.yaml", TagsConfig), as_of=AS_OF, timezone=ZONE)
    build_funnels(con, config("funnels.yaml", FunnelsConfig), as_of=AS_OF, timezone=ZONE)
    build_metrics(con, metrics, as_of=AS_OF, timezone=ZONE)
    return report.history_added


def snapshot(con: duckdb.DuckDBPyConnection) -> dict[str, list[tuple]]:
    names = con.execute("select table_name from duckdb_tables() where schema_name = 'marts' order by 1").fetchall()
    tables = [name for (name,) in names if name.startswith(("fct_", "dim_"))]
    return {name: con.execute(f"select * from marts_db.marts.{name} order by all").fetchall() for name in tables}


def test_every_default_tag_group_holds_someone(built: duckdb.DuckDBPyConnection) -> None:
    rows = built.execute("select tag_group, count(*) from marts_db.marts.fct_tags_current group by 1").fetchall()
    assert {name for name, _ in rows} == FIRST_TAG_GROUPS


def test_exclusive_groups_hold_one_value_per_person(built: duckdb.DuckDBPyConnection) -> None:
    twice = built.execute(
        "select tag_group, one_id from marts_db.marts.fct_tags_current"
        " where tag_group <> 'category_preference' group by 1, 2 having count(*) > 1"
    ).fetchall()
    assert twice == []


def test_running_twice_changes_nothing(built: duckdb.DuckDBPyConnection) -> None:
    before = snapshot(built)
    assert everything(built) == 0
    assert snapshot(built) == before


def test_ltv_total_is_history_plus_prediction_to_the_cent(built: duckdb.DuckDBPyConnection) -> None:
    """Design row 15: people, channels and the orders' ledger tell the same money."""
    totals = built.execute(
        "select sum(ltv_total), sum(hist_net) + sum(coalesce(pred_net_365, 0)) from marts_db.marts.fct_ltv_people"
    ).fetchall()[0]
    assert totals[0] == totals[1]
    ledger = built.execute(
        "select sum(amount) - sum(refund_amount) filter (where refunded_at < timestamptz '2026-03-01 16:00:00+00')"
        " from marts_db.marts.fct_orders where paid_at < timestamptz '2026-03-01 16:00:00+00'"
    ).fetchall()[0][0]
    assert built.execute("select sum(hist_net) from marts_db.marts.fct_ltv_people").fetchall()[0][0] == ledger
    assert built.execute("select sum(hist_net) from marts_db.marts.fct_ltv_channels").fetchall()[0][0] == ledger


def test_gmv_factors_multiply_to_net_and_effects_sum_to_the_change(built: duckdb.DuckDBPyConnection) -> None:
    rows = built.sql("select * from marts_db.marts.fct_gmv_identity order by period_start").pl().to_dicts()
    previous = None
    for row in rows:
        product = (
            row["seeds"]
            * row["referral_multiple"]
            * row["buyer_share"]
            * row["orders_per_buyer"]
            * row["net_per_order"]
        )
        assert product == pytest.approx(float(row["gmv_net"]), rel=1e-12)
        if previous is not None:
            effects = sum(value for name, value in row.items() if name.endswith("_effect"))
            assert effects == pytest.approx(float(row["gmv_net"] - previous), abs=1e-9 * float(row["gmv_net"]))
        previous = row["gmv_net"]


def test_funnel_counts_follow_from_the_evidence(built: duckdb.DuckDBPyConnection) -> None:
    wrong = built.execute(
        """
        with recounted as (
            select funnel_id, unnest(step_nos) as step_no, count(*) as reached
            from marts_db.marts.fct_funnel_people where is_best
            group by 1, 2
        )
        select steps.funnel_id, steps.step_no from marts_db.marts.fct_funnel_steps as steps
        left join recounted using (funnel_id, step_no)
        where steps.all_buckets and steps.all_values and steps.reached <> coalesce(recounted.reached, 0)
        """
    ).fetchall()
    assert wrong == []


def test_funnel_totals_are_the_sums_of_their_parts(built: duckdb.DuckDBPyConnection) -> None:
    wrong = built.execute(
        """
        select funnel_id, step_no from marts_db.marts.fct_funnel_steps group by all
        having sum(reached) filter (where all_buckets and all_values)
                <> sum(reached) filter (where not all_buckets and not all_values)
            or sum(entered) filter (where all_buckets and all_values)
                <> sum(entered) filter (where all_buckets and not all_values)
        """
    ).fetchall()
    assert wrong == []
