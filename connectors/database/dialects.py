"""What differs between SQLite, PostgreSQL and MySQL/MariaDB: connecting, quoting, the clock, and cells as text.

Sessions are read-only where the server knows the word, so an account without any write right is enough.
"""

from __future__ import annotations

import os
import re
import socket
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID
from zoneinfo import ZoneInfo

import orjson

from cdp.errors import ConfigError, FatalError, RetriableError
from connectors.registry import SourceContext
from connectors.settings import ServerDatabase, resolve

Row = Sequence[Any]
_ZERO_DATE = "0000-00-00"
_WALL_TIME = re.compile(r"\d{4}[-/]\d\d[-/]\d\d[ T]\d\d:\d\d(:\d\d(\.\d+)?)?")


class Session(Protocol):
    """One connection. `rows` gives (column names, rows)."""

    mark: str

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> tuple[list[str], list[Row]]: ...

    def quote(self, name: str) -> str: ...

    def now(self) -> datetime:
        """The source's own clock, UTC; ours where it has none."""

    def instant(self, like: Any, moment: datetime) -> Any:
        """*moment* as a value comparable with the cursor value *like*; None where *like* is no time."""

    def close(self) -> None: ...


@contextmanager
def session(context: SourceContext) -> Iterator[Session]:
    """An open connection. Raises `ConfigError` for a refused account or database, `RetriableError` when unreachable."""
    opened = _OPENERS[context.settings.connector](context)
    try:
        yield opened
    finally:
        opened.close()


def as_text(value: Any) -> str | None:
    """A driver's value as text that loses nothing: decimals in full, instants with their zone, JSON as JSON."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return value.isoformat(sep=" ")
    if isinstance(value, (int, float, Decimal, date, time, timedelta, UUID)):
        return format(value, "f") if isinstance(value, Decimal) else str(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return _bytes(bytes(value))
    if isinstance(value, (dict, list, tuple)):
        return orjson.dumps(value, default=as_text).decode()
    return str(value)


def is_wall_time(value: Any) -> bool:
    """Whether *value* is a time of day that does not say in which zone."""
    if isinstance(value, datetime):
        return value.tzinfo is None
    return isinstance(value, str) and bool(_WALL_TIME.fullmatch(value))


def _bytes(value: bytes) -> str:
    if value in (b"\x00", b"\x01"):
        return str(value[0])  # MySQL bit(1)
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value.hex()


# -- SQLite ------------------------------------------------------------------------------------------------------------


class _Sqlite:
    mark = "?"

    def __init__(self, context: SourceContext) -> None:
        path = context.root / Path(context.settings.path).expanduser()
        if not path.is_file():
            raise FatalError(f"{context.name}: {path} is not there", hint="check `path`; it is relative to the home")
        self.now_utc, self.zone = context.now, context.timezone
        self.connection = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=30)

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> tuple[list[str], list[Row]]:
        with _told(sqlite3.Error, sqlite3.OperationalError, busy=("locked", "busy")):
            cursor = self.connection.execute(sql, list(parameters))
            return [item[0] for item in cursor.description or ()], cursor.fetchall()

    def quote(self, name: str) -> str:
        return '"' + name.replace('"', '""') + '"'

    def now(self) -> datetime:
        return self.now_utc

    def instant(self, like: Any, moment: datetime) -> Any:
        """SQLite keeps times as text: written as the column writes them."""
        if not isinstance(like, str) or len(like) < 10 or like[4:5] not in "-/":
            return None
        zone = UTC if like.endswith(("Z", "+00:00")) else ZoneInfo(self.zone)
        separator = "T" if like[10:11] == "T" else " "
        return moment.astimezone(zone).strftime(f"%Y{like[4]}%m{like[4]}%d{separator}%H:%M:%S")

    def close(self) -> None:
        self.connection.close()


# -- servers -----------------------------------------------------------------------------------------------------------


class _Postgres:
    mark = "%s"

    def __init__(self, context: SourceContext) -> None:
        import psycopg

        settings: ServerDatabase = context.settings
        self.errors, self.zone = psycopg, context.timezone
        self.patience = settings.read_timeout + 2.0  # the server gives a statement up by itself, if it is there
        with _connecting(context, psycopg.OperationalError, _postgres_refusal):
            self.connection = psycopg.connect(
                host=settings.host,
                port=settings.port or 5432,
                dbname=settings.database,
                user=settings.user,
                password=_password(context),
                connect_timeout=settings.connect_timeout,
                sslmode="require" if settings.ssl else "prefer",
                autocommit=True,
                options="-c default_transaction_read_only=on -c client_encoding=UTF8 -c DateStyle=ISO"
                f" -c statement_timeout={settings.read_timeout}s",
            )

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> tuple[list[str], list[Row]]:
        with _told(self.errors.Error, self.errors.OperationalError), _watched(self.connection.fileno(), self.patience):
            cursor = self.connection.execute(sql.encode(), list(parameters) or None)
            return [item.name for item in cursor.description or ()], list(cursor.fetchall())

    def quote(self, name: str) -> str:
        return '"' + name.replace('"', '""') + '"'

    def now(self) -> datetime:
        clock: datetime = self.rows("select now()")[1][0][0]
        return clock

    def instant(self, like: Any, moment: datetime) -> Any:
        return _like(like, moment, self.zone)

    def close(self) -> None:
        self.connection.close()


def _postgres_refusal(error: Exception) -> bool:
    text = str(error)
    return any(part in text for part in ("authentication failed", "does not exist", "no password", "pg_hba"))


class _Mysql:
    mark = "%s"

    def __init__(self, context: SourceContext) -> None:
        import pymysql
        from pymysql.constants import FIELD_TYPE
        from pymysql.converters import conversions, convert_date, convert_datetime

        def wall_time(text: str) -> Any:
            return None if text.startswith(_ZERO_DATE) else convert_datetime(text)

        def instant(text: str) -> Any:
            value = wall_time(text)
            return value.replace(tzinfo=UTC) if isinstance(value, datetime) else value

        def day(text: str) -> Any:
            return None if text.startswith(_ZERO_DATE) else convert_date(text)

        readers: dict[int, Any] = {FIELD_TYPE.DATETIME: wall_time, FIELD_TYPE.TIMESTAMP: instant, FIELD_TYPE.DATE: day}
        settings: ServerDatabase = context.settings
        self.errors, self.zone = pymysql, context.timezone
        with _connecting(context, pymysql.err.OperationalError, _mysql_refusal):
            self.connection = pymysql.connect(
                host=settings.host,
                port=settings.port or 3306,
                database=settings.database,
                user=settings.user,
                password=_password(context) or "",
                connect_timeout=settings.connect_timeout,
                read_timeout=settings.read_timeout,
                charset="utf8mb4",
                autocommit=True,
                ssl={"check_hostname": False} if settings.ssl else None,
                conv=conversions | readers,
            )
        with _told(pymysql.Error, pymysql.err.OperationalError):
            self.connection.cursor().execute("set session transaction read only")
            self.connection.cursor().execute("set time_zone = '+00:00'")  # TIMESTAMP columns come as UTC

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> tuple[list[str], list[Row]]:
        with (
            _told(self.errors.Error, self.errors.err.OperationalError, self.errors.err.InterfaceError),
            self.connection.cursor() as cursor,
        ):
            cursor.execute(sql, [_mysql_parameter(value) for value in parameters] or None)
            return [item[0] for item in cursor.description or ()], list(cursor.fetchall())

    def quote(self, name: str) -> str:
        return "`" + name.replace("`", "``") + "`"

    def now(self) -> datetime:
        clock: datetime = self.rows("select utc_timestamp(6)")[1][0][0]
        return clock.replace(tzinfo=UTC)

    def instant(self, like: Any, moment: datetime) -> Any:
        return _like(like, moment, self.zone)

    def close(self) -> None:
        with _quietly(self.errors.Error):
            self.connection.close()


def _like(like: Any, moment: datetime, zone: str) -> Any:
    """Columns with a zone hold instants; those without hold wall time of the source's zone, not of the server's."""
    if not isinstance(like, datetime):
        return None
    return moment if like.tzinfo else moment.astimezone(ZoneInfo(zone)).replace(tzinfo=None)


def _mysql_parameter(value: Any) -> Any:
    """Instants without their zone: the session works in UTC, and the server takes no offset in a literal."""
    if isinstance(value, datetime):
        return value.replace(tzinfo=None)
    if isinstance(value, str) and value.endswith("+00:00") and value[4:5] == "-":
        return value.removesuffix("+00:00")
    return value


def _mysql_refusal(error: Exception) -> bool:
    return bool(error.args) and error.args[0] in (1044, 1045, 1049, 1698)


_OPENERS: dict[str, Callable[[SourceContext], Any]] = {"sqlite": _Sqlite, "postgres": _Postgres, "mysql": _Mysql}


def _password(context: SourceContext) -> str | None:
    given = context.settings.password
    if given is None:
        return None
    return resolve(given, context.environment, context.root, where=f"sources.{context.name}.password")


@contextmanager
def _connecting(
    context: SourceContext, kind: type[Exception], is_refusal: Callable[[Exception], bool]
) -> Iterator[None]:
    """Errors of connecting as ours. The driver's own text is left out: it may name what should stay private."""
    settings = context.settings
    where = f"{context.name}: {settings.connector} at {settings.host}:{settings.port or 'default port'}"
    try:
        yield
    except kind as error:
        if is_refusal(error):
            raise ConfigError(
                f"{where} refused user `{settings.user}` on database `{settings.database}`",
                hint="check `user`, `password` and `database` of the source, and the server's rules for this address",
            ) from None
        raise RetriableError(
            f"{where} cannot be reached ({type(error).__name__})", hint="is it up, and is the port open from here?"
        ) from None


@contextmanager
def _told(kind: type[Exception], *lost: type[Exception], busy: Sequence[str] = ()) -> Iterator[None]:
    """A query's errors as ours: a lost connection may go through again, a wrong query will not."""
    try:
        yield
    except kind as error:
        text = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
        gone = isinstance(error, lost) and (not busy or any(part in text for part in busy))
        missing = any(part in text for part in ("no such", "doesn't exist", "Unknown column", "denied", "syntax"))
        if gone and not missing:
            raise RetriableError(f"the database broke off: {text}") from error
        raise FatalError(f"the query failed: {text}", hint="check `table`, `query`, `cursor` and `key`") from error


@contextmanager
def _watched(connection: int, seconds: float) -> Iterator[None]:
    """Break *connection* (a socket's number) when its answer takes longer: psycopg itself would wait for ever."""

    def give_up() -> None:
        with socket.socket(fileno=os.dup(connection)) as end:
            end.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def _quietly(kind: type[Exception]) -> Iterator[None]:
    try:
        yield
    except kind:
        return
