"""Every model against its inputs' schemas, and what a wrong one is told."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

from cdp.errors import ConfigError, FatalError
from tests.models.model_worlds import empty_identity
from warehouse.models import ModelGraph, check_models, column_lineage, load_models, run_models

GOOD = """/*
Things.
grain: thing_id
owner: data
*/
with things as (
    select * from raw.things
),

{name} as (
    select
        thing_id,  -- its key
        {column}
    from things
)

select * from {name}
"""


@pytest.fixture
def write(tmp_path: Path):
    def _write(name: str, column: str = "size", sql: str | None = None, layer: str = "staging") -> Path:
        path = tmp_path / "models" / layer / f"{name}.sql"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(sql or GOOD.format(name=name, column=column))
        return path

    return _write


@pytest.fixture
def things(con: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
    con.execute("create table raw.things as select 1 as thing_id, 2 as size, 3 as colour")
    return con


def test_every_model_names_only_tables_and_columns_that_exist(
    graph: ModelGraph, con: duckdb.DuckDBPyConnection
) -> None:
    known = check_models(graph, con)
    assert {"staging.stg_orders", "marts.fct_orders", "raw.canonical__orders"} <= known.keys()


def test_every_model_says_its_grain_and_owner_and_marts_speak_chinese(graph: ModelGraph) -> None:
    for model in graph.models.values():
        assert model.grain, model.path
        assert model.owner, model.path
        assert model.description, model.path
        if model.layer == "marts" and model.schema == "marts":
            assert "description_zh" in model.header, model.path


def test_every_model_runs_on_an_empty_raw_layer(graph: ModelGraph, con: duckdb.DuckDBPyConnection) -> None:
    empty_identity(con)
    chosen = [name for name in graph.order if graph.models[name].layer in ("staging", "marts")]
    runs = run_models(con, graph, ["int_identity__evidence", *chosen])
    assert {run.rows for run in runs} <= {0, None}


def test_a_published_table_masks_every_personal_column(graph: ModelGraph) -> None:
    named = {"phone", "name", "unionid", "openid", "email"}
    for model in graph.models.values():
        if model.schema == "marts" and model.relation != "dim_staff":
            assert named & {column.name for column in model.columns} <= model.masked.keys(), model.path


def test_a_personal_column_without_a_mask_is_refused(write) -> None:
    path = write("fct_things", "colour -- whose [personal]\n        as colour", layer="marts")
    with pytest.raises(ConfigError, match=r"`colour` is personal and would be published: say how it is masked"):
        load_models(path.parents[1])


def test_a_masked_model_is_plain_only_inside(things: duckdb.DuckDBPyConnection, write) -> None:
    things.execute("create or replace table raw.things as select 1 as thing_id, '13800138000' as size")
    path = write("fct_things", "size  -- phone [personal: phone]", layer="marts")
    run_models(things, load_models(path.parents[1]), ["fct_things"])
    assert things.execute("select size from marts_db.marts.fct_things").fetchall() == [("138****8000",)]
    assert things.execute("select size from marts_pii.fct_things").fetchall() == [("13800138000",)]
    comments = "select comment from duckdb_columns() where table_name = 'fct_things' and column_name = 'size'"
    assert things.execute(comments).fetchall() == [("phone",), ("phone",)]


def test_unknown_column_is_told_with_line_and_nearest_name(things: duckdb.DuckDBPyConnection, write) -> None:
    path = write("stg_things", "sizee")
    with pytest.raises(ConfigError, match=rf"{path}:13: no column is called `sizee`; did you mean `size`\?"):
        check_models(load_models(path.parents[1]), things)


def test_unknown_table_is_told_with_line_and_nearest_name(things: duckdb.DuckDBPyConnection, write) -> None:
    path = write("stg_things", sql=GOOD.format(name="stg_things", column="size").replace("raw.things", "raw.thing"))
    with pytest.raises(ConfigError, match=rf"{path}:7: no table is called `raw.thing`; did you mean `raw.things`\?"):
        check_models(load_models(path.parents[1]), things)


def test_a_column_dropped_upstream_fails_the_reader(things: duckdb.DuckDBPyConnection, write) -> None:
    write("stg_things", "size")
    reader = write("stg_readers", "colour")
    reader.write_text(reader.read_text().replace("raw.things", "staging.stg_things"))
    with pytest.raises(ConfigError, match=r"stg_readers.sql:13: no column is called `colour`"):
        check_models(load_models(reader.parents[1]), things)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            ("grain: thing_id", "grain: thing"),
            r":3: grain names `thing`, which is no column; did you mean `thing_id`\?",
        ),
        (("grain: thing_id\n", ""), r":1: the header has no `grain:` line"),
        (("owner: data", "ownr: data"), r":4: unknown header field `ownr`; did you mean `owner`\?"),
        (("owner: data", "owner: data\nmaterialized: tabel"), r":5: `tabel`; did you mean `table`\?"),
        (("owner: data", "owner: data\nmaterialized: incremental"), r"needs one of `unique_key:`, `partition:`"),
        (("select * from raw.things", "selec * from raw.things"), r":7: "),
        (("select * from stg_things\n", "select * from stg_things; select 1"), r"expected exactly one query"),
        (("select * from stg_things\n", "drop table raw.things"), r":\d+: "),
        (("        size\n", "        *\n"), r":13: the last CTE lists its columns one by one"),
        (("/*\nThings.", "-- Things.\n/*"), r":1: no header comment"),
    ],
)
def test_a_wrong_file_is_told_before_anything_runs(write, change: tuple[str, str], told: str) -> None:
    path = write("stg_things", sql=GOOD.format(name="stg_things", column="size").replace(*change))
    with pytest.raises(ConfigError, match=told):
        load_models(path.parents[1])


def test_a_circle_is_told_with_its_members(write) -> None:
    first = write("stg_a", sql=GOOD.format(name="stg_a", column="size").replace("raw.things", "staging.stg_b"))
    write("stg_b", sql=GOOD.format(name="stg_b", column="size").replace("raw.things", "staging.stg_a"))
    with pytest.raises(ConfigError, match=r"in a circle: staging.stg_. reads staging.stg_. reads staging.stg_."):
        load_models(first.parents[1])


def test_a_model_that_fails_keeps_its_former_rows(things: duckdb.DuckDBPyConnection, write) -> None:
    path = write("stg_things", "size / (size - 2)", sql=None)
    path.write_text(
        GOOD.format(name="stg_things", column="size").replace("owner: data", "owner: data\nmaterialized: table")
    )
    run_models(things, load_models(path.parents[1]), ["stg_things"])
    path.write_text(path.read_text().replace("        size\n", "        cast('x' || size as integer) as size\n"))
    with pytest.raises(FatalError, match=r"stg_things.sql:14: model `staging.stg_things` failed: Conversion Error"):
        run_models(things, load_models(path.parents[1]), ["stg_things"])
    assert things.execute("select size from staging.stg_things").fetchall() == [(2,)]


def test_an_incremental_model_replaces_rows_by_key(things: duckdb.DuckDBPyConnection, write) -> None:
    text = GOOD.format(name="stg_things", column="size").replace(
        "owner: data", "owner: data\nmaterialized: incremental\nunique_key: thing_id"
    )
    graph = load_models(write("stg_things", sql=text).parents[1])
    run_models(things, graph, ["stg_things"])
    things.execute("update raw.things set size = 9")
    things.execute("insert into raw.things values (2, 5, 5)")
    run_models(things, graph, ["stg_things"])
    run_models(things, graph, ["stg_things"])
    assert things.execute("from staging.stg_things order by 1").fetchall() == [(1, 9), (2, 5)]


def test_a_view_may_become_a_table_and_back(things: duckdb.DuckDBPyConnection, write) -> None:
    path = write("stg_things")
    for kind in ("view", "table", "view"):
        text = GOOD.format(name="stg_things", column="size")
        path.write_text(text.replace("owner: data", f"owner: data\nmaterialized: {kind}"))
        run_models(things, load_models(path.parents[1]), ["stg_things"])
    assert things.execute("from staging.stg_things").fetchall() == [(1, 2)]


def test_comments_reach_the_database(graph: ModelGraph, con: duckdb.DuckDBPyConnection) -> None:
    run_models(con, graph, ["stg_sources", "stg_canonical__products", "stg_sensors__items", "stg_products"])
    text = con.execute("select comment from duckdb_views() where view_name = 'stg_products'").fetchall()[0][0]
    assert "grain: product_id" in text


def test_selection_by_layer_name_and_neighbours(graph: ModelGraph) -> None:
    assert graph.select("fct_orders") == ["marts.fct_orders"]
    assert "staging.stg_orders" in graph.select("+fct_orders")
    assert "marts.fct_refunds" in graph.select("fct_orders+")
    assert all(graph.models[name].layer == "staging" for name in graph.select("staging"))
    with pytest.raises(ConfigError, match="no model is called `fct_order`; did you mean"):
        graph.select("fct_order")


def test_lineage_leads_through_every_cte_to_the_inputs(graph: ModelGraph, con: duckdb.DuckDBPyConnection) -> None:
    known = check_models(graph, con)
    made = column_lineage(graph, "fct_orders", known)
    assert made["net_amount"] == [
        "staging.stg_orders.amount",
        "staging.stg_orders.refund_amount",
        "staging.stg_refunds.amount",
    ]
    united = column_lineage(graph, "stg_events", known)
    assert united["page"] == [
        "staging.stg_canonical__events.page",
        "staging.stg_segment__events.page",
        "staging.stg_sensors__events.page",
        "staging.stg_thinkingdata__events.page",
    ]
