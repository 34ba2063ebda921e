"""What every verb needs: the home it works on, the brand's configuration, and where to print."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

import typer
from pydantic import BaseModel
from rich.console import Console

from cdp.brand import BrandConfig
from warehouse.home import Home, home_from, load_config

if TYPE_CHECKING:
    import duckdb

M = TypeVar("M", bound=BaseModel)

# In a pipe or a log there is no terminal to fit: wide enough that a line stays a line.
WIDE = 140
console = Console(width=None if sys.stdout.isatty() else WIDE)
errors = Console(stderr=True, width=None if sys.stderr.isatty() else WIDE)

_chosen: dict[str, str | None] = {"home": None}


def choose_home(directory: str | None) -> None:
    """Remember the `--home` of this invocation."""
    _chosen["home"] = directory


def home() -> Home:
    """The home this invocation works on. Raises `ConfigError` when the folder is not one."""
    return home_path().require()


def home_path() -> Home:
    """The same without asking whether it exists yet."""
    return home_from(_chosen["home"])


def brand() -> BrandConfig:
    """`config/cdp.yaml` of the home."""
    return config("cdp.yaml", BrandConfig)


def config(name: str, model: type[M]) -> M:
    """One configuration file of the home, validated. Raises `ConfigError` with file and line."""
    return load_config(home(), name, model)


@contextmanager
def published() -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection to the published version of the home, as readers have it, closed at the end."""
    from warehouse.reader import connect  # verbs that read nothing need not wait for DuckDB

    con = connect(home())
    try:
        yield con
    finally:
        con.close()


def instant(text: str | None) -> datetime:
    """An `--as-of` value as a UTC instant: a date means the end of that day in the brand's zone; None means now."""
    if text is None:
        return datetime.now(UTC)
    try:
        return brand().instant(text)
    except ValueError as error:
        raise typer.BadParameter(f"expected a date (2026-11-20) or an ISO instant, found `{text}`") from error
