/*
Relations between staff and customers, those that ended included.
description_zh: 好友关系：员工与客户
grain: relation_key
owner: data
*/
with relations as (
    select * from staging.stg_relations
),

fct_relations as (
    select
        relations.relation_key,  -- corpid|userid|external_userid
        relations.corpid,
        relations.userid,  -- staff member
        relations.external_userid,  -- customer in WeCom
        sets.one_id,  -- the customer
        relations.added_at,  -- UTC
        relations.removed_at,  -- UTC, when it ended or we saw that it had
        relations.is_active,
        relations.state,  -- channel parameter
        relations.state as channel_id,  -- in dim_channels
        relations.add_way,
        relations.tag_ids,  -- corp tags on this pair when it was read
        relations.read_at  -- UTC, when this pair was read
    from relations
    left join intermediate.int_people__identifier_sets as sets
        on sets.identifiers = relations.identifiers
        and coalesce(relations.added_at, relations.recorded_at) >= sets.valid_from
        and coalesce(relations.added_at, relations.recorded_at) < sets.valid_to
)

select * from fct_relations
