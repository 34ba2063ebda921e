/*
Every line of ThinkingData (数数) logs, events and user properties alike, with the identifiers it names.
Clocks: `#time` is wall time; `#zone_offset` (hours) says of which zone, else it is the source's.
grain: source, record_key
owner: data
*/
with records as (
    select
        records.*,
        records._source as source,
        try_cast(records.time as timestamp) as wall_time,
        try_cast(regexp_extract(records.time, '^\d{13}$') as bigint) as epoch,  -- milliseconds
        try_cast(json_extract_string(records.properties, '$."#zone_offset"') as double) as zone_offset,
        coalesce(sources.timezone, getvariable('timezone')) as zone,
        coalesce(sources.login_id_type, 'member_id') as login_id_type,
        coalesce(sources.login_id_scope, '') as login_id_scope,
        coalesce(sources.anonymous_id_type, 'anonymous_id') as anonymous_id_type,
        coalesce(sources.anonymous_scope, '') as anonymous_scope,
        list_filter(
            coalesce(sources.identity_fields, []), lambda item: starts_with(item.field, 'properties.')
        ) as property_fields
    from raw.thinkingdata__records as records
    left join staging.stg_sources as sources on sources.source = records._source
    where records._deleted is not true
),

mapped as (
    select
        records.*,
        list_transform(
            property_fields,
            lambda item: {
                'type': item.type,
                'scope': item.scope,
                'value': nullif(
                    trim(json_extract_string(properties, concat('$."', substr(item.field, 12), '"'))), ''
                )
            }
        ) as named
    from records
),

stg_thinkingdata__records as (
    select
        source,
        record_key,
        type,  -- track, track_first, track_update, track_overwrite, user_set, user_setOnce, …
        event_id as native_event_id,  -- of events that are updated later
        first_check_id,  -- of events that count once [personal]
        event_name,  -- null for user properties
        case
            when zone_offset is not null and wall_time is not null
                then timezone('UTC', wall_time) - to_seconds(zone_offset * 3600)
            else coalesce(timezone(zone, wall_time), timezone('UTC', epoch_ms(epoch)))
        end as event_at,  -- UTC
        nullif(trim(account_id), '') as account_id,  -- [personal]
        nullif(trim(distinct_id), '') as distinct_id,  -- [personal]
        properties,  -- JSON object
        list_filter(
            list_concat(
                [{'type': login_id_type, 'scope': login_id_scope, 'value': nullif(trim(account_id), '')}],
                named,
                [{'type': anonymous_id_type, 'scope': anonymous_scope, 'value': nullif(trim(distinct_id), '')}]
            ),
            lambda item: item.value is not null
        ) as identifiers,  -- strongest first [personal]
        nullif(trim(account_id), '') is not null as is_login,  -- made while logged in
        _loaded_at as recorded_at,  -- UTC, when we learned it
        _batch_seq as batch_seq  -- landing batch that brought it
    from mapped
)

select * from stg_thinkingdata__records
