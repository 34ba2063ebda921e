/*
One row per person with a tracked event in the last 400 brand days: how lively the person has been.
A run makes again the people whose events changed, were counted for the first time, or left a window. Windows are
therefore written as `cut_date - N`: on the day an event leaves one, its person is made again
(warehouse/touched_people.py).
description_zh: 个人活跃：每个有行为的人一行，近 400 天的行为，按人增量更新
grain: one_id
owner: analytics
materialized: incremental
scope: one_id in (select one_id from temp.active_people)
cursor: select epoch_us(timezone(getvariable('timezone'), date_trunc('day', timezone(getvariable('timezone'), getvariable('as_of')))))
*/
with events as (
    select one_id, event_at, event_date, cast(timezone(getvariable('timezone'), getvariable('as_of')) as date) as cut_date
    from marts.fct_events
    where one_id is not null
        and event_at < timezone(
            getvariable('timezone'), date_trunc('day', timezone(getvariable('timezone'), getvariable('as_of')))
        )
        and (getvariable('cursor') is null or one_id in (select one_id from temp.active_people))
),

fct_person_activity as (
    select
        one_id,  -- the person
        max(event_at) as last_event_at,  -- last tracked event, UTC
        max(event_date) as last_event_date,  -- its day in the brand's zone
        count(*) filter (where event_date >= cut_date - 7) as interactions_7d,  -- tracked events of the last 7 brand days
        count(*) filter (where event_date >= cut_date - 30) as interactions_30d,  -- tracked events of the last 30 brand days
        count(*) filter (where event_date >= cut_date - 90) as interactions_90d,  -- tracked events of the last 90 brand days
        -- A bit for each day: counting distinct days of each person costs as much as all the rest.
        coalesce(cast(bit_count(bit_or(
            case when event_date >= cut_date - 30 then 1::bigint << (cut_date - event_date) end
        )) as bigint), 0) as active_days_30d  -- brand days with an event, of the last 30
    from events
    where event_date >= cut_date - 400
    group by one_id
)

select * from fct_person_activity
