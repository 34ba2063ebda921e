/*
Staff who have or had customers.
description_zh: 员工
grain: staff_key
owner: data
*/
with relations as (
    select corpid, userid, count(*) filter (where is_active) as active_relation_count
    from staging.stg_relations
    group by corpid, userid
),

named as (
    select staff_key, corpid, userid, name, department, store_id, status from staging.stg_staff
),

-- a relation may outlive what the app may see of its staff member
everybody as (
    select corpid, userid from named
    union
    select corpid, userid from relations
),

dim_staff as (
    select
        concat(everybody.corpid, '|', everybody.userid) as staff_key,
        everybody.corpid,
        everybody.userid,  -- WeCom userid, case-sensitive
        named.name,
        named.department,  -- ids as a JSON list, or a name
        named.store_id,
        coalesce(named.status in ('1', 'active', '在职', '正常'), named.staff_key is not null) as is_active,
        coalesce(relations.active_relation_count, 0) as active_relation_count
    from everybody
    left join named on named.corpid = everybody.corpid and named.userid = everybody.userid
    left join relations on relations.corpid = everybody.corpid and relations.userid = everybody.userid
)

select * from dim_staff
