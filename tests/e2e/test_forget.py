"""One of the brand's people is forgotten in a copy of the home: nothing of them is left in any byte of it."""

from __future__ import annotations

import re
import shutil
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pytest

from cdp.privacy.traces import is_distinctive
from pipelines.upkeep import scene
from tests.e2e.conftest import WholeWay
from warehouse.erasure import erase, preview
from warehouse.home import Home
from warehouse.raw import reconcile

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("e2e"), pytest.mark.timeout(600)]


def spelt_in(home: Home, values: list[bytes]) -> list[str]:
    """Files of the home, but for the world outside, whose bytes hold one of *values*."""
    files = [path for path in sorted(home.root.rglob("*")) if path.is_file() and not path.is_symlink()]
    ours = [path for path in files if not path.is_relative_to(home.root / "brand")]
    return [str(path.relative_to(home.root)) for path in ours if any(value in path.read_bytes() for value in values)]


def test_the_guide_names_somebody_of_the_demo(whole_way: WholeWay) -> None:
    guide = (Path(__file__).parents[2] / "docs" / "guides" / "privacy.md").read_text(encoding="utf-8")
    commands = re.findall(r"cdp identity forget (\w+:\w+) ", guide.split("```")[1])
    assert len(set(commands)) == 1
    report = preview(scene(whole_way.home), commands[:1], now=datetime.now(UTC))
    assert len(report.people) == 1
    assert {"data/raw/members/people", "identity graph", "marts.dim_people"} <= set(report.counts)


def test_a_person_of_a_whole_brand_is_forgotten_everywhere(whole_way: WholeWay, tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    shutil.copytree(whole_way.home.root, home.root, symlinks=True)
    with duckdb.connect(str(home.warehouse), read_only=True) as con:
        [(one_id, values)] = con.execute(
            "select map.one_id, list(distinct value.value) from identity.identity_map as map"
            " join identity.node as node using (node_id) join identity.identifier_value as value using (node_id)"
            " where map.run_to is null group by 1 order by count(distinct node.type) desc, 1 limit 1"
        ).fetchall()
    words = [value.encode() for value in values if is_distinctive(value)]
    assert len(words) >= 6
    assert len(spelt_in(home, words)) >= 3, "raw, warehouse, sync ledger"
    report = erase(scene(home), [one_id], actor="dpo", reason="a letter", now=datetime.now(UTC))
    assert report.found == ()
    assert spelt_in(home, words) == []
    assert [row for row in reconcile(home) if not row.ok] == []
    assert sum(row.erased for row in reconcile(home)) == sum(
        item.whole for item in report.removals if item.place.startswith(("data/raw/", "data/rejects/"))
    )
