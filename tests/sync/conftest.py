from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.sync.world import Brand, World, people


@pytest.fixture
def make_world(tmp_path: Path) -> Iterator[Callable[..., World]]:
    """Worlds of a test, each in a folder of its own; their servers end with the test."""
    made: list[World] = []

    def make(brand: Brand | None = None, config: Any = None, **corp: Any) -> World:
        folder = tmp_path / f"world{len(made)}"
        folder.mkdir()
        world = World(folder, brand or people(60, 4), config, **corp)
        made.append(world)
        return world

    yield make
    for world in made:
        world.close()
