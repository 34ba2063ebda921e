/*
The tag library as WeCom has it.
grain: corpid, tag_id
owner: data
*/
with stg_tag_library as (
    select
        source,
        corpid,
        tag_id,
        tag_name,
        group_id,
        group_name,
        group_order,  -- higher shows first
        tag_order,  -- higher shows first
        created_at,  -- UTC
        recorded_at  -- UTC, when we learned it
    from staging.stg_wecom__tags
)

select * from stg_tag_library
