/*
Products of orders.
description_zh: 订单明细
grain: order_line_key
owner: data
*/
with lines as (
    select * from staging.stg_order_lines
),

orders as (
    select order_key, one_id, paid_at from marts.fct_orders
),

products as (
    select * from marts.dim_products
),

fct_order_lines as (
    select
        lines.order_line_key,
        lines.order_key,
        orders.one_id,  -- the buyer
        orders.paid_at,  -- UTC, of the order
        lines.product_id,
        coalesce(lines.product_name, products.product_name) as product_name,
        coalesce(lines.category, products.category) as category,
        lines.quantity,
        lines.price,
        lines.amount
    from lines
    left join orders on orders.order_key = lines.order_key
    left join products on products.product_id = lines.product_id
)

select * from fct_order_lines
