"""What people hold now, one row per person: how a run finds the people whose tags differ without reading the history.

`activation.tag_living` has one text column per group: the person's values in rank order, joined by a unit separator.
It is derived from the history, and made again from it when the declared groups change or a backup brought only that.
"""

from __future__ import annotations

from collections.abc import Collection

import duckdb

from cdp.tags.config import Group, RuleGroup, TagsConfig
from warehouse.analytics_common import quoted

_SEPARATOR = "chr(31)"


def living_column(group: Group) -> str:
    """The group's column of `tag_living`, `tag_fresh` and (as `new_…`, `old_…`) `tag_changed`."""
    return f"v_{group.id}"


def is_listed(group: Group) -> bool:
    """Does the group's column over features hold a list of values?"""
    return isinstance(group, RuleGroup) and (not group.exclusive or group.resolve == "none")


def make_fresh(con: duckdb.DuckDBPyConnection, tags: TagsConfig, queries: dict[str, str]) -> None:
    """Temp table `tag_fresh`: what every person of `tag_wide` should hold, with the columns of `tag_living`.

    *queries*: group id -> query (one_id, value, rank) of the groups that are not a column of `tag_wide`; each is run
    once, into a temp table of its own.
    """
    columns, joins = [], []
    for group in tags.tag_groups:
        if group.id in queries:
            table = f"temp.tag_rows_{group.id}"
            con.execute(
                f"create or replace temp table tag_rows_{group.id} as"
                f" select one_id, string_agg(value, {_SEPARATOR} order by rank) as held from ({queries[group.id]})"
                " group by one_id"
            )
            joins.append(f" left join {table} as rows_{group.id} on rows_{group.id}.one_id = wide.one_id")
            columns.append(f"rows_{group.id}.held as {living_column(group)}")
        elif is_listed(group):
            columns.append(f"array_to_string(wide.g_{group.id}, {_SEPARATOR}) as {living_column(group)}")
        else:
            columns.append(f"wide.g_{group.id} as {living_column(group)}")
    con.execute(
        "create or replace temp table tag_fresh as"
        f" select wide.one_id{''.join(', ' + column for column in columns)} from temp.tag_wide as wide{''.join(joins)}"
    )


def drop_fresh(con: duckdb.DuckDBPyConnection) -> None:
    """Drop the tables of `make_fresh`."""
    con.execute("drop table if exists temp.tag_fresh")
    names = con.execute(
        "select table_name from duckdb_tables() where temporary and table_name like 'tag@_rows@_%' escape '@'"
    )
    for (name,) in names.fetchall():
        con.execute(f"drop table temp.{name}")


def compare_with_living(con: duckdb.DuckDBPyConnection, tags: TagsConfig) -> None:
    """Temp tables `tag_changed` (people whose fresh and living values differ in any group, or who are gone) and
    `tag_open_all` (their living rows of the history)."""
    _fit_columns(con, tags)
    names = [living_column(group) for group in tags.tag_groups]
    pairs = "".join(f", fresh.{name} as new_{name}, living.{name} as old_{name}" for name in names)
    differs = " or ".join(f"fresh.{name} is distinct from living.{name}" for name in names) or "false"
    con.execute(
        f"""
        create or replace temp table tag_changed as
        select coalesce(fresh.one_id, living.one_id) as one_id, fresh.one_id is null as is_gone{pairs}
        from temp.tag_fresh as fresh
        full outer join activation.tag_living as living on living.one_id = fresh.one_id
        where {differs}
        """
    )
    con.execute(
        """
        create or replace temp table tag_open_all as
        select one_id, tag_group, value, rank, valid_from, kept_since from activation.tag_history
        where valid_to is null and one_id in (select one_id from temp.tag_changed)
        """
    )


def changed_values_sql(group: Group) -> str:
    """A query (one_id, value, rank) of what the people of `tag_changed` should hold of *group*."""
    held = f"new_{living_column(group)}"
    return (
        f"select one_id, unnest(string_split({held}, {_SEPARATOR})) as value,"
        f" cast(generate_subscripts(string_split({held}, {_SEPARATOR}), 1) as int) as rank"
        f" from temp.tag_changed where {held} is not null"
    )


def holders_sql(group: Group, table: str = "temp.tag_fresh") -> str:
    """A query (value, holders) of *table*."""
    column = living_column(group)
    return (
        f"select value, sum(people) as holders from ("
        f"select unnest(string_split({column}, {_SEPARATOR})) as value, people from"
        f" (select {column}, count(*) as people from {table} where {column} is not null group by {column})"
        ") group by value"
    )


def keep_living(con: duckdb.DuckDBPyConnection, tags: TagsConfig, *, kept: Collection[str]) -> None:
    """Bring `tag_living` up to the history of this run, for the people of `tag_changed`. *kept*: groups whose last good
    version stayed."""
    columns, joins = [], []
    for group in tags.tag_groups:
        name = living_column(group)
        if group.id in kept and not group.consent_purpose:
            columns.append(f"case when not changed.is_gone then changed.old_{name} end as {name}")
        elif group.id in kept or group.on_empty == "keep_last":
            held = _held_sql(f"tag_group = {quoted(group.id)} and one_id in (select one_id from temp.tag_changed)")
            joins.append(f" left join ({held}) as held_{group.id} on held_{group.id}.one_id = changed.one_id")
            columns.append(f"held_{group.id}.held as {name}")
        else:
            columns.append(f"changed.new_{name} as {name}")
    con.execute("delete from activation.tag_living where one_id in (select one_id from temp.tag_changed)")
    con.execute(
        "insert into activation.tag_living by name"
        f" select changed.one_id{''.join(', ' + column for column in columns)} from temp.tag_changed as changed"
        f"{''.join(joins)} where not changed.is_gone"
    )


def _fit_columns(con: duckdb.DuckDBPyConnection, tags: TagsConfig) -> None:
    """Make `tag_living` again from the history when its columns are not those of the declared groups."""
    wanted = ["one_id", *(living_column(group) for group in tags.tag_groups)]
    found = con.execute(
        "select column_name from duckdb_columns() where schema_name = 'activation' and table_name = 'tag_living'"
        " order by column_index"
    ).fetchall()
    if [row[0] for row in found] == wanted:
        return
    columns = "".join(
        f", string_agg(value, {_SEPARATOR} order by rank) filter (where tag_group = {quoted(group.id)})"
        f" as {living_column(group)}"
        for group in tags.tag_groups
    )
    con.execute(
        f"create or replace table activation.tag_living as select one_id{columns} from activation.tag_history"
        " where valid_to is null group by one_id"
    )


def _held_sql(where: str) -> str:
    return (
        f"select one_id, string_agg(value, {_SEPARATOR} order by rank) as held from activation.tag_history"
        f" where valid_to is null and {where} group by one_id"
    )
