"""The daily report: one self-contained HTML page over a published version, its ledgers and its checks.

Nothing on the page names a person; counts, shares and money only. It needs no network to be read, prints on A4, and
fits a phone.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from cdp.brand import BrandConfig
from cdp.errors import ConfigError
from cdp.quality.anomalies import AnomalyRules
from warehouse import report_business, report_growth, report_operations
from warehouse.anomalies import check_arrivals, check_flows
from warehouse.connection import open_guard
from warehouse.expectations import CheckResult
from warehouse.home import Home, load_config
from warehouse.reader import published
from warehouse.report_parts import Context, Locale, MissingTableError, Section


def daily_report(
    home: Home,
    *,
    now: datetime,
    locale: Locale,
    out: Path | None = None,
    version: str | None = None,
    rules: AnomalyRules | None = None,
) -> Path:
    """Check freshness and volume as of *now*, and write the page about a published version (default: the current one)
    to *out* (default: `reports/<version>.html` in the home)."""
    item = published(home, version)
    with open_guard(item.path), closing(duckdb.connect(str(item.path), read_only=True)) as con:
        flows = check_flows(con, as_of=item.as_of, timezone=item.timezone, marts="marts", rules=rules)
    found = [*check_arrivals(home, as_of=now, timezone=item.timezone, rules=rules), *flows]
    target = out or home.root / "reports" / f"{item.version}.html"
    return build_report(item.path, home, locale=locale, out=target, now=now, anomalies=found, rules=rules)


def build_report(
    published_file: Path,
    home: Home,
    *,
    locale: Locale,
    out: Path,
    now: datetime | None = None,
    anomalies: Sequence[CheckResult] = (),
    rules: AnomalyRules | None = None,
) -> Path:
    """Write the page about the version in *published_file* to *out* and return it. It appears whole or not at all.

    *now*: ages are told against it; default: when the version was published, so that the same version gives the same
    page. *anomalies*: results of `warehouse.anomalies`. A section whose tables are missing or empty says so, the others
    are unaffected. Raises `ConfigError` when *published_file* is not there.
    """
    if not published_file.is_file():
        raise ConfigError(f"{published_file} is not there", hint="`cdp run` builds, checks and publishes")
    brand = load_config(home, "cdp.yaml", BrandConfig)
    with open_guard(published_file), closing(duckdb.connect(str(published_file), read_only=True)) as con:
        page = _context(con, brand, locale, now)
        sections = _sections(page, home, anomalies, rules or AnomalyRules())
        facts = _guarded("headline", page, report_business.headline)
        top = [*(facts if isinstance(facts, list) else []), *(section.top for section in sections if section.top)]
        html = _render(page, brand, sections, top)
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f"{out.name}.tmp")
    temporary.write_text(html, encoding="utf-8")
    os.replace(temporary, out)
    return out


def _context(con: duckdb.DuckDBPyConnection, brand: BrandConfig, locale: Locale, now: datetime | None) -> Context:
    con.execute("set TimeZone = 'UTC'")
    version, published_at, as_of, timezone = con.execute(
        "select version, published_at, as_of, timezone from _meta.version"
    ).fetchall()[0]
    tables = con.execute("select table_name from information_schema.tables where table_schema = 'marts'").fetchall()
    return Context(
        con=con,
        version=version,
        published_at=published_at.astimezone(UTC),
        as_of=as_of.astimezone(UTC),
        now=(now or published_at).astimezone(UTC),
        timezone=timezone,
        currency=brand.currency,
        locale=locale,
        tables=frozenset(name for (name,) in tables),
    )


def _sections(page: Context, home: Home, anomalies: Sequence[CheckResult], rules: AnomalyRules) -> list[Section]:
    makers: list[tuple[str, Callable[[Context], Section]]] = [
        (page.t("人与身份", "People and identities"), report_business.people),
        (page.t("成交", "Sales"), report_business.sales),
        (page.t("漏斗", "Funnels"), report_business.funnels),
        (page.t("同期群与终身价值", "Cohorts and lifetime value"), report_business.cohorts),
        (page.t("渠道与裂变", "Channels and referral"), report_growth.channels),
        (page.t("标签", "Tags"), report_business.tags),
        (page.t("企业微信标签同步", "Tags to WeCom"), partial(report_operations.sync, path=home.sync_ledger)),
        (page.t("质量检查", "Quality"), partial(report_operations.quality, found=anomalies)),
        (
            page.t("数据源与新鲜度", "Sources and freshness"),
            partial(report_operations.sources, home=home, rules=rules),
        ),
    ]
    made = [_guarded(title, page, maker) for title, maker in makers]
    return [section for section in made if isinstance(section, Section)]


def _guarded(title: str, page: Context, maker: Callable[[Context], Any]) -> Any:
    """What *maker* makes, or a section that says which table or column it would have needed."""
    name = title.lower().replace(" ", "-")
    try:
        return maker(page)
    except MissingTableError as error:
        text = page.t(f"这个版本没有表 marts.{error.table}。", f"This version has no table marts.{error.table}.")
        return Section(name, title, empty=text)
    except sqlite3.Error as error:
        text = page.t("账本无法读取：", "The ledger cannot be read: ")
        return Section(name, title, empty=f"{text}{error}", tone="bad")
    except (duckdb.BinderException, duckdb.CatalogException) as error:
        reason = str(error).splitlines()[0]
        text = page.t("这个版本的表与报表不符：", "The tables of this version do not fit the report: ")
        return Section(name, title, empty=f"{text}{reason}", tone="warn")


def _render(page: Context, brand: BrandConfig, sections: Sequence[Section], facts: Sequence[Any]) -> str:
    environment = Environment(
        loader=PackageLoader("warehouse"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(
        page=page, brand=brand.name, sections=sections, facts=facts, t=page.t, svg=Markup
    )
