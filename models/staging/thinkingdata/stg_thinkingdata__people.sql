/*
What ThinkingData user properties say of a person: for each property the latest value set.
grain: source, person_key
owner: data
*/
with profiles as (
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
            properties,
            [
                '$.name', '$.gender', '$.birthday', '$."#province"', '$.province', '$."#city"', '$.city', '$.member_level',
                '$.phone', '$.email', '$.register_time', '$.channel'
            ]
        ) as found
    from staging.stg_thinkingdata__records
    where type in ('user_set', 'user_setOnce') and len(identifiers) > 0
),

stg_thinkingdata__people as (
    select
        source,
        person_key,  -- strongest identifier of the record [personal]
        arg_min(found[1], place) as name,  -- [personal]
        arg_min(found[2], place) as gender,
        try_cast(arg_min(found[3], place) as date) as birthday,  -- [personal]
        arg_min(coalesce(found[4], found[5]), place) as province,
        arg_min(coalesce(found[6], found[7]), place) as city,
        arg_min(found[8], place) as member_level,
        arg_min(found[9], place) as phone,  -- not taken as an identifier unless mapped [personal]
        arg_min(found[10], place) as email,  -- [personal]
        try_cast(arg_min(found[11], place) as timestamptz) as registered_at,  -- UTC
        arg_min(found[12], place) as channel,
        max(event_at) as updated_at,  -- UTC
        arg_min(identifiers, place) as identifiers,  -- strongest first [personal]
        min(recorded_at) as recorded_at  -- UTC, when we learned it
    from profiles
    group by source, person_key
)

select * from stg_thinkingdata__people
