/*
Contact ways (活码) made through the WeCom API: the latest version of each, vanished ones left out. Their `state` is what
relations carry; one state may stand on several ways.
grain: source, corpid, config_id
owner: data
*/
with versions as (
    select
        stream.*,
        stream._source as source,
        row_number() over (
            partition by stream._source, stream.corpid, stream.config_id
            order by stream._batch_seq desc, stream._row_number desc
        ) as _version
    from raw.wecom__contact_ways as stream
),

current as (
    select * from versions where _version = 1 and _deleted is not true
),

stg_wecom__contact_ways as (
    select
        current.source,
        trim(current.corpid) as corpid,
        trim(current.config_id) as config_id,
        nullif(trim(current.state), '') as state,  -- channel parameter
        nullif(trim(current.remark), '') as remark,  -- what staff call it
        current.type,  -- 1 one employee, 2 several
        current.scene,  -- 1 mini program, 2 QR code
        current._loaded_at as recorded_at  -- UTC, when we learned it
    from current
)

select * from stg_wecom__contact_ways
