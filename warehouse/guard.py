"""What a query may do, decided from its text: one SELECT, over published tables, with functions that reach nothing.

Two parsers must agree: sqlglot gives the words for a refusal, and DuckDB's own parser (`json_serialize_sql`, which
takes SELECT only) decides, so that no trick of one grammar gets past the other. The connection it runs on is locked as
well (`warehouse/reader.py`); this is the outer of the two fences.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import duckdb
import sqlglot
from sqlglot import exp
from sqlglot.errors import ParseError, TokenError

from cdp.config import nearest
from cdp.errors import CdpError

SCHEMAS = ("marts", "_meta")
# Table functions that make rows out of their arguments alone.
TABLE_FUNCTIONS = frozenset({"unnest", "range", "generate_series", "repeat", "repeat_row", "json_each", "json_tree"})
# Table references that hold other references or none; everything else is refused.
_REFERENCES = frozenset(
    {"EMPTY", "BASE_TABLE", "SUBQUERY", "JOIN", "TABLE_FUNCTION", "EXPRESSION_LIST", "PIVOT", "SHOW_REF"}
)
# Scalar functions that tell of the machine, wait, write, or run text as SQL.
_FUNCTIONS = frozenset(
    (
        *("current_setting", "current_database", "current_databases", "current_catalog", "current_schemas"),
        *("current_query", "current_user", "session_user", "current_role", "user", "getenv", "getvariable"),
        *("current_connection_id", "current_query_id", "current_transaction_id", "txid_current", "in_search_path"),
        *("obj_description", "col_description", "shobj_description", "get_block_size", "stats", "vector_type"),
        *("sleep_ms", "setseed", "setval", "nextval", "currval", "error", "which_secret", "add_parquet_key"),
        *("query", "query_table", "glob", "shell", "system", "checkpoint", "force_checkpoint"),
        *("json_serialize_sql", "json_deserialize_sql", "json_serialize_plan"),
    )
)
_PREFIXES = (
    *("read_", "write_", "sniff_", "parquet_", "sqlite_", "python_", "pandas_", "arrow_scan"),
    *("duckdb_", "pragma_", "pg_", "has_", "inet_", "json_execute"),
    *("enable_", "disable_", "create_", "register_", "destroy_"),
)
_SYSTEM_NAME = re.compile(r"(duckdb_|pg_|pragma_|sqlite_|information_schema)", re.IGNORECASE)
_PLAIN_NAME = re.compile(r"\w+\Z")
_READS = (exp.Query, exp.Values, exp.Describe, exp.Summarize, exp.Show, exp.Pivot)


class RefusedError(CdpError):
    """The query is not one that may run; nothing was run."""

    code = "refused"
    exit_code = 2


@dataclass(frozen=True)
class Approved:
    """A query that may run. *tables*: the published tables it reads, as `schema.table`."""

    sql: str
    tables: tuple[str, ...]


def approve(con: duckdb.DuckDBPyConnection, sql: str, tables: Collection[str]) -> Approved:
    """Check *sql* against the published *tables* (`marts.dim_people`, `_meta.version`, …). Raises `RefusedError`.

    *con* parses it (any connection: the text is not run).
    """
    text = sql.strip().rstrip(";").strip()
    if not text:
        raise RefusedError("the query is empty", hint='for example: cdp sql "select count(*) from marts.dim_people"')
    if "\x00" in text:
        raise RefusedError("the query holds a NUL character", hint="take it out")
    _one_select(text)
    statement = _serialized(con, text)
    used: set[str] = set()
    names = {name.lower() for node in _nodes(statement) for name in _cte_names(node)}
    known = {name.lower(): name for name in tables}
    for node in _nodes(statement):
        _allow_reference(node, known, names, used)
        _allow_function(node)
    return Approved(text, tuple(sorted(used)))


def _one_select(text: str) -> None:
    """Refuse in plain words what sqlglot can see is more than one statement, or no SELECT."""
    try:
        trees = [tree for tree in sqlglot.parse(text, dialect="duckdb") if tree is not None]
    except (ParseError, TokenError, RecursionError):
        return  # DuckDB's parser tells better what is wrong
    if len(trees) > 1:
        raise RefusedError(f"one query at a time, found {len(trees)} statements", hint="send them one by one")
    if trees and not isinstance(trees[0], _READS):
        word = text.split(None, 1)[0].upper()
        raise RefusedError(
            f"only SELECT may run here, found `{word}`",
            hint="the published version is read-only; models under models/ make tables",
        )


def _serialized(con: duckdb.DuckDBPyConnection, text: str) -> Any:
    """DuckDB's own parse tree of *text*. Raises `RefusedError` when it is not exactly one SELECT."""
    try:
        answer = json.loads(con.execute("select json_serialize_sql(?::varchar)", [text]).fetchall()[0][0])
    except (duckdb.Error, RecursionError, ValueError) as error:
        raise RefusedError(f"the query cannot be read: {str(error).splitlines()[0]}") from error
    if answer.get("error"):
        message = str(answer.get("error_message", "")).splitlines()[0] if answer.get("error_message") else "not SQL"
        if "Only SELECT" in message:
            raise RefusedError(
                "only SELECT may run here (and no PIVOT statement)",
                hint="write a pivot with `sum(x) filter (where …)`; tables are made by models under models/",
            )
        raise RefusedError(f"the query cannot be read: {message}", hint="the position counts from its first character")
    if len(answer["statements"]) != 1:
        raise RefusedError(f"one query at a time, found {len(answer['statements'])}", hint="send them one by one")
    return answer["statements"][0]


def _nodes(value: Any) -> Iterator[Mapping[str, Any]]:
    """Every object of a parse tree, outside in, without recursion (a query may nest deeply)."""
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            yield item
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)


def _cte_names(node: Mapping[str, Any]) -> Iterator[str]:
    ctes = node.get("cte_map")
    for entry in ctes.get("map", []) if isinstance(ctes, dict) else []:
        name = str(entry["key"])
        # such a name could stand for a CTE in one place and for the system's own table in another
        if _SYSTEM_NAME.match(name) or not _PLAIN_NAME.match(name):
            raise RefusedError(f"`{name}` cannot be the name of a CTE here", hint="give it another name")
        yield name


def _allow_reference(node: Mapping[str, Any], known: Mapping[str, str], ctes: Collection[str], used: set[str]) -> None:
    kind = node.get("type")
    if "sample" in node and "alias" in node and "class" not in node and kind not in _REFERENCES:
        raise RefusedError(f"`{kind}` is not allowed in a query here")
    if kind == "SHOW_REF" and node.get("query") is None and node.get("show_type") != "SHOW_SPECIAL":
        raise RefusedError("only `describe <query>`, `summarize <table>` and `show tables` are allowed")
    if kind == "SHOW_REF" and node.get("show_type") == "SHOW_SPECIAL" and node.get("table_name") != '"tables"':
        raise RefusedError("of the SHOW statements only `show tables` is allowed")
    if kind == "TABLE_FUNCTION":
        name = str(node["function"].get("function_name", "")).lower()
        if name not in TABLE_FUNCTIONS:
            raise RefusedError(
                f"the table function `{name}` is not allowed here",
                hint=f"allowed: {', '.join(sorted(TABLE_FUNCTIONS))}",
            )
    if kind == "BASE_TABLE":
        _allow_table(node, known, ctes, used)


def _allow_table(node: Mapping[str, Any], known: Mapping[str, str], ctes: Collection[str], used: set[str]) -> None:
    catalog, schema, table = (str(node.get(key) or "") for key in ("catalog_name", "schema_name", "table_name"))
    if not catalog and not schema and table.lower() in ctes:
        return
    name = f"{schema or SCHEMAS[0]}.{table}".lower()
    if catalog or name not in known:
        shown = ".".join(part for part in (catalog, schema, table) if part)
        close = nearest(name, sorted(known)) if nearest(name, sorted(known)).startswith("; did") else ""
        raise RefusedError(f"no published table is called `{shown}`{close}", hint="`show tables` lists them")
    used.add(known[name])


def _allow_function(node: Mapping[str, Any]) -> None:
    if node.get("class") not in ("FUNCTION", "WINDOW"):
        return
    name = str(node.get("function_name", "")).lower()
    if name in _FUNCTIONS or name.startswith(_PREFIXES):
        raise RefusedError(f"the function `{name}` is not allowed here", hint="queries read published tables only")
