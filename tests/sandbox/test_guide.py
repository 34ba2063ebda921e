"""The guide runs: its Python, its scenario names, its tables of actions, faults and admin calls."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import get_args

import pytest

from sandbox.admin import HANDLERS
from sandbox.faults import Kind
from sandbox.hand import ACTIONS
from sandbox.server import scenario_path

GUIDE = (Path(__file__).parents[2] / "docs" / "guides" / "sandbox.md").read_text(encoding="utf-8")


def test_the_python_of_the_guide_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```python run=sandbox\n(.*?)```", GUIDE, re.DOTALL)
    assert len(blocks) == 1
    monkeypatch.chdir(tmp_path)
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        exec(compile(blocks[0], "sandbox.md", "exec"), {})
    assert "staff;" in shown.getvalue()


def test_everything_there_is_stands_in_the_guide() -> None:
    prose = re.sub(r"```.*?```", "", GUIDE, flags=re.DOTALL)
    words = {word for text in re.findall(r"`([^`]+)`", prose) for word in [text, text.split()[0]]}
    assert set(ACTIONS) <= words
    assert set(get_args(Kind)) <= words
    assert {path.stem for path in scenario_path("bad_day").parent.glob("*.yaml")} <= words
    shown = " ".join(words)
    assert [name for _, name in HANDLERS if name not in shown] == []
