"""What a run ends in: a page of numbers a person enjoys, read from the published version and the ledgers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.columns import Columns
from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table

from app.sync_cli import changes_table
from cdp.brand import BrandConfig
from pipelines.progress import Step
from warehouse.home import Home
from warehouse.landing_ledger import LandingLedger
from warehouse.publish import current
from warehouse.reader import connect
from warehouse.sync_ledger import SyncLedger
from warehouse.sync_page import WORDS
from warehouse.sync_plan import load

BAR = "█"


def print_summary(console: Console, home: Home, brand: BrandConfig, steps: Sequence[Step]) -> None:
    """Sources, people, funnels, lifetime value, tags and sync of *home*, as published. *steps*: of this run."""
    published = current(home)
    resolved = next((step.notes for step in steps if step.name == "resolve identities"), {})
    console.rule(f"[bold]{brand.name}[/]  version {published.version}")
    with connect(home) as con:
        console.print(Columns([_sources(home), Group(_people(con, resolved), _conversion(con))], padding=(0, 2)))
        for funnel in _rows(con, "select distinct funnel_id from marts.fct_funnel_steps order by 1"):
            console.print(_funnel(con, str(funnel[0])))
        console.print(Columns([_lifetime_value(con), _gmv(con)], padding=(0, 2)))
    _sync(console, home, brand)


def print_next_steps(console: Console, home: Home) -> None:
    """Three commands worth trying next."""
    prefix = f"cdp --home {home.root.name}"
    console.print(
        Panel(
            f"{prefix} sql --saved best_customers   # last month's ten best, with their tags\n"
            f"{prefix} identity health\n"
            f"{prefix} dev          # the Dagster UI",
            title="try next / 接下来",
            title_align="left",
            expand=False,
        )
    )


def _sources(home: Home) -> Table:
    table = _table("sources / 数据源", "source", "stream", "received", "landed", "dup.", "rejected")
    total = [0, 0, 0, 0]
    counted: dict[tuple[str, str], list[int]] = {}
    for record in LandingLedger(home.landing_ledger).batches():
        counts = counted.setdefault((record.source, record.stream), [0, 0, 0, 0])
        for place, value in enumerate((record.received, record.landed, record.duplicates, record.rejected)):
            counts[place] += value
            total[place] += value
    for (source, stream), counts in sorted(counted.items()):
        table.add_row(source, stream, *(f"{value:,}" for value in counts))
    table.add_section()
    table.add_row("[bold]total[/]", "", *(f"[bold]{value:,}[/]" for value in total))
    return table


def _people(con: Any, resolved: Mapping[str, Any]) -> Table:
    table = _table("people / 人", "", "count")
    for label, value in (
        ("identifiers", _one(con, "select sum(identifier_count) from marts.dim_people")),
        ("people", _one(con, "select count(*) from marts.dim_people")),
        ("merges in this run", resolved.get("merges", 0)),
        ("merges refused by a limit", resolved.get("refusals", 0)),
        ("known by more than a device", _one(con, "select count(*) from marts.dim_people where not is_anonymous")),
        ("members", _one(con, "select count(*) from marts.dim_people where member_id is not null")),
        ("WeCom friends", _one(con, "select count(*) from marts.dim_people where is_friend")),
        ("paid orders", _one(con, "select count(*) from marts.fct_orders where is_paid")),
        ("events", _one(con, "select count(*) from marts.fct_events")),
    ):
        table.add_row(label, f"{int(value or 0):,}")
    return table


def _conversion(con: Any) -> Table:
    table = _table("first order of new friends / 首单转化", "window", "new", "bought", "rate")
    for days, new, bought in _rows(
        con,
        "select days, sum(matured_people), sum(matured_converted) from marts.fct_first_order_conversion "
        "group by days order by days",
    ):
        table.add_row(f"{days} days", f"{new:,}", f"{bought:,}", f"{bought / new:.1%}" if new else "–")
    return table


def _funnel(con: Any, funnel: str) -> Table:
    steps = _rows(
        con,
        "select label, reached, rate, matured_rate, p50_seconds from marts.fct_funnel_steps "
        "where funnel_id = ? and all_buckets and all_values order by step_no",
        [funnel],
    )
    table = _table(f"funnel {funnel} / 漏斗", "step", "people", "", "rate", "matured", "median days")
    top = max((int(step[1]) for step in steps), default=0) or 1
    for label, count, rate, matured, seconds in steps:
        table.add_row(
            str(label),
            f"{count:,}",
            BAR * round(40 * int(count) / top),
            f"{rate:.1%}" if rate is not None else "–",
            f"{matured:.1%}" if matured is not None else "–",
            f"{seconds / 86400:.1f}" if seconds is not None else "",
        )
    return table


def _lifetime_value(con: Any) -> Table:
    table = _table(
        "lifetime value by cohort / LTV", "first order", "people", "month 0", "month 3", "month 6", "month 12"
    )
    for cohort, people, *values in _rows(
        con,
        "select cohort_month, max(people), "
        + ", ".join(
            f"max(cumulative_net_per_person) filter (where months_since <= {month}) "
            f"* (case when max(months_since) >= {month} then 1 end)"
            for month in (0, 3, 6, 12)
        )
        + " from marts.fct_ltv_cohorts group by cohort_month order by cohort_month desc limit 8",
    ):
        table.add_row(str(cohort)[:7], f"{people:,}", *("–" if value is None else f"{value:,.0f}" for value in values))
    return table


def _gmv(con: Any) -> Table:
    columns = ("month", "net sales", "reachable", "buyers", "orders", "per order")
    table = _table("net sales to reachable people / GMV", *columns)
    for row in _rows(
        con,
        "select period_start, gmv_net, reachable, buyers, orders, net_per_order from marts.fct_gmv_identity "
        "order by period_start desc limit 8",
    ):
        table.add_row(str(row[0])[:7], *("–" if value is None else f"{value:,.0f}" for value in row[1:]))
    return table


def _sync(console: Console, home: Home, brand: BrandConfig) -> None:
    """The newest plan's tags and what became of its relations."""
    with SyncLedger(home.sync_ledger) as ledger:
        if not ledger.rows("select 1 from plans limit 1"):
            console.print("no plan for WeCom yet: `cdp sync plan` makes one")
            return
        plan = load(home, ledger)
        run = ledger.run_row(plan.plan_id)
        counts = ledger.counts(run["run_id"]) if run else {}
    console.print(f"[bold]tags to WeCom / 企微标签[/]  plan {plan.plan_id}  {plan.summary['verdict']}", highlight=False)
    console.print(changes_table(plan.summary["tags"], WORDS[brand.locale]))
    outcome = "  ".join(f"{state} {count:,}" for state, count in sorted(counts.items())) or "nothing to send"
    console.print(f"relations: [green]{outcome}[/]", highlight=False)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for place, column in enumerate(columns):
        table.add_column(column, justify="left" if place == 0 or column in ("stream", "") else "right")
    return table


def _rows(con: Any, sql: str, parameters: list[Any] | None = None) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = con.execute(sql, parameters or []).fetchall()
    return rows


def _one(con: Any, sql: str) -> Any:
    return _rows(con, sql)[0][0]
