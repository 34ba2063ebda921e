/*
Behaviour statistics (联系客户统计) of staff by day, as WeCom counts them: the latest reading of each day.
grain: source, corpid, userid, stat_date
owner: data
*/
with versions as (
    select
        stream.*,
        stream._source as source,
        row_number() over (
            partition by stream._source, stream.corpid, stream.userid, stream.stat_at
            order by stream._batch_seq desc, stream._row_number desc
        ) as _version
    from raw.wecom__staff_behavior as stream
),

current as (
    select * from versions where _version = 1 and _deleted is not true
),

stg_wecom__staff_behavior as (
    select
        current.source,
        trim(current.corpid) as corpid,
        trim(current.userid) as userid,
        cast(timezone('Asia/Shanghai', current.stat_at) as date) as stat_date,  -- WeCom's days are those of Beijing
        current.chat_count,
        current.message_count,
        current.reply_percentage,  -- null without chats
        current.reply_minutes,  -- mean time to the first reply; null without chats
        current.negative_feedback_count,  -- customers who deleted or blocked the employee
        current.new_apply_count,
        current.new_contact_count,
        current._loaded_at as recorded_at  -- UTC, when we learned it
    from current
)

select * from stg_wecom__staff_behavior
