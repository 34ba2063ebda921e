/*
Products as tables and files give them: the latest version of each, vanished ones left out.
grain: source, product_id
owner: data
*/
with versions as (
    select
        stream.*,
        stream._source as source,
        row_number() over (
            partition by stream._source, stream.product_id
            order by stream._version_at desc nulls last, stream._batch_seq desc, stream._row_number desc
        ) as _version
    from raw.canonical__products as stream
),

current as (
    select * from versions where _version = 1 and _deleted is not true
),

stg_canonical__products as (
    select
        current.source,  -- the source this row came from
        trim(current.product_id) as product_id,
        nullif(trim(current.sku), '') as sku,
        nullif(trim(current.product_name), '') as product_name,
        nullif(trim(current.category), '') as category,
        nullif(trim(current.brand), '') as brand,
        current.price,
        current.cost,
        current.updated_at,  -- UTC, in the source
        current._loaded_at as recorded_at  -- UTC, when we learned it
    from current
)

select * from stg_canonical__products
