/*
Who brought whom.
description_zh: 裂变：谁邀请了谁
grain: referral_key
owner: data
*/
with referrals as (
    select *, coalesce(invited_at, recorded_at) as seen_at from staging.stg_referrals
),

fct_referrals as (
    select
        referrals.referral_key,
        referrals.campaign_id,
        inviters.one_id as inviter_one_id,  -- null when the inviter is not known
        invitees.one_id as invitee_one_id,  -- null when the invited person is not known
        referrals.invited_at  -- UTC
    from referrals
    left join intermediate.int_people__identifier_sets as inviters
        on inviters.identifiers = referrals.inviter_identifiers
        and referrals.seen_at >= inviters.valid_from
        and referrals.seen_at < inviters.valid_to
    left join intermediate.int_people__identifier_sets as invitees
        on invitees.identifiers = referrals.invitee_identifiers
        and referrals.seen_at >= invitees.valid_from
        and referrals.seen_at < invitees.valid_to
)

select * from fct_referrals
