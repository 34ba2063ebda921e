"""`cdp ltv`: what customers have spent and will spend, per cohort, per channel and for one person."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from app.analytics_words import say
from app.context import console, published
from warehouse.analytics import ltv_chart, ltv_cohorts, ltv_models, ltv_of_channels, ltv_of_person

app = typer.Typer(no_args_is_help=True)
Json = Annotated[bool, typer.Option("--json", help="machine-readable output")]


class By(StrEnum):
    """What a row of `cdp ltv show` is."""

    cohort = "cohort"
    channel = "channel"


@app.command()
def show(
    by: Annotated[By, typer.Option("--by", help="one row per cohort (month of first purchase) or channel")] = By.cohort,
    chart: Annotated[Path | None, typer.Option("--chart", help="also draw the curves: .svg, .html or .png")] = None,
    as_json: Json = False,
) -> None:
    """Cohort curves, or value and payback per channel of origin, with the model behind the predictions."""
    with published() as con:
        models = ltv_models(con)
        rows = ltv_cohorts(con) if by is By.cohort else ltv_of_channels(con)
        if chart:
            ltv_chart(con, chart)
    if as_json:
        console.print_json(data={"models": models, by.value: rows}, default=str)
        return
    _print_models(models)
    console.print(_curves(rows) if by is By.cohort else _channels(rows))
    if chart:
        console.print(f"{say('chart')} → {chart}")


@app.command()
def person(person: Annotated[str, typer.Argument(help="one_id")], as_json: Json = False) -> None:
    """One customer: history, prediction with bounds, and the inputs of the model."""
    with published() as con:
        found = ltv_of_person(con, person)
    if as_json:
        console.print_json(data=found, default=str)
        return
    table = _table((say("column"), "left"), (say("value"), "right"), ("", "left"))
    for name, (value, meaning) in found.items():
        table.add_row(name, _text(value), f"[dim]{meaning}[/]")
    console.print(table)


def _print_models(models: list[dict[str, Any]]) -> None:
    if not models:
        console.print(say("no model yet: too few repeat purchases"))
    for model in models:
        listed = ", ".join(f"{name} {value:.4g}" for name, value in model["parameters"].items())
        console.print(f"[bold]{model['family']}[/] {say('parameters')}: {listed}", highlight=False)
    for model in models[:1]:
        state = (
            "[green]" + say("predictions published")
            if model["is_published"]
            else "[yellow]" + say("predictions withheld")
        )
        reason = f": {model['reason']}" if model["reason"] else ""
        ratio = (model["hold_out"] or {}).get("aggregate_ratio")
        console.print(
            f"{state}{reason}[/]"
            + (f"; {say('hold-out predicted ÷ actual')} {ratio:.3f}" if ratio is not None else ""),
            highlight=False,
        )


def _curves(rows: list[dict[str, Any]]) -> Table:
    """One line per cohort, one column per month since the first purchase (the first twelve)."""
    months = sorted({month for row in rows for month in row["curve"]} & set(range(13)))
    table = _table(
        (say("first purchase"), "left"), (say("people"), "right"), *((str(month), "right") for month in months)
    )
    table.title = say("cumulative net per person, by months since the first purchase")
    for row in rows:
        cells = [_text(row["curve"].get(month)) for month in months]
        table.add_row(row["cohort"], f"{row['people']:,}", *cells)
    return table


def _channels(rows: list[dict[str, Any]]) -> Table:
    names = ("people", "buyers", "spent", "next 365 days", "LTV per person", "cost", "payback (months)")
    table = _table((say("channel"), "left"), *((say(name), "right") for name in names))
    for row in rows:
        payback = row["payback_months"]
        known = "–" if not row["cost"] else say("not yet") if payback is None else str(payback)
        money = [_text(row[name]) for name in ("hist_net", "pred_net_365", "ltv_per_person", "cost")]
        table.add_row(row["channel_name"] or "–", f"{row['people']:,}", f"{row['buyers']:,}", *money, known)
    return table


def _table(*columns: tuple[str, str]) -> Table:
    table = Table(header_style="bold", box=None, pad_edge=False, title_justify="left")
    for name, side in columns:
        table.add_column(name, justify="right" if side == "right" else "left", no_wrap=True)
    return table


def _text(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool | int | str):
        return str(value)
    return (
        f"{float(value):,.2f}"
        if hasattr(value, "as_tuple")
        else f"{value:.4g}"
        if isinstance(value, float)
        else str(value)
    )
