"""What is wrong with a home and the machine it runs on, and what to do about it.

Every check gives a `Finding`; none raises, and none changes anything. Checks that read the configuration are given its
models, because those belong to other rooms.
"""

from __future__ import annotations

import os
import shutil
import sys
import zoneinfo
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

import duckdb
import polars as pl
from pydantic import BaseModel

from cdp.brand import BrandConfig
from cdp.errors import CdpError, RetriableError
from warehouse.backup import (
    REPLACED_PREFIX,
    STAGING_PREFIX,
    WORK_PREFIX,
    default_folder,
    last_backup,
    size_of,
    sqlite_fault,
)
from warehouse.connection import open_guard
from warehouse.home import Home, load_config
from warehouse.landing_ledger import BatchRecord, LandingLedger
from warehouse.publish import current

Status = Literal["ok", "warn", "fail"]

MINIMUM_PYTHON = (3, 11)
BACKUP_DAYS = 7
CLOCK_TOLERANCE = timedelta(minutes=5)
_GB = 1000**3
_UNITS = {"MB": 1000**2, "GB": 1000**3, "MiB": 1024**2, "GiB": 1024**3}


@dataclass(frozen=True)
class Finding:
    """One thing looked at. *hint*: what to do next, empty when all is well."""

    name: str
    status: Status
    detail: str
    hint: str = ""


@dataclass(frozen=True)
class Machine:
    """What the checks know of the machine. *memory*: bytes this process may use (control group included)."""

    python: tuple[int, int]
    memory: int
    free_disk: int

    @staticmethod
    def here(folder: Path) -> Machine:
        return Machine(sys.version_info[:2], _memory(), shutil.disk_usage(_existing_parent(folder)).free)


def examine(
    home: Home,
    *,
    now: datetime,
    environment: Mapping[str, str] = os.environ,
    models: Mapping[str, type[BaseModel]] | None = None,
    secrets: Sequence[str] = (),
    machine: Machine | None = None,
    deep: bool = False,
) -> list[Finding]:
    """Look at everything and return what was found, in the order a person would mend it.

    *models*: configuration file -> what it must be. *secrets*: references (`env:NAME`, `file:PATH`) the configuration
    makes; only names are ever told. *deep* reads every table and Parquet file from end to end.
    """
    machine = machine or Machine.here(home.root)
    findings = [_python(machine), *_layout(home)]
    if any(finding.status == "fail" for finding in findings):
        return findings
    brand, faults = _configuration(home, models or {})
    findings += faults
    findings += _secrets(home, secrets, environment)
    findings += [_disk(home, machine), _memory_finding(machine, brand), _clock(home, brand, now)]
    findings += [_duckdb_file(path, deep=deep) for path in (home.warehouse, home.marts)]
    findings += [_sqlite_file(path) for path in (home.landing_ledger, home.sync_ledger)]
    findings += _raw(home, deep=deep)
    findings += [_published(home), _left_over(home, now), _backup(home, now)]
    return findings


# ------------------------------------------------------------------------------------------- machine and layout


def _python(machine: Machine) -> Finding:
    version = ".".join(map(str, machine.python))
    if machine.python < MINIMUM_PYTHON:
        return Finding("python", "fail", f"Python {version}", "install Python 3.11 or newer and run `make setup` again")
    return Finding("python", "ok", f"Python {version}, DuckDB {duckdb.__version__}")


def _layout(home: Home) -> list[Finding]:
    parked = home.config / "cdp.yaml.restoring"
    staged = list(home.root.glob(f"{STAGING_PREFIX}*")) if home.root.is_dir() else []
    if parked.exists() or (staged and not (home.config / "cdp.yaml").is_file()):
        return [Finding("home", "fail", f"{home.root}: a restore was cut off", "run `cdp restore FILE --force` again")]
    if not (home.config / "cdp.yaml").is_file():
        return [Finding("home", "fail", f"{home.root} is not a home", f"`cdp init {home.root}` makes one")]
    findings = [Finding("home", "ok", str(home.root))]
    unwritable = [path for path in (home.root, home.root / "data") if path.exists() and not os.access(path, os.W_OK)]
    if unwritable:
        findings.append(Finding("permissions", "fail", f"{unwritable[0]} cannot be written", "run as its owner"))
    if home.secrets.is_dir():
        open_to_others = [
            path.name
            for path in (home.secrets, *home.secrets.rglob("*"))
            if path.stat().st_mode & 0o077 and path.name != ".gitignore"
        ]
        if open_to_others:
            what = f"others may read {', '.join(sorted(open_to_others))}"
            findings.append(Finding("permissions", "warn", what, f"chmod -R go= {home.secrets}"))
    return findings


def _disk(home: Home, machine: Machine) -> Finding:
    """A build writes marts anew beside the old ones, and publishing copies them once more."""
    growing = sum(path.stat().st_size for path in (home.warehouse, home.marts) if path.exists())
    wanted = max(2 * _GB, 3 * growing)
    detail = f"{machine.free_disk / _GB:.1f} GB free; a run may need {wanted / _GB:.1f} GB"
    if machine.free_disk < wanted / 4:
        return Finding("disk", "fail", detail, "make room before the next run (docs/runbook.md: disk full)")
    if machine.free_disk < wanted:
        return Finding("disk", "warn", detail, "make room soon (docs/runbook.md: disk full)")
    return Finding("disk", "ok", detail)


def _memory_finding(machine: Machine, brand: BrandConfig | None) -> Finding:
    limit = _bytes(brand.resources.memory_limit) if brand else 0
    detail = f"{machine.memory / _GB:.1f} GB on this machine, DuckDB may use {limit / _GB:.1f} GB"
    if limit > machine.memory * 0.8:
        hint = "lower resources.memory_limit in config/cdp.yaml to about 60 %; DuckDB spills to disk beyond it"
        return Finding("memory", "warn", detail, hint)
    return Finding("memory", "ok", detail)


def _clock(home: Home, brand: BrandConfig | None, now: datetime) -> Finding:
    """The clock must not stand before what it has already written."""
    batches = LandingLedger(home.landing_ledger).batches() if _is_sound(home.landing_ledger) else []
    newest = max((datetime.fromisoformat(batch.loaded_at) for batch in batches), default=None)
    zone = brand.timezone if brand else "UTC"
    detail = f"{now.astimezone(zoneinfo.ZoneInfo(zone)):%Y-%m-%d %H:%M} in {zone}"
    if newest and newest > now + CLOCK_TOLERANCE:
        hint = "set the machine's clock (chrony, systemd-timesyncd)"
        return Finding("clock", "fail", f"{detail}; the newest batch was landed at {newest:%Y-%m-%d %H:%M} UTC", hint)
    return Finding("clock", "ok", detail)


# ------------------------------------------------------------------------------------------- configuration


def _configuration(home: Home, models: Mapping[str, type[BaseModel]]) -> tuple[BrandConfig | None, list[Finding]]:
    brand: BrandConfig | None = None
    findings = []
    wanted: dict[str, type[BaseModel]] = {"cdp.yaml": BrandConfig, **models}
    for name, model in wanted.items():
        try:
            loaded = load_config(home, name, model)
            brand = loaded if isinstance(loaded, BrandConfig) else brand
        except CdpError as error:
            findings.append(Finding(f"config/{name}", "fail", error.message, error.hint or ""))
    if not findings:
        findings.append(Finding("configuration", "ok", f"{len(wanted)} files valid"))
    return brand, findings


def _secrets(home: Home, references: Sequence[str], environment: Mapping[str, str]) -> list[Finding]:
    """Whether what the configuration refers to is there. Names only: never a value."""
    missing = []
    for reference in sorted(set(references)):
        kind, _, name = reference.partition(":")
        if kind == "env" and not environment.get(name):
            missing.append(f"environment variable {name}")
        if kind == "file" and not (home.root / Path(name).expanduser()).is_file():
            missing.append(f"file {name}")
    if missing:
        return [Finding("secrets", "fail", f"not set: {', '.join(missing)}", "set them where the runs are started")]
    return [Finding("secrets", "ok", f"{len(set(references))} references set")] if references else []


# ------------------------------------------------------------------------------------------- files


def _duckdb_file(path: Path, *, deep: bool) -> Finding:
    name = f"data/{path.name}"
    if not path.exists():
        return Finding(name, "ok", "not built yet")
    try:
        with open_guard(path), closing(duckdb.connect(str(path), read_only=True)) as con:
            tables = con.execute(
                "select database_name, schema_name, table_name from duckdb_tables() where not temporary order by all"
            ).fetchall()
            for names in tables if deep else []:
                table = ".".join(f'"{name}"' for name in names)
                con.execute(f"select bit_xor(hash(t)) from {table} as t").fetchall()
    except RetriableError as error:
        return Finding(name, "ok", error.message)
    except CdpError as error:
        return Finding(name, "fail", error.message, "docs/runbook.md: a damaged warehouse")
    except duckdb.Error as error:
        return Finding(name, "fail", str(error).splitlines()[0][:200], "docs/runbook.md: a damaged warehouse")
    read = "every row read" if deep else f"{path.stat().st_size / 1e6:,.0f} MB"
    return Finding(name, "ok", f"opens; {len(tables)} tables, {read}")


def _sqlite_file(path: Path) -> Finding:
    name = f"data/{path.name}"
    if not path.exists():
        return Finding(name, "ok", "not there yet")
    fault = sqlite_fault(path)
    if fault:
        return Finding(name, "fail", fault, "docs/runbook.md: a damaged ledger")
    return Finding(name, "ok", "integrity check passed")


def _is_sound(path: Path) -> bool:
    """Whether there is a sound SQLite file at *path*."""
    return path.exists() and sqlite_fault(path) is None


def _raw(home: Home, *, deep: bool) -> list[Finding]:
    """Every batch the ledger commits to has its file, and with *deep* just as many rows in it."""
    if not _is_sound(home.landing_ledger):
        return []
    ledger = LandingLedger(home.landing_ledger)
    batches, erased = [batch for batch in ledger.batches() if batch.landed + batch.deleted], ledger.erased()
    missing = [batch for batch in batches if not _file(home, batch).is_file()]
    if missing:
        shown = ", ".join(f"{batch.source}/{batch.stream}/{batch.batch_id}" for batch in missing[:3])
        hint = "bring part `landing` back from a backup: docs/runbook.md"
        return [Finding("data/raw", "fail", f"{len(missing)} of {len(batches)} batches have no file: {shown}", hint)]
    damaged = [
        batch
        for batch in batches
        if deep and _rows(_file(home, batch)) != batch.landed + batch.deleted - erased.get((batch.batch_id, "raw"), 0)
    ]
    if damaged:
        shown = ", ".join(f"{batch.source}/{batch.stream}/{batch.batch_id}" for batch in damaged[:3])
        hint = "bring part `landing` back from a backup: docs/runbook.md"
        return [Finding("data/raw", "fail", f"{len(damaged)} files differ from the ledger: {shown}", hint)]
    known = {_file(home, batch) for batch in batches}
    orphans = sum(path not in known for path in home.raw.rglob("*.parquet"))
    more = f"; {orphans} files of cut-off batches, which nothing reads" if orphans else ""
    return [Finding("data/raw", "ok", f"{len(batches)} batches, each with its file{more}")]


def _file(home: Home, batch: BatchRecord) -> Path:
    return home.raw / batch.source / batch.stream / f"{batch.batch_id}.parquet"


def _rows(path: Path) -> int:
    """Rows of a Parquet file, every column read; -1 when it cannot be."""
    try:
        return len(pl.read_parquet(path))
    except (pl.exceptions.PolarsError, OSError):
        return -1


def _published(home: Home) -> Finding:
    hint = "`cdp publish rollback` points to an earlier version; `cdp run` publishes a new one"
    if not (home.published / "current.json").exists():
        return Finding("published", "ok", "nothing published yet")
    try:
        item = current(home)
        with open_guard(item.path), closing(duckdb.connect(str(item.path), read_only=True)) as con:
            (inside,) = con.execute("select version from _meta.version").fetchall()[0]
    except CdpError as error:
        return Finding("published", "fail", error.message, hint)
    except duckdb.Error as error:
        return Finding("published", "fail", str(error).splitlines()[0][:200], hint)
    if inside != item.version:
        return Finding("published", "fail", f"{item.file} says it is version {inside}", hint)
    return Finding("published", "ok", f"version {item.version}, {item.path.stat().st_size / 1e6:,.0f} MB")


def _left_over(home: Home, now: datetime) -> Finding:
    """Files of work that was cut off, older than a day so that work going on is not meant."""
    old = (now - timedelta(days=1)).timestamp()
    found = [path for path in _temporary(home) if path.stat().st_mtime < old]
    aside = sorted(home.root.glob(f"{REPLACED_PREFIX}*"))
    if not found and not aside:
        return Finding("left-over files", "ok", "none")
    size = sum(size_of(path) for path in (*found, *aside)) / 1e6
    names = ", ".join(str(path.relative_to(home.root)) for path in (*found, *aside)[:4])
    hint = "delete them once nothing of them is needed; no run reads them"
    return Finding("left-over files", "warn", f"{len(found) + len(aside)}, {size:,.0f} MB: {names}", hint)


def _temporary(home: Home) -> Iterator[Path]:
    yield from home.root.glob(f"{STAGING_PREFIX}*")
    yield from default_folder(home).glob(f"{WORK_PREFIX}*")
    yield from (path for path in (home.root / "data").rglob("*.tmp") if path.is_file())
    yield from (home.root / "data" / "tmp").glob("*")


def _backup(home: Home, now: datetime) -> Finding:
    record = last_backup(home)
    if record is None:
        return Finding("backup", "warn", "none was ever made", "`cdp backup --to DIR` on another disk, every day")
    age = now - record.created_at
    detail = f"{record.path}, {age.days} days old"
    if not Path(record.path).is_file():
        return Finding("backup", "warn", f"{record.path} is not there", "look where it went, or make another")
    if age > timedelta(days=BACKUP_DAYS):
        return Finding("backup", "warn", detail, "`cdp backup --to DIR`")
    return Finding("backup", "ok", detail)


# ------------------------------------------------------------------------------------------- small things


def _memory() -> int:
    """Bytes of memory: the machine's, or less where a control group says so."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    group = Path("/sys/fs/cgroup/memory.max")
    text = group.read_text().strip() if group.is_file() else "max"
    return min(machine, int(text)) if text.isdigit() else machine


def _bytes(text: str) -> int:
    unit = next(unit for unit in _UNITS if text.endswith(unit))
    return int(float(text.removesuffix(unit)) * _UNITS[unit])


def _existing_parent(path: Path) -> Path:
    return path if path.exists() else _existing_parent(path.parent)
