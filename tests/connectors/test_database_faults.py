"""PostgreSQL and MariaDB that break off, hang and restart while a table is read: what landed is what is there."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cdp.errors import CdpError
from connectors.database import connector as module
from tests.connectors.conftest import Server
from tests.source_support import NOW, Brand
from warehouse.landing import land

ROWS = 120


class Wire:
    """Stands between a client and a server. *cut*: connections left to break, each after so many bytes of answers.

    A broken connection is reset, or (*silent*) stays open and says no more.
    """

    def __init__(self, reach: Callable[[], socket.socket]) -> None:
        self.reach, self.cut, self.silent, self.broken = reach, list[int](), False, 0
        self.ends: list[socket.socket] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                server = self.reach()
                self.ends += [client, server]
                left = self.cut.pop(0) if self.cut else None
                threading.Thread(target=self._pass, args=(client, server, None), daemon=True).start()
                threading.Thread(target=self._pass, args=(server, client, left), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, left: int | None) -> None:
        with suppress(OSError):
            while block := source.recv(1 << 14):
                if left is not None and len(block) >= left:
                    target.sendall(block[:left])
                    self.broken += 1
                    if self.silent:
                        return
                    break
                left = None if left is None else left - len(block)
                target.sendall(block)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        for end in (self.listener, *self.ends):
            end.close()


@dataclass
class Table:
    """A table `faulty` of a real server behind a wire, and the source that reads it in small pages."""

    server: Server
    connect: Callable[[], Any]
    wire: Wire
    yaml: str
    restart: Callable[[], None]

    def run(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        with closing(self.connect()) as con, closing(con.cursor()) as cursor:
            cursor.execute(sql, values)
            return list(cursor.fetchall()) if cursor.description else []

    def truth(self) -> list[tuple[Any, ...]]:
        return sorted((str(key), phone) for key, phone in self.run("select id, phone from faulty"))


@pytest.fixture(params=["postgres", "mysql"])
def table(request: pytest.FixtureRequest) -> Iterator[Table]:
    kind = request.param
    if kind == "postgres":
        server: Server = request.getfixturevalue("postgres")

        def reach() -> socket.socket:
            client = socket.socket(socket.AF_UNIX)
            client.connect(f"{server.host}/.s.PGSQL.5432")
            return client

        def connect() -> Any:
            return server.postgres()

        stamp, user, database = "timestamptz", "postgres", "postgres"
    else:
        server = request.getfixturevalue("mariadb")

        def reach() -> socket.socket:
            return socket.create_connection((server.host, server.port))

        with closing(server.mysql()) as con, closing(con.cursor()) as cursor:
            cursor.execute("create database if not exists faulty")

        def connect() -> Any:
            return server.mysql("faulty")

        stamp, user, database = "timestamp", "root", "faulty"
    wire = Wire(reach)
    yaml = f"""
sources:
  crm:
    connector: {kind}
    host: 127.0.0.1
    port: {wire.port}
    user: {user}
    database: {database}
    lag: 0s
    connect_timeout: 2
    read_timeout: 1
    streams:
      people: {{table: faulty, cursor: changed_at, page: 20, deletes: true, columns: {{person_key: id, phone: phone}}}}
"""
    made = Table(server, connect, wire, yaml, server.restart)
    made.run("drop table if exists faulty")
    made.run(f"create table faulty (id bigint primary key, phone varchar(40), changed_at {stamp} not null)")
    with closing(connect()) as con, closing(con.cursor()) as cursor:
        cursor.executemany(
            "insert into faulty values (%s, %s, '2026-01-01 00:00:00')",
            [(n, f"138{n:08d}") for n in range(1, ROWS + 1)],
        )
    yield made
    wire.close()


class Source:
    """The table as a stream of a home; *between* happens before the *n*-th query is sent."""

    def __init__(self, root: Path, table: Table) -> None:
        self.brand, self.table = Brand(root, table.yaml), table

    def land_until_it_ends(self, act: Callable[[], None] | None = None, *, at: int = 9) -> int:
        """How many pulls it took."""
        for attempt in range(1, 8):
            connector = self.brand.connector("crm")
            connector.sleep = lambda _: None
            if act is not None and attempt == 1:
                _before_query(connector, at, act)
            try:
                land(self.brand.home, "crm", connector, connector.streams()[0], now=NOW)
            except CdpError:
                continue
            return attempt
        pytest.fail("no pull ended")

    def landed(self) -> list[tuple[Any, ...]]:
        return sorted(self.brand.latest("canonical__people", "person_key, phone"))


def _before_query(connector: Any, number: int, act: Callable[[], None]) -> None:
    left, ask = number, connector._rows

    def rows(sql: str, parameters: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0:
            act()
        return ask(sql, parameters)

    connector._rows = rows


def _change(table: Table) -> None:
    table.run("delete from faulty where id in (5, 110)")
    table.run("insert into faulty values (900, 'new', '2026-02-01 00:00:00')")
    table.run("insert into faulty values (901, 'late', '2025-02-01 00:00:00')")
    table.run("update faulty set phone = 'changed', changed_at = '2026-02-02 00:00:00' where id <= 60")


def _assert_true(source: Source) -> None:
    assert source.landed() == source.table.truth()
    versions = source.brand.sql("select count(*) from raw.canonical__people")
    source.land_until_it_ends()
    assert source.landed() == source.table.truth()
    assert source.brand.sql("select count(*) from raw.canonical__people") == versions, "nothing landed twice"


@pytest.mark.parametrize("silent", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["reset", "hang"])
@pytest.mark.parametrize("bytes_before", [900, 2500, pytest.param(4000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("first", [True, False], ids=["first pull", "later pull"])
def test_a_wire_that_breaks_loses_nothing(
    table: Table, tmp_path: Path, first: bool, bytes_before: int, silent: bool
) -> None:
    source = Source(tmp_path, table)
    if not first:
        source.land_until_it_ends()
        assert source.landed() == table.truth()
        _change(table)
    table.wire.cut, table.wire.silent = [bytes_before] * 2, silent
    source.land_until_it_ends()
    assert table.wire.broken, "it came about"
    _assert_true(source)


def test_a_server_that_restarts_during_a_pull_loses_nothing(table: Table, tmp_path: Path) -> None:
    source = Source(tmp_path, table)
    source.land_until_it_ends(table.restart)
    assert source.landed() == table.truth()
    _change(table)
    source.land_until_it_ends(table.restart, at=3)
    _assert_true(source)


def test_a_server_that_refuses_until_later_is_asked_again(table: Table, tmp_path: Path) -> None:
    source = Source(tmp_path, table)
    table.wire.cut = [1] * (module._ATTEMPTS + 2)
    assert source.land_until_it_ends() == 2
    _assert_true(source)


def test_rows_that_change_while_the_table_is_read(table: Table, tmp_path: Path) -> None:
    """The page before had been read; what moved is right with the next pull at the latest."""
    source = Source(tmp_path, table)
    source.land_until_it_ends(lambda: _change(table))
    source.land_until_it_ends()
    _assert_true(source)


def test_a_locked_table_is_waited_for_no_longer_than_said(table: Table, tmp_path: Path) -> None:
    source = Source(tmp_path, table)
    with closing(table.connect()) as con, closing(con.cursor()) as cursor:
        if "postgres" in table.yaml:
            cursor.execute("begin")
            cursor.execute("lock table faulty in access exclusive mode")
        else:
            cursor.execute("lock tables faulty write")
        connector = source.brand.connector("crm")
        connector.sleep = lambda _: None
        with pytest.raises(CdpError, match="the database broke off"):
            land(source.brand.home, "crm", connector, connector.streams()[0], now=NOW)
    source.land_until_it_ends()
    _assert_true(source)
