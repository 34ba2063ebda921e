/*
Items (物品: products, articles, courses …) that Sensors Analytics was told of: for each property the latest value set,
nothing from before an item was deleted; deleted ones left out.
grain: source, item_type, item_id
owner: data
*/
with records as (
    select
        _source as source,
        json_extract_string(_extra, '$.item_type') as item_type,
        nullif(trim(json_extract_string(_extra, '$.item_id')), '') as item_id,
        lower(type) as type,
        properties,
        timezone('UTC', epoch_ms(coalesce(time, recv_time))) as event_at,
        _loaded_at as recorded_at,
        record_key
    from raw.sensors__records
    where lower(type) in ('item_set', 'item_delete') and _deleted is not true
),

dated as (
    select
        *,
        max(event_at) filter (where type = 'item_delete') over (partition by source, item_type, item_id) as deleted_at
    from records
    where item_type is not null and item_id is not null
),

told as (
    select * from dated where type = 'item_set' and (deleted_at is null or event_at > deleted_at)
),

named as (
    select
        source,
        item_type,
        item_id,
        event_at,
        record_key,
        properties,
        unnest(json_keys(properties)) as name
    from told
),

latest as (
    select
        source,
        item_type,
        item_id,
        name,
        arg_max(
            json_extract(properties, concat('$."', replace(name, '"', '\"'), '"')), (event_at, record_key)
        ) as value
    from named
    group by source, item_type, item_id, name
),

texts as (
    select
        source,
        item_type,
        item_id,
        to_json(map_from_entries(list({'name': name, 'value': value} order by name))) as properties
    from latest
    group by source, item_type, item_id
),

stg_sensors__items as (
    select
        told.source,
        told.item_type,  -- what kind of thing, in the words of whoever sent it
        told.item_id,  -- the thing, as whoever sent it numbers it
        coalesce(cast(any_value(texts.properties) as varchar), '{}') as properties,  -- JSON object
        max(told.event_at) as updated_at,  -- UTC
        min(told.recorded_at) as recorded_at  -- UTC, when we learned it
    from told
    left join texts using (source, item_type, item_id)
    group by told.source, told.item_type, told.item_id
)

select * from stg_sensors__items
