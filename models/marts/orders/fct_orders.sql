/*
Orders of every shop and channel, one row each however many sources report it.
description_zh: 订单：每单一行
grain: order_key
owner: data
partition: ordered_date
*/
with refunds as (
    select order_key, sum(amount) as amount, max(refunded_at) as refunded_at
    from staging.stg_refunds
    group by order_key
),

owned as (
    select
        orders.*,
        sets.one_id,
        -- Closed after payment: the money came in and went back. Closed with nothing paid back: never paid.
        orders.paid_at is not null
        and orders.amount is not null
        and (orders.status is distinct from 'closed' or coalesce(orders.refund_amount, 0) > 0) as is_paid,
        -- order tables and refund tables tell the same refunds: never count them twice
        greatest(coalesce(orders.refund_amount, 0), coalesce(refunds.amount, 0)) as refunded,
        coalesce(refunds.refunded_at, orders.refunded_at) as last_refunded_at
    from staging.stg_orders as orders
    left join intermediate.int_people__identifier_sets as sets
        on sets.identifiers = orders.identifiers
        and coalesce(orders.paid_at, orders.ordered_at, orders.recorded_at) >= sets.valid_from
        and coalesce(orders.paid_at, orders.ordered_at, orders.recorded_at) < sets.valid_to
    left join refunds on refunds.order_key = orders.order_key
),

numbered as (
    select
        order_key,
        row_number() over (partition by one_id order by paid_at, order_key) as order_no
    from owned
    where is_paid and one_id is not null
),

fct_orders as (
    select
        owned.order_key,  -- platform|shop|order_id
        owned.source,  -- of the latest report
        owned.platform,
        owned.shop,
        owned.order_id,
        owned.one_id,  -- the buyer; null when no identifier leads to one
        owned.status,  -- created, paid, shipped, done, closed, refunded
        owned.is_paid,  -- money came in (it may have gone back since)
        owned.ordered_at,  -- UTC
        cast(timezone(getvariable('timezone'), coalesce(owned.ordered_at, owned.paid_at, owned.recorded_at)) as date)
            as ordered_date,  -- in the brand's zone
        owned.paid_at,  -- UTC
        cast(timezone(getvariable('timezone'), owned.paid_at) as date) as paid_date,  -- in the brand's zone
        owned.amount,  -- paid, gross of refunds
        cast(owned.refunded as decimal(18, 2)) as refund_amount,
        case when owned.refunded > 0 then owned.last_refunded_at end as refunded_at,  -- UTC, latest refund
        cast(coalesce(owned.amount, 0) - owned.refunded as decimal(18, 2)) as net_amount,  -- amount - refund_amount
        owned.discount_amount,
        owned.coupon_id,
        owned.coupon_amount,
        owned.subsidy_amount,  -- borne by the platform
        owned.channel,
        owned.campaign_id,
        owned.store_id,
        owned.staff_userid,
        owned.currency,
        numbered.order_no,  -- 1, 2, … among the person's paid orders, by time of payment
        coalesce(numbered.order_no = 1, false) as is_first_order
    from owned
    left join numbered on numbered.order_key = owned.order_key
)

select * from fct_orders
