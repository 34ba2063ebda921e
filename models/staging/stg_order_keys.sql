/*
Which order an order id means where nothing else is said: only ids that one shop alone has.
grain: order_id
owner: data
*/
with orders as (
    select * from staging.stg_orders
),

stg_order_keys as (
    select
        order_id,
        min(order_key) as order_key
    from orders
    group by order_id
    having count(*) = 1
)

select * from stg_order_keys
