/*
Tags on customers as WeCom shows them pair by pair: corp tags, those that staff keep for themselves, and strategy tags.
Only where the source reads `customer_tags`, which takes one call per customer.
description_zh: 企业微信客户标签：企业标签、个人标签、规则组标签
grain: customer_tag_key
owner: operations
*/
with latest as (
    -- two sources may read the same corp
    select
        tags.*,
        row_number() over (
            partition by tags.corpid, tags.userid, tags.external_userid, tags.kind, tags.tag_id, tags.tag_name
            order by tags.recorded_at desc, tags.source
        ) as reading
    from staging.stg_wecom__customer_tags as tags
),

fct_customer_tags as (
    select
        md5(
            concat_ws(
                chr(31), latest.corpid, latest.userid, latest.external_userid, latest.kind, coalesce(latest.tag_id, ''),
                coalesce(latest.tag_name, '')
            )
        ) as customer_tag_key,
        concat_ws('|', latest.corpid, latest.userid, latest.external_userid) as relation_key,  -- in fct_relations
        latest.corpid,
        latest.userid,  -- staff member whose relation it is
        latest.external_userid,  -- customer in WeCom
        relations.one_id,  -- the customer
        latest.kind,  -- corp, personal (of this staff member alone; cannot be written), strategy (of a rule group), other
        latest.tag_id,  -- null: personal tags have none
        latest.tag_name,
        latest.group_name,
        latest.recorded_at  -- UTC, when we learned it
    from latest
    left join marts.fct_relations as relations
        on relations.corpid = latest.corpid
        and relations.userid = latest.userid
        and relations.external_userid = latest.external_userid
    where latest.reading = 1
)

select * from fct_customer_tags
