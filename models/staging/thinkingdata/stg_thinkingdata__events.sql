/*
Events of ThinkingData logs, in the columns all events share. Names are kept as the source writes them.
grain: source, event_id
owner: data
*/
with records as (
    select
        *,
        json_extract_string(
            properties,
            [
                '$."#session_id"', '$.session_id', '$."#url_path"', '$."#screen_name"', '$.page', '$.channel', '$.campaign_id',
                '$."#utm_source"', '$.utm_source', '$.utm_medium', '$.utm_campaign', '$.order_id', '$.product_id', '$.amount',
                '$."#device_id"'
            ]
        ) as found
    from staging.stg_thinkingdata__records
    where type in ('track', 'track_update', 'track_overwrite')
),

stg_thinkingdata__events as (
    select
        source,
        record_key as event_id,
        event_name,
        event_at,  -- UTC
        distinct_id as anonymous_id,  -- [personal]
        account_id as user_id,  -- [personal]
        found[15] as device_id,  -- [personal]
        coalesce(found[1], found[2]) as session_id,
        coalesce(found[3], found[4], found[5]) as page,
        found[6] as channel,
        found[7] as campaign_id,
        coalesce(found[8], found[9]) as utm_source,
        found[10] as utm_medium,
        found[11] as utm_campaign,
        nullif(trim(found[12]), '') as order_id,
        nullif(trim(found[13]), '') as product_id,
        try_cast(found[14] as decimal(18, 2)) as amount,
        properties,  -- JSON object
        identifiers,  -- strongest first [personal]
        recorded_at  -- UTC, when we learned it
    from records
)

select * from stg_thinkingdata__events
