/*
Tags put on and taken off customers in WeCom, by us and by others: one row per pair, tag and change. Tags of ours come from
the sync's ledger, which knows each write and reads back; all others from what two pulls show differently.
description_zh: 企业微信标签事件：谁在何时给哪位客户打上或摘下了哪个标签
grain: tag_event_key
owner: operations
*/
with managed as (
    select * from staging.stg_sync__tags
),

library as (
    select corpid, tag_id, tag_name, group_name from staging.stg_tag_library
),

edits as (
    select corpid, userid, external_userid, happened_at
    from staging.stg_wecom__callbacks
    where change_type = 'edit_external_contact'
),

by_others as (
    -- Pulls also see our own writes; those of managed tags the ledger tells better.
    select changes.*
    from staging.stg_wecom__tag_changes as changes
    left join managed on managed.tag_id = changes.tag_id
    where managed.tag_id is null
),

told as (
    -- WeCom says that somebody edited the pair, never which tag: the last edit in the time it must have happened in
    select
        by_others.source,
        by_others.corpid,
        by_others.userid,
        by_others.external_userid,
        by_others.tag_id,
        by_others.version,
        max(edits.happened_at) as told_at
    from by_others
    inner join edits
        on edits.corpid = by_others.corpid
        and edits.userid = by_others.userid
        and edits.external_userid = by_others.external_userid
        and edits.happened_at <= by_others.seen_at
        and (by_others.after_at is null or edits.happened_at >= by_others.after_at)
    group by all
),

events as (
    select
        concat_ws('|', 'sync', tag_event_id) as event_id,
        corpid,
        userid,
        external_userid,
        tag_id,
        change,
        actor,
        plan_id,
        after_at,
        seen_at,
        seen_at as changed_at
    from staging.stg_sync__tag_events
    union all
    select
        concat_ws(
            '|', 'pull', by_others.source, by_others.corpid, by_others.userid, by_others.external_userid, by_others.tag_id,
            cast(by_others.version as varchar)
        ) as event_id,
        by_others.corpid,
        by_others.userid,
        by_others.external_userid,
        by_others.tag_id,
        by_others.change,
        case when told.told_at is null then 'unknown' else 'staff' end as actor,
        cast(null as varchar) as plan_id,
        by_others.after_at,
        by_others.seen_at,
        coalesce(told.told_at, by_others.seen_at) as changed_at
    from by_others
    left join told
        on told.source = by_others.source
        and told.corpid = by_others.corpid
        and told.userid = by_others.userid
        and told.external_userid = by_others.external_userid
        and told.tag_id = by_others.tag_id
        and told.version = by_others.version
),

fct_tag_events as (
    select
        md5(events.event_id) as tag_event_key,
        concat_ws('|', events.corpid, events.userid, events.external_userid) as relation_key,
        events.corpid,
        events.userid,  -- staff member whose relation it is
        events.external_userid,  -- customer in WeCom
        relations.one_id,  -- the customer
        events.tag_id,
        coalesce(managed.tag_name, library.tag_name) as tag_name,  -- null: a strategy tag, or deleted since
        coalesce(managed.group_name, library.group_name) as group_name,
        managed.key as tag,  -- group/value of config/tags.yaml; null: not a tag of ours
        events.change,  -- added, removed
        events.actor,  -- platform, staff (a callback says so), unknown (another app, or nobody told)
        events.plan_id,  -- of ours
        events.changed_at,  -- UTC, when it happened as far as is known
        events.after_at,  -- UTC, it had not happened yet; null = not known
        events.seen_at  -- UTC, it had happened
    from events
    left join managed on managed.tag_id = events.tag_id
    left join library on library.corpid = events.corpid and library.tag_id = events.tag_id
    left join marts.fct_relations as relations
        on relations.corpid = events.corpid
        and relations.userid = events.userid
        and relations.external_userid = events.external_userid
)

select * from fct_tag_events
