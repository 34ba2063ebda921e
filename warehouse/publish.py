"""Publishing marts: a copy under a versioned name, and a pointer that readers follow.

The marts file holds nothing but what may be read, so copying that one file publishes it. Readers open
`marts-<version>.duckdb` found through `current.json`, never a fixed path: DuckDB keeps one instance per path and
process, and a reader that opened a replaced path again would see old rows. A version is complete once its manifest
`marts-<version>.json` is there; everything before that is swept away by the next publish.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import duckdb

from cdp.config import nearest
from cdp.errors import CheckFailedError, ConfigError, FatalError
from warehouse.connection import MARTS_CATALOG, MARTS_SCHEMA, PII_SCHEMA
from warehouse.home import Home

META_SCHEMA = "_meta"
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}\Z")


class Check(Protocol):
    """What publication needs to know of a check; `warehouse.expectations.CheckResult` is one."""

    @property
    def name(self) -> str: ...

    @property
    def table(self) -> str: ...

    @property
    def passed(self) -> bool: ...

    @property
    def severity(self) -> str: ...

    @property
    def observed(self) -> str: ...

    @property
    def description(self) -> str: ...

    @property
    def failing_rows_sample(self) -> Sequence[str]: ...


@dataclass(frozen=True)
class Published:
    """One published version. *tables*: rows of each table. *warnings*: checks of severity `warn` that failed.

    *file* and *pii_file* are names inside `data/published`; the second is None where no personal edition was written.
    """

    version: str
    file: str
    published_at: datetime
    as_of: datetime
    timezone: str
    tables: Mapping[str, int] = field(default_factory=dict)
    warnings: Sequence[str] = ()
    checks: int = 0
    size: int = 0
    pii_file: str | None = None
    folder: Path = Path()

    @property
    def path(self) -> Path:
        return self.folder / self.file

    @property
    def pii_path(self) -> Path | None:
        return self.folder / self.pii_file if self.pii_file else None


def publish(
    home: Home,
    con: duckdb.DuckDBPyConnection,
    *,
    version: str,
    checks: Sequence[Check],
    lineage: Mapping[str, Mapping[str, Sequence[str]]] | None = None,
    keep: int = 3,
    now: datetime | None = None,
    pii: bool = False,
) -> Published:
    """Copy the marts file attached to *con* to a new version and point readers at it.

    *lineage*: table -> column -> columns it is made from. *pii*: also write the edition with personal data (tables of
    the schema `marts_pii` in place of their masked forms). Publishing a version again replaces it. Raises
    `CheckFailedError` when a check of severity `error` failed: then nothing changes and readers keep the last version.
    """
    if not _VERSION.match(version):
        raise ConfigError(f"`{version}` is no version name", hint="letters, digits, `.`, `_` and `-`, at most 80")
    _refuse_failed(checks)
    folder = home.published
    folder.mkdir(parents=True, exist_ok=True)
    _sweep(folder)
    con.execute(f"checkpoint {MARTS_CATALOG}")
    manifest = Published(
        version=version,
        file=f"marts-{version}.duckdb",
        published_at=now or datetime.now(UTC),
        as_of=con.execute("select getvariable('as_of')").fetchall()[0][0],
        timezone=con.execute("select getvariable('timezone')").fetchall()[0][0],
        warnings=[f"{check.table}: {check.description}" for check in checks if not check.passed],
        checks=len(checks),
        pii_file=f"marts_pii-{version}.duckdb" if pii else None,
        folder=folder,
    )
    tables = _write(home.marts, manifest.path, manifest, checks, lineage or {})
    if manifest.pii_path:
        extra = _personal_tables(con)
        _write(home.marts, manifest.pii_path, manifest, checks, lineage or {}, source=con, personal=extra)
    done = Published(**{**_fields(manifest), "tables": tables, "size": manifest.path.stat().st_size})
    _write_json(folder / f"marts-{version}.json", _to_json(done))
    _point(folder, done)
    _prune(folder, keep, current=version)
    return done


def current(home: Home) -> Published:
    """The version readers get now. Raises `ConfigError` when nothing has been published yet."""
    pointer = home.published / "current.json"
    if not pointer.exists():
        raise ConfigError("nothing has been published yet", hint="`cdp run` builds, checks and publishes")
    return _manifest(pointer)


def versions(home: Home) -> list[Published]:
    """Every complete version, the newest first."""
    found = _manifests(home.published)
    complete = [item for item in found if item.path.exists()]
    return sorted(complete, key=lambda item: (item.published_at, item.version), reverse=True)


def rollback(home: Home, version: str | None = None) -> Published:
    """Point readers at *version*, by default the one published before the current. Takes no copy, so no time."""
    known = {item.version: item for item in versions(home)}
    if version is None:
        here = current(home)
        earlier = [item for item in known.values() if item.published_at < here.published_at]
        if not earlier:
            raise ConfigError(f"there is no version before `{here.version}`", hint="`cdp publish list` shows all")
        target = earlier[0]
    elif version in known:
        target = known[version]
    else:
        raise ConfigError(f"no published version is called `{version}`{nearest(version, list(known))}")
    _point(home.published, target)
    return target


def _refuse_failed(checks: Iterable[Check]) -> None:
    failed = [check for check in checks if not check.passed and check.severity == "error"]
    if failed:
        lines = "\n".join(f"  {check.table}: {check.description} ({check.observed})" for check in failed)
        raise CheckFailedError(
            f"{len(failed)} blocking check(s) failed, so this version is not published:\n{lines}",
            hint="readers keep the last version; mend the data or the check, then `cdp run`",
        )


def _write(
    marts: Path,
    target: Path,
    manifest: Published,
    checks: Sequence[Check],
    lineage: Mapping[str, Mapping[str, Sequence[str]]],
    *,
    source: duckdb.DuckDBPyConnection | None = None,
    personal: Sequence[str] = (),
) -> dict[str, int]:
    """Make the complete file *target* or none at all. Returns rows by table."""
    temporary = target.with_name(target.name + ".tmp")
    _copy(marts, temporary)
    if source is not None:
        temporary.chmod(0o600)
        _put_personal(source, temporary, personal)
    with duckdb.connect(str(temporary)) as copy:
        copy.execute("set TimeZone = 'UTC'")
        _write_meta(copy, manifest, checks, lineage, edition="marts" if source is None else "marts_pii")
        copy.execute("checkpoint")
    tables = _smoke(temporary)
    _sync(temporary)
    os.replace(temporary, target)
    _sync(target.parent)
    return tables


def _copy(source: Path, target: Path) -> None:
    """Copy in a process of its own: closing a file gives up every POSIX lock this process has on it, DuckDB's too, and
    then another process could open the marts for writing while we still do."""
    code = "import shutil, sys; shutil.copyfile(*sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, str(source), str(target)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise FatalError(f"{source.name} could not be copied to {target}: {reason}", hint="is there room on the disk?")


def _personal_tables(con: duckdb.DuckDBPyConnection) -> list[str]:
    rows = con.execute(
        "select table_name from duckdb_tables() where database_name = current_database() and schema_name = ? "
        "order by table_name",
        [PII_SCHEMA],
    ).fetchall()
    return [row[0] for row in rows]


def _put_personal(con: duckdb.DuckDBPyConnection, path: Path, tables: Sequence[str]) -> None:
    """Replace masked tables in *path* by their unmasked forms, through the connection that has those."""
    con.execute(f"attach '{path}' as pii_copy")
    try:
        for table in tables:
            con.execute(
                f'create or replace table pii_copy.{MARTS_SCHEMA}."{table}" as select * from {PII_SCHEMA}."{table}"'
            )
    finally:
        con.execute("detach pii_copy")


def _drop_workings(copy: duckdb.DuckDBPyConnection) -> None:
    """Leave nothing but marts: what runs note beside them (how far a table has come, who was touched) is not theirs."""
    rows = copy.execute(
        "select schema_name from duckdb_schemas() where database_name = current_database() and not internal"
    ).fetchall()
    for (schema,) in rows:
        if schema != MARTS_SCHEMA:
            copy.execute(f'drop schema "{schema}" cascade')


def _write_meta(
    copy: duckdb.DuckDBPyConnection,
    manifest: Published,
    checks: Sequence[Check],
    lineage: Mapping[str, Mapping[str, Sequence[str]]],
    *,
    edition: str,
) -> None:
    copy.execute("begin")
    _drop_workings(copy)
    copy.execute(f"create schema {META_SCHEMA}")
    copy.execute(
        f"create table {META_SCHEMA}.version as select ? as version, ?::timestamptz as published_at, "
        "?::timestamptz as as_of, ? as timezone, ? as edition",
        [
            manifest.version,
            manifest.published_at,
            manifest.as_of,
            manifest.timezone,
            edition,
        ],
    )
    _insert(
        copy,
        "checks",
        "name varchar, table_name varchar, severity varchar, passed boolean, observed varchar, description varchar, "
        "failing_rows varchar[]",
        [
            (
                *(item.name, item.table, item.severity, item.passed, item.observed, item.description),
                list(item.failing_rows_sample),
            )
            for item in checks
        ],
    )
    _insert(
        copy,
        "lineage",
        "table_name varchar, column_name varchar, made_from varchar[]",
        [(table, column, list(made)) for table, columns in lineage.items() for column, made in columns.items()],
    )
    copy.execute("commit")


def _insert(copy: duckdb.DuckDBPyConnection, name: str, columns: str, rows: Sequence[tuple[Any, ...]]) -> None:
    copy.execute(f"create table {META_SCHEMA}.{name} ({columns})")
    if rows:
        marks = ", ".join("?" for _ in rows[0])
        copy.executemany(f"insert into {META_SCHEMA}.{name} values ({marks})", rows)


def _smoke(path: Path) -> dict[str, int]:
    """Open *path* as a reader would and touch every table and view. Raises `FatalError` when one cannot be read."""
    with duckdb.connect(str(path), read_only=True) as con:
        relations = con.execute(
            "select table_name, table_type from information_schema.tables where table_schema = ? order by 1",
            [MARTS_SCHEMA],
        ).fetchall()
        counts: dict[str, int] = {}
        for name, kind in relations:
            try:
                con.execute(f'select * from {MARTS_SCHEMA}."{name}" limit 1').fetchall()
                if kind == "BASE TABLE":
                    counts[name] = con.execute(f'select count(*) from {MARTS_SCHEMA}."{name}"').fetchall()[0][0]
            except duckdb.Error as error:
                raise FatalError(
                    f"`{MARTS_SCHEMA}.{name}` cannot be read from a copy: {str(error).splitlines()[0]}",
                    hint="a published view may read only tables of `marts`",
                ) from error
    return counts


def _point(folder: Path, target: Published) -> None:
    """Rewrite the pointer, and the symlinks for tools that need a fixed path, atomically."""
    _write_json(folder / "current.json", _to_json(target))
    for link, name in (("current.duckdb", target.file), ("current_pii.duckdb", target.pii_file)):
        if name is None:
            (folder / link).unlink(missing_ok=True)
            continue
        fresh = folder / f"{link}.tmp"
        fresh.unlink(missing_ok=True)
        with suppress(OSError):  # no symlinks on this file system: the pointer alone counts
            fresh.symlink_to(name)
            os.replace(fresh, folder / link)


def _prune(folder: Path, keep: int, *, current: str) -> None:
    newest = sorted(_manifests(folder), key=lambda item: (item.published_at, item.version), reverse=True)
    for old in [item for item in newest[keep:] if item.version != current]:
        # manifest first: a version without one is incomplete, so a crash here leaves no half version behind
        (folder / f"marts-{old.version}.json").unlink(missing_ok=True)
        for path in (old.path, old.pii_path):
            if path:
                path.unlink(missing_ok=True)


def _sweep(folder: Path) -> None:
    """Remove what an interrupted publish left."""
    for path in [*folder.glob("*.tmp"), *folder.glob("*.tmp.wal")]:
        path.unlink(missing_ok=True)
    for path in folder.glob("marts*-*.duckdb"):
        version = path.stem.split("-", 1)[1]
        if not (folder / f"marts-{version}.json").exists():
            path.unlink(missing_ok=True)


def _manifests(folder: Path) -> list[Published]:
    found = []
    for path in folder.glob("marts-*.json"):
        with suppress(FileNotFoundError):  # pruned meanwhile
            found.append(_manifest(path))
    return found


def _manifest(path: Path) -> Published:
    """One version as its manifest, or the pointer (which is a copy of it), tells it."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        for key in ("published_at", "as_of"):
            data[key] = datetime.fromisoformat(data[key])
        return Published(**data, folder=path.parent)
    except (ValueError, KeyError, TypeError) as error:
        raise FatalError(
            f"{path} cannot be read: {error}", hint="`cdp publish rollback VERSION` writes the pointer anew"
        ) from error


def _fields(item: Published) -> dict[str, Any]:
    return {name: getattr(item, name) for name in Published.__dataclass_fields__}


def _to_json(item: Published) -> dict[str, Any]:
    data = asdict(item)
    del data["folder"]
    data["published_at"] = item.published_at.isoformat()
    data["as_of"] = item.as_of.isoformat()
    return data


def _write_json(path: Path, data: Mapping[str, Any]) -> None:
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(data, file, ensure_ascii=False, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
