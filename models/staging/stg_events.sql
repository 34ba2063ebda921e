/*
Tracked events of every source in the same columns. A view: each event is parsed when it is read.
grain: event_key
owner: data
*/
with canonical as (
    select * from staging.stg_canonical__events
),

sensors as (
    select * from staging.stg_sensors__events
),

segment as (
    select * from staging.stg_segment__events
),

thinkingdata as (
    select * from staging.stg_thinkingdata__events
),

united as (
    select * from canonical
    union all by name
    select * from sensors
    union all by name
    select * from segment
    union all by name
    select * from thinkingdata
),

stg_events as (
    select
        concat(united.source, '|', united.event_id) as event_key,  -- unique over all sources
        united.source,
        united.event_id,
        united.event_name,  -- as the source calls it
        united.event_at,  -- UTC
        united.received_at,  -- UTC
        united.anonymous_id,  -- [personal]
        united.user_id,  -- [personal]
        united.unionid,  -- [personal]
        united.openid,  -- [personal]
        united.appid,
        united.phone,  -- [personal]
        united.external_userid,
        united.device_id,  -- [personal]
        united.session_id,
        united.page,
        united.channel,
        united.campaign_id,
        united.utm_source,
        united.utm_medium,
        united.utm_campaign,
        united.order_id,
        united.product_id,
        united.amount,
        -- What trackers put in beside the identifiers: numbers and addresses lose their middle here, so that no mart has
        -- them; a bare number becomes null, because half of one is no JSON.
        case
            when regexp_matches(united.properties, '1[3-9][0-9]{9}|@')
                then regexp_replace(
                    regexp_replace(
                        regexp_replace(united.properties, '(:\s*)(?:86)?1[3-9][0-9]{9}(\s*[,}\]])', '\1null\2', 'g'),
                        '(^|[^0-9A-Za-z])((?:[+]?86)?1[3-9][0-9])[0-9]{4}([0-9]{4})($|[^0-9A-Za-z])', '\1\2****\3\4', 'g'
                    ),
                    '([0-9A-Za-z])[0-9A-Za-z._%+-]*(@[0-9A-Za-z.-]+[.][A-Za-z]{2,})', '\1***\2', 'g'
                )
            else united.properties
        end as properties,  -- JSON object; phones and e-mail addresses in it are masked
        united.identifiers,  -- strongest first [personal]
        united.identifiers[1].type as id_type,  -- of the strongest identifier
        united.identifiers[1].scope as id_scope,  -- of the strongest identifier
        united.identifiers[1].value as id_value,  -- of the strongest identifier [personal]
        united.recorded_at,  -- UTC, when we learned it
        united.batch_seq  -- landing batch that brought it
    from united
)

select * from stg_events
