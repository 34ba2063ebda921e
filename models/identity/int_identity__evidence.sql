/*
What identity is resolved from: one row per source row that saw identifiers together.

Tracked records repeat: those with the same identifiers, source and kind on the same brand day are one row with a count,
and those with one identifier alone are one row over all days. Values are raw; identity normalises them.
grain: source, source_key
owner: identity
materialized: incremental
digest: evidence_id
follows: staging.stg_tracking_identifiers
scope: not starts_with(source_key, 'tracking|') or identifier_set in (select identifier_set from staging.stg_tracking_identifiers where list_contains(getvariable('new_batches'), batch_seq))
*/
with people as (
    select
        source,
        concat('person|', person_key) as source_key,
        'bind' as kind,
        coalesce(registered_at, updated_at, recorded_at) as event_time,
        coalesce(updated_at, registered_at, recorded_at) as last_time,
        recorded_at,
        1.0 as confidence,
        1 as observations,
        identifiers
    from staging.stg_people
    where len(identifiers) > 0
),

orders as (
    select
        source,
        concat('order|', order_key) as source_key,
        'order' as kind,
        coalesce(paid_at, ordered_at, recorded_at) as event_time,
        coalesce(paid_at, ordered_at, recorded_at) as last_time,
        recorded_at,
        1.0 as confidence,
        1 as observations,
        identifiers
    from staging.stg_orders
    where len(identifiers) > 0
),

changed_sets as (
    -- new batches add to the groups of the identifiers they name; all groups are made when nothing says what is new
    select distinct identifier_set
    from staging.stg_tracking_identifiers
    where getvariable('new_batches') is null or list_contains(getvariable('new_batches'), batch_seq)
),

tracking as (
    select
        source,
        kind,
        day,
        identifier_set,
        any_value(identifiers) as identifiers,
        min(event_time) as event_time,
        max(last_time) as last_time,
        min(recorded_at) as recorded_at,
        sum(observations) as observations
    from staging.stg_tracking_identifiers
    where identifier_set in (select identifier_set from changed_sets)
    group by source, kind, day, identifier_set
),

tracked as (
    select
        source,
        concat('tracking|', kind, '|', coalesce(cast(day as varchar), ''), '|', md5(cast(identifiers as varchar)))
            as source_key,
        kind,
        event_time,
        last_time,
        recorded_at,
        1.0 as confidence,
        observations,
        identifiers
    from tracking
),

relations as (
    select
        source,
        concat('relation|', relation_key) as source_key,
        'bind' as kind,
        coalesce(added_at, recorded_at) as event_time,
        coalesce(added_at, recorded_at) as last_time,
        recorded_at,
        1.0 as confidence,
        1 as observations,
        identifiers
    from staging.stg_relations
),

remarked as (
    -- a mobile that staff typed beside a customer: often right, never certain
    select
        source,
        concat('remark|', relation_key, '|', mobile) as source_key,
        'co_occurrence' as kind,
        coalesce(added_at, recorded_at) as event_time,
        coalesce(added_at, recorded_at) as last_time,
        recorded_at,
        0.5 as confidence,
        1 as observations,
        [
            {'type': 'external_userid', 'scope': corpid, 'value': external_userid},
            {'type': 'phone', 'scope': '', 'value': mobile}
        ] as identifiers
    from (
        select distinct source, relation_key, corpid, external_userid, added_at, recorded_at, unnest(remark_mobiles) as mobile
        from staging.stg_relations
    )
    where trim(mobile) <> ''
),

followers as (
    select
        source,
        concat('follower|', follower_key) as source_key,
        'bind' as kind,
        coalesce(subscribed_at, recorded_at) as event_time,
        coalesce(subscribed_at, recorded_at) as last_time,
        recorded_at,
        1.0 as confidence,
        1 as observations,
        identifiers
    from staging.stg_followers
),

group_members as (
    select
        source,
        concat('group_member|', membership_key) as source_key,
        'bind' as kind,
        coalesce(join_at, recorded_at) as event_time,
        coalesce(join_at, recorded_at) as last_time,
        recorded_at,
        1.0 as confidence,
        1 as observations,
        identifiers
    from staging.stg_group_members
    where len(identifiers) > 0
),

id_links as (
    select
        source,
        concat('link|', id_link_key) as source_key,
        kind,
        coalesce(linked_at, recorded_at) as event_time,
        coalesce(linked_at, recorded_at) as last_time,
        recorded_at,
        coalesce(confidence, 1.0) as confidence,
        1 as observations,
        identifiers
    from staging.stg_id_links
),

inviters as (
    -- each end by itself: to invite somebody is not to be somebody
    select
        source,
        concat('inviter|', referral_key) as source_key,
        'co_occurrence' as kind,
        coalesce(invited_at, recorded_at) as event_time,
        coalesce(invited_at, recorded_at) as last_time,
        recorded_at,
        1.0 as confidence,
        1 as observations,
        inviter_identifiers as identifiers
    from staging.stg_referrals
),

invitees as (
    select
        source,
        concat('invitee|', referral_key) as source_key,
        'co_occurrence' as kind,
        coalesce(invited_at, recorded_at) as event_time,
        coalesce(invited_at, recorded_at) as last_time,
        recorded_at,
        1.0 as confidence,
        1 as observations,
        invitee_identifiers as identifiers
    from staging.stg_referrals
),

united as (
    select * from people
    union all by name
    select * from orders
    union all by name
    select * from tracked
    union all by name
    select * from relations
    union all by name
    select * from remarked
    union all by name
    select * from followers
    union all by name
    select * from group_members
    union all by name
    select * from id_links
    union all by name
    select * from inviters
    union all by name
    select * from invitees
),

digested as (
    select
        *,
        -- the number that `md5_number_lower` gives, in a quarter of the time
        cast(md5_number(concat(getvariable('salt'), cast(identifiers as varchar))) >> 64 as ubigint) as identifier_set
    from united
),

int_identity__evidence as (
    select
        source,  -- source of the row
        source_key,  -- the row inside its source; the same on every run [personal]
        kind,  -- bind, login, order, co_occurrence, hash_of, manual, unbind
        event_time,  -- UTC, first time the identifiers were seen together
        last_time,  -- UTC, last time
        recorded_at,  -- UTC, when we learned it
        cast(confidence as double) as confidence,  -- 0 to 1
        cast(observations as bigint) as observations,  -- how many records say so
        identifier_set,  -- keyed digest of the identifiers
        identifiers,  -- raw values, strongest first [personal]
        cast(md5_number(concat_ws(
            '|', source, source_key, kind, coalesce(epoch_us(event_time), -1), coalesce(epoch_us(last_time), -1),
            epoch_us(recorded_at), confidence, observations, identifier_set
        )) >> 64 as ubigint) as evidence_id,  -- digest of all above
        cast(getvariable('made_at') as bigint) as made_at  -- microseconds since 1970, when this row was made
    from digested
)

select * from int_identity__evidence
