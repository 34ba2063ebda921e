/*
WeCom's callback events, each once: what happened to which pair, group or tag, and when we were told.
grain: source, corpid, callback_id
owner: data
*/
with events as (
    select
        stream.*,
        stream._source as source,
        row_number() over (
            partition by stream._source, stream.corpid, stream.callback_id
            order by stream._batch_seq, stream._row_number
        ) as _repeat
    from raw.wecom__callbacks as stream
),

stg_wecom__callbacks as (
    select
        events.source,
        trim(events.corpid) as corpid,
        events.callback_id,  -- SHA-256 of the whole message
        events.received_at,  -- UTC, by our clock
        coalesce(events.happened_at, events.received_at) as happened_at,  -- UTC, whole seconds
        events.event,
        events.change_type,
        nullif(trim(events.userid), '') as userid,  -- staff member
        nullif(trim(events.external_userid), '') as external_userid,  -- customer
        nullif(trim(events.state), '') as state,  -- channel parameter
        events.chat_id,
        events.tag_id,  -- tag or tag group
        events.tag_type
    from events
    where events._repeat = 1
)

select * from stg_wecom__callbacks
