/*
Refunds over all sources; the latest report of each.
grain: refund_key
owner: data
*/
with orders as (
    -- Lines and refunds of many systems name the order alone; its platform and shop are those of the same source's order.
    select source, order_id, min(platform) as platform, min(shop) as shop
    from staging.stg_canonical__orders
    group by source, order_id
    having count(*) = 1
),

keyed as (
    select
        refunds.*,
        coalesce(nullif(refunds.platform, ''), orders.platform, sources.platform, '') as order_platform,
        coalesce(nullif(refunds.shop, ''), orders.shop, sources.shop, '') as order_shop
    from staging.stg_canonical__refunds as refunds
    left join staging.stg_sources as sources on sources.source = refunds.source
    left join orders on orders.source = refunds.source and orders.order_id = refunds.order_id
),

ranked as (
    select
        *,
        row_number() over (
            partition by order_platform, order_shop, refund_id order by recorded_at desc, source
        ) as place
    from keyed
),

stg_refunds as (
    select
        concat(order_platform, '|', order_shop, '|', refund_id) as refund_key,  -- the same over all sources
        source,
        refund_id,
        concat(order_platform, '|', order_shop, '|', order_id) as order_key,
        order_id,
        order_platform as platform,
        order_shop as shop,
        refunded_at,  -- UTC
        amount,
        currency,
        reason,
        recorded_at  -- UTC, when we learned it
    from ranked
    where place = 1
)

select * from stg_refunds
