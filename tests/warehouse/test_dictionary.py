"""The dictionary page, the diff against the published version, and layers that reconcile, on a small built world."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pytest

from cdp.errors import ConfigError
from warehouse.connection import open_warehouse
from warehouse.dictionary import read_dictionary, render
from warehouse.home import Home
from warehouse.model_diff import diff_model
from warehouse.models import ModelGraph, load_models, run_models
from warehouse.publish import publish
from warehouse.reconcile import reconcile_layers

AS_OF = datetime(2026, 3, 1, tzinfo=UTC)
STAGING = """/*
Orders as they came <b>.
grain: order_id
owner: data
*/
with stg_orders as (
    select
        order_id,
        phone,  -- of the buyer [personal]
        amount
    from raw.orders
)

select * from stg_orders
"""
MART = """/*
Orders.
description_zh: 订单
grain: order_id
owner: data
*/
with orders as (
    select * from staging.stg_orders
),

fct_orders as (
    select
        order_id,
        phone,  -- of the buyer [personal: phone]
        amount as paid
    from orders
)

select * from fct_orders
"""


@pytest.fixture
def home(tmp_path: Path) -> Home:
    for layer, name, sql in (("staging", "stg_orders", STAGING), ("marts", "fct_orders", MART)):
        (tmp_path / "models" / layer).mkdir(parents=True)
        (tmp_path / "models" / layer / f"{name}.sql").write_text(sql)
    return Home(tmp_path)


@pytest.fixture
def con(home: Home) -> Iterator[duckdb.DuckDBPyConnection]:
    with open_warehouse(home, as_of=AS_OF, timezone="UTC") as con:
        con.execute(
            "create table raw.orders as "
            "select i as order_id, '1380013800' || i as phone, i * 2 as amount from range(3) as t(i)"
        )
        run_models(con, load_models(home.root / "models"), ["stg_orders", "fct_orders"])
        publish(home, con, version="v1", checks=[])
        yield con


def graph(home: Home, *change: str) -> ModelGraph:
    path = home.root / "models" / "marts" / "fct_orders.sql"
    if change:
        path.write_text(path.read_text().replace(*change))
    return load_models(home.root / "models")


def test_the_page_tells_tables_columns_lineage_and_checks(home: Home, con: duckdb.DuckDBPyConnection) -> None:
    entries = read_dictionary(con, graph(home), checks={"marts.fct_orders": [("error", "每单一行 / one each")]})
    mart = next(entry for entry in entries if entry.name == "marts.fct_orders")
    assert (mart.grain, mart.owner, mart.kind, mart.rows, mart.file) == (
        "order_id", "data", "table", 3, "models/marts/fct_orders.sql"
    )  # fmt: skip
    paid = next(column for column in mart.columns if column.name == "paid")
    assert paid.made_from == ("staging.stg_orders.amount",)
    staged = next(entry for entry in entries if entry.name == "staging.stg_orders")
    assert next(column for column in staged.columns if column.name == "amount").read_by == ("marts.fct_orders.paid",)
    page = render(entries)
    assert "订单" in page
    assert "每单一行 / one each · 阻断发布 blocks" in page
    assert "&lt;b&gt;" in page
    assert "Orders as they came <b>" not in page
    assert not re.search(r"(?:src|href)=\"https?:", page)
    assert page.count("<section") == len(entries) == 3
    assert page == render(
        read_dictionary(con, graph(home), checks={"marts.fct_orders": [("error", "每单一行 / one each")]})
    )


def test_no_change_is_no_difference(home: Home, con: duckdb.DuckDBPyConnection) -> None:
    found = diff_model(con, graph(home)["fct_orders"], home.published / "marts-v1.duckdb")
    assert found.same
    assert (found.rows_before, found.rows_after) == (3, 3)


def test_a_change_is_told_in_rows_and_columns_and_kept_nowhere(home: Home, con: duckdb.DuckDBPyConnection) -> None:
    con.execute("delete from raw.orders where order_id = 0")
    con.execute("insert into raw.orders values (9, '13900139000', 1)")
    changed = graph(
        home, "amount as paid\n    from orders", "amount + order_id % 2 as paid,\n        'x' as more\n    from orders"
    )
    found = diff_model(con, changed["fct_orders"], home.published / "marts-v1.duckdb")
    assert (found.added_columns, found.removed_columns) == (("more",), ())
    assert (found.only_before, found.only_after, found.changed_rows) == (1, 1, 1)
    assert found.changed == {"paid": 1}
    assert found.sample == ("0", "1", "9")
    assert con.execute("select count(*) from marts_db.marts.fct_orders where order_id = 0").fetchall() == [(1,)]
    assert not diff_model(con, changed["fct_orders"], home.published / "marts-v1.duckdb").same  # and may be asked again


def test_a_new_model_and_one_that_is_not_published(home: Home, con: duckdb.DuckDBPyConnection) -> None:
    path = home.root / "models" / "marts" / "fct_more.sql"
    path.write_text(MART.replace("fct_orders", "fct_more"))
    found = diff_model(con, graph(home)["fct_more"], home.published / "marts-v1.duckdb")
    assert (found.added_columns, found.only_after) == (("order_id", "phone", "paid"), 3)
    with pytest.raises(ConfigError, match=r"`staging\.stg_orders` is not published"):
        diff_model(con, graph(home)["stg_orders"], home.published / "marts-v1.duckdb")


def test_layers_reconcile_and_a_lost_or_doubled_row_is_found(home: Home, con: duckdb.DuckDBPyConnection) -> None:
    def failed() -> dict[tuple[str, str], str]:
        results = reconcile_layers(con, graph(home))
        return {(result.table, result.name): result.observed for result in results if not result.passed}

    con.execute("create table identity.people as select 'a' as one_id, 'person' as kind union all select 'b', 'shared'")
    con.execute("create table marts_db.marts.dim_people as select 'a' as one_id")
    con.execute("alter table marts_db.marts.fct_orders add column one_id varchar")
    assert failed() == {}
    con.execute(
        "insert into marts_db.marts.fct_orders select * replace ('z' as one_id) from marts_db.marts.fct_orders limit 1"
    )
    assert failed() == {
        ("marts.fct_orders", "grain__unique"): "1 of 4 rows share their key",
        ("marts.fct_orders", "rows__reconcile"): "4 rows, 3 expected",
        ("marts.fct_orders", "one_id__reconciles"): "1 rows",
    }
    con.execute("delete from marts_db.marts.dim_people")
    assert ("marts.dim_people", "rows__reconcile") in failed()
