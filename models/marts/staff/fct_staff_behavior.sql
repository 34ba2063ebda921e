/*
How staff talked to customers, day by day, as WeCom counts it.
description_zh: 员工联系客户统计：每位员工每天一行
grain: behavior_key
owner: operations
*/
with latest as (
    -- two sources may read the same corp
    select
        behavior.*,
        row_number() over (
            partition by behavior.corpid, behavior.userid, behavior.stat_date
            order by behavior.recorded_at desc, behavior.source
        ) as reading
    from staging.stg_wecom__staff_behavior as behavior
),

fct_staff_behavior as (
    select
        concat_ws('|', latest.corpid, latest.userid, cast(latest.stat_date as varchar)) as behavior_key,
        concat(latest.corpid, '|', latest.userid) as staff_key,  -- in dim_staff
        latest.corpid,
        latest.userid,
        latest.stat_date,  -- day in Beijing
        latest.chat_count,  -- chats with customers
        latest.message_count,  -- messages sent
        latest.reply_percentage,  -- share of chats answered, 0 to 100; null without chats
        latest.reply_minutes,  -- mean time to the first reply; null without chats
        latest.negative_feedback_count,  -- customers who deleted or blocked the employee
        latest.new_apply_count,  -- friend requests sent
        latest.new_contact_count  -- customers added
    from latest
    where latest.reading = 1
)

select * from fct_staff_behavior
