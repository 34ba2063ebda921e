"""Lifetime value drawn: cumulative net per person by month since the first purchase, one line per cohort."""

from __future__ import annotations

from pathlib import Path

import duckdb

from cdp.errors import ConfigError
from warehouse.chart_files import write_chart
from warehouse.report_charts import FONT


def ltv_chart(con: duckdb.DuckDBPyConnection, path: Path, *, marts: str = "marts", cohorts: int = 12) -> None:
    """Write the curves of the newest *cohorts* as .svg, .png or .html, by the ending of *path*.

    Raises `ConfigError` on another ending, or when there are no buyers yet.
    """
    import altair as alt

    rows = con.sql(
        f"""
        select strftime(cohort_month, '%Y-%m') as cohort, months_since,
            cast(cumulative_net_per_person as double) as net_per_person
        from {marts}.fct_ltv_cohorts
        where cohort_month in (select distinct cohort_month from {marts}.fct_ltv_cohorts order by 1 desc limit $cohorts)
        order by cohort, months_since
        """,
        params={"cohorts": cohorts},
    ).pl()
    if rows.is_empty():
        raise ConfigError("there are no buyers to draw", hint="`cdp run` computes lifetime value from paid orders")
    drawn = (
        alt.Chart(rows, title="累计净消费 / cumulative net per person")
        .mark_line(point=True)
        .encode(
            x=alt.X("months_since:Q", title="months since the first purchase"),
            y=alt.Y("net_per_person:Q", title=None),
            color=alt.Color("cohort:N", title="first purchase"),
        )
    )
    write_chart(drawn.properties(width=620, height=340).configure(font=FONT), path, title="LTV")
