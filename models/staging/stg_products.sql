/*
Products over all sources, items of Sensors Analytics that are goods among them; the latest report of each product.
grain: product_id
owner: data
*/
with items as (
    select
        source,
        item_id as product_id,
        json_extract_string(
            properties,
            [
                '$.sku', '$.sku_id', '$.product_name', '$.name', '$.item_name', '$.title', '$.category',
                '$.category_name', '$.brand', '$.brand_name', '$.price', '$.sale_price', '$.cost'
            ]
        ) as found,
        updated_at,
        recorded_at
    from staging.stg_sensors__items
    where lower(item_type) in ('product', 'products', 'goods', 'sku', 'spu', 'commodity', '商品')
),

reports as (
    select * from staging.stg_canonical__products
    union all by name
    select
        source,
        product_id,
        nullif(trim(coalesce(found[1], found[2])), '') as sku,
        nullif(trim(coalesce(found[3], found[4], found[5], found[6])), '') as product_name,
        nullif(trim(coalesce(found[7], found[8])), '') as category,
        nullif(trim(coalesce(found[9], found[10])), '') as brand,
        try_cast(coalesce(found[11], found[12]) as decimal(18, 2)) as price,
        try_cast(found[13] as decimal(18, 2)) as cost,
        updated_at,
        recorded_at
    from items
),

ranked as (
    select
        *,
        row_number() over (
            partition by product_id order by updated_at desc nulls last, recorded_at desc, source
        ) as place
    from reports
),

stg_products as (
    select
        product_id,
        source,
        sku,
        product_name,
        category,
        brand,
        price,
        cost,
        updated_at,  -- UTC, in the source
        recorded_at  -- UTC, when we learned it
    from ranked
    where place = 1
)

select * from stg_products
