"""The analyst's guide and its notebook run as written, on a small published world."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pytest
import sqlalchemy

from tests.models.model_worlds import land, resolve_by_components
from warehouse.connection import open_warehouse
from warehouse.home import Home
from warehouse.models import ModelGraph, check_models, load_models, run_models
from warehouse.publish import publish
from warehouse.query import run_query
from warehouse.reader import sqlalchemy_url

GUIDES = Path(__file__).parents[2] / "docs" / "guides"
QUESTIONS = re.findall(r"```sql\n(.*?)```", (GUIDES / "analyst.md").read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def home(graph: ModelGraph, con: duckdb.DuckDBPyConnection, tmp_path: Path) -> Home:
    last_month = datetime.now(UTC).replace(day=1) - timedelta(days=10)
    land(con, "wecom__relations", [
        {"userid": "li", "external_userid": "wm1", "corpid": "ww", "unionid": "u1", "state": "poster",
         "added_at": last_month - timedelta(days=3)},
    ], source="wecom")  # fmt: skip
    land(con, "canonical__people", [{"person_key": "1", "member_id": "M1", "unionid": "u1", "name": "王小明"}])
    land(
        con,
        "canonical__orders",
        [{"order_id": "1", "member_id": "M1", "paid_at": last_month, "amount": 9, "status": "done"}],
    )
    run_models(con, graph, [*graph.select("staging"), "int_identity__evidence"])
    resolve_by_components(con)
    run_models(con, graph, [name for name in graph.order if graph.models[name].layer == "marts"])
    con.execute(
        "create table marts_db.marts.fct_tags_current as "
        "select one_id, 'lifecycle' as tag_group, '首购' as value, 1 as rank from marts_db.marts.dim_people"
    )
    home = Home(tmp_path)
    publish(home, con, version="v1", checks=[])
    return home


def test_every_question_of_the_guide_is_answered(home: Home) -> None:
    assert len(QUESTIONS) >= 6
    answers = [run_query(home, question).rows for question in QUESTIONS]
    best = answers[0][0]
    assert best[1:3] + best[4:] == ("王*明", None, 1, "lifecycle：首购")
    assert answers[1] == [("poster", 1, 1, 100.0)]
    assert answers[2] == [(3.0, 1)]
    assert [row[1] for row in answers[3]] == ["friend_added", "order_paid"]


def test_the_notebook_runs(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CDP_HOME", str(home.root))
    notebook = json.loads((GUIDES / "notebook.ipynb").read_text(encoding="utf-8"))
    scope: dict[str, object] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), scope)
    scope["con"].close()  # type: ignore[attr-defined]


def test_sqlalchemy_opens_the_published_version(home: Home) -> None:
    engine = sqlalchemy.create_engine(sqlalchemy_url(home))
    with engine.connect() as connection:
        assert connection.execute(sqlalchemy.text("select count(*) from marts.dim_people")).fetchall() == [(1,)]
    engine.dispose()


def test_the_model_of_the_models_guide_is_right(tmp_path: Path) -> None:
    text = re.search(r"```sql\n(.*?)```", (GUIDES / "models.md").read_text(encoding="utf-8"), re.DOTALL)
    assert text
    (tmp_path / "models" / "marts").mkdir(parents=True)
    (tmp_path / "models" / "marts" / "fct_channel_months.sql").write_text(text[1])
    with open_warehouse(Home(tmp_path), as_of=datetime(2026, 3, 1, tzinfo=UTC), timezone="UTC") as con:
        con.execute("create table marts_db.marts.fct_orders as select 'a' as channel, true as is_paid, "
                    "date '2026-02-03' as paid_date, 5 as net_amount")  # fmt: skip
        models = load_models(tmp_path / "models")
        check_models(models, con)
        assert run_models(con, models, ["fct_channel_months"])[0].rows == 1
