/*
Managed tags as the sync knows them to have moved: what we wrote, and what our read-backs and pulls showed that others
had changed since.
grain: tag_event_id
owner: operations
*/
with stg_sync__tag_events as (
    select
        concat_ws('|', actor, userid, external_userid, tag_id, change, cast(epoch_us(seen_at) as varchar)) as tag_event_id,
        corpid,
        userid,  -- staff member
        external_userid,  -- customer
        tag_id,
        change,  -- added, removed
        actor,  -- platform: by us; staff: a callback says so; unknown: another app, or nobody told
        plan_id,  -- of ours
        after_at,  -- UTC, it had not happened yet
        seen_at  -- UTC, WeCom acknowledged it, or we read it
    from raw.sync__tag_events
)

select * from stg_sync__tag_events
