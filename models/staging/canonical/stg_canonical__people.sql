/*
People as member tables, CRM and files describe them: the latest version of each, vanished ones left out.
grain: source, person_key
owner: data
*/
with versions as (
    select
        stream.*,
        stream._source as source,
        row_number() over (
            partition by stream._source, stream.person_key
            order by stream._version_at desc nulls last, stream._batch_seq desc, stream._row_number desc
        ) as _version
    from raw.canonical__people as stream
),

current as (
    select * from versions where _version = 1 and _deleted is not true
),

trimmed as (
    select
        current.* exclude (member_id, crm_id, reg_id, phone, email, unionid, openid, appid, external_userid, identifiers),
        nullif(trim(current.member_id), '') as member_id,
        nullif(trim(current.crm_id), '') as crm_id,
        nullif(trim(current.reg_id), '') as reg_id,
        nullif(trim(current.phone), '') as phone,
        nullif(trim(current.email), '') as email,
        nullif(trim(current.unionid), '') as unionid,
        nullif(trim(current.openid), '') as openid,
        coalesce(nullif(trim(current.appid), ''), sources.appid, '') as appid,
        nullif(trim(current.external_userid), '') as external_userid,
        coalesce(sources.corpid, '') as corpid,
        list_transform(
            coalesce(current.identifiers, []),
            lambda item: {'type': item.type, 'scope': coalesce(item.scope, ''), 'value': nullif(trim(item.value), '')}
        ) as mapped
    from current
    left join staging.stg_sources as sources on sources.source = current.source
),

identified as (
    select
        trimmed.*,
        list_concat(
            [
                {'type': 'member_id', 'scope': '', 'value': member_id},
                {'type': 'crm_id', 'scope': '', 'value': crm_id},
                {'type': 'reg_id', 'scope': '', 'value': reg_id},
                {'type': 'unionid', 'scope': '', 'value': unionid},
                {'type': 'external_userid', 'scope': corpid, 'value': external_userid},
                {'type': 'openid', 'scope': appid, 'value': openid}
            ],
            mapped,
            [
                {'type': 'phone', 'scope': '', 'value': phone},
                {'type': 'email', 'scope': '', 'value': email}
            ]
        ) as all_identifiers
    from trimmed
),

stg_canonical__people as (
    select
        identified.source,
        trim(identified.person_key) as person_key,  -- key of the person inside its source
        identified.member_id,  -- member account [personal]
        identified.crm_id,  -- CRM contact [personal]
        identified.reg_id,  -- registration id [personal]
        identified.phone,  -- as it came, not normalised [personal]
        identified.email,  -- as it came [personal]
        identified.unionid,  -- [personal]
        identified.openid,  -- [personal]
        identified.appid,  -- app the openid belongs to
        identified.external_userid,  -- WeCom customer id
        nullif(trim(identified.name), '') as name,  -- [personal]
        nullif(trim(identified.gender), '') as gender,  -- as the source writes it
        identified.birthday,  -- [personal]
        nullif(trim(identified.province), '') as province,
        nullif(trim(identified.city), '') as city,
        nullif(trim(identified.member_level), '') as member_level,
        identified.points,  -- balance
        identified.registered_at,  -- UTC
        nullif(trim(identified.channel), '') as channel,
        nullif(trim(identified.store_id), '') as store_id,
        nullif(trim(identified.staff_userid), '') as staff_userid,  -- serving staff member
        nullif(trim(identified.inviter_member_id), '') as inviter_member_id,  -- member who brought this one [personal]
        identified.consent_marketing,  -- may be contacted; null = not asked
        identified.updated_at,  -- UTC, in the source
        list_filter(identified.all_identifiers, lambda item: item.value is not null) as identifiers,  -- strongest first [personal]
        identified._loaded_at as recorded_at  -- UTC, when we learned it
    from identified
)

select * from stg_canonical__people
