"""Saved queries: files with an owner; viewers run those that name their counts, and never see a small one."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app.main import app
from cdp.errors import ConfigError
from warehouse.connection import open_warehouse
from warehouse.guard import RefusedError
from warehouse.home import Home
from warehouse.publish import publish
from warehouse.query import run_query
from warehouse.saved_queries import run_saved, saved_queries

AS_OF = datetime(2026, 3, 1, tzinfo=UTC)
SHIPPED = Path(__file__).parents[2] / "config" / "queries"
TOTALS = """
description: 各渠道 / by channel
owner: team:data
counts: [people, buyers]
sql: |
  select channel, count(*) as people, count(paid) as buyers, sum(paid) as net, avg(paid) as mean, max(day) as day
  from dim_people group by channel order by channel
"""


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """Channel a: 6 people, 5 buyers. b: 6 people, 4 buyers. c: 2 people. d: 7 people, nobody bought."""
    home = Home(tmp_path)
    (home.config / "queries").mkdir(parents=True)
    (home.config / "cdp.yaml").write_text("name: 品牌\n", encoding="utf-8")
    save(home, "totals", TOTALS)
    with open_warehouse(home, as_of=AS_OF, timezone="Asia/Shanghai") as con:
        con.execute(
            "create table marts_db.marts.dim_people as select channel || i as one_id, channel,"
            " date '2026-02-01' as day, case when i < buyers then 10.50::decimal(18, 2) end as paid"
            " from (values ('a', 6, 5), ('b', 6, 4), ('c', 2, 2), ('d', 7, 0)) as t(channel, people, buyers),"
            " range(people) as r(i)"
        )
        publish(home, con, version="v1", checks=[], now=AS_OF)
    return home


def save(home: Home, name: str, text: str) -> None:
    (home.config / "queries" / f"{name}.yaml").write_text(text, encoding="utf-8")


def test_a_viewer_sees_no_count_under_five_and_no_amount_beside_one(home: Home) -> None:
    whole = run_saved(home, "totals")
    day = whole.rows[0][-1]
    assert whole.rows[1] == ("b", 6, 4, Decimal("42.00"), 10.5, day)
    seen = run_saved(home, "totals", role="viewer")
    assert seen.columns == whole.columns
    assert seen.rows == [
        ("a", "6", "5", Decimal("52.50"), 10.5, day),
        ("b", "6", "< 5", None, None, day),
        ("c", "< 5", "< 5", None, None, day),
        ("d", "7", "< 5", None, None, day),
    ]
    line = json.loads((home.logs / "queries.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    assert (line["role"], line["tables"], line["scanned"]) == ("viewer", ["marts.dim_people"], 21)


def test_a_viewer_runs_nothing_else(home: Home) -> None:
    save(home, "people", TOTALS.replace("counts: [people, buyers]\n", ""))
    with pytest.raises(RefusedError, match="`people` is not for viewers"):
        run_saved(home, "people", role="viewer")
    assert len(run_saved(home, "people").rows) == 4
    save(home, "named", TOTALS.replace("select channel,", "select one_id, any_value(channel) as channel,")
         .replace("group by channel", "group by one_id"))  # fmt: skip
    with pytest.raises(RefusedError, match="`one_id`, which names one person"):
        run_saved(home, "named", role="viewer")
    save(home, "wrong", TOTALS.replace("counts: [people", "counts: [peopel"))
    with pytest.raises(ConfigError, match=r"wrong.yaml: `counts` names `peopel`; did you mean `people`"):
        run_saved(home, "wrong", role="viewer")
    with pytest.raises(RefusedError, match="viewers run saved queries"):
        run_query(home, "select 1", role="viewer")
    save(home, "files", TOTALS.replace("from dim_people", "from read_text('/etc/passwd')"))
    with pytest.raises(RefusedError, match="read_text"):
        run_saved(home, "files")


def test_faults_of_all_files_are_told_with_lines(home: Home) -> None:
    save(home, "a", TOTALS.replace("owner:", "ower:"))
    save(home, "b", "description: x\nowner: y\n")
    with pytest.raises(ConfigError, match=r"a.yaml:3: ower: unknown key `ower`; did you mean `owner`") as told:
        saved_queries(home)
    assert "b.yaml" in told.value.message


def test_the_command_line_runs_them_by_name(home: Home) -> None:
    def cdp(*arguments: str):
        return CliRunner().invoke(app, ["--home", str(home.root), "sql", *arguments])

    done = cdp("--saved", "totals", "--role", "viewer", "-f", "csv")
    assert done.stdout.splitlines()[3].startswith("c,< 5,< 5,,,")
    assert "21 rows scanned" in done.stderr
    assert "did you mean `totals`" in str(cdp("--saved", "totls").exception)
    assert isinstance(cdp("select 1", "--saved", "totals").exception, ConfigError)


def test_the_ones_that_ship_load_in_two_languages() -> None:
    home = Home(SHIPPED.parents[1])
    found = saved_queries(home)
    assert {"best_customers", "channel_people"} <= set(found)
    for name, query in found.items():
        assert any("\u4e00" <= letter <= "\u9fff" for letter in query.description), name
        assert " / " in query.description, name
