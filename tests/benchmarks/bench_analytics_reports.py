"""Repurchase within 90 days, the cohort matrix and Markov attribution, beside the customary way to compute each.

`python tests/benchmarks/bench_analytics_reports.py [orders] [paths]`; five orders per person. Each pair gives the same
numbers; the ratio is of processor time in one run.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from cdp.attribution.markov import Paths, fit_markov
from cdp.metrics.config import RepurchaseConfig
from tests.analytics.brand import COLUMNS
from tests.benchmarks.bench_analytics_rfm import make_orders
from tests.benchmarks.bench_analytics_steps import timed
from warehouse.analytics_business import _RETENTION_SQL, repurchase_sql

SETTINGS = RepurchaseConfig(window_days=180, within_days=90)
FIRSTS = """
    select count(*) filter (where second_date - first_date <= 90), count(*) from ({firsts})
    where first_date >= getvariable('cut_day') - 270 and first_date < getvariable('cut_day') - 90
"""
TWO_SMALLEST = """
    select one_id, min(paid_date) as first_date, min(paid_date, 2)[2] as second_date
    from (select distinct one_id, paid_date from marts_db.marts.fct_orders) group by one_id
"""
WINDOW = """
    select one_id, paid_date as first_date, next_date as second_date from (
        select one_id, paid_date, row_number() over person as place, lead(paid_date) over person as next_date
        from (select distinct one_id, paid_date from marts_db.marts.fct_orders)
        window person as (partition by one_id order by paid_date)
    ) where place = 1
"""
DISTINCT_COUNTS = """
    with firsts as (
        select one_id, cast(date_trunc('month', min(paid_date)) as date) as cohort
        from marts_db.marts.fct_orders group by 1
    )
    select cohort, datediff('month', cohort, date_trunc('month', paid_date)) as months, count(distinct one_id)
    from marts_db.marts.fct_orders inner join firsts using (one_id) group by all order by all
"""


def pair(con: duckdb.DuckDBPyConnection, name: str, ours: str, customary: str) -> None:
    """Both queries, their times and their ratio."""
    found: dict[str, Any] = {}

    def run(key: str, sql: str) -> Callable[[], None]:
        return lambda: found.update({key: con.execute(sql).fetchall()})

    mine = timed(f"{name}, ours", run("ours", ours))
    theirs = timed(f"{name}, customary", run("customary", customary))
    if found["ours"] != found["customary"]:
        raise SystemExit(f"{name}: {found['ours'][:3]} is not {found['customary'][:3]}")
    print(f"   {mine / theirs:.2f} of the customary way")


def main(orders: int, paths: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        con = make_orders(folder, orders)
        con.execute("set variable zone = 'Asia/Shanghai'")
        con.execute(f"create table marts_db.marts.fct_events ({COLUMNS['fct_events']})")
        con.execute("create table marts_db.marts.fct_person_features (one_id text, friend_added_at timestamptz)")
        print(f"{orders:,} orders")
        pair(con, "90 days", FIRSTS.format(firsts=TWO_SMALLEST), FIRSTS.format(firsts=WINDOW))
        timed("all repurchase", lambda: con.execute(repurchase_sql(SETTINGS)).fetchall())
        cohorts = f"select cohort_month, months_since, retained from ({_RETENTION_SQL}) order by all"
        pair(con, "cohorts", cohorts, DISTINCT_COUNTS)
        con.close()
    rng = np.random.default_rng(5)
    lengths = rng.integers(1, 8, paths)
    walks = Paths(
        channel=rng.integers(0, 12, int(lengths.sum())),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        conversions=rng.integers(0, 3, paths),
        nulls=rng.integers(0, 9, paths),
    )
    for order in (1, 2):
        timed(f"{paths:,} paths, order {order}", lambda order=order: fit_markov(walks, 12, order=order))


if __name__ == "__main__":
    main(*(int(value) for value in (sys.argv[1:3] or ("20000000", "1000000"))))
