"""One source that fails is red and says why; the others go the whole way, and its former data stay in use."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipelines.run import run_job
from tests.e2e.test_real_input import ask, home_with
from warehouse.home import Home

pytestmark = [pytest.mark.xdist_group("real"), pytest.mark.timeout(600)]
NOW = datetime(2026, 11, 1, tzinfo=UTC)
SOURCES = """
sources:
  good:
    connector: file
    streams:
      orders:
        path: inbox/good/*.csv
        columns: {member_id: buyer, paid_at: at, ordered_at: at, status: {value: done}, platform: {value: good}}
  bad:
    connector: file
    streams:
      orders:
        path: inbox/bad/*.csv
        columns: {member_id: buyer, paid_at: at, ordered_at: at, status: {value: done}, platform: {value: bad}}
  unset:
    connector: official_account
    appid: wx1
    secret: env:NOBODY_HAS_SET_THIS
"""


def write(home: Home, source: str, name: str, rows: list[str]) -> None:
    folder = home.inbox / source
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("order_id,buyer,at,amount\n" + "\n".join(rows) + "\n", encoding="utf-8")


def test_a_source_past_its_reject_budget_leaves_the_others_running(tmp_path: Path) -> None:
    home = home_with(tmp_path, SOURCES)
    write(home, "good", "1.csv", ["g1,A,2026-10-01 10:00:00,10.00"])
    write(home, "bad", "1.csv", ["b1,A,2026-10-02 10:00:00,20.00"])
    first = run_job(home, as_of=NOW)
    assert first.success
    assert [(check.asset, check.name) for check in first.failed_checks if check.severity == "ERROR"] == [
        ("raw/unset__followers", "pull__complete")
    ]
    assert "NOBODY_HAS_SET_THIS" in first.failed_checks[0].facts["error"]

    write(home, "good", "2.csv", ["g2,A,2026-10-03 10:00:00,30.00"])
    broken = [f"b{number},A,2026-10-04 10:00:00,forty" for number in range(2, 32)]
    write(home, "bad", "2.csv", [*broken, "b99,A,2026-10-05 10:00:00,50.00"])
    second = run_job(home, as_of=NOW)
    assert second.success
    failed = {check.asset: check.facts["error"] for check in second.failed_checks if check.severity == "ERROR"}
    assert set(failed) == {"raw/unset__followers", "raw/bad__orders"}
    assert "reject" in failed["raw/bad__orders"]
    orders = ask(home, "select order_id, amount::varchar from marts.fct_orders order by 1")
    assert orders == [("b1", "20.00"), ("g1", "10.00"), ("g2", "30.00")], (
        "the bad file lands nothing, its former data stay"
    )
