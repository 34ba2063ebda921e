"""Following the identity change feed: which sets of identifiers may lead to another person than they did.

Everything that can change where a value leads has a row in the feed since the last look (persons named in it,
identifiers that came, moved or went), or a time slice that began or ended, or a person that became or ceased to be a
shared thing.
"""

from __future__ import annotations

import duckdb

_NAMED = """
create or replace temp table _named_people as
select one_id from identity.identity_change where run > $run and one_id is not null
union
select other_id from identity.identity_change where run > $run and other_id is not null
union
(select one_id from identity.people where kind <> 'person' except select one_id from intermediate.not_people)
union
(select one_id from intermediate.not_people except select one_id from identity.people where kind <> 'person')
"""
_NODES = """
create or replace temp table _touched_nodes as
select node_id from identity.identity_change where run > $run and node_id is not null
union
select node_id from identity.slice where run_from > $run or run_to > $run
union
select node_id from identity.identity_map where run_to is null and one_id in (select one_id from _named_people)
"""
_SLICED = """
insert into _touched_nodes
select node_id from identity.slice where slice_node in (select node_id from _touched_nodes)
"""
_SETS = """
create or replace table intermediate.touched_sets as
with held as (
    select distinct identifier_set from intermediate.int_people__identifier_sets
),

given as (
    select identifier_set, any_value(identifiers) as identifiers from identity.int_identity__evidence group by all
),

touched_values as (
    select type, scope, value from identity.identifier_value
    where node_id in (select node_id from _touched_nodes)
),

members as (
    select identifier_set, unnest(identifiers) as item from given where (select count(*) from touched_values) > 0
)

select identifier_set from given where identifier_set not in (select identifier_set from held)
union
select identifier_set from held where identifier_set not in (select identifier_set from given)
union
select identifier_set from intermediate.int_people__identifier_sets
where one_id in (select one_id from _named_people)
union
select members.identifier_set
from members
inner join touched_values as touched
    on touched.type = members.item.type and touched.scope = members.item.scope and touched.value = members.item.value
"""


def fill_touched_sets(con: duckdb.DuckDBPyConnection, run: int | None) -> bool:
    """Fill `intermediate.touched_sets(identifier_set)` with the sets to look up again since identity run *run*.

    Returns False, leaving it empty, when everything must be looked up: there was no last time, or values have been read
    by other rules since. Works in the transaction of the caller.
    """
    con.execute("create or replace table intermediate.touched_sets (identifier_set ubigint)")
    known = run is not None and _same_reading(con, run)
    if known:
        for statement in (_NAMED, _NODES, _SLICED, _SETS):
            con.execute(statement, {"run": run} if "$run" in statement else None)
    con.execute("""create or replace table intermediate.not_people as
        select one_id from identity.people where kind <> 'person'""")
    return known


def _same_reading(con: duckdb.DuckDBPyConnection, run: int) -> bool:
    """Whether every run since *run* turned raw values into identifiers the same way."""
    found = con.execute(
        "select count(distinct (values_hash, engine_hash)) from identity.run_manifest where run >= ?", [run]
    )
    return bool(found.fetchall()[0][0] == 1)
