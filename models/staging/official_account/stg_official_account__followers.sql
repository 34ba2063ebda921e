/*
Followers of Official Accounts (公众号): the latest version of each; those who left stay, marked.
grain: source, appid, openid
owner: data
*/
with versions as (
    select
        stream.*,
        stream._source as source,
        row_number() over (
            partition by stream._source, stream.appid, stream.openid, stream._deleted is true
            order by stream._batch_seq desc, stream._row_number desc
        ) as _version,
        max(case when stream._deleted then stream._batch_seq end) over (
            partition by stream._source, stream.appid, stream.openid
        ) as vanished_seq,
        max(case when stream._deleted then stream._loaded_at end) over (
            partition by stream._source, stream.appid, stream.openid
        ) as vanished_at
    from raw.official_account__followers as stream
),

current as (
    -- what a vanished row last said, and whether it is still vanished
    select *, coalesce(vanished_seq > _batch_seq, false) as is_vanished
    from versions
    where _version = 1 and _deleted is not true
),

stg_official_account__followers as (
    select
        current.source,
        trim(current.appid) as appid,
        trim(current.openid) as openid,  -- [personal]
        nullif(trim(current.unionid), '') as unionid,  -- [personal]
        coalesce(current.subscribe, true) and not current.is_vanished as is_following,
        current.subscribed_at,  -- UTC, latest subscription
        nullif(trim(current.subscribe_scene), '') as subscribe_scene,
        nullif(trim(current.qr_scene_str), '') as qr_scene_str,  -- parameter of the scanned code
        coalesce(current.tag_ids, []) as tag_ids,
        current._loaded_at as recorded_at  -- UTC, when we learned it
    from current
)

select * from stg_official_account__followers
