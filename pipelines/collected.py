"""What the collector kept, once it has landed: removed after `keep_days` of config/collector.yaml."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from connectors.collector.collector import CALLBACKS, SEGMENT, SENSORS
from connectors.collector.retention import in_state, prune
from connectors.collector.settings import CollectorConfig
from connectors.files.discover import find
from connectors.registry import source_streams
from connectors.settings import SourcesConfig, TrackingSource, WeComSource
from connectors.wecom.callbacks import CALLBACKS_STREAM, was_read
from warehouse.home import Home, load_config
from warehouse.landing_ledger import LandingLedger


def collector_config(home: Home) -> CollectorConfig:
    """`config/collector.yaml`, or its defaults where the home has none."""
    if not (home.config / "collector.yaml").is_file():
        return CollectorConfig()
    return load_config(home, "collector.yaml", CollectorConfig)


def prune_collected(home: Home, sources: SourcesConfig, *, now: datetime) -> list[Path]:
    """Remove collected files that every source reading them has landed, switched off or not; one nobody reads stays."""
    keep = collector_config(home).keep_days
    if keep is None:
        return []
    ledger, folder, before = LandingLedger(home.landing_ledger), home.root / "data" / "collected", now - timedelta(keep)
    removed = []
    for log in (SENSORS, SEGMENT):
        readers = _readers(home, sources, folder / log)
        states = {name: ledger.state(name, stream)[0] for name, stream, _ in readers}

        def landed(path: Path, readers: list[Any] = readers, states: dict[str, Any] = states) -> bool:
            reading = [name for name, _, files in readers if path in files]
            return bool(reading) and all(in_state(path, home.root, states[name]) for name in reading)

        removed += prune(folder / log, landed, before=before)
    wecom = [name for name, source in sources.sources.items() if isinstance(source, WeComSource)]
    read = [ledger.state(name, CALLBACKS_STREAM.name)[0].get("read", []) for name in wecom]
    removed += prune(
        folder / CALLBACKS, lambda path: bool(read) and all(was_read(path.name, names) for names in read), before=before
    )
    return removed


def _readers(home: Home, sources: SourcesConfig, folder: Path) -> list[tuple[str, str, frozenset[Path]]]:
    """(source, stream, files of *folder* it reads)."""
    readers = []
    for name, source in sources.sources.items():
        if isinstance(source, TrackingSource):
            patterns = [source.path] if isinstance(source.path, str) else source.path
            there = [pattern for pattern in patterns if _may_be_there(home.root / pattern)]
            files = frozenset(path for path in find(there, home.root) if path.parent == folder)
            readers.append((name, source_streams(source)[0].name, files))
    return readers


def _may_be_there(path: Path) -> bool:
    return path.exists() or any(mark in str(path) for mark in "*?[")
