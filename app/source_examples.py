"""The examples of `config/sources.yaml`, one of each kind, to start a source of one's own from."""

from __future__ import annotations

import re
from importlib.resources import files

_NAME = re.compile(r"^  # ([a-z][a-z0-9_]*):")
_LINE = re.compile(r"^  # ( {2,}.*)?$")
_KIND = re.compile(r"^ {2}connector: ([a-z0-9_]+)", re.MULTILINE)


def examples() -> dict[str, str]:
    """Kind -> the lines below the name of its first example, as they stand two blanks deep under a source."""
    found: dict[str, str] = {}
    block: list[str] = []
    for line in [*template().splitlines(), ""]:
        if (inside := _LINE.match(line)) and block:
            block.append(inside[1] or "")
            continue
        text = "\n".join(block[1:]).rstrip()
        if kind := _KIND.search(text):
            found.setdefault(kind[1], text)
        block = [line] if _NAME.match(line) else []
    return found


def template() -> str:
    """The commented file that a new home begins with."""
    return (files("config") / "sources.yaml").read_text(encoding="utf-8")


def example_entry(name: str, kind: str) -> str:
    """The example of *kind* as an entry called *name*, to be filled in."""
    lines = [f"  {line}".rstrip() for line in examples()[kind].splitlines()]
    head = f"  {name}:\n    # 由示例生成，请逐行填写。From the example of `{kind}`: fill in every line."
    return "\n".join([head, *lines]) + "\n"
