/*
Tracked events of every source, each with the person it belongs to. Event names are kept as the source writes them.
New landing batches are added; events of people whom identity merged, split or moved since get their person anew
(fct_events.update.sql), so what a visitor did before logging in belongs to whom the visitor turned out to be.
description_zh: 埋点事件
grain: event_key
owner: data
partition: event_date
materialized: incremental
follows: staging.stg_tracking_batches
cursor: select max(looked_up_at) from intermediate.int_people__identifier_sets
*/
with events as (
    select *, md5_number_lower(concat(getvariable('salt'), cast(identifiers as varchar))) as identifier_set
    from staging.stg_events
),

order_keys as (
    select * from staging.stg_order_keys
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
        events.order_id,  -- as the event says it
        order_keys.order_key,  -- null when no order, or orders of several shops, have that id
        events.product_id,
        events.amount,
        events.properties,  -- JSON object
        events.identifier_set,  -- keyed digest of the identifiers the event carries
        events.batch_seq,  -- landing batch that brought it
        events.recorded_at  -- UTC, when it landed
    from events
    left join intermediate.int_people__identifier_sets as sets
        on sets.identifier_set = events.identifier_set
        and coalesce(events.event_at, events.recorded_at) >= sets.valid_from
        and coalesce(events.event_at, events.recorded_at) < sets.valid_to
    left join order_keys on order_keys.order_id = events.order_id
)

select * from fct_events
