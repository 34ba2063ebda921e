"""`cdp sql` as it is typed: rows on standard output, the rest on standard error; the loop and its completion."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app import sql_repl
from app.main import app
from cdp.errors import ConfigError
from warehouse.connection import open_warehouse
from warehouse.home import Home
from warehouse.publish import publish
from warehouse.query import run_query
from warehouse.saved_queries import run_saved

AS_OF = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = Home(tmp_path_factory.mktemp("home"))
    home.config.mkdir()
    (home.config / "cdp.yaml").write_text("name: 品牌\n")
    with open_warehouse(home, as_of=AS_OF, timezone="Asia/Shanghai") as con:
        con.execute(
            "create table marts_db.marts.dim_people as select 'p' || i as one_id, '上海' as city from range(3) t(i)"
        )
        con.execute("comment on table marts_db.marts.dim_people is '人 | people'")
        for version in ("v1", "v2"):
            publish(home, con, version=version, checks=[])
    return home


def cdp(home: Home, *arguments: str, stdin: str | None = None):
    return CliRunner().invoke(app, ["--home", str(home.root), *arguments], input=stdin)


def test_rows_and_words_go_to_different_streams(home: Home) -> None:
    done = cdp(home, "sql", "select * from dim_people order by 1", "--format", "csv")
    assert done.exit_code == 0
    assert done.stdout == "one_id,city\np0,上海\np1,上海\np2,上海\n"
    assert "3 rows · version v2 ·" in done.stderr


def test_json_limit_stdin_and_table(home: Home) -> None:
    done = cdp(home, "sql", "-", "-f", "json", "--limit", "1", stdin="select one_id from dim_people order by 1")
    assert json.loads(done.stdout) == [{"one_id": "p0"}]
    assert "cut at 1" in done.stderr
    assert "上海" in cdp(home, "sql", "from dim_people").stdout


def test_files_by_their_ending(home: Home, tmp_path: Path) -> None:
    for ending in ("csv", "json", "xlsx", "parquet"):
        assert cdp(home, "sql", "from dim_people", "--out", str(tmp_path / f"x.{ending}")).exit_code == 0
        assert (tmp_path / f"x.{ending}").stat().st_size > 10
    for wrong in (["--out", "x.doc"], ["--format", "xlsx"], ["--format", "tabel"], ["--role", "admin"]):
        assert isinstance(cdp(home, "sql", "select 1", *wrong).exception, ConfigError), wrong


def test_versions_are_listed_and_rolled_back(home: Home) -> None:
    assert "v1" in cdp(home, "publish", "list").stdout
    assert "version v1" in cdp(home, "publish", "rollback").stdout
    assert "version v1" in cdp(home, "sql", "select 1").stderr
    assert "version v2" in cdp(home, "publish", "rollback", "v2").stdout


def test_the_loop_answers_saves_and_survives_mistakes(
    home: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = iter([".tables", "selec 1;", "select city", "from dim_people;", f".save {tmp_path / 'x.csv'}", ".save x",
                  ".columns dim_people", ".columns nothing",
                  ".saved", ".saved nothing", ".version", ".help", ".quit", "never"])  # fmt: skip
    monkeypatch.setattr("builtins.input", lambda _: next(typed))
    answers: list[int] = []
    sql_repl.loop(
        home,
        version=None,
        ask=lambda text: run_query(home, text),
        ask_saved=lambda name: run_saved(home, name),
        show=lambda result: answers.append(result.table.num_rows),
        suffixes={".csv": "csv"},
    )
    assert answers == [3]
    assert (tmp_path / "x.csv").exists()
    assert next(typed) == "never"
    told = capsys.readouterr()
    assert "no table is called `nothing`" in told.err
    assert "`x` has no known ending" in told.err
    assert "no saved query is called `nothing`" in told.err


def test_completion_knows_tables_and_columns(home: Home) -> None:
    catalog = sql_repl.read_catalog(home, None)
    assert catalog.tables == {"dim_people": "人 | people"}
    assert sql_repl.completions("ci", "select ci from dim_people", catalog) == ["city"]
    assert sql_repl.completions("dim", "from dim", catalog) == ["dim_people"]
    assert sql_repl.completions("marts.d", "from marts.d", catalog) == ["marts.dim_people"]
    assert sql_repl.completions("dim_people.o", "", catalog) == ["dim_people.one_id"]
    assert sql_repl.completions("sel", "", catalog) == ["select"]
