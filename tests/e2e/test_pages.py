"""Every page the project makes, looked at in a real Chromium: on a desk, on a phone, in the dark, on paper."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app.demo import AS_OF
from app.main import app
from tests.e2e.browser import Browser, open_browser
from tests.e2e.conftest import CUT, WholeWay
from warehouse.connection import open_warehouse
from warehouse.expectations import load_suites, write_data_docs
from warehouse.reader import connect

pytestmark = [pytest.mark.xdist_group("e2e"), pytest.mark.timeout(600)]

DESK, PHONE, A4 = 1280, 390, 703  # CSS pixels; A4 less the margins of the report's own `@page`
FUNNEL = "friend_to_repurchase"
OURS = ("report", "report_en", "plan", "dictionary", "identity", "funnel")
# what sticks out of the window and lies in nothing that scrolls
OUTSIDE = """[...document.querySelectorAll('body *')].filter(e => {
  const box = e.getBoundingClientRect();
  let at = e;
  while (at && !['auto', 'scroll', 'hidden'].includes(getComputedStyle(at).overflowX)) at = at.parentElement;
  return box.width && (box.right > innerWidth + 1 || box.left < -1) && !at;
}).map(e => e.outerHTML.slice(0, 100))"""
# words of a picture that its own edge cuts off
CUT_OFF = """[...document.querySelectorAll('svg')].flatMap(svg => {
  const edge = svg.getBoundingClientRect();
  return [...svg.querySelectorAll('text')].filter(word => {
    const box = word.getBoundingClientRect();
    return box.width && (box.left < edge.left - 1 || box.right > edge.right + 1
      || box.top < edge.top - 1 || box.bottom > edge.bottom + 1);
  }).map(word => word.textContent);
})"""
# a font that lacks a letter draws the same empty box for each
LETTERS = """(() => {
  const drawn = [...'漏斗购'].map(letter => {
    const canvas = document.createElement('canvas');
    const pen = canvas.getContext('2d');
    pen.font = '40px ' + getComputedStyle(document.body).fontFamily;
    pen.fillText(letter, 10, 50);
    return canvas.toDataURL();
  });
  return new Set(drawn).size;
})()"""


@dataclass(frozen=True)
class Pages:
    """Where each page is; *docs*: the first page of the Data Docs."""

    files: dict[str, Path]
    docs: Path

    def __getitem__(self, name: str) -> Path:
        return self.files[name]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def pages(whole_way: WholeWay, tmp_path_factory: pytest.TempPathFactory) -> Pages:
    """The pages as people make them, from one home."""
    folder, home = tmp_path_factory.mktemp("pages"), whole_way.home
    files = {name: folder / f"{name}.html" for name in OURS}
    with connect(home) as con:
        one_id = con.execute("select one_id from dim_people order by identifier_count desc, one_id").fetchall()[0][0]
    for verb in (
        ["report", "--out", str(files["report"])],
        ["report", "--out", str(files["report_en"]), "--language", "en"],
        ["model", "docs", "--out", str(files["dictionary"])],
        ["identity", "show", one_id, "--draw", str(files["identity"])],
        ["funnel", "show", FUNNEL, "--chart", str(files["funnel"])],
    ):
        done = CliRunner().invoke(app, ["--home", str(home.root), *verb])
        assert done.exit_code == 0, (verb, done.output, done.exception)
    (plan,) = home.plans.glob("*/plan.html")
    suites = [suite for suite in load_suites(home.config / "expectations") if suite.name == "relations"]
    with open_warehouse(home, as_of=CUT, timezone="Asia/Shanghai") as con:
        docs = write_data_docs(con, suites, folder / "docs")
    return Pages(files | {"plan": plan}, docs)


@pytest.mark.parametrize("name", OURS)
def test_a_page_is_whole_on_desk_phone_and_in_the_dark(browser: Browser, pages: Pages, name: str) -> None:
    for width, dark in ((DESK, False), (PHONE, False), (PHONE, True)):
        tab = browser.open(pages[name], width=width, dark=dark)
        assert tab.said == [], "the console is silent"
        assert {address.partition(":")[0] for address in tab.asked} <= {"file", "data"}, "it stands alone"
        assert tab.run("document.scrollingElement.scrollWidth") == width
        assert tab.run(OUTSIDE) == []
        assert tab.run(CUT_OFF) == []
        assert tab.run(LETTERS) == 3, "a font for Chinese is there: apt-get install fonts-noto-cjk"
        assert len(tab.text()) + tab.run("document.querySelectorAll('svg text').length") > 8
        assert tab.run("document.title.length") > 0
        assert len(tab.picture()) > 4_000, "something is drawn"


def test_the_report_tells_its_sections_and_prints_on_a4(browser: Browser, pages: Pages, whole_way: WholeWay) -> None:
    tab = browser.open(pages["report"], width=DESK)
    assert f"{AS_OF:%Y-%m-%d}" in tab.text("header")
    tab.run("document.documentElement.style.scrollBehavior = 'auto'")
    links = tab.run("[...document.querySelectorAll('nav a')].map(a => [a.textContent, a.getAttribute('href')])")
    for title, address in links:
        assert tab.text(f"{address} h2") == title
        tab.run(f"document.querySelector('nav a[href=\"{address}\"]').click()")
    assert tab.run("scrollY") > 1_000, "the links lead down the page"
    with connect(whole_way.home) as con:
        people = con.execute("select count(*) from dim_people").fetchall()[0][0]
    assert f"{people:,}" in tab.text("#people")
    low = "[...document.querySelectorAll('figure svg')].filter(e => e.getBoundingClientRect().width < 200).length"
    assert tab.run(low) == 0, "no picture is squeezed"
    printed = tab.printed()
    assert printed.startswith(b"%PDF")
    assert 3 <= len(re.findall(rb"/Type\s*/Page\b", printed)) <= 20
    boxes = {tuple(map(float, box.split())) for box in re.findall(rb"/MediaBox\s*\[([^\]]+)\]", printed)}
    assert {(round(width), round(height)) for _, _, width, height in boxes} == {(595, 842)}, "A4 in points"
    tab.as_printed(A4)
    assert tab.run(OUTSIDE) == [], "nothing is cut off by the edge of the paper"
    assert tab.run("getComputedStyle(document.querySelector('nav')).display") == "none"


def test_the_dictionary_finds_by_name_column_and_chinese(browser: Browser, pages: Pages) -> None:
    shown = "[...document.querySelectorAll('main section:not([hidden])')].map(e => e.id)"
    for words, found in (("fct_orders refund_amount", "marts.fct_orders"), ("漏斗明细", "marts.fct_funnel_people")):
        tab = browser.open(pages["dictionary"], width=DESK)
        every = len(tab.run(shown))
        tab.press("#find", words)
        hits = tab.run(shown)
        assert found in hits
        assert 1 <= len(hits) < every / 4
        assert tab.text("#count") == f"{len(hits)} / {every}"
        assert tab.run("document.querySelectorAll('nav a:not([hidden])').length") == len(hits)
    tab = browser.open(pages["dictionary"], width=DESK)
    tab.hover("svg a[data-name='marts.dim_people']")
    lit = tab.run("[...document.querySelectorAll('svg path.on')].map(e => [e.dataset.from, e.dataset.to])")
    assert lit
    assert all("marts.dim_people" in pair for pair in lit), "the lines of that table and no other"


def test_the_reference_of_the_tables_is_fresh(whole_way: WholeWay, tmp_path: Path) -> None:
    made = tmp_path / "tables.md"
    done = CliRunner().invoke(app, ["--home", str(whole_way.home.root), "model", "docs", "--out", str(made)])
    assert done.exit_code == 0, done.output
    kept = Path("docs/reference/tables.md").read_text(encoding="utf-8")
    assert kept == made.read_text(encoding="utf-8"), "cdp --home demo model docs --out docs/reference/tables.md"


def test_a_published_table_says_what_it_is_in_two_languages(whole_way: WholeWay) -> None:
    with connect(whole_way.home) as con:
        comments = con.execute(
            "select table_name, comment from duckdb_tables() where schema_name = 'marts' "
            "union all select view_name, comment from duckdb_views() where schema_name = 'marts'"
        ).fetchall()
    assert len(comments) > 40
    for table, comment in comments:
        assert re.search(r"[\u4e00-\u9fff].* \| .*[a-z]{3}", comment or ""), table


def test_the_plan_shows_every_tag_and_its_verdict(browser: Browser, pages: Pages) -> None:
    summary = json.loads((pages["plan"].parent / "plan.json").read_text(encoding="utf-8"))
    tab = browser.open(pages["plan"], width=PHONE)
    text = tab.text()
    assert summary["plan_id"] in text
    assert [tag["key"] for tag in summary["tags"] if tag["key"] not in text] == []
    assert tab.run(f"document.querySelectorAll('.verdict.{summary['verdict']}').length") == 1


def test_a_funnel_goes_down_step_by_step(browser: Browser, pages: Pages, whole_way: WholeWay) -> None:
    with connect(whole_way.home) as con:
        labels = con.execute(
            "select label from fct_funnel_steps where funnel_id = ? and all_buckets and all_values order by step_no",
            [FUNNEL],
        ).fetchall()
    tab = browser.open(pages["funnel"], width=DESK)
    drawn = tab.run(
        "[...document.querySelectorAll('svg text')].filter(e => /^\\d+\\. /.test(e.textContent))"
        ".sort((a, b) => a.getBoundingClientRect().top - b.getBoundingClientRect().top).map(e => e.textContent)"
    )
    assert drawn == [f"{number}. {label}" for number, (label,) in enumerate(labels, start=1)]


def test_a_persons_graph_hides_phones_and_shows_every_id(browser: Browser, pages: Pages, whole_way: WholeWay) -> None:
    tab = browser.open(pages["identity"], width=DESK)
    one_id = tab.run("document.title")
    with connect(whole_way.home) as con:
        known = con.execute("select identifier_count from dim_people where one_id = ?", [one_id]).fetchall()[0][0]
    assert tab.run("document.querySelectorAll('svg circle').length") >= known > 3
    assert not re.search(r"(?<!\d)1[3-9]\d{9}(?!\d)", pages["identity"].read_text(encoding="utf-8"))
    legend = tab.run(
        "[...document.querySelectorAll('svg > text')].slice(-4).map(e => e.getBoundingClientRect().toJSON())"
    )
    words = tab.run("[...document.querySelectorAll('svg g text')].map(e => e.getBoundingClientRect().toJSON())")
    for line in legend:
        assert not any(_overlap(line, word) for word in words), "the legend has its own place"


def test_data_docs_tell_table_and_outcome(browser: Browser, pages: Pages) -> None:
    """Great Expectations' own pages; the list on the first one is filled by scripts from the net, its pages are not."""
    (result,) = pages.docs.parent.glob("validations/**/*fct_relations.html")
    assert str(result.relative_to(pages.docs.parent)) in pages.docs.read_text(encoding="utf-8")
    tab = browser.open(result, width=DESK)
    text = tab.text()
    assert "marts.fct_relations" in text
    assert "relation_key" in text
    assert re.search(r"Evaluated Expectations\s*\d", text)


def _overlap(a: dict[str, float], b: dict[str, float]) -> bool:
    return a["left"] < b["right"] and b["left"] < a["right"] and a["top"] < b["bottom"] and b["top"] < a["bottom"]
