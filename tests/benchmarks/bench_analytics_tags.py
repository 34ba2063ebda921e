"""Fifty tag groups: a first day from nothing, then a day's increment, features included.

`python tests/benchmarks/bench_analytics_tags.py [people] [events]` prints processor and wall time of both days and
their ratio; a million people and twenty million events take some minutes.
"""

from __future__ import annotations

import sys
import tempfile
from datetime import datetime, timedelta
from pathlib import Path

import duckdb

sys.path.insert(0, str(Path(__file__).parents[2]))

from cdp.config import parse
from cdp.metrics.config import MetricsConfig
from cdp.tags.config import TagsConfig
from tests.analytics.brand import COLUMNS, ROOT, run_model
from tests.benchmarks.bench_analytics_steps import AS_OF, ZONE, make_brand, timed
from warehouse.analytics import build_ltv, build_tags
from warehouse.analytics_common import MARTS, business_cut
from warehouse.touched_people import EVENTS, note_touched


def fifty() -> TagsConfig:
    """The ten groups of config/tags.yaml, and forty of every kind that reads features or marts."""
    more = [
        f'  - {{id: active_{days}, kind: rule, rules: {{近{days}天活跃: "days_since_active <= {days}"}}}}'
        for days in (1, 3, 7, 14, 21, 30, 45, 60, 90, 120, 180, 365)
    ]
    more += [
        f"  - {{id: band_{name}, kind: statistic, value: {name},"
        " bands: [{name: 无, below: 1}, {name: 低, below: 3}, {name: 中, below: 10}, {name: 高}]}"
        for name in ("interactions_7d", "interactions_30d", "interactions_90d", "orders_paid", "orders_365d",
                     "coupon_orders", "category_count", "referred_people", "friend_relations", "refunded_orders")
    ]  # fmt: skip
    more += [
        f"  - {{id: tier_{name}, kind: tier, by: {name}, quantiles: [0.2, 0.5, 0.8], values: [低, 中, 高, 顶]}}"
        for name in ("gross_amount", "avg_order_amount", "net_365d", "recency_days", "tenure_days", "interactions_30d")
    ]
    more += [
        f"  - {{id: top_{name}, kind: ranking, by: {name}, tops: [{{name: 前十分之一, share: 0.1}}]}}"
        for name in ("gross_amount", "interactions_90d")
    ]
    more += [
        "  - {id: first_channel, kind: first_last, source: fct_orders, pick: first, value: channel}",
        "  - {id: last_channel, kind: first_last, source: fct_orders, pick: last, value: channel}",
        "  - {id: last_event, kind: first_last, source: fct_events, pick: last, value: event_name}",
        "  - {id: liked_products, kind: preference, source: fct_order_lines, value: product_id, top: 3}",
        "  - {id: viewed_products, kind: preference, source: fct_events, value: product_id, window: 30d, top: 3}",
        '  - {id: spent_30d, kind: statistic, source: fct_orders, value: "sum(amount)", window: 30d,'
        " bands: [{name: 低, below: 100}, {name: 高}]}",
        '  - {id: carts_7d, kind: statistic, source: fct_events, value: "count(*)", window: 7d,'
        " where: \"event_name = 'add_to_cart'\", bands: [{name: 少, below: 3}, {name: 多}]}",
        "  - {id: flags, kind: rule, exclusive: false, rules: {会员: is_member, 粉丝: is_follower}}",
        "  - {id: city_of, kind: fact, value: \"coalesce(city, '未知')\"}",
        "  - {id: hand, kind: manual, values: [黑名单, 白名单]}",
    ]
    text = (ROOT / "config" / "tags.yaml").read_text(encoding="utf-8") + "\n".join(more) + "\n"
    return parse(text, TagsConfig, file="tags.yaml")


TIMES = {"fct_events": "event_at", "fct_orders": "paid_at", "fct_order_lines": "paid_at"}


def keep_back(con: duckdb.DuckDBPyConnection, as_of: datetime) -> None:
    """Take out what has not happened at the cut of *as_of*."""
    cut = business_cut(con, as_of, ZONE).at
    for table, column in TIMES.items():
        con.execute(f"create temp table late_{table} as select * from {MARTS}.{table} where {column} >= ?", [cut])
        con.execute(f"delete from {MARTS}.{table} where {column} >= ?", [cut])
    note_touched(con, EVENTS, None)


def arrive(con: duckdb.DuckDBPyConnection) -> None:
    """Put back what `keep_back` took out, and note whose it is as the model of the events does."""
    for table in TIMES:
        con.execute(f"insert into {MARTS}.{table} select * from temp.late_{table}")
    note_touched(con, EVENTS, "select one_id from temp.late_fct_events")


def main(people: int, events: int) -> None:
    tags = fifty()
    print(f"{len(tags.tag_groups)} tag groups, {people:,} people, {events:,} events")
    with tempfile.TemporaryDirectory() as folder:
        limits = {"memory_limit": "8GiB", "threads": 2, "temp_directory": f"{folder}/spill"}
        con = duckdb.connect(f"{folder}/warehouse.duckdb", config=limits | {"preserve_insertion_order": False})
        con.execute("set global TimeZone = 'UTC'")
        con.execute(f"attach '{folder}/marts.duckdb' as marts_db")
        con.execute("create schema marts_db.marts")
        con.execute("set variable timezone = ?", [ZONE])
        for name, columns in COLUMNS.items():
            con.execute(f"create table marts_db.marts.{name} ({columns})")
        timed("make the brand", lambda: make_brand(con, people, events))
        keep_back(con, AS_OF - timedelta(days=1))
        spent: dict[str, float] = {}
        for day, as_of in (("first day", AS_OF - timedelta(days=1)), ("next day", AS_OF)):
            print(f"-- {day}")
            con.execute("set variable as_of = ?::timestamptz", [as_of])
            at = {"as_of": as_of, "timezone": ZONE}
            if day == "first day":
                build_ltv(con, MetricsConfig(), **at)
            else:
                arrive(con)
            spent[day] = timed("person features", lambda: run_model(con, "fct_person_features"))
            spent[day] += timed("tags", lambda at=at: print(f"   {build_tags(con, tags, **at).history_added:,} rows"))
        con.close()
    print(f"a day's increment costs {spent['next day'] / spent['first day']:.3f} of the first day's processor time")


if __name__ == "__main__":
    main(*(int(value) for value in (sys.argv[1:3] or ("50000", "1000000"))))
