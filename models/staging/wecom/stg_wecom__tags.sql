/*
The tag library of WeCom: the latest version of each, vanished ones left out.
grain: source, corpid, tag_id
owner: data
*/
with versions as (
    select
        stream.*,
        stream._source as source,
        row_number() over (
            partition by stream._source, stream.corpid, stream.tag_id
            order by stream._batch_seq desc, stream._row_number desc
        ) as _version
    from raw.wecom__tags as stream
),

current as (
    select * from versions where _version = 1 and _deleted is not true
),

stg_wecom__tags as (
    select
        current.source,
        trim(current.corpid) as corpid,
        trim(current.tag_id) as tag_id,
        current.tag_name,
        current.group_id,
        current.group_name,
        current.group_order,  -- higher shows first
        current.tag_order,  -- higher shows first
        current.created_at,  -- UTC
        current._loaded_at as recorded_at  -- UTC, when we learned it
    from current
)

select * from stg_wecom__tags
