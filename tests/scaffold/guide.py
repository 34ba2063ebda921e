"""Reading a guide's code blocks: the language, what to do with it (`file=…`, `edit=…`, …), and the text."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path

_BLOCK = re.compile(r"^```(\w+)(?: (\w+)=(\S+))?\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """*act*: `file` writes it, `edit` replaces assignments of a file, `expect`, `mend`, `append` as the guide says."""

    language: str
    act: str
    path: str
    text: str


def blocks(guide: Path) -> list[Block]:
    return [Block(*(part or "" for part in found)) for found in _BLOCK.findall(guide.read_text(encoding="utf-8"))]


def with_assignments(source: str, new: str) -> str:
    """*source* with its top-level assignments replaced by those of *new* that have the same name."""
    for node in ast.parse(new).body:
        assert isinstance(node, ast.Assign)
        (target,) = node.targets
        old = next(
            item
            for item in ast.parse(source).body
            if isinstance(item, ast.Assign) and ast.dump(item.targets[0]) == ast.dump(target)
        )
        lines = source.splitlines(keepends=True)
        source = "".join(
            [*lines[: old.lineno - 1], ast.get_source_segment(new, node) or "", "\n", *lines[old.end_lineno :]]
        )
    return source
