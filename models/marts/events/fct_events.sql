/*
Tracked events of every source, each with the person it belongs to. Event names are kept as the source writes them.
description_zh: 埋点事件
grain: event_key
owner: data
partition: event_date
*/
with events as (
    select * from staging.stg_events
),

order_keys as (
    -- events name an order by its id alone: it counts only where one shop has an order of that id
    select order_id, min(order_key) as order_key
    from staging.stg_orders
    group by order_id
    having count(*) = 1
),

fct_events as (
    select
        events.event_key,
        events.source,
        sets.one_id,  -- who did it; null when no identifier leads to a person (shared devices, blocked ids)
        events.event_name,
        events.event_at,  -- UTC, corrected for wrong clocks where the source allows
        cast(timezone(getvariable('timezone'), events.event_at) as date) as event_date,  -- in the brand's zone
        events.session_id,
        events.page,
        events.channel,
        events.campaign_id,
        events.utm_source,
        events.utm_medium,
        events.utm_campaign,
        order_keys.order_key,
        events.product_id,
        events.amount,
        events.properties  -- JSON object
    from events
    left join intermediate.int_people__identifier_sets as sets
        on sets.identifiers = events.identifiers
        and coalesce(events.event_at, events.recorded_at) >= sets.valid_from
        and coalesce(events.event_at, events.recorded_at) < sets.valid_to
    left join order_keys on order_keys.order_id = events.order_id
)

select * from fct_events
