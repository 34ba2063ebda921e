"""A home with the demo's configuration, and its definitions."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest

from app.demo import TEMPLATES
from app.home_cli import create_home
from pipelines.build import build_definitions
from warehouse.home import Home

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="package")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with the demo's configuration: sources of every kind, no secret set, nothing landed."""
    home = Home(tmp_path_factory.mktemp("definitions"))
    create_home(home)
    for template, target in TEMPLATES.items():
        (home.config / target).write_bytes((ROOT / "app" / "templates" / template).read_bytes())
    return home


@pytest.fixture(scope="package")
def definitions(home: Home) -> dg.Definitions:
    return build_definitions(home)
