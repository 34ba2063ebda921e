/*
Corp messages (企业群发) to customers and groups, with what became of each. Only where the source reads `messages`, which
takes one call per message and employee.
description_zh: 企业群发：每条消息每个接收人一行
grain: message_key
owner: operations
*/
with latest as (
    -- two sources may read the same corp
    select
        messages.*,
        row_number() over (
            partition by messages.corpid, messages.msgid, messages.userid, messages.external_userid, messages.chat_id
            order by messages.recorded_at desc, messages.source
        ) as reading
    from staging.stg_wecom__messages as messages
),

customers as (
    -- by customer, not by pair: customers are handed over
    select corpid, external_userid, max_by(one_id, relation_key) as one_id
    from marts.fct_relations
    where one_id is not null
    group by corpid, external_userid
),

fct_messages as (
    select
        concat_ws(
            '|', latest.corpid, latest.msgid, latest.userid, coalesce(nullif(latest.external_userid, ''), latest.chat_id)
        ) as message_key,
        latest.corpid,
        latest.msgid,  -- the message in WeCom
        latest.userid,  -- staff in whose name it went
        nullif(latest.external_userid, '') as external_userid,  -- customer in WeCom; null for a group
        nullif(latest.chat_id, '') as chat_id,  -- customer group; null for a customer
        customers.one_id,  -- the customer; null for a group
        latest.creator,  -- userid of who made it; null where the API made it for several
        latest.content,  -- its text; null for pictures and cards alone
        latest.created_at,  -- UTC
        coalesce(latest.status = 1, false) as is_sent,
        case latest.status
            when 0 then 'waiting' when 1 then 'sent' when 2 then 'not_a_friend' when 3 then 'has_had_enough' else 'other'
        end as outcome,  -- waiting, sent, not_a_friend, has_had_enough (WeCom's limit of messages to one customer), other
        latest.sent_at  -- UTC; null while not sent
    from latest
    left join customers
        on customers.corpid = latest.corpid and customers.external_userid = latest.external_userid
    where latest.reading = 1
)

select * from fct_messages
