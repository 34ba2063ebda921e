"""What the checks of a run found, kept in the warehouse between the checking steps and the publishing one."""

from __future__ import annotations

from collections.abc import Sequence

import duckdb

from warehouse.expectations import CheckResult

_DDL = """
create table if not exists meta.check_result (
    run_id varchar, place integer, name varchar, relation varchar, passed boolean, severity varchar,
    observed varchar, sample varchar[], description varchar
)
"""


def save_results(con: duckdb.DuckDBPyConnection, results: Sequence[CheckResult], *, run_id: str) -> None:
    """Add the results of one step, one row per check; those of other runs go."""
    con.execute(_DDL)
    relations = sorted({result.table for result in results})
    con.execute("delete from meta.check_result where run_id <> ? or list_contains(?, relation)", [run_id, relations])
    rows = [
        (
            run_id,
            place,
            result.name,
            result.table,
            result.passed,
            result.severity,
            result.observed,
            list(result.failing_rows_sample),
            result.description,
        )
        for place, result in enumerate(results)
    ]
    if rows:
        con.executemany("insert into meta.check_result values (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)


def load_results(con: duckdb.DuckDBPyConnection, *, run_id: str) -> list[CheckResult]:
    """The results of *run_id*, in order; none when nothing was checked."""
    con.execute(_DDL)
    rows = con.execute(
        "select name, relation, passed, severity, observed, sample, description"
        " from meta.check_result where run_id = ? order by relation, place",
        [run_id],
    ).fetchall()
    return [
        CheckResult(
            name=name,
            table=relation,
            passed=passed,
            severity=severity,
            observed=observed,
            failing_rows_sample=tuple(sample),
            description=description,
        )
        for name, relation, passed, severity, observed, sample, description in rows
    ]
