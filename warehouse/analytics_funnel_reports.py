"""Funnels for people to look at: run on the published version, read back, drawn."""

from __future__ import annotations

from collections.abc import Sequence
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

_ORDER = "order by all_buckets desc, bucket_start, all_values desc, breakdown_value nulls last, step_no"


def run_published(
    con: duckdb.DuckDBPyConnection, funnels: FunnelsConfig, name: str, *, timezone: str, marts: str = "marts"
) -> list[dict[str, Any]]:
    """Compute funnel *name* on the marts of *con*; rows as in `fct_funnel_steps`. Makes temp tables only."""
    funnel = _find(funnels, name)
    check_funnels(con, FunnelsConfig(funnels=(funnel,)), marts=marts)
    at = feature_cut(con, marts)
    day = con.execute("select cast(timezone(?, ?::timestamptz) as date)", [timezone, at]).fetchall()[0][0]
    run_funnel(con, funnel, cut=Cut(at, day), timezone=timezone, marts=marts)
    return con.sql(f"select * from temp.funnel_steps {_ORDER}").to_arrow_table().to_pylist()


def stored_steps(con: duckdb.DuckDBPyConnection, name: str, *, marts: str = "marts") -> list[dict[str, Any]]:
    """Rows of funnel *name* in `fct_funnel_steps`, totals first."""
    query = f"select * from {marts}.fct_funnel_steps where funnel_id = $name {_ORDER}"
    return con.sql(query, params={"name": name}).to_arrow_table().to_pylist()


def _find(funnels: FunnelsConfig, name: str) -> Funnel:
    try:
        return funnels.funnel(name)
    except KeyError as error:
        known = [funnel.id for funnel in funnels.funnels]
        raise ConfigError(
            f"config/funnels.yaml has no funnel `{name}`{nearest(name, known)}", hint="`cdp funnel show` lists them"
        ) from error


def funnel_chart(steps: Sequence[dict[str, Any]], *, title: str, path: Path) -> None:
    """Write a bar chart of *steps* (rows of one total) as .svg, .png or .html, by the ending of *path*."""
    import altair as alt

    if path.suffix not in (".svg", ".png", ".html"):
        raise ConfigError(f"a chart is .svg, .png or .html, not `{path.suffix}`")
    names = ("label", "reached", "rate", "rate_low", "rate_high", "step_no")
    rows = [{name: row[name] for name in names} for row in steps]
    base = alt.Chart(pl.DataFrame(rows), title=title).encode(
        y=alt.Y("label:N", sort=alt.SortField("step_no"), title=None),
    )
    drawn = (
        base.mark_bar().encode(x=alt.X("rate:Q", axis=alt.Axis(format="%"), title=None))
        + base.mark_errorbar().encode(x=alt.X("rate_low:Q", title=None), x2="rate_high:Q")
        + base.mark_text(align="left", dx=4).encode(x="rate:Q", text=alt.Text("reached:Q", format=","))
    )
    drawn.properties(width=560, height=36 * max(len(rows), 1)).save(
        str(path), **({"inline": True} if path.suffix == ".html" else {})
    )
