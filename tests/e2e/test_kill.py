"""`kill -9` at ten random points of `cdp run`, run again each time: the result is that of a clean run."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pytest

from app.demo import outside_world, prepare
from pipelines.run import run_job
from tests.e2e.conftest import CUT, content, held_tags
from warehouse.home import Home

pytestmark = [pytest.mark.xdist_group("kill"), pytest.mark.timeout(1200)]

KILLS = 10
SEED = 20261121


@dataclass(frozen=True)
class State:
    """Everything a run leaves: published tables, the identity map, and the tags in WeCom by name."""

    tables: dict[str, object]
    people: list[tuple[object, ...]]
    tags: dict[tuple[str, str], set[tuple[str, str]]]


def state_of(home: Home) -> State:
    with duckdb.connect(str(home.warehouse), read_only=True) as con:
        people = con.execute(
            "select i.type, i.scope, i.value_norm, i.epoch, m.one_id from identity.identifier as i "
            "join identity.identity_map as m using (node_id) where m.run_to is null order by all"
        ).fetchall()
    server = home.root / "brand" / "wecom.sqlite"
    with sqlite3.connect(server) as con:
        names = {
            tag: (group, name)
            for tag, group, name in con.execute(
                "select t.tag_id, g.name, t.name from tags as t join tag_groups as g using (group_id)"
            )
        }
    tags = {pair: {names[tag] for tag in held} for pair, held in held_tags(server).items()}
    return State(content(home), people, tags)


def start_run(home: Home) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "app.main", "--home", str(home.root), "run", "--as-of", CUT.isoformat()]
    log = (home.root / "logs" / "killed.log").open("ab")
    with log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=os.environ.copy())


def test_a_run_killed_ten_times_ends_like_a_clean_one(tmp_path: Path) -> None:
    clean, killed = Home(tmp_path / "clean"), Home(tmp_path / "killed")
    prepare(clean, people=500, events=5_000)
    shutil.copytree(clean.root, killed.root)
    with outside_world(clean):
        began = time.monotonic()
        assert run_job(clean, as_of=CUT).success
        took = time.monotonic() - began
    # one_ids are minted with the home's own key: give both the same.
    shutil.copytree(clean.secrets, killed.secrets, dirs_exist_ok=True)
    chance = random.Random(SEED)
    with outside_world(killed):
        for _ in range(KILLS):
            run = start_run(killed)
            time.sleep(chance.uniform(0.1, 1.0) * took + 2)
            run.kill()
            run.wait()
        last = start_run(killed)
        assert last.wait() == 0, (killed.logs / "killed.log").read_text(encoding="utf-8")[-4000:]
    wanted, found = state_of(clean), state_of(killed)
    assert found.people == wanted.people
    assert found.tables == wanted.tables
    assert found.tags == wanted.tags
    assert sum(map(bool, wanted.tags.values())) > 50
