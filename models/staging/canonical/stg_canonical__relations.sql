/*
Staff-customer relations that come in tables and files rather than over the WeCom API.
grain: source, corpid, userid, external_userid
owner: data
*/
with versions as (
    select
        stream.*,
        stream._source as source,
        row_number() over (
            partition by stream._source, stream.corpid, stream.userid, stream.external_userid
            order by stream._batch_seq desc, stream._row_number desc
        ) as _version
    from raw.canonical__relations as stream
),

current as (
    select * from versions where _version = 1 and _deleted is not true
),

stg_canonical__relations as (
    select
        current.source,
        coalesce(nullif(trim(current.corpid), ''), sources.corpid, '') as corpid,  -- default: the source's, else the only one
        trim(current.userid) as userid,  -- staff member
        trim(current.external_userid) as external_userid,  -- WeCom customer id
        current.added_at,  -- UTC
        current.removed_at,  -- UTC
        nullif(trim(current.state), '') as state,  -- channel parameter
        current.add_way,
        current._loaded_at as recorded_at  -- UTC, when we learned it
    from current
    left join staging.stg_sources as sources on sources.source = current.source
)

select * from stg_canonical__relations
