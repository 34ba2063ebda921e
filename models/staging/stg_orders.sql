/*
Orders over all sources. An order that several sources report (platform, shop and order id agree) is one row: the latest
report wins, and identifiers of all reports are kept, since each may know the buyer by another id.
grain: order_key
owner: data
*/
with ranked as (
    select
        orders.*,
        row_number() over (
            partition by orders.order_key
            order by orders.updated_at desc nulls last, orders.batch_seq desc, orders.source
        ) as place
    from staging.stg_canonical__orders as orders
),

reported_twice as (
    select order_key, flatten(list(identifiers order by place)) as identifiers
    from ranked
    group by order_key
    having count(*) > 1
),

latest as (
    select
        ranked.* exclude (identifiers),
        coalesce(
            list_filter(
                reported_twice.identifiers, lambda item, place: list_position(reported_twice.identifiers, item) = place
            ),
            ranked.identifiers
        ) as identifiers
    from ranked
    left join reported_twice on reported_twice.order_key = ranked.order_key
    where ranked.place = 1
),

stg_orders as (
    select
        latest.order_key,  -- platform|shop|order_id
        latest.source,  -- of the latest report
        latest.order_id,
        latest.platform,  -- mini_program, taobao, jd, …; '' when no source says
        latest.shop,
        latest.member_id,  -- [personal]
        latest.buyer_id,  -- buyer account on the platform [personal]
        latest.phone,  -- of the buyer [personal]
        latest.receiver_phone,  -- of the receiver, who may be somebody else [personal]
        latest.email,  -- [personal]
        latest.unionid,  -- [personal]
        latest.openid,  -- [personal]
        latest.appid,
        latest.external_userid,
        latest.status,  -- created, paid, shipped, done, closed, refunded
        latest.ordered_at,  -- UTC
        latest.paid_at,  -- UTC
        latest.amount,  -- paid, gross of refunds
        latest.refund_amount,
        latest.refunded_at,  -- UTC
        latest.discount_amount,
        latest.freight_amount,
        latest.coupon_id,
        latest.coupon_amount,
        latest.subsidy_amount,  -- borne by the platform
        latest.channel,
        latest.campaign_id,
        latest.store_id,
        latest.staff_userid,
        latest.city,
        latest.currency,
        latest.updated_at,  -- UTC, in the source
        latest.identifiers,  -- of all reports, strongest first [personal]
        latest.recorded_at  -- UTC, when we learned it
    from latest
)

select * from stg_orders
