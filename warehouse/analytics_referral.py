"""Referral (裂变): which invitation earns credit, the forest it makes, and K by generation."""

from __future__ import annotations

import duckdb
import numpy as np
import polars as pl

from cdp.metrics.config import ReferralConfig
from cdp.metrics.durations import microseconds
from cdp.referral.forest import credit_edges, generations
from warehouse.analytics_common import MARTS, Table, frame, view_of


def referral_tables(con: duckdb.DuckDBPyConnection, settings: ReferralConfig) -> list[Table]:
    """Make temp table `referral_edges` and return what to publish. Reads facts before `cut_at`."""
    _judged(con, settings)
    _forest(con)
    matured = microseconds(settings.matured_after)
    return [
        Table("fct_referral_edges", "select * from temp.referral_edges order by all", *_EDGE_TEXT),
        Table("fct_referral_generations", _generation_sql(matured), *_GENERATION_TEXT),
        Table("fct_referral_campaigns", _campaign_sql(matured), *_CAMPAIGN_TEXT),
    ]


def _judged(con: duckdb.DuckDBPyConnection, settings: ReferralConfig) -> None:
    """Temp table `referral_judged`: every invitation with the first reason against it, null when it is valid."""
    window = microseconds(settings.window)
    lost = (
        f"when lost.lost_at is not null and lost.lost_at < joins.joined_at + to_microseconds"
        f"({microseconds(settings.lost_within)}) then 'lost'"
        if settings.lost_within
        else ""
    )
    customer = "" if settings.allow_customers else "when buyers.first_paid_at < edges.invited_at then 'customer'"
    con.execute(
        f"""
        create or replace temp table referral_judged as
        with edges as (
            select referral_key, coalesce(campaign_id, '') as campaign_id, inviter_one_id, invitee_one_id, invited_at
            from {MARTS}.fct_referrals where invited_at < getvariable('cut_at')
        ),
        touched as (
            select one_id, event_at from {MARTS}.fct_journey
            where event_name in ('friend_added', 'group_joined', 'registered', 'followed')
                and event_at < getvariable('cut_at')
        ),
        joins as (
            select edges.referral_key, min(touched.event_at) as joined_at
            from edges inner join touched on touched.one_id = edges.invitee_one_id
                and touched.event_at >= edges.invited_at
                and touched.event_at <= edges.invited_at + to_microseconds({window})
            group by edges.referral_key
        ),
        lost as (
            select one_id, min(removed_at) as lost_at from {MARTS}.fct_relations
            where removed_at < getvariable('cut_at') group by one_id
        ),
        buyers as (
            select one_id, min(paid_at) as first_paid_at from {MARTS}.fct_orders
            where is_paid and paid_at < getvariable('cut_at') group by one_id
        )
        select edges.*, joins.joined_at,
            case when buyers.first_paid_at >= edges.invited_at
                and buyers.first_paid_at <= edges.invited_at + to_microseconds({window})
                then buyers.first_paid_at end as first_paid_at,
            case
                when edges.inviter_one_id is null or edges.invitee_one_id is null then 'unknown'
                when edges.inviter_one_id = edges.invitee_one_id then 'self'
                {customer}
                when joins.joined_at is null then 'not_joined'
                {lost}
            end as reason
        from edges
        left join joins on joins.referral_key = edges.referral_key
        left join lost on lost.one_id = edges.invitee_one_id and lost.lost_at >= joins.joined_at
        left join buyers on buyers.one_id = edges.invitee_one_id
        """
    )


def _forest(con: duckdb.DuckDBPyConnection) -> None:
    """Temp table `referral_edges`: the invitations with credit and generation."""
    con.execute(
        """
        create or replace temp table referral_people as
        select one_id, row_number() over (order by one_id) - 1 as number
        from (
            select inviter_one_id as one_id from temp.referral_judged where reason is null
            union select invitee_one_id from temp.referral_judged where reason is null
        )
        """
    )
    data = frame(
        con,
        """
        select judged.referral_key, inviter.number as inviter, invitee.number as invitee,
            dense_rank() over (order by judged.campaign_id) - 1 as campaign
        from temp.referral_judged as judged
        inner join temp.referral_people as inviter on inviter.one_id = judged.inviter_one_id
        inner join temp.referral_people as invitee on invitee.one_id = judged.invitee_one_id
        where judged.reason is null
        order by judged.invited_at, judged.referral_key
        """,
    )
    inviter, invitee, campaign = (data[name].cast(pl.Int64).to_numpy() for name in ("inviter", "invitee", "campaign"))
    people = int(max(inviter.max(), invitee.max())) + 1 if data.height else 0
    credited = credit_edges(inviter, invitee, people)
    generation = np.zeros(data.height, dtype=np.int64)
    generation[credited] = generations(inviter[credited], invitee[credited], campaign[credited], people)
    found = pl.DataFrame({"referral_key": data["referral_key"], "credited": credited, "generation": generation})
    with view_of(con, "referral_found", found):
        con.execute(
            """
            create or replace temp table referral_edges as
            select judged.referral_key, judged.campaign_id, judged.inviter_one_id, judged.invitee_one_id,
                judged.invited_at, judged.joined_at, judged.first_paid_at,
                coalesce(found.credited, false) as is_credited,
                case when judged.reason is not null then judged.reason
                    when not found.credited then 'not_first' else 'credited' end as outcome,
                nullif(found.generation, 0) as generation
            from temp.referral_judged as judged
            left join referral_found as found on found.referral_key = judged.referral_key
            """
        )


def _members_sql(matured_us: int) -> str:
    """CTEs: `members` (campaign, person, generation, since), with generation 0 for the seeds; `sent` per member;
    `invited`: whom the members of a generation invited."""
    return f"""
        credited as (
            select * from temp.referral_edges where is_credited
        ),
        members as (
            select campaign_id, invitee_one_id as one_id, generation, joined_at as since, first_paid_at
            from credited
            union all
            select edges.campaign_id, edges.inviter_one_id, 0, min(edges.invited_at), null
            from temp.referral_edges as edges
            anti join credited on credited.campaign_id = edges.campaign_id
                and credited.invitee_one_id = edges.inviter_one_id
            where edges.inviter_one_id is not null
            group by edges.campaign_id, edges.inviter_one_id
        ),
        aged as (
            select *, since + to_microseconds({matured_us}) <= getvariable('cut_at') as is_matured from members
        ),
        sent as (
            select aged.campaign_id, aged.generation, aged.one_id, aged.is_matured,
                count(distinct edges.referral_key) as invitations,
                count(*) filter (where edges.is_credited) as joined,
                count(*) filter (where edges.is_credited and edges.first_paid_at is not null) as first_orders
            from aged left join temp.referral_edges as edges
                on edges.campaign_id = aged.campaign_id and edges.inviter_one_id = aged.one_id
                and edges.invitee_one_id is distinct from aged.one_id
            group by all
        ),
        invited as (
            select aged.campaign_id, aged.generation, edges.invitee_one_id
            from aged inner join temp.referral_edges as edges
                on edges.campaign_id = aged.campaign_id and edges.inviter_one_id = aged.one_id
            where edges.invitee_one_id <> aged.one_id
        )
    """


def _generation_sql(matured_us: int) -> str:
    return f"""
        with {_members_sql(matured_us)},
        cycles as (
            select edges.campaign_id, edges.generation,
                median(epoch(edges.joined_at) - epoch(aged.since)) as cycle_seconds
            from credited as edges
            inner join aged on aged.campaign_id = edges.campaign_id and aged.one_id = edges.inviter_one_id
            group by edges.campaign_id, edges.generation
        ),
        reached as (
            select campaign_id, generation, count(distinct invitee_one_id) as people from invited group by all
        )
        select sent.campaign_id, sent.generation + 1 as generation, count(*) as members,
            count(*) filter (where invitations > 0) as sharers, sum(invitations)::bigint as invitations,
            coalesce(any_value(reached.people), 0) as reached, sum(joined)::bigint as joined,
            sum(first_orders)::bigint as first_orders,
            sum(invitations) / count(*) as i, sum(joined) / nullif(sum(invitations), 0) as c,
            sum(joined) / count(*) as k, sum(first_orders) / count(*) as k_order,
            count(*) filter (where is_matured) as matured_members,
            sum(joined) filter (where is_matured) / nullif(count(*) filter (where is_matured), 0) as matured_k,
            any_value(cycles.cycle_seconds) as median_cycle_seconds
        from sent
        left join cycles on cycles.campaign_id = sent.campaign_id and cycles.generation = sent.generation + 1
        left join reached on reached.campaign_id = sent.campaign_id and reached.generation = sent.generation
        group by sent.campaign_id, sent.generation
        order by sent.campaign_id, generation
    """


def _campaign_sql(matured_us: int) -> str:
    return f"""
        with {_members_sql(matured_us)},
        cycles as (
            select edges.campaign_id, median(epoch(edges.joined_at) - epoch(aged.since)) as cycle_seconds
            from credited as edges
            inner join aged on aged.campaign_id = edges.campaign_id and aged.one_id = edges.inviter_one_id
            group by edges.campaign_id
        ),
        summed as (
            select campaign_id, count(*) filter (where generation = 0) as seeds, count(*) as reach,
                max(generation) as generations, count(*) filter (where invitations > 0) as sharers,
                sum(invitations)::bigint as invitations, sum(joined)::bigint as joined,
                sum(first_orders)::bigint as first_orders, sum(invitations) / count(*) as i,
                sum(joined) / nullif(sum(invitations), 0) as c, sum(joined) / count(*) as k,
                sum(first_orders) / count(*) as k_order,
                sum(joined) filter (where is_matured) / nullif(count(*) filter (where is_matured), 0) as matured_k
            from sent group by campaign_id
        ),
        reached as (
            select campaign_id, count(distinct invitee_one_id) as people from invited group by campaign_id
        )
        select summed.campaign_id, summed.seeds, summed.reach, summed.generations, summed.sharers, summed.invitations,
            coalesce(reached.people, 0) as reached, summed.joined, summed.first_orders, summed.i, summed.c, summed.k,
            summed.k_order, summed.matured_k, cycles.cycle_seconds as median_cycle_seconds,
            case when summed.matured_k < 1 then summed.seeds / (1 - summed.matured_k) end as ceiling
        from summed
        left join cycles on cycles.campaign_id = summed.campaign_id
        left join reached on reached.campaign_id = summed.campaign_id
        order by summed.campaign_id
    """


_EDGE_TEXT = (
    "裂变邀请：每次邀请一行 | One row per invitation, with its credit.",
    {
        "referral_key": "the invitation",
        "campaign_id": "campaign; empty = none",
        "inviter_one_id": "who invited",
        "invitee_one_id": "who was invited",
        "invited_at": "when, UTC",
        "joined_at": "first joining inside the attribution window",
        "first_paid_at": "first paid order inside the attribution window",
        "is_credited": "the inviter earns credit for this invitee; at most one edge per invitee does",
        "outcome": "credited | self | customer | not_joined | lost | not_first (someone else was, or a circle) | "
        "unknown",
        "generation": "of the invitee inside the campaign; null without credit",
    },
)
_GENERATION_TEXT = (
    "裂变代际：每个活动每一代一行 | "
    "One row per campaign and generation: what the members of the generation before did.",
    {
        "campaign_id": "campaign; empty = none",
        "generation": "1 = brought by seeds",
        "members": "people of the generation before (seeds for 1)",
        "sharers": "of these, who invited someone",
        "invitations": "their invitations",
        "reached": "distinct people they invited",
        "joined": "people credited to them",
        "first_orders": "of these, with a first order inside the window",
        "i": "invitations ÷ members",
        "c": "joined ÷ invitations",
        "k": "i × c = joined ÷ members",
        "k_order": "first_orders ÷ members",
        "matured_members": "members who have had time to invite",
        "matured_k": "k over them",
        "median_cycle_seconds": "from a member's own joining to the joining of one they brought",
    },
)
_CAMPAIGN_TEXT = (
    "裂变活动：每个活动一行 | One row per campaign: the forest as a whole.",
    {
        "campaign_id": "campaign; empty = none",
        "seeds": "people who invited and were not brought by the campaign",
        "reach": "seeds + everyone credited",
        "generations": "depth of the forest",
        "sharers": "members who invited someone",
        "invitations": "all invitations",
        "reached": "distinct people invited",
        "joined": "people credited",
        "first_orders": "of these, with a first order inside the window",
        "i": "invitations ÷ reach",
        "c": "joined ÷ invitations",
        "k": "i × c = joined ÷ reach",
        "k_order": "first_orders ÷ reach",
        "matured_k": "k over people who have had time to invite",
        "median_cycle_seconds": "from a member's own joining to the joining of one they brought",
        "ceiling": "seeds ÷ (1 - matured_k); null when it is 1 or more",
    },
)
