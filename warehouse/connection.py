"""Opening the two DuckDB files of a home: the internal warehouse, and the marts file beside it.

One process at a time may write a DuckDB file, and while it does no other can open it, even to read. So the pipeline is
the only user of `open_warehouse`; analysts read published copies (`warehouse/reader.py`).
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import duckdb

from cdp.errors import ConfigError, FatalError, RetriableError
from warehouse.home import Home
from warehouse.secrets import identity_secret

# DuckDB 2.0 writes by default a format that 1.4 and 1.5 refuse; copies of our files are opened by other tools.
STORAGE_VERSION = "v1.4.0"
INTERNAL_SCHEMAS = ("raw", "staging", "identity", "intermediate", "activation", "meta")
MARTS_CATALOG = "marts_db"
MARTS_SCHEMA = "marts"
# Tables of `marts` as they are before masking; in the internal file, published only in the edition for personal data.
PII_SCHEMA = "marts_pii"
_GIB = 1024**3


@contextmanager
def open_warehouse(
    home: Home,
    *,
    as_of: datetime,
    timezone: str,
    read_only: bool = False,
    memory_limit: str | None = None,
    threads: int | None = None,
) -> Iterator[duckdb.DuckDBPyConnection]:
    """One connection on the internal warehouse with the marts file attached as `marts_db`; closed on leaving.

    Makes both files and their schemas when they are not there. Sets the variables `as_of` (UTC instant) and `timezone`
    (the brand's) that models read, and works in UTC whatever the machine's zone. *memory_limit* as DuckDB writes it
    (`8GiB`); by default 60 % of the machine's memory, at most 8 GiB, spilling to `data/tmp`. Raises `RetriableError`
    when another process holds a file, `ConfigError` when *read_only* and there is no warehouse yet, `FatalError`
    when a file is not readable as a database.
    """
    if as_of.tzinfo is None:
        raise ConfigError("`as_of` has no time zone", hint="pass an aware datetime, e.g. datetime.now(timezone.utc)")
    for path in (home.warehouse, home.marts):
        _ensure_file(path, read_only=read_only)
    with open_guard(home.warehouse):
        con = duckdb.connect(str(home.warehouse), read_only=read_only, config=_config(home, memory_limit, threads))
    try:
        con.execute("set global TimeZone = 'UTC'")
        with open_guard(home.marts):
            mode = "read_only" if read_only else f"storage_version '{STORAGE_VERSION}'"
            con.execute(f"attach if not exists {_text(str(home.marts))} as {MARTS_CATALOG} ({mode})")
        if not read_only:
            for schema in INTERNAL_SCHEMAS:
                con.execute(f"create schema if not exists {schema}")
            con.execute(f"create schema if not exists {MARTS_CATALOG}.{MARTS_SCHEMA}")
        set_parameters(con, as_of=as_of, timezone=timezone)
        if not read_only:
            con.execute("set variable salt = ?", [_salt(home)])
        yield con
    finally:
        con.close()


def _salt(home: Home) -> str:
    """What models put before personal values when they make digests of them, so that no list of phones matches."""
    return hashlib.sha256(b"salt of models" + identity_secret(home)).hexdigest()


def set_parameters(con: duckdb.DuckDBPyConnection, *, as_of: datetime, timezone: str) -> None:
    """Set the variables that models read. They belong to one connection: a `con.cursor()` needs them set again."""
    con.execute("set variable as_of = ?::timestamptz", [as_of])
    try:
        con.execute("select timezone(?, ?::timestamptz)", [timezone, as_of]).fetchall()
    except duckdb.Error as error:
        raise ConfigError(f"`{timezone}` is not a time zone", hint="use an IANA name, e.g. Asia/Shanghai") from error
    con.execute("set variable timezone = ?", [timezone])


@contextmanager
def open_guard(path: Path) -> Iterator[None]:
    """Turn what DuckDB says on opening *path* into errors that tell who holds it and what to do."""
    try:
        yield
    except duckdb.IOException as error:
        text = str(error)
        if "lock" in text.lower():
            holder = re.search(r"held in (.+?) \(PID (\d+)\)", text)
            who = f"process {holder[2]} ({Path(holder[1]).name})" if holder else "another process"
            raise RetriableError(
                f"{path.name} is in use by {who}",
                hint="one process at a time may open it: wait for the run to end; to read, use `cdp sql`",
            ) from error
        raise _unreadable(path, text) from error
    except (duckdb.InvalidInputException, duckdb.SerializationException, duckdb.InternalException) as error:
        raise _unreadable(path, str(error)) from error
    except duckdb.Error as error:
        # a block whose checksum is wrong is told by the base class alone
        if "corrupt" not in str(error).lower():
            raise
        raise _unreadable(path, str(error)) from error


def _unreadable(path: Path, text: str) -> FatalError:
    return FatalError(
        f"{path} cannot be opened as a DuckDB file: {text.splitlines()[0][:200]}",
        hint="move it aside and run again: raw data rebuilds it; or bring it back from a backup",
    )


def _ensure_file(path: Path, *, read_only: bool) -> None:
    """Create an empty database at *path* in the shared storage version, once."""
    if path.exists():
        return
    if read_only:
        raise ConfigError(f"{path} is not there", hint="`cdp run` builds it")
    path.parent.mkdir(parents=True, exist_ok=True)
    with duckdb.connect(":memory:") as con:
        con.execute(f"attach {_text(str(path))} as new_file (storage_version '{STORAGE_VERSION}')")


def _config(
    home: Home, memory_limit: str | None, threads: int | None
) -> dict[str, str | bool | int | float | list[str]]:
    spill = home.root / "data" / "tmp"
    spill.mkdir(parents=True, exist_ok=True)
    config: dict[str, str | bool | int | float | list[str]] = {
        "preserve_insertion_order": False,
        "temp_directory": str(spill),
        "memory_limit": memory_limit or _default_memory(),
        # A closed network must not stall a query on a download.
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
    }
    if threads:
        config["threads"] = threads
    return config


def _default_memory() -> str:
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return f"{min(8 * _GIB, int(machine * 0.6)) // 1024**2}MiB"


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
