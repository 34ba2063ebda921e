"""`cdp config check` on a home that has published: rules that name what is not there are told with their line."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from app.home_cli import create_home
from app.main import app
from tests.operations.published import publish_brand
from warehouse.home import Home


def checked(home: Home) -> str:
    done = CliRunner().invoke(app, ["--home", str(home.root), "config", "check"])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_a_misspelt_column_is_told_once_there_is_a_version_to_compare_with(tmp_path: Path) -> None:
    home = Home(tmp_path)
    create_home(home)
    tags = home.config / "tags.yaml"
    line = len(tags.read_text(encoding="utf-8").splitlines()) + 1
    with tags.open("a", encoding="utf-8") as file:
        file.write("  - {id: mine, kind: fact, value: citty}\n")
    assert "citty" not in checked(home)
    publish_brand(home, people=30)
    told = checked(home)
    assert f"tags.yaml:{line}: mine.value: `citty`: no column `citty`; did you mean `city`?" in told
    assert "funnels.yaml:" not in told
