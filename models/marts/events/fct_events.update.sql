/*
Stored events whose person or order is another now: those of identifiers that were looked up again since the last run, and
those that name an order.
grain: event_key
owner: data
*/
with events as (
    select event_key, one_id, order_key, order_id, identifier_set, coalesce(event_at, recorded_at) as seen_at
    from marts.fct_events
    where order_id is not null
        or identifier_set in (
            select identifier_set
            from intermediate.int_people__identifier_sets
            where looked_up_at > getvariable('cursor')
        )
),

order_keys as (
    select * from staging.stg_order_keys
),

found as (
    select
        events.event_key,
        events.one_id as former_one_id,
        events.order_key as former_order_key,
        sets.one_id,
        order_keys.order_key
    from events
    left join intermediate.int_people__identifier_sets as sets
        on sets.identifier_set = events.identifier_set
        and events.seen_at >= sets.valid_from
        and events.seen_at < sets.valid_to
    left join order_keys on order_keys.order_id = events.order_id
),

fct_events_update as (
    select
        event_key,
        one_id,  -- now
        order_key  -- now
    from found
    where one_id is distinct from former_one_id or order_key is distinct from former_order_key
)

select * from fct_events_update
