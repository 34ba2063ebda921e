/*
WeCom relations: one row per staff member and customer: the latest version of each; relations that ended stay, marked.
grain: source, corpid, userid, external_userid
owner: data
*/
with versions as (
    select
        stream.*,
        stream._source as source,
        row_number() over (
            partition by stream._source, stream.corpid, stream.userid, stream.external_userid, stream._deleted is true
            order by stream._batch_seq desc, stream._row_number desc
        ) as _version,
        max(case when stream._deleted then stream._batch_seq end) over (
            partition by stream._source, stream.corpid, stream.userid, stream.external_userid
        ) as vanished_seq,
        max(case when stream._deleted then stream._loaded_at end) over (
            partition by stream._source, stream.corpid, stream.userid, stream.external_userid
        ) as vanished_at
    from raw.wecom__relations as stream
),

current as (
    -- what a vanished row last said, and whether it is still vanished
    select *, coalesce(vanished_seq > _batch_seq, false) as is_vanished
    from versions
    where _version = 1 and _deleted is not true
),

stg_wecom__relations as (
    select
        current.source,
        trim(current.corpid) as corpid,
        trim(current.userid) as userid,  -- staff member
        trim(current.external_userid) as external_userid,  -- customer, one id per corp
        nullif(trim(current.unionid), '') as unionid,  -- only WeChat users of a bound corp [personal]
        current.type,  -- 1 WeChat user, 2 WeCom user
        nullif(trim(current.name), '') as name,  -- nickname [personal]
        current.gender,  -- 0 unknown, 1 male, 2 female
        current.added_at,  -- UTC, start of this relation
        coalesce(current.tag_ids, []) as tag_ids,  -- corp tags on this pair
        coalesce(current.remark_mobiles, []) as remark_mobiles,  -- typed by staff, so weak [personal]
        current.add_way,
        nullif(trim(current.state), '') as state,  -- channel parameter
        coalesce(current.read_at, current._loaded_at) as read_at,  -- UTC, when this pair was read
        current.is_vanished,  -- no longer listed: one side has removed the other
        case when current.is_vanished then current.vanished_at end as removed_at,  -- UTC, when we saw that
        current._loaded_at as recorded_at  -- UTC, when we learned it
    from current
)

select * from stg_wecom__relations
