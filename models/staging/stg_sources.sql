/*
One row per configured source: what its ids mean. Scopes and types that a source leaves open get their defaults here.
grain: source
owner: data
materialized: table
*/
with settings as (
    select
        source,
        max(connector) as connector,
        max(family) as family,
        max(value) filter (where key = 'timezone') as timezone,
        max(value) filter (where key = 'corpid') as corpid,
        max(value) filter (where key = 'appid') as appid,
        max(value) filter (where key = 'platform') as platform,
        max(value) filter (where key = 'shop') as shop,
        max(value) filter (where key = 'login_id_type') as login_id_type,
        max(value) filter (where key = 'login_id_scope') as login_id_scope,
        max(value) filter (where key = 'anonymous_id_type') as anonymous_id_type,
        max(value) filter (where key = 'anonymous_scope') as anonymous_scope
    from raw._source_settings
    group by source
),

only_corp as (
    -- a CRM that stores WeCom customer ids rarely says of which corp: safe to assume while there is just one
    select case when count(distinct corpid) = 1 then max(corpid) end as corpid
    from settings
),

strengths as (
    -- strongest first: the one a row is looked up by is the first that leads to a person
    select
        source,
        field,
        type,
        coalesce(scope, '') as scope,
        case type
            when 'member_id' then 1
            when 'crm_id' then 2
            when 'reg_id' then 3
            when 'unionid' then 4
            when 'external_userid' then 5
            when 'openid' then 6
            when 'phone' then 8
            when 'email' then 9
            when 'device_id' then 10
            when 'anonymous_id' then 11
            else 7
        end as strength
    from raw._identity_fields
),

fields as (
    select
        source,
        list({'field': field, 'type': type, 'scope': scope} order by strength, field) as identity_fields
    from strengths
    group by source
),

stg_sources as (
    select
        settings.source,  -- name in config/sources.yaml
        settings.connector,  -- kind of connector
        settings.family,  -- shape of its streams
        settings.timezone,  -- of its times that name none
        coalesce(settings.corpid, only_corp.corpid, '') as corpid,  -- scope of its WeCom customer ids
        coalesce(settings.appid, '') as appid,  -- scope of its openids
        coalesce(settings.platform, '') as platform,  -- of its orders that name none
        coalesce(settings.shop, '') as shop,  -- of its orders that name none
        coalesce(settings.login_id_type, 'member_id') as login_id_type,  -- what its user id is
        coalesce(settings.login_id_scope, '') as login_id_scope,
        coalesce(settings.anonymous_id_type, 'anonymous_id') as anonymous_id_type,
        coalesce(settings.anonymous_scope, '') as anonymous_scope,  -- site or app that hands out anonymous ids
        coalesce(fields.identity_fields, []) as identity_fields  -- native id field -> type and scope, strongest first
    from settings
    cross join only_corp
    left join fields on fields.source = settings.source
)

select * from stg_sources
