/*
What brings customers to staff: contact ways (活码) and acquisition links (获客链接) made through the WeCom API.
description_zh: 活码与获客链接
grain: contact_way_key
owner: operations
*/
with relations as (
    select corpid, state, count(*) as relation_count, count(*) filter (where is_active) as active_relation_count
    from staging.stg_relations
    where state is not null
    group by corpid, state
),

ways as (
    select
        source,
        corpid,
        config_id as way_id,
        'contact_way' as kind,
        state,
        remark as name,
        cast(null as varchar) as url,
        cast(null as timestamptz) as created_at,
        recorded_at
    from staging.stg_wecom__contact_ways
    union all
    select
        source,
        corpid,
        link_id as way_id,
        'acquisition_link' as kind,
        cast(null as varchar) as state,
        name,
        url,
        created_at,
        recorded_at
    from staging.stg_wecom__acquisition_links
),

latest as (
    -- two sources may read the same corp
    select
        ways.*,
        row_number() over (
            partition by ways.corpid, ways.kind, ways.way_id order by ways.recorded_at desc, ways.source
        ) as reading
    from ways
),

dim_contact_ways as (
    select
        concat_ws('|', latest.corpid, latest.kind, latest.way_id) as contact_way_key,
        latest.corpid,
        latest.way_id,  -- config_id or link_id
        latest.kind,  -- contact_way, acquisition_link
        latest.state,  -- channel parameter, channel_id in dim_channels; several ways may share one
        latest.name as way_name,  -- what staff call it
        latest.url,  -- of a link
        latest.created_at,  -- UTC, where WeCom says it
        coalesce(relations.relation_count, 0) as state_relation_count,  -- relations ever made with this state
        coalesce(relations.active_relation_count, 0) as state_active_relation_count
    from latest
    left join relations on relations.corpid = latest.corpid and relations.state = latest.state
    where latest.reading = 1
)

select * from dim_contact_ways
