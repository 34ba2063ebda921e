/*
Which person a row belongs to, for every set of identifiers that rows carry: the strongest identifier that leads to a
person decides. An identifier that had several owners over time gives several rows, one for each span.

Rows find their set by its digest or by the list itself: one join instead of one for each kind of id. (Not by DuckDB's
`hash` of it: of 156,745 structured keys, 14 pairs had the same.) It follows the change feed of identity: only sets that are
new or that name somebody or something whose person changed are looked up again.
grain: identifier_set, valid_from
owner: identity
schema: intermediate
materialized: incremental
scope: identifier_set in (select identifier_set from intermediate.touched_sets)
cursor: select max(run) from identity.run_manifest
*/
with sets as (
    select identifier_set, any_value(identifiers) as identifiers
    from identity.int_identity__evidence
    where getvariable('cursor') is null
        or identifier_set in (select identifier_set from intermediate.touched_sets)
    group by identifier_set
),

members as (
    select
        identifier_set,
        unnest(identifiers) as identifier,
        generate_subscripts(identifiers, 1) as place
    from sets
),

owned as (
    select
        members.identifier_set,
        members.place,
        resolved.one_id,
        coalesce(resolved.valid_from, timestamptz '-infinity') as valid_from,
        coalesce(resolved.valid_to, timestamptz 'infinity') as valid_to
    from members
    inner join identity.resolved as resolved
        on resolved.type = members.identifier.type
        and resolved.scope = members.identifier.scope
        and resolved.value = members.identifier.value
    where resolved.kind = 'person'
),

strongest as (
    select identifier_set, min(place) as place
    from owned
    group by identifier_set
),

owners as (
    select owned.*
    from owned
    inner join strongest on strongest.identifier_set = owned.identifier_set and strongest.place = owned.place
),

int_people__identifier_sets as (
    select
        sets.identifier_set,  -- keyed digest of the identifiers
        sets.identifiers,  -- as the rows carry them [personal]
        owners.one_id,  -- the person; null when no identifier leads to one
        coalesce(owners.valid_from, timestamptz '-infinity') as valid_from,  -- UTC, included
        coalesce(owners.valid_to, timestamptz 'infinity') as valid_to,  -- UTC, not included
        cast(getvariable('made_at') as bigint) as looked_up_at  -- microseconds since 1970, when this row was made
    from sets
    left join owners on owners.identifier_set = sets.identifier_set
)

select * from int_people__identifier_sets
