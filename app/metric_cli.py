"""`cdp metric`: the business metrics of the published version, by name."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Annotated, Any

import typer
from rich.table import Table

from app.analytics_words import say
from app.context import brand, console, published
from warehouse.analytics import metric_rows, metric_texts

app = typer.Typer(no_args_is_help=True)
_WIDEST = 12  # columns of a period that fit a line; more stand below each other
_NEWEST = 6
Json = Annotated[bool, typer.Option("--json", help="machine-readable output")]


@app.command("list")
def list_metrics(as_json: Json = False) -> None:
    """Every metric, its table, and what one row of it is."""
    with published() as con:
        rows = metric_texts(con)
    if as_json:
        console.print_json(data=[dict(zip(("metric", "table", "row"), row, strict=True)) for row in rows])
        return
    table = Table(header_style="bold", box=None, pad_edge=False)
    for name in ("metric", "table", ""):
        table.add_column(say(name), no_wrap=name != "")
    own = 0 if brand().locale == "zh" else -1
    for metric, source, text in rows:
        table.add_row(metric, source, text.split(" | ")[own])
    console.print(table)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="a metric of `cdp metric list`, or 复购率")],
    limit: Annotated[int, typer.Option("--limit", help="rows at most; 0 = all")] = 100,
    as_json: Json = False,
) -> None:
    """The numbers of one metric. A word that several metrics go by, as 复购率, gives each of them."""
    with published() as con:
        rows = metric_rows(con, name)
    if as_json:
        console.print_json(data=rows, default=str)
        return
    if not rows:
        console.print(f"{name}: {say('nothing')}")
        return
    told = [name for name in rows[0] if any(row[name] is not None for row in rows)]
    if len(told) > _WIDEST and isinstance(rows[0][told[0]], date):
        console.print(_columns(rows[-_NEWEST:], told))
        return
    kept = rows[: limit or None]
    console.print(_lines(kept, told))
    if len(kept) < len(rows):
        console.print(f"{len(kept):,} / {len(rows):,}: --limit 0", highlight=False)


def _lines(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> Table:
    """One line per row."""
    table = Table(header_style="bold", box=None, pad_edge=False)
    for name in names:
        table.add_column(name, justify="left" if isinstance(rows[0][name], str) else "right", overflow="fold")
    for row in rows:
        table.add_row(*(_text(name, row[name]) for name in names))
    return table


def _columns(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> Table:
    """One line per column, the newest periods beside each other."""
    first, *others = names
    table = Table(header_style="bold", box=None, pad_edge=False)
    table.add_column(first, no_wrap=True)
    for row in rows:
        table.add_column(_text(first, row[first]), justify="right", no_wrap=True)
    for name in others:
        table.add_row(name, *(_text(name, row[name]) for row in rows))
    return table


def _text(name: str, value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.1%}" if name == "rate" or name.endswith("_rate") else f"{value:,.4g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)
