"""A four-step funnel: everyone from nothing, then a day's increment.

`python tests/benchmarks/bench_analytics_funnel_day.py [people] [events]` prints seconds of both, their ratio, and
whether the increment's tables are those of a full computation; a million people and twenty million events take some
minutes.
"""

from __future__ import annotations

import sys
import tempfile
import time
from datetime import timedelta
from functools import partial
from pathlib import Path

import duckdb

sys.path.insert(0, str(Path(__file__).parents[2]))

from cdp.config import parse
from cdp.funnels.config import FunnelsConfig
from tests.analytics.brand import COLUMNS
from tests.benchmarks.bench_analytics_steps import AS_OF, ZONE, make_brand, timed
from tests.benchmarks.bench_analytics_tags import arrive, keep_back
from warehouse.analytics import build_funnels
from warehouse.analytics_common import MARTS

FUNNEL = """
funnels:
  - id: visit_to_order
    steps:
      - {id: view, event: page_view}
      - {id: product, event: product_view}
      - {id: cart, event: add_to_cart}
      - {id: order, event: order_paid}
    window: {total: 7d}
"""


def tables(con: duckdb.DuckDBPyConnection) -> list[tuple[object, ...]]:
    """What both tables hold, free of the order of rows."""
    return [
        con.execute(
            f"select count(*), sum(md5_number_lower(line::varchar)::hugeint)::varchar from {MARTS}.{name} as line"
        ).fetchall()[0]
        for name in ("fct_funnel_people", "fct_funnel_steps")
    ]


def main(people: int, events: int) -> None:
    funnels = parse(FUNNEL, FunnelsConfig, file="funnels.yaml")
    with tempfile.TemporaryDirectory() as folder:
        limits: dict[str, str | bool | int | float | list[str]] = {
            "memory_limit": "8GiB",
            "threads": 2,
            "temp_directory": f"{folder}/spill",
            "preserve_insertion_order": False,
        }
        con = duckdb.connect(f"{folder}/warehouse.duckdb", config=limits)
        con.execute("set global TimeZone = 'UTC'")
        con.execute(f"attach '{folder}/marts.duckdb' as marts_db")
        con.execute("create schema marts_db.marts")
        con.execute("set variable timezone = ?", [ZONE])
        for name, columns in COLUMNS.items():
            con.execute(f"create table marts_db.marts.{name} ({columns})")
        timed("make the brand", lambda: make_brand(con, people, events))
        yesterday = AS_OF - timedelta(days=1)
        keep_back(con, yesterday)
        build_funnels(con, funnels, as_of=yesterday, timezone=ZONE)  # compiled code in its cache
        walls = {}
        for name, as_of in (("everyone", yesterday), ("increment", AS_OF)):
            if name == "everyone":
                con.execute("delete from marts_db.meta.funnel_seen")
            else:
                arrive(con)
                con.execute("checkpoint marts_db")
            start = time.perf_counter()
            timed(name, partial(build_funnels, con, funnels, as_of=as_of, timezone=ZONE))
            walls[name] = time.perf_counter() - start
        timed("checkpoint after it", lambda: con.execute("checkpoint marts_db"))
        increment = tables(con)
        con.execute("delete from marts_db.meta.funnel_seen")
        timed("everyone, next day", partial(build_funnels, con, funnels, as_of=AS_OF, timezone=ZONE))
        if increment != tables(con):
            raise SystemExit("the increment's tables are not those of a full computation")
        con.close()
    print(
        f"{people:,} people, {events:,} events, four steps: a day takes {walls['increment']:.2f} s of wall time,"
        f" {walls['increment'] / walls['everyone']:.3f} of everyone's; same tables"
    )


if __name__ == "__main__":
    main(*(int(value) for value in (sys.argv[1:3] or ("50000", "1000000"))))
