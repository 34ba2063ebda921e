"""`kill -9` while days are made again: days stay whole, readers keep their version, a second go ends the same."""

from __future__ import annotations

import subprocess
import sys
import time
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from warehouse.connection import open_warehouse
from warehouse.home import Home
from warehouse.models import load_models, run_models
from warehouse.publish import publish
from warehouse.reader import connect

ROOT = Path(__file__).parents[2]
AS_OF = datetime(2026, 3, 1, tzinfo=UTC)
DAYS = (date(2026, 1, 11), date(2026, 1, 21))
PER_DAY, ALL_DAYS = 20_000, 40
MODEL = """/*
Things by day.
description_zh: 每天的事
grain: thing_id
owner: data
partition: day
*/
with fct_things as (
    select
        things.thing_id,  -- one of many
        things.day,  -- when it was
        things.word  -- what it says now
    from staging.things
)

select * from fct_things
"""
CHILD = """
import sys
from pathlib import Path
from tests.models.test_backfill_killed import DAYS, AS_OF
from warehouse.connection import open_warehouse
from warehouse.home import Home
from warehouse.models import load_models, run_models
home = Home(Path(sys.argv[1]))
graph = load_models(home.root / "models")
with open_warehouse(home, as_of=AS_OF, timezone="UTC") as con:
    print("ready", flush=True)
    while True:
        run_models(con, graph, ["fct_things"], days=DAYS)
        print("done", flush=True)
"""


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A partitioned mart that says `before` on every day and is published; its source says `after`."""
    home = Home(tmp_path)
    (tmp_path / "models" / "marts").mkdir(parents=True)
    (tmp_path / "models" / "marts" / "fct_things.sql").write_text(MODEL, encoding="utf-8")
    with open_warehouse(home, as_of=AS_OF, timezone="UTC") as con:
        con.execute(
            "create table staging.things as select i as thing_id, date '2026-01-01' + (i // ?)::int as day,"
            " 'before' as word from range(?) as t(i)",
            [PER_DAY, PER_DAY * ALL_DAYS],
        )
        run_models(con, load_models(tmp_path / "models"), ["fct_things"])
        publish(home, con, version="v1", checks=[])
        con.execute("update staging.things set word = 'after'")
    return home


def words(home: Home) -> list[tuple[bool, str, int, int]]:
    """(within the days made again, word, rows, distinct ids) of the mart."""
    with open_warehouse(home, as_of=AS_OF, timezone="UTC") as con:
        return con.execute(
            "select day >= ? and day < ?, word, count(*), count(distinct thing_id) from marts_db.marts.fct_things"
            " group by all order by all",
            list(DAYS),
        ).fetchall()


def test_a_killed_backfill_leaves_whole_days_and_the_published_version(home: Home) -> None:
    inside, outside = 10 * PER_DAY, (ALL_DAYS - 10) * PER_DAY
    around = (False, "before", outside, outside)
    old, new = (True, "before", inside, inside), (True, "after", inside, inside)
    seen = set()
    for wait in (0.02, 0.15, None):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(home.root)], stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        told = child.stdout.readline() if wait is None else time.sleep(wait)
        child.kill()
        finished = "done\n" in (told, child.communicate()[0])
        rows = words(home)
        assert rows in ([around, old], [around, new]), "the days are the old ones or the new ones, each row once"
        assert not finished or rows[1] == new, "what was told as done is there"
        seen.add(rows[1])
        with connect(home) as con:
            assert con.execute("select word, count(*) from fct_things group by 1").fetchall() == [
                ("before", PER_DAY * ALL_DAYS)
            ]
    with open_warehouse(home, as_of=AS_OF, timezone="UTC") as con:
        run_models(con, load_models(home.root / "models"), ["fct_things"], days=DAYS)
    assert words(home) == [around, new]
    assert new in seen
