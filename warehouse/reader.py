"""Reading the published version: a locked, read-only connection for notebooks, tools and `cdp sql`.

from warehouse.reader import connect
con = connect("path/to/home")
con.sql("select * from marts.dim_people limit 5").show()
"""

from __future__ import annotations

import os
from pathlib import Path

import duckdb

from cdp.errors import ConfigError
from warehouse.connection import MARTS_SCHEMA
from warehouse.home import Home, home_from
from warehouse.publish import Published, current, versions

CATALOG = "published"
_TRIES = 5  # a version may be pruned between reading the pointer and opening the file: look again


def connect(
    home: Home | str | os.PathLike[str] | None = None,
    *,
    version: str | None = None,
    pii: bool = False,
    timeout_s: float | None = None,
    memory_limit: str = "2GiB",
    threads: int | None = None,
    measured: bool = False,
) -> duckdb.DuckDBPyConnection:
    """A connection on the published version (or *version*), read-only, that reaches no file, network or setting.

    *home*: a `Home`, its folder, or None for `CDP_HOME` or the current folder. Tables are found with or without
    `marts.`; instants show in the brand's time zone. *pii*: the edition with personal data, where one is published.
    *timeout_s* cuts every query of this connection; *measured*: DuckDB keeps a profile of the last one. The connection
    keeps its version for as long as it lives: connect again to get a newer one. Raises `ConfigError` when nothing is
    published.
    """
    place = home if isinstance(home, Home) else home_from(None if home is None else Path(home))
    for attempt in range(_TRIES):
        found = published(place, version)
        try:
            return open_version(
                found,
                pii=pii,
                timeout_s=timeout_s,
                memory_limit=memory_limit,
                threads=threads,
                measured=measured,
            )
        except duckdb.IOException:
            if attempt == _TRIES - 1 or file_of(found, pii=pii).exists():
                raise
    raise AssertionError("unreachable")  # pragma: no cover


def published(home: Home, version: str | None = None) -> Published:
    """The version named, or the one readers get now."""
    if version is None:
        return current(home)
    for item in versions(home):
        if item.version == version:
            return item
    raise ConfigError(f"no published version is called `{version}`", hint="`cdp publish list` shows all")


def file_of(item: Published, *, pii: bool) -> Path:
    """The file of one edition. Raises `ConfigError` when the personal edition was not published."""
    if not pii:
        return item.path
    if item.pii_path is None or not item.pii_path.exists():
        raise ConfigError(
            f"version `{item.version}` was published without its edition for personal data",
            hint="an admin allows it by `personal_edition: true` in config/cdp.yaml; then `cdp run`",
        )
    return item.pii_path


def open_version(
    item: Published,
    *,
    pii: bool = False,
    timeout_s: float | None = None,
    memory_limit: str = "2GiB",
    threads: int | None = None,
    measured: bool = False,
) -> duckdb.DuckDBPyConnection:
    """Open one published file behind the guard rails.

    The file is attached to a database of this connection's own: connections that open one path directly share one
    instance in a process, and with it the lock on settings.
    """
    config: dict[str, str | bool | int | float | list[str]] = {
        "autoload_known_extensions": False,
        "autoinstall_known_extensions": False,
        "memory_limit": memory_limit,
    }
    if threads:
        config["threads"] = threads
    path = str(file_of(item, pii=pii)).replace("'", "''")
    con = duckdb.connect(":memory:", config=config)
    try:
        con.execute(f"attach '{path}' as {CATALOG} (read_only)")
        con.execute(f"use {CATALOG}.{MARTS_SCHEMA}")
        con.execute("detach memory")
        # Our own numbers, and a time zone that `open_warehouse` has tried.
        con.execute(f"set TimeZone = '{item.timezone}'")
        if timeout_s:
            con.execute(f"set max_execution_time = {int(timeout_s * 1000)}")
        if measured:
            con.execute("set enable_profiling = 'no_output'")
        con.execute("set enable_external_access = false")
        con.execute("set lock_configuration = true")
    except BaseException:
        con.close()
        raise
    return con


def sqlalchemy_url(home: Home | str | os.PathLike[str] | None = None, *, version: str | None = None) -> str:
    """`duckdb:///…` of the published version, for tools that speak SQLAlchemy. Ask again after each publish."""
    place = home if isinstance(home, Home) else home_from(None if home is None else Path(home))
    return f"duckdb:///{published(place, version).path}?access_mode=read_only"
