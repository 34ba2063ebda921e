/*
Orders as each source gives them: the latest version of each, vanished ones left out. One order may come from several
sources; `stg_orders` makes one of them.
grain: source, platform, shop, order_id
owner: data
*/
with versions as (
    select
        stream.*,
        stream._source as source,
        row_number() over (
            partition by stream._source, stream.platform, stream.shop, stream.order_id
            order by stream._version_at desc nulls last, stream._batch_seq desc, stream._row_number desc
        ) as _version
    from raw.canonical__orders as stream
),

current as (
    select * from versions where _version = 1 and _deleted is not true
),

trimmed as (
    select
        current.* exclude (
            platform, shop, member_id, buyer_id, phone, receiver_phone, email, unionid, openid, appid, external_userid,
            identifiers
        ),
        coalesce(nullif(trim(current.platform), ''), sources.platform, '') as platform,
        coalesce(nullif(trim(current.shop), ''), sources.shop, '') as shop,
        nullif(trim(current.member_id), '') as member_id,
        nullif(trim(current.buyer_id), '') as buyer_id,
        nullif(trim(current.phone), '') as phone,
        nullif(trim(current.receiver_phone), '') as receiver_phone,
        nullif(trim(current.email), '') as email,
        nullif(trim(current.unionid), '') as unionid,
        nullif(trim(current.openid), '') as openid,
        coalesce(nullif(trim(current.appid), ''), sources.appid, '') as appid,
        nullif(trim(current.external_userid), '') as external_userid,
        coalesce(sources.corpid, '') as corpid,
        list_transform(
            coalesce(current.identifiers, []),
            lambda item: {'type': item.type, 'scope': coalesce(item.scope, ''), 'value': nullif(trim(item.value), '')}
        ) as mapped
    from current
    left join staging.stg_sources as sources on sources.source = current.source
),

identified as (
    select
        trimmed.*,
        list_concat(
            [
                {'type': 'member_id', 'scope': '', 'value': member_id},
                {'type': 'unionid', 'scope': '', 'value': unionid},
                {'type': 'external_userid', 'scope': corpid, 'value': external_userid},
                {'type': 'openid', 'scope': appid, 'value': openid},
                {'type': 'buyer_id', 'scope': concat(platform, ':', shop), 'value': buyer_id}
            ],
            mapped,
            [
                {'type': 'phone', 'scope': '', 'value': phone},
                {'type': 'email', 'scope': '', 'value': email},
                {
                    'type': 'phone',
                    'scope': '',
                    -- parcels go to friends and family too, so the receiver counts only where nobody else is named
                    'value': case
                        when coalesce(member_id, unionid, external_userid, openid, phone, email) is null
                            then receiver_phone
                    end
                }
            ]
        ) as all_identifiers
    from trimmed
),

stg_canonical__orders as (
    select
        identified.source,
        concat(identified.platform, '|', identified.shop, '|', trim(identified.order_id)) as order_key,  -- the same over all sources
        trim(identified.order_id) as order_id,
        identified.platform,  -- mini_program, taobao, jd, …; '' when no source says
        identified.shop,
        identified.member_id,  -- [personal]
        identified.buyer_id,  -- buyer account on the platform [personal]
        identified.phone,  -- of the buyer [personal]
        identified.receiver_phone,  -- of the receiver, who may be somebody else [personal]
        identified.email,  -- [personal]
        identified.unionid,  -- [personal]
        identified.openid,  -- [personal]
        identified.appid,
        identified.external_userid,
        nullif(trim(identified.status), '') as status,  -- created, paid, shipped, done, closed, refunded
        identified.ordered_at,  -- UTC
        identified.paid_at,  -- UTC
        identified.amount,  -- paid, gross of refunds
        identified.refund_amount,
        identified.refunded_at,  -- UTC
        identified.discount_amount,
        identified.freight_amount,
        nullif(trim(identified.coupon_id), '') as coupon_id,
        identified.coupon_amount,
        identified.subsidy_amount,  -- borne by the platform
        nullif(trim(identified.channel), '') as channel,
        nullif(trim(identified.campaign_id), '') as campaign_id,
        nullif(trim(identified.store_id), '') as store_id,
        nullif(trim(identified.staff_userid), '') as staff_userid,
        nullif(trim(identified.city), '') as city,
        nullif(trim(identified.currency), '') as currency,
        identified.updated_at,  -- UTC, in the source
        list_filter(identified.all_identifiers, lambda item: item.value is not null) as identifiers,  -- strongest first [personal]
        identified._loaded_at as recorded_at,  -- UTC, when we learned it
        identified._batch_seq as batch_seq  -- order of landing over all sources
    from identified
)

select * from stg_canonical__orders
