"""Funnels for people to look at: run on the published version, read back, drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import polars as pl

from cdp.config import nearest
from cdp.errors import ConfigError
from cdp.funnels.config import Funnel, FunnelsConfig
from warehouse.analytics_common import Cut
from warehouse.analytics_funnels import check_funnels, run_funnel
from warehouse.analytics_tag_reports import feature_cut
from warehouse.chart_files import write_chart
from warehouse.report_charts import FONT, INK, MAIN

_ORDER = "order by all_buckets desc, bucket_start, all_values desc, breakdown_value nulls last, step_no"


def run_published(
    con: duckdb.DuckDBPyConnection,
    funnels: FunnelsConfig,
    name: str,
    *,
    timezone: str,
    marts: str = "marts",
    purposes: Mapping[str, str] | None = None,
) -> list[dict[str, Any]]:
    """Compute funnel *name* on the marts of *con*; rows as in `fct_funnel_steps`. Makes temp tables only. *purposes*:
    as in `build_funnels`."""
    funnel = find_funnel(funnels, name)
    check_funnels(con, funnels.model_copy(update={"funnels": (funnel,)}), marts=marts, purposes=purposes)
    at = feature_cut(con, marts)
    day = con.execute("select cast(timezone(?, ?::timestamptz) as date)", [timezone, at]).fetchall()[0][0]
    run_funnel(con, funnel, cut=Cut(at, day), timezone=timezone, marts=marts, purposes=purposes)
    return con.sql(f"select * from temp.funnel_steps {_ORDER}").to_arrow_table().to_pylist()


def stored_steps(con: duckdb.DuckDBPyConnection, name: str, *, marts: str = "marts") -> list[dict[str, Any]]:
    """Rows of funnel *name* in `fct_funnel_steps`, totals first."""
    query = f"select * from {marts}.fct_funnel_steps where funnel_id = $name {_ORDER}"
    return con.sql(query, params={"name": name}).to_arrow_table().to_pylist()


def find_funnel(funnels: FunnelsConfig, name: str) -> Funnel:
    """The funnel called *name*. Raises `ConfigError` with the nearest name."""
    try:
        return funnels.funnel(name)
    except KeyError as error:
        known = [funnel.id for funnel in funnels.funnels]
        raise ConfigError(
            f"config/funnels.yaml has no funnel `{name}`{nearest(name, known)}", hint="`cdp funnel show` lists them"
        ) from error


def funnel_chart(steps: Sequence[dict[str, Any]], *, title: str, path: Path) -> None:
    """Write a bar chart of *steps* (rows of one total, in order) as .svg, .png or .html, by the ending of *path*."""
    import altair as alt

    rows = [
        {
            "step": f"{row['step_no']}. {row['label']}",  # two steps may share a label
            "rate": row["rate"],
            "rate_low": row["rate_low"],
            "rate_high": row["rate_high"],
            "text": f"{row['reached']:,} · {row['rate'] or 0:.1%}",
        }
        for row in steps
    ]
    base = alt.Chart(pl.DataFrame(rows), title=title).encode(y=alt.Y("step:N", sort=None, title=None))
    share = alt.X("rate:Q", axis=alt.Axis(format="%"), scale=alt.Scale(domainMin=0), title=None)
    drawn = (
        base.mark_bar(color=MAIN).encode(x=share)
        + base.mark_errorbar(color=INK).encode(x=alt.X("rate_low:Q", title=None), x2="rate_high:Q")
        + base.mark_text(align="left", dx=6).encode(x="rate_high:Q", text="text:N")
    )
    height = 36 * max(len(rows), 1)
    write_chart(drawn.properties(width=560, height=height).configure(font=FONT), path, title=title)
