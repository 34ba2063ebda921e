/*
Marketing touches that can earn credit: contact ways, campaign visits (one per person, day and campaign), coupons seen or
taken (one per person, day and coupon), corp messages that were sent (one per person and message), follows, groups joined,
invitations. A coupon that an order uses is part of the order, and no touch before it. A message to a group is no touch:
nobody knows who was in the group on that day.
description_zh: 营销触点
grain: touch_key
owner: data
*/
with friends as (
    select
        concat('friend|', relation_key) as touch_key,
        one_id,
        added_at as touched_at,
        state as channel,
        null::varchar as campaign_id,
        'wecom' as medium,
        'contact_way' as source_kind
    from marts.fct_relations
    where one_id is not null and added_at is not null and state is not null
),

visits as (
    select
        concat('visit|', min(event_key)) as touch_key,
        one_id,
        min(event_at) as touched_at,
        coalesce(channel, utm_source) as channel,
        coalesce(campaign_id, utm_campaign) as campaign_id,
        coalesce(utm_medium, 'visit') as medium,
        'tracking' as source_kind
    from marts.fct_events
    where one_id is not null
        and event_at is not null
        and coalesce(channel, utm_source, campaign_id, utm_campaign) is not null
    group by
        one_id, event_date, coalesce(channel, utm_source), coalesce(campaign_id, utm_campaign), coalesce(utm_medium, 'visit')
),

coupons as (
    select
        concat('coupon|', min(event_key)) as touch_key,
        one_id,
        min(event_at) as touched_at,
        'coupon' as channel,
        campaign_id,
        'coupon' as medium,
        'coupon' as source_kind
    from (
        select *, nullif(try(json_extract_string(properties, '$.coupon_id')), '') as coupon_id
        from marts.fct_events
        where contains(properties, '"coupon_id"')  -- most events name none, and reading JSON is dear
            and order_id is null
            and one_id is not null
            and event_at is not null
    )
    where coupon_id is not null
    group by one_id, event_date, coupon_id, campaign_id
),

messages as (
    select
        concat('message|', min(message_key)) as touch_key,
        one_id,
        min(sent_at) as touched_at,
        'message' as channel,
        null::varchar as campaign_id,
        'wecom' as medium,
        'message' as source_kind
    from marts.fct_messages
    where is_sent and one_id is not null and sent_at is not null
    group by one_id, corpid, msgid
),

others as (
    select
        concat('touch|', event_key) as touch_key,
        one_id,
        event_at as touched_at,
        case event_name when 'followed' then 'official_account' when 'group_joined' then 'group' else 'referral' end as channel,
        campaign_id,
        case event_name when 'followed' then 'wechat' when 'group_joined' then 'wecom' else 'referral' end as medium,
        event_name as source_kind
    from marts.fct_person_events
    where event_name in ('followed', 'group_joined', 'invited')
),

united as (
    select * from friends
    union all by name
    select * from visits
    union all by name
    select * from coupons
    union all by name
    select * from messages
    union all by name
    select * from others
),

fct_touches as (
    select
        touch_key,
        one_id,
        touched_at,  -- UTC
        channel,
        campaign_id,
        medium,
        source_kind  -- contact_way, tracking, coupon, message, followed, group_joined, invited
    from united
)

select * from fct_touches
