"""Running models: check every name against the live database, then make each table or view in dependency order.

One process, one connection; DuckDB's own threads do the parallel work. Each model is replaced in one transaction, so a
reader of the same connection sees the old table or the new one. The schema `marts` lives in the attached marts file.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial

import duckdb
from sqlglot import exp
from sqlglot.errors import OptimizeError, SchemaError
from sqlglot.lineage import Node, lineage
from sqlglot.optimizer.qualify import qualify
from sqlglot.schema import MappingSchema

from cdp.config import nearest
from cdp.errors import ConfigError, FatalError
from cdp.privacy.masking import mask_sql
from warehouse.connection import MARTS_CATALOG, MARTS_SCHEMA, PII_SCHEMA
from warehouse.identity_following import fill_touched_sets
from warehouse.model_files import (
    DIALECT,
    ExternalTable,
    Model,
    ModelColumn,
    ModelGraph,
    line_of_node,
    load_models,
    table_name,
    tables_read,
)
from warehouse.model_increments import INCREMENT_VARIABLES, Increment, plan_increment, remember
from warehouse.touched_people import fill_active_people, fill_touched_people, note_touched

__all__ = [
    "ExternalTable",
    "Model",
    "ModelColumn",
    "ModelGraph",
    "ModelRun",
    "check_models",
    "column_lineage",
    "executable_sql",
    "live_schema",
    "load_models",
    "run_models",
]

Schema = dict[str, list[str]]  # `schema.relation` -> its columns, in order


@dataclass(frozen=True)
class ModelRun:
    """One model made. *rows*: rows of the table (None for a view, which holds none); *seconds*: wall time."""

    name: str
    rows: int | None
    seconds: float


def check_models(graph: ModelGraph, con: duckdb.DuckDBPyConnection) -> Schema:
    """Resolve every table and column of every model without running any. Returns the columns of every known table.

    Tables that code makes are taken from the live connection, else from `models/external.yaml`. Raises one
    `ConfigError` that lists all faults as `file:line: what; did you mean …`.
    """
    schema = live_schema(con, skip=graph.models.keys())
    for name, external in graph.externals.items():
        schema.setdefault(name, list(external.columns))
    return check_against(graph, schema)


def check_against(graph: ModelGraph, schema: Schema) -> Schema:
    """`check_models` with the columns of all tables that no model makes given as *schema*."""
    known = dict(schema)
    known.update({name: [column.name for column in graph.models[name].columns] for name in graph.order})
    mapping = _mapping(known)
    queries = [query for name in graph.order for query in (graph.models[name], graph.models[name].update) if query]
    faults = [fault for query in queries for fault in _faults(query, known, mapping)]
    if faults:
        raise ConfigError("\n".join(faults), hint="mend the files above; nothing has run")
    return known


def live_schema(con: duckdb.DuckDBPyConnection, *, skip: Sequence[str] | set[str] | object = ()) -> Schema:
    """`schema.relation` -> columns of every table and view of both files, without the names in *skip*."""
    rows = con.execute(
        "select schema_name || '.' || table_name, column_name from duckdb_columns() "
        "where database_name in (current_database(), ?) and not internal order by 1, column_index",
        [MARTS_CATALOG],
    ).fetchall()
    schema: Schema = {}
    for name, column in rows:
        if name not in skip:  # type: ignore[operator]
            schema.setdefault(name, []).append(column)
    return schema


def run_models(
    con: duckdb.DuckDBPyConnection,
    graph: ModelGraph,
    names: Sequence[str],
    on_done: Callable[[ModelRun], None] | None = None,
    *,
    days: tuple[date, date] | None = None,
    full: bool = False,
) -> list[ModelRun]:
    """Make the named models in dependency order and tell each by *on_done*. Idempotent.

    Incremental models make what their inputs changed since their last run, all of it where that cannot be told, or with
    *full*; the result is the same.

    *days* (from, to; the second not included) makes only those days of models that have a `partition:` day again and
    leaves their other days as they are; models without one are made whole. Raises `FatalError` naming model, file and
    line when the database refuses one; that model keeps its former content and the ones before it stay made.
    """
    chosen = {graph[name].name for name in names}
    runs = []
    for name in graph.order:
        if name not in chosen:
            continue
        run = _run_one(con, graph, graph.models[name], days=days, full=full)
        runs.append(run)
        if on_done:
            on_done(run)
    return runs


def executable_sql(model: Model) -> str:
    """The model's own text with `marts.` written as `marts_db.marts.`; nothing else is changed."""
    text = model.sql.rstrip().rstrip(";")
    for place in model.marts_places:
        text = f"{text[:place]}{MARTS_CATALOG}.{text[place:]}"
    return text


def qualified_name(name: str) -> str:
    """*name* (`schema.relation`) as DuckDB must see it from the warehouse connection, quoted."""
    schema, relation = name.split(".")
    catalog = f"{MARTS_CATALOG}." if schema == MARTS_SCHEMA else ""
    return f'{catalog}"{schema}"."{relation}"'


def column_lineage(graph: ModelGraph, name: str, schema: Schema) -> dict[str, list[str]]:
    """Column of model *name* -> the columns (`schema.relation.column`) of other tables it is made from.

    *schema* is what `check_models` returned. A column made from no other (a constant, a count) has an empty list.
    """
    model = graph[name]
    mapping = _mapping({needed: schema[needed] for needed in model.depends})
    query = _aligned(qualify(model.tree(), schema=mapping, dialect=DIALECT))
    nodes = lineage(None, query, mapping, dialect=DIALECT, trim_selects=False, copy=False)
    return {column.name: _sources(nodes[column.name]) for column in model.columns}


def _aligned(query: exp.Query) -> exp.Query:
    """*query*, stars expanded, with every `union by name` written by position, as sqlglot's lineage reads unions."""
    for union in reversed(list(query.find_all(exp.Union))):
        if union.args.get("by_name"):
            names = list(dict.fromkeys([*union.this.named_selects, *union.expression.named_selects]))
            _pad(union.this, names)
            _pad(union.expression, names)
            union.set("by_name", False)
    return query


def _pad(query: exp.Expr, names: Sequence[str]) -> None:
    """Give *query* the columns *names* in that order, null where it has none."""
    if isinstance(query, exp.Union):
        _pad(query.this, names)
        _pad(query.expression, names)
    elif isinstance(query, exp.Select):
        found = {item.alias_or_name: item for item in query.selects}
        query.set("expressions", [found.get(name) or exp.alias_(exp.null(), name) for name in names])


def _sources(root: Node) -> list[str]:
    found = set()
    for node in root.walk():
        if not node.downstream and isinstance(node.expression, exp.Table):
            column = node.name.split(".")[-1].strip('"')
            found.add(f"{table_name(node.expression)}.{column}")
    return sorted(found)


def _run_one(
    con: duckdb.DuckDBPyConnection, graph: ModelGraph, model: Model, *, days: tuple[date, date] | None, full: bool
) -> ModelRun:
    started = time.perf_counter()
    if model.masked:
        _transact(con, model, _replace_unmasked)
    try:
        _transact(con, model, partial(_make, graph=graph, days=days, full=full))
    finally:
        for variable in INCREMENT_VARIABLES:
            con.execute(f"reset variable {variable}")
    rows = None
    if model.materialized != "view":
        rows = int(con.execute(f"select count(*) from {qualified_name(model.name)}").fetchall()[0][0])
    return ModelRun(model.name, rows, time.perf_counter() - started)


def _transact(
    con: duckdb.DuckDBPyConnection, model: Model, act: Callable[[duckdb.DuckDBPyConnection, Model], None]
) -> None:
    """Do *act* in one transaction (which DuckDB limits to one of the two files)."""
    con.execute("begin")
    try:
        act(con, model)
        con.execute("commit")
    except duckdb.Error as error:
        con.execute("rollback")
        raise FatalError(_failure(model, str(error)), hint="`cdp model check` tests every model by itself") from error
    except BaseException:
        con.execute("rollback")
        raise


def _make(
    con: duckdb.DuckDBPyConnection, model: Model, *, graph: ModelGraph, days: tuple[date, date] | None, full: bool
) -> None:
    there = _existing_kind(con, model) == "table"
    if days and model.partition and not model.masked and there:
        _refill(con, model, days)
        _note_everyone(con, model)
    elif model.follows or model.scope:
        _follow(con, graph, model, whole=full or not there)
    elif model.materialized == "incremental" and there and not full:
        _merge(con, model)
        _note_everyone(con, model)
    else:
        _replace(con, model)
    _comment(con, model, qualified_name(model.name))


def _replace_unmasked(con: duckdb.DuckDBPyConnection, model: Model) -> None:
    """The table with its personal columns as they are, for the edition that may hold them."""
    con.execute(f"create schema if not exists {PII_SCHEMA}")
    target = f'{PII_SCHEMA}."{model.relation}"'
    con.execute(f"create or replace table {target} as {executable_sql(model)}")
    _comment(con, model, target)


def _replace(con: duckdb.DuckDBPyConnection, model: Model) -> None:
    target = qualified_name(model.name)
    kind = "view" if model.materialized == "view" else "table"
    existing = _existing_kind(con, model)
    if existing and existing != kind:
        con.execute(f"drop {existing} {target}")
    if model.schema != MARTS_SCHEMA:
        con.execute(f'create schema if not exists "{model.schema}"')
    con.execute(f"create or replace {kind} {target} as {_published_sql(model)}")


def _published_sql(model: Model) -> str:
    """The query of *model*, its personal columns masked where it is published."""
    if not model.masked:
        return executable_sql(model)
    masks = ", ".join(f'{mask_sql(_quoted(name), mask)} as "{name}"' for name, mask in model.masked.items())
    return f'select * replace ({masks}) from {PII_SCHEMA}."{model.relation}"'


def _quoted(name: str) -> str:
    return f'"{name}"'


# Tables that code fills right before a model (of that text) reads them: what of it must be made again since *cursor*.
_FILLERS: Mapping[str, Callable[[duckdb.DuckDBPyConnection, int | None, str], bool]] = {
    "intermediate.touched_sets": lambda con, cursor, _: fill_touched_sets(con, cursor),
    "temp.touched_people": fill_touched_people,
    "temp.active_people": fill_active_people,
}


def _follow(con: duckdb.DuckDBPyConnection, graph: ModelGraph, model: Model, *, whole: bool) -> None:
    """Make what changed since the last run, and note how far that is, all in the transaction of the caller."""
    todo = plan_increment(con, graph, model, whole=whole)
    for name in model.depends:
        if name in _FILLERS and not _FILLERS[name](con, todo.cursor, model.sql):
            todo = todo.everything()
    for variable, value in zip(INCREMENT_VARIABLES, (todo.batches, todo.cursor, todo.made_at), strict=True):
        con.execute(f"set variable {variable} = {'null' if value is None else value}")
    if todo.whole:
        _replace(con, model)
        _note_everyone(con, model)
    else:
        _remake(con, model, todo)
    remember(con, model, todo)


def _names_people(model: Model) -> bool:
    """Whether others may ask whose rows of *model* a run touched."""
    is_published = model.schema == MARTS_SCHEMA and model.materialized == "incremental"
    return is_published and any(column.name == "one_id" for column in model.columns)


def _note_everyone(con: duckdb.DuckDBPyConnection, model: Model) -> None:
    if _names_people(model):
        note_touched(con, model.name, None)


def _remake(con: duckdb.DuckDBPyConnection, model: Model, todo: Increment) -> None:
    """Delete the rows in the model's scope and insert those its query has there now; then update what is stored."""
    target = qualified_name(model.name)
    names_people = _names_people(model)
    con.execute("create or replace temp table _touched (one_id text)")
    # Numbers written out, not a parameter: so the filter reaches the Parquet files, and only new batches are read.
    numbers = ", ".join(map(str, todo.batches or ()))
    scope = model.scope or (f"batch_seq in ({numbers})" if numbers else None)
    if scope:
        con.execute(
            f"create or replace temp table _increment as select * from ({executable_sql(model)}\n) where {scope}"
        )
        other = "true"
        if model.digest:
            digest = f'"{model.digest}"'
            con.execute(f"""create or replace temp table _same as
                select {digest} from {target} where {digest} in (select {digest} from _increment)""")
            other = f"{digest} not in (select {digest} from _same)"
        if names_people:
            con.execute(f"insert into _touched select one_id from {target} where ({scope}) and {other}")
            con.execute(f"insert into _touched select one_id from _increment where {other}")
        con.execute(f"delete from {target} where ({scope}) and {other}")
        con.execute(f"insert into {target} by name select * from _increment where {other}")
        con.execute("drop table _increment")
    if model.update:
        [key, *values] = [column.name for column in model.update.columns]
        settings = ", ".join(f'"{name}" = found."{name}"' for name in values)
        con.execute(f"create or replace temp table _update as {executable_sql(model.update)}")
        changed = f'"{key}" in (select "{key}" from _update)'
        if names_people:
            con.execute(f"insert into _touched select one_id from {target} where {changed}")
        con.execute(
            f'update {target} as stored set {settings} from _update as found where stored."{key}" = found."{key}"'
        )
        if names_people and "one_id" in values:
            con.execute("insert into _touched select one_id from _update")
        con.execute("drop table _update")
    if names_people:
        note_touched(con, model.name, "select one_id from temp._touched")
    con.execute("drop table temp._touched")


def _merge(con: duckdb.DuckDBPyConnection, model: Model) -> None:
    """Delete what the query's rows replace, by key or by partition, then insert them."""
    target = qualified_name(model.name)
    keys = model.unique_key or (str(model.partition),)
    columns = ", ".join(f'"{key}"' for key in keys)
    con.execute(f"create or replace temp table _increment as {executable_sql(model)}")
    con.execute(f"delete from {target} where ({columns}) in (select ({columns}) from _increment)")
    con.execute(f"insert into {target} by name select * from _increment")
    con.execute("drop table _increment")


def _refill(con: duckdb.DuckDBPyConnection, model: Model, days: tuple[date, date]) -> None:
    """Delete the rows of *days* and insert what the query says now; a row that moved here leaves its former day."""
    target, within = qualified_name(model.name), f'"{model.partition}" >= ? and "{model.partition}" < ?'
    grain = ", ".join(f'"{column}"' for column in model.grain)
    con.execute(
        f"create or replace temp table _days as select * from ({executable_sql(model)}\n) where {within}", list(days)
    )
    con.execute(f"delete from {target} where {within} or ({grain}) in (select ({grain}) from _days)", list(days))
    con.execute(f"insert into {target} by name select * from _days")
    con.execute("drop table _days")


def _existing_kind(con: duckdb.DuckDBPyConnection, model: Model) -> str | None:
    catalog = "?" if model.schema == MARTS_SCHEMA else "coalesce(?, current_database())"
    rows = con.execute(
        "select lower(table_type) from information_schema.tables "
        f"where table_catalog = {catalog} and table_schema = ? and table_name = ?",
        [MARTS_CATALOG if model.schema == MARTS_SCHEMA else None, model.schema, model.relation],
    ).fetchall()
    return None if not rows else ("view" if "view" in rows[0][0] else "table")


def _comment(con: duckdb.DuckDBPyConnection, model: Model, target: str) -> None:
    kind = "view" if model.materialized == "view" else "table"
    words = [model.header.get("description_zh", ""), model.description, f"grain: {', '.join(model.grain)}"]
    text = " | ".join(word for word in words if word)
    con.execute(f"comment on {kind} {target} is {_literal(text)}")
    for column in model.columns:
        if column.description:
            con.execute(f'comment on column {target}."{column.name}" is {_literal(column.description)}')


def _failure(model: Model, text: str) -> str:
    lines = text.splitlines()
    at = next((re.match(r"LINE (\d+):", line) for line in lines if line.startswith("LINE ")), None)
    # DuckDB counts from the first line of the statement, which is the line of our own `create … as` prefix: the same.
    where = f"{model.path}:{at[1]}" if at else str(model.path)
    return f"{where}: model `{model.name}` failed: {lines[0][:400]}"


def _faults(model: Model, known: Schema, mapping: MappingSchema) -> list[str]:
    tree = model.tree()
    faults = []
    for table in tables_read(tree):
        name = table_name(table)
        if name not in known:
            close = nearest(name, sorted(known)) if nearest(name, sorted(known)).startswith("; did") else ""
            faults.append(f"{model.path}:{line_of_node(table)}: no table is called `{name}`{close}")
        elif model.materialized == "view" and model.schema == MARTS_SCHEMA and not name.startswith(f"{MARTS_SCHEMA}."):
            faults.append(
                f"{model.path}:{line_of_node(table)}: a published view may read only `marts`, found `{name}`; "
                "make it a table"
            )
    if faults:
        return faults
    try:
        qualify(tree, schema=mapping, dialect=DIALECT)
    except (OptimizeError, SchemaError) as error:
        return [_column_fault(model, str(error), known)]
    return []


def _column_fault(model: Model, text: str, known: Schema) -> str:
    """`file:line: no column …; did you mean …` out of sqlglot's message."""
    found = re.search(r"(?:Column '|Unknown column: )\"?([^'\".]+)", text)
    if not found:
        return f"{model.path}:1: {text.splitlines()[0]}"
    name = found[1]
    tree = model.tree()
    node = next((column for column in tree.find_all(exp.Column) if column.name == name), None)
    names = {column for table in tables_read(tree) for column in known.get(table_name(table), [])}
    names |= {item.alias_or_name for select in tree.find_all(exp.Select) for item in select.selects}
    close = nearest(name, sorted(names - {name, "*", ""}))
    line = line_of_node(node) if node is not None else 1
    return f"{model.path}:{line}: no column is called `{name}`{close if close.startswith('; did') else ''}"


def _mapping(known: Mapping[str, Sequence[str]]) -> MappingSchema:
    mapping = MappingSchema(dialect=DIALECT)
    for name, columns in known.items():
        mapping.add_table(name, dict.fromkeys(columns, "unknown"), dialect=DIALECT)
    return mapping


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
