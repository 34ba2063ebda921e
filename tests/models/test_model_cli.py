"""`cdp model` on a small home: list, check, run, diff, lineage and the dictionary, as typed."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app.home_cli import create_home
from app.main import app
from cdp.errors import CheckFailedError, ConfigError
from tests.models.model_worlds import empty_identity, land, make_raw
from warehouse.connection import open_warehouse
from warehouse.home import Home
from warehouse.models import ModelGraph, load_models, run_models
from warehouse.publish import publish

AS_OF = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def home(graph: ModelGraph, tmp_path: Path) -> Home:
    home = Home(tmp_path)
    home.config.mkdir()
    (home.config / "cdp.yaml").write_text("name: 品牌\n")
    with open_warehouse(home, as_of=AS_OF, timezone="Asia/Shanghai") as con:
        make_raw(con)
        empty_identity(con)
        land(con, "canonical__products", [{"product_id": "a", "price": 1}])
        run_models(con, graph, graph.select("+dim_products"))
        publish(home, con, version="v1", checks=[])
        land(con, "canonical__products", [{"product_id": "a", "price": 2}, {"product_id": "b"}])
    return home


def cdp(home: Home, *arguments: str) -> str:
    done = CliRunner().invoke(app, ["--home", str(home.root), "model", *arguments])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.stdout


def test_the_verbs_as_typed(home: Home, tmp_path: Path) -> None:
    assert "marts.fct_orders" in cdp(home, "list", "marts")
    assert "models read" in cdp(home, "check")
    told = cdp(home, "diff", "dim_products")
    assert "1 → 2 rows; 1 new, 0 gone, 1 changed" in told
    assert "price: 1 rows differ" in told
    assert "marts.dim_products" in cdp(home, "run", "dim_products")
    assert "staging.stg_products.price" in cdp(home, "lineage", "dim_products")
    cdp(home, "docs", "--out", str(tmp_path / "dictionary.html"))
    assert "每人一行" in (tmp_path / "dictionary.html").read_text(encoding="utf-8")


def test_a_home_that_never_ran_is_checked_too(tmp_path: Path) -> None:
    create_home(Home(tmp_path))
    assert "models read" in cdp(Home(tmp_path), "check")


def test_a_wrong_name_is_told(home: Home) -> None:
    with pytest.raises(ConfigError, match=r"no model is called `dim_product`; did you mean"):
        cdp(home, "run", "dim_product")


def test_a_wrong_grain_is_told_as_soon_as_the_model_has_run(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "own" / "marts"
    folder.mkdir(parents=True)
    (folder / "dim_things.sql").write_text(
        "/*\nThings.\ndescription_zh: 物\ngrain: thing_id\nowner: data\n*/\n"
        "with dim_things as (\n    select unnest([1, 1, 2]) as thing_id  -- the thing\n)\n\nselect * from dim_things\n",
        encoding="utf-8",
    )
    (folder.parent / "external.yaml").write_text("", encoding="utf-8")
    monkeypatch.setattr("app.model_cli._graph", lambda: load_models(folder.parent))
    with pytest.raises(CheckFailedError, match=r"dim_things.sql: not one row per thing_id: 1 of 3 rows share"):
        cdp(home, "run", "dim_things")
