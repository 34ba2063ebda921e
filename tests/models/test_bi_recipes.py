"""What the guides for Superset, Metabase and DBeaver promise, with the drivers that Python has."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pytest
import sqlalchemy
from sqlalchemy.pool import NullPool

from warehouse.connection import open_warehouse
from warehouse.home import Home
from warehouse.publish import publish

GUIDES = Path(__file__).parents[2] / "docs" / "guides"
AS_OF = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path)
    make(home, "v1")
    return home


def make(home: Home, version: str) -> None:
    with open_warehouse(home, as_of=AS_OF, timezone="Asia/Shanghai") as con:
        con.execute(f"create or replace table marts_db.marts.dim_people as select '{version}' as one_id")
        con.execute("comment on table marts_db.marts.dim_people is '人 | people'")
        publish(home, con, version=version, checks=[])


def url(home: Home, guide: str = "superset.md") -> sqlalchemy.URL:
    """The address the guide gives, with this home's folder in it."""
    found = re.search(r"(duckdb:///\S+)", (GUIDES / guide).read_text(encoding="utf-8"))
    assert found
    return sqlalchemy.make_url(found[1].replace("/cdp/published", str(home.published)))


def says(engine: sqlalchemy.Engine) -> str:
    with engine.connect() as connection:
        return str(connection.execute(sqlalchemy.text("select one_id from marts.dim_people")).scalar_one())


def test_superset_opens_the_version_of_the_moment(home: Home) -> None:
    text = re.search(r"```python\n(.*?)```", (GUIDES / "superset.md").read_text(encoding="utf-8"), re.DOTALL)
    assert text
    scope: dict[str, Any] = {}
    exec(text[1], scope)

    def engine() -> sqlalchemy.Engine:
        address, options = scope["DB_CONNECTION_MUTATOR"](url(home), {"poolclass": NullPool}, "li", None, None)
        return sqlalchemy.create_engine(address, **options)

    with engine().connect() as held:  # somebody's query that is still running
        assert held.execute(sqlalchemy.text("select one_id from marts.dim_people")).scalar_one() == "v1"
        make(home, "v2")
        assert says(engine()) == "v2"
    other = sqlalchemy.make_url("duckdb:////elsewhere/x.duckdb")
    assert scope["DB_CONNECTION_MUTATOR"](other, {}, "li", None, None) == (other, {})


def test_the_fixed_path_leads_to_the_new_version_while_the_old_one_is_held(home: Home) -> None:
    closing = sqlalchemy.create_engine(url(home), poolclass=NullPool)
    with closing.connect() as held:
        assert held.execute(sqlalchemy.text("select one_id from marts.dim_people")).scalar_one() == "v1"
        make(home, "v2")
        assert says(closing) == "v2"
        assert held.execute(sqlalchemy.text("select one_id from marts.dim_people")).scalar_one() == "v1"


def test_the_file_cannot_be_written_through_the_address(home: Home) -> None:
    engine = sqlalchemy.create_engine(url(home), poolclass=NullPool)
    with engine.connect() as connection, pytest.raises(Exception, match="read-only mode"):
        connection.execute(sqlalchemy.text("delete from marts.dim_people"))


def test_tools_find_tables_with_their_meaning(home: Home) -> None:
    """What DBeaver's and Metabase's drivers read: the catalog of a read-only connection."""
    with duckdb.connect(str(home.published / "current.duckdb"), read_only=True) as con:
        assert con.execute("select comment from duckdb_tables() where schema_name = 'marts'").fetchall() == [
            ("人 | people",)
        ]
        tables = con.execute("select table_schema, table_name from information_schema.tables order by all").fetchall()
    assert tables == [("_meta", "checks"), ("_meta", "lineage"), ("_meta", "version"), ("marts", "dim_people")]


@pytest.mark.parametrize("guide", ["superset.md", "metabase.md", "dbeaver.md"])
def test_a_guide_sends_nobody_to_the_pipelines_own_files(guide: str) -> None:
    text = (GUIDES / guide).read_text(encoding="utf-8")
    assert "data/published" in text
    for line in text.splitlines():
        assert "warehouse.duckdb" not in line or "Never open" in line
