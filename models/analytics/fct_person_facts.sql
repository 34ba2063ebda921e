/*
One row per person: what `fct_person_features` says of a person, without what changes for everyone from day to day and
without tracked events, which are in `fct_person_activity`.
A run makes again the people of whom something changed, was counted for the first time, or left a window. Windows are
therefore written as `cut_date - N`: on the day a row leaves one, its person is made again (warehouse/touched_people.py).
description_zh: 个人事实：每人一行，特征中不随日期自然变化的部分，按人增量更新
grain: one_id
owner: analytics
materialized: incremental
scope: one_id in (select one_id from temp.touched_people)
cursor: select epoch_us(timezone(getvariable('timezone'), date_trunc('day', timezone(getvariable('timezone'), getvariable('as_of')))))
*/
with cut as (
    select
        timezone(
            getvariable('timezone'), date_trunc('day', timezone(getvariable('timezone'), getvariable('as_of')))
        ) as cut_at,
        cast(timezone(getvariable('timezone'), getvariable('as_of')) as date) as cut_date
),

-- Materialized: few people are looked for among many rows, which joins further down would turn round.
people as materialized (
    select * from marts.dim_people where getvariable('cursor') is null or one_id in (select one_id from temp.touched_people)
),

orders as materialized (
    select * from marts.fct_orders where getvariable('cursor') is null or one_id in (select one_id from temp.touched_people)
),

refunds as materialized (
    select * from marts.fct_refunds where getvariable('cursor') is null or one_id in (select one_id from temp.touched_people)
),

order_lines as materialized (
    select * from marts.fct_order_lines
    where getvariable('cursor') is null or one_id in (select one_id from temp.touched_people)
),

relations as materialized (
    select * from marts.fct_relations
    where getvariable('cursor') is null or one_id in (select one_id from temp.touched_people)
),

memberships as materialized (
    select * from marts.fct_group_memberships
    where getvariable('cursor') is null or one_id in (select one_id from temp.touched_people)
),

referrals as materialized (
    select * from marts.fct_referrals
    where getvariable('cursor') is null or inviter_one_id in (select one_id from temp.touched_people)
),

-- Of orders whose latest refund is not before the cut: what was refunded before it (`paid_orders_sql` has the same rule).
earlier_refunds as (
    select
        orders.order_key,
        sum(refunds.amount) as amount
    from orders
    cross join cut
    inner join refunds on refunds.order_key = orders.order_key
    where orders.refunded_at >= cut.cut_at and coalesce(refunds.refunded_at, orders.paid_at) < cut.cut_at
    group by orders.order_key
),

paid_orders as (
    select
        orders.one_id,
        orders.order_key,
        orders.paid_at,
        orders.paid_date,
        orders.amount,
        case when coalesce(orders.refunded_at, orders.paid_at) < cut.cut_at
            then coalesce(orders.refund_amount, 0)
            else cast(least(coalesce(earlier_refunds.amount, 0), coalesce(orders.refund_amount, 0)) as decimal(18, 2))
        end as refund_amount,
        coalesce(orders.discount_amount, 0) as discount_amount,
        orders.coupon_id is not null or coalesce(orders.coupon_amount, 0) > 0 as used_coupon,
        coalesce(orders.subsidy_amount, 0) as subsidy_amount,
        orders.channel,
        cut.cut_date
    from orders
    cross join cut
    left join earlier_refunds on earlier_refunds.order_key = orders.order_key
    where orders.is_paid and orders.one_id is not null and orders.paid_at < cut.cut_at
),

orders_summed as (
    select
        one_id,
        count(*) as orders_paid,
        sum(amount) as gross_amount,
        sum(refund_amount) as refund_amount,
        sum(amount - refund_amount) as net_amount,
        min(paid_at) as first_paid_at,
        max(paid_at) as last_paid_at,
        min(paid_date) as first_paid_date,
        max(paid_date) as last_paid_date,
        count(distinct paid_date) as purchase_days,
        count(*) filter (where paid_date >= cut_date - 365) as orders_365d,
        coalesce(sum(amount - refund_amount) filter (where paid_date >= cut_date - 365), 0) as net_365d,
        count(*) filter (where used_coupon) as coupon_orders,
        sum(discount_amount) as discount_amount,
        sum(subsidy_amount) as subsidy_amount,
        count(*) filter (where refund_amount > 0) as refunded_orders,
        arg_min(channel, (paid_at, order_key)) as first_order_channel
    from paid_orders
    group by one_id
),

category_counts as (
    select
        lines.one_id,
        lines.category,
        count(*) as line_count,
        coalesce(sum(lines.amount), 0) as line_amount
    from order_lines as lines
    cross join cut
    where lines.paid_at < cut.cut_at and lines.one_id is not null and lines.category is not null
    group by lines.one_id, lines.category
),

category_lists as (
    select
        one_id,
        list(category order by line_count desc, line_amount desc, category)[1:3] as top_categories,
        count(*) as category_count
    from category_counts
    group by one_id
),

relations_summed as (
    select
        relations.one_id,
        min(relations.added_at) as friend_added_at,
        count(*) filter (where relations.removed_at is null or relations.removed_at >= cut.cut_at) as friend_relations,
        max(relations.removed_at) filter (where relations.removed_at < cut.cut_at) as friend_removed_at
    from relations
    cross join cut
    where relations.one_id is not null and relations.added_at < cut.cut_at
    group by relations.one_id
),

memberships_summed as (
    select
        memberships.one_id,
        count(distinct (memberships.corpid, memberships.chat_id)) as group_count,
        min(memberships.joined_at) as first_group_joined_at
    from memberships
    cross join cut
    where memberships.one_id is not null and memberships.joined_at < cut.cut_at
    group by memberships.one_id
),

invitations as (
    select distinct
        referrals.inviter_one_id,
        referrals.invitee_one_id
    from referrals
    cross join cut
    where referrals.invited_at < cut.cut_at
        and referrals.inviter_one_id is not null
        and referrals.invitee_one_id <> referrals.inviter_one_id
),

invited_buyers as (
    select distinct orders.one_id
    from marts.fct_orders as orders
    cross join cut
    where orders.is_paid and orders.paid_at < cut.cut_at
        and orders.one_id in (select invitee_one_id from invitations)
),

invitations_summed as (
    select
        invitations.inviter_one_id as one_id,
        count(*) as referred_people,
        count(invited_buyers.one_id) as referred_buyers
    from invitations
    left join invited_buyers on invited_buyers.one_id = invitations.invitee_one_id
    group by invitations.inviter_one_id
),

fct_person_facts as (
    select
        people.one_id,  -- the person
        cut.cut_at as as_of,  -- start of the brand's open day when the person was last made: everything before it is counted
        cut.cut_date as as_of_date,  -- that day
        people.is_anonymous,  -- true: known by device or cookie only
        people.first_seen_at,  -- first sight of any identifier, UTC
        people.member_id is not null as is_member,  -- has a member account
        people.member_level,  -- level in the member system
        coalesce(people.points, 0) as points,  -- member points
        people.gender,  -- as the sources say
        people.birthday,  -- day of birth
        people.province,  -- home province
        people.city,  -- home city
        people.registered_at,  -- registration as a member, UTC
        people.store_id,  -- home store
        people.consent_marketing,  -- consent to marketing
        people.origin_channel_id,  -- contact-way state the person first came through
        people.origin_channel,  -- name of the channel the person first came through
        people.origin_state,  -- raw `state` of the first relation
        relations_summed.friend_added_at,  -- first friendship with a staff member, UTC
        relations_summed.friend_removed_at,  -- last removal before the cut, UTC
        coalesce(relations_summed.friend_relations, 0) > 0 as is_friend,  -- has a living relation at the cut
        coalesce(relations_summed.friend_relations, 0) as friend_relations,  -- living relations at the cut
        coalesce(memberships_summed.group_count, 0) as group_count,  -- groups (社群) the person is in
        memberships_summed.first_group_joined_at,  -- first group joined, UTC
        coalesce(people.is_follower, false) as is_follower,  -- follows an Official Account
        people.followed_at,  -- since when, UTC
        coalesce(orders_summed.orders_paid, 0) as orders_paid,  -- paid orders
        coalesce(orders_summed.orders_365d, 0) as orders_365d,  -- paid orders of the last 365 days
        coalesce(orders_summed.purchase_days, 0) as purchase_days,  -- distinct brand days with a paid order
        coalesce(orders_summed.gross_amount, 0) as gross_amount,  -- paid, before refunds
        coalesce(orders_summed.refund_amount, 0) as refund_amount,  -- refunded before the cut
        coalesce(orders_summed.net_amount, 0) as net_amount,  -- gross_amount - refund_amount
        coalesce(orders_summed.net_365d, 0) as net_365d,  -- net of orders paid in the last 365 days
        cast(orders_summed.net_amount / orders_summed.orders_paid as decimal(18, 2)) as avg_order_amount,  -- net per order
        orders_summed.first_paid_at,  -- first paid order, UTC
        orders_summed.last_paid_at,  -- last paid order, UTC
        orders_summed.first_order_channel,  -- channel of the first paid order
        orders_summed.first_paid_date,  -- in the brand's zone
        orders_summed.last_paid_date,  -- in the brand's zone
        coalesce(orders_summed.coupon_orders, 0) as coupon_orders,  -- paid orders that used a coupon
        coalesce(orders_summed.coupon_orders / orders_summed.orders_paid, 0) as coupon_order_share,  -- 0 to 1
        coalesce(orders_summed.discount_amount, 0) as discount_amount,  -- discounts given
        coalesce(orders_summed.subsidy_amount, 0) as subsidy_amount,  -- subsidies given
        coalesce(orders_summed.refunded_orders, 0) as refunded_orders,  -- orders with a refund before the cut
        category_lists.top_categories,  -- up to three: most lines, then amount, then name
        coalesce(category_lists.category_count, 0) as category_count,  -- categories bought
        coalesce(invitations_summed.referred_people, 0) as referred_people,  -- distinct people invited
        coalesce(invitations_summed.referred_buyers, 0) as referred_buyers  -- of these, with a paid order
    from people
    cross join cut
    left join orders_summed on orders_summed.one_id = people.one_id
    left join category_lists on category_lists.one_id = people.one_id
    left join relations_summed on relations_summed.one_id = people.one_id
    left join memberships_summed on memberships_summed.one_id = people.one_id
    left join invitations_summed on invitations_summed.one_id = people.one_id
)

select * from fct_person_facts
