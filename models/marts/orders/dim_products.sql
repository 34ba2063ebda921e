/*
Products: those of product tables, and those that only order lines name.
description_zh: 商品
grain: product_id
owner: data
*/
with listed as (
    select * from staging.stg_products
),

sold as (
    select
        product_id,
        arg_min(sku, order_line_key) as sku,
        arg_min(product_name, order_line_key) as product_name,
        arg_min(category, order_line_key) as category
    from staging.stg_order_lines
    where product_id is not null
    group by product_id
),

dim_products as (
    select
        coalesce(listed.product_id, sold.product_id) as product_id,
        coalesce(listed.sku, sold.sku) as sku,
        coalesce(listed.product_name, sold.product_name) as product_name,
        coalesce(listed.category, sold.category) as category,
        listed.brand,
        listed.price,
        listed.cost
    from listed
    full join sold on sold.product_id = listed.product_id
)

select * from dim_products
