"""Checks on tables: suites in YAML, run by Great Expectations on DuckDB, handed back as plain results.

This is the only module that imports Great Expectations (3-15 s), and only inside the function that runs it. A check of
severity `error` that fails blocks publication and sync; `warn` is shown.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import duckdb
from pydantic import Field, model_validator

from cdp.config import Strict, parse
from cdp.errors import ConfigError
from cdp.privacy.masking import mask_email, mask_name, mask_text
from warehouse.connection import MARTS_CATALOG, MARTS_SCHEMA

Severity = Literal["error", "warn"]
Kind = Literal[
    "not_null",
    "unique",
    "in_set",
    "between",
    "row_count",
    "matches",
    "not_less",
    "columns",
    "refers_to",
    "no_rows",
    "gx",
]
_SAMPLE = 5
_NAMES = ("name", "name_masked", "nickname", "real_name", "receiver_name", "buyer_name", "remark", "address")
_NEEDS: dict[str, tuple[str, ...]] = {
    "not_null": ("column",),
    "unique": (),
    "in_set": ("column", "values"),
    "between": ("column",),
    "row_count": (),
    "matches": ("column", "pattern"),
    "not_less": ("column", "than"),
    "columns": ("columns",),
    "refers_to": ("column", "target"),
    "no_rows": ("sql",),
    "gx": ("expectation",),
}


class CheckConfig(Strict):
    """One check. *says* is what holds when it passes, in words for people."""

    expect: Kind
    says: str = Field(description="what holds when the check passes, for people")
    severity: Severity = "error"
    name: str | None = Field(None, description="default: <column>__<expect>")
    column: str | None = None
    columns: list[str] | None = Field(None, description="unique: together; columns: all there")
    values: list[str | int] | None = None
    min: float | None = None
    max: float | None = None
    mostly: float | None = Field(None, gt=0, le=1, description="share of rows that must pass")
    pattern: str | None = Field(None, description="regular expression (RE2) the whole value matches; null passes")
    than: str | None = Field(None, description="column that `column` is never less than")
    target: str | None = Field(None, description="schema.table.column that holds every value of `column`")
    sql: str | None = Field(None, description="SELECT of the rows that must not exist; {table} stands for the table")
    expectation: str | None = Field(None, description="class of Great Expectations, e.g. ExpectColumnMeanToBeBetween")
    args: dict[str, Any] = Field(default_factory=dict, description="arguments of `expectation`")

    @model_validator(mode="after")
    def _complete(self) -> CheckConfig:
        missing = [name for name in _NEEDS[self.expect] if getattr(self, name) in (None, [])]
        if missing:
            raise ValueError(f"`{self.expect}` needs {', '.join(f'`{name}`' for name in missing)}")
        if self.expect == "unique" and not (self.column or self.columns):
            raise ValueError("`unique` needs `column` or `columns`")
        if self.expect in ("between", "row_count") and self.min is None and self.max is None:
            raise ValueError(f"`{self.expect}` needs `min` or `max`")
        return self

    @property
    def title(self) -> str:
        """The check's name: `<column or table>__<what holds>`."""
        return self.name or f"{self.column or '_'.join(self.columns or []) or 'table'}__{self.expect}"


class TableChecks(Strict):
    table: str = Field(pattern=r"^[a-z_]+\.[a-z_0-9]+$", description="schema.table")
    checks: list[CheckConfig] = Field(min_length=1)


class SuiteConfig(Strict):
    """One file of `config/expectations/`."""

    description: str = ""
    tables: list[TableChecks]

    @model_validator(mode="after")
    def _distinct(self) -> SuiteConfig:
        seen: set[tuple[str, str]] = set()
        for table in self.tables:
            for check in table.checks:
                if (table.table, check.title) in seen:
                    raise ValueError(f"two checks of {table.table} are called `{check.title}`; give one a `name`")
                seen.add((table.table, check.title))
        return self


@dataclass(frozen=True)
class Suite:
    """The checks of one file. *name*: the file's stem."""

    name: str
    description: str
    tables: tuple[TableChecks, ...]


@dataclass(frozen=True)
class CheckResult:
    """What one check found. *observed*: in words. *failing_rows_sample*: up to five values or rows, masked."""

    name: str
    table: str
    passed: bool
    severity: Severity
    observed: str
    failing_rows_sample: tuple[str, ...]
    description: str


def load_suites(directory: Path) -> list[Suite]:
    """Every `*.yaml` of *directory*, by name. Raises `ConfigError` that lists all faults with file and line."""
    suites, faults = [], []
    for path in sorted(directory.glob("*.yaml")):
        try:
            config = parse(path.read_text(encoding="utf-8"), SuiteConfig, file=str(path))
        except ConfigError as error:
            faults.append(error.message)
        else:
            suites.append(Suite(path.stem, config.description, tuple(config.tables)))
    if faults:
        raise ConfigError("\n".join(faults), hint="mend the lines above; nothing has been checked")
    return suites


def run_suite(con_or_path: duckdb.DuckDBPyConnection | Path, suite: Suite) -> list[CheckResult]:
    """Run one suite. *con_or_path*: an open connection (of `open_warehouse`, or on a marts file), or a file to read.

    A check on a table or column that is not there fails, and says so. Results come in the order of the file.
    """
    return run_suites(con_or_path, [suite])


def run_suites(con_or_path: duckdb.DuckDBPyConnection | Path, suites: Sequence[Suite]) -> list[CheckResult]:
    """Run several suites in one go, which saves setting Great Expectations up for each."""
    if isinstance(con_or_path, Path):
        with duckdb.connect(":memory:") as con:
            path = str(con_or_path).replace("'", "''")
            con.execute(f"attach '{path}' as {MARTS_CATALOG} (read_only)")
            con.execute(f"use {MARTS_CATALOG}")
            return run_suites(con, suites)
    with _great_expectations(con_or_path) as runner:
        return [result for suite in suites for table in suite.tables for result in runner.run(table)]


def write_data_docs(con: duckdb.DuckDBPyConnection, suites: Sequence[Suite], folder: Path) -> Path:
    """Run *suites* and write Great Expectations' own site of their results (Data Docs) to *folder*.

    The site shows failing values as they are, so *folder* gets mode 700. Returns its first page.
    """
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    with _great_expectations(con) as runner:
        return runner.write_docs(suites, folder.resolve())  # it takes no relative path


class _Runner:
    """Great Expectations set up on one connection. *marts_attached*: the schema `marts` lies in `marts_db`."""

    def __init__(
        self,
        con: duckdb.DuckDBPyConnection,
        gx: Any,
        context: Any,
        sources: dict[str, Any],
        marts_attached: bool,
    ) -> None:
        self._con = con
        self._gx = gx
        self._context = context
        self._sources = sources
        self._marts_attached = marts_attached

    def run(self, table: TableChecks) -> list[CheckResult]:
        schema, relation = table.table.split(".")
        if not self._exists(schema, relation):
            return [_result(check, table.table, False, "the table is not there", ()) for check in table.checks]
        with self._computed_once(table) as place_of:
            answer = self._batch(table, place_of).get_batch().validate(self._suite(table), result_format="SUMMARY")
        found = {item.expectation_config.meta["place"]: item for item in answer.results}
        return [self._read(check, table.table, found[place]) for place, check in enumerate(table.checks)]

    def write_docs(self, suites: Sequence[Suite], folder: Path) -> Path:
        """Run every table's checks as a checkpoint and build the site."""
        store = {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(folder)}
        self._context.add_data_docs_site(
            site_name="docs",
            site_config={
                "class_name": "SiteBuilder",
                "store_backend": store,
                "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
            },
        )
        definitions = []
        for suite in suites:
            for table in suite.tables:
                if self._exists(*table.table.split(".")):
                    made = self._context.suites.add(self._suite(table))
                    definition = self._gx.ValidationDefinition(name=table.table, data=self._batch(table), suite=made)
                    definitions.append(self._context.validation_definitions.add(definition))
        checkpoint = self._gx.Checkpoint(name="all", validation_definitions=definitions, result_format="SUMMARY")
        self._context.checkpoints.add(checkpoint).run()
        self._context.build_data_docs()
        return folder / "index.html"

    @contextmanager
    def _computed_once(self, table: TableChecks) -> Iterator[str]:
        """Where the rows of *table* are to be read. Every check scans them twice or more, and a view over raw files is
        parsed anew each time: the columns its checks name are kept in a table until they are done."""
        columns = self._columns_of_view(table)
        if not columns:
            yield table.table
            return
        kept = f"meta.checked_{table.table.split('.')[1]}"
        self._con.execute("create schema if not exists meta")
        named = ", ".join(f'"{name}"' for name in columns)
        self._con.execute(f"create or replace table {kept} as select {named} from {table.table}")
        try:
            yield kept
        finally:
            self._con.execute(f"drop table {kept}")

    def _columns_of_view(self, table: TableChecks) -> list[str]:
        """Columns that the checks of *table* name; none when it is no view, or the file cannot be written to."""
        schema, relation = table.table.split(".")
        rows = self._con.execute(
            "select unnest(list(column_name order by column_index)) from duckdb_columns() where (schema_oid, table_oid)"
            " in (select (schema_oid, view_oid) from duckdb_views() where schema_name = ? and view_name = ?"
            " and database_name = current_database()) and database_name = current_database() and not"
            " (select readonly from duckdb_databases() where database_name = current_database())",
            [schema, relation],
        ).fetchall()
        columns = [row[0] for row in rows]
        words = {word for check in table.checks for word in re.findall(r"\w+", check.model_dump_json())}
        every = any(check.expect == "gx" or re.search(r"(?<!\()\*", check.sql or "") for check in table.checks)
        return columns if every else [name for name in columns if name in words] or columns[:1]

    def _batch(self, table: TableChecks, place: str | None = None) -> Any:
        schema, relation = (place or table.table).split(".")
        source = self._sources["marts" if schema == MARTS_SCHEMA else "internal"]
        asset = source.add_table_asset(table.table, table_name=relation, schema_name=schema)
        return asset.add_batch_definition_whole_table("all")

    def _suite(self, table: TableChecks) -> Any:
        return self._gx.ExpectationSuite(
            table.table, expectations=[self._expectation(check, place) for place, check in enumerate(table.checks)]
        )

    def _exists(self, schema: str, relation: str) -> bool:
        catalog = MARTS_CATALOG if schema == MARTS_SCHEMA and self._marts_attached else None
        rows = self._con.execute(
            "select 1 from information_schema.tables "
            "where table_catalog = coalesce(?, current_database()) and table_schema = ? and table_name = ?",
            [catalog, schema, relation],
        ).fetchall()
        return bool(rows)

    def _expectation(self, check: CheckConfig, place: int) -> Any:
        gxe = self._gx.expectations
        common: dict[str, Any] = {"meta": {"place": place}}
        if check.mostly is not None:
            common["mostly"] = check.mostly
        query = _failing_query(check)
        if query is not None:
            return gxe.UnexpectedRowsExpectation(
                unexpected_rows_query=self._located(query), description=check.says, meta=common["meta"]
            )
        match check.expect:
            case "not_null":
                return gxe.ExpectColumnValuesToNotBeNull(column=check.column, **common)
            case "unique" if check.column:
                return gxe.ExpectColumnValuesToBeUnique(column=check.column, **common)
            case "unique":
                return gxe.ExpectCompoundColumnsToBeUnique(column_list=check.columns, **common)
            case "in_set":
                return gxe.ExpectColumnValuesToBeInSet(column=check.column, value_set=check.values, **common)
            case "between":
                return gxe.ExpectColumnValuesToBeBetween(
                    column=check.column, min_value=check.min, max_value=check.max, **common
                )
            case "row_count":
                return gxe.ExpectTableRowCountToBeBetween(
                    min_value=_whole(check.min), max_value=_whole(check.max), meta=common["meta"]
                )
            case "not_less":
                return gxe.ExpectColumnPairValuesAToBeGreaterThanB(
                    column_A=check.column,
                    column_B=check.than,
                    or_equal=True,
                    ignore_row_if="either_value_is_missing",
                    **common,
                )
            case "columns":
                return gxe.ExpectTableColumnsToMatchSet(
                    column_set=check.columns, exact_match=False, meta=common["meta"]
                )
        kind = getattr(gxe, str(check.expectation), None)
        if kind is None:
            raise ConfigError(f"Great Expectations has no `{check.expectation}`", hint="see its expectation gallery")
        return kind(**check.args, **common)

    def _located(self, query: str) -> str:
        """*query* with `marts.` written so that a cursor inside either file finds it."""
        return re.sub(r"\bmarts\.(?=\w)", f"{MARTS_CATALOG}.{MARTS_SCHEMA}.", query) if self._marts_attached else query

    def _read(self, check: CheckConfig, table: str, item: Any) -> CheckResult:
        trouble = _trouble(item.exception_info)
        if trouble:
            return _result(check, table, False, f"the check could not run: {trouble}", ())
        if item.success:
            return _result(check, table, True, _observed(item.result), ())
        return _result(check, table, False, _observed(item.result), self._sample(check, table, item.result))

    def _sample(self, check: CheckConfig, table: str, found: dict[str, Any]) -> tuple[str, ...]:
        query = _failing_query(check)
        if query is None:
            values = found.get("partial_unexpected_list") or []
            return tuple(dict.fromkeys(_masked(str(check.column), value) for value in values))[:_SAMPLE]
        located = self._located(query.replace("{batch}", table))
        try:
            answer = self._con.execute(f"select * from ({located}) limit {_SAMPLE}")
            names, rows = [column[0] for column in answer.description or []][:8], answer.fetchall()
        except duckdb.Error:
            return ()
        return tuple(" | ".join(map(_masked, names, row)) for row in rows)


@contextmanager
def _great_expectations(con: duckdb.DuckDBPyConnection) -> Iterator[_Runner]:
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")  # read once, when it is imported
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gx: Any = import_module("great_expectations")
        import_module("great_expectations.expectations")
        from warehouse.gx_dialect import lend, take_back

        attached = con.execute("select database_name from duckdb_databases() where not internal").fetchall()
        marts_attached = (MARTS_CATALOG,) in attached
        context = gx.get_context(mode="ephemeral")
        context.variables.progress_bars = {"globally": False, "metric_calculations": False}
        keys = {"internal": f"internal-{id(con)}", "marts": f"marts-{id(con)}"}
        sources = {}
        for name, key in keys.items():
            url = lend(key, partial(_cursor, con, in_marts=name == "marts" and marts_attached))
            sources[name] = context.data_sources.add_sql(name, connection_string=url, create_temp_table=False)
        try:
            yield _Runner(con, gx, context, sources, marts_attached)
        finally:
            for name, key in keys.items():
                sources[name].get_execution_engine().engine.dispose()
                take_back(key)


def _cursor(con: duckdb.DuckDBPyConnection, *, in_marts: bool) -> duckdb.DuckDBPyConnection:
    """A cursor with the variables of *con*, which DuckDB keeps per cursor."""
    cursor = con.cursor()
    as_of, timezone = con.execute("select getvariable('as_of'), getvariable('timezone')").fetchall()[0]
    if as_of is not None:
        cursor.execute("set variable as_of = ?::timestamptz", [as_of])
        cursor.execute("set variable timezone = ?", [timezone])
    here = con.execute("select current_database()").fetchall()[0][0]
    cursor.execute(f'use "{MARTS_CATALOG if in_marts else here}"')
    return cursor


def _failing_query(check: CheckConfig) -> str | None:
    """For kinds that Great Expectations lacks on DuckDB: a query of the rows that fail, `{batch}` being the table."""
    if check.expect == "no_rows":
        return str(check.sql).replace("{table}", "{batch}")
    if check.expect == "matches":
        pattern = str(check.pattern).replace("'", "''").replace("{", "{{").replace("}", "}}")
        return f"select {check.column} from {{batch}} where not regexp_full_match({check.column}, '{pattern}')"
    if check.expect == "refers_to":
        target, _, column = str(check.target).rpartition(".")
        return (
            f"select {check.column} from "
            f"(select {check.column} from {{batch}} where {check.column} is not null) as checked "
            f"where not exists (select 1 from {target} as target where target.{column} = checked.{check.column})"
        )
    return None


def _masked(column: str, value: object) -> str:
    """*value* of *column* as a sample may show it: a check that finds plain names must not spread them."""
    if value is not None and column in _NAMES:
        return mask_name(str(value))
    if value is not None and "@" in str(value):
        return mask_email(str(value))
    return mask_text(value)


def _trouble(info: Any) -> str | None:
    """The first exception Great Expectations met, in one line, or None."""
    found = [info] if isinstance(info, dict) and "raised_exception" in info else list((info or {}).values())
    for item in found:
        if isinstance(item, dict) and item.get("raised_exception"):
            return str(item.get("exception_message", "unknown")).strip().splitlines()[0][:300]
    return None


def _observed(result: dict[str, Any]) -> str:
    if "unexpected_count" in result:
        return f"{result['unexpected_count'] or 0:,} of {result.get('element_count') or 0:,} rows fail"
    if "observed_value" in result:
        return f"observed {result['observed_value']}"
    return ""


def _result(check: CheckConfig, table: str, passed: bool, observed: str, sample: tuple[str, ...]) -> CheckResult:
    return CheckResult(check.title, table, passed, check.severity, observed, sample, check.says)


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)
