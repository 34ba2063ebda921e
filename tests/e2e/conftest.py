"""A small generated brand, taken the whole way once; the tests of this folder look at what came of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from app.demo import AS_OF, outside_world, prepare
from pipelines.run import RunOutcome, run_job
from sandbox.server import RunningServer
from warehouse.home import Home

PEOPLE = 4_000
EVENTS = 40_000
CUT = datetime(2026, 11, 19, 16, tzinfo=UTC)  # the generated history ends before AS_OF 00:00 Asia/Shanghai


@dataclass(frozen=True)
class WholeWay:
    """A home after one run, the server it ran against (still up), and how the run ended."""

    home: Home
    server: RunningServer
    outcome: RunOutcome

    @property
    def brand(self) -> Path:
        return self.home.root / "brand"

    @property
    def names(self) -> dict[str, str]:
        names: dict[str, str] = json.loads((self.brand / "brand.json").read_text(encoding="utf-8"))
        return names


@pytest.fixture(scope="session")
def whole_way(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WholeWay]:
    home = Home(tmp_path_factory.mktemp("whole_way"))
    assert prepare(home, people=PEOPLE, events=EVENTS)
    assert AS_OF.isoformat() == "2026-11-20"
    with outside_world(home) as server:
        yield WholeWay(home, server, run_job(home, as_of=CUT))
