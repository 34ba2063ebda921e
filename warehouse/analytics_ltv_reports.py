"""Lifetime value to look at: the model, cohort curves, channels, one person; and the curves drawn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import duckdb
import polars as pl

from cdp.errors import ConfigError
from warehouse.analytics_common import require_person
from warehouse.chart_files import write_chart
from warehouse.report_charts import FONT


def ltv_models(con: duckdb.DuckDBPyConnection, *, marts: str = "marts") -> list[dict[str, Any]]:
    """Rows of `dim_ltv_models`, the buying model first, with parameters and hold-out report as mappings."""
    rows = con.sql(f"select * from {marts}.dim_ltv_models order by family = 'gamma_gamma'").to_arrow_table().to_pylist()
    for row in rows:
        for name in ("parameters", "std_errors", "hold_out"):
            row[name] = json.loads(row[name]) if row[name] else None
    return rows


def ltv_cohorts(con: duckdb.DuckDBPyConnection, *, marts: str = "marts") -> list[dict[str, Any]]:
    """One row per month of first purchase: `cohort`, `people`, and `curve`, month since -> cumulative net per person.
    A month without purchases keeps the value of the one before; all curves end with the newest month of any."""
    rows = con.execute(
        f"""
        select strftime(cohort_month, '%Y-%m'), max(people), list(months_since order by months_since),
            list(cumulative_net_per_person order by months_since),
            datediff('month', cohort_month, max(max(cohort_month + to_months(cast(months_since as int)))) over ())
        from {marts}.fct_ltv_cohorts group by cohort_month order by cohort_month
        """
    ).fetchall()
    return [
        {"cohort": cohort, "people": people, "curve": _filled(dict(zip(months, values, strict=True)), newest)}
        for cohort, people, months, values, newest in rows
    ]


def _filled(curve: dict[int, Any], newest: int) -> dict[int, Any]:
    filled, last = {}, None
    for month in range(newest + 1):
        last = curve.get(month, last)
        filled[month] = last
    return filled


def ltv_of_channels(con: duckdb.DuckDBPyConnection, *, marts: str = "marts") -> list[dict[str, Any]]:
    """Rows of `fct_ltv_channels`, the largest first."""
    query = f"select * from {marts}.fct_ltv_channels order by people desc, channel_id"
    return con.sql(query).to_arrow_table().to_pylist()


def ltv_of_person(con: duckdb.DuckDBPyConnection, one_id: str, *, marts: str = "marts") -> dict[str, tuple[Any, str]]:
    """Column of `fct_ltv_people` -> (value, meaning) for one person.

    Raises `ConfigError` when the person never paid, or is not there.
    """
    rows = con.sql(f"select * from {marts}.fct_ltv_people where one_id = $id", params={"id": one_id})
    found = rows.to_arrow_table().to_pylist()
    if not found:
        require_person(con, one_id, marts=marts)
        raise ConfigError(f"{one_id} has never paid", hint="`cdp identity show` finds a person by any identifier")
    catalog, _, schema = marts.rpartition(".")
    meanings = dict(
        con.execute(
            "select column_name, comment from duckdb_columns() where schema_name = ? and table_name = 'fct_ltv_people'"
            " and (? = '' or database_name = ?)",
            [schema, catalog, catalog],
        ).fetchall()
    )
    return {name: (value, meanings.get(name) or "") for name, value in found[0].items()}


def ltv_chart(con: duckdb.DuckDBPyConnection, path: Path, *, marts: str = "marts", cohorts: int = 12) -> None:
    """Write the curves of the newest *cohorts* as .svg, .png or .html, by the ending of *path*.

    Raises `ConfigError` on another ending, or when there are no buyers yet.
    """
    import altair as alt

    rows = [
        {"cohort": row["cohort"], "months_since": month, "net_per_person": float(value)}
        for row in ltv_cohorts(con, marts=marts)[-cohorts:]
        for month, value in row["curve"].items()
    ]
    if not rows:
        raise ConfigError("there are no buyers to draw", hint="`cdp run` computes lifetime value from paid orders")
    drawn = (
        alt.Chart(pl.DataFrame(rows), title="累计净消费 / cumulative net per person")
        .mark_line(point=True)
        .encode(
            x=alt.X(
                "months_since:Q",
                title="首购后第几月 / months since the first purchase",
                axis=alt.Axis(tickMinStep=1, format="d"),
            ),
            y=alt.Y("net_per_person:Q", title=None),
            color=alt.Color("cohort:O", title="首购月", scale=alt.Scale(scheme="viridis")),
        )
    )
    write_chart(drawn.properties(width=620, height=340).configure(font=FONT), path, title="LTV")
