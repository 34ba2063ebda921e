/*
Staff named in tables and files as tables and files give them: the latest version of each, vanished ones left out.
grain: source, corpid, userid
owner: data
*/
with versions as (
    select
        stream.*,
        stream._source as source,
        row_number() over (
            partition by stream._source, stream.corpid, stream.userid
            order by stream._batch_seq desc, stream._row_number desc
        ) as _version
    from raw.canonical__staff as stream
),

current as (
    select * from versions where _version = 1 and _deleted is not true
),

stg_canonical__staff as (
    select
        current.source,  -- the source this row came from
        trim(current.userid) as userid,  -- staff member
        coalesce(nullif(trim(current.corpid), ''), scopes.corpid, '') as corpid,  -- default: the source's, else the only corp there is
        nullif(trim(current.name), '') as name,  -- [personal]
        nullif(trim(current.department), '') as department,
        nullif(trim(current.store_id), '') as store_id,
        nullif(trim(current.status), '') as status,
        current._loaded_at as recorded_at  -- UTC, when we learned it
    from current
    left join staging.stg_sources as scopes on scopes.source = current.source
)

select * from stg_canonical__staff
