"""What a page of the daily report is made of, and how its numbers are written."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal
from zoneinfo import ZoneInfo

import duckdb

Tone = Literal["", "good", "warn", "bad"]
Locale = Literal["zh", "en"]
_SIGNS = {"CNY": "¥", "USD": "$", "EUR": "€", "HKD": "HK$", "JPY": "JP¥"}


@dataclass(frozen=True)
class Fact:
    """One number with its name."""

    label: str
    value: str
    note: str = ""
    tone: Tone = ""


@dataclass(frozen=True)
class Chart:
    """One picture; *svg* is our own, not text from data."""

    title: str
    svg: str
    note: str = ""


@dataclass(frozen=True)
class Grid:
    """One table. The first column is text; the others are numbers where *numeric* says so."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    numeric: bool = True
    note: str = ""


@dataclass(frozen=True)
class Section:
    """One part of the page. *lead*: the sentence to read if one reads no more. *empty*: why there is nothing.
    *top*: its number on top of the page."""

    name: str
    title: str
    lead: str = ""
    facts: Sequence[Fact] = ()
    charts: Sequence[Chart] = ()
    grids: Sequence[Grid] = ()
    empty: str = ""
    tone: Tone = ""
    top: Fact | None = None


class MissingTableError(Exception):
    """A section reads a table that this version does not have."""

    def __init__(self, table: str) -> None:
        super().__init__(table)
        self.table = table


@dataclass(frozen=True)
class Context:
    """What every section is given: the published version read-only, and how to write for its readers.

    *as_of*: cut of the version (UTC); *day*: the brand's open day at that cut, of which nothing is counted.
    """

    con: duckdb.DuckDBPyConnection
    version: str
    published_at: datetime
    as_of: datetime
    now: datetime
    timezone: str
    currency: str
    locale: Locale
    tables: frozenset[str] = field(default_factory=frozenset)

    @property
    def day(self) -> date:
        return self.as_of.astimezone(ZoneInfo(self.timezone)).date()

    def t(self, zh: str, en: str) -> str:
        """The wording in the reader's language."""
        return zh if self.locale == "zh" else en

    def need(self, *tables: str) -> None:
        """Raise `MissingTableError` for the first of *tables* that the version lacks."""
        for table in tables:
            if table not in self.tables:
                raise MissingTableError(table)

    def rows(self, sql: str, parameters: Any = None) -> list[dict[str, Any]]:
        """Rows of a query over `marts.*`, by column name."""
        cursor = self.con.execute(sql, parameters) if parameters else self.con.execute(sql)
        names = [column[0] for column in cursor.description or []]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def local(self, instant: datetime, shape: str = "%m-%d %H:%M") -> str:
        return instant.astimezone(ZoneInfo(self.timezone)).strftime(shape)

    def money(self, amount: Decimal | float | None, *, digits: int = 0) -> str:
        if amount is None:
            return "–"
        sign = _SIGNS.get(self.currency, f"{self.currency} ")
        return f"{'-' if amount < 0 else ''}{sign}{abs(amount):,.{digits}f}"

    def signed_money(self, amount: float) -> str:
        return ("+" if amount > 0 else "") + self.money(amount)

    def against(self, now: float, before: float, days: int) -> str:
        """How *now* differs from the *days* before; nothing when there is no before."""
        differs = change(now, before)
        return differs and self.t(f"较前 {days} 天 {differs}", f"{differs} on {days} days before")

    def age(self, span: timedelta) -> str:
        hours = span / timedelta(hours=1)
        if hours < 1:
            return self.t(f"{max(0, round(hours * 60))} 分钟", f"{max(0, round(hours * 60))} min")
        if hours < 48:
            return self.t(f"{hours:.0f} 小时", f"{hours:.0f} h")
        return self.t(f"{hours / 24:.0f} 天", f"{hours / 24:.0f} days")


def count(number: float | None) -> str:
    """`12,345`; a dash for nothing."""
    return "–" if number is None or math.isnan(number) else f"{number:,.0f}"


def moved(number: float | None, sign: str) -> str:
    """`+12` or `-12`; `0` without a sign."""
    return f"{sign}{number:,.0f}" if number else "0"


def share(part: float | None, digits: int = 1) -> str:
    """`12.3 %` of a share from 0 to 1; a dash for nothing."""
    return "–" if part is None or math.isnan(part) else f"{part * 100:.{digits}f} %"


def ratio(part: float, whole: float) -> float | None:
    """part ÷ whole, None over nothing."""
    return part / whole if whole else None


def change(now: float, before: float) -> str:
    """`+12.3 %` against *before*; nothing when there is no before. Its space does not break a line."""
    return f"{(now - before) / before * 100:+.1f}\N{NO-BREAK SPACE}%" if before else ""


def numbers(row: dict[str, Any], names: Iterable[str]) -> dict[str, float]:
    """The named cells as floats, 0 for null (charts take no decimals)."""
    return {name: float(row[name] or 0) for name in names}


SectionMaker = Callable[[Context], Section]
