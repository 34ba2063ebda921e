"""`cdp tags`: what the tags are, what a change would do, why a person has one, and how healthy they are."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.table import Table

from app import tag_library_cli
from app.analytics_words import say
from app.context import brand, config, console, home, published
from app.tag_library_cli import show_library
from cdp.config import nearest
from cdp.errors import ConfigError
from cdp.metrics.durations import microseconds
from cdp.tags.config import TagsConfig
from warehouse.analytics import explain_tag, health_rows, plan_tags, require_person, set_manual_tag
from warehouse.connection import open_warehouse

app = typer.Typer(no_args_is_help=True)
app.command()(tag_library_cli.apply)
app.command()(tag_library_cli.retire)
# Tags stand at the start of the brand's day, so even fresh ones are up to a day old.
_OPEN_DAY = 86_400_000_000
_HEALTH = (
    "tag_group", "status", "reason", "as_of", "tagged", "people", "entering", "leaving", "metric", "value", "low",
    "high", "passed",
)  # fmt: skip
Json = Annotated[bool, typer.Option("--json", help="machine-readable output")]


def _tags() -> TagsConfig:
    return config("tags.yaml", TagsConfig)


@app.command()
def plan(
    changed_only: Annotated[bool, typer.Option("--changed", help="only tags someone enters or leaves")] = False,
    library: Annotated[bool, typer.Option("--library", help="what changes in WeCom's tag library instead")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="machine-readable output")] = False,
) -> None:
    """Who would enter and leave every tag if config/tags.yaml were published on the present data. Writes nothing."""
    if library:
        show_library(as_json=as_json)
        return
    with published() as con:
        rows = plan_tags(con, _tags())
    if as_json:
        console.print_json(data=[asdict(row) | {"after": row.after} for row in rows])
        return
    table = _table("tag group", "tag", "now", "entering", "leaving", "after")
    for row in rows:
        if changed_only and not (row.entering or row.leaving):
            continue
        entering = f"[green]+{row.entering:,}[/]" if row.entering else "0"
        leaving = f"[red]-{row.leaving:,}[/]" if row.leaving else "0"
        table.add_row(row.tag_group, row.value, f"{row.now:,}", entering, leaving, f"{row.after:,}")
    console.print(table)
    if not any(row.entering or row.leaving for row in rows):
        console.print(say("nobody enters or leaves a tag"))


@app.command()
def show(
    group: Annotated[str | None, typer.Argument(help="a tag group; default: all")] = None, as_json: Json = False
) -> None:
    """The tags of the published version, with how many people hold each."""
    with published() as con:
        rows = con.execute(
            "select tag_group, label, kind, value, holders, wecom_group, owner from marts.dim_tags"
            " where $name is null or tag_group = $name or label = $name order by group_order, value_order",
            {"name": group},
        ).fetchall()
        known = con.execute("select distinct tag_group from marts.dim_tags order by 1").fetchall()
    if group and not rows:
        close = nearest(group, [row[0] for row in known])
        raise ConfigError(f"no tag group is called `{group}`{close}", hint="`cdp tags show` lists all")
    if as_json:
        names = ("tag_group", "label", "kind", "value", "holders", "wecom_group", "owner")
        console.print_json(data=[dict(zip(names, row, strict=True)) for row in rows])
        return
    table = _table("tag group", "name", "kind", "tag", "people", "WeCom group", "owner")
    previous = None
    for name, label, kind, value, holders, wecom, owner in rows:
        head = (name, label, kind) if name != previous else ("", "", "")
        table.add_row(*head, value, f"{holders:,}", wecom or "–", owner)
        previous = name
    console.print(table)


@app.command()
def explain(
    person: Annotated[str, typer.Argument(help="one_id")],
    tag: Annotated[str, typer.Argument(help="a tag or a tag group")],
    as_json: Json = False,
) -> None:
    """Why a person has or has not a tag: rules, the columns they read, thresholds, history."""
    with published() as con:
        found = explain_tag(con, _tags(), person, tag)
    if as_json:
        console.print_json(data=asdict(found), default=str)
        return
    console.print(f"[bold]{found.tag_group}[/] ({found.kind}) of {found.one_id}")
    console.print(f"{say('holds')}: {', '.join(found.held) or say('nothing')}")
    if found.would_hold != found.held:
        console.print(f"{say('by the rules now')}: {', '.join(found.would_hold) or say('nothing')}")
    _print_rules(found.rules)
    if found.inputs:
        table = _table("column", "value")
        for name, value in found.inputs:
            table.add_row(name, _text(value))
        console.print(table)
    if found.thresholds:
        console.print(f"{say('thresholds of the run')}: " + ", ".join(f"{value:g}" for value in found.thresholds))
    if found.history:
        table = _table("tag", "from", "to", "cause")
        for value, start, end, cause in found.history:
            table.add_row(value, _text(start), _text(end) if end else say("still held"), cause)
        console.print(table)


def _print_rules(rules: tuple[tuple[str, str, bool | None], ...]) -> None:
    if not rules:
        return
    table = _table("tag", "rule", "holds")
    for value, rule, holds in rules:
        mark = f"[green]{say('yes')}[/]" if holds else say("no" if holds is not None else "unknown")
        table.add_row(value, rule, mark)
    console.print(table)


@app.command()
def health(as_json: Json = False) -> None:
    """The newest run per tag group: published or kept, coverage, churn and the declared bounds."""
    with published() as con:
        rows = health_rows(con)
    if as_json:
        console.print_json(data=[dict(zip(_HEALTH, row, strict=True)) for row in rows], default=str)
        return
    table = _table("tag group", "status", "tagged", "entering", "leaving", "bound", "value", "allowed", "")
    previous = None
    ages = {group.id: microseconds(group.max_age) for group in _tags().tag_groups}
    now = datetime.now(UTC)
    for name, status, reason, as_of, tagged, people, entering, leaving, metric, value, low, high, passed in rows:
        share = f"{tagged / people:.1%}" if people else "–"
        if as_of is None or (now - as_of).total_seconds() * 1_000_000 > ages.get(name, 0) + _OPEN_DAY:
            status = f"[yellow]{say(status)}, {say('stale')}[/]"
        else:
            status = say(status)
        head = [name, status if not reason else f"{status}: {reason}", share, f"{entering:,}", f"{leaving:,}"]
        allowed = f"{'' if low is None else f'{low:g}'}..{'' if high is None else f'{high:g}'}" if metric else ""
        mark = "" if metric is None else f"[green]{say('ok')}[/]" if passed else f"[red]{say('out of bounds')}[/]"
        table.add_row(
            *(head if name != previous else [""] * 5), metric or "–", f"{value:.4f}" if metric else "", allowed, mark
        )
        previous = name
    console.print(table)


@app.command("set")
def set_tag(
    person: Annotated[str, typer.Argument(help="one_id")],
    group: Annotated[str, typer.Argument(help="tag group that takes manual values")],
    value: Annotated[str | None, typer.Argument(help="the value; left out with --clear")] = None,
    clear: Annotated[bool, typer.Option("--clear", help="take the manual value back")] = False,
    by: Annotated[str, typer.Option("--by", help="who sets it; kept with the value")] = "operator",
) -> None:
    """Set a tag by hand, of a person of the published version. It takes effect with the next `cdp run`."""
    if (value is None) == (not clear):
        raise typer.BadParameter("give a value, or --clear")
    if value is not None:
        with published() as con:
            require_person(con, person)
    now = datetime.now(UTC)
    with open_warehouse(home(), as_of=now, timezone=brand().timezone) as con:
        set_manual_tag(con, _tags(), one_id=person, group=group, value=value, by=by, at=now)
    console.print(f"{group} of {person}: {value or 'no manual value'}; takes effect with the next run")


def _table(*names: str) -> Table:
    numbers = {"now", "entering", "leaving", "after", "people", "tagged", "value"}
    table = Table(header_style="bold")
    for name in names:
        table.add_column(say(name), justify="right" if name in numbers else "left")
    return table


def _text(value: Any) -> str:
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M}"
    return "–" if value is None else str(value)
