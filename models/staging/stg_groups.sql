/*
Customer groups (客户群).
grain: group_key
owner: data
*/
with stg_groups as (
    select
        concat(corpid, '|', chat_id) as group_key,
        source,
        corpid,
        chat_id,
        name,
        owner,  -- userid of the owning staff member
        admins,  -- userids of the administrators
        status,  -- 0 normal, 1 owner left, 2 inheriting, 3 inherited
        created_at,  -- UTC
        recorded_at  -- UTC, when we learned it
    from staging.stg_wecom__group_chats
)

select * from stg_groups
