/*
Members of customer groups.
grain: membership_key
owner: data
*/
with stg_group_members as (
    select
        concat(corpid, '|', chat_id, '|', member_id) as membership_key,
        source,
        corpid,
        chat_id,
        member_id,  -- userid of staff, external_userid of a customer
        member_type,  -- 1 staff, 2 external
        unionid,  -- [personal]
        join_at,  -- UTC
        join_scene,  -- 1 invited, 2 link, 3 QR code
        invitor,  -- userid of who invited
        state,  -- channel parameter
        case
            when member_type = 2 then list_filter(
                [
                    {'type': 'unionid', 'scope': '', 'value': unionid},
                    {'type': 'external_userid', 'scope': corpid, 'value': member_id}
                ],
                lambda item: item.value is not null
            )
            else []
        end as identifiers,  -- of a customer; staff have none [personal]
        recorded_at  -- UTC, when we learned it
    from staging.stg_wecom__group_members
)

select * from stg_group_members
