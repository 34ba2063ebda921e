/*
Corp messages (企业群发) by receiver, of staff who confirmed them: the latest reading of each.
grain: source, corpid, msgid, userid, external_userid, chat_id
owner: data
*/
with versions as (
    select
        stream.*,
        stream._source as source,
        row_number() over (
            partition by
                stream._source, stream.corpid, stream.msgid, stream.userid, stream.external_userid, stream.chat_id
            order by stream._batch_seq desc, stream._row_number desc
        ) as _version
    from raw.wecom__messages as stream
),

current as (
    select * from versions where _version = 1 and _deleted is not true
),

stg_wecom__messages as (
    select
        current.source,
        trim(current.corpid) as corpid,
        trim(current.msgid) as msgid,
        trim(current.userid) as userid,  -- staff in whose name it went
        coalesce(trim(current.external_userid), '') as external_userid,  -- customer; empty for a group
        coalesce(trim(current.chat_id), '') as chat_id,  -- customer group; empty for a customer
        current.chat_type,  -- single, group
        nullif(trim(current.creator), '') as creator,  -- userid of who made it; null where the API made it for several
        current.create_type,  -- 0 made by the corp, 1 by staff themselves
        nullif(trim(current.content), '') as content,  -- its text; null for pictures and cards alone
        current.created_at,  -- UTC
        current.status,  -- 0 not sent, 1 sent, 2 not a friend, 3 has had its messages of the day
        current.sent_at,  -- UTC; null while not sent
        current._loaded_at as recorded_at  -- UTC, when we learned it
    from current
)

select * from stg_wecom__messages
