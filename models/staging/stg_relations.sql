/*
Relations between staff and customers over all sources; WeCom's own word goes before that of files.
grain: relation_key
owner: data
*/
with united as (
    select *, 1 as trust from staging.stg_wecom__relations
    union all by name
    select *, 2 as trust from staging.stg_canonical__relations
),

ranked as (
    select
        *,
        row_number() over (
            partition by corpid, userid, external_userid order by trust, recorded_at desc, source
        ) as place
    from united
),

stg_relations as (
    select
        concat(corpid, '|', userid, '|', external_userid) as relation_key,  -- unique over all sources
        source,
        corpid,
        userid,  -- staff member
        external_userid,  -- customer
        unionid,  -- [personal]
        name,  -- nickname [personal]
        case gender when 1 then 'male' when 2 then 'female' end as gender,  -- male, female; null = not known
        type,  -- 1 WeChat user, 2 WeCom user
        added_at,  -- UTC, start of this relation
        removed_at,  -- UTC, when it ended or we saw that it had
        coalesce(is_vanished, false) is false and removed_at is null as is_active,
        state,  -- channel parameter
        add_way,
        coalesce(tag_ids, []) as tag_ids,  -- corp tags on this pair
        coalesce(remark_mobiles, []) as remark_mobiles,  -- typed by staff, so weak [personal]
        coalesce(read_at, recorded_at) as read_at,  -- UTC, when this pair was read
        list_filter(
            [
                {'type': 'unionid', 'scope': '', 'value': unionid},
                {'type': 'external_userid', 'scope': corpid, 'value': external_userid}
            ],
            lambda item: item.value is not null
        ) as identifiers,  -- strongest first [personal]
        recorded_at  -- UTC, when we learned it
    from ranked
    where place = 1
)

select * from stg_relations
