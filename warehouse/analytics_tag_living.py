"""What people hold now, one row per person: how a run finds the people whose tags differ without reading the history.

`activation.tag_living` has one text column per group: the person's values in rank order, joined by a unit separator.
It is derived from the history, and made again from it when the declared groups change or a backup brought only that.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import duckdb

from cdp.tags import compile as compiled
from cdp.tags.compile import SEPARATOR
from cdp.tags.config import Group, RuleGroup, TagsConfig
from warehouse.analytics_common import quoted


def living_column(group: Group) -> str:
    """The group's column of `tag_living`, `tag_fresh` and (as `new_…`, `old_…`) `tag_changed`."""
    return f"v_{group.id}"


def is_listed(group: Group) -> bool:
    """May the group's column over features hold several values?"""
    return isinstance(group, RuleGroup) and (not group.exclusive or group.resolve == "none")


def make_rows(con: duckdb.DuckDBPyConnection, group: Group, query: str, people: str | None = None) -> None:
    """Temp table `tag_rows_<group>` (one_id, held): what the rows of *query* (one_id, value, rank) give people.

    *people*: a query (one_id) of those it was computed for, who all have a row then, those with nothing as well.
    """
    held = f"select one_id, string_agg(value, {SEPARATOR} order by rank) as held from ({query}) group by one_id"
    if people:
        held = (
            f"select people.one_id, found.held from (select distinct one_id from ({people})) as people"
            f" left join ({held}) as found on found.one_id = people.one_id"
        )
    con.execute(f"create or replace temp table tag_rows_{group.id} as {held}")


def make_fresh(
    con: duckdb.DuckDBPyConnection, tags: TagsConfig, rows: Collection[str], *, partly: Collection[str] = ()
) -> None:
    """Temp view `tag_fresh`: what the people of `tag_wide` should hold, with the columns of `tag_living`.

    *rows*: groups that have a table `tag_rows_<group>` rather than a column of `tag_wide`. Of those in *partly*, `is_…`
    says who is in that table; the others hold what they held.
    """
    columns, joins = [], []
    for group in tags.tag_groups:
        name = living_column(group)
        found = f"rows_{group.id}"
        if group.id in rows:
            joins.append(f" left join temp.tag_{found} as {found} on {found}.one_id = wide.one_id")
        if group.id in partly:
            columns.append(f"{found}.one_id is not null as is_{group.id}")
        if group.id in rows:
            columns.append(f"{found}.held as {name}")
        else:
            columns.append(f"wide.g_{group.id} as {name}")
    con.execute(
        "create or replace temp view tag_fresh as"
        f" select wide.one_id{''.join(', ' + column for column in columns)} from temp.tag_wide as wide{''.join(joins)}"
    )


def drop_fresh(con: duckdb.DuckDBPyConnection) -> None:
    """Drop what `make_rows` and `make_fresh` made."""
    con.execute("drop view if exists temp.tag_fresh")
    names = con.execute(
        "select table_name from duckdb_tables() where temporary and table_name like 'tag@_rows@_%' escape '@'"
    )
    for (name,) in names.fetchall():
        con.execute(f"drop table temp.{name}")


def differing_sql(tags: TagsConfig) -> str:
    """A query (one_id) of people in `tag_fresh` who hold something else in a group of *tags*."""
    names = [living_column(group) for group in tags.tag_groups]
    differs = " or ".join(f"fresh.{name} is distinct from living.{name}" for name in names) or "false"
    return (
        "select fresh.one_id from temp.tag_fresh as fresh"
        f" left join activation.tag_living as living on living.one_id = fresh.one_id where {differs}"
    )


def compare_with_living(
    con: duckdb.DuckDBPyConnection, tags: TagsConfig, *, people: str | None, partly: Collection[str]
) -> None:
    """Temp tables `tag_changed` (people of `tag_fresh` whose values differ in any group from what they hold, or who are
    gone), `tag_differing` (person, tag_group) and `tag_open` (of these, the living rows of the history).

    *people*: a query (one_id) of those that `tag_fresh` was made of, None for everyone; *partly*: as in `make_fresh`.
    """
    names = [living_column(group) for group in tags.tag_groups]
    new = {
        living_column(group): f"fresh.{living_column(group)}"
        if group.id not in partly
        else f"case when fresh.one_id is null or fresh.is_{group.id} then fresh.{living_column(group)}"
        f" else living.{living_column(group)} end"
        for group in tags.tag_groups
    }
    pairs = "".join(f", {new[name]} as new_{name}, living.{name} as old_{name}" for name in names)
    differs = " or ".join(f"{new[name]} is distinct from living.{name}" for name in names) or "false"
    living = f"(select * from activation.tag_living where one_id in ({people}))" if people else "activation.tag_living"
    con.execute(
        f"""
        create or replace temp table tag_changed as
        select living.person, coalesce(fresh.one_id, living.one_id) as one_id, fresh.one_id is null as is_gone{pairs}
        from temp.tag_fresh as fresh
        full outer join {living} as living on living.one_id = fresh.one_id
        where {differs}
        """
    )
    _number_newcomers(con)
    differing = " union all ".join(
        f"select person, {quoted(group.id)} as tag_group from temp.tag_changed where {_differs(group)}"
        for group in tags.tag_groups
    )
    con.execute(
        f"create or replace temp table tag_differing as {differing or 'select 0::bigint as person, null as tag_group'}"
    )
    # By number first: of the whole history only the rows of these people are looked at further.
    con.execute(
        """
        create or replace temp table tag_open_rows as
        select history.row_id from activation.tag_history as history
        semi join temp.tag_differing as differing
            on differing.person = history.person and differing.tag_group = history.tag_group
        where history.valid_to is null
        """
    )
    con.execute(
        """
        create or replace temp table tag_open as
        select history.row_id, history.person, changed.one_id, history.* exclude (row_id, person, one_id)
        from (
            select * from activation.tag_history where row_id in (select row_id from temp.tag_open_rows)
        ) as history
        inner join temp.tag_changed as changed on changed.person = history.person
        """
    )
    con.execute("drop table temp.tag_open_rows")
    con.execute("set variable tag_rows = (select coalesce(max(row_id), 0) from activation.tag_history)")


def _differs(group: Group) -> str:
    name = living_column(group)
    return f"new_{name} is distinct from old_{name}"


def _number_newcomers(con: duckdb.DuckDBPyConnection) -> None:
    """Give people who never had a tag a number: looking for numbers in the history costs a fifth of looking for ids."""
    con.execute(
        """
        create or replace temp table tag_newcomers as
        select one_id, top + row_number() over (order by one_id) as person
        from temp.tag_changed
        cross join (
            select greatest((select coalesce(max(person), 0) from activation.tag_living),
                (select coalesce(max(person), 0) from activation.tag_history)) as top
        )
        where person is null
        """
    )
    con.execute(
        "update temp.tag_changed as changed set person = newcomers.person from temp.tag_newcomers as newcomers"
        " where newcomers.one_id = changed.one_id"
    )
    con.execute("drop table temp.tag_newcomers")


def count_tagged(con: duckdb.DuckDBPyConnection, tags: TagsConfig) -> dict[str, tuple[int, int]]:
    """Group id -> people with a value after this run, and before it."""
    names = [living_column(group) for group in tags.tag_groups]
    counts = ", ".join(f"count({name})" for name in names)
    moved = ", ".join(f"count(new_{name}) - count(old_{name})" for name in names)
    if not names:
        return {}
    before = con.execute(f"select {counts} from activation.tag_living").fetchall()[0]
    change = con.execute(f"select {moved} from temp.tag_changed").fetchall()[0]
    return {group.id: (had + more, had) for group, had, more in zip(tags.tag_groups, before, change, strict=True)}


def changed_values_sql(group: Group) -> str:
    """A query (tag_group, person, one_id, value, rank) of what the people who differ in *group* should hold of it."""
    held = f"new_{living_column(group)}"
    if group.exclusive and not compiled.reads_rows(group) and not group.overrides:
        value, rank = held, "1"
    else:
        value = f"unnest(string_split({held}, {SEPARATOR}))"
        rank = f"generate_subscripts(string_split({held}, {SEPARATOR}), 1)"
    return (
        f"select {quoted(group.id)} as tag_group, person, one_id, {value} as value, cast({rank} as int) as rank"
        f" from temp.tag_changed where {held} is not null and {_differs(group)}"
    )


def held_before_sql(group: Group) -> str:
    """A query (value, holders) of what people held before this run."""
    return _holders([f"select {living_column(group)} as held, 1 as people from activation.tag_living"])


def holders_sql(group: Group) -> str:
    """A query (value, holders) of what people hold after this run."""
    column = living_column(group)
    return _holders(
        [
            f"select {column} as held, 1 as people from activation.tag_living",
            f"select new_{column} as held, 1 as people from temp.tag_changed",
            f"select old_{column} as held, -1 as people from temp.tag_changed",
        ],
    )


def _holders(parts: Sequence[str]) -> str:
    counted = f"select held, sum(people) as people from ({' union all '.join(parts)}) where held is not null group by 1"
    return (
        f"select value, sum(people) as holders from (select unnest(string_split(held, {SEPARATOR})) as value, people"
        f" from ({counted})) group by value having sum(people) > 0"
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
        f" select changed.person, changed.one_id{''.join(', ' + column for column in columns)}"
        f" from temp.tag_changed as changed"
        f"{''.join(joins)} where not changed.is_gone"
    )


def fit_columns(con: duckdb.DuckDBPyConnection, tags: TagsConfig) -> None:
    """Make `tag_living` again from the history when its columns are not those of the declared groups."""
    wanted = ["person", "one_id", *(living_column(group) for group in tags.tag_groups)]
    found = con.execute(
        "select column_name from duckdb_columns() where schema_name = 'activation' and table_name = 'tag_living'"
        " order by column_index"
    ).fetchall()
    if [row[0] for row in found] == wanted:
        return
    columns = "".join(
        f", string_agg(value, {SEPARATOR} order by rank) filter (where tag_group = {quoted(group.id)})"
        f" as {living_column(group)}"
        for group in tags.tag_groups
    )
    con.execute(
        f"create or replace table activation.tag_living as select any_value(person) as person, one_id{columns}"
        " from activation.tag_history where valid_to is null group by one_id"
    )


def _held_sql(where: str) -> str:
    return (
        f"select one_id, string_agg(value, {SEPARATOR} order by rank) as held from activation.tag_history"
        f" where valid_to is null and {where} group by one_id"
    )
