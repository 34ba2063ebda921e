/*
The identifiers of every tracked record, events, profiles and logins alike: what identity learns from tracking.
grain: source, record_id
owner: identity
*/
with canonical as (
    select source, event_id as record_id, event_at, identifiers, is_login, is_unbind, recorded_at
    from staging.stg_canonical__events
),

sensors as (
    select source, record_key as record_id, event_at, identifiers, is_login, is_unbind, recorded_at
    from staging.stg_sensors__records
),

segment as (
    select source, message_id as record_id, event_at, identifiers, is_login, false as is_unbind, recorded_at
    from staging.stg_segment__messages
),

thinkingdata as (
    select source, record_key as record_id, event_at, identifiers, is_login, false as is_unbind, recorded_at
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

stg_tracking_identifiers as (
    select
        source,
        record_id,
        event_at,  -- UTC
        identifiers,  -- strongest first [personal]
        case
            when is_unbind then 'unbind'
            when is_login then 'login'
            else 'co_occurrence'
        end as kind,  -- how far the record vouches that its identifiers are one person
        recorded_at  -- UTC, when we learned it
    from united
    where len(identifiers) > 0
)

select * from stg_tracking_identifiers
