/*
What Segment `identify` messages say of a person: for each trait the latest value.
grain: source, person_key
owner: data
*/
with identifies as (
    select
        source,
        identifiers,
        concat(identifiers[1].type, '|', identifiers[1].scope, '|', identifiers[1].value) as person_key,
        row_number() over (partition by source, identifiers[1] order by event_at desc nulls last, message_id) as place,
        event_at,
        recorded_at,
        json_extract_string(
            traits,
            [
                '$.name', '$.gender', '$.birthday', '$.province', '$.address.state', '$.city', '$.address.city',
                '$.member_level', '$.phone', '$.email', '$.createdAt', '$.channel'
            ]
        ) as found
    from staging.stg_segment__messages
    where type = 'identify' and len(identifiers) > 0
),

stg_segment__people as (
    select
        source,
        person_key,  -- strongest identifier of the message [personal]
        arg_min(found[1], place) as name,  -- [personal]
        arg_min(found[2], place) as gender,
        try_cast(arg_min(found[3], place) as date) as birthday,  -- [personal]
        arg_min(coalesce(found[4], found[5]), place) as province,
        arg_min(coalesce(found[6], found[7]), place) as city,
        arg_min(found[8], place) as member_level,
        arg_min(found[9], place) as phone,  -- [personal]
        arg_min(found[10], place) as email,  -- [personal]
        try_cast(arg_min(found[11], place) as timestamptz) as registered_at,  -- UTC
        arg_min(found[12], place) as channel,
        max(event_at) as updated_at,  -- UTC
        arg_min(identifiers, place) as identifiers,  -- strongest first [personal]
        min(recorded_at) as recorded_at  -- UTC, when we learned it
    from identifies
    group by source, person_key
)

select * from stg_segment__people
