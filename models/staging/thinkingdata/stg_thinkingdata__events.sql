/*
Events of ThinkingData logs, in the columns all events share. Names are kept as the source writes them.
An event that is updated later (same name and `#event_id`) is one event: `track_update` changes single properties,
`track_overwrite` all of them. One that counts once (`track_first`) is the first of its `#first_check_id`.
grain: source, event_id
owner: data
*/
with several as (
    select
        *,
        md5(
            case
                when type = 'track_first'
                    then concat_ws(chr(31), 'first', event_name, coalesce(first_check_id, distinct_id, record_key))
                else concat_ws(chr(31), 'event', event_name, coalesce(native_event_id, record_key))
            end
        ) as whole_id
    from staging.stg_thinkingdata__records
    where type in ('track_first', 'track_update', 'track_overwrite')
),

overwritten as (
    select
        *,
        max(event_at) filter (where type = 'track_overwrite') over (partition by source, whole_id) as overwritten_at,
        row_number() over (partition by source, whole_id order by event_at, record_key) as place
    from several
),

folded as (
    select
        source,
        whole_id as record_key,
        min(event_name) as event_name,
        min(event_at) as event_at,
        arg_min(account_id, place) as account_id,
        arg_min(distinct_id, place) as distinct_id,
        list_reduce(
            list(coalesce(properties, '{}') order by place),
            lambda before, after: cast(json_merge_patch(before, after) as varchar)
        ) as properties,
        arg_max(identifiers, (len(identifiers), -place)) as identifiers,
        min(recorded_at) as recorded_at,
        min(batch_seq) as batch_seq  -- the event stays one of the batch that brought it first
    from overwritten
    where if(type = 'track_first', place = 1, overwritten_at is null or event_at >= overwritten_at)
    group by source, whole_id
),

tracked as (
    select
        source, record_key, event_name, event_at, account_id, distinct_id, properties, identifiers, recorded_at,
        batch_seq
    from staging.stg_thinkingdata__records
    where type = 'track'
    union all by name
    select * from folded
),

records as (
    select
        *,
        json_extract_string(
            properties,
            [
                '$."#session_id"', '$.session_id', '$."#url_path"', '$."#screen_name"', '$.page', '$.channel', '$.campaign_id',
                '$."#utm_source"', '$.utm_source', '$.utm_medium', '$.utm_campaign', '$.order_id', '$.product_id', '$.amount',
                '$."#device_id"'
            ]
        ) as found
    from tracked
),

stg_thinkingdata__events as (
    select
        source,
        record_key as event_id,
        event_name,
        event_at,  -- UTC
        distinct_id as anonymous_id,  -- [personal]
        account_id as user_id,  -- [personal]
        found[15] as device_id,  -- [personal]
        coalesce(found[1], found[2]) as session_id,
        coalesce(found[3], found[4], found[5]) as page,
        found[6] as channel,
        found[7] as campaign_id,
        coalesce(found[8], found[9]) as utm_source,
        found[10] as utm_medium,
        found[11] as utm_campaign,
        nullif(trim(found[12]), '') as order_id,
        nullif(trim(found[13]), '') as product_id,
        try_cast(found[14] as decimal(18, 2)) as amount,
        properties,  -- JSON object
        identifiers,  -- strongest first [personal]
        recorded_at,  -- UTC, when we learned it
        batch_seq  -- landing batch that brought it
    from records
)

select * from stg_thinkingdata__events
