"""Collected files that are of no more use: landed, and older than `keep_days`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from connectors.collector.segments import CLOSED, STAMP


def prune(folder: Path, landed: Callable[[Path], bool], *, before: datetime) -> list[Path]:
    """Remove the closed segments of *folder* that were closed earlier than *before* and of which *landed* is true.

    Files not named by a collector are left alone. Returns what was removed; may be interrupted and run again.
    """
    removed = []
    for path in sorted(folder.glob(f"*{CLOSED}")):
        closed = _closed_at(path)
        if closed is not None and closed < before and landed(path):
            path.unlink(missing_ok=True)
            removed.append(path)
    return removed


def _closed_at(path: Path) -> datetime | None:
    try:
        return datetime.strptime(path.name.partition("-")[0], STAMP).replace(tzinfo=UTC)
    except ValueError:
        return None


def in_state(path: Path, root: Path, state: Mapping[str, Any]) -> bool:
    """Whether the state of a source that reads files says that *path*, as it is now, has landed."""
    facts = state.get("files", {}).get(path.relative_to(root).as_posix())
    stat = path.stat()
    return facts is not None and list(facts[1:]) == [stat.st_size, stat.st_mtime_ns]
