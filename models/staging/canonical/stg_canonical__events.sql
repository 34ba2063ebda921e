/*
Events from files and tables mapped onto the canonical stream. Landing has dropped re-delivered ones.
grain: source, event_id
owner: data
*/
with trimmed as (
    select
        events.* exclude (anonymous_id, user_id, unionid, openid, appid, phone, external_userid, device_id, identifiers),
        events._source as source,
        nullif(trim(events.anonymous_id), '') as anonymous_id,
        nullif(trim(events.user_id), '') as user_id,
        nullif(trim(events.unionid), '') as unionid,
        nullif(trim(events.openid), '') as openid,
        coalesce(nullif(trim(events.appid), ''), sources.appid, '') as appid,
        nullif(trim(events.phone), '') as phone,
        nullif(trim(events.external_userid), '') as external_userid,
        nullif(trim(events.device_id), '') as device_id,
        coalesce(sources.login_id_type, 'member_id') as login_id_type,
        coalesce(sources.login_id_scope, '') as login_id_scope,
        coalesce(sources.anonymous_id_type, 'anonymous_id') as anonymous_id_type,
        coalesce(sources.anonymous_scope, '') as anonymous_scope,
        coalesce(sources.corpid, '') as corpid,
        list_transform(
            coalesce(events.identifiers, []),
            lambda item: {'type': item.type, 'scope': coalesce(item.scope, ''), 'value': nullif(trim(item.value), '')}
        ) as mapped
    from raw.canonical__events as events
    left join staging.stg_sources as sources on sources.source = events._source
    where events._deleted is not true
),

identified as (
    select
        trimmed.*,
        list_concat(
            [
                {'type': login_id_type, 'scope': login_id_scope, 'value': user_id},
                {'type': 'unionid', 'scope': '', 'value': unionid},
                {'type': 'external_userid', 'scope': corpid, 'value': external_userid},
                {'type': 'openid', 'scope': appid, 'value': openid}
            ],
            mapped,
            [
                {'type': 'phone', 'scope': '', 'value': phone},
                {'type': 'device_id', 'scope': anonymous_scope, 'value': device_id},
                {'type': anonymous_id_type, 'scope': anonymous_scope, 'value': anonymous_id}
            ]
        ) as all_identifiers
    from trimmed
),

stg_canonical__events as (
    select
        identified.source,
        trim(identified.event_id) as event_id,
        trim(identified.event_name) as event_name,  -- as the source calls it
        identified.event_at,  -- UTC
        identified.received_at,  -- UTC
        identified.anonymous_id,  -- [personal]
        identified.user_id,  -- [personal]
        identified.unionid,  -- [personal]
        identified.openid,  -- [personal]
        identified.appid,
        identified.phone,  -- [personal]
        identified.external_userid,
        identified.device_id,  -- [personal]
        identified.session_id,
        identified.page,
        identified.channel,
        identified.campaign_id,
        identified.utm_source,
        identified.utm_medium,
        identified.utm_campaign,
        nullif(trim(identified.order_id), '') as order_id,
        nullif(trim(identified.product_id), '') as product_id,
        identified.amount,
        identified.properties,  -- JSON object
        list_filter(identified.all_identifiers, lambda item: item.value is not null) as identifiers,  -- strongest first [personal]
        identified.user_id is not null and identified.anonymous_id is not null as is_login,  -- joins a visitor to an account
        false as is_unbind,  -- takes an identifier away from an account
        identified._loaded_at as recorded_at,  -- UTC, when we learned it
        identified._batch_seq as batch_seq  -- landing batch that brought it
    from identified
)

select * from stg_canonical__events
