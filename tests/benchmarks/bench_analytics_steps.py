"""Every analytics step on a generated brand: seconds, memory and rows, for people and events as given.

`python tests/benchmarks/bench_analytics_steps.py [people] [events]` (a million and twenty million take a while); a
second day's run shows what an increment costs.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb

sys.path.insert(0, str(Path(__file__).parents[2]))

from cdp.config import parse
from cdp.funnels.config import FunnelsConfig
from cdp.metrics.config import MetricsConfig
from cdp.tags.config import TagsConfig
from tests.analytics.brand import COLUMNS, ROOT, run_model
from warehouse.analytics import build_funnels, build_ltv, build_metrics, build_next_best, build_tags

AS_OF = datetime(2026, 3, 1, 21, 0, tzinfo=UTC)
ZONE = "Asia/Shanghai"


def make_brand(con: duckdb.DuckDBPyConnection, people: int, events: int) -> None:
    """Marts of a brand of *people* with *events* tracked events in visits of four, about 1.5 orders per person, a year
    long: on a day, *events* / 1460 of *people* visit. Events lie day by day, as days of runs append them."""
    con.execute("select setseed(0.42)")
    start = "timestamptz '2025-03-02 00:00:00+00'"
    second = "to_seconds(cast(random() * 365 * 86400 as bigint))"
    con.execute(
        f"""
        insert into marts_db.marts.dim_people by name
        select 'p' || lpad(i::text, 9, '0') as one_id, {start} + {second} as friend_added_at, random() < 0.3 as
            is_follower,
            'm' || i as member_id, 'channel' || (i % 20) as origin_channel, 'channel' || (i % 20) as origin_channel_id,
            false as is_anonymous, {start} as first_seen_at
        from range({people}) as numbers (i)
        """
    )
    person = f"'p' || lpad(cast(floor(power(random(), 2) * {people}) as bigint)::text, 9, '0')"
    con.execute(
        f"""
        create temp table drawn as
        select i, {person} as one_id, {start} + {second} as moment, 20 + random() * 300 as amount, random() as r
        from range({people * 3 // 2}) as numbers (i)
        """
    )
    con.execute(
        f"""
        insert into marts_db.marts.fct_orders by name
        select 'o' || i as order_key, one_id, true as is_paid, moment as paid_at,
            cast(timezone('{ZONE}', moment) as date) as paid_date, amount, 0 as refund_amount,
            case when r < 0.3 then 'c' end as coupon_id, 'channel' || (i % 20) as channel,
            row_number() over (partition by one_id order by moment, i) as order_no,
            row_number() over (partition by one_id order by moment, i) = 1 as is_first_order
        from drawn
        """
    )
    con.execute(
        """
        insert into marts_db.marts.fct_order_lines by name
        select 'l' || i as order_line_key, 'o' || i as order_key, one_id, moment as paid_at, 'sku' || (i % 1000) as
            product_id,
            'cat' || (i % 12) as category, amount from drawn
        """
    )
    con.execute(
        f"""
        create temp table visits as
        select i, {person} as one_id, {start} + {second} as moment from range({events // 4}) as numbers (i)
        """
    )
    con.execute(
        f"""
        insert into marts_db.marts.fct_events by name
        select 'e' || i as event_key, one_id, moment as event_at, cast(timezone('{ZONE}', moment) as date) as
            event_date,
            (['page_view', 'product_view', 'add_to_cart', 'search'])[1 + i % 4] as event_name,
            'sku' || (i % 1000) as product_id, one_id || cast(moment as date) as session_id, 'web' as source
        from (
            select visits.i * 4 + page.i as i, one_id, moment + to_seconds(40 * page.i) as moment
            from visits cross join range(4) as page (i)
        )
        order by event_date
        """
    )
    con.execute(
        """
        insert into marts_db.marts.fct_relations by name
            select one_id as relation_key, one_id, friend_added_at as added_at, true as is_active
            from marts_db.marts.dim_people;
        insert into marts_db.marts.fct_touches by name
            select 't' || event_key as touch_key, one_id, event_at as touched_at, 'channel' || (hash(event_key) % 8)
                as channel
            from marts_db.marts.fct_events where hash(event_key) % 10 = 0;
        drop table marts_db.marts.fct_journey;
        create view marts_db.marts.fct_journey as
            select event_key, one_id, event_name, event_at, event_date, channel, campaign_id, order_key, product_id,
                amount,
                null::bigint as order_no, properties, source from marts_db.marts.fct_events
            union all by name
            select 'paid|' || order_key as event_key, one_id, 'order_paid' as event_name, paid_at as event_at,
                paid_date as event_date, channel, order_key, amount, order_no from marts_db.marts.fct_orders
            union all by name
            select 'friend|' || one_id as event_key, one_id, 'friend_added' as event_name, friend_added_at as event_at,
                origin_channel as channel from marts_db.marts.dim_people;
        """
    )


def main(people: int, events: int) -> None:
    load = {
        name: (ROOT / "config" / name).read_text(encoding="utf-8")
        for name in ("tags.yaml", "funnels.yaml", "metrics.yaml")
    }
    tags = parse(load["tags.yaml"], TagsConfig, file="tags.yaml")
    funnels = parse(load["funnels.yaml"], FunnelsConfig, file="funnels.yaml")
    metrics = parse(load["metrics.yaml"], MetricsConfig, file="metrics.yaml")
    with tempfile.TemporaryDirectory() as folder:
        limits = {
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
        for day, as_of in (("first day", AS_OF - timedelta(days=1)), ("next day", AS_OF)):
            print(f"-- {day}: {people:,} people, {events:,} events")
            con.execute("set variable as_of = ?::timestamptz", [as_of])
            at = {"as_of": as_of, "timezone": ZONE}
            timed("lifetime value", lambda at=at: build_ltv(con, metrics, **at))
            timed("person features", lambda: run_model(con, "fct_person_features"))
            timed("next best product", lambda at=at: build_next_best(con, metrics, **at))
            timed("tags", lambda at=at: build_tags(con, tags, **at))
            timed("funnels", lambda at=at: build_funnels(con, funnels, **at))
            timed("metrics", lambda at=at: build_metrics(con, metrics, **at))
        con.close()


def timed(name: str, work: Callable[[], Any]) -> float:
    """Run *work*, print what it took, and return its processor seconds."""
    before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    work()
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"{name:<18} wall {wall:7.2f} s  cpu {cpu:7.2f} s  peak {after.ru_maxrss // 1024:6,} MiB", flush=True)
    return cpu


if __name__ == "__main__":
    main(*(int(value) for value in (sys.argv[1:3] or ("200000", "4000000"))))
