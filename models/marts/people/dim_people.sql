/*
People: one row per person as resolved now, with what is known of them. Names and phones are masked; the full ones are in
the edition for personal data only.
description_zh: 人：每人一行，按当前的身份合并结果
grain: one_id
owner: data
*/
with people as (
    select * from identity.people where kind = 'person'
),

profiles as (
    select * from intermediate.int_people__profiles
),

identifiers as (
    select resolved.one_id, list(distinct resolved.type order by resolved.type) as identifier_types
    from identity.resolved as resolved
    where resolved.kind = 'person'
    group by resolved.one_id
),

relations as (
    select
        one_id,
        min(added_at) as friend_added_at,
        count(*) filter (where is_active) as relation_count,
        count(distinct userid) filter (where is_active) as staff_count,
        arg_min(state, (added_at, relation_key)) filter (where state is not null) as origin_state
    from marts.fct_relations
    where one_id is not null
    group by one_id
),

memberships as (
    select one_id, count(distinct chat_id) as group_count
    from marts.fct_group_memberships
    where one_id is not null
    group by one_id
),

followed as (
    select
        sets.one_id,
        bool_or(followers.is_following) as is_follower,
        min(followers.subscribed_at) as followed_at
    from staging.stg_followers as followers
    inner join intermediate.int_people__identifier_sets as sets on sets.identifiers = followers.identifiers
    where sets.one_id is not null
        and coalesce(followers.subscribed_at, followers.recorded_at) >= sets.valid_from
        and coalesce(followers.subscribed_at, followers.recorded_at) < sets.valid_to
    group by sets.one_id
),

referred as (
    select
        invitee_one_id as one_id,
        arg_min(inviter_one_id, (invited_at, referral_key)) as referred_by_one_id
    from marts.fct_referrals
    where invitee_one_id is not null and inviter_one_id is not null
    group by invitee_one_id
),

channels as (
    select * from marts.dim_channels
),

dim_people as (
    select
        people.one_id,  -- lasting id of the person; carries no personal data
        people.anonymous as is_anonymous,  -- known by devices or cookies only
        people.first_seen as first_seen_at,  -- UTC
        people.last_seen as last_seen_at,  -- UTC
        people.identifier_count,
        profiles.member_id,  -- member account, the newest if several
        profiles.member_level,
        profiles.points,  -- balance
        case
            when len(profiles.name) > 2 then concat(left(profiles.name, 1), repeat('*', len(profiles.name) - 2), right(profiles.name, 1))
            when len(profiles.name) = 2 then concat(left(profiles.name, 1), '*')
            when len(profiles.name) = 1 then '*'
        end as name_masked,  -- first and last character
        case
            when len(regexp_replace(profiles.phone, '[^0-9]', '', 'g')) >= 7
                then concat(
                    left(right(regexp_replace(profiles.phone, '[^0-9]', '', 'g'), 11), 3),
                    '****',
                    right(regexp_replace(profiles.phone, '[^0-9]', '', 'g'), 4)
                )
            when profiles.phone is not null then '****'
        end as phone_masked,  -- 138****5678
        coalesce(profiles.phone_count, 0) as phone_count,
        profiles.gender,  -- male, female; null = not known
        profiles.birthday,
        profiles.province,
        profiles.city,
        profiles.registered_at,  -- UTC, first registration
        profiles.store_id,
        profiles.staff_userid as owner_userid,  -- staff member who looks after them, as the member table or CRM says
        profiles.consent_marketing,  -- may be contacted; null = never asked
        coalesce(relations.origin_state, profiles.channel) as origin_channel_id,  -- first contact way, else the registration channel
        coalesce(channels.channel_name, relations.origin_state, profiles.channel) as origin_channel,  -- its name
        relations.origin_state,  -- `state` of the first relation that has one
        relations.friend_added_at,  -- UTC, first relation with any staff member
        coalesce(relations.relation_count, 0) > 0 as is_friend,  -- of at least one staff member now
        coalesce(relations.relation_count, 0) as relation_count,  -- relations now
        coalesce(relations.staff_count, 0) as staff_count,  -- staff members they are with now
        coalesce(memberships.group_count, 0) as group_count,  -- customer groups now
        coalesce(followed.is_follower, false) as is_follower,  -- of an Official Account now
        followed.followed_at,  -- UTC
        referred.referred_by_one_id,  -- first person who brought them
        coalesce(identifiers.identifier_types, []) as identifier_types  -- kinds of ids they are known by
    from people
    left join profiles on profiles.one_id = people.one_id
    left join identifiers on identifiers.one_id = people.one_id
    left join relations on relations.one_id = people.one_id
    left join memberships on memberships.one_id = people.one_id
    left join followed on followed.one_id = people.one_id
    left join referred on referred.one_id = people.one_id
    left join channels on channels.channel_id = coalesce(relations.origin_state, profiles.channel)
)

select * from dim_people
