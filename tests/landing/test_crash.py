"""`kill -9` at any point, then the same landing again: the raw zone is that of a clean run."""

from __future__ import annotations

import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.landing.crash_child import YAML
from tests.source_support import Brand
from warehouse.raw import reconcile

ROOT = Path(__file__).parents[2]
LINE = '{{"type":"track","event":"E","time":{n},"distinct_id":"d{n}","properties":{{}}}}\n'


def _write_inputs(root: Path) -> None:
    (root / "inbox").mkdir(parents=True)
    for part in range(3):
        lines = [LINE.format(n=n) for n in range(part * 90, part * 90 + 100)]  # ten lines of each are in the next too
        (root / "inbox" / f"{part}.log").write_text("".join(lines) + "broken\n", encoding="utf-8")
    with sqlite3.connect(root / "crm.sqlite") as con:
        con.execute("create table members (id integer primary key, at text)")
        con.executemany("insert into members values (?, '2026-01-01 00:00:00')", [(n,) for n in range(200)])
    con.close()
    names = "product_id,product_name\n" + "".join(f"P{n},x\n" for n in range(120))
    (root / "inbox" / "p.csv").write_text(names, encoding="utf-8")


def _change_inputs(root: Path) -> None:
    with sqlite3.connect(root / "crm.sqlite") as con:
        con.execute("update members set at = '2026-02-01 00:00:00' where id % 7 = 0")
        con.execute("delete from members where id % 50 = 3")
    con.close()
    (root / "inbox" / "3.log").write_text("".join(LINE.format(n=n) for n in range(250, 320)), encoding="utf-8")
    names = "product_id,product_name\n" + "".join(f"P{n},{n % 3}\n" for n in range(20, 120))
    (root / "inbox" / "p.csv").write_text(names, encoding="utf-8")


def _child(root: Path, point: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.landing.crash_child", str(root), str(point)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _raw(root: Path) -> list[Any]:
    brand = Brand(root, YAML)
    assert all(row.ok for row in reconcile(brand.home))
    return [
        brand.sql("select record_key, event, time from raw.sensors__records order by all"),
        brand.latest("canonical__people", "person_key, updated_at::text"),
        brand.latest("canonical__products", "product_id, product_name"),
        brand.sql("select distinct file, row_number, reason from raw._rejects order by all"),
        brand.sql("select count(*), count(distinct (_source, _key_hash, _row_hash)) from raw.canonical__people"),
    ]


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    root = tmp_path_factory.mktemp("clean")
    _write_inputs(root)
    for _ in range(2):
        assert _child(root, 0).wait() == 0
        _change_inputs(root)
    assert _child(root, 0).wait() == 0
    return _raw(root)


def _killed_at(root: Path, points: list[int]) -> None:
    _write_inputs(root)
    assert _child(root, points[0]).wait() in (0, -signal.SIGKILL)
    assert _child(root, 0).wait() == 0
    _change_inputs(root)
    for point in points[1:]:
        assert _child(root, point).wait() in (0, -signal.SIGKILL)
    assert _child(root, 0).wait() == 0
    leftovers = [path for path in root.rglob("*.tmp") if "duckdb" not in path.parts]
    assert leftovers == []


def test_a_killed_landing_goes_on_to_the_result_of_a_clean_one(tmp_path: Path, truth: list[Any]) -> None:
    _killed_at(tmp_path, [7, 4, 15])
    assert _raw(tmp_path) == truth


@pytest.mark.slow
@pytest.mark.parametrize("first", range(1, 40, 3))
def test_killed_at_every_point_in_turn(tmp_path: Path, truth: list[Any], first: int) -> None:
    _killed_at(tmp_path, [first, first + 1, first + 2])
    assert _raw(tmp_path) == truth


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_killed_at_random_moments(tmp_path: Path, truth: list[Any], seed: int) -> None:
    chance = random.Random(seed)
    _write_inputs(tmp_path)
    for _ in range(3):
        child = _child(tmp_path, 0)
        time.sleep(chance.uniform(0.5, 2.5))
        child.kill()
        child.wait()
    assert _child(tmp_path, 0).wait() == 0
    _change_inputs(tmp_path)
    child = _child(tmp_path, 0)
    time.sleep(chance.uniform(0.5, 2.5))
    child.kill()
    child.wait()
    shutil.rmtree(tmp_path / "data" / "tmp", ignore_errors=True)
    assert _child(tmp_path, 0).wait() == 0
    assert _raw(tmp_path) == truth
