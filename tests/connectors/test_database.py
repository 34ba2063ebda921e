"""PostgreSQL and MariaDB over a real connection, and SQLite: every value intact, every change once, deletes seen."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from cdp.errors import ConfigError, FatalError, RetriableError
from tests.connectors.conftest import Server
from tests.source_support import Brand


@dataclass
class Table:
    """A table `members (id, phone, updated_at)` of some database, and the source that reads it."""

    run: Callable[..., Any]
    brand: Callable[..., Brand]


_STREAM = """
    streams:
      people:
        table: members
        cursor: updated_at
        page: 7
        {more}
        columns: {{person_key: id, member_id: id}}
"""


@pytest.fixture(params=["sqlite", "postgres", "mysql"])
def members(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Table]:
    kind = request.param
    if kind == "sqlite":
        connection: Any = sqlite3.connect(tmp_path / "crm.sqlite", isolation_level=None)
        where = "path: crm.sqlite"
        create = "create table members (id integer primary key, phone text, updated_at text)"
        mark = "?"
    elif kind == "postgres":
        server: Server = request.getfixturevalue("postgres")
        connection = server.postgres()
        where = f"host: {server.host}\n    database: postgres\n    user: postgres"
        create = "create table members (id bigint primary key, phone text, updated_at timestamp(6))"
        mark = "%s"
    else:
        server = request.getfixturevalue("mariadb")
        connection = server.mysql()
        where = f"host: {server.host}\n    port: {server.port}\n    database: shop\n    user: root"
        create = "create table members (id bigint primary key, phone varchar(30), updated_at datetime(6))"
        mark = "%s"
    cursor = connection.cursor()
    if kind == "mysql":
        cursor.execute("create database if not exists shop default character set utf8mb4")
        cursor.execute("use shop")
    cursor.execute("drop table if exists members")
    cursor.execute(create)

    def run(sql: str, *parameters: Any) -> None:
        cursor.execute(sql.replace("?", mark), parameters)

    def brand(more: str = "", lag: str = "0s") -> Brand:
        stream = _STREAM.format(more=more or "nulls: []")
        return Brand(tmp_path, f"sources:\n  crm:\n    connector: {kind}\n    lag: {lag}\n    {where}{stream}")

    yield Table(run, brand)
    connection.close()


def _fill(members: Table, count: int, at: str = "2026-01-01 00:00:00") -> None:
    for number in range(1, count + 1):
        members.run("insert into members values (?, ?, ?)", number, f"138{number:08d}", at)


def test_ties_on_the_cursor_lose_nothing_over_pages(members: Table) -> None:
    _fill(members, 40)
    brand = members.brand()
    assert brand.land("crm")["people"].landed == 40
    assert brand.land("crm")["people"].received == 0
    assert brand.latest("canonical__people", "member_id")[0] == ("1",)
    assert brand.sql("select distinct updated_at::text from raw.canonical__people") == [("2025-12-31 16:00:00+00",)]


def test_a_changed_row_comes_again_and_the_rest_does_not(members: Table) -> None:
    _fill(members, 20)
    brand = members.brand()
    brand.land("crm")
    members.run("update members set phone = '1', updated_at = '2026-02-01 00:00:00' where id = 5")
    members.run("insert into members values (?, ?, ?)", 99, "99", "2026-02-01 00:00:00")
    report = brand.land("crm")["people"]
    assert (report.received, report.landed) == (2, 2)
    assert dict(brand.latest("canonical__people", "member_id, phone"))["5"] == "1"


def test_rows_without_a_cursor_value_are_not_lost(members: Table) -> None:
    _fill(members, 3)
    members.run("insert into members values (?, ?, ?)", 50, "50", None)
    brand = members.brand()
    assert brand.land("crm")["people"].landed == 4
    again = brand.land("crm")["people"]
    assert (again.landed, again.duplicates) == (0, 1)


def test_hard_deletes_are_found_by_comparing_keys(members: Table) -> None:
    _fill(members, 30)
    brand = members.brand("deletes: true")
    brand.land("crm")
    members.run("delete from members where id in (3, 17)")
    assert brand.land("crm")["people"].deleted == 2
    assert brand.land("crm")["people"].deleted == 0
    assert len(brand.latest("canonical__people", "member_id")) == 28


def test_a_row_committed_later_than_the_lag_is_brought_by_the_key_comparison(members: Table) -> None:
    """Whoever reads on behind the place that was reached would never see it."""
    _fill(members, 20, "2026-01-02 00:00:00")
    brand = members.brand("deletes: true")
    assert brand.land("crm")["people"].landed == 20
    for number in (50, 51):
        members.run("insert into members values (?, ?, ?)", number, f"late {number}", "2026-01-01 00:00:00")
    members.run("delete from members where id = 3")
    report = brand.land("crm")["people"]
    assert (report.received, report.landed, report.deleted) == (2, 2, 1)
    assert dict(brand.latest("canonical__people", "member_id, phone"))["50"] == "late 50"
    assert len(brand.latest("canonical__people", "member_id")) == 21
    report = brand.land("crm")["people"]
    assert (report.received, report.landed, report.deleted) == (0, 0, 0)


def test_a_row_put_back_as_it_was_is_there_again(members: Table) -> None:
    _fill(members, 9)
    brand = members.brand("deletes: true")
    brand.land("crm")
    members.run("delete from members where id = 4")
    assert brand.land("crm")["people"].deleted == 1
    members.run("insert into members values (?, ?, ?)", 4, "13800000004", "2026-01-01 00:00:00")
    assert brand.land("crm")["people"].landed == 1
    assert len(brand.latest("canonical__people", "member_id")) == 9


def test_a_row_that_does_not_fit_is_rejected_once_however_often_keys_are_compared(members: Table) -> None:
    """And does not keep what was deleted from being seen."""
    members.run("drop table members")
    members.run(
        "create table members (id integer primary key, phone varchar(30), updated_at timestamp, born varchar(20))"
    )
    rows = [(number, "x", "2026-01-01 00:00:00", "soon" if number == 7 else "2000-01-01") for number in range(1, 30)]
    for row in rows:
        members.run("insert into members values (?, ?, ?, ?)", *row)
    brand = members.brand("deletes: true")
    brand.yaml = brand.yaml.replace("member_id: id}", "member_id: id, birthday: born}")
    report = brand.land("crm")["people"]
    assert (report.received, report.landed, report.duplicates, report.rejected) == (30, 28, 1, 1)
    members.run("delete from members where id = 2")
    members.run("insert into members values (?, ?, ?, ?)", 40, "late", "2025-01-01 00:00:00", "later")
    report = brand.land("crm")["people"]
    assert (report.received, report.duplicates, report.rejected, report.deleted) == (2, 1, 1, 0), "a new one is told"
    report = brand.land("crm")["people"]
    assert (report.received, report.duplicates, report.rejected, report.deleted) == (2, 2, 0, 1)


def test_times_without_a_zone_are_told_where_nobody_said_which_it_is(members: Table) -> None:
    _fill(members, 3)
    brand = members.brand()
    [note] = brand.land("crm")["people"].notes
    assert "`updated_at` holds times without a zone: read as Asia/Shanghai" in note
    assert "give `timezone:` under sources.crm" in note
    assert any("times without a zone" in told for _, _, told in brand.connector("crm").check().steps)
    brand.yaml = brand.yaml.replace("    lag:", "    timezone: UTC\n    lag:")
    members.run("update members set updated_at = '2026-03-01 00:00:00' where id = 1")
    assert brand.land("crm")["people"].notes == ()


def test_a_pull_ends_before_the_sources_clock_less_the_lag(members: Table) -> None:
    """A row stamped before the window's end but committed after the pull is there in the next pull."""
    members.run("insert into members values (?, ?, ?)", 1, "1", "2026-01-01 00:00:00")
    members.run("insert into members values (?, ?, ?)", 2, "2", "2999-01-01 00:00:00")
    brand = members.brand(lag="5m")
    assert brand.land("crm")["people"].landed == 1, "the future is left for later"
    members.run("insert into members values (?, ?, ?)", 3, "3", "2026-01-01 00:00:01")
    members.run("update members set updated_at = '2026-01-02 00:00:00' where id = 2")
    assert brand.land("crm")["people"].landed == 2


@pytest.mark.parametrize("kind", ["postgres", "mysql"])
def test_a_transaction_held_open_over_a_pull_is_not_lost(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Its rows bear the time of the statement, and are seen once committed: later, and behind rows read before.

    Within the lag nothing is read past them; one held open for longer than the lag is brought by a full pull.
    """
    server: Server = request.getfixturevalue({"postgres": "postgres", "mysql": "mariadb"}[kind])
    connect = server.postgres if kind == "postgres" else server.mysql
    user = {"postgres": "postgres", "mysql": "root"}[kind]
    where = f"host: {server.host}\n    port: {server.port}\n    user: {user}\n    timezone: UTC"
    with connect() as setup:
        database = "postgres" if kind == "postgres" else "late"
        if kind == "mysql":
            setup.cursor().execute("create database if not exists late")
    yaml = f"sources:\n  crm:\n    connector: {kind}\n    lag: LAG\n    {where}\n    database: {database}"
    stamp = "timestamp(6)" if kind == "postgres" else "datetime(6)"
    with connect(database) as quick, connect(database) as slow:
        quick.cursor().execute("drop table if exists held")
        quick.cursor().execute(f"create table held (id bigint primary key, phone text, updated_at {stamp})")
        yaml += _STREAM.format(more="nulls: []").replace("table: members", "table: held")
        brand = Brand(tmp_path, yaml.replace("LAG", "5m"))
        later = Brand(tmp_path, yaml.replace("LAG", "0s"))  # as if the lag had gone by meanwhile

        def members() -> list[str]:
            return sorted(row[0] for row in brand.latest("canonical__people", "member_id"))

        quick.cursor().execute("insert into held values (1, 'before', '2026-01-01')")
        assert brand.land("crm")["people"].landed == 1
        slow.cursor().execute("begin")
        slow.cursor().execute("insert into held values (2, 'held open', now())")
        quick.cursor().execute("insert into held values (3, 'quick', now())")
        assert brand.land("crm")["people"].received == 0, "nothing as young as the lag is read, so nothing is passed by"
        slow.cursor().execute("commit")
        assert later.land("crm")["people"].landed == 2
        assert members() == ["1", "2", "3"]

        slow.cursor().execute("begin")
        slow.cursor().execute("update held set phone = 'longer than the lag', updated_at = now() where id = 1")
        quick.cursor().execute("insert into held values (4, 'quick', now())")
        assert later.land("crm")["people"].landed == 1
        slow.cursor().execute("commit")
        assert later.land("crm")["people"].received == 0, "it stands behind the place that was reached"
        report = later.land("crm", full=True)["people"]
        assert (report.received, report.landed, report.duplicates) == (4, 1, 3)
        assert dict(brand.latest("canonical__people", "member_id, phone"))["1"] == "longer than the lag"

        slow.cursor().execute("begin")
        slow.cursor().execute("insert into held values (5, 'longer than the lag', now())")
        quick.cursor().execute("insert into held values (6, 'quick', now())")
        assert later.land("crm")["people"].landed == 1
        slow.cursor().execute("commit")
        assert later.land("crm")["people"].received == 0
        compared = Brand(tmp_path, later.yaml.replace("nulls: []", "deletes: true"))
        assert compared.land("crm")["people"].landed == 1
        assert members() == ["1", "2", "3", "4", "5", "6"]


def test_a_full_pull_changes_nothing_that_did_not_change(members: Table) -> None:
    _fill(members, 15)
    brand = members.brand()
    brand.land("crm")
    report = brand.land("crm", full=True)["people"]
    assert (report.received, report.landed, report.duplicates) == (15, 0, 15)


def test_check_shows_five_masked_rows(members: Table) -> None:
    _fill(members, 6)
    check = members.brand().connector("crm").check()
    assert check.ok, check.steps
    assert check.sample is not None
    assert check.sample["phone"][0] == "1*********1"


def test_a_missing_table_or_column_is_told(members: Table) -> None:
    brand = members.brand()
    brand.yaml = brand.yaml.replace("table: members", "table: membres")
    with pytest.raises(FatalError, match="membres"):
        brand.land("crm")
    brand.yaml = brand.yaml.replace("table: membres", "table: members").replace("cursor: updated_at", "cursor: changed")
    with pytest.raises(FatalError, match="no column changed; found id, phone, updated_at"):
        brand.land("crm")


def test_postgres_types_arrive_intact(postgres: Server, tmp_path: Path) -> None:
    with postgres.postgres() as con:
        con.execute("drop table if exists orders")
        con.execute(
            "create table orders (id numeric(30) primary key, amount numeric(12,2), paid timestamptz, made timestamp,"
            " info jsonb, note text, ok boolean, tags text[], raw bytea, key uuid)"
        )
        con.execute(
            "insert into orders values (12345678901234567890, 0.10, '2026-01-01 08:00:00+08', '2026-01-01 08:00:00',"
            " '{\"名\": [1, 2.5]}', '表情😀', true, '{a,b}', '\\xff00', '11111111-2222-3333-4444-555555555555')"
        )
    brand = Brand(
        tmp_path,
        f"""
sources:
  shop:
    connector: postgres
    host: {postgres.host}
    database: postgres
    user: postgres
    streams:
      orders:
        query: select *, 'a%' as pattern from orders
        cursor: paid
        columns: {{order_id: id, paid_at: paid, ordered_at: made}}
""",
    )
    brand.land("shop")
    [row] = brand.sql("select order_id, amount, paid_at::text, ordered_at::text, _extra from raw.canonical__orders")
    assert row[:4] == ("12345678901234567890", Decimal("0.10"), "2026-01-01 00:00:00+00", "2026-01-01 00:00:00+00")
    for part in ('"note":"表情😀"', '"ok":"true"', '{\\"名\\":[1,2.5]}', '"raw":"ff00"', '"pattern":"a%"'):
        assert part in row[4]
    assert brand.land("shop")["orders"].received == 0


def test_mysql_types_arrive_intact(mariadb: Server, tmp_path: Path) -> None:
    with mariadb.mysql() as con, con.cursor() as cursor:
        cursor.execute("create database if not exists types default character set utf8mb4")
        cursor.execute("use types")
        cursor.execute("drop table if exists orders")
        cursor.execute(
            "create table orders (id bigint unsigned primary key, amount decimal(18,2), paid datetime, at timestamp(6),"
            " born date, state enum('已付款','已完成'), info json, note text, flag tinyint(1), bits bit(1), f double)"
        )
        cursor.execute("set time_zone = '+08:00'")
        cursor.execute(
            "insert into orders values (18446744073709551615, 0.10, '0000-00-00 00:00:00', '2026-01-01 08:00:00.5',"
            " '0000-00-00', '已付款', '{\"名\": 1}', '表情😀', 1, b'1', 0.1),"
            " (2, 99999999999999.99, '2026-01-01 08:00:00', '2026-01-01 08:00:00.5', '2026-01-01', '已完成', null,"
            " 'it''s 100%', 0, b'0', null)"
        )
    brand = Brand(
        tmp_path,
        f"""
sources:
  shop:
    connector: mysql
    host: {mariadb.host}
    port: {mariadb.port}
    database: types
    user: root
    streams:
      orders:
        table: orders
        cursor: at
        page: 1
        columns:
          order_id: id
          paid_at: paid
          updated_at: at
          status: {{from: state, map: {{已付款: paid, 已完成: done}}}}
""",
    )
    brand.land("shop")
    rows = brand.sql(
        "select order_id, amount, paid_at::text, updated_at::text, status, _extra from raw.canonical__orders order by 1"
    )
    assert rows[0][:5] == (
        "18446744073709551615", Decimal("0.10"), None, "2026-01-01 00:00:00.5+00", "paid",
    )  # fmt: skip
    assert rows[1][:5] == (
        "2", Decimal("99999999999999.99"), "2026-01-01 00:00:00+00", "2026-01-01 00:00:00.5+00", "done",
    )  # fmt: skip
    for part in ('"note":"表情😀"', '"bits":"1"', '"flag":"1"', '"f":"0.1"', '{\\"名\\": 1}'):
        assert part in rows[0][5]
    assert '"note":"it\'s 100%"' in rows[1][5]
    assert brand.land("shop")["orders"].received == 0, "a timestamp cursor survives the state"


def test_zero_dates_in_the_cursor_hide_nothing_behind_them(mariadb: Server, tmp_path: Path) -> None:
    with mariadb.mysql() as con, con.cursor() as cursor:
        cursor.execute("create database if not exists zero")
        cursor.execute("use zero")
        cursor.execute("create or replace table members (id int primary key, at datetime)")
        rows = [(n, "0000-00-00 00:00:00" if n < 5 else "2026-01-01 00:00:00") for n in range(10)]
        cursor.executemany("insert into members values (%s, %s)", rows)
    yaml = f"""
sources:
  crm:
    connector: mysql
    host: {mariadb.host}
    port: {mariadb.port}
    database: zero
    user: root
    streams:
      people: {{table: members, cursor: at, page: 2, columns: {{person_key: id, updated_at: at}}}}
"""
    assert Brand(tmp_path, yaml).land("crm")["people"].landed == 10


def test_no_write_right_is_needed(postgres: Server, tmp_path: Path) -> None:
    with postgres.postgres() as con:
        con.execute("drop table if exists replica; create table replica (id int primary key)")
        con.execute("insert into replica values (1)")
        con.execute("do $$ begin if not exists (select from pg_roles where rolname = 'reader') then"
                    " create role reader login; end if; end $$")  # fmt: skip
        con.execute("grant select on replica to reader")
    yaml = f"""
sources:
  crm:
    connector: postgres
    host: {postgres.host}
    database: postgres
    user: reader
    streams: {{people: {{table: replica, columns: {{person_key: id}}}}}}
"""
    assert Brand(tmp_path, yaml).land("crm")["people"].landed == 1


@pytest.mark.parametrize("kind", ["postgres", "mysql"])
def test_wrong_credentials_are_told_without_the_password(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    server: Server = request.getfixturevalue({"postgres": "postgres", "mysql": "mariadb"}[kind])
    user = "nobody" if kind == "postgres" else "root"
    yaml = f"""
sources:
  crm:
    connector: {kind}
    host: {server.host}
    port: {server.port}
    database: x
    user: {user}
    password: env:DB_PASSWORD
    streams: {{people: {{table: t, columns: {{person_key: id}}}}}}
"""
    with pytest.raises(ConfigError, match=r"DB_PASSWORD.* is not set"):
        Brand(tmp_path, yaml).land("crm")
    with pytest.raises(ConfigError, match=f"refused user `{user}`") as caught:
        Brand(tmp_path, yaml, {"DB_PASSWORD": "hunter2"}).land("crm")
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("kind", ["postgres", "mysql"])
def test_a_refused_connection_is_retriable(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    yaml = f"""
sources:
  crm:
    connector: {kind}
    host: 127.0.0.1
    port: 1
    database: x
    user: x
    streams: {{people: {{table: t, columns: {{person_key: id}}}}}}
"""
    brand = Brand(tmp_path, yaml)
    connector = brand.connector("crm")
    connector.sleep = lambda seconds: None
    with pytest.raises(RetriableError, match=r"crm: .* at 127\.0\.0\.1:1 cannot be reached"):
        list(connector.pull(connector.streams()[0], {}))
    assert not connector.check().ok
