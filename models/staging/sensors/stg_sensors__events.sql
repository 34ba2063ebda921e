/*
Events of Sensors Analytics logs, in the columns all events share. Names are kept as the source writes them.
grain: source, event_id
owner: data
*/
with records as (
    select
        *,
        json_extract_string(
            properties,
            [
                '$."$session_id"', '$."$event_session_id"', '$.session_id', '$."$url_path"', '$."$screen_name"', '$."$url"',
                '$.page', '$.channel', '$.campaign_id', '$."$utm_source"', '$.utm_source', '$."$utm_medium"',
                '$.utm_medium', '$."$utm_campaign"', '$.utm_campaign', '$.order_id', '$.product_id', '$.amount',
                '$.order_amount', '$."$device_id"'
            ]
        ) as found
    from staging.stg_sensors__records
    where type in ('track', 'track_signup', 'track_id_bind', 'track_id_unbind')
),

stg_sensors__events as (
    select
        source,
        record_key as event_id,
        event_name,
        event_at,  -- UTC
        received_at,  -- UTC
        anonymous_id,  -- [personal]
        login_id as user_id,  -- [personal]
        found[20] as device_id,  -- [personal]
        coalesce(found[1], found[2], found[3]) as session_id,
        coalesce(found[4], found[5], found[7], found[6]) as page,
        found[8] as channel,
        found[9] as campaign_id,
        coalesce(found[10], found[11]) as utm_source,
        coalesce(found[12], found[13]) as utm_medium,
        coalesce(found[14], found[15]) as utm_campaign,
        nullif(trim(found[16]), '') as order_id,
        nullif(trim(found[17]), '') as product_id,
        try_cast(coalesce(found[18], found[19]) as decimal(18, 2)) as amount,
        properties,  -- JSON object
        identifiers,  -- strongest first [personal]
        recorded_at,  -- UTC, when we learned it
        batch_seq  -- landing batch that brought it
    from records
)

select * from stg_sensors__events
