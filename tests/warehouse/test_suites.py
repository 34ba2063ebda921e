"""Suites run by Great Expectations on DuckDB; layers reconcile. One setup for all: importing it takes seconds."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pytest

from cdp.errors import ConfigError
from warehouse.connection import open_warehouse
from warehouse.expectations import CheckResult, Suite, load_suites, run_suite, run_suites, write_data_docs
from warehouse.home import Home

AS_OF = datetime(2026, 3, 1, tzinfo=UTC)
GOOD = """
description: everything there is
tables:
  - table: marts.things
    checks:
      - {expect: not_null, column: id, says: id is known}
      - {expect: unique, column: id, says: one row each}
      - {expect: unique, columns: [id, kind], says: one row each pair}
      - {expect: in_set, column: kind, values: [a, b], says: kinds are known}
      - {expect: between, column: size, min: 0, max: 10, says: sizes fit}
      - {expect: row_count, min: 1, max: 100, says: there are some}
      - {expect: matches, column: phone, pattern: '1\\d{10}', says: phones look like phones}
      - {expect: not_less, column: size, than: least, says: never less than the least}
      - {expect: columns, columns: [id, kind], says: the columns are there}
      - {expect: refers_to, column: kind, target: marts.kinds.kind, says: kinds are listed}
      - {expect: no_rows, name: size__odd, sql: 'select id from {table} where size % 2 = 0', severity: warn, says: sizes are odd}
      - {expect: not_null, column: kind, mostly: 0.5, name: kind__mostly, says: half of the kinds are known}
      - {expect: gx, expectation: ExpectColumnMeanToBeBetween, args: {column: size, min_value: 0, max_value: 100}, says: mean}
      - {expect: not_null, column: nothing, says: a column that is not there}
  - table: identity.seen
    checks:
      - name: seen_at__past
        expect: no_rows
        sql: select 1 from {table} where seen_at > getvariable('as_of')
        says: nothing seen after the cut
  - table: marts.missing
    checks:
      - {expect: row_count, min: 1, says: it is there}
"""  # noqa: E501


def suite_of(text: str, folder: Path) -> Suite:
    (folder / "all.yaml").write_text(text)
    return load_suites(folder)[0]


@pytest.fixture(scope="module")
def con(tmp_path_factory: pytest.TempPathFactory) -> Iterator[duckdb.DuckDBPyConnection]:
    with open_warehouse(Home(tmp_path_factory.mktemp("home")), as_of=AS_OF, timezone="UTC") as con:
        con.execute("create table marts_db.marts.kinds as select 'a' as kind union all select 'b'")
        con.execute("create table identity.seen as select timestamptz '2026-02-01' as seen_at")
        yield con


def fill(con: duckdb.DuckDBPyConnection, *rows: str) -> None:
    con.execute(
        "create or replace table marts_db.marts.things "
        "(id integer, kind varchar, size integer, least integer, phone varchar)"
    )
    for row in rows:
        con.execute(f"insert into marts_db.marts.things values {row}")


def outcome(results: list[CheckResult]) -> dict[str, bool]:
    return {result.name: result.passed for result in results}


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Suite:
    return suite_of(GOOD, tmp_path_factory.mktemp("suites"))


def test_all_kinds_pass_on_good_rows_and_what_is_missing_is_told(con: duckdb.DuckDBPyConnection, suite: Suite) -> None:
    fill(con, "(1, 'a', 1, 0, '13800138000')", "(2, 'b', 3, 3, null)")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        results = run_suite(con, suite)
    failed = {result.name: result.observed for result in results if not result.passed}
    assert failed.keys() == {"nothing__not_null", "table__row_count"}
    assert "nothing" in failed["nothing__not_null"]
    assert failed["table__row_count"] == "the table is not there"
    assert [result.table for result in results[-2:]] == ["identity.seen", "marts.missing"]


def test_every_kind_fails_on_bad_rows_with_masked_samples(con: duckdb.DuckDBPyConnection, suite: Suite) -> None:
    fill(con, *["(1, null, 100, 200, '13800138000x')"] * 3, "(null, 'zz', 2, 3, '99')")
    results = run_suites(con, [suite])
    passed = {name for name, ok in outcome(results).items() if ok}
    assert passed == {"id_kind__columns", "id_kind__unique", "seen_at__past", "table__gx"}
    assert not {"id__not_null", "id__unique", "kind__in_set", "size__between", "phone__matches",
                "size__not_less", "kind__refers_to", "size__odd", "kind__mostly"} & passed  # fmt: skip
    samples = {result.name: result.failing_rows_sample for result in results}
    assert "138****8000" in samples["phone__matches"][0]
    assert samples["kind__in_set"] == ("zz",)
    assert {result.severity for result in results if result.name == "size__odd"} == {"warn"}
    assert all("13800138000" not in " ".join(sample) for sample in samples.values())


def test_a_check_that_finds_plain_names_and_mail_does_not_spread_them(
    con: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    con.execute("create or replace table marts_db.marts.named as select '王小明' as name, 'li@b.cn' as mail")
    text = """
tables:
  - table: marts.named
    checks:
      - {expect: in_set, column: name, values: [x], says: names are masked}
      - {expect: in_set, column: mail, values: [x], says: mail is masked}
      - {expect: no_rows, sql: 'select name, mail from {table}', says: nothing is plain}
"""
    results = run_suite(con, suite_of(text, tmp_path))
    assert [result.failing_rows_sample for result in results] == [("王*明",), ("l***@b.cn",), ("王*明 | l***@b.cn",)]


def test_a_marts_file_is_checked_after_its_writer_closed_it(tmp_path: Path, suite: Suite) -> None:
    home = Home(tmp_path)
    with open_warehouse(home, as_of=AS_OF, timezone="UTC") as con:
        con.execute("create table marts_db.marts.kinds as select 'a' as kind")
        con.execute(
            "create table marts_db.marts.things as select 1 as id, 'a' as kind, 1 as size, 0 as least, null as phone"
        )
    results = outcome(run_suite(home.marts, suite))
    assert results["id__unique"]
    assert results["kind__refers_to"]
    assert not results["seen_at__past"]


def test_empty_tables_are_fine(con: duckdb.DuckDBPyConnection, suite: Suite) -> None:
    fill(con)
    results = outcome(run_suite(con, suite))
    assert {name for name, passed in results.items() if not passed} <= {
        "nothing__not_null",
        "table__row_count",
        "table__gx",
    }


def test_a_view_is_computed_once_for_all_its_checks(con: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    con.execute("create or replace sequence computed")
    con.execute("create or replace view staging.seen as select 'a' as kind, 1 as size, nextval('computed') as turn")
    suite = suite_of(
        """
        tables:
          - table: staging.seen
            checks:
              - {expect: not_null, column: kind, says: known}
              - {expect: in_set, column: kind, values: [b], says: of a kind}
              - {expect: between, column: turn, min: 0, max: 1, says: computed once}
              - {expect: no_rows, name: late, sql: 'select turn from {table} where turn > 1', says: computed once}
              - {expect: not_null, column: nothing, says: a column that is not there}
        """,
        tmp_path,
    )
    found = {result.name: result.passed for result in run_suite(con, suite)}
    assert found == {
        "kind__not_null": True,
        "kind__in_set": False,
        "turn__between": True,
        "late": True,
        "nothing__not_null": False,
    }
    assert con.execute("select count(*) from duckdb_tables() where table_name like 'checked%'").fetchall() == [(0,)]


def test_data_docs_are_written_on_request(con: duckdb.DuckDBPyConnection, suite: Suite, tmp_path: Path) -> None:
    fill(con, "(1, 'a', 1, 0, '13800138000')")
    page = write_data_docs(con, [suite], tmp_path / "docs")
    assert "marts.things" in page.read_text(encoding="utf-8")
    assert page.parent.stat().st_mode & 0o777 == 0o700


def test_the_suites_that_ship_load() -> None:
    suites = load_suites(Path(__file__).parents[2] / "config" / "expectations")
    assert {"orders", "people", "events", "relations", "identity"} <= {suite.name for suite in suites}
    for suite in suites:
        for table in suite.tables:
            for check in table.checks:
                assert any("\u4e00" <= letter <= "\u9fff" for letter in check.says), check.says


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("expect: in_set", "expect: inset"), r"all.yaml:\d+: .*expected one of .*did you mean `in_set`"),
        ((", values: [a, b]", ""), r"`in_set` needs `values`"),
        (("table: marts.things", "tabel: marts.things"), r"unknown key `tabel`; did you mean `table`"),
        (("name: kind__mostly", "name: kind__in_set"), r"two checks of marts.things are called `kind__in_set`"),
        ((", min: 0, max: 10", ""), r"`between` needs `min` or `max`"),
    ],
)
def test_a_wrong_suite_is_told_with_its_line(tmp_path: Path, change: tuple[str, str], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        suite_of(GOOD.replace(*change), tmp_path)
