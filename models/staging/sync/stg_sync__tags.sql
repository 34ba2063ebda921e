/*
Tags this platform made in WeCom: the only ones it ever writes.
grain: tag_id
owner: operations
*/
with stg_sync__tags as (
    select
        tag_id,
        key,  -- group/value of config/tags.yaml
        name as tag_name,  -- as staff see it
        group_name,
        state  -- active, draining, empty, broken, retired
    from raw.sync__tags
)

select * from stg_sync__tags
