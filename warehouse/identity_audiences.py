"""Which published tags a change of identities would touch: what other rules mean to those who use the tags."""

from __future__ import annotations

from dataclasses import dataclass

import duckdb

from warehouse.connection import MARTS_CATALOG, MARTS_SCHEMA

TAGS = f"{MARTS_CATALOG}.{MARTS_SCHEMA}.fct_tags_current"


@dataclass(frozen=True)
class Audience:
    """One tag and its holders, in persons, when every tag goes along with the identifiers of its holder.

    *leaving*: holders that would be no more; *entering*: persons who would hold it and do not; *regrouped*: holders who
    stay and gain or lose identifiers, so that the next computation may decide otherwise.
    """

    tag_group: str
    value: str
    holders: int
    leaving: int
    entering: int
    regrouped: int


def affected_audiences(con: duckdb.DuckDBPyConnection, run: int) -> list[Audience]:
    """Tags that *run*, the newest of the map, changes the holders of; most touched first. Empty without tags."""
    there = con.execute(
        "select 1 from duckdb_tables() where database_name = ? and schema_name = ? and table_name = 'fct_tags_current'",
        [MARTS_CATALOG, MARTS_SCHEMA],
    )
    if not there.fetchall():
        return []
    found = con.execute(f"""
        with moved as (
            select distinct old.one_id as old, new.one_id as new
            from (select * from identity.identity_map where run_to = {run}) as old
            full outer join (select * from identity.identity_map where run_from = {run}) as new using (node_id)
        ),
        holding as (select distinct one_id, tag_group, value from {TAGS}),
        ended as (select one_id from identity.one_id_registry where status <> 'live'),
        touched as (select old as one_id from moved union select new from moved),
        effects as (
            select tag_group, value, one_id,
                case when one_id in (from ended) then 'leaving' else 'regrouped' end as effect
            from holding where one_id in (from touched)
            union
            select heirs.tag_group, heirs.value, heirs.one_id, 'entering'
            from (
                select holding.tag_group, holding.value, moved.new as one_id
                from holding inner join moved on holding.one_id = moved.old where moved.new is not null
            ) as heirs
            anti join holding using (one_id, tag_group, value)
        )
        select effects.tag_group, effects.value, any_value(totals.holders),
            count(*) filter (effect = 'leaving'), count(*) filter (effect = 'entering'),
            count(*) filter (effect = 'regrouped')
        from effects inner join (select tag_group, value, count(*) as holders from holding group by all) as totals
            on effects.tag_group = totals.tag_group and effects.value = totals.value
        group by effects.tag_group, effects.value
        order by count(*) desc, 1, 2""").fetchall()
    return [Audience(*row) for row in found]
