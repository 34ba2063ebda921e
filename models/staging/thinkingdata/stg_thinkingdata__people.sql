/*
What ThinkingData user properties say of a person: for each property the latest value set, unless it was unset since;
nothing from before the user was deleted.
grain: source, person_key
owner: data
*/
with records as (
    select
        *,
        case
            when type = 'user_unset'
                then cast(
                    to_json(
                        map_from_entries(
                            list_transform(json_keys(properties), lambda name: {'name': name, 'value': ''})
                        )
                    ) as varchar
                )
            else properties
        end as stated,
        max(event_at) filter (where type = 'user_del') over (partition by source, identifiers[1]) as deleted_at
    from staging.stg_thinkingdata__records
    where type in ('user_set', 'user_setOnce', 'user_unset', 'user_del') and len(identifiers) > 0
),

profiles as (
    select
        source,
        identifiers,
        concat(identifiers[1].type, '|', identifiers[1].scope, '|', identifiers[1].value) as person_key,
        -- a property set once yields to every other
        row_number() over (
            partition by source, identifiers[1]
            order by type = 'user_setOnce', event_at desc nulls last, record_key
        ) as place,
        event_at,
        recorded_at,
        json_extract_string(
            stated,
            [
                '$.name', '$.gender', '$.birthday', '$."#province"', '$.province', '$."#city"', '$.city', '$.member_level',
                '$.phone', '$.email', '$.register_time', '$.channel'
            ]
        ) as found  -- empty text: unset
    from records
    where type <> 'user_del' and (deleted_at is null or event_at > deleted_at)
),

stg_thinkingdata__people as (
    select
        source,
        person_key,  -- strongest identifier of the record [personal]
        nullif(arg_min(found[1], place), '') as name,  -- [personal]
        nullif(arg_min(found[2], place), '') as gender,
        try_cast(nullif(arg_min(found[3], place), '') as date) as birthday,  -- [personal]
        nullif(arg_min(coalesce(found[4], found[5]), place), '') as province,
        nullif(arg_min(coalesce(found[6], found[7]), place), '') as city,
        nullif(arg_min(found[8], place), '') as member_level,
        nullif(arg_min(found[9], place), '') as phone,  -- not taken as an identifier unless mapped [personal]
        nullif(arg_min(found[10], place), '') as email,  -- [personal]
        try_cast(nullif(arg_min(found[11], place), '') as timestamptz) as registered_at,  -- UTC
        nullif(arg_min(found[12], place), '') as channel,
        max(event_at) as updated_at,  -- UTC
        arg_min(identifiers, place) as identifiers,  -- strongest first [personal]
        min(recorded_at) as recorded_at  -- UTC, when we learned it
    from profiles
    group by source, person_key
)

select * from stg_thinkingdata__people
