/*
Every Segment or RudderStack message, with the identifiers it names.

Clocks: the device's own time, corrected by the difference between sending and receiving (both ends of the same moment),
where all three are known; else `timestamp`, which the platform has corrected.
grain: source, message_id
owner: data
*/
with messages as (
    select
        messages.* exclude (timestamp, original_timestamp, sent_at, received_at, user_id, anonymous_id, previous_id),
        messages._source as source,
        try_cast(messages.timestamp as timestamptz) as stated_at,
        try_cast(messages.original_timestamp as timestamptz) as device_at,
        try_cast(messages.sent_at as timestamptz) as sent_at,
        try_cast(messages.received_at as timestamptz) as received_at,
        nullif(trim(messages.user_id), '') as user_id,
        nullif(trim(messages.anonymous_id), '') as anonymous_id,
        nullif(trim(messages.previous_id), '') as previous_id,
        coalesce(sources.login_id_type, 'member_id') as login_id_type,
        coalesce(sources.login_id_scope, '') as login_id_scope,
        coalesce(sources.anonymous_id_type, 'anonymous_id') as anonymous_id_type,
        coalesce(sources.anonymous_scope, '') as anonymous_scope,
        coalesce(sources.identity_fields, []) as identity_fields
    from raw.segment__messages as messages
    left join staging.stg_sources as sources on sources.source = messages._source
    where messages._deleted is not true
),

mapped as (
    select
        messages.*,
        list_transform(
            identity_fields,
            lambda item: {
                'type': item.type,
                'scope': item.scope,
                'value': nullif(
                    trim(
                        case split_part(item.field, '.', 1)
                            when 'traits'
                                then json_extract_string(
                                    traits, concat('$."', replace(substr(item.field, 8), '.', '"."'), '"')
                                )
                            when 'context'
                                then json_extract_string(
                                    context, concat('$."', replace(substr(item.field, 9), '.', '"."'), '"')
                                )
                            when 'properties'
                                then json_extract_string(
                                    properties, concat('$."', replace(substr(item.field, 12), '.', '"."'), '"')
                                )
                        end
                    ),
                    ''
                )
            }
        ) as named
    from messages
),

stg_segment__messages as (
    select
        mapped.source,
        mapped.message_id,
        mapped.type,  -- identify, track, page, screen, group, alias
        mapped.event,
        mapped.name,
        coalesce(mapped.device_at + (mapped.received_at - mapped.sent_at), mapped.stated_at, mapped.device_at, mapped.received_at)
            as event_at,  -- UTC
        mapped.received_at,  -- UTC
        mapped.user_id,  -- [personal]
        mapped.anonymous_id,  -- [personal]
        mapped.properties,  -- JSON object
        mapped.traits,  -- JSON object [personal]
        mapped.context,  -- JSON object
        list_filter(
            list_concat(
                [{'type': mapped.login_id_type, 'scope': mapped.login_id_scope, 'value': mapped.user_id}],
                mapped.named,
                [
                    {'type': mapped.anonymous_id_type, 'scope': mapped.anonymous_scope, 'value': mapped.anonymous_id},
                    {'type': mapped.anonymous_id_type, 'scope': mapped.anonymous_scope, 'value': mapped.previous_id}
                ]
            ),
            lambda item: item.value is not null
        ) as identifiers,  -- strongest first [personal]
        mapped.type in ('identify', 'alias') or mapped.user_id is not null as is_login,  -- made while logged in
        mapped._loaded_at as recorded_at  -- UTC, when we learned it
    from mapped
)

select * from stg_segment__messages
