/*
Channels of acquisition: those declared, and every `state` that a relation carries though nobody declared it.
description_zh: 渠道
grain: channel_id
owner: data
*/
with declared as (
    select * from staging.stg_channels
),

seen as (
    select distinct state as channel_id from staging.stg_relations where state is not null
    union
    select distinct state from staging.stg_group_members where state is not null
),

dim_channels as (
    select
        coalesce(declared.channel_id, seen.channel_id) as channel_id,  -- the contact way's `state`
        coalesce(declared.channel_name, seen.channel_id) as channel_name,
        coalesce(declared.channel_kind, case when declared.channel_id is null then 'undeclared' end) as channel_kind,
        declared.campaign_id,
        declared.cost
    from declared
    full join seen on seen.channel_id = declared.channel_id
)

select * from dim_channels
