"""What every asset tells of itself in Dagster after a run: rows, columns and what they mean, where they come from, and
a few rows without personal data."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import dagster as dg
import pytest

from pipelines.build import build_definitions
from pipelines.sql_assets import model_graph
from tests.e2e.conftest import WholeWay

pytestmark = [pytest.mark.xdist_group("e2e"), pytest.mark.timeout(600)]
TABLES = ("staging", "identity", "intermediate", "marts")


@pytest.fixture(scope="module")
def told(whole_way: WholeWay) -> Iterator[dict[str, Mapping[str, Any]]]:
    """Asset -> metadata of its definition under that of its materialisation in the run."""
    before = os.environ.get("DAGSTER_HOME")
    os.environ["DAGSTER_HOME"] = str(whole_way.home.dagster)
    try:
        with dg.DagsterInstance.get() as instance:
            logs = instance.all_logs(whole_way.outcome.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)
            specs = build_definitions(whole_way.home).resolve_all_asset_specs()
            found = {spec.key.to_user_string(): dict(spec.metadata) for spec in specs}
            for entry in logs:
                assert entry.dagster_event
                made = entry.dagster_event.step_materialization_data.materialization
                found[made.asset_key.to_user_string()] |= {"made": True, **made.metadata}
            yield found
    finally:
        os.environ.pop("DAGSTER_HOME")
        os.environ |= {"DAGSTER_HOME": before} if before else {}


def tables(told: Mapping[str, Mapping[str, Any]], *schemas: str) -> dict[str, Mapping[str, Any]]:
    found = {name: facts for name, facts in told.items() if name.split("/")[0] in schemas}
    assert found
    return found


def columns_of(facts: Mapping[str, Any]) -> Sequence[dg.TableColumn]:
    """Columns as a materialisation tells them, else as the definition does."""
    schema = facts["dagster/column_schema"]
    found: Sequence[dg.TableColumn] = getattr(schema, "value", schema).columns
    return found


def test_a_run_makes_every_asset(told: dict[str, Mapping[str, Any]]) -> None:
    assert [name for name, facts in told.items() if "made" not in facts] == []


def test_tables_say_how_many_rows_they_have_and_show_some(told: dict[str, Mapping[str, Any]]) -> None:
    """A view holds none, and to count them would compute it; of raw, rows are counted and none is shown."""
    views = {name.replace(".", "/") for name, model in model_graph().models.items() if model.materialized == "view"}
    wanted = {name: facts for name, facts in tables(told, *TABLES).items() if name not in views}
    assert len(wanted) > 60
    assert [name for name, facts in wanted.items() if not {"dagster/row_count", "preview"} <= set(facts)] == []
    assert [name for name, facts in tables(told, "raw").items() if "dagster/row_count" not in facts] == []
    shown = [facts["preview"].value for facts in wanted.values() if facts["dagster/row_count"].value]
    assert len(shown) > 50
    assert all(len(text.splitlines()) >= 3 for text in shown)


def test_no_preview_has_a_column_that_says_who_somebody_is(told: dict[str, Mapping[str, Any]]) -> None:
    assert not any("preview" in facts for facts in tables(told, "raw").values())
    heads = {name: facts["preview"].value.splitlines()[0] for name, facts in told.items() if "preview" in facts}
    for column in ("phone", "name", "unionid", "openid", "external_userid", "email", "member_id", "value_norm"):
        assert [name for name, head in heads.items() if f"| {column} |" in head] == []


def test_every_column_says_what_it_means(told: dict[str, Mapping[str, Any]]) -> None:
    bare = []
    for name, facts in tables(told, *TABLES).items():
        columns = columns_of(facts)
        assert columns, name
        assert all(column.type for column in columns), name
        bare += [f"{name}.{column.name}" for column in columns if not column.description]
    assert bare == []
    assert all(columns_of(facts) for facts in tables(told, "raw").values())


def test_columns_know_where_they_come_from(told: dict[str, Mapping[str, Any]]) -> None:
    """Of a model all that it takes from somewhere; of a table that code makes, its ids and keys."""
    known = {
        f"{name}.{column.name}" for name, facts in tables(told, "raw", *TABLES).items() for column in columns_of(facts)
    }
    lost = []
    for name, facts in tables(told, "staging", "intermediate", "marts").items():
        lineage = facts["dagster/column_lineage"].value.deps_by_column
        columns = {column.name for column in columns_of(facts)}
        assert set(lineage) <= columns, name
        lost += [
            (name, dep.asset_key.to_user_string(), dep.column_name)
            for deps in lineage.values()
            for dep in deps
            if dep.asset_key.path[0] in ("staging", "intermediate", "marts")
            and f"{dep.asset_key.to_user_string()}.{dep.column_name}" not in known
        ]
    assert lost == []
    sent = told["marts/dim_people"]["dagster/column_lineage"].value.deps_by_column
    assert {dep.asset_key.to_user_string() for dep in sent["one_id"]} == {"identity/people"}
    features = told["marts/fct_rfm"]["dagster/column_lineage"].value.deps_by_column
    assert dg.TableColumnDep(dg.AssetKey(["marts", "fct_person_features"]), "one_id") in features["one_id"]
