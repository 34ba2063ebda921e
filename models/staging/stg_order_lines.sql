/*
Products of orders over all sources; the latest report of each line.
grain: order_line_key
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
        order_lines.*,
        coalesce(nullif(order_lines.platform, ''), orders.platform, sources.platform, '') as order_platform,
        coalesce(nullif(order_lines.shop, ''), orders.shop, sources.shop, '') as order_shop
    from staging.stg_canonical__order_lines as order_lines
    left join staging.stg_sources as sources on sources.source = order_lines.source
    left join orders on orders.source = order_lines.source and orders.order_id = order_lines.order_id
),

ranked as (
    select
        *,
        row_number() over (
            partition by order_platform, order_shop, order_id, line_id order by recorded_at desc, source
        ) as place
    from keyed
),

stg_order_lines as (
    select
        concat(order_platform, '|', order_shop, '|', order_id, '|', line_id) as order_line_key,  -- the same over all sources
        source,
        concat(order_platform, '|', order_shop, '|', order_id) as order_key,
        order_id,
        line_id,
        order_platform as platform,
        order_shop as shop,
        product_id,
        sku,
        product_name,
        category,
        quantity,
        price,
        amount,
        recorded_at  -- UTC, when we learned it
    from ranked
    where place = 1
)

select * from stg_order_lines
