"""Named repurchase definitions, RFM ties and thresholds, retention, stage stock and flow, groups, next best product."""

from __future__ import annotations

import math
from datetime import timedelta

import duckdb
import numpy as np
import pytest

from cdp.config import parse
from cdp.errors import ConfigError, FatalError
from cdp.metrics.config import MetricsConfig, RfmConfig
from cdp.metrics.decomposition import lmdi, log_mean
from cdp.metrics.units import Unit, check_product
from cdp.tags.config import TagsConfig
from tests.analytics.brand import AS_OF, ZONE, at, build_marts, insert, run_model
from warehouse import analytics_business
from warehouse.analytics import build_ltv, build_metrics, build_next_best, build_tags, repurchase
from warehouse.analytics_business import REPURCHASE_NAMES, business_tables
from warehouse.analytics_common import write_marts
from warehouse.analytics_metrics import UNITS

CUT = "timestamptz '2026-03-01 16:00:00+00'"
STAGES = """
tag_groups:
  - id: lifecycle
    kind: stage
    values: [新客, 首购, 复购]
    rules: {新客: "friend_added_at is not null", 首购: "orders_paid >= 1", 复购: "purchase_days >= 2"}
"""


def parameters(con: duckdb.DuckDBPyConnection) -> None:
    con.execute(f"set variable cut_at = {CUT}")
    con.execute("set variable cut_day = date '2026-03-02'")
    con.execute("set variable zone = 'Asia/Shanghai'")


def order(one_id: str, day: str, number: int = 1, amount: float = 10, hour: int = 12) -> dict[str, object]:
    key = f"{one_id}-{day}-{number}-{hour}"
    moment = at(f"{day} {hour:02d}:00")
    base = {"order_key": key, "one_id": one_id, "is_paid": True, "paid_at": moment, "paid_date": day}
    return base | {"amount": amount, "refund_amount": 0, "order_no": number}


@pytest.fixture
def empty_features(con: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
    build_ltv(con, MetricsConfig(), as_of=AS_OF, timezone=ZONE)
    run_model(con, "fct_person_features")
    parameters(con)
    return con


def test_the_four_repurchase_definitions_have_their_own_numbers(empty_features: duckdb.DuckDBPyConnection) -> None:
    """One hundred orders, twenty of them second and ten third purchases: 30 % by order (design row 22)."""
    con = empty_features
    rows = []
    for person in range(70):
        rows.append(order(f"p{person}", "2025-12-10"))
        if person < 20:
            rows.append(order(f"p{person}", "2026-01-10" if person < 10 else "2025-12-10", 2, hour=15))
        if person < 10:
            rows.append(order(f"p{person}", "2026-01-20", 3))
    insert(con, "fct_orders", rows)
    write_marts(con, business_tables(con, MetricsConfig.model_validate({"repurchase": {"within_days": 31}})))
    found = con.execute(
        "select definition, variant, period_start::text, repeated, base from marts_db.marts.fct_repurchase"
    ).fetchall()
    numbers = {(row[0], row[1] if row[0] == "by_person" else "", row[2]): row[3:] for row in found}
    assert numbers[("by_order", "", None)] == (30, 100)
    assert numbers[("by_person", "every order counts", None)] == (20, 70)
    assert numbers[("by_person", "orders of one day count once", None)] == (10, 70)
    assert numbers[("within_days", "", None)] == (10, 70)
    assert numbers[("next_period", "", "2025-12-01")] == (10, 70)
    assert {row["definition"] for row in repurchase(con, "复购率", marts="marts_db.marts")} == set(REPURCHASE_NAMES)
    assert {row["rate"] for row in repurchase(con, "by_order", marts="marts_db.marts")} == {0.3}
    with pytest.raises(ConfigError, match="did you mean `by_order`"):
        repurchase(con, "by_orders", marts="marts_db.marts")


def test_equal_inputs_score_equal_and_a_past_run_can_be_scored_again(empty_features: duckdb.DuckDBPyConnection) -> None:
    """Design row 21."""
    con = empty_features
    rng = np.random.default_rng(2)
    rows = [
        order(f"p{person}", f"2026-02-{int(rng.integers(1, 8)):02d}", n, amount=float(rng.integers(1, 5) * 10), hour=n)
        for person in range(200)
        for n in range(int(rng.integers(1, 4)))
    ]
    insert(con, "fct_orders", rows)
    write_marts(con, business_tables(con, MetricsConfig()))
    split = con.execute(
        "select count(*) from (select recency_days from marts_db.marts.fct_rfm group by 1"
        " having count(distinct r_score) > 1 union all select monetary from marts_db.marts.fct_rfm group by 1"
        " having count(distinct m_score) > 1 union all select frequency from marts_db.marts.fct_rfm group by 1"
        " having count(distinct f_score) > 1)"
    ).fetchall()
    assert split == [(0,)]
    cuts = dict(con.execute("select dimension, cuts from marts_db.marts.fct_rfm_thresholds").fetchall())
    values = con.execute("select monetary::double, m_score from marts_db.marts.fct_rfm").fetchall()
    assert all(score == 1 + sum(value >= cut for cut in cuts["monetary"]) for value, score in values)
    quantiles = np.quantile([value for value, _ in values], [0.2, 0.4, 0.6, 0.8])
    assert cuts["monetary"] == pytest.approx(list(quantiles + 1))


def test_people_added_up_in_parts_are_those_added_up_at_once(
    empty_features: duckdb.DuckDBPyConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    con = empty_features
    rng = np.random.default_rng(3)
    days = [f"2026-01-{day:02d}" for day in rng.integers(1, 30, 300)]
    insert(con, "fct_orders", [order(f"p{n % 97}", day, n, amount=float(n % 13)) for n, day in enumerate(days)])

    def scored() -> list[tuple[object, ...]]:
        write_marts(con, business_tables(con, MetricsConfig()))
        return con.execute("select * from marts_db.marts.fct_rfm order by one_id").fetchall()

    whole = scored()
    assert len(whole) == 97
    monkeypatch.setattr(analytics_business, "_ORDERS_AT_ONCE", 100)
    assert scored() == whole


def test_fixed_thresholds_are_used_as_they_stand(empty_features: duckdb.DuckDBPyConnection) -> None:
    con = empty_features
    insert(con, "fct_orders", [order("a", "2026-02-01", amount=99), order("b", "2026-02-01", amount=100)])
    settings = RfmConfig(bins=2, thresholds={"monetary": (100,), "recency": (30,), "frequency": (2,)})
    write_marts(con, business_tables(con, MetricsConfig(rfm=settings)))
    rows = con.execute("select one_id, r_score, f_score, m_score, rfm_score from marts_db.marts.fct_rfm").fetchall()
    assert rows == [("a", 2, 1, 1, 211), ("b", 2, 1, 2, 212)]


def test_cohorts_count_each_person_once_a_month(empty_features: duckdb.DuckDBPyConnection) -> None:
    con = empty_features
    orders = [order("a", "2025-12-05"), order("a", "2026-02-05"), order("a", "2026-02-06"), order("b", "2025-12-31")]
    insert(con, "fct_orders", orders)
    write_marts(con, business_tables(con, MetricsConfig()))
    rows = con.execute(
        "select months_since, people, retained, is_complete from marts_db.marts.fct_cohort_retention"
        " where cohort_kind = 'first purchase, purchases' order by 1"
    ).fetchall()
    assert rows == [(0, 2, 2, True), (2, 2, 1, True)]


def test_stage_stock_is_the_stock_before_plus_in_minus_out(con: duckdb.DuckDBPyConnection) -> None:
    """Design row 20."""
    build_marts(con, people=300, seed=5)
    tags = parse(STAGES, TagsConfig, file="tags.yaml")
    for back in (40, 20, 0):
        as_of = AS_OF - timedelta(days=back)
        con.execute("set variable as_of = ?::timestamptz", [as_of])
        build_ltv(con, MetricsConfig(), as_of=as_of, timezone=ZONE)
        run_model(con, "fct_person_features")
        build_tags(con, tags, as_of=as_of, timezone=ZONE)
    build_metrics(con, MetricsConfig(), as_of=AS_OF, timezone=ZONE)
    stock = con.execute(
        "select as_of, stage, stock, entered, left_stage, stock_before from marts_db.marts.fct_stage_stock order by "
        "1, 2"
    ).fetchall()
    previous: dict[str, int] = {}
    for _, stage, now, entered, left, before in stock:
        assert before == previous.get(stage, 0)
        assert now == before + entered - left
        previous[stage] = now
    held = dict(con.execute("select value, count(*) from marts_db.marts.fct_tags_current group by 1").fetchall())
    assert {stage: count for stage, count in previous.items() if count} == held
    rows = con.execute(
        "select flow.as_of, flow.from_stage, sum(people), any_value(stock_before) from marts_db.marts.fct_stage_flow "
        "as flow"
        " inner join marts_db.marts.fct_stage_stock as stock on stock.as_of = flow.as_of and stock.stage = "
        "flow.from_stage"
        " group by 1, 2"
    ).fetchall()
    assert rows
    assert all(people == before for _, _, people, before in rows)


def test_lmdi_parts_sum_to_the_change_without_a_rest() -> None:
    """Design row 23, with the test of units below."""
    rng = np.random.default_rng(6)
    for _ in range(500):
        before = {name: float(rng.lognormal(0, 2)) for name in "abcde"}
        after = {name: value if rng.random() < 0.3 else float(rng.lognormal(0, 2)) for name, value in before.items()}
        change = math.prod(after.values()) - math.prod(before.values())
        scale = math.prod(after.values()) + math.prod(before.values())
        assert math.fsum(lmdi(before, after).values()) == pytest.approx(change, abs=1e-9 * scale)
    assert log_mean(3.0, 3.0) == 3.0
    with pytest.raises(FatalError, match="must be positive: b"):
        lmdi({"a": 1, "b": 0}, {"a": 1, "b": 2})


def test_money_times_money_is_refused() -> None:
    check_product(UNITS, Unit.of(money=1))
    with pytest.raises(ConfigError, match="ltv × net_per_order multiplies money by money"):
        check_product({"ltv": Unit.of(money=1, people=-1), **UNITS}, Unit.of(money=1))
    with pytest.raises(ConfigError, match="is in orders, expected money"):
        check_product({"a": Unit.of(people=1), "b": Unit.of(orders=1, people=-1)}, Unit.of(money=1))


def test_members_have_roles_by_their_active_days(empty_features: duckdb.DuckDBPyConnection) -> None:
    con = empty_features
    staff = {"o": "owner", "m": "admin", "s": "member"}
    for member in ("a", "b", "c", *staff):
        kind = 1 if member in staff else 2
        row = {"membership_key": member, "chat_id": "g", "corpid": "c", "member_id": member}
        row |= {"one_id": None if member in staff else member, "group_role": staff.get(member, "member")}
        insert(con, "fct_group_memberships", [row | {"member_type": kind, "joined_at": at("2026-01-01 12:00")}])
    for n, day in enumerate(range(1, 10)):
        moment = {"event_at": at(f"2026-02-{day + 10:02d} 09:00"), "event_date": f"2026-02-{day + 10:02d}"}
        insert(con, "fct_events", [{"event_key": f"a{n}", "one_id": "a", "event_name": "page_view"} | moment])
        if n == 0:
            insert(con, "fct_events", [{"event_key": "b0", "one_id": "b", "event_name": "page_view"} | moment])
    write_marts(con, business_tables(con, MetricsConfig()))
    roles = con.execute("select member_id, role from marts_db.marts.fct_community_roles order by 1").fetchall()
    assert roles == [
        ("a", "core"), ("b", "occasional"), ("c", "silent"), ("m", "admin"), ("o", "owner"), ("s", "staff")
    ]  # fmt: skip
    day = con.execute(
        "select members, active_members from marts_db.marts.fct_community_activity where activity_date = '2026-02-11'"
    ).fetchall()
    assert day == [(6, 2)]


def test_next_best_product_beats_popularity_where_tastes_differ(empty_features: duckdb.DuckDBPyConnection) -> None:
    """Three tastes of ten products each: neighbours in taste know more than the best-seller list."""
    con = empty_features
    rng = np.random.default_rng(9)
    lines = []
    for person in range(300):
        taste = person % 3
        for n in range(6):
            day = 1 + int(rng.integers(0, 27))
            month = "2026-02" if n >= 4 else "2026-01"
            line = {"order_line_key": f"l{person}-{n}", "order_key": f"o{person}-{n // 2}", "one_id": f"p{person}"}
            product = f"sku{taste * 10 + int(rng.integers(0, 10))}"
            lines.append(line | {"product_id": product, "paid_at": at(f"{month}-{day:02d} 12:00"), "amount": 1})
    insert(con, "fct_order_lines", lines)
    from warehouse.analytics_products import product_tables

    write_marts(con, product_tables(con, MetricsConfig().next_best))
    hit, popular, people = con.execute(
        "select hit_rate, popular_hit_rate, people from marts_db.marts.fct_next_best_quality"
    ).fetchall()[0]
    assert people > 200
    assert hit > 1.5 * popular
    again = con.execute(
        "select count(*) from marts_db.marts.fct_next_best_product as picks inner join marts_db.marts.fct_order_lines "
        "as l"
        " on l.one_id = picks.one_id and l.product_id = picks.product_id"
    ).fetchall()
    assert again == [(0,)]


def test_the_next_best_product_is_a_preference_tag_of_the_same_run(brand: duckdb.DuckDBPyConnection) -> None:
    build_ltv(brand, MetricsConfig(), as_of=AS_OF, timezone=ZONE)
    run_model(brand, "fct_person_features")
    build_next_best(brand, MetricsConfig(), as_of=AS_OF, timezone=ZONE)
    text = "tag_groups: [{id: next, kind: import, source: fct_next_best_product, rank: rank, exclusive: false}]"
    build_tags(brand, parse(text, TagsConfig, file="tags.yaml"), as_of=AS_OF, timezone=ZONE)
    tagged = brand.execute("select one_id, value, rank from marts_db.marts.fct_tags_current order by all").fetchall()
    picked = brand.execute(
        "select one_id, value, rank from marts_db.marts.fct_next_best_product"
        " semi join marts_db.marts.fct_person_features using (one_id) order by all"
    ).fetchall()
    assert tagged == picked
    assert len(tagged) > 100


def test_what_tags_may_import_is_made_before_them() -> None:
    from pipelines.defs.analytics import analytics_assets, marts_key

    tags = next(step for step in analytics_assets() if step.node_def.name == "tags")
    assert marts_key("fct_next_best_product") in tags.dependency_keys
