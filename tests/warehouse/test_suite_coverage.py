"""Every table that people read or that identity is made of has a suite; a new table without one fails here."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.demo import TEMPLATES
from app.home_cli import create_home
from pipelines.build import build_definitions
from warehouse.expectations import load_suites
from warehouse.home import Home
from warehouse.models import load_models

ROOT = Path(__file__).parents[2]
# Steps on the way between two staging tables: there is nothing to hold them to but their grain, which is reconciled.
STEPS = {"staging.stg_order_keys", "staging.stg_tracking_batches"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """`schema.table` of everything a run with every source makes."""
    home = Home(tmp_path_factory.mktemp("coverage"))
    create_home(home)
    for template, target in TEMPLATES.items():
        (home.config / target).write_bytes((ROOT / "app" / "templates" / template).read_bytes())
    keys = build_definitions(home).resolve_all_asset_keys()
    return {".".join(key.path) for key in keys if len(key.path) == 2}


def checked() -> dict[str, list[str]]:
    """Table -> severities of its checks, in the suites that ship."""
    suites = load_suites(ROOT / "config" / "expectations")
    return {table.table: [check.severity for check in table.checks] for suite in suites for table in suite.tables}


@pytest.mark.parametrize("layer", ["marts", "identity", "staging"])
def test_every_table_has_a_suite(made: set[str], layer: str) -> None:
    """Staging of one source family (`stg_<family>__<stream>`) feeds a united table that has one; its grain and its rows
    are held against raw by `layers__reconcile`."""
    tables = {name for name in made if name.startswith(f"{layer}.")}
    assert len(tables) >= {"marts": 45, "identity": 8, "staging": 15}[layer]
    united = {name for name in tables if layer != "staging" or "__" not in name} - STEPS
    assert sorted(united - checked().keys()) == []


def test_a_mart_that_is_read_by_people_can_block_publication(made: set[str]) -> None:
    """A suite of warnings alone would let a doubled or empty table through."""
    only_warned = {table for table, severities in checked().items() if "error" not in severities}
    # what is measured of the tags themselves, the people who set them by hand, and what sources give untidily
    allowed = {"marts.fct_tag_manual", "marts.fct_community_activity"}
    allowed |= {"marts.fct_funnel_people", "marts.fct_next_best_quality"}
    assert {table for table in only_warned if table.startswith(("marts.", "identity."))} <= allowed


def test_every_family_table_has_a_grain_to_be_reconciled(made: set[str]) -> None:
    graph = load_models(ROOT / "models")
    families = {name for name in made if name.startswith("staging.") and "__" in name} | (STEPS & made)
    assert families
    assert [name for name in families if not graph.models[name].grain] == []
