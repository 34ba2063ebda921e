"""RFM over generated orders: aggregate to people, quantiles, scores.

`python tests/benchmarks/bench_analytics_rfm.py [orders]`; five orders per person, whose one_id has 24 characters as the
ids that identity gives: shorter ones cost a third less.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from pathlib import Path

import duckdb

sys.path.insert(0, str(Path(__file__).parents[2]))

from cdp.metrics.config import RfmConfig
from tests.analytics.brand import COLUMNS
from warehouse.analytics_business import _rfm_tables
from warehouse.analytics_common import write_marts


def make_orders(folder: str, orders: int) -> duckdb.DuckDBPyConnection:
    """A warehouse in *folder* with *orders* paid orders of a year, as of its end."""
    limits = {"memory_limit": "8GiB", "threads": 2, "temp_directory": f"{folder}/spill"}
    con = duckdb.connect(f"{folder}/warehouse.duckdb", config=limits | {"preserve_insertion_order": False})
    con.execute(f"attach '{folder}/marts.duckdb' as marts_db")
    con.execute("create schema marts_db.marts")
    con.execute("create schema activation")
    for table in ("fct_orders", "fct_refunds"):
        con.execute(f"create table marts_db.marts.{table} ({COLUMNS[table]})")
    con.execute("select setseed(0.3)")
    con.execute(
        f"""
        insert into marts_db.marts.fct_orders by name
        select 'p' || lpad(to_hex(hash(person)), 16, '0') || '5b2506e' as one_id, true as is_paid,
            cast(day as timestamp) as paid_at, day as paid_date, amount, 0 as refund_amount
        from (
            select cast(floor(random() * {orders // 5}) as bigint) as person, 10 + random() * 300 as amount,
                date '2025-01-01' + cast(floor(random() * 365) as int) as day
            from range({orders})
        )
        """
    )
    con.execute("set variable cut_at = timestamptz '2026-01-01 00:00:00+00'")
    con.execute("set variable cut_day = date '2026-01-01'")
    return con


def main(orders: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        con = make_orders(folder, orders)
        before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        rows = write_marts(con, _rfm_tables(con, RfmConfig()))["fct_rfm"]
        wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        print(
            f"{orders:,} orders, {rows:,} people: cpu {cpu:.2f} s, wall {wall:.2f} s, peak "
            f"{after.ru_maxrss // 1024:,} MiB"
        )
        con.close()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000_000)
