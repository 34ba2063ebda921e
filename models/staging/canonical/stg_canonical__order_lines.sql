/*
Products of orders as tables and files give them: the latest version of each, vanished ones left out.
grain: source, platform, shop, order_id, line_id
owner: data
*/
with versions as (
    select
        stream.*,
        stream._source as source,
        row_number() over (
            partition by stream._source, stream.platform, stream.shop, stream.order_id, stream.line_id
            order by stream._version_at desc nulls last, stream._batch_seq desc, stream._row_number desc
        ) as _version
    from raw.canonical__order_lines as stream
),

current as (
    select * from versions where _version = 1 and _deleted is not true
),

stg_canonical__order_lines as (
    select
        current.source,  -- the source this row came from
        nullif(trim(current.order_id), '') as order_id,
        trim(current.line_id) as line_id,
        coalesce(trim(current.platform), '') as platform,  -- mini_program, taobao, jd, …
        coalesce(trim(current.shop), '') as shop,
        nullif(trim(current.product_id), '') as product_id,
        nullif(trim(current.sku), '') as sku,
        nullif(trim(current.product_name), '') as product_name,
        nullif(trim(current.category), '') as category,
        current.quantity,
        current.price,
        current.amount,
        current._loaded_at as recorded_at  -- UTC, when we learned it
    from current
)

select * from stg_canonical__order_lines
