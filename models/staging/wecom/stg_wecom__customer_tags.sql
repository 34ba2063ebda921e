/*
Tags on pairs of staff and customers as `get` shows them, personal and strategy ones too: those there at the last full pull.
grain: source, corpid, userid, external_userid, kind, tag_id, tag_name
owner: data
*/
with versions as (
    select
        stream.*,
        stream._source as source,
        row_number() over (
            partition by
                stream._source, stream.corpid, stream.userid, stream.external_userid, stream.type, stream.tag_id, stream.tag_name
            order by stream._batch_seq desc, stream._row_number desc
        ) as _version
    from raw.wecom__customer_tags as stream
),

current as (
    select * from versions where _version = 1 and _deleted is not true
),

stg_wecom__customer_tags as (
    select
        current.source,
        trim(current.corpid) as corpid,
        trim(current.userid) as userid,
        trim(current.external_userid) as external_userid,
        case current.type when 1 then 'corp' when 2 then 'personal' when 3 then 'strategy' else 'other' end as kind,
        nullif(trim(current.tag_id), '') as tag_id,  -- personal tags have none
        trim(current.tag_name) as tag_name,
        nullif(trim(current.group_name), '') as group_name,
        current._loaded_at as recorded_at  -- UTC, when we learned it
    from current
)

select * from stg_wecom__customer_tags
