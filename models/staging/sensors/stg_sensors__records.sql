/*
Every line of Sensors Analytics (神策) logs, events and profiles alike, with the identifiers it names.

Which identifiers: the `identities` map and `properties` fields that `config/sources.yaml` names, plus the login id and the
anonymous id. `distinct_id` is one of the two and says which only by other fields: it is read where `identities` is empty.
Clocks: `time` is what the platform corrected; lines without it count when they were received.
grain: source, record_key
owner: data
*/
with logins as (
    -- logs of old SDKs do not flag login ids: an id that a visitor signed up as is one
    select distinct _source as source, distinct_id as login_id
    from raw.sensors__records
    where lower(type) = 'track_signup'
),

records as (
    select
        records.* exclude (identities, type),
        records._source as source,
        lower(records.type) as type,  -- senders of one's own write TRACK; nothing else is told apart by case
        coalesce(try_cast(try_cast(records.identities as json) as map(varchar, varchar)), map {}) as identities,
        coalesce(sources.identity_fields, []) as identity_fields,
        coalesce(sources.login_id_type, 'member_id') as login_id_type,
        coalesce(sources.login_id_scope, '') as login_id_scope,
        coalesce(sources.anonymous_id_type, 'anonymous_id') as anonymous_id_type,
        coalesce(sources.anonymous_scope, '') as anonymous_scope,
        json_extract_string(records.properties, '$."$is_login_id"') = 'true'
        or lower(records.type) = 'track_signup'
        or logins.login_id is not null as is_login_id
    from raw.sensors__records as records
    left join staging.stg_sources as sources on sources.source = records._source
    left join logins on logins.source = records._source and logins.login_id = records.distinct_id
    where records._deleted is not true
),

mapped as (
    select
        records.* exclude (distinct_id, original_id, login_id, anonymous_id),
        list_filter(
            list_transform(
                records.identity_fields,
                lambda item: {
                    'type': item.type,
                    'scope': item.scope,
                    'value': nullif(
                        trim(
                            case
                                when starts_with(item.field, 'properties.')
                                    then json_extract_string(
                                        records.properties, concat('$."', substr(item.field, 12), '"')
                                    )
                                else records.identities[item.field]
                            end
                        ),
                        ''
                    )
                }
            ),
            lambda item: item.value is not null
        ) as named,
        nullif(
            trim(
                case
                    when records.login_id is not null then records.login_id
                    when cardinality(records.identities) = 0 and records.is_login_id then records.distinct_id
                end
            ),
            ''
        ) as login_id,
        nullif(
            trim(
                case
                    when records.anonymous_id is not null then records.anonymous_id
                    when cardinality(records.identities) > 0 then null
                    when records.type = 'track_signup' then records.original_id
                    when records.is_login_id is not true then records.distinct_id
                end
            ),
            ''
        ) as anonymous_id
    from records
),

stg_sensors__records as (
    select
        mapped.source,
        mapped.record_key,
        mapped.type,  -- track, track_signup, track_id_bind, profile_set, …
        mapped.event as event_name,  -- null for profiles
        timezone('UTC', epoch_ms(coalesce(mapped.time, mapped.recv_time))) as event_at,  -- UTC
        timezone('UTC', epoch_ms(mapped.recv_time)) as received_at,  -- UTC
        mapped.login_id,  -- [personal]
        mapped.anonymous_id,  -- [personal]
        mapped.properties,  -- JSON object
        list_concat(
            case
                when mapped.login_id is null or list_contains(
                    list_transform(mapped.named, lambda item: concat(item.type, item.value)),
                    concat(mapped.login_id_type, mapped.login_id)
                ) then []
                else [{'type': mapped.login_id_type, 'scope': mapped.login_id_scope, 'value': mapped.login_id}]
            end,
            mapped.named,
            case
                when mapped.anonymous_id is null or list_contains(
                    list_transform(mapped.named, lambda item: concat(item.type, item.value)),
                    concat(mapped.anonymous_id_type, mapped.anonymous_id)
                ) then []
                else [{'type': mapped.anonymous_id_type, 'scope': mapped.anonymous_scope, 'value': mapped.anonymous_id}]
            end
        ) as identifiers,  -- strongest first [personal]
        mapped.type in ('track_signup', 'track_id_bind')
        or mapped.login_id is not null
        or list_contains(list_transform(mapped.named, lambda item: item.type), mapped.login_id_type)
            as is_login,  -- made while logged in, or the login itself
        mapped.type = 'track_id_unbind' as is_unbind,  -- takes an identifier away from an account
        mapped._loaded_at as recorded_at,  -- UTC, when we learned it
        mapped._batch_seq as batch_seq  -- landing batch that brought it
    from mapped
)

select * from stg_sensors__records
