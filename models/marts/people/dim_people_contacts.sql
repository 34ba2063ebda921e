/*
How people are called and reached. Masked for analysts; in the edition for personal data as it is, for those who may.
description_zh: 联系方式：分析师看到的是脱敏值，明文只在个人信息版本中
grain: one_id
owner: data
*/
with people as (
    select one_id from identity.people where kind = 'person'
),

profiles as (
    select * from intermediate.int_people__profiles
),

dim_people_contacts as (
    select
        people.one_id,
        profiles.name,  -- newest name of a member table, else of WeCom [personal: name]
        profiles.phone,  -- newest phone [personal: phone]
        profiles.email,  -- newest address [personal: email]
        profiles.birthday,  -- masked: its year [personal: date]
        profiles.phone_count,  -- phones known
        profiles.consent_marketing  -- may be contacted; null = never asked
    from people
    inner join profiles on profiles.one_id = people.one_id
)

select * from dim_people_contacts
