/*
Followers of Official Accounts (公众号), those who left included.
grain: follower_key
owner: data
*/
with stg_followers as (
    select
        concat(appid, '|', openid) as follower_key,  -- [personal]
        source,
        appid,
        openid,  -- [personal]
        unionid,  -- [personal]
        is_following,
        subscribed_at,  -- UTC, latest subscription
        subscribe_scene,
        qr_scene_str,  -- parameter of the scanned code
        tag_ids,
        list_filter(
            [
                {'type': 'unionid', 'scope': '', 'value': unionid},
                {'type': 'openid', 'scope': appid, 'value': openid}
            ],
            lambda item: item.value is not null
        ) as identifiers,  -- strongest first [personal]
        recorded_at  -- UTC, when we learned it
    from staging.stg_official_account__followers
)

select * from stg_followers
