/*
What Sensors Analytics profiles say of a person: for each property the latest value set, unless it was unset since;
nothing from before a profile was deleted.
grain: source, person_key
owner: data
*/
with records as (
    select
        *,
        case
            when type = 'profile_unset'
                then cast(
                    to_json(
                        map_from_entries(
                            list_transform(json_keys(properties), lambda name: {'name': name, 'value': ''})
                        )
                    ) as varchar
                )
            else properties
        end as stated,
        max(event_at) filter (where type = 'profile_delete') over (partition by source, identifiers[1]) as deleted_at
    from staging.stg_sensors__records
    where type in ('profile_set', 'profile_set_once', 'profile_unset', 'profile_delete') and len(identifiers) > 0
),

profiles as (
    select
        source,
        identifiers,
        concat(identifiers[1].type, '|', identifiers[1].scope, '|', identifiers[1].value) as person_key,
        -- a profile set once yields to every other
        row_number() over (
            partition by source, identifiers[1]
            order by type = 'profile_set_once', event_at desc nulls last, record_key
        ) as place,
        event_at,
        recorded_at,
        json_extract_string(
            stated,
            [
                '$."$name"', '$.name', '$."$gender"', '$.gender', '$."$birthday"', '$.birthday', '$."$province"',
                '$.province', '$."$city"', '$.city', '$.member_level', '$.phone', '$.mobile', '$.email',
                '$."$signup_time"', '$.register_time', '$.channel'
            ]
        ) as found  -- empty text: unset
    from records
    where type <> 'profile_delete' and (deleted_at is null or event_at > deleted_at)
),

stg_sensors__people as (
    select
        source,
        person_key,  -- strongest identifier of the profile [personal]
        nullif(arg_min(coalesce(found[1], found[2]), place), '') as name,  -- [personal]
        nullif(arg_min(coalesce(found[3], found[4]), place), '') as gender,
        try_cast(nullif(arg_min(coalesce(found[5], found[6]), place), '') as date) as birthday,  -- [personal]
        nullif(arg_min(coalesce(found[7], found[8]), place), '') as province,
        nullif(arg_min(coalesce(found[9], found[10]), place), '') as city,
        nullif(arg_min(found[11], place), '') as member_level,
        nullif(arg_min(coalesce(found[12], found[13]), place), '') as phone,  -- not taken as an identifier unless mapped [personal]
        nullif(arg_min(found[14], place), '') as email,  -- [personal]
        try_cast(nullif(arg_min(coalesce(found[15], found[16]), place), '') as timestamptz) as registered_at,  -- UTC
        nullif(arg_min(found[17], place), '') as channel,
        max(event_at) as updated_at,  -- UTC
        arg_min(identifiers, place) as identifiers,  -- strongest first [personal]
        min(recorded_at) as recorded_at  -- UTC, when we learned it
    from profiles
    group by source, person_key
)

select * from stg_sensors__people
