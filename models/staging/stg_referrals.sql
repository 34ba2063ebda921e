/*
Who brought whom, over all sources.
grain: referral_key
owner: data
*/
with stg_referrals as (
    select
        concat(source, '|', referral_id) as referral_key,  -- unique over all sources
        source,
        referral_id,
        campaign_id,
        inviter_type,  -- identifier type
        inviter_scope,
        inviter_value,  -- [personal]
        invitee_type,  -- identifier type
        invitee_scope,
        invitee_value,  -- [personal]
        [{'type': inviter_type, 'scope': inviter_scope, 'value': inviter_value}] as inviter_identifiers,  -- [personal]
        [{'type': invitee_type, 'scope': invitee_scope, 'value': invitee_value}] as invitee_identifiers,  -- [personal]
        invited_at,  -- UTC
        recorded_at  -- UTC, when we learned it
    from staging.stg_canonical__referrals
    where inviter_value is not null and invitee_value is not null
)

select * from stg_referrals
