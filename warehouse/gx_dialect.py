"""A SQLAlchemy dialect that lends Great Expectations cursors of a DuckDB connection that is already open.

Great Expectations closes its connection before it fetches, and starts and ends transactions around every query; DuckDB
drops a pending result at either. Here begin, commit and rollback do nothing, and closing closes a cursor only. It also
means that the file is opened once, by its owner. Import this module inside a function only: it loads SQLAlchemy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import duckdb
import duckdb_engine
from sqlalchemy import types
from sqlalchemy.dialects import registry

NAME = "duckdb+lent"
_TYPES: tuple[tuple[str, Callable[[], types.TypeEngine[Any]]], ...] = (
    ("VARCHAR", types.String),
    ("DECIMAL", types.Numeric),
    ("DOUBLE", types.Float),
    ("BOOLEAN", types.Boolean),
    ("DATE", types.Date),
    ("TIMESTAMP", types.DateTime),
    ("BIGINT", types.BigInteger),
    ("UBIGINT", types.BigInteger),
    ("INTEGER", types.Integer),
)
_lent: dict[str, Callable[[], duckdb.DuckDBPyConnection]] = {}
_borrowed: dict[str, list[tuple[Any, Any]]] = {}


class LentDialect(duckdb_engine.Dialect):
    """`duckdb+lent:///KEY` connects to whatever was lent under KEY."""

    driver = "lent"
    supports_statement_cache = False

    def connect(self, *_: Any, **cparams: Any) -> Any:
        key = cparams["database"]
        wrapper = duckdb_engine.ConnectionWrapper(_lent[key]())
        _borrowed.setdefault(key, []).append((self, wrapper))
        return wrapper

    def on_connect(self) -> None:
        return None

    def get_columns(self, connection: Any, table_name: str, schema: str | None = None, **_: Any) -> Any:
        """Columns of one table. The inherited one reads the whole catalog, 0.15 s a table."""
        rows = connection.exec_driver_sql(
            "select column_name, data_type from information_schema.columns "
            "where table_catalog = current_database() and table_schema = ? and table_name = ? "
            "order by ordinal_position",
            (schema, table_name),
        ).fetchall()
        return [
            {"name": name, "type": _sql_type(kind), "nullable": True, "default": None, "autoincrement": False}
            for name, kind in rows
        ]

    def do_begin(self, connection: Any) -> None:
        """Nothing: the cursor commits by itself."""

    def do_commit(self, connection: Any) -> None:
        """Nothing: it is read only."""

    def do_rollback(self, connection: Any) -> None:
        """Nothing: a rollback would drop the result that is about to be read."""


def _sql_type(kind: str) -> types.TypeEngine[Any]:
    for start, form in _TYPES:
        if kind.startswith(start):
            return form()
    return types.NullType()


def lend(key: str, cursor: Callable[[], duckdb.DuckDBPyConnection]) -> str:
    """Register *cursor*, a maker of cursors, and return the URL that connects through it."""
    _lent[key] = cursor
    registry.register("duckdb.lent", __name__, "LentDialect")
    return f"{NAME}:///{key}"


def take_back(key: str) -> None:
    """Close every cursor lent under *key* and let go of it.

    Great Expectations keeps its engines, with their pools and type caches, for as long as the process lives; DuckDB's
    objects left in them are reported as leaks by its binding when the process ends.
    """
    _lent.pop(key, None)
    for dialect, wrapper in _borrowed.pop(key, []):
        dialect._type_memos.clear()
        for name, value in list(vars(wrapper).items()):
            if isinstance(value, duckdb.DuckDBPyConnection):
                value.close()
                delattr(wrapper, name)
