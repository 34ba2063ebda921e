"""What every run does for the people in the data: finishing what it takes to forget them, and removing what is too old.

Imports no Dagster, so that the command line may use it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cdp.brand import BrandConfig
from cdp.identity.rules import IdentityRules
from connectors.registry import all_streams
from connectors.settings import SourcesConfig
from warehouse.erasure import ErasureReport, Progress, Scene, finish
from warehouse.home import Home, holds_alone, load_config, run_lock, shared_lock
from warehouse.privacy_ledger import PrivacyLedger
from warehouse.retention import RetentionReport, enforce_retention

# Folders of a home that are ours to change though sources read them.
_OURS = {"inbox", "data"}


def scene(home: Home, *, progress: Progress | None = None) -> Scene:
    """Where people are forgotten: the home, its rules, its streams, and the source files that are not ours."""
    return Scene(
        home=home,
        rules=load_config(home, "identity.yaml", IdentityRules),
        streams=all_streams(),
        timezone=load_config(home, "cdp.yaml", BrandConfig).timezone,
        outside=source_files(home, load_config(home, "sources.yaml", SourcesConfig)),
        progress=progress,
    )


def source_files(home: Home, sources: SourcesConfig) -> tuple[Path, ...]:
    """What sources read and is not ours to change: files beside the home, and folders of the home that hold some."""
    found: dict[Path, None] = {}
    for settings in sources.sources.values():
        for pattern in _paths(settings.model_dump(mode="json")):
            path = home.root / Path(pattern).expanduser()
            if not path.is_relative_to(home.root):
                found[path] = None
            elif (top := path.relative_to(home.root).parts[0]) not in _OURS:
                found[home.root / top] = None
    return tuple(found)


def _paths(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for name, item in value.items():
            if name == "path" and isinstance(item, str | list):
                yield from [item] if isinstance(item, str) else item
            else:
                yield from _paths(item)
    elif isinstance(value, list):
        for item in value:
            yield from _paths(item)


@contextmanager
def at_work(home: Home, *, alone: bool = False) -> Iterator[None]:
    """Hold *home* for a run, once everybody who asked to be forgotten is: every run, whoever starts it, begins here.

    *alone*: with nobody else at work, else `RetriableError`. Otherwise with other runs of the scheduler, after who
    holds it alone. Raises `UnprovenError` as `finish_erasures` does.
    """
    if holds_alone(home):
        yield
    elif alone:
        with run_lock(home):
            finish_erasures(home, now=datetime.now(UTC))
            yield
    else:
        if PrivacyLedger(home).unfinished():
            with run_lock(home, wait=True):
                finish_erasures(home, now=datetime.now(UTC))
        with shared_lock(home):
            yield


def finish_erasures(home: Home, *, now: datetime) -> list[ErasureReport]:
    """Finish erasures that were stopped, and forget again what a restore brought back; [] when there is nothing to do.

    Raises `UnprovenError` when a run would publish or send something of a forgotten person; what is left elsewhere (a
    configuration, a file in use) stays open, for a check to tell.
    """
    return finish(scene(home), now=now, lenient=True) if PrivacyLedger(home).unfinished() else []


def remove_the_old(home: Home, *, now: datetime) -> RetentionReport:
    """Apply the retention rules of `config/privacy.yaml`."""
    brand = load_config(home, "cdp.yaml", BrandConfig)
    return enforce_retention(home, now=now, streams=all_streams(), timezone=brand.timezone)
