/*
Members of customer groups: the latest version of each, vanished ones left out.
grain: source, corpid, chat_id, member_id
owner: data
*/
with versions as (
    select
        stream.*,
        stream._source as source,
        row_number() over (
            partition by stream._source, stream.corpid, stream.chat_id, stream.member_id
            order by stream._batch_seq desc, stream._row_number desc
        ) as _version
    from raw.wecom__group_members as stream
),

current as (
    select * from versions where _version = 1 and _deleted is not true
),

stg_wecom__group_members as (
    select
        current.source,
        trim(current.corpid) as corpid,
        trim(current.chat_id) as chat_id,
        trim(current.member_id) as member_id,  -- userid of staff, external_userid of a customer
        current.member_type,  -- 1 staff, 2 external
        nullif(trim(current.unionid), '') as unionid,  -- [personal]
        current.join_at,  -- UTC
        current.join_scene,  -- 1 invited, 2 link, 3 QR code
        nullif(trim(current.invitor), '') as invitor,  -- userid of who invited
        nullif(trim(current.state), '') as state,  -- channel parameter
        current._loaded_at as recorded_at  -- UTC, when we learned it
    from current
)

select * from stg_wecom__group_members
