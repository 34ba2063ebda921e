/*
Who brought whom, as referral campaigns record it.
grain: source, referral_id
owner: data
*/
with versions as (
    select
        stream.*,
        stream._source as source,
        row_number() over (
            partition by stream._source, stream.referral_id
            order by stream._batch_seq desc, stream._row_number desc
        ) as _version
    from raw.canonical__referrals as stream
),

current as (
    select * from versions where _version = 1 and _deleted is not true
),

stg_canonical__referrals as (
    select
        source,
        trim(referral_id) as referral_id,
        nullif(trim(campaign_id), '') as campaign_id,
        trim(inviter_type) as inviter_type,  -- identifier type
        coalesce(trim(inviter_scope), '') as inviter_scope,
        nullif(trim(inviter_value), '') as inviter_value,  -- [personal]
        trim(invitee_type) as invitee_type,  -- identifier type
        coalesce(trim(invitee_scope), '') as invitee_scope,
        nullif(trim(invitee_value), '') as invitee_value,  -- [personal]
        invited_at,  -- UTC
        _loaded_at as recorded_at  -- UTC, when we learned it
    from current
)

select * from stg_canonical__referrals
