/*
Refunds: those of refund tables, and for orders that tell only a refunded sum one row with that sum.
description_zh: 退款
grain: refund_key
owner: data
*/
with refunds as (
    select * from staging.stg_refunds
),

orders as (
    select * from marts.fct_orders
),

listed as (
    select refunds.refund_key, refunds.order_key, orders.one_id, refunds.refunded_at, refunds.amount
    from refunds
    left join orders on orders.order_key = refunds.order_key
),

told_by_order as (
    select
        concat('order|', orders.order_key) as refund_key,
        orders.order_key,
        orders.one_id,
        orders.refunded_at,
        orders.refund_amount as amount
    from orders
    where orders.refund_amount > 0 and orders.order_key not in (select order_key from refunds)
),

united as (
    select * from listed
    union all by name
    select * from told_by_order
),

fct_refunds as (
    select
        refund_key,
        order_key,
        one_id,  -- the buyer
        refunded_at,  -- UTC
        cast(timezone(getvariable('timezone'), refunded_at) as date) as refunded_date,  -- in the brand's zone
        amount
    from united
)

select * from fct_refunds
