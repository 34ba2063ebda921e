/*
One row per person: everything tag rules may ask, as of the end of the last closed business day.
Nothing of the open day is read: every instant used lies before `as_of`, the start of the brand's current day.
The predicted columns come from `marts.fct_ltv_people`, which the lifetime value step writes before this model runs.
description_zh: 个人特征：每人一行，标签规则可用的全部字段，截至上一个营业日结束
grain: one_id
owner: analytics
materialized: view
*/
with facts as (
    select * from marts.fct_person_facts
),

cut as (
    select max(as_of) as as_of, max(as_of_date) as as_of_date from marts.fct_person_facts
),

fct_person_features as (
    select
        facts.one_id,  -- the person
        cut.as_of,  -- start of the brand's open day: everything before it is counted
        facts.is_anonymous,  -- true: known by device or cookie only
        facts.first_seen_at,  -- first sight of any identifier, UTC
        facts.is_member,  -- has a member account
        facts.member_level,  -- level in the member system
        facts.points,  -- member points
        facts.gender,  -- as the sources say
        facts.birthday,  -- day of birth
        facts.province,  -- home province
        facts.city,  -- home city
        facts.registered_at,  -- registration as a member, UTC
        facts.store_id,  -- home store
        facts.consent_marketing,  -- consent to marketing
        facts.origin_channel_id,  -- contact-way state the person first came through
        facts.origin_channel,  -- name of the channel the person first came through
        facts.origin_state,  -- raw `state` of the first relation
        facts.friend_added_at,  -- first friendship with a staff member, UTC
        facts.friend_removed_at,  -- last removal before the cut, UTC
        facts.is_friend,  -- has a living relation at the cut
        facts.friend_relations,  -- living relations at the cut
        facts.group_count,  -- groups (社群) the person is in
        facts.first_group_joined_at,  -- first group joined, UTC
        facts.is_follower,  -- follows an Official Account
        facts.followed_at,  -- since when, UTC
        facts.orders_paid,  -- paid orders
        facts.orders_365d,  -- paid orders of the last 365 days
        facts.purchase_days,  -- distinct brand days with a paid order
        facts.gross_amount,  -- paid, before refunds
        facts.refund_amount,  -- refunded before the cut
        facts.net_amount,  -- gross_amount - refund_amount
        facts.net_365d,  -- net of orders paid in the last 365 days
        facts.avg_order_amount,  -- net per order
        facts.first_paid_at,  -- first paid order, UTC
        facts.last_paid_at,  -- last paid order, UTC
        facts.first_order_channel,  -- channel of the first paid order
        cut.as_of_date - facts.last_paid_date as recency_days,  -- brand days since the last paid order
        cut.as_of_date - facts.first_paid_date as tenure_days,  -- brand days since the first paid order
        facts.coupon_orders,  -- paid orders that used a coupon
        facts.coupon_order_share,  -- 0 to 1
        facts.discount_amount,  -- discounts given
        facts.subsidy_amount,  -- subsidies given
        facts.refunded_orders,  -- orders with a refund before the cut
        facts.top_categories,  -- up to three: most lines, then amount, then name
        facts.category_count,  -- categories bought
        coalesce(activity.interactions_7d, 0) as interactions_7d,  -- tracked events of the last 7 brand days
        coalesce(activity.interactions_30d, 0) as interactions_30d,  -- tracked events of the last 30 brand days
        coalesce(activity.interactions_90d, 0) as interactions_90d,  -- tracked events of the last 90 brand days
        coalesce(activity.active_days_30d, 0) as active_days_30d,  -- brand days with an event, of the last 30
        greatest(activity.last_event_at, facts.last_paid_at) as last_active_at,  -- last event or payment, UTC
        cut.as_of_date - greatest(activity.last_event_date, facts.last_paid_date) as days_since_active,  -- brand days since
        facts.referred_people,  -- distinct people invited
        facts.referred_buyers,  -- of these, with a paid order
        ltv.p_alive,  -- probability of still being a customer (0 to 1)
        ltv.exp_orders_90,  -- expected purchase days in the next 90 days
        ltv.exp_orders_365,  -- expected purchase days in the next 365 days
        ltv.pred_net_365,  -- expected net spending in the next 365 days
        ltv.ltv_total  -- hist_net + pred_net_365
    from facts
    cross join cut
    left join marts.fct_person_activity as activity on activity.one_id = facts.one_id
    left join marts.fct_ltv_people as ltv on ltv.one_id = facts.one_id
)

select * from fct_person_features
