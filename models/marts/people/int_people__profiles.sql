/*
What the sources know of each person, in one row: for each attribute the newest word that is not empty, member tables and
CRM before tracking profiles, before what WeCom shows.
grain: one_id
owner: data
schema: intermediate
*/
with sets as (
    select * from intermediate.int_people__identifier_sets
),

described as (
    select
        people.*,
        case when people.member_id is not null then 1 when people.crm_id is not null then 2 else 3 end as trust,
        people.person_key as row_key
    from staging.stg_people as people
    union all by name
    select
        relations.name,
        relations.gender,
        relations.identifiers,
        relations.added_at as updated_at,
        relations.recorded_at,
        4 as trust,
        relations.relation_key as row_key
    from staging.stg_relations as relations
),

placed as (
    select
        described.*,
        sets.one_id,
        row_number() over (
            partition by sets.one_id
            order by described.trust, described.updated_at desc nulls last, described.recorded_at desc, described.row_key
        ) as place
    from described
    inner join sets on sets.identifiers = described.identifiers
    where sets.one_id is not null
        and coalesce(described.updated_at, described.recorded_at) >= sets.valid_from
        and coalesce(described.updated_at, described.recorded_at) < sets.valid_to
),

int_people__profiles as (
    select
        one_id,
        arg_min(member_id, place) as member_id,  -- [personal]
        arg_min(member_level, place) as member_level,
        arg_min(points, place) as points,  -- balance
        arg_min(name, place) as name,  -- [personal]
        arg_min(phone, place) as phone,  -- [personal]
        arg_min(email, place) as email,  -- [personal]
        count(distinct phone) as phone_count,
        arg_min(gender, place) as gender,
        arg_min(birthday, place) as birthday,  -- [personal]
        arg_min(province, place) as province,
        arg_min(city, place) as city,
        min(registered_at) as registered_at,  -- UTC
        arg_min(channel, place) as channel,
        arg_min(store_id, place) as store_id,
        arg_min(staff_userid, place) as staff_userid,
        arg_min(inviter_member_id, place) as inviter_member_id,  -- [personal]
        bool_and(consent_marketing) as consent_marketing  -- one no is a no
    from placed
    group by one_id
)

select * from int_people__profiles
