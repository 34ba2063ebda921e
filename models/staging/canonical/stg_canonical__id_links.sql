/*
Pairs of identifiers that a system says are one person.
grain: source, link_id
owner: data
*/
with versions as (
    select
        stream.*,
        stream._source as source,
        row_number() over (
            partition by stream._source, stream.link_id
            order by stream._batch_seq desc, stream._row_number desc
        ) as _version
    from raw.canonical__id_links as stream
),

current as (
    select * from versions where _version = 1 and _deleted is not true
),

stg_canonical__id_links as (
    select
        source,
        trim(link_id) as link_id,
        trim(a_type) as a_type,  -- identifier type
        coalesce(trim(a_scope), '') as a_scope,
        nullif(trim(a_value), '') as a_value,  -- [personal]
        trim(b_type) as b_type,  -- identifier type
        coalesce(trim(b_scope), '') as b_scope,
        nullif(trim(b_value), '') as b_value,  -- [personal]
        coalesce(nullif(lower(trim(kind)), ''), 'bind') as kind,  -- bind, login, order, co_occurrence, hash_of, manual, unbind
        linked_at,  -- UTC
        confidence,  -- 0 to 1
        _loaded_at as recorded_at  -- UTC, when we learned it
    from current
)

select * from stg_canonical__id_links
