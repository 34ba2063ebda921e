/*
WeCom staff who may have customers: the latest version of each, vanished ones left out.
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
    from raw.wecom__staff as stream
),

current as (
    select * from versions where _version = 1 and _deleted is not true
),

stg_wecom__staff as (
    select
        current.source,
        trim(current.corpid) as corpid,
        trim(current.userid) as userid,  -- case-sensitive
        nullif(trim(current.name), '') as name,
        current.department,  -- ids, as a JSON list
        current.status,  -- 1 active, 2 disabled, 4 not activated, 5 left
        current._loaded_at as recorded_at  -- UTC, when we learned it
    from current
)

select * from stg_wecom__staff
