"""What the analytics writers share: the business-day cut, and writing a set of marts tables in one transaction."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import duckdb
import polars as pl

from cdp.errors import ConfigError

MARTS = "marts_db.marts"


@dataclass(frozen=True)
class Cut:
    """*at*: start of the brand's open day (UTC); everything before it counts. *day*: that open day."""

    at: datetime
    day: date


def business_cut(con: duckdb.DuckDBPyConnection, as_of: datetime, timezone: str) -> Cut:
    """The start of the brand's day that *as_of* falls into."""
    row = con.execute(
        "select timezone($zone, date_trunc('day', timezone($zone, $at::timestamptz))),"
        " cast(timezone($zone, $at::timestamptz) as date)",
        {"zone": timezone, "at": as_of},
    ).fetchall()[0]
    return Cut(at=row[0], day=row[1])


def set_cut(con: duckdb.DuckDBPyConnection, as_of: datetime, timezone: str) -> Cut:
    """`business_cut`, also as the variables `cut_at`, `cut_day` and `zone` that the SQL of metrics reads."""
    cut = business_cut(con, as_of, timezone)
    con.execute("set variable cut_at = ?::timestamptz", [cut.at])
    con.execute("set variable cut_day = ?::date", [cut.day])
    con.execute("set variable zone = ?", [timezone])
    return cut


def paid_orders_sql(cut: str = "getvariable('cut_at')") -> str:
    """A query of the orders paid before *cut* (SQL): order_key, one_id, paid_at, paid_date, amount, what was `refunded`
    before *cut*, and `net` = amount - refunded.

    An order has the sum of its refunds and the instant of the latest. Where that is not before the cut, the refunds
    themselves tell what was known; one without an instant is known from the payment. `fct_person_facts` has the same
    rule. Refunds are looked up for these orders only.
    """
    return f"""
        select order_key, one_id, paid_at, paid_date, amount, refunded, amount - refunded as net
        from (
            select order_key, one_id, paid_at, paid_date, amount, coalesce(refund_amount, 0) as refunded
            from {MARTS}.fct_orders
            where is_paid and paid_at < {cut} and (refunded_at is null or refunded_at < {cut})
            union all
            select orders.order_key, orders.one_id, orders.paid_at, orders.paid_date, orders.amount,
                cast(least(coalesce(sum(refunds.amount), 0), coalesce(orders.refund_amount, 0)) as decimal(18, 2))
            from {MARTS}.fct_orders as orders
            left join {MARTS}.fct_refunds as refunds on refunds.order_key = orders.order_key
                and coalesce(refunds.refunded_at, orders.paid_at) < {cut}
            where orders.is_paid and orders.paid_at < {cut} and orders.refunded_at >= {cut}
            group by orders.order_key, orders.one_id, orders.paid_at, orders.paid_date, orders.amount,
                orders.refund_amount
        )
    """


def frame(con: duckdb.DuckDBPyConnection, sql: str, parameters: Any = None) -> pl.DataFrame:
    """The result of *sql* as a Polars frame (with its columns, also when empty)."""
    relation = con.sql(sql, params=parameters) if parameters else con.sql(sql)
    result = pl.from_arrow(relation.to_arrow_table())
    return result if isinstance(result, pl.DataFrame) else result.to_frame()


def require_person(con: duckdb.DuckDBPyConnection, one_id: str, *, marts: str = "marts") -> None:
    """Raise `ConfigError` when `dim_people` has no *one_id*."""
    if not con.execute(f"select count(*) from {marts}.dim_people where one_id = ?", [one_id]).fetchall()[0][0]:
        raise ConfigError(
            f"no person is called `{one_id}`", hint="`cdp identity show` finds a person by any identifier"
        )


@contextmanager
def transaction(con: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """All or nothing. DuckDB writes to one attached file per transaction."""
    con.execute("begin")
    try:
        yield
    except BaseException:
        con.execute("rollback")
        raise
    con.execute("commit")


@contextmanager
def view_of(con: duckdb.DuckDBPyConnection, name: str, data: pl.DataFrame) -> Iterator[str]:
    """*data* readable as the table *name* inside the block."""
    con.register(name, data.to_arrow())
    try:
        yield name
    finally:
        con.unregister(name)


@dataclass(frozen=True)
class Table:
    """One marts table to write: its content, what one row is, and what each column means."""

    name: str
    select: str
    comment: str
    columns: Mapping[str, str]


def write_marts(con: duckdb.DuckDBPyConnection, tables: Sequence[Table]) -> dict[str, int]:
    """Replace *tables* in the marts file in one transaction; readers of the file never see half of the set.

    Returns rows per table. Column order and comments follow `Table.columns`.
    """
    with transaction(con):
        return {table.name: put_table(con, table) for table in tables}


def put_table(con: duckdb.DuckDBPyConnection, table: Table) -> int:
    """Replace one marts table inside the caller's transaction; returns its rows."""
    _put(con, table, "table")
    return int(con.execute(f"select count(*) from {MARTS}.{table.name}").fetchall()[0][0])


def put_view(con: duckdb.DuckDBPyConnection, table: Table) -> None:
    """The same as a view, which may read only `marts`: nothing else is published."""
    _put(con, table, "view")


def _put(con: duckdb.DuckDBPyConnection, table: Table, kind: str) -> None:
    target = f"{MARTS}.{table.name}"
    catalog, schema = MARTS.split(".")
    other = con.execute(
        "select lower(table_type) from information_schema.tables"
        " where table_catalog = ? and table_schema = ? and table_name = ?",
        [catalog, schema, table.name],
    ).fetchall()
    if other and ("view" in other[0][0]) != (kind == "view"):
        con.execute(f"drop {'view' if kind == 'table' else 'table'} {target}")
    con.execute(f"create or replace {kind} {target} as select {', '.join(table.columns)} from ({table.select})")
    con.execute(f"comment on {kind} {target} is {quoted(table.comment)}")
    for column, text in table.columns.items():
        con.execute(f"comment on column {target}.{column} is {quoted(text)}")


def quoted(text: str) -> str:
    """*text* as a SQL string literal."""
    return "'" + text.replace("'", "''") + "'"
