/*
Channels of acquisition over all sources; the latest report of each.
grain: channel_id
owner: data
*/
with ranked as (
    select *, row_number() over (partition by channel_id order by recorded_at desc, source) as place
    from staging.stg_canonical__channels
),

stg_channels as (
    select
        channel_id,  -- the contact way's `state`
        source,
        channel_name,
        channel_kind,
        campaign_id,
        cost,
        recorded_at  -- UTC, when we learned it
    from ranked
    where place = 1
)

select * from stg_channels
