"""Named repurchase definitions, RFM, cohort retention, stage stock and flow, and group (社群) activity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import duckdb

from cdp.metrics.config import CommunityConfig, MetricsConfig, RepurchaseConfig, RfmConfig
from cdp.tags.compile import Quantiles, quantile_sql, score_sql
from cdp.tags.config import Score
from warehouse.analytics_common import MARTS, Table, paid_orders_sql, transaction

_DIMENSIONS: tuple[Literal["recency", "frequency", "monetary"], ...] = ("recency", "frequency", "monetary")
_PURCHASES = f"select * from ({paid_orders_sql()}) where one_id is not null"


def business_tables(con: duckdb.DuckDBPyConnection, metrics: MetricsConfig) -> list[Table]:
    """What to publish; needs the variables `cut_at`, `cut_day` and `zone`."""
    return [
        Table("fct_repurchase", repurchase_sql(metrics.repurchase), *_REPURCHASE_TEXT),
        *_rfm_tables(con, metrics.rfm),
        Table("fct_cohort_retention", _RETENTION_SQL, *_RETENTION_TEXT),
        *_stage_tables(con),
        Table("fct_community_roles", _roles_sql(metrics.community), *_ROLES_TEXT),
        Table("fct_community_activity", _community_sql(metrics.community), *_COMMUNITY_TEXT),
    ]


# ---------------------------------------------------------------- repurchase

REPURCHASE_NAMES = ("by_person", "by_order", "within_days", "next_period")


def repurchase_sql(settings: RepurchaseConfig) -> str:
    """The four definitions that are all called repurchase rate (复购率, 回购率), each under its own name."""
    days, within = settings.window_days, settings.within_days
    return f"""
        with purchases as ({_PURCHASES}),
        recent as (
            select * from purchases where paid_date >= getvariable('cut_day') - {days}
        ),
        people as (
            select one_id, count(*) as orders, count(distinct paid_date) as purchase_days from recent group by one_id
        ),
        days as (
            select distinct one_id, paid_date from purchases
        ),
        firsts as (
            select one_id, min(paid_date) as first_date, min(paid_date, 2)[2] as second_date from days group by one_id
        ),
        matured as (
            select * from firsts
            where first_date >= getvariable('cut_day') - {days} - {within} and first_date < getvariable('cut_day') -
                {within}
        ),
        months as (
            select distinct one_id, date_trunc('month', paid_date) as month_start from purchases
        ),
        pairs as (
            select cast(earlier.month_start as date) as period_start, count(*) as buyers,
                count(later.one_id) as again
            from months as earlier
            left join months as later on later.one_id = earlier.one_id
                and later.month_start = earlier.month_start + interval 1 month
            where earlier.month_start + interval 2 month <= getvariable('cut_day')
                and earlier.month_start >= date_trunc('month', getvariable('cut_day') - {days})
            group by earlier.month_start
        ),
        named as (
            select 'by_person' as definition, 'every order counts' as variant, null::date as period_start,
                count(*) filter (where orders >= 2) as repeated, count(*) as base from people
            union all
            select 'by_person', 'orders of one day count once', null,
                count(*) filter (where purchase_days >= 2), count(*) from people
            union all
            select 'by_order', 'repeat orders of the window', null,
                coalesce(sum(orders - 1), 0), coalesce(sum(orders), 0) from people
            union all
            select 'within_days', 'second purchase within {within} days of the first', null,
                count(*) filter (where second_date - first_date <= {within}), count(*) from matured
            union all
            select 'next_period', 'buyers of a month who buy in the next', period_start, again, buyers from pairs
        )
        select definition, variant, period_start, cast(repeated as bigint) as repeated, cast(base as bigint) as base,
            repeated / nullif(base, 0) as rate
        from named
        order by definition, variant, period_start
    """


# ---------------------------------------------------------------- RFM

# People are added up in parts, so that each part fits into memory: 100 M orders at once, five to a person, spill with a
# limit of 8 GiB and take twice as long.
_ORDERS_AT_ONCE = 50_000_000
_RFM_DDL = """
create schema if not exists activation;
create table if not exists activation.rfm_thresholds (
    as_of timestamptz not null, dimension text not null, cuts double[] not null, bins int not null,
    is_fixed boolean not null, primary key (as_of, dimension)
);
"""


def _rfm_tables(con: duckdb.DuckDBPyConnection, settings: RfmConfig) -> list[Table]:
    """Score everyone with an order and keep the thresholds, so that a past run can be scored again."""
    con.execute(_RFM_DDL)
    _rfm_inputs(con, settings)
    scores = {}
    kept: list[tuple[str, Sequence[float], bool]] = []
    found = _quantiles(con, [name for name in _DIMENSIONS if not settings.thresholds.get(name)], settings.bins)
    for dimension in _DIMENSIONS:
        fixed = settings.thresholds.get(dimension, ())
        best: Literal["high", "low"] = "low" if dimension == "recency" else "high"
        score = Score(by=dimension, bins=settings.bins, best=best, thresholds=fixed)
        cuts: Sequence[float] = fixed or found[dimension]
        kept.append((dimension, cuts, bool(fixed)))
        scores[dimension] = score_sql(score, cuts)
    with transaction(con):
        for name, cuts, is_fixed in kept:
            con.execute(
                "insert or replace into activation.rfm_thresholds values (getvariable('cut_at'), ?, ?, ?, ?)",
                [name, list(cuts), settings.bins, is_fixed],
            )
    scored = f"""
        select one_id, recency as recency_days, frequency, cast(monetary as decimal(18, 2)) as monetary,
            {scores["recency"]} as r_score, {scores["frequency"]} as f_score, {scores["monetary"]} as m_score,
            100 * ({scores["recency"]}) + 10 * ({scores["frequency"]}) + ({scores["monetary"]}) as rfm_score
        from temp.rfm_inputs
    """
    thresholds = "select * from activation.rfm_thresholds order by as_of, dimension"
    return [Table("fct_rfm", scored, *_RFM_TEXT), Table("fct_rfm_thresholds", thresholds, *_THRESHOLD_TEXT)]


def _rfm_inputs(con: duckdb.DuckDBPyConnection, settings: RfmConfig) -> None:
    """Temp table `rfm_inputs`: one row per person with an order, with `recency` in days, `frequency` and `monetary`."""
    since = f"and paid_date >= getvariable('cut_day') - {settings.window_days}" if settings.window_days else ""
    orders = con.execute(f"select count(*) from {MARTS}.fct_orders").fetchall()[0][0]
    parts = max(1, -(-orders // _ORDERS_AT_ONCE))
    for part in range(parts):
        con.execute(
            f"""
            {"insert into temp.rfm_inputs" if part else "create or replace temp table rfm_inputs as"}
            select one_id, getvariable('cut_day') - max(paid_date) as recency, count(*) as frequency,
                sum(net) as monetary
            from ({_PURCHASES}) where hash(one_id) % {parts} = {part} {since} group by one_id
            """
        )


def _quantiles(con: duckdb.DuckDBPyConnection, names: Sequence[str], bins: int) -> dict[str, list[float]]:
    """Thresholds of each of *names*. In one statement: each is found by one thread, but all at once."""
    shares = tuple(i / bins for i in range(1, bins))
    parts = [f"({quantile_sql(Quantiles(name, 'score', name, None, shares), 'temp.rfm_inputs')})" for name in names]
    row = con.execute(f"select {', '.join(parts)}").fetchall()[0] if parts else ()
    return {name: [float(value) for value in cuts or ()] for name, cuts in zip(names, row, strict=True)}


# ---------------------------------------------------------------- cohorts

_RETENTION_SQL = f"""
    with purchases as ({_PURCHASES}),
    bought as (
        -- Collapsed to person and month before anything is counted.
        select one_id, date_trunc('month', paid_date) as month_start from purchases group by 1, 2
    ),
    active as (
        select one_id, date_trunc('month', event_date) as month_start from {MARTS}.fct_events
        where one_id is not null and event_at < getvariable('cut_at') group by 1, 2
    ),
    buyers as (
        select one_id, min(month_start) as cohort_start from bought group by one_id
    ),
    friends as (
        select one_id, date_trunc('month', timezone(getvariable('zone'), friend_added_at)) as cohort_start
        from {MARTS}.fct_person_features where friend_added_at < getvariable('cut_at')
    ),
    kinds as (
        select 'first purchase, purchases' as cohort_kind, buyers.one_id, buyers.cohort_start, bought.month_start
        from buyers left join bought on bought.one_id = buyers.one_id
        union all
        select 'friend added, purchases', friends.one_id, friends.cohort_start, bought.month_start
        from friends left join bought on bought.one_id = friends.one_id and bought.month_start >= friends.cohort_start
        union all
        select 'friend added, activity', friends.one_id, friends.cohort_start, active.month_start
        from friends left join active on active.one_id = friends.one_id and active.month_start >= friends.cohort_start
    ),
    sizes as (
        select 'first purchase, purchases' as cohort_kind, cohort_start, count(*) as people from buyers group by 2
        union all
        select unnest(['friend added, purchases', 'friend added, activity']), cohort_start, count(*) from friends
        group by 2
    ),
    counted as (
        select cohort_kind, cohort_start, datediff('month', cohort_start, month_start) as months_since,
            count(*) as retained
        from kinds where month_start is not null group by 1, 2, 3
    )
    select counted.cohort_kind, cast(counted.cohort_start as date) as cohort_month, counted.months_since,
        sizes.people, counted.retained, counted.retained / sizes.people as rate,
        counted.cohort_start + to_months(cast(counted.months_since + 1 as int)) <= getvariable('cut_day') as is_complete
    from counted
    inner join sizes on sizes.cohort_kind = counted.cohort_kind and sizes.cohort_start = counted.cohort_start
    order by 1, 2, 3
"""


# ---------------------------------------------------------------- stages


def _stage_tables(con: duckdb.DuckDBPyConnection) -> list[Table]:
    """Stock and flow between the stages of every tag group of kind `stage`, run by run, from the tag history."""
    found = con.execute(
        "select count(*) from duckdb_tables() where schema_name = 'activation' and table_name = 'tag_history'"
    ).fetchall()[0][0]
    dims = con.execute(
        "select count(*) from duckdb_tables() where schema_name = 'marts' and table_name = 'dim_tags'"
    ).fetchall()[0][0]
    if not (found and dims):
        flow = _nothing(tag_group="text", as_of="timestamptz", from_stage="text", to_stage="text", people="bigint")
        stock = _nothing(
            tag_group="text", as_of="timestamptz", stage="text", stock="bigint", entered="bigint", left_stage="bigint",
            stock_before="bigint",
        )  # fmt: skip
        return [Table("fct_stage_flow", flow, *_FLOW_TEXT), Table("fct_stage_stock", stock, *_STOCK_TEXT)]
    con.execute(_STAGE_SQL)
    return [
        Table("fct_stage_flow", "select * from temp.stage_flow order by all", *_FLOW_TEXT),
        Table("fct_stage_stock", "select * from temp.stage_stock order by all", *_STOCK_TEXT),
    ]


def _nothing(**columns: str) -> str:
    """A query with *columns* (name=type) and no row."""
    return "select " + ", ".join(f"null::{kind} as {name}" for name, kind in columns.items()) + " where false"


_STAGE_SQL = f"""
create or replace temp table stage_changes as
with stages as (
    select distinct tag_group from {MARTS}.dim_tags where kind = 'stage'
),
history as (
    select history.* from activation.tag_history as history
    inner join stages on stages.tag_group = history.tag_group
    where history.valid_to is null or history.valid_to > history.valid_from
),
entered as (
    select tag_group, one_id, value, valid_from as as_of from history
),
ended as (
    select tag_group, one_id, value, valid_to as as_of from history where valid_to is not null
)
select coalesce(entered.tag_group, ended.tag_group) as tag_group, coalesce(entered.as_of, ended.as_of) as as_of,
    ended.value as from_stage, entered.value as to_stage, count(*) as people
from entered
full outer join ended on ended.tag_group = entered.tag_group and ended.one_id = entered.one_id
    and ended.as_of = entered.as_of
group by all;
create or replace temp table stage_stock as
with moments as (
    select distinct tag_group, as_of from temp.stage_changes
),
stages as (
    select tag_group, from_stage as stage from temp.stage_changes where from_stage is not null
    union
    select tag_group, to_stage from temp.stage_changes where to_stage is not null
),
grid as (
    select moments.tag_group, moments.as_of, stages.stage
    from moments inner join stages on stages.tag_group = moments.tag_group
),
moves as (
    select grid.tag_group, grid.as_of, grid.stage,
        coalesce(sum(people) filter (where changes.to_stage = grid.stage
            and changes.from_stage is distinct from grid.stage), 0)::bigint as entered,
        coalesce(sum(people) filter (where changes.from_stage = grid.stage
            and changes.to_stage is distinct from grid.stage), 0)::bigint as left_stage
    from grid left join temp.stage_changes as changes
        on changes.tag_group = grid.tag_group and changes.as_of = grid.as_of
    group by all
)
select tag_group, as_of, stage,
    (sum(entered - left_stage) over (partition by tag_group, stage order by as_of))::bigint as stock,
    entered, left_stage,
    (sum(entered - left_stage) over (partition by tag_group, stage order by as_of) - entered + left_stage)::bigint
        as stock_before
from moves;
create or replace temp table stage_flow as
select tag_group, as_of, from_stage, to_stage, people::bigint as people from temp.stage_changes
where from_stage is distinct from to_stage
union all
select tag_group, as_of, stage, stage, stock_before - left_stage from temp.stage_stock where stock_before > left_stage
"""


# ---------------------------------------------------------------- groups


def _roles_sql(settings: CommunityConfig) -> str:
    """Each member's part in a group: owner, administrator or other staff, and of the customers core, occasional or
    silent, by days with activity in the window."""
    names = ", ".join("'" + name.replace("'", "''") + "'" for name in settings.events)
    chosen = f"and event_name in ({names})" if settings.events else ""
    return f"""
        with members as (
            select corpid, chat_id, member_id, member_type, group_role, one_id, min(joined_at) as joined_at
            from {MARTS}.fct_group_memberships where joined_at < getvariable('cut_at') group by all
        ),
        active as (
            select one_id, count(distinct event_date) as active_days from {MARTS}.fct_events
            where event_at < getvariable('cut_at') and one_id is not null
                and event_date >= getvariable('cut_day') - {settings.window_days} {chosen}
            group by one_id
        )
        select members.corpid, members.chat_id, members.member_id, members.one_id,
            case when members.group_role in ('owner', 'admin') then members.group_role
                when members.member_type = 1 then 'staff'
                when coalesce(active.active_days, 0) >= {settings.core_days} then 'core'
                when coalesce(active.active_days, 0) > 0 then 'occasional'
                else 'silent' end as role,
            coalesce(active.active_days, 0) as active_days, members.joined_at
        from members left join active on active.one_id = members.one_id
        order by 1, 2, 3, 4
    """


def _community_sql(settings: CommunityConfig) -> str:
    names = ", ".join("'" + name.replace("'", "''") + "'" for name in settings.events)
    chosen = f"and event_name in ({names})" if settings.events else ""
    return f"""
        with members as (
            select corpid, chat_id, one_id, member_id, min(joined_at) as joined_at,
                cast(timezone(getvariable('zone'), min(joined_at)) as date) as joined_date
            from {MARTS}.fct_group_memberships where joined_at < getvariable('cut_at') group by all
        ),
        days as (
            select getvariable('cut_day') - cast(back as int) as activity_date
            from (select unnest(range(1, {settings.window_days} + 1)) as back)
        ),
        active as (
            select distinct one_id, event_date from {MARTS}.fct_events
            where event_at < getvariable('cut_at') and one_id is not null
                and event_date >= getvariable('cut_day') - {settings.window_days} {chosen}
        )
        select members.corpid, members.chat_id, days.activity_date, count(distinct members.member_id) as members,
            count(distinct members.member_id) filter (where members.joined_date = days.activity_date) as joined,
            count(distinct active.one_id) as active_members,
            count(distinct active.one_id) / nullif(count(distinct members.member_id), 0) as active_share
        from members
        inner join days on members.joined_date <= days.activity_date
        left join active on active.one_id = members.one_id and active.event_date = days.activity_date
        group by 1, 2, 3
        order by 1, 2, 3
    """


_REPURCHASE_TEXT = (
    "复购：每种口径、变体、期间一行 | "
    "One row per named repurchase definition, variant and period. There is no metric called repurchase rate.",
    {
        "definition": "by_person | by_order | within_days | next_period",
        "variant": "what exactly is counted",
        "period_start": "first day of the base month (next_period only)",
        "repeated": "numerator",
        "base": "denominator",
        "rate": "repeated ÷ base",
    },
)
_RFM_TEXT = (
    "RFM：每个有订单的人一行 | "
    "One row per person with an order: recency, frequency, money and their scores. Equal inputs score equal.",
    {
        "one_id": "the person",
        "recency_days": "brand days since the last paid order",
        "frequency": "paid orders",
        "monetary": "their net",
        "r_score": "1 (long ago) to the number of bins",
        "f_score": "1 (seldom) to the number of bins",
        "m_score": "1 (little) to the number of bins",
        "rfm_score": "100 r + 10 f + m",
    },
)
_THRESHOLD_TEXT = (
    "RFM 分界：每次计算每个维度一行 | "
    "One row per run and dimension: the cuts its scores were made with (value >= cut moves up a bin).",
    {
        "as_of": "data cut of the run",
        "dimension": "recency | frequency | monetary",
        "cuts": "rising thresholds; from quantiles: quantile + 1",
        "bins": "number of bins",
        "is_fixed": "set in the configuration instead of taken from the data",
    },
)
_RETENTION_TEXT = (
    "留存：每类同期群、加入月、此后第几月一行 | One row per kind of cohort, month of joining it and month since.",
    {
        "cohort_kind": "what starts the cohort, and what counts as retained",
        "cohort_month": "first day of the month of joining, brand time",
        "months_since": "0 = that month",
        "people": "people of the cohort",
        "retained": "of these, seen in this month",
        "rate": "retained ÷ people",
        "is_complete": "the month has ended",
    },
)
_FLOW_TEXT = (
    "阶段流转：每次计算每对阶段一行 | "
    "One row per stage group, run and pair of stages: the transition matrix, with those who stayed on its diagonal.",
    {
        "tag_group": "tag group of kind stage",
        "as_of": "data cut of the run",
        "from_stage": "stage before; null = none",
        "to_stage": "stage after; null = none",
        "people": "people who went this way",
    },
)
_STOCK_TEXT = (
    "阶段存量：每次计算每个阶段一行 | "
    "One row per stage group, run and stage: stock = stock_before + entered - left_stage.",
    {
        "tag_group": "tag group of kind stage",
        "as_of": "data cut of the run",
        "stage": "stage",
        "stock": "people in it after the run",
        "entered": "people who came in",
        "left_stage": "people who went out",
        "stock_before": "people in it before the run",
    },
)
_ROLES_TEXT = (
    "社群角色：每群每成员一行 | One row per group and member: the part the member plays.",
    {
        "corpid": "corporation",
        "chat_id": "group",
        "member_id": "userid of staff, external_userid of a customer",
        "one_id": "the person; null = staff, or not resolved",
        "role": "owner | admin | staff (other employees) | core | occasional | silent",
        "active_days": "brand days with activity in the window",
        "joined_at": "first joining, UTC",
    },
)
_COMMUNITY_TEXT = (
    "社群活跃：每群每天一行 | One row per group and day of the window.",
    {
        "corpid": "corporation",
        "chat_id": "group",
        "activity_date": "brand day",
        "members": "members by the end of the day",
        "joined": "of these, joined on the day",
        "active_members": "members with activity on the day",
        "active_share": "active_members ÷ members",
    },
)
