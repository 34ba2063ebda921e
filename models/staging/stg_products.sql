/*
Products over all sources; the latest report of each product.
grain: product_id
owner: data
*/
with ranked as (
    select
        *,
        row_number() over (
            partition by product_id order by updated_at desc nulls last, recorded_at desc, source
        ) as place
    from staging.stg_canonical__products
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
