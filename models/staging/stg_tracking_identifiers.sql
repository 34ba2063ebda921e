/*
The identifiers that tracked records carry, events, profiles and logins alike: what identity learns from tracking. Those
of one batch with the same identifiers and kind on the same brand day are one row with a count; those with one identifier
alone are one row over all days.
grain: batch_seq, source, kind, identifier_set, day
owner: identity
materialized: incremental
follows: staging.stg_tracking_batches
*/
with canonical as (
    select source, batch_seq, event_at, identifiers, is_login, is_unbind, recorded_at
    from staging.stg_canonical__events
),

sensors as (
    select source, batch_seq, event_at, identifiers, is_login, is_unbind, recorded_at
    from staging.stg_sensors__records
),

segment as (
    select source, batch_seq, event_at, identifiers, is_login, false as is_unbind, recorded_at
    from staging.stg_segment__messages
),

thinkingdata as (
    select source, batch_seq, event_at, identifiers, is_login, false as is_unbind, recorded_at
    from staging.stg_thinkingdata__records
),

united as (
    select * from canonical
    union all by name
    select * from sensors
    union all by name
    select * from segment
    union all by name
    select * from thinkingdata
),

grouped as (
    select
        batch_seq,
        source,
        case
            when is_unbind then 'unbind'
            when is_login then 'login'
            else 'co_occurrence'
        end as kind,
        case
            when len(identifiers) > 1 then cast(timezone(getvariable('timezone'), event_at) as date)
        end as day,
        identifiers,
        min(coalesce(event_at, recorded_at)) as event_time,
        max(coalesce(event_at, recorded_at)) as last_time,
        min(recorded_at) as recorded_at,
        count(*) as observations
    from united
    where len(identifiers) > 0
    group by all
),

stg_tracking_identifiers as (
    select
        batch_seq,  -- landing batch that brought them
        source,
        kind,  -- how far the records vouch that their identifiers are one person
        day,  -- in the brand's zone; null for one identifier alone
        cast(md5_number(concat(getvariable('salt'), cast(identifiers as varchar))) >> 64 as ubigint) as identifier_set,  -- keyed digest of them
        identifiers,  -- strongest first [personal]
        event_time,  -- UTC, first time they were seen together
        last_time,  -- UTC, last time
        recorded_at,  -- UTC, when we learned it
        observations  -- how many records say so
    from grouped
)

select * from stg_tracking_identifiers
