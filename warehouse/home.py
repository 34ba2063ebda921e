"""A brand's home: the one folder that holds its configuration, data, runs and logs."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

from cdp.config import parse
from cdp.errors import ConfigError, RetriableError

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class Home:
    """Paths inside a brand's home. Nothing is created by asking for a path."""

    root: Path

    @property
    def config(self) -> Path:
        return self.root / "config"

    @property
    def inbox(self) -> Path:
        """Where exported files arrive; the file sensor watches it."""
        return self.root / "inbox"

    @property
    def raw(self) -> Path:
        """`<source>/<stream>/<batch>.parquet`, append-only."""
        return self.root / "data" / "raw"

    @property
    def rejects(self) -> Path:
        return self.root / "data" / "rejects"

    @property
    def landing_ledger(self) -> Path:
        """SQLite: which batches are committed, with their counts and the state to resume from."""
        return self.root / "data" / "landing.sqlite"

    @property
    def warehouse(self) -> Path:
        """The internal DuckDB file: raw views, staging, identity, activation. One writer."""
        return self.root / "data" / "warehouse.duckdb"

    @property
    def marts(self) -> Path:
        """The DuckDB file that marts are built in; a copy of it is what gets published."""
        return self.root / "data" / "marts.duckdb"

    @property
    def published(self) -> Path:
        """`marts-<version>.duckdb` files and `current.json`."""
        return self.root / "data" / "published"

    @property
    def sync_ledger(self) -> Path:
        """SQLite: tag register, plans, operations, attempts, outcomes, audit."""
        return self.root / "data" / "sync.sqlite"

    @property
    def plans(self) -> Path:
        return self.root / "data" / "plans"

    @property
    def secrets(self) -> Path:
        """Keys made by the platform itself (mode 600); a brand's own secrets come from the environment."""
        return self.root / "secrets"

    @property
    def dagster(self) -> Path:
        return self.root / "dagster"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    def require(self) -> Home:
        """This home, once it is known to be one. Raises `ConfigError` otherwise."""
        if not (self.config / "cdp.yaml").is_file():
            raise ConfigError(
                f"{self.root} is not a home: `config/cdp.yaml` is not there",
                hint=f"`cdp init {self.root}` makes one, or give another with `--home DIR` or CDP_HOME",
            )
        return self


def home_from(directory: str | Path | None, environment: Mapping[str, str] = os.environ) -> Home:
    """The home named by *directory*, else by CDP_HOME, else the current folder."""
    return Home(Path(directory or environment.get("CDP_HOME") or ".").expanduser().resolve())


def load_config(home: Home, name: str, model: type[M]) -> M:
    """`config/<name>` of *home*, validated. Raises `ConfigError` with file, line and the nearest valid name."""
    path = home.config / name
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(f"{path} is not there", hint="`cdp init DIR` writes every configuration file") from error
    return parse(text, model, file=str(path))


_alone: set[Path] = set()  # homes that this process holds alone


def holds_alone(home: Home) -> bool:
    """Whether this process is inside `run_lock` on *home*."""
    return home.root.resolve() in _alone


@contextmanager
def run_lock(home: Home, *, wait: bool = False) -> Iterator[None]:
    """Hold the home alone: nothing else lands, computes or publishes meanwhile. The system gives it back when this
    process ends, however it ends; who holds it already may ask again. Raises `RetriableError` while another process
    holds it, unless told to *wait*."""
    if holds_alone(home):
        yield
        return
    with _locked(home, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB)):
        _alone.add(home.root.resolve())
        try:
            yield
        finally:
            _alone.discard(home.root.resolve())


@contextmanager
def shared_lock(home: Home) -> Iterator[None]:
    """Hold the home together with others who share it; waits for who holds it alone."""
    with nullcontext() if holds_alone(home) else _locked(home, fcntl.LOCK_SH):
        yield


@contextmanager
def _locked(home: Home, how: int) -> Iterator[None]:
    home.dagster.mkdir(parents=True, exist_ok=True)
    with (home.dagster / "run.lock").open("a") as lock:
        try:
            fcntl.flock(lock, how)
        except BlockingIOError as error:
            raise RetriableError(f"another run is at work on {home.root}", hint="wait until it has ended") from error
        yield
