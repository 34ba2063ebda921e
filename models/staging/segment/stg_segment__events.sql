/*
Tracked events, pages and screens of Segment messages, in the columns all events share. Names are kept as they came.
grain: source, event_id
owner: data
*/
with messages as (
    select
        *,
        json_extract_string(
            properties,
            [
                '$.session_id', '$.path', '$.url', '$.channel', '$.campaign_id', '$.order_id', '$.orderId', '$.product_id',
                '$.amount', '$.revenue', '$.total', '$.value', '$.name'
            ]
        ) as found,
        json_extract_string(
            context,
            [
                '$.campaign.source', '$.campaign.medium', '$.campaign.name', '$.page.path', '$.device.id', '$.sessionId'
            ]
        ) as around
    from staging.stg_segment__messages
    where type in ('track', 'page', 'screen')
),

stg_segment__events as (
    select
        source,
        message_id as event_id,
        case when type = 'track' then event else type end as event_name,
        event_at,  -- UTC
        received_at,  -- UTC
        anonymous_id,  -- [personal]
        user_id,  -- [personal]
        around[5] as device_id,  -- [personal]
        coalesce(found[1], around[6]) as session_id,
        coalesce(found[2], around[4], name, found[13], case when type <> 'track' then event end, found[3]) as page,
        found[4] as channel,
        found[5] as campaign_id,
        around[1] as utm_source,
        around[2] as utm_medium,
        around[3] as utm_campaign,
        nullif(trim(coalesce(found[6], found[7])), '') as order_id,
        nullif(trim(found[8]), '') as product_id,
        try_cast(coalesce(found[9], found[10], found[11], found[12]) as decimal(18, 2)) as amount,
        properties,  -- JSON object
        identifiers,  -- strongest first [personal]
        recorded_at,  -- UTC, when we learned it
        batch_seq  -- landing batch that brought it
    from messages
)

select * from stg_segment__events
