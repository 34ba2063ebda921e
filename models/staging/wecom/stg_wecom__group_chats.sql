/*
Customer groups (客户群): the latest version of each, vanished ones left out.
grain: source, corpid, chat_id
owner: data
*/
with versions as (
    select
        stream.*,
        stream._source as source,
        row_number() over (
            partition by stream._source, stream.corpid, stream.chat_id
            order by stream._batch_seq desc, stream._row_number desc
        ) as _version
    from raw.wecom__group_chats as stream
),

current as (
    select * from versions where _version = 1 and _deleted is not true
),

stg_wecom__group_chats as (
    select
        current.source,
        trim(current.corpid) as corpid,
        trim(current.chat_id) as chat_id,
        nullif(trim(current.name), '') as name,
        nullif(trim(current.owner), '') as owner,  -- userid of the owning staff member
        current.admins,  -- userids of the administrators
        current.status,  -- 0 normal, 1 owner left, 2 inheriting, 3 inherited
        current.created_at,  -- UTC
        current._loaded_at as recorded_at  -- UTC, when we learned it
    from current
)

select * from stg_wecom__group_chats
