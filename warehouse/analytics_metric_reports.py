"""Asking for a metric by name. Names that mean several things give all of them, each under its own name."""

from __future__ import annotations

from typing import Any

import duckdb

from cdp.config import nearest
from cdp.errors import ConfigError
from warehouse.analytics_business import REPURCHASE_NAMES

_AMBIGUOUS = {"repurchase_rate", "repurchase rate", "复购率", "回购率"}


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
