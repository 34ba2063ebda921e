"""A small generated brand, taken the whole way once; the tests of this folder look at what came of it."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from app.demo import AS_OF, outside_world, prepare
from pipelines.run import RunOutcome, run_job
from sandbox.server import RunningServer
from warehouse.home import Home
from warehouse.reader import connect

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


# What a run's own doing outside, or the time of reading, changes; never what was computed. `row_id` only tells the rows
# of the tags' history from each other: which row gets which number says nothing.
VOLATILE_COLUMNS = {"read_at", "recorded_at", "tag_ids", "row_id"}
VOLATILE_TABLES = {"fct_tag_sync", "fct_tag_control", "fct_tag_events"}


def content(home: Home) -> dict[str, object]:
    """Row count and an order-free hash of every table of the published version."""
    with connect(home) as con:
        names = con.execute("select table_name from information_schema.tables where table_schema = 'marts'").fetchall()
        found: dict[str, object] = {}
        for (name,) in sorted(names):
            if name in VOLATILE_TABLES:
                continue
            columns = [row[0] for row in con.execute(f"describe marts.{name}").fetchall()]
            kept = ", ".join(f'"{column}"' for column in columns if column not in VOLATILE_COLUMNS)
            rows = con.execute(
                "select count(*), sum(md5_number_lower(line::varchar)::hugeint)::varchar"
                f" from (select {kept} from marts.{name}) as line"
            ).fetchall()
            found[name] = rows[0]
        return found


def held_tags(state: Path) -> dict[tuple[str, str], set[str]]:
    """(userid, external_userid) -> tag ids, straight from the server's database."""
    with sqlite3.connect(state) as con:
        rows = con.execute("select userid, external_userid, tag_ids from relations").fetchall()
    return {(userid, external): {tag for tag in re.split(r"[ ,]+", tags) if tag} for userid, external, tags in rows}
