/*
Staff over all sources: WeCom says who is there, files add the store and a name where WeCom gives none.
grain: staff_key
owner: data
*/
with united as (
    select
        source, corpid, userid, name, cast(department as varchar) as department,
        null::varchar as store_id, cast(status as varchar) as status, recorded_at, 1 as trust
    from staging.stg_wecom__staff
    union all by name
    select source, corpid, userid, name, department, store_id, status, recorded_at, 2 as trust
    from staging.stg_canonical__staff
),

placed as (
    select
        *,
        row_number() over (partition by corpid, userid order by trust, recorded_at desc, source) as place
    from united
),

stg_staff as (
    select
        concat(corpid, '|', userid) as staff_key,  -- unique over all sources
        arg_min(source, place) as source,
        corpid,
        userid,  -- case-sensitive
        arg_min(name, place) as name,
        arg_min(department, place) as department,  -- ids as a JSON list, or a name
        arg_min(store_id, place) as store_id,
        arg_min(status, place) as status,  -- WeCom: 1 active, 2 disabled, 4 not activated, 5 left
        min(recorded_at) as recorded_at  -- UTC, when we learned it
    from placed
    group by corpid, userid
)

select * from stg_staff
