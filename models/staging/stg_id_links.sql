/*
Pairs of identifiers that a system says are one person (or no longer are: kind `unbind`).
grain: id_link_key
owner: identity
*/
with stg_id_links as (
    select
        concat(source, '|', link_id) as id_link_key,  -- unique over all sources
        source,
        link_id,
        a_type,
        a_scope,
        a_value,  -- [personal]
        b_type,
        b_scope,
        b_value,  -- [personal]
        kind,  -- bind, login, order, co_occurrence, hash_of, manual, unbind
        linked_at,  -- UTC
        confidence,  -- 0 to 1
        [
            {'type': a_type, 'scope': a_scope, 'value': a_value},
            {'type': b_type, 'scope': b_scope, 'value': b_value}
        ] as identifiers,  -- [personal]
        recorded_at  -- UTC, when we learned it
    from staging.stg_canonical__id_links
    where a_value is not null and b_value is not null
)

select * from stg_id_links
