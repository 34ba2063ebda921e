"""Asking for a metric by name. Names that mean several things give all of them, each under its own name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import duckdb

from cdp.config import nearest
from cdp.errors import ConfigError
from warehouse.analytics_business import REPURCHASE_NAMES

_AMBIGUOUS = {"repurchase_rate", "repurchase rate", "repurchase", "复购率", "回购率"}
# Metric -> its table; the repurchase definitions share one.
METRICS: Mapping[str, str] = {
    "gmv": "fct_gmv_identity",
    "first_order": "fct_first_order_conversion",
    "attribution": "fct_attribution_channels",
    "referral": "fct_referral_campaigns",
    "referral_generations": "fct_referral_generations",
    "retention": "fct_cohort_retention",
    "rfm": "fct_rfm_thresholds",
    "stages": "fct_stage_stock",
    "stage_flow": "fct_stage_flow",
    "groups": "fct_community_activity",
    "next_best": "fct_next_best_quality",
    "uplift": "fct_uplift",
}


def metric_rows(con: duckdb.DuckDBPyConnection, name: str, *, marts: str = "marts") -> list[dict[str, Any]]:
    """The rows of a metric, in the order of its table. Raises `ConfigError` with the nearest name."""
    if name in METRICS:
        return con.sql(f"select * from {marts}.{METRICS[name]}").to_arrow_table().to_pylist()
    if name.lower() in _AMBIGUOUS or name in REPURCHASE_NAMES:
        return repurchase(con, name, marts=marts)
    close = nearest(name, [*METRICS, *REPURCHASE_NAMES, *sorted(_AMBIGUOUS)])
    raise ConfigError(f"no metric is called `{name}`{close}", hint="`cdp metric list` tells them all")


def metric_texts(con: duckdb.DuckDBPyConnection, *, marts: str = "marts") -> list[tuple[str, str, str]]:
    """(metric, its table, what one row of it is), as the tables say themselves."""
    schema = marts.rpartition(".")[2]
    found = con.execute("select table_name, comment from duckdb_tables() where schema_name = ?", [schema]).fetchall()
    comments = dict(found)
    tables = dict(METRICS) | dict.fromkeys(REPURCHASE_NAMES, "fct_repurchase")
    return [(name, table, comments.get(table) or "") for name, table in tables.items()]


def repurchase(con: duckdb.DuckDBPyConnection, name: str, *, marts: str = "marts") -> list[dict[str, Any]]:
    """Rows of `fct_repurchase` for a definition, or for all four when *name* is a word used for all of them.

    Raises `ConfigError` for a name that is neither.
    """
    wanted = REPURCHASE_NAMES if name.lower() in _AMBIGUOUS else (name,)
    if not set(wanted) <= set(REPURCHASE_NAMES):
        raise ConfigError(f"no repurchase definition is called `{name}`{nearest(name, REPURCHASE_NAMES)}")
    query = f"""
        select definition, variant, period_start, repeated, base, rate from {marts}.fct_repurchase
        where list_contains($names, definition) order by definition, variant, period_start
    """
    return con.sql(query, params={"names": list(wanted)}).to_arrow_table().to_pylist()
