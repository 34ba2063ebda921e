"""The tables of schema `identity` (identity.md § 2.8), and the views that models and people read."""

from __future__ import annotations

import duckdb

from cdp.errors import FatalError

# Grows with every change of the tables below that old homes must be carried over.
LAYOUT = 1
# Numbers of a table's rows: `node_id`, `row_id`, `number` (of a one_id) and `run` are dense and only ever grow.
TABLES = """
create table if not exists identity.node (
    node_id bigint,  -- dense, given at first sight; never used for ordering
    type text,
    scope text,
    value_norm text,
    epoch smallint,  -- 1, or the number of the interval of a contact or device that changed hands
    epoch_of bigint,  -- node_id of epoch 1, null there
    barred text,  -- why it may link nobody, null when it may
    alias_of bigint,  -- node_id of the plain value that this digest was found to be
    node_hash ubigint  -- digest of type, scope, value_norm
);
create table if not exists identity.identifier_value (
    value_hash ubigint,  -- digest of type, scope, value
    type text,
    scope text,
    value text,  -- as it came
    node_id bigint
);
create table if not exists identity.rejects (
    value_hash ubigint,
    type text,
    scope text,
    value text,
    reason text,
    run integer
);
create table if not exists identity.evidence (
    row_id bigint,
    evidence_id ubigint,  -- the model's digest of the whole row
    source text,
    source_key text,
    kind text,
    event_time timestamptz,
    last_time timestamptz,
    day date,  -- the brand's day of event_time
    recorded_at timestamptz,
    confidence float,
    observations bigint,
    clamped boolean  -- event_time lay more than a day after recorded_at and was set back
);
create table if not exists identity.taken_in (made_at bigint);  -- how far the evidence model was read: newest row
create table if not exists identity.evidence_node (row_id bigint, node_id bigint);
create table if not exists identity.assertion (
    assertion_id text,
    kind text,  -- must_link, cannot_link, cut_edge
    a_type text, a_scope text, a_value text,
    b_type text, b_scope text, b_value text,
    author text,
    reason text,
    created_at timestamptz,
    valid_from timestamptz,  -- cut_edge: the evidence it suppresses
    valid_to timestamptz,
    withdrawn_at timestamptz
);
create table if not exists identity.tombstone (
    value_mac text,  -- HMAC-SHA256 of the normal form: the value itself is gone
    forgotten_at timestamptz,
    expires_at timestamptz
);
create table if not exists identity.edge (
    a_node bigint,  -- the stronger end
    b_node bigint,
    tier tinyint,
    first_seen timestamptz,
    last_seen timestamptz,
    observations bigint,
    distinct_days integer,
    distinct_sources integer,
    confidence float,
    decision text  -- accepted, redundant, rejected, rejected_cannot, overridden
);
create table if not exists identity.edge_decision (
    a_node bigint,
    b_node bigint,
    decision text,  -- rejected, rejected_cannot, overridden, suppressed
    reason text,  -- limit:<type>, cannot_link, or why the evidence was kept back
    left_node bigint,  -- the value on a's side that stood against it
    right_node bigint
);
create table if not exists identity.raw_component (
    node_id bigint,
    component bigint,  -- smallest node_id of the component
    first_seen timestamptz,
    last_seen timestamptz,
    status text,  -- '' links; else why it does not
    extent bigint,  -- what is resolved together with it
    barred text
);
create table if not exists identity.touched (node_id bigint);  -- to be looked at by the next run whatever happens
create table if not exists identity.slice (
    node_id bigint,  -- epoch 1
    epoch smallint,
    slice_node bigint,
    valid_from timestamptz,
    valid_to timestamptz,
    run_from integer,
    run_to integer
);
create table if not exists identity.identity_map (
    node_id bigint,
    one_id text,
    number bigint,
    run_from integer,
    run_to integer,  -- first run that no longer says so; null: current
    tx_from timestamptz,
    tx_to timestamptz
);
create table if not exists identity.one_id_registry (
    number bigint,
    one_id text,
    status text,  -- live, merged, retired, forgotten
    minted_run integer,
    minted_at timestamptz,
    generation integer,
    died_run integer,
    merged_into bigint,  -- number it merged into when it died
    current_number bigint  -- where that leads today; itself when live
);
create table if not exists identity.frozen_member (number bigint, node_id bigint);
create table if not exists identity.node_home (node_id bigint, number bigint);
create table if not exists identity.identity_change (
    run integer,
    seq bigint,
    op text,  -- mint, merge, split, resurrect, retire, forget; attach, move, detach for one identifier
    one_id text,
    other_id text,
    node_id bigint,
    cause text  -- evidence, assertion, rule, clock
);
create table if not exists identity.person (
    number bigint,
    one_id text,
    kind text,  -- person, shared, relay, expired
    first_seen timestamptz,
    last_seen timestamptz,
    identifier_count integer,
    anonymous boolean,
    household bigint  -- number of the household's oldest person
);
create table if not exists identity.writer (beat bigint);  -- one row; whoever changes identities touches it first
insert into identity.writer select 0 where not exists (select 1 from identity.writer);
create table if not exists identity.type_registry (
    type text, class tinyint, priority smallint, strength integer, type_code smallint, limit_per_person integer, pii
    boolean
);
create table if not exists identity.rules_version (rules_hash text, values_hash text, rules text, first_run integer);
create table if not exists identity.run_manifest (
    run integer,
    run_id text,
    as_of timestamptz,
    mode text,  -- full, incremental, unchanged
    rules_hash text,
    values_hash text,
    assertion_hash text,
    engine_hash ubigint,  -- differs when hashes are of another recipe or DuckDB hashes otherwise
    evidence_hash ubigint,
    map_hash ubigint,
    state_hash ubigint,  -- of (node_id, number): tells whether the map was changed by other hands
    identifiers bigint,
    people bigint,
    changes bigint,
    report json
);
"""

VIEWS = """
create or replace view identity.identifier as
select node.node_id, node.type, node.scope, node.value_norm, node.epoch, registry.class, registry.priority,
    state.first_seen, state.last_seen, state.component, state.status, node.barred
from identity.node as node
inner join identity.raw_component as state on node.node_id = state.node_id
left join identity.type_registry as registry on node.type = registry.type;

create or replace view identity.people as
select one_id, kind, first_seen, last_seen, identifier_count, anonymous,
    (select registry.one_id from identity.one_id_registry as registry where registry.number = person.household)
        as household_id
from identity.person as person;

create or replace view identity.alias as
select old.one_id, now.one_id as current_one_id, old.status
from identity.one_id_registry as old
left join identity.one_id_registry as now on old.current_number = now.number;

create or replace view identity.resolved as
select value.type, value.scope, value.value, map.one_id, person.kind, slice.valid_from, slice.valid_to
from identity.identifier_value as value
left join (select * from identity.slice where run_to is null) as slice on value.node_id = slice.node_id
inner join (select * from identity.identity_map where run_to is null) as map
    on coalesce(slice.slice_node, value.node_id) = map.node_id
inner join identity.person as person on map.number = person.number;

-- The three levels of one identifier: what machine it is on, whose it is, which household. Ids of class 3 are machines;
-- an id of class 4 (cookie, session) is on the machine it was seen with most often, else it stands for one itself.
create or replace view identity.levels as
with machines as (
    select item.node_id, item.class, lower(hex(node.node_hash)) as device
    from identity.identifier as item inner join identity.node as node on item.node_id = node.node_id
    where item.class in (3, 4) and node.epoch = 1 and item.status not in ('blocked', 'relay')
),
seen_on as (
    select cookie.node_id, machine.device,
        row_number() over (
            partition by cookie.node_id
            order by sum(evidence.observations) desc, max(evidence.last_time) desc, machine.device
        ) as place
    from identity.evidence_node as link
    inner join machines as cookie on link.node_id = cookie.node_id and cookie.class = 4
    inner join identity.evidence_node as other on link.row_id = other.row_id
    inner join machines as machine on other.node_id = machine.node_id and machine.class = 3
    inner join identity.evidence as evidence on link.row_id = evidence.row_id and evidence.kind <> 'unbind'
    group by cookie.node_id, machine.device
)
select item.node_id, item.type, item.scope, item.value_norm, item.epoch,
    coalesce(seen_on.device, machines.device) as device_id,
    map.one_id, people.kind, people.household_id
from identity.identifier as item
left join machines on item.node_id = machines.node_id
left join seen_on on item.node_id = seen_on.node_id and seen_on.place = 1
left join (select * from identity.identity_map where run_to is null) as map on item.node_id = map.node_id
left join identity.people as people on map.one_id = people.one_id;

create or replace macro identity.resolve(the_type, the_scope, the_value, valid_at, known_at) as table
select map.one_id, coalesce(now.one_id, map.one_id) as current_one_id, map.tx_from as known_from, map.tx_to as known_to
from identity.identifier_value as value
inner join identity.run_manifest as run
    on run.run = (select max(earlier.run) from identity.run_manifest as earlier where earlier.as_of <= known_at)
left join identity.slice as slice
    on value.node_id = slice.node_id
    and slice.run_from <= run.run and (slice.run_to is null or slice.run_to > run.run)
inner join identity.identity_map as map
    on coalesce(slice.slice_node, value.node_id) = map.node_id
    and map.run_from <= run.run and (map.run_to is null or map.run_to > run.run)
left join identity.one_id_registry as old on map.number = old.number
left join identity.one_id_registry as now on old.current_number = now.number
where value.type = the_type and value.scope = the_scope and value.value = the_value
    and (slice.valid_from is null or slice.valid_from <= valid_at)
    and (slice.valid_to is null or valid_at < slice.valid_to);
"""


def ensure_tables(con: duckdb.DuckDBPyConnection) -> None:
    """Make schema, tables and views that are not there yet; existing tables and their rows stay.

    Raises `FatalError` when the tables are of another layout than this code's.
    """
    con.execute("create schema if not exists identity")
    _check_layout(con)
    con.execute(TABLES)
    con.execute(VIEWS)


def _check_layout(con: duckdb.DuckDBPyConnection) -> None:
    tables = {
        row[0]
        for row in con.execute(
            """select table_name from duckdb_tables()
            where database_name = current_database() and schema_name = 'identity'"""
        ).fetchall()
    }
    if "layout" not in tables and "node" not in tables:
        con.execute(f"create table identity.layout as select {LAYOUT} as version")
        return
    version = con.execute("select version from identity.layout").fetchall()[0][0] if "layout" in tables else 0
    if version != LAYOUT:
        raise FatalError(
            f"identity tables are of layout {version}, expected {LAYOUT}",
            hint="a home made by an early version: move data/warehouse.duckdb aside and run again (one_ids begin anew)",
        )
