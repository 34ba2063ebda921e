/*
Money spent on channels as tables and files give them: the latest version of each, vanished ones left out.
grain: source, cost_id
owner: data
*/
with versions as (
    select
        stream.*,
        stream._source as source,
        row_number() over (
            partition by stream._source, stream.cost_id
            order by stream._batch_seq desc, stream._row_number desc
        ) as _version
    from raw.canonical__costs as stream
),

current as (
    select * from versions where _version = 1 and _deleted is not true
),

stg_canonical__costs as (
    select
        current.source,  -- the source this row came from
        trim(current.cost_id) as cost_id,
        nullif(trim(current.channel_id), '') as channel_id,  -- the contact way's `state`
        current.date,  -- day in the brand's zone
        current.amount,
        nullif(trim(current.currency), '') as currency,
        current._loaded_at as recorded_at  -- UTC, when we learned it
    from current
)

select * from stg_canonical__costs
