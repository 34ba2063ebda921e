"""The verbs as an operator types them: what they print, and what they exit with."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from app import context, operations_cli
from cdp.errors import ConfigError
from tests.operations.homes import registry
from tests.operations.published import CHECKS
from warehouse.connection import open_warehouse
from warehouse.home import Home
from warehouse.publish import publish

Run = Callable[..., Result]


@pytest.fixture
def run(home: Home) -> Iterator[Run]:
    application = typer.Typer()
    for name in ("backup", "restore", "doctor", "report"):
        application.command(name)(getattr(operations_cli, name))
    context.choose_home(str(home.root))

    def invoke(*arguments: str, at: Path | None = None) -> Result:
        context.choose_home(str(at or home.root))
        return CliRunner().invoke(application, [str(argument) for argument in arguments])

    yield invoke
    context.choose_home(None)


def test_backup_and_restore_on_another_machine(run: Run, home: Home, tmp_path: Path) -> None:
    result = run("backup", "--to", str(tmp_path / "out"), "--with-secrets")
    assert result.exit_code == 0, result.output
    archive = next((tmp_path / "out").glob("*.tar"))
    listed = run("restore", str(archive), "--check").output
    assert [line.split()[0] for line in listed.splitlines()[1:]] == [
        "warehouse",
        "landing",
        "sync",
        "config",
        "secrets",
    ]
    fresh = Home(tmp_path / "new")
    restored = run("restore", str(archive), at=fresh.root)
    assert restored.exit_code == 0, restored.output
    assert registry(fresh) == registry(home)
    assert fresh.logs.is_dir()
    again = run("restore", str(archive), at=fresh.root)
    assert isinstance(again.exception, ConfigError)
    assert "--force" in str(again.exception)


def test_backup_in_the_home_and_without_keys_says_what_that_means(run: Run, home: Home) -> None:
    output = run("backup", "--only", "sync,config").output
    assert "copy it to another machine" in output
    assert "keys in secrets/" in output
    archive = next((home.root / "backups").glob("*.tar"))
    restored = run("restore", str(archive), at=home.root.parent / "other").output
    assert "secrets/identity.key" in restored


def test_an_unknown_part_is_told_with_the_known_ones(run: Run) -> None:
    error = run("backup", "--only", "everything").exception
    assert isinstance(error, ConfigError)
    assert "warehouse, landing, inbox, sync, audit, config, secrets" in str(error)


def test_doctor_exits_with_a_fault_and_prints_for_programs(run: Run, home: Home) -> None:
    sources = "sources: {followers: {connector: official_account, appid: wx1, secret: env:NOT_SET_ANYWHERE}}\n"
    (home.config / "sources.yaml").write_text(sources, encoding="utf-8")
    (home.config / "cdp.yaml").write_text("name: 山茶集\nalerts: {robot: env:NO_ROBOT_EITHER}\n", encoding="utf-8")
    result = run("doctor")
    assert result.exit_code == 1
    assert "NOT_SET_ANYWHERE" in result.output
    assert "NO_ROBOT_EITHER" in result.output
    found = {item["name"]: item["status"] for item in json.loads(run("doctor", "--json", "--deep").output)}
    assert found["secrets"] == "fail"
    assert found["data/warehouse.duckdb"] == "ok"


def test_report_is_written_for_the_published_version(run: Run, home: Home, tmp_path: Path, now: datetime) -> None:
    with open_warehouse(home, as_of=now, timezone="Asia/Shanghai") as con:
        publish(home, con, version="20261120", checks=CHECKS, now=now)
    result = run("report")
    assert result.exit_code == 0, result.output
    page = home.root / "reports" / "20261120.html"
    assert "山茶集" in page.read_text(encoding="utf-8")
    assert "数据源与新鲜度" in page.read_text(encoding="utf-8")
    assert run("report", "--out", str(tmp_path / "x.html"), "--language", "en").exit_code == 0
    assert "Sources and freshness" in (tmp_path / "x.html").read_text(encoding="utf-8")
    assert run("report", "--language", "fr").exit_code == 2


def test_report_before_anything_is_published_says_what_to_do(run: Run) -> None:
    error = run("report").exception
    assert isinstance(error, ConfigError)
    assert "cdp run" in str(error)


def test_dates_are_of_this_run(run: Run, home: Home) -> None:
    run("backup", "--only", "config")
    name = next((home.root / "backups").glob("*.tar")).name
    assert name.startswith(f"cdp-{datetime.now(UTC):%Y%m%d}")
