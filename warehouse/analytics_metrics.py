"""Business metrics of the published version: GMV identity, first-order conversion, and what else build_metrics
writes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import duckdb
import polars as pl

from cdp.metrics.config import MetricsConfig
from cdp.metrics.decomposition import lmdi
from cdp.metrics.units import Unit, check_product
from cdp.sync.config import Control
from warehouse.analytics_attribution import attribution_tables
from warehouse.analytics_business import business_tables
from warehouse.analytics_common import MARTS, Table, frame, paid_orders_sql, set_cut, view_of, write_marts
from warehouse.analytics_referral import referral_tables
from warehouse.analytics_uplift import uplift_frame, uplift_table

# The identity in units: whatever the factors become, their product must stay an amount of money.
UNITS = {
    "seeds": Unit.of(people=1),
    "referral_multiple": Unit.of(),
    "buyer_share": Unit.of(),
    "orders_per_buyer": Unit.of(orders=1, people=-1),
    "net_per_order": Unit.of(money=1, orders=-1),
}
FACTORS = ("seeds", "referral_multiple", "buyer_share", "orders_per_buyer", "net_per_order")


@dataclass(frozen=True)
class MetricsReport:
    """Rows per table written."""

    tables: dict[str, int]


def build_metrics(
    con: duckdb.DuckDBPyConnection,
    metrics: MetricsConfig,
    *,
    as_of: datetime,
    timezone: str,
    control: Control | None = None,
) -> MetricsReport:
    """Write the metric tables of `config/metrics.yaml`, as of the last closed business day, in one transaction.
    *control*: who the sync holds back, whose experiments `uplift` names."""
    set_cut(con, as_of, timezone)
    curves = uplift_frame(con, metrics.uplift, control or Control())
    with view_of(con, "gmv_periods", gmv_identity(con, metrics)), view_of(con, "uplift_curves", curves):
        tables = [
            Table("fct_gmv_identity", "select * from gmv_periods order by period_start", *_GMV_TEXT),
            Table("fct_first_order_conversion", first_order_sql(metrics), *_FIRST_TEXT),
            *attribution_tables(con, metrics.attribution),
            uplift_table(),
            *referral_tables(con, metrics.referral),
            *business_tables(con, metrics),
        ]
        return MetricsReport(write_marts(con, tables))


def gmv_identity(con: duckdb.DuckDBPyConnection, metrics: MetricsConfig) -> pl.DataFrame:
    """Per closed period: net sales to reachable people as a product of five factors, and each factor's part of the
    change since the period before."""
    check_product(UNITS, Unit.of(money=1))
    settings = metrics.gmv
    data = frame(
        con,
        f"""
        with periods as (
            select unnest(range({settings.periods})) as back
        ),
        bounds as (
            select cast(date_trunc('{settings.grain}', getvariable('cut_day')) - to_{settings.grain}s(back + 1) as date)
                as period_start from periods
        ),
        spans as (
            select period_start, cast(period_start + interval 1 {settings.grain} as date) as period_end,
                timezone(getvariable('zone'), cast(period_start + interval 1 {settings.grain} as timestamp)) as end_at
            from bounds
        ),
        reachable as (
            select one_id, referred_by_one_id is not null as was_referred,
                least(friend_added_at, followed_at, registered_at, first_group_joined_at) as reachable_at
            from (
                select people.one_id, people.referred_by_one_id, features.friend_added_at, features.followed_at,
                    features.registered_at, features.first_group_joined_at
                from {MARTS}.dim_people as people
                inner join {MARTS}.fct_person_features as features on features.one_id = people.one_id
            )
        ),
        reach as (
            select spans.period_start, count(*) as reachable, count(*) filter (where was_referred) as referred
            from spans inner join reachable on reachable.reachable_at < spans.end_at
            group by spans.period_start
        ),
        sales as (
            select spans.period_start,
                count(distinct orders.one_id) filter (where is_reached) as buyers,
                count(*) filter (where is_reached) as orders,
                coalesce(sum(net) filter (where is_reached), 0) as net,
                coalesce(sum(net) filter (where not is_reached), 0) as other_net
            from spans
            inner join (
                select paid.one_id, paid.paid_date, paid.paid_at, paid.net,
                    coalesce(reachable.reachable_at <= paid.paid_at, false) as is_reached
                from ({paid_orders_sql()}) as paid
                left join reachable on reachable.one_id = paid.one_id
            ) as orders on orders.paid_date >= spans.period_start and orders.paid_date < spans.period_end
            group by spans.period_start
        )
        select spans.period_start, coalesce(reach.reachable, 0) as reachable, coalesce(reach.referred, 0) as referred,
            coalesce(sales.buyers, 0) as buyers, coalesce(sales.orders, 0) as orders,
            cast(coalesce(sales.net, 0) as decimal(18, 2)) as gmv_net,
            cast(coalesce(sales.other_net, 0) as decimal(18, 2)) as other_net
        from spans
        left join reach on reach.period_start = spans.period_start
        left join sales on sales.period_start = spans.period_start
        order by spans.period_start
        """,
    )
    return _with_factors(data)


def _with_factors(data: pl.DataFrame) -> pl.DataFrame:
    rows = []
    previous: dict[str, float] | None = None
    for row in data.iter_rows(named=True):
        factors = _factors(row)
        parts = lmdi(previous, factors) if factors and previous else {}
        change = _product(factors) - _product(previous) if factors and previous else None
        rows.append(
            {
                **row,
                **{name: factors[name] if factors else None for name in FACTORS},
                "gmv_change": change,
                **{f"{name}_effect": parts.get(name) for name in FACTORS},
            }
        )
        previous = factors
    added = dict.fromkeys((*FACTORS, "gmv_change", *(f"{name}_effect" for name in FACTORS)), pl.Float64)
    return pl.DataFrame(rows, schema={**data.schema, **added})


def _factors(row: dict[str, float]) -> dict[str, float] | None:
    """The five factors of one period; None when a factor would not be positive."""
    seeds = row["reachable"] - row["referred"]
    if seeds <= 0 or row["orders"] <= 0 or row["gmv_net"] <= 0:
        return None
    return {
        "seeds": float(seeds),
        "referral_multiple": row["reachable"] / seeds,
        "buyer_share": row["buyers"] / row["reachable"],
        "orders_per_buyer": row["orders"] / row["buyers"],
        "net_per_order": float(row["gmv_net"]) / row["orders"],
    }


def _product(factors: dict[str, float]) -> float:
    result = 1.0
    for value in factors.values():
        result *= value
    return result


def first_order_sql(metrics: MetricsConfig) -> str:
    """Share of new people with a first paid order within N days of becoming new, raw and matured, by period."""
    settings = metrics.first_order
    start = {
        "friend_added": "features.friend_added_at",
        "first_seen": "features.first_seen_at",
        "registered": "features.registered_at",
    }[settings.start]
    days = ", ".join(f"({value})" for value in settings.days)
    return f"""
        with people as (
            select one_id, start_at, cast(timezone(getvariable('zone'), start_at) as date) as start_date, origin_channel
            from (
                select features.one_id, {start} as start_at, features.origin_channel
                from {MARTS}.fct_person_features as features
            )
            where start_at < getvariable('cut_at')
        ),
        orders as (
            select one_id, paid_at, amount, coalesce(subsidy_amount, 0) as subsidy
            from {MARTS}.fct_orders
            where is_first_order and is_paid and paid_at < getvariable('cut_at')
        ),
        outcomes as (
            select people.one_id, people.start_at, people.start_date,
                orders.paid_at, coalesce(orders.subsidy, 0) as subsidy, windows.days,
                people.start_at + to_days(windows.days) <= getvariable('cut_at') as is_matured,
                coalesce(orders.paid_at >= people.start_at
                    and orders.paid_at <= people.start_at + to_days(windows.days), false) as converted,
                coalesce(orders.paid_at < people.start_at, false) as bought_before
            from people
            cross join (values {days}) as windows (days)
            left join orders on orders.one_id = people.one_id
        )
        select cast(date_trunc('{settings.grain}', start_date) as date) as period_start, days,
            count(*) as new_people,
            count(*) filter (where converted) as converted,
            count(*) filter (where converted) / count(*) as rate,
            count(*) filter (where is_matured) as matured_people,
            count(*) filter (where is_matured and converted) as matured_converted,
            count(*) filter (where is_matured and converted) / nullif(count(*) filter (where is_matured), 0)
                as matured_rate,
            cast(coalesce(sum(subsidy) filter (where converted), 0) as decimal(18, 2)) as subsidy_amount,
            cast(sum(subsidy) filter (where converted) / nullif(count(*) filter (where converted), 0)
                as decimal(18, 2)) as subsidy_per_first_order
        from outcomes
        where not bought_before
        group by 1, 2
        order by 1, 2
    """


_GMV_TEXT = (
    "净成交拆解：每个已结束期间一行，等于五个因子之积 | "
    "One row per closed period: net sales to reachable people = the product of the five factors.",
    {
        "period_start": "first day of the period, brand time",
        "reachable": "people the brand could reach by the end of the period (friend, follower, member or in a group)",
        "referred": "of these, brought by another person",
        "buyers": "reachable people with a paid order in the period",
        "orders": "their paid orders",
        "gmv_net": "their net sales (refunds known at the cut taken off)",
        "other_net": "net sales to people not reachable when they paid",
        "seeds": "factor: reachable people nobody referred",
        "referral_multiple": "factor: 1 + referred ÷ seeds",
        "buyer_share": "factor: buyers ÷ reachable",
        "orders_per_buyer": "factor: orders ÷ buyers",
        "net_per_order": "factor: net ÷ orders",
        "gmv_change": "change of net sales since the period before",
        **{
            f"{name}_effect": f"part of the change due to {name} (LMDI; the parts sum to gmv_change)"
            for name in FACTORS
        },
    },
)
_FIRST_TEXT = (
    "新客首单转化：每个新客期间、每个窗口天数一行 | "
    "One row per period of becoming new and number of days: first-order conversion of people who had not bought "
    "before.",
    {
        "period_start": "first day of the period in which the person became new, brand time",
        "days": "length of the window, days from the moment of becoming new",
        "new_people": "people who became new in the period",
        "converted": "of these, first paid order inside the window",
        "rate": "converted ÷ new_people, open windows included",
        "matured_people": "people whose window has ended",
        "matured_converted": "of these, converted",
        "matured_rate": "matured_converted ÷ matured_people",
        "subsidy_amount": "subsidies of these first orders",
        "subsidy_per_first_order": "subsidy_amount ÷ converted",
    },
)
