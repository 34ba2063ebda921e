from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.server import RunningServer, start
from tests.sandbox.corp import OTHER_SECRET, Corp, write_corp


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """One server process per test file, on the small corp."""
    path = write_corp(tmp_path_factory.mktemp("corp") / "wecom.sqlite")
    with start(path) as running:
        yield running


@pytest.fixture
def corp(server: RunningServer) -> Iterator[Corp]:
    """A client with a token; settings and faults a test changed are put back afterwards."""
    before = server.admin("GET", "settings")
    client = Corp(server)
    yield client
    client.http.close()
    server.admin("DELETE", "faults")
    after = server.admin("GET", "settings")
    changed = {key: value for key, value in before.items() if key != "callback" and after[key] != value}
    if changed:
        server.admin("POST", "settings", changed)


@pytest.fixture
def rival(server: RunningServer) -> Iterator[Corp]:
    """A client of the other app of the same corp."""
    client = Corp(server, OTHER_SECRET)
    yield client
    client.http.close()


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[RunningServer]:
    """A server of a test's own."""
    with start(write_corp(tmp_path / "wecom.sqlite")) as running:
        yield running
