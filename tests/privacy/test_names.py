"""What people are called: looked for where nobody and nothing else is called so, and told where it cannot be."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import duckdb
import polars as pl
import pytest

from app.home_cli import create_home
from cdp.privacy.traces import UNTELLABLE, Traces, borne, called, word_kind
from cdp.streams import Batch
from connectors.canonical import STREAMS_BY_NAME
from pipelines.upkeep import scene
from tests.landing.fakes import Scripted
from warehouse.erasure import widened
from warehouse.home import Home
from warehouse.landing import land

NOW = datetime(2026, 11, 20, tzinfo=UTC)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("欧阳铁柱", "anywhere"), ("买买提·艾力", "anywhere"), ("Li Xiaoming", "anywhere"), ("王芳", "alone"),
        ("Lily", ""), ("table", ""), ("微信用户", ""), ("芳", ""), ("🌸🌸", ""), ("", ""),
    ],
)  # fmt: skip
def test_how_well_a_name_can_be_told_from_other_words(name: str, kind: str) -> None:
    assert word_kind(name) == kind


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("<p>王芳</p>", True), ("姓名：王芳，电话", True), ("1,王芳\n", True), ('{"name":"\\u738b\\u82b3"}', True),
        ("王芳芳", False), ("小王芳", False), ("王 芳", False),
    ],
)  # fmt: skip
def test_two_characters_count_where_they_stand_alone(text: str, found: bool) -> None:
    traces = Traces(frozenset(), words=frozenset({"王芳"}))
    assert traces.in_text(text) is found
    assert bool(traces.in_bytes.search(text.encode())) is found
    with duckdb.connect() as con:
        assert con.execute("select regexp_matches(?, ?)", [text, traces.pattern]).fetchall() == [(found,)]


def test_a_name_blanks_cells_and_takes_no_row() -> None:
    traces = Traces(frozenset({("phone", "13652817439")}), words=frozenset({"欧阳铁柱"}))
    row = {"product_id": "P1", "product_name": "欧阳铁柱牌铁锅"}
    assert traces.judge(row, relation="products") == "cells"
    assert traces.emptied(row) == {"product_name": "***牌铁锅"}
    assert traces.judge({"phone": "13652817439", "name": "欧阳铁柱"}, relation="people") == "whole"
    published = traces.as_published()
    assert published.without("call 136****7439") == "call ***", "what masking has left of a phone in a text"
    assert published.emptied({"phone_masked": "136****7439"}) == {}, "another number may have this mask"


def test_called_and_borne() -> None:
    row = {"phone": "1", "name": " 王芳 ", "traits": '{"nickname":"阿芳","city":"成都"}'}
    assert called(row) == {"王芳", "阿芳"}
    assert "somebody else" in borne(row, "阿芳", of_people=True)
    assert borne({"remark": "欧阳铁柱的朋友"}, "欧阳铁柱", of_people=True) == ""
    assert "rows of others" in borne({"remark": "找 王芳"}, "王芳", of_people=True)
    assert "brand" in borne({"product_name": "张小泉菜刀"}, "张小泉", of_people=False)


def test_a_name_of_several_cannot_be_proven_absent_and_the_report_says_so(tmp_path: Path) -> None:
    home = Home(tmp_path)
    create_home(home)
    people = [
        ("1", "13652817431", "王芳"), ("2", "13652817432", "王芳"), ("3", "13652817433", "欧阳铁柱"),
        ("4", "13652817434", "张小泉"), ("5", "13652817435", "Lily"), ("6", "13652817436", "陈小波"),
    ]  # fmt: skip
    frame = pl.DataFrame(people, schema=["person_key", "phone", "name"], orient="row")
    land(home, "crm", Scripted([Batch("people", frame)]), STREAMS_BY_NAME["people"], now=NOW)
    things = pl.DataFrame({"product_id": ["P1"], "product_name": ["张小泉菜刀"]})
    land(home, "crm", Scripted([Batch("products", things)]), STREAMS_BY_NAME["products"], now=NOW)
    metrics = home.config / "metrics.yaml"
    metrics.write_text(f"{metrics.read_text(encoding='utf-8')}# owner: 陈小波\n", encoding="utf-8")

    def of(*phones: str) -> Traces:
        return widened(scene(home), Traces(frozenset(("phone", phone) for phone in phones)))

    assert of("13652817433").words == {"欧阳铁柱"}
    assert of("13652817433").unsought == ()
    assert (of("13652817431").words, of("13652817431").unsought) == (
        frozenset(), (("a name that somebody else bears as well", 1),),
    )  # fmt: skip
    both = of("13652817431", "13652817432")
    assert both.words == {"王芳"}, "when all who bear it go, it can be looked for"
    assert dict(of("13652817434", "13652817435", "13652817436").unsought) == {
        "a name that a thing or a member of staff of the brand bears as well": 1,
        UNTELLABLE: 1,
        "a name that the brand's own configuration uses as well": 1,
    }
