"""Conditions and values that analysts write: SQL, checked against the columns there are before anything runs."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from cdp.config import nearest

_FORBIDDEN = (exp.Query, exp.DDL, exp.DML, exp.Command, exp.Window, exp.Star, exp.Placeholder, exp.Parameter)
# Functions whose answer depends on the moment or on chance: a tag must be computable again.
_UNREPEATABLE = {"now", "random", "uuid", "today", "current_date", "current_timestamp", "current_time", "getvariable"}


def check(text: str, columns: Collection[str], *, where: str, aggregate: bool = False) -> tuple[str, list[str]]:
    """*text* as one SQL expression over *columns*: (SQL with quoted columns, faults). *where* names the place in
        faults.

    Refuses subqueries, statements, window functions, anything that depends on the clock or on chance and, unless
    *aggregate*, aggregates.
    """
    try:
        tree = sqlglot.parse_one(f"select {text}\nas parsed", dialect="duckdb")
    except SqlglotError as error:
        return text, [f"{where}: `{text}` is not a SQL expression: {str(error).splitlines()[0]}"]
    if (
        not isinstance(tree, exp.Select)
        or len(tree.expressions) != 1
        or tree.args.get("from_")
        or tree.args.get("from")
    ):
        return text, [f"{where}: `{text}` is not one SQL expression"]
    body = tree.expressions[0].this if isinstance(tree.expressions[0], exp.Alias) else tree.expressions[0]
    faults = []
    for node in body.walk():
        if isinstance(node, _FORBIDDEN) and not (aggregate and isinstance(node, exp.Star)):
            faults.append(f"{where}: `{text}`: {type(node).__name__.lower()} is not allowed in a rule")
        if isinstance(node, exp.AggFunc) and not aggregate:
            faults.append(f"{where}: `{text}`: an aggregate is not allowed here")
        if isinstance(node, exp.Func) and _name(node) in _UNREPEATABLE:
            faults.append(f"{where}: `{text}`: `{_name(node)}` gives another answer each time it is asked")
    known = {name.lower(): name for name in columns}
    for column in body.find_all(exp.Column):
        if column.table:
            faults.append(f"{where}: `{text}`: write `{column.name}` without `{column.table}.`")
        elif column.name.lower() not in known:
            faults.append(f"{where}: `{text}`: no column `{column.name}`{nearest(column.name, sorted(known.values()))}")
    return body.sql(dialect="duckdb"), faults


def columns_of(text: str) -> tuple[str, ...]:
    """Names of the columns *text* reads, sorted: its lineage."""
    tree = sqlglot.parse_one(f"select {text}", dialect="duckdb")
    return tuple(sorted({column.name.lower() for column in tree.find_all(exp.Column)}))


def renamed(text: str, names: Mapping[str, str]) -> str:
    """*text* reading other columns in the place of those named: *names* maps column to column."""
    tree = sqlglot.parse_one(text, dialect="duckdb")
    for column in list(tree.find_all(exp.Column)):
        if column.name.lower() in names:
            column.replace(exp.column(names[column.name.lower()], quoted=True))
    return tree.sql(dialect="duckdb")


def _name(node: exp.Func) -> str:
    return node.name.lower() if isinstance(node, exp.Anonymous) else node.sql_name().lower()
