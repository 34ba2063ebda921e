/*
What a person did as told by business tables rather than by tracking: friends added and removed, groups joined, accounts
followed, registrations, orders, refunds, coupons used, invitations accepted.
description_zh: 业务事件
grain: event_key
owner: data
*/
with relations as (
    select * from marts.fct_relations where one_id is not null
),

orders as (
    select * from marts.fct_orders where one_id is not null
),

friend_added as (
    select
        concat('friend_added|', relation_key) as event_key,
        one_id,
        'friend_added' as event_name,
        added_at as event_at,
        channel_id as channel,
        to_json({
            'userid': userid, 'state': state, 'add_way': add_way,
            'is_new': row_number() over (partition by one_id order by added_at, relation_key) = 1
        }) as properties
    from relations
    where added_at is not null
),

friend_removed as (
    select
        concat('friend_removed|', relation_key) as event_key,
        one_id,
        'friend_removed' as event_name,
        removed_at as event_at,
        channel_id as channel,
        to_json({'userid': userid}) as properties
    from relations
    where removed_at is not null
),

group_joined as (
    select
        concat('group_joined|', membership_key) as event_key,
        one_id,
        'group_joined' as event_name,
        joined_at as event_at,
        to_json({'chat_id': chat_id, 'join_scene': join_scene}) as properties
    from marts.fct_group_memberships
    where one_id is not null and joined_at is not null
),

followed as (
    select
        concat('followed|', md5(followers.follower_key)) as event_key,
        sets.one_id,
        'followed' as event_name,
        followers.subscribed_at as event_at,
        to_json({'appid': followers.appid, 'scene': followers.subscribe_scene}) as properties
    from staging.stg_followers as followers
    inner join intermediate.int_people__identifier_sets as sets
        on sets.identifiers = followers.identifiers
        and followers.subscribed_at >= sets.valid_from
        and followers.subscribed_at < sets.valid_to
    where sets.one_id is not null
),

registered as (
    select
        concat('registered|', one_id) as event_key,
        one_id,
        'registered' as event_name,
        registered_at as event_at,
        channel
    from intermediate.int_people__profiles
    where registered_at is not null
),

order_created as (
    select
        concat('order_created|', order_key) as event_key,
        one_id,
        'order_created' as event_name,
        ordered_at as event_at,
        channel,
        campaign_id,
        order_key,
        amount,
        order_no,
        to_json({'platform': platform, 'shop': shop, 'status': status}) as properties
    from orders
    where ordered_at is not null
),

order_paid as (
    select
        concat('order_paid|', order_key) as event_key,
        one_id,
        'order_paid' as event_name,
        paid_at as event_at,
        channel,
        campaign_id,
        order_key,
        amount,
        order_no,
        to_json({
            'platform': platform, 'shop': shop, 'amount': amount, 'net_amount': net_amount, 'order_no': order_no,
            'coupon_id': coupon_id, 'store_id': store_id
        }) as properties
    from orders
    where is_paid
),

coupon_used as (
    select
        concat('coupon_used|', order_key) as event_key,
        one_id,
        'coupon_used' as event_name,
        paid_at as event_at,
        channel,
        campaign_id,
        order_key,
        coupon_amount as amount,
        order_no,
        to_json({'coupon_id': coupon_id}) as properties
    from orders
    where is_paid and (coupon_id is not null or coupon_amount > 0)
),

refund_done as (
    select
        concat('refund_done|', refund_key) as event_key,
        one_id,
        'refund_done' as event_name,
        refunded_at as event_at,
        order_key,
        amount
    from marts.fct_refunds
    where one_id is not null and refunded_at is not null
),

invited as (
    select
        concat('invited|', referral_key) as event_key,
        invitee_one_id as one_id,
        'invited' as event_name,
        invited_at as event_at,
        campaign_id,
        to_json({'inviter_one_id': inviter_one_id}) as properties
    from marts.fct_referrals
    where invitee_one_id is not null and invited_at is not null
),

united as (
    select * from friend_added
    union all by name
    select * from friend_removed
    union all by name
    select * from group_joined
    union all by name
    select * from followed
    union all by name
    select * from registered
    union all by name
    select * from order_created
    union all by name
    select * from order_paid
    union all by name
    select * from coupon_used
    union all by name
    select * from refund_done
    union all by name
    select * from invited
),

fct_person_events as (
    select
        event_key,
        one_id,
        event_name,  -- friend_added, friend_removed, group_joined, followed, registered, order_created, order_paid, coupon_used, refund_done, invited
        event_at,  -- UTC
        cast(timezone(getvariable('timezone'), event_at) as date) as event_date,  -- in the brand's zone
        channel,
        campaign_id,
        order_key,
        cast(amount as decimal(18, 2)) as amount,
        order_no,  -- of the person's paid orders
        properties  -- JSON object
    from united
)

select * from fct_person_events
