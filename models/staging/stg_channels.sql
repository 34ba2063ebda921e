/*
Channels of acquisition over all sources; the latest report of each. A channel list goes before WeCom's contact ways, which
know a channel by what staff call it.
grain: channel_id
owner: data
*/
with listed as (
    select *, 1 as trust, '' as config_id from staging.stg_canonical__channels
),

ways as (
    select
        state as channel_id,
        source,
        coalesce(remark, state) as channel_name,
        'contact_way' as channel_kind,
        recorded_at,
        2 as trust,
        config_id
    from staging.stg_wecom__contact_ways
    where state is not null
),

united as (
    select * from listed
    union all by name
    select * from ways
),

ranked as (
    select
        *,
        row_number() over (
            partition by channel_id order by trust, recorded_at desc, source, config_id
        ) as place
    from united
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
