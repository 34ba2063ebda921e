/*
The landing batches that tracked records came in, each with a digest of all that its reading depends on: the records
themselves, the settings of their source, and what records of other batches say of them. A batch whose digest is what it
was need not be read again.
grain: source, batch_seq
owner: data
materialized: table
*/
with canonical as (
    select _source as source, _batch_seq as batch_seq, _row_hash as row_hash from raw.canonical__events
    where _deleted is not true
),

sensors as (
    select _source as source, _batch_seq as batch_seq, _row_hash as row_hash from raw.sensors__records
    where _deleted is not true
),

segment as (
    select _source as source, _batch_seq as batch_seq, _row_hash as row_hash from raw.segment__messages
    where _deleted is not true
),

thinkingdata as (
    select _source as source, _batch_seq as batch_seq, _row_hash as row_hash from raw.thinkingdata__records
    where _deleted is not true
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

records as (
    select source, batch_seq, count(*) as record_count, bit_xor(row_hash) as content
    from united
    group by source, batch_seq
),

signed_up as (
    -- an id that a visitor signs up as is a login id in other batches too: see stg_sensors__records
    select distinct _source as source, distinct_id as id from raw.sensors__records where lower(type) = 'track_signup'
),

logged_in as (
    -- whether the former id of an `alias` was a login id: see stg_segment__messages
    select distinct _source as source, trim(user_id) as id from raw.segment__messages where trim(user_id) <> ''
),

updated as (
    -- events that several records make: see stg_thinkingdata__events
    select
        _source as source,
        concat_ws('|', count(*), bit_xor(_row_hash)) as content,
        list(distinct _batch_seq) as batches
    from raw.thinkingdata__records
    where type in ('track_first', 'track_update', 'track_overwrite') and _deleted is not true
    group by _source
),

elsewhere as (
    select distinct records._source as source, records._batch_seq as batch_seq, signed_up.id
    from raw.sensors__records as records
    inner join signed_up on signed_up.source = records._source and signed_up.id = records.distinct_id
    union all by name
    select distinct messages._source as source, messages._batch_seq as batch_seq, logged_in.id
    from raw.segment__messages as messages
    inner join logged_in on logged_in.source = messages._source and logged_in.id = trim(messages.previous_id)
    union all by name
    select source, unnest(batches) as batch_seq, content as id from updated
),

rewritten as (
    -- erasure may empty single values of a row, whose hash stays: so that the row is known when it comes again
    select batch_seq, erased_at from raw._batches where erased_at is not null
),

related as (
    select source, batch_seq, count(*) as fact_count, bit_xor(md5_number_lower(id)) as facts
    from elsewhere
    group by source, batch_seq
),

stg_tracking_batches as (
    select
        records.source,
        records.batch_seq,  -- order of landing over all sources
        records.record_count,
        md5(
            concat_ws(
                '|', records.record_count, records.content, related.fact_count, related.facts, to_json(sources),
                epoch_us(rewritten.erased_at)
            )
        ) as digest  -- of all that the reading of the batch depends on
    from records
    left join related on related.source = records.source and related.batch_seq = records.batch_seq
    left join rewritten on rewritten.batch_seq = records.batch_seq
    left join staging.stg_sources as sources on sources.source = records.source
)

select * from stg_tracking_batches
