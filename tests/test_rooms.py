"""Imports go one way: app, pipelines → connectors, warehouse → cdp; sandbox stands alone."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = {"cdp", "connectors", "warehouse", "pipelines", "app", "sandbox", "config", "models"}
MAY_IMPORT = {
    "cdp": {"cdp"},
    "connectors": {"cdp", "connectors"},
    "warehouse": {"cdp", "warehouse"},
    "pipelines": {"cdp", "connectors", "warehouse", "pipelines", "models"},
    "app": {"cdp", "connectors", "warehouse", "pipelines", "app", "models"},
    "sandbox": {"sandbox"},
}
WITH_SANDBOX = {Path("app/demo.py"), Path("app/sandbox_cli.py")}
# The rules are pure: what a module of `cdp` may take from outside (house style: data libraries and parsers only).
PURE_LIBRARIES = {
    "numpy",
    "scipy",
    "polars",
    "sqlglot",
    "pydantic",
    "ruamel",
    "phonenumbers",
    "numba",
    "cryptography",
    "jinja2",
}
IMPURE_STANDARD = {"os", "socket", "subprocess", "urllib", "http", "random", "secrets", "tempfile", "shutil", "sqlite3"}
# Who may use an outside library that ties a room to one engine or framework.
ONLY_IN = {"dagster": {"pipelines"}, "duckdb": {"warehouse", "pipelines", "app"}, "great_expectations": {"warehouse"}}


def imports_of(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module)
    return names


def modules(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


@pytest.mark.parametrize("room", sorted(MAY_IMPORT))
def test_a_room_imports_only_the_rooms_below_it(room: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in modules(room)
        for name in imports_of(path)
        if name.split(".")[0] in ROOMS - MAY_IMPORT[room] and path.relative_to(ROOT) not in WITH_SANDBOX
    ]
    assert wrong == []
    assert modules(room), f"{room} has no modules: is the folder named differently now?"


def test_only_the_demo_and_its_verb_import_the_sandbox() -> None:
    users = {
        str(path.relative_to(ROOT))
        for room in MAY_IMPORT
        if room != "sandbox"
        for path in modules(room)
        if any(name.split(".")[0] == "sandbox" for name in imports_of(path))
    }
    assert {Path(user) for user in users} <= WITH_SANDBOX


def test_the_rules_touch_no_file_network_clock_or_chance() -> None:
    allowed = PURE_LIBRARIES | {"cdp"} | (set(sys.stdlib_module_names) - IMPURE_STANDARD)
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in modules("cdp")
        for name in imports_of(path)
        if name.split(".")[0] not in allowed
    ]
    assert wrong == []


def test_no_rule_reads_the_clock() -> None:
    """`datetime.now`, `time.time` and friends are arguments in `cdp`, never calls."""
    clocks = {"now", "utcnow", "today", "time", "monotonic", "perf_counter"}
    owners = {"datetime", "date", "time"}
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in modules("cdp")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in clocks
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id in owners
    ]
    assert wrong == []


@pytest.mark.parametrize("library", sorted(ONLY_IN))
def test_a_framework_stays_in_its_room(library: str) -> None:
    users = {
        room
        for room in MAY_IMPORT
        for path in modules(room)
        if any(name.split(".")[0] == library for name in imports_of(path))
    }
    assert users <= ONLY_IN[library]
