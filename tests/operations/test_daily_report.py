"""The report is one page that stands alone, tells everything it can, and copes with what is missing."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import duckdb
import polars as pl
import pytest

from tests.analytics.brand import AS_OF, ZONE
from tests.operations.homes import land_batches
from tests.operations.published import make_home, publish_brand
from warehouse import report_charts
from warehouse.anomalies import check_arrivals, check_flows
from warehouse.connection import open_warehouse
from warehouse.expectations import CheckResult
from warehouse.home import Home
from warehouse.report import build_report
from warehouse.report_parts import share
from warehouse.sync_ledger import SyncLedger

SECTIONS = ["people", "sales", "funnels", "cohorts", "channels", "tags", "sync", "quality", "sources"]


class Page(HTMLParser):
    """Text of every section, ids, and everything the page would load from elsewhere."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.sections: dict[str, str] = {}
        self.ids: list[str] = []
        self.links: list[str] = []
        self.pictures = 0
        self._section: str | None = None
        self.html = path.read_text(encoding="utf-8")
        self.feed(self.html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.pictures += tag == "svg"
        self.ids += [str(values["id"])] if "id" in values else []
        self.links += [str(values[name]) for name in ("src", "href", "xlink:href") if name in values]
        if tag == "section":
            self._section = str(values["id"])
            self.sections[self._section] = ""

    def handle_endtag(self, tag: str) -> None:
        self._section = None if tag == "section" else self._section

    def handle_data(self, data: str) -> None:
        if self._section:
            self.sections[self._section] += data.strip() + " " if data.strip() else ""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    made = make_home(tmp_path_factory.mktemp("brand") / "home")
    publish_brand(made, people=300)
    return made


@pytest.fixture(scope="module")
def published(home: Home) -> Path:
    return home.published / "marts-20260302.duckdb"


@pytest.fixture(scope="module")
def bare(published: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same version without a row in it."""
    copy = tmp_path_factory.mktemp("bare") / "marts-bare.duckdb"
    copy.write_bytes(published.read_bytes())
    with duckdb.connect(str(copy)) as con:
        for (name,) in con.execute("select table_name from duckdb_tables() where schema_name = 'marts'").fetchall():
            con.execute(f"delete from marts.{name}")
        con.execute("delete from _meta.checks")
    return copy


@pytest.fixture(scope="module")
def page(home: Home, published: Path, tmp_path_factory: pytest.TempPathFactory) -> Page:
    started = time.perf_counter()
    made = write(home, published, tmp_path_factory.mktemp("page") / "report.html")
    assert time.perf_counter() - started < 15
    return made


def write(home: Home, published: Path, out: Path, **options: object) -> Page:
    return Page(build_report(published, home, out=out, **{"locale": "zh", **options}))  # type: ignore[arg-type]


def test_every_section_is_there_and_filled(page: Page, published: Path) -> None:
    assert list(page.sections) == SECTIONS
    empty = [name for name, text in page.sections.items() if "没有" in text]
    assert empty == ["sync"], "there is no sync ledger yet, and all else is there"
    assert page.pictures >= 15
    with duckdb.connect(str(published), read_only=True) as con:
        people = con.execute("select count(*) from marts.dim_people").fetchall()[0][0]
        reached = con.execute(
            "select reached, rate from marts.fct_funnel_steps where all_buckets and all_values and step_no = 2 "
            "and funnel_id = 'friend_to_repurchase'"
        ).fetchall()[0]
    assert f"归并为 {people} 人" in page.sections["people"]
    assert f"{reached[0]} · {share(reached[1])}" in page.sections["funnels"]
    assert "城" not in page.sections["quality"]
    assert "city known" in page.sections["quality"]
    assert "138****8000" in page.sections["quality"], "failing rows are shown, masked"


def test_the_page_stands_alone(page: Page) -> None:
    assert [link for link in page.links if not link.startswith("#")] == []
    assert "<script" not in page.html
    assert "@import" not in page.html
    assert len(page.ids) == len(set(page.ids)), "two pictures on a page must not share an id"
    assert set(re.findall(r"url\(#([^)]+)\)", page.html)) <= set(page.ids)
    assert "&lt;&amp;&gt;" in page.html, "the brand's name is text, not markup"
    assert "@media print" in page.html
    assert 'name="viewport"' in page.html


def test_the_same_version_gives_the_same_page(page: Page, home: Home, published: Path, tmp_path: Path) -> None:
    assert write(home, published, tmp_path / "b.html").html == page.html


def test_it_speaks_english_too(home: Home, published: Path, tmp_path: Path) -> None:
    page = write(home, published, tmp_path / "report.html", locale="en")
    assert "identifiers make" in page.sections["people"]
    assert "没有" not in page.html


def test_nothing_personal_is_on_it(page: Page, published: Path) -> None:
    with duckdb.connect(str(published), read_only=True) as con:
        ids = [row[0] for row in con.execute("select one_id from marts.dim_people").fetchall()]
    assert not [one_id for one_id in ids if one_id in page.html]


def test_anomalies_are_on_the_quality_section(home: Home, bare: Path, tmp_path: Path) -> None:
    late = CheckResult(
        "shop__orders__fresh", "raw.shop__orders", False, "warn", "40 h ago", (), "hours since data came"
    )
    page = write(home, bare, tmp_path / "report.html", anomalies=[late])
    assert "40 h ago" in page.sections["quality"]
    assert "1 项提醒" in page.sections["quality"]


def test_late_pulls_are_told(home: Home, bare: Path, tmp_path: Path) -> None:
    page = write(home, bare, tmp_path / "report.html", now=datetime(2026, 3, 9, tzinfo=UTC))
    assert "3 条迟到" in page.sections["sources"]


def test_a_missing_table_or_column_costs_its_own_section(home: Home, bare: Path, tmp_path: Path) -> None:
    copy = tmp_path / "marts-copy.duckdb"
    copy.write_bytes(bare.read_bytes())
    missing = {
        "dim_people": "人与身份",
        "fct_orders": "成交",
        "fct_ltv_cohorts": "同期群与终身价值",
        "dim_tags": "标签",
    }
    with duckdb.connect(str(copy)) as con:
        for table in missing:
            con.execute(f"drop table marts.{table}")
        con.execute("alter table marts.fct_funnel_steps rename column reached to arrived")
    page = write(home, copy, tmp_path / "report.html")
    for table, section in missing.items():
        assert page.sections[section] == f"{section} 这个版本没有表 marts.{table}。 "
    assert "reached" in page.sections["漏斗"]
    assert "逐流" in page.sections["sources"]


def test_tables_without_rows_say_so(bare: Path, tmp_path: Path) -> None:
    page = write(make_home(tmp_path / "empty"), bare, tmp_path / "report.html")
    words = {
        "people": "没有识别到任何人",
        "sales": "没有已支付订单",
        "funnels": "没有人进入任何漏斗",
        "cohorts": "没有人付过款",
        "channels": "没有可归因的订单、渠道或邀请",
        "tags": "没有声明任何标签",
        "sync": "没有同步计划",
        "quality": "没有检查记录",
        "sources": "没有接入任何数据",
    }
    assert {name: words[name] in text for name, text in page.sections.items()} == dict.fromkeys(SECTIONS, True)
    assert page.pictures == 0


def test_the_outcome_of_the_sync_is_told(bare: Path, tmp_path: Path) -> None:
    ledger_home = Home(tmp_path / "other")
    make_home(ledger_home.root)
    plan_sync(ledger_home)
    page = write(ledger_home, bare, tmp_path / "report.html")
    text = page.sections["sync"]
    for expected in ("计划 20260302T0500-aaaa", "7 / 10 条关系", "被拒绝", "84061", "removals", "移除超过两成"):
        assert expected in text


def plan_sync(home: Home) -> None:
    """One applied plan with ten relations, written the way the ledger stores it."""
    summary = (
        '{"relations": 10, "adds": 12, "removes": 3, "tags": [{"key": "rfm/高", "adds": 12, "removes": 3}], "gates":'
        ' [{"gate": "removals", "subject": "rfm/高", "verdict": "hold", "observed": 0.3, "limit": 0.2,'
        ' "zh": "移除超过两成", "en": "more than a fifth"}]}'
    )
    with SyncLedger(home.sync_ledger) as ledger, ledger._write() as con:
        con.execute(
            "insert into plans values ('20260302T0500-aaaa', 'h', 'sync', '2026-03-01T21:00:00+00:00', '', 'a', 'HELD',"
            " 'applied', ?)",
            (summary,),
        )
        con.execute(
            "insert into runs (plan_id, app, fence, state, started_at)"
            " values ('20260302T0500-aaaa', 'a', 1, 'partial', '')"
        )
        states = ["verified"] * 7 + ["failed"] * 3
        con.executemany(
            "insert into ops (run_id, seq, phase, userid, external_userid, add_keys, remove_keys, state)"
            " values (1, ?, 1, 'u', 'e', '[]', '[]', ?)",
            list(enumerate(states)),
        )
        con.execute("insert into codes values (1, 'mark_tag', 84061, 'gone', '', 3)")


def test_flows_and_arrivals_are_checked_over_real_tables(published: Path, tmp_path: Path) -> None:
    with duckdb.connect(str(published), read_only=True) as con:
        flows = check_flows(con, as_of=AS_OF, timezone=ZONE, marts="marts")
        nothing = check_flows(con, as_of=AS_OF, timezone=ZONE, marts="nowhere")
    assert "marts.fct_orders" in {check.table for check in flows}
    assert all(check.severity == "warn" for check in flows)
    assert nothing == []
    fed = make_home(tmp_path / "fed")
    land_batches(fed, "shop", "orders", [500] * 14 + [40], until=AS_OF.replace(day=1, hour=15))
    arrivals = {check.name: check for check in check_arrivals(fed, as_of=AS_OF, timezone=ZONE)}
    assert arrivals["shop__orders__fresh"].passed
    assert not arrivals["shop__orders__volume"].passed
    assert "40 rows" in arrivals["shop__orders__volume"].observed
    late = {check.name: check for check in check_arrivals(fed, as_of=datetime(2026, 3, 9, tzinfo=UTC), timezone=ZONE)}
    assert not late["shop__orders__fresh"].passed


def test_flows_are_checked_alike_before_and_after_publication(home: Home, published: Path) -> None:
    with open_warehouse(home, as_of=AS_OF, timezone=ZONE) as con:
        before = check_flows(con, as_of=AS_OF, timezone=ZONE)
    with duckdb.connect(str(published), read_only=True) as con:
        assert check_flows(con, as_of=AS_OF, timezone=ZONE, marts="marts") == before
    assert before


def test_a_flow_that_stops_is_found(bare: Path, tmp_path: Path) -> None:
    copy = tmp_path / "marts-copy.duckdb"
    copy.write_bytes(bare.read_bytes())
    with duckdb.connect(str(copy)) as con:
        days = pl.DataFrame({"n": list(range(28 * 50))})
        con.register("days", days.to_arrow())
        con.execute(
            "insert into marts.fct_events by name select 'e' || n as event_key, 'web' as source,"
            " ?::timestamptz - to_days(cast(2 + n // 50 as int)) as event_at from days",
            [AS_OF],
        )
        checks = {check.name: check for check in check_flows(con, as_of=AS_OF, timezone=ZONE, marts="marts")}
    assert not checks["web__event_at__volume"].passed


def test_charts_escape_what_they_are_given() -> None:
    svg = report_charts.bars([{"label": "<script>x</script>", "value": 1, "text": "<b>"}])
    assert "<script>" not in svg
    assert "<b>" not in svg
