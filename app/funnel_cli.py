"""`cdp funnel`: run a funnel on the published version, or show the one computed with it, as bars."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from app.analytics_words import say
from app.context import brand, config, console, errors, published
from cdp.errors import ConfigError
from cdp.funnels.config import FunnelsConfig
from cdp.tags.config import TagsConfig
from warehouse.analytics import find_funnel, funnel_chart, run_published, silent_steps, stored_steps

app = typer.Typer(no_args_is_help=True)
_WIDTH = 24
Json = Annotated[bool, typer.Option("--json", help="machine-readable output")]
Chart = Annotated[Path | None, typer.Option("--chart", help="also write a chart: .svg, .html or .png")]


@app.command()
def run(
    name: Annotated[str, typer.Argument(help="id in config/funnels.yaml")],
    by: Annotated[bool, typer.Option("--by", help="one picture per breakdown value")] = False,
    chart: Chart = None,
    as_json: Json = False,
) -> None:
    """Compute a funnel of config/funnels.yaml now, on the published data. Writes nothing into the warehouse."""
    funnels = config("funnels.yaml", FunnelsConfig)
    with published() as con:
        purposes = config("tags.yaml", TagsConfig).purposes
        rows = run_published(con, funnels, name, timezone=brand().timezone, purposes=purposes)
        silent = silent_steps(con, find_funnel(funnels, name), marts="marts")
    for step, event, instead in silent:
        errors.print(f"[yellow]{say('step')} {step}: {say('nobody ever did')} `{event}`[/]{instead}", highlight=False)
    _print(name, rows, by=by, chart=chart, as_json=as_json)


@app.command()
def show(
    name: Annotated[str | None, typer.Argument(help="id of a funnel; default: list all")] = None,
    by: Annotated[bool, typer.Option("--by", help="one picture per breakdown value")] = False,
    chart: Chart = None,
    as_json: Json = False,
) -> None:
    """Show a funnel as published with the last run."""
    with published() as con:
        if name is None:
            listed = con.execute(
                "select funnel_id, max(entered), arg_max(rate, step_no) from marts.fct_funnel_steps"
                " where all_buckets and all_values group by funnel_id order by funnel_id"
            ).fetchall()
            if as_json:
                console.print_json(data=[dict(zip(("funnel", "entered", "rate"), row, strict=True)) for row in listed])
                return
            for funnel, entered, rate in listed:
                words = f"{entered:>10,} {say('entered')}  {rate or 0:>7.1%} {say('to the last step')}"
                console.print(f"{funnel:<32} {words}", highlight=False)
            return
        rows = stored_steps(con, name)
    if not rows:
        find_funnel(config("funnels.yaml", FunnelsConfig), name)
        raise ConfigError(
            f"the published version has nobody in funnel `{name}`",
            hint=f"nobody enters it, or it is newer than the last run: `cdp funnel run {name}` computes it now",
        )
    _print(name, rows, by=by, chart=chart, as_json=as_json)


def _print(name: str, rows: Sequence[dict[str, Any]], *, by: bool, chart: Path | None, as_json: bool) -> None:
    whole = [row for row in rows if row["all_buckets"] and row["all_values"]]
    if as_json:
        console.print_json(data=list(rows), default=str)
    elif whole:
        console.print(bars(name, whole))
    else:
        console.print(f"{name}: {say('nobody enters it')}", highlight=False)
    if by and not as_json:
        values = list(
            dict.fromkeys(row["breakdown_value"] for row in rows if row["all_buckets"] and not row["all_values"])
        )
        for value in values:
            part = [row for row in rows if row["all_buckets"] and not row["all_values"]]
            console.print(bars(str(value or "–"), [row for row in part if row["breakdown_value"] == value]))
    if chart:
        funnel_chart(whole, title=name, path=chart)
        errors.print(f"{say('chart')} → {chart}")


def bars(title: str, steps: Sequence[dict[str, Any]]) -> Table:
    """One line per step: a bar as long as its share of the entries, counts, rates with bounds, median time."""
    table = Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for column in ("step", "", "reached", "of all", "of step", "matured (95 %)", "median"):
        table.add_column(say(column), justify="left" if column in ("step", "") else "right", no_wrap=True)
    for row in steps:
        length = round(_WIDTH * (row["rate"] or 0))
        bar = "█" * length if length or not row["reached"] else "▏"
        table.add_row(
            row["label"] + (f" ({say('optional')})" if row["is_optional"] else ""),
            f"[cyan]{bar}[/]",
            f"{row['reached']:,}",
            _percent(row["rate"]),
            _percent(row["step_rate"]),
            f"{_percent(row['matured_rate'])} "
            f"({_percent(row['matured_rate_low'])}–{_percent(row['matured_rate_high'])})",
            duration(row["p50_seconds"]),
        )
    return table


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def duration(seconds: float | None) -> str:
    """A length of time as people say it: 45 s, 12 min, 3.5 h, 6.2 d."""
    if seconds is None:
        return "–"
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
