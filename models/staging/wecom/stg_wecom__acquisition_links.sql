/*
Acquisition links (获客链接): the latest version of each, vanished ones left out.
grain: source, corpid, link_id
owner: data
*/
with versions as (
    select
        stream.*,
        stream._source as source,
        row_number() over (
            partition by stream._source, stream.corpid, stream.link_id
            order by stream._batch_seq desc, stream._row_number desc
        ) as _version
    from raw.wecom__acquisition_links as stream
),

current as (
    select * from versions where _version = 1 and _deleted is not true
),

stg_wecom__acquisition_links as (
    select
        current.source,
        trim(current.corpid) as corpid,
        trim(current.link_id) as link_id,
        nullif(trim(current.name), '') as name,
        nullif(trim(current.url), '') as url,
        current.users,  -- userids it leads to, as JSON
        current.created_at,  -- UTC
        current._loaded_at as recorded_at  -- UTC, when we learned it
    from current
)

select * from stg_wecom__acquisition_links
