/*
Every Segment or RudderStack message, with the identifiers it names.

Clocks: the device's own time, corrected by the difference between sending and receiving (both ends of the same moment),
where all three are known; else `timestamp`, which the platform has corrected.
Traits: RudderStack puts a person's into `context.traits`; those of a `group` call are the group's, not a person's.
grain: source, message_id
owner: data
*/
with logins as (
    -- `alias` may join a visitor or an earlier user id: an id that somebody was logged in by is one
    select distinct _source as source, trim(user_id) as user_id
    from raw.segment__messages
    where trim(user_id) <> ''
),

messages as (
    select
        messages.* exclude (
            timestamp, original_timestamp, sent_at, received_at, user_id, anonymous_id, previous_id, traits
        ),
        case when messages.type <> 'group' then messages.traits end as own_traits,
        json_extract(messages.context, '$.traits') as context_traits,
        messages._source as source,
        coalesce(
            try_cast(messages.timestamp as timestamptz),
            timezone('UTC', epoch_ms(try_cast(regexp_extract(messages.timestamp, '^\d{13}$') as bigint)))
        ) as stated_at,
        coalesce(
            try_cast(messages.original_timestamp as timestamptz),
            timezone('UTC', epoch_ms(try_cast(regexp_extract(messages.original_timestamp, '^\d{13}$') as bigint)))
        ) as device_at,
        try_cast(messages.sent_at as timestamptz) as sent_at,
        try_cast(messages.received_at as timestamptz) as received_at,
        nullif(trim(messages.user_id), '') as user_id,
        nullif(trim(messages.anonymous_id), '') as anonymous_id,
        nullif(trim(messages.previous_id), '') as previous_id,
        logins.user_id is not null as previous_was_login,
        coalesce(sources.login_id_type, 'member_id') as login_id_type,
        coalesce(sources.login_id_scope, '') as login_id_scope,
        coalesce(sources.anonymous_id_type, 'anonymous_id') as anonymous_id_type,
        coalesce(sources.anonymous_scope, '') as anonymous_scope,
        coalesce(sources.identity_fields, []) as identity_fields
    from raw.segment__messages as messages
    left join staging.stg_sources as sources on sources.source = messages._source
    left join logins on logins.source = messages._source and logins.user_id = trim(messages.previous_id)
    where messages._deleted is not true
),

described as (
    select
        messages.*,
        case
            when context_traits is null then own_traits
            when own_traits is null then cast(context_traits as varchar)
            else cast(json_merge_patch(context_traits, own_traits) as varchar)
        end as traits
    from messages
),

mapped as (
    select
        described.*,
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
    from described
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
        mapped.group_id,  -- account or company of a `group` call
        mapped.properties,  -- JSON object
        mapped.traits,  -- of the person, JSON object [personal]
        mapped.context,  -- JSON object
        list_filter(
            list_concat(
                [{'type': mapped.login_id_type, 'scope': mapped.login_id_scope, 'value': mapped.user_id}],
                mapped.named,
                [
                    {'type': mapped.anonymous_id_type, 'scope': mapped.anonymous_scope, 'value': mapped.anonymous_id},
                    {
                        'type': if(mapped.previous_was_login, mapped.login_id_type, mapped.anonymous_id_type),
                        'scope': if(mapped.previous_was_login, mapped.login_id_scope, mapped.anonymous_scope),
                        'value': mapped.previous_id
                    }
                ]
            ),
            lambda item: item.value is not null
        ) as identifiers,  -- strongest first [personal]
        mapped.type in ('identify', 'alias') or mapped.user_id is not null as is_login,  -- made while logged in
        mapped._loaded_at as recorded_at,  -- UTC, when we learned it
        mapped._batch_seq as batch_seq  -- landing batch that brought it
    from mapped
)

select * from stg_segment__messages
