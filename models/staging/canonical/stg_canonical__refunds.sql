/*
Refunds of orders as tables and files give them: the latest version of each, vanished ones left out.
grain: source, platform, shop, refund_id
owner: data
*/
with versions as (
    select
        stream.*,
        stream._source as source,
        row_number() over (
            partition by stream._source, stream.platform, stream.shop, stream.refund_id
            order by stream._version_at desc nulls last, stream._batch_seq desc, stream._row_number desc
        ) as _version
    from raw.canonical__refunds as stream
),

current as (
    select * from versions where _version = 1 and _deleted is not true
),

stg_canonical__refunds as (
    select
        current.source,  -- the source this row came from
        trim(current.refund_id) as refund_id,
        nullif(trim(current.order_id), '') as order_id,
        coalesce(trim(current.platform), '') as platform,  -- mini_program, taobao, jd, …
        coalesce(trim(current.shop), '') as shop,
        current.refunded_at,  -- UTC
        current.amount,
        nullif(trim(current.currency), '') as currency,
        nullif(trim(current.reason), '') as reason,
        current._loaded_at as recorded_at  -- UTC, when we learned it
    from current
)

select * from stg_canonical__refunds
