"""Guard rails: what analysts type reaches published tables and nothing else."""

from __future__ import annotations

import json
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import polars as pl
import pytest

from cdp.errors import CdpError, ConfigError, FatalError
from warehouse.connection import open_warehouse
from warehouse.guard import RefusedError
from warehouse.home import Home
from warehouse.publish import publish
from warehouse.query import run_query, save, to_bytes
from warehouse.reader import connect

NOW = datetime(2026, 3, 1, 3, tzinfo=UTC)

HOSTILE = [
    # writes
    "insert into marts.dim_people values ('x', 'y', 1)",
    "update marts.dim_people set city = 'x'",
    "delete from marts.dim_people",
    "truncate marts.dim_people",
    "merge into marts.dim_people using marts.dim_people as o on true when matched then delete",
    "drop table marts.dim_people",
    "alter table marts.dim_people add column x int",
    "create table x as select 1",
    "create temp table x as select 1",
    "create or replace view v as select 1",
    "create macro f(x) as x",
    "create schema s",
    "create sequence q",
    "create secret (type s3, key_id 'x')",
    "create type mood as enum ('a')",
    "comment on table marts.dim_people is 'x'",
    "vacuum",
    "checkpoint",
    "begin transaction",
    "commit",
    # files and network
    "select * from read_csv('/etc/passwd')",
    "select * from read_csv_auto('/etc/passwd')",
    "select * from read_text('/etc/passwd')",
    "select * from read_blob('/etc/passwd')",
    "select * from read_json('/etc/passwd')",
    "select * from read_json_objects('/etc/passwd')",
    "select * from read_parquet('/tmp/x.parquet')",
    "select * from parquet_scan('/tmp/x.parquet')",
    "select * from parquet_metadata('/tmp/x.parquet')",
    "select * from sniff_csv('/etc/passwd')",
    "select * from glob('/etc/*')",
    "select * from '/etc/passwd'",
    'select * from "/etc/passwd"',
    "select * from 'https://example.com/x.parquet'",
    "select * from read_csv('https://example.com/x.csv')",
    "select * from read_duckdb('/tmp/x.duckdb')",
    "from read_text('/etc/passwd')",
    "select (select content from read_text('/etc/passwd'))",
    "with x as (select * from read_text('/etc/passwd')) select * from x",
    "select 1 union all select content from read_text('/etc/passwd')",
    "select * from marts.dim_people where one_id in (select content from read_text('/etc/passwd'))",
    "select * from marts.dim_people, lateral (select * from read_text('/etc/passwd'))",
    "copy marts.dim_people to '/tmp/x.csv'",
    "copy (select 1) to '/tmp/x.csv'",
    "copy marts.dim_people from '/etc/passwd'",
    "export database '/tmp/x'",
    "import database '/tmp/x'",
    "attach '/tmp/x.duckdb' as x",
    "attach ':memory:' as x",
    "detach marts",
    "install httpfs",
    "load httpfs",
    "load '/tmp/evil.duckdb_extension'",
    # settings and the system
    "set memory_limit = '100GB'",
    "set enable_external_access = true",
    "reset max_execution_time",
    "pragma database_list",
    "pragma enable_profiling",
    "call pragma_version()",
    "select * from duckdb_settings()",
    "select * from duckdb_secrets()",
    "select * from duckdb_databases()",
    "select * from duckdb_tables",
    "select * from pragma_database_list",
    "select * from pragma_storage_info('marts.dim_people')",
    "select * from information_schema.tables",
    "select * from pg_catalog.pg_class",
    "select * from sqlite_master",
    "select current_setting('memory_limit')",
    "select getenv('HOME')",
    "show databases",
    "show all tables",
    "use system",
    # text as SQL, other statements, tricks of one parser
    "select * from query('select 1')",
    "select * from query_table('marts.dim_people')",
    "select json_execute_serialized_sql('{}')",
    "select * from json_execute_serialized_sql(json_serialize_sql('select 1'))",
    "prepare p as select 1",
    "execute p",
    "explain analyze select 1",
    "select 1; drop table marts.dim_people",
    "select 1; select * from read_text('/etc/passwd')",
    "select 1 /* ; */ ; -- \n drop table marts.dim_people",
    "select 1\x00; drop table marts.dim_people",
    "with duckdb_settings as (select 1) select * from duckdb_settings",
    "with t as (select * from pragma_database_list) select * from t",
    "select * from (with pragma_database_list as (select 1) select 1), pragma_database_list",
    'with "/etc/passwd" as (select 1) select 1 from (select 1), "/etc/passwd"',
    "select * from system.main.duckdb_settings",
    "select * from memory.main.x",
    "select * from _meta.nothing",
    "select * from staging.stg_people",
    "select * from identity.identifier_value",
    "select * from raw.canonical__people",
    "select sleep_ms(60000)",
    "select pg_sleep(60)",
    "select nextval('q')",
    "select write_log('x')",
    "pivot marts.dim_people on city using count(*)",
    "",
    ";;",
    "selec 1",
    "'; drop table marts.dim_people; --",
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with one published version of one small table."""
    home = Home(tmp_path_factory.mktemp("home"))
    with open_warehouse(home, as_of=NOW, timezone="Asia/Shanghai") as con:
        con.execute("create table staging.stg_people as select '13800138000' as phone")
        con.execute(
            "create table marts_db.marts.dim_people as select 'p' || i as one_id, "
            "case when i % 2 = 0 then '上海' else '=1+1' end as city, i * 1.5::decimal(18, 2) as amount, "
            "timestamptz '2026-02-10 04:00:00+00' as seen_at from range(2500) as t(i)"
        )
        con.execute("create schema marts_pii")
        con.execute("create table marts_pii.dim_contacts as select 'p1' as one_id, '13800138000' as phone")
        con.execute("create table marts_db.marts.dim_contacts as select 'p1' as one_id, '138****8000' as phone")
        publish(home, con, version="v1", checks=[], now=NOW, pii=True)
    return home


def test_there_are_enough_hostile_statements() -> None:
    assert len(set(HOSTILE)) >= 100


@pytest.mark.parametrize("sql", HOSTILE)
def test_no_hostile_statement_gets_through(home: Home, sql: str) -> None:
    with pytest.raises(RefusedError):
        run_query(home, sql, timeout_s=5)


@pytest.mark.parametrize(
    "sql",
    [
        *(sql for sql in HOSTILE if "/etc/passwd" in sql and "with \"" not in sql),
        *(sql for sql in HOSTILE if sql.split(" ")[0] in ("copy", "export", "install", "set", "insert")),
        "attach '/tmp/x.duckdb' as x",
    ],
)  # fmt: skip
def test_the_connection_itself_holds_without_the_guard(home: Home, sql: str) -> None:
    with connect(home, timeout_s=5) as con, pytest.raises(duckdb.Error):
        con.execute(sql).fetchall()


@pytest.mark.parametrize(
    "sql",
    [
        "select count(*) from marts.dim_people",
        "select count(*) from DIM_PEOPLE;",
        "from dim_people limit 3",
        "with t as (select * from dim_people), u as (select * from t) select * from u join t using (one_id) limit 1",
        "select * from unnest([1, 2]) as t(x)",
        "select date_trunc('month', seen_at) as month, sum(amount) from dim_people group by all order by all",
        "select city, row_number() over (order by one_id) as place from dim_people qualify place < 3",
        "describe select * from dim_people",
        "summarize dim_people",
        "show tables",
        "select version from _meta.version",
        "select 'drop table x; attach' as words",
        "values (1, 2)",
    ],
)
def test_ordinary_questions_are_answered(home: Home, sql: str) -> None:
    assert run_query(home, sql).rows


def test_the_answer_says_its_version_age_tables_and_cut(home: Home) -> None:
    result = run_query(home, "select one_id from dim_people order by 1", limit=10, now=NOW + timedelta(hours=2))
    assert (result.version, result.age, result.tables) == ("v1", timedelta(hours=2), ("marts.dim_people",))
    assert (result.truncated, len(result.rows)) == (True, 10)
    assert not run_query(home, "select one_id from dim_people limit 10", limit=10).truncated
    assert len(run_query(home, "from dim_people", limit=None).rows) == 2500


def test_an_old_version_is_warned_about(home: Home) -> None:
    result = run_query(home, "select 1", now=NOW + timedelta(days=3))
    assert result.warnings == ("published 3 days ago: has the daily run failed? (`cdp publish list`)",)


def test_instants_show_in_the_brands_zone(home: Home) -> None:
    assert run_query(home, "select cast(seen_at as varchar) from dim_people limit 1").rows == [
        ("2026-02-10 12:00:00+08",)
    ]


def test_a_runaway_query_is_cut(home: Home) -> None:
    with pytest.raises(FatalError, match="took longer than 1 s"):
        run_query(home, "select count(*) from range(100000000) a, range(100000000) b", timeout_s=1)


def test_misspelt_names_are_told_with_the_nearest(home: Home) -> None:
    with pytest.raises(
        RefusedError, match=r"no published table is called `dim_peopl`; did you mean `marts.dim_people`\?"
    ):
        run_query(home, "select * from dim_peopl")
    with pytest.raises(FatalError, match=r"no column is called `one_idd`; did you mean `one_id`\?"):
        run_query(home, "select one_idd from dim_people")


def test_every_query_is_logged_by_hash_never_by_text(home: Home) -> None:
    with pytest.raises(RefusedError):
        run_query(home, "select '13912345678' from nothing", user="li")
    run_query(home, "select '13912345678' as phone, * from dim_contacts", role="analyst_pii", purpose="回访", user="li")
    lines = (home.logs / "queries.jsonl").read_text().splitlines()
    assert "13912345678" not in "".join(lines)
    refused, ran = (json.loads(line) for line in lines[-2:])
    assert (refused["outcome"], ran["outcome"]) == ("RefusedError", "ok")
    assert (ran["user"], ran["role"], ran["purpose"], ran["rows"]) == ("li", "analyst_pii", "回访", 1)
    assert ran["tables"] == ["marts.dim_contacts"]


def test_personal_data_needs_the_role_and_a_purpose(home: Home) -> None:
    assert run_query(home, "select phone from dim_contacts").rows == [("138****8000",)]
    assert run_query(home, "select phone from dim_contacts", role="analyst_pii", purpose="回访").rows == [
        ("13800138000",)
    ]
    with pytest.raises(RefusedError, match="needs a purpose"):
        run_query(home, "select phone from dim_contacts", role="analyst_pii", purpose=" ")
    with pytest.raises(RefusedError, match="may not run SQL"):
        run_query(home, "select 1", role="viewer")  # type: ignore[arg-type]


def test_downloads_open_where_people_open_them(home: Home, tmp_path: Path) -> None:
    result = run_query(
        home,
        "select '0012345678901234567' as id, one_id, city, amount, seen_at, [1, 2] as list from dim_people limit 2",
    )
    text = to_bytes(result, "csv").decode("utf-8")
    assert text.startswith("\ufeffid,one_id,city,amount,seen_at,list\n0012345678901234567,")
    assert "'=1+1" in text  # no cell runs as a formula
    assert json.loads(to_bytes(result, "json"))[0]["amount"] == "0.00"
    save(result, "parquet", tmp_path / "x.parquet")
    assert pl.read_parquet(tmp_path / "x.parquet")["id"].to_list() == ["0012345678901234567"] * 2
    save(result, "xlsx", tmp_path / "x.xlsx")
    frame = pl.read_excel(tmp_path / "x.xlsx", sheet_name="data", infer_schema_length=0)
    assert frame["id"].to_list() == ["0012345678901234567"] * 2
    with zipfile.ZipFile(tmp_path / "x.xlsx") as book:
        assert b"<f>" not in book.read("xl/worksheets/sheet1.xml")
    assert not list(tmp_path.glob("*.tmp"))


def test_nothing_published_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing has been published yet"):
        run_query(Home(tmp_path), "select 1")


def test_deep_nesting_is_refused_not_crashed(home: Home) -> None:
    with pytest.raises(CdpError):
        run_query(home, "select " + "(" * 5000 + "1" + ")" * 5000)
