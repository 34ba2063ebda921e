/*
Channels of acquisition as tables and files give them: the latest version of each, vanished ones left out.
grain: source, channel_id
owner: data
*/
with versions as (
    select
        stream.*,
        stream._source as source,
        row_number() over (
            partition by stream._source, stream.channel_id
            order by stream._batch_seq desc, stream._row_number desc
        ) as _version
    from raw.canonical__channels as stream
),

current as (
    select * from versions where _version = 1 and _deleted is not true
),

stg_canonical__channels as (
    select
        current.source,  -- the source this row came from
        trim(current.channel_id) as channel_id,  -- the contact way's `state`
        nullif(trim(current.channel_name), '') as channel_name,
        nullif(trim(current.channel_kind), '') as channel_kind,
        nullif(trim(current.campaign_id), '') as campaign_id,
        current.cost,
        current._loaded_at as recorded_at  -- UTC, when we learned it
    from current
)

select * from stg_canonical__channels
