/*
Members of customer groups, staff included.
description_zh: 客户群成员
grain: membership_key
owner: data
*/
with members as (
    select * from staging.stg_group_members
),

groups as (
    select * from staging.stg_groups
),

fct_group_memberships as (
    select
        members.membership_key,  -- corpid|chat_id|member_id
        members.chat_id,
        members.corpid,
        members.member_id,  -- userid of staff, external_userid of a customer
        members.member_type,  -- 1 staff, 2 external
        case
            when groups.owner = members.member_id then 'owner'
            when list_contains(groups.admins, members.member_id) then 'admin'
            else 'member'
        end as group_role,  -- owner | admin | member
        sets.one_id,  -- the customer
        members.join_at as joined_at,  -- UTC
        members.join_scene  -- 1 invited, 2 link, 3 QR code
    from members
    left join groups on groups.group_key = concat(members.corpid, '|', members.chat_id)
    left join intermediate.int_people__identifier_sets as sets
        on sets.identifiers = members.identifiers
        and coalesce(members.join_at, members.recorded_at) >= sets.valid_from
        and coalesce(members.join_at, members.recorded_at) < sets.valid_to
)

select * from fct_group_memberships
