/*
Everything a person did, tracked or told by business tables, on one time line. Funnels read it.
description_zh: 用户旅程：埋点与业务事件同一条时间线
grain: event_key
owner: data
materialized: view
*/
with tracked as (
    select
        event_key, one_id, event_name, event_at, event_date, channel, campaign_id, order_key, product_id, amount,
        null::bigint as order_no, properties, source
    from marts.fct_events
    where one_id is not null
),

told as (
    select
        event_key, one_id, event_name, event_at, event_date, channel, campaign_id, order_key,
        null::varchar as product_id, amount, order_no, properties, 'business' as source
    from marts.fct_person_events
),

united as (
    select * from tracked
    union all by name
    select * from told
),

fct_journey as (
    select
        event_key,
        one_id,
        event_name,
        event_at,  -- UTC
        event_date,  -- in the brand's zone
        channel,
        campaign_id,
        order_key,
        product_id,
        amount,
        order_no,  -- of the person's paid orders
        properties,  -- JSON object
        source  -- of tracked events; `business` for the others
    from united
)

select * from fct_journey
