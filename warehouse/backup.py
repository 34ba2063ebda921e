"""Backup and restore of a home: one checksummed archive of everything that cannot be computed again.

The archive is a plain tar, mode 600 (it holds personal data): the files under their paths in the home, and at its end
`manifest.json` with the SHA-256 of each. So an archive that was cut off has no manifest and is known as cut off.

| Part | Holds | How it is taken consistently |
|---|---|---|
| warehouse | `warehouse.duckdb`: identity registry, assertions, tag history | locked, checkpointed |
| landing | ledger, raw, rejects, collected events | ledger by SQLite's backup; then the files it knows, and more |
| inbox | exported files, read and unread | copied |
| sync | sync ledger, plans | ledger by SQLite's backup |
| audit | requests to be forgotten, log of queries | ledger by SQLite's backup; joined with what is there |
| config | `config/`, `dagster/dagster.yaml` | copied |
| secrets | keys made by the platform | only when asked for; their fingerprints are always in the manifest |

The warehouse is taken before the ledger, so a restored warehouse never knows of rows that raw does not have. Marts and
published versions are left out: a run builds them again.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import sqlite3
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import IO, Any, Literal, get_args

import duckdb
from pydantic import ValidationError, model_validator

from cdp.config import Strict
from cdp.errors import ConfigError, FatalError, RetriableError
from warehouse.connection import open_guard
from warehouse.home import Home
from warehouse.privacy_ledger import PrivacyLedger

Part = Literal["warehouse", "landing", "inbox", "sync", "audit", "config", "secrets"]
PARTS: tuple[Part, ...] = get_args(Part)  # in the order they are written

MANIFEST = "manifest.json"
WORK_PREFIX = ".cdp-backup-"  # a backup under construction; one that nobody works on is left over from a crash
STAGING_PREFIX = ".cdp-restore-"
REPLACED_PREFIX = "replaced-"  # what a restore put aside
SUFFIX = ".tar"
RECORD = Path("logs") / "last_backup.json"
_CONFIG_OUT_OF_USE = "cdp.yaml.restoring"
_SPARE_BYTES = 64 * 1024**2
_CHUNK = 4 * 1024**2

# What each part replaces in a home: folders, and files with the side files a database keeps beside them.
_TARGETS: dict[Part, tuple[str, ...]] = {
    "warehouse": ("data/warehouse.duckdb",),
    "landing": ("data/landing.sqlite", "data/raw", "data/rejects", "data/collected", "data/forgotten.json"),
    "inbox": ("inbox",),
    "sync": ("data/sync.sqlite", "data/plans"),
    "audit": ("data/privacy.sqlite", "logs/queries.jsonl"),
    "config": ("dagster/dagster.yaml", "config"),
    "secrets": ("secrets",),
}
# Computed from the part, so not in the archive, and put aside with it: built on other ids, it must not be added to.
_DERIVED: dict[Part, tuple[str, ...]] = {"warehouse": ("data/marts.duckdb",)}
# Who was forgotten and who read what is never set back: what an archive has of it is added to what stands there.
_JOINED = ("data/privacy.sqlite", "data/forgotten.json", "logs/queries.jsonl")
_SIDE_FILES = ("", ".wal", "-wal", "-shm", "-journal")

Progress = Callable[[int, int], None]  # bytes done, bytes in all


class BackupFile(Strict):
    """One file of an archive, by its path in the home."""

    path: str
    part: Part
    bytes: int
    sha256: str

    @model_validator(mode="after")
    def _inside_its_part(self) -> BackupFile:
        inside = any(self.path == target or self.path.startswith(f"{target}/") for target in _TARGETS[self.part])
        if not inside or ".." in PurePosixPath(self.path).parts:
            raise ValueError("a path outside the part it says it belongs to")
        return self


class Manifest(Strict):
    """What an archive holds. *secret_fingerprints*: file name -> SHA-256 of its content, also when left out."""

    format: Literal[1]
    created_at: datetime
    duckdb_version: str
    parts: list[Part]
    secret_fingerprints: dict[str, str]
    files: list[BackupFile]

    @property
    def total_bytes(self) -> int:
        return sum(file.bytes for file in self.files)


class BackupRecord(Strict):
    """`logs/last_backup.json`: the last backup that ended well, for `cdp doctor`."""

    path: str
    created_at: datetime
    parts: list[Part]


@dataclass(frozen=True)
class BackupReport:
    """*seconds*: wall time; *missing*: parts asked for of which the home has nothing yet."""

    path: Path
    manifest: Manifest
    missing: tuple[Part, ...]
    seconds: float


@dataclass(frozen=True)
class RestoreReport:
    """*replaced*: the folder that keeps what stood there before; *secrets_to_bring*: names of key files that the home
    lacks, or that differ from those of the home the backup was made of."""

    manifest: Manifest
    parts: tuple[Part, ...]
    replaced: Path | None
    secrets_to_bring: tuple[str, ...]
    seconds: float


def create_backup(
    home: Home,
    *,
    to: Path,
    now: datetime,
    parts: Sequence[Part] | None = None,
    with_secrets: bool = False,
    progress: Progress | None = None,
) -> BackupReport:
    """Write one archive of *parts* (default: all but secrets) into folder *to* and return where it is.

    The final name appears only when every byte is on disk: a crash leaves a hidden folder that the next backup to the
    same place removes. Raises `RetriableError` when a run has the warehouse open or another backup goes on there,
    `FatalError` when the disk is too small or a database cannot be read.
    """
    started = time.perf_counter()
    wanted = _ordered(parts or [part for part in PARTS if part != "secrets"], with_secrets)
    to.mkdir(parents=True, exist_ok=True)
    with _exclusive(to):
        _remove_left_over(to)
        _require_space(to, sum(size_of(path) for part in wanted for path in _existing(home, part)), "the backup")
        work = to / f"{WORK_PREFIX}{os.getpid()}"
        work.mkdir(mode=0o700)
        try:
            archive = work / f"archive{SUFFIX}"
            manifest = _write_archive(home, archive, wanted, now=now, work=work, progress=progress)
            final = _free_name(to, "cdp-", now, SUFFIX)
            os.replace(archive, final)
            _sync_folder(to)
        except OSError as error:
            raise FatalError(
                f"the backup to {to} was not finished: {error.strerror or error}",
                hint="earlier backups there are as they were; make room or give another folder with --to",
            ) from error
        finally:
            shutil.rmtree(work, ignore_errors=True)
    _record(home, final, manifest)
    PrivacyLedger(home).write_list()  # beside the archive: who was forgotten stays so when it is restored
    missing = tuple(part for part in wanted if part not in manifest.parts)
    return BackupReport(final, manifest, missing, time.perf_counter() - started)


def verify_backup(file: Path) -> Manifest:
    """Read the whole archive and compare every checksum. Raises `FatalError` naming what is damaged."""
    manifest = read_manifest(file)
    _read_members(file, manifest.files, lambda _: None, None)
    return manifest


def restore_backup(
    file: Path,
    home: Home,
    *,
    now: datetime,
    parts: Sequence[Part] | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> RestoreReport:
    """Bring *parts* (default: all the archive has) of *home* back from *file*.

    Everything is extracted beside the data and its checksums compared, and the databases opened, before anything of
    the home is touched. What stood there is moved to `replaced-<time>/`, never deleted; records of erasures and of
    queries are joined, and the next run forgets again whom the archive still knows. While files change places
    `config/cdp.yaml` is out of use, so that a home whose restore was cut off is refused by every other verb; running
    the restore again finishes it. Raises `ConfigError` when the home is not empty and *force* is not given,
    `RetriableError` when a run has the warehouse open, `FatalError` when the archive is damaged.
    """
    started = time.perf_counter()
    manifest = read_manifest(file)
    chosen = tuple(part for part in manifest.parts if parts is None or part in parts)
    if not chosen:
        raise ConfigError(
            f"{file.name} holds none of {', '.join(parts or ())}", hint=f"it holds {', '.join(manifest.parts)}"
        )
    files = [item for item in manifest.files if item.part in chosen]
    _refuse_overwriting(home, parts, force=force)
    _refuse_busy(home)
    home.root.mkdir(parents=True, exist_ok=True)
    for left_over in home.root.glob(f"{STAGING_PREFIX}*"):
        shutil.rmtree(left_over)
    staging = home.root / f"{STAGING_PREFIX}{os.getpid()}"
    staging.mkdir(mode=0o700)
    try:
        _require_space(home.root, sum(item.bytes for item in files), "the restored home")
        _extract(file, staging, files, progress)
        _check_databases(staging)
        os.sync()
        _join(home, staging, file)
        replaced = _swap(home, staging, chosen, _free_name(home.root, REPLACED_PREFIX, now))
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return RestoreReport(manifest, chosen, replaced, _secrets_to_bring(home, manifest), time.perf_counter() - started)


def default_folder(home: Home) -> Path:
    """Where backups go when nobody says otherwise: inside the home, so copy them to another machine."""
    return home.root / "backups"


def prune_backups(folder: Path, *, keep: int) -> int:
    """Delete all archives in *folder* but the newest *keep*; returns how many went. Other files stay."""
    archives = sorted(folder.glob(f"cdp-*{SUFFIX}"), key=lambda path: (path.stat().st_mtime_ns, path.name))
    for path in archives[: max(len(archives) - keep, 0)]:
        path.unlink()
    return max(len(archives) - keep, 0)


def last_backup(home: Home) -> BackupRecord | None:
    """The last backup of *home* that ended well, None when there was none."""
    try:
        return BackupRecord.model_validate_json((home.root / RECORD).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValidationError):
        return None


# ---------------------------------------------------------------------------------------------------- writing


class _Hashing:
    """A file read by `tarfile`, which hashes and counts what passes."""

    def __init__(self, stream: IO[bytes], on_read: Callable[[int], None]) -> None:
        self.stream, self.on_read, self.digest = stream, on_read, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self.stream.read(size)
        self.digest.update(data)
        self.on_read(len(data))
        return data


class _Writer:
    """Adds files to an archive and remembers path, part, size and checksum of each."""

    def __init__(self, archive: tarfile.TarFile, total: int, progress: Progress | None) -> None:
        self.archive, self.total, self.progress = archive, total, progress
        self.files: list[BackupFile] = []
        self.done = 0

    def add(self, part: Part, path: str, stream: IO[bytes]) -> None:
        size = os.fstat(stream.fileno()).st_size
        reader = _Hashing(stream, self._advance)
        self.archive.addfile(_entry(path, size), reader)
        self.files.append(BackupFile(path=path, part=part, bytes=size, sha256=reader.digest.hexdigest()))

    def _advance(self, count: int) -> None:
        self.done += count
        if self.progress:
            self.progress(self.done, max(self.total, self.done))


def _write_archive(
    home: Home, archive: Path, parts: Sequence[Part], *, now: datetime, work: Path, progress: Progress | None
) -> Manifest:
    total = sum(size_of(path) for part in parts for path in _existing(home, part))
    with os.fdopen(os.open(archive, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as target:
        with tarfile.TarFile(fileobj=target, mode="w", format=tarfile.PAX_FORMAT, copybufsize=_CHUNK) as tar:
            writer = _Writer(tar, total, progress)
            for part in parts:
                _add_part(home, part, writer, work)
            manifest = Manifest(
                format=1,
                created_at=now,
                duckdb_version=duckdb.__version__,
                parts=[part for part in parts if any(file.part == part for file in writer.files)],
                secret_fingerprints=_fingerprints(home),
                files=writer.files,
            )
            if not manifest.files:
                raise ConfigError(f"{home.root} has nothing to back up", hint="`cdp run` fills a home")
            text = manifest.model_dump_json(indent=1).encode()
            tar.addfile(_entry(MANIFEST, len(text)), BytesIO(text))
        target.flush()
        os.fsync(target.fileno())
    return manifest


def _add_part(home: Home, part: Part, writer: _Writer, work: Path) -> None:
    if part == "warehouse":
        _add_warehouse(home, writer)
        return
    for path in _existing(home, part):
        if path.suffix == ".sqlite":
            snapshot = work / path.name
            _snapshot_sqlite(path, snapshot)
            with snapshot.open("rb") as stream:
                writer.add(part, _relative(home, path), stream)
            snapshot.unlink()
        else:
            _add_tree(home, part, path, writer)


def _add_warehouse(home: Home, writer: _Writer) -> None:
    """The warehouse file, locked and checkpointed.

    Closing any descriptor of a file ends this process's POSIX locks on it, DuckDB's too. So the file is opened here
    before DuckDB opens it, and closed after.
    """
    if not home.warehouse.exists():
        return
    with (
        home.warehouse.open("rb") as stream,
        _backup_guard(home.warehouse),
        closing(duckdb.connect(str(home.warehouse))) as con,
    ):
        con.execute("checkpoint")
        writer.add("warehouse", _relative(home, home.warehouse), stream)


@contextmanager
def _backup_guard(path: Path) -> Iterator[None]:
    try:
        with open_guard(path):
            yield
    except FatalError as error:
        raise FatalError(
            error.message, hint="back up the rest first: `cdp backup --only landing,sync,config`; then docs/runbook.md"
        ) from error


def _add_tree(home: Home, part: Part, path: Path, writer: _Writer) -> None:
    """A file or every file below a folder, in order of name; unfinished files (hidden or `.tmp`) are left out.

    Others may be at work there: a file that is gone when its turn comes was renamed or replaced by another, so what is
    new by then is added in a second look. A file still growing is taken as long as it was when it was opened.
    """
    for _ in range(2):
        taken = {item.path for item in writer.files}
        for file in [path] if path.is_file() else sorted(path.rglob("*")):
            relative = _relative(home, file)
            unfinished = file.suffix == ".tmp" or "/." in f"/{relative}"
            if relative in taken or unfinished or file.is_symlink() or not file.is_file():
                continue
            with suppress(FileNotFoundError), file.open("rb") as stream:
                writer.add(part, relative, stream)


def _snapshot_sqlite(source: Path, target: Path) -> None:
    """A consistent copy of a database that others may be writing to (SQLite's online backup)."""
    try:
        with (
            closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True)) as con,
            closing(sqlite3.connect(target)) as to,
        ):
            con.backup(to)
            to.execute("pragma journal_mode = delete").fetchall()
    except sqlite3.Error as error:
        raise FatalError(
            f"{source} cannot be read as an SQLite file: {error}", hint="docs/runbook.md: a damaged ledger"
        ) from error


def _fingerprints(home: Home) -> dict[str, str]:
    if not home.secrets.is_dir():
        return {}
    files = sorted(path for path in home.secrets.rglob("*") if path.is_file())
    return {str(path.relative_to(home.secrets)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _record(home: Home, final: Path, manifest: Manifest) -> None:
    target = home.root / RECORD
    target.parent.mkdir(parents=True, exist_ok=True)
    record = BackupRecord(path=str(final), created_at=manifest.created_at, parts=manifest.parts)
    temporary = target.with_suffix(".tmp")
    temporary.write_text(record.model_dump_json(), encoding="utf-8")
    os.replace(temporary, target)


# ---------------------------------------------------------------------------------------------------- reading


def read_manifest(file: Path) -> Manifest:
    """What *file* holds, without reading its contents. Raises `FatalError` when it is not a whole backup."""
    with _opened(file) as tar:
        member = next((item for item in reversed(tar.getmembers()) if item.name == MANIFEST), None)
        stream = tar.extractfile(member) if member else None
        if stream is None:
            raise FatalError(f"{file.name} ends early: it has no manifest", hint="take an earlier backup")
        try:
            return Manifest.model_validate_json(stream.read())
        except ValidationError as error:
            raise FatalError(f"the manifest of {file.name} cannot be read", hint="take an earlier backup") from error


def _read_members(
    file: Path, expected: Sequence[BackupFile], keep: Callable[[str], IO[bytes] | None], progress: Progress | None
) -> None:
    """Read the *expected* members once, write each to what *keep* opens for it, and compare their checksums."""
    sums = {item.path: (item.bytes, item.sha256) for item in expected}
    found: dict[str, tuple[int, str]] = {}
    total, done = sum(item.bytes for item in expected), 0
    with _opened(file) as tar:
        for member in tar:
            stream = tar.extractfile(member) if member.isreg() and member.name in sums else None
            if stream is None:
                continue
            found[member.name] = _copy(stream, keep(member.name))
            done += member.size
            if progress:
                progress(done, total)
    damaged = sorted(path for path in sums if sums[path] != found.get(path))
    if damaged:
        shown = ", ".join(damaged[:5]) + (" …" if len(damaged) > 5 else "")
        raise FatalError(
            f"{file.name} is damaged: {len(damaged)} of {len(sums)} files differ from the manifest: {shown}",
            hint="nothing was changed; take an earlier backup",
        )


@contextmanager
def _opened(file: Path) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.TarFile(file, mode="r", copybufsize=_CHUNK) as tar:
            yield tar
    except FileNotFoundError as error:
        raise ConfigError(f"{file} is not there", hint="give the path of a file made by `cdp backup`") from error
    except tarfile.TarError as error:
        raise FatalError(f"{file.name} is damaged or not a backup: {error}", hint="take an earlier one") from error


def _copy(stream: IO[bytes], target: IO[bytes] | None) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    with ExitStack() as stack:
        if target is not None:
            stack.enter_context(target)
        while data := stream.read(_CHUNK):
            digest.update(data)
            size += len(data)
            if target is not None:
                target.write(data)
    return size, digest.hexdigest()


# ---------------------------------------------------------------------------------------------------- restoring


def _extract(file: Path, staging: Path, files: Sequence[BackupFile], progress: Progress | None) -> None:
    def keep(name: str) -> IO[bytes]:
        path = staging / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")

    try:
        _read_members(file, files, keep, progress)
    except OSError as error:
        raise FatalError(
            f"{file.name} was not restored: {error.strerror or error}", hint="nothing was changed; make room and repeat"
        ) from error


def _check_databases(staging: Path) -> None:
    for path in sorted(staging.rglob("*.sqlite")):
        fault = sqlite_fault(path)
        if fault:
            raise FatalError(
                f"`{path.name}` in the backup: {fault}", hint="nothing was changed; take an earlier backup"
            )
    for path in sorted(staging.rglob("*.duckdb")):
        with open_guard(path), closing(duckdb.connect(str(path), read_only=True)) as con:
            con.execute("select count(*) from duckdb_tables()").fetchall()


def sqlite_fault(path: Path) -> str | None:
    """What SQLite's integrity check finds wrong with *path*, None when it is sound."""
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as con:
            rows = con.execute("pragma integrity_check").fetchall()
    except sqlite3.Error as error:
        return str(error)
    return None if rows == [("ok",)] else "; ".join(str(row[0]) for row in rows[:3])


def _join(home: Home, staging: Path, archive: Path) -> None:
    """Records first, so that a restore that is cut off has brought nobody back unnoticed. Again, it changes nothing."""
    (home.root / "data").mkdir(parents=True, exist_ok=True)
    PrivacyLedger(home).join(staging, archive)
    brought, here = staging / "logs" / "queries.jsonl", home.logs / "queries.jsonl"
    if not brought.is_file():
        return
    lines = here.read_bytes().splitlines(keepends=True) if here.is_file() else []
    known = set(lines)
    older = [line for line in brought.read_bytes().splitlines(keepends=True) if line not in known]
    if older:
        here.parent.mkdir(parents=True, exist_ok=True)
        temporary = here.with_name(f".{here.name}.tmp")
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.writelines([*older, *lines])
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, here)


def _swap(home: Home, staging: Path, parts: Sequence[Part], aside: Path) -> Path | None:
    """Put the staged files in place. `config/cdp.yaml` goes out of use first and comes back last."""
    live = home.config / "cdp.yaml"
    parked = home.config / _CONFIG_OUT_OF_USE
    if live.exists():
        os.replace(live, parked)
    for target in _in_order(parts):
        for path in _with_side_files(home.root / target):
            if path.exists():
                kept = aside / path.relative_to(home.root)
                kept.parent.mkdir(parents=True, exist_ok=True)
                os.replace(path, kept)
        staged = staging / target
        if staged.exists():
            (home.root / target).parent.mkdir(parents=True, exist_ok=True)
            os.replace(staged, home.root / target)
    if "config" in parts:
        if (aside / "config" / _CONFIG_OUT_OF_USE).exists():
            os.replace(aside / "config" / _CONFIG_OUT_OF_USE, aside / "config" / "cdp.yaml")
    elif parked.exists():
        os.replace(parked, live)
    if home.secrets.is_dir():
        home.secrets.chmod(0o700)
    _sync_folder(home.root)
    return aside if aside.exists() else None


def _in_order(parts: Sequence[Part]) -> list[str]:
    """Targets of *parts*, the folder `config` last: a home without it is refused by every verb."""
    targets = [target for part in parts for target in (*_TARGETS[part], *_DERIVED.get(part, ()))]
    return sorted((target for target in targets if target not in _JOINED), key=lambda target: target == "config")


def _refuse_overwriting(home: Home, parts: Sequence[Part] | None, *, force: bool) -> None:
    if force or not home.root.exists():
        return
    if parts is None:
        ours = (default_folder(home).name, STAGING_PREFIX)
        present = [path.name for path in home.root.iterdir() if not path.name.startswith(ours)]
    else:
        targets = (target for part in parts for target in _TARGETS[part] if target not in _JOINED)
        present = [target for target in targets if (home.root / target).exists()]
    if present:
        raise ConfigError(
            f"{home.root} is not empty: {', '.join(sorted(present)[:8])}",
            hint="restore into an empty folder, or repeat with --force: what is there is put aside, not deleted",
        )


def _refuse_busy(home: Home) -> None:
    for path in (home.warehouse, home.marts):
        if path.exists():
            try:
                with open_guard(path), closing(duckdb.connect(str(path), read_only=True)):
                    pass
            except FatalError:
                continue  # damaged: the reason to restore


def _secrets_to_bring(home: Home, manifest: Manifest) -> tuple[str, ...]:
    present = _fingerprints(home)
    return tuple(name for name, digest in manifest.secret_fingerprints.items() if present.get(name) != digest)


# ---------------------------------------------------------------------------------------------------- small things


def _ordered(parts: Sequence[Part], with_secrets: bool) -> list[Part]:
    chosen = {*parts, "secrets"} if with_secrets else set(parts)
    return [part for part in PARTS if part in chosen]


def _existing(home: Home, part: Part) -> list[Path]:
    return [path for path in (home.root / target for target in _TARGETS[part]) if path.exists()]


def _with_side_files(path: Path) -> list[Path]:
    return [path.with_name(path.name + suffix) for suffix in _SIDE_FILES]


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder; 0 when it is not there."""
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return path.stat().st_size if path.exists() else 0


def _require_space(folder: Path, needed: int, what: str) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed + _SPARE_BYTES:
        raise FatalError(
            f"{what} needs {needed / 1e6:,.0f} MB in {folder}; {free / 1e6:,.0f} MB are free",
            hint="make room, or give another folder",
        )


def _free_name(folder: Path, prefix: str, now: datetime, suffix: str = "") -> Path:
    """A name with the time in it that nothing in *folder* has yet."""
    stem = f"{prefix}{now.astimezone(UTC):%Y%m%dT%H%M%SZ}"
    names = (folder / f"{stem}{more}{suffix}" for more in ("", *(f"-{number}" for number in range(2, 1000))))
    return next(name for name in names if not name.exists())


@contextmanager
def _exclusive(folder: Path) -> Iterator[None]:
    """One backup to *folder* at a time; the lock ends with the process that holds it."""
    with (folder / ".cdp-backup.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RetriableError(f"another backup to {folder} is going on", hint="wait for it to end") from error
        yield


def _remove_left_over(folder: Path) -> None:
    """Remove what crashed backups left; called under the lock, so nobody works on any of it."""
    for left_over in folder.glob(f"{WORK_PREFIX}*"):
        shutil.rmtree(left_over)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _relative(home: Home, path: Path) -> str:
    return path.relative_to(home.root).as_posix()


def _entry(name: str, size: int) -> Any:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = size, 0o600
    return entry
