/*
People as every system describes them; one person may have several rows, which identity joins.
grain: person_key
owner: data
*/
with canonical as (
    select * from staging.stg_canonical__people
),

sensors as (
    select * from staging.stg_sensors__people
),

segment as (
    select * from staging.stg_segment__people
),

thinkingdata as (
    select * from staging.stg_thinkingdata__people
),

united as (
    select * from canonical
    union all by name
    select * from sensors
    union all by name
    select * from segment
    union all by name
    select * from thinkingdata
),

stg_people as (
    select
        concat(united.source, '|', united.person_key) as person_key,  -- unique over all sources [personal]
        united.source,
        united.member_id,  -- member account [personal]
        united.crm_id,  -- CRM contact [personal]
        united.reg_id,  -- registration id [personal]
        united.phone,  -- as it came, not normalised [personal]
        united.email,  -- as it came [personal]
        united.unionid,  -- [personal]
        united.openid,  -- [personal]
        united.appid,  -- app the openid belongs to
        united.external_userid,  -- WeCom customer id
        united.name,  -- [personal]
        case
            when lower(united.gender) in ('1', 'm', 'male', '男', '男性', '先生') then 'male'
            when lower(united.gender) in ('2', 'f', 'female', '女', '女性', '女士') then 'female'
        end as gender,  -- male, female; null = not known
        united.birthday,  -- [personal]
        united.province,
        united.city,
        united.member_level,
        united.points,  -- balance
        united.registered_at,  -- UTC
        united.channel,
        united.store_id,
        united.staff_userid,  -- serving staff member
        united.inviter_member_id,  -- member who brought this one [personal]
        united.consent_marketing,  -- may be contacted; null = not asked
        united.updated_at,  -- UTC, in the source
        united.identifiers,  -- strongest first [personal]
        united.recorded_at  -- UTC, when we learned it
    from united
)

select * from stg_people
