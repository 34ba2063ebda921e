"""`cdp tags plan --library | apply | retire`: the tag library in WeCom, without touching a customer."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from app.context import brand, console, home
from app.sync_cli import STOPPED, Json, Who, bars, words
from pipelines import tag_library_steps
from pipelines.sync_steps import desk
from pipelines.tag_library_steps import LibraryPlan
from warehouse.sync_page import step_text

Yes = Annotated[bool, typer.Option("--yes", help="do it; without it only shown")]


def show_library(*, as_json: bool = False) -> None:
    """What would change in WeCom's tag library; exit code 3 when a gate stops it."""
    with desk(home()) as open_desk:
        made = tag_library_steps.plan(open_desk)
    _print(made, as_json)
    if made.stops:
        raise typer.Exit(STOPPED)


def apply(yes: Yes = False, who: Who = None, as_json: Json = False) -> None:
    """Create, rename, reorder and end tags in WeCom as config/tags.yaml says. Without --yes only shows the steps."""
    with desk(home(), who=who) as open_desk:
        if yes:
            calls = tag_library_steps.apply(open_desk)
            console.print_json(json.dumps({"calls": calls})) if as_json else console.print(
                f"{calls} {words()['calls']}"
            )
            return
        _print(tag_library_steps.plan(open_desk), as_json)


def retire(
    tag: Annotated[str, typer.Argument(help="group/value, no longer declared in config/tags.yaml")],
    yes: Yes = False,
    who: Who = None,
    as_json: Json = False,
) -> None:
    """Bring a tag one step nearer its end: taken off everybody, found empty by reading back, deleted after the wait."""
    with desk(home(), who=who) as open_desk, bars(as_json) as progress:
        found = tag_library_steps.retire(open_desk, tag, write=yes, progress=progress)
    if as_json:
        console.print_json(json.dumps({**asdict(found), "written": yes}, ensure_ascii=False))
        return
    word = words()
    holders = word["not in WeCom"] if found.holders is None else f"{found.holders:,} {word['relations']}"
    waits = f"  {word['deleted from']} {found.deleted_from}" if found.deleted_from else ""
    console.print(f"{found.key}: {holders}{waits}", highlight=False, markup=False)
    console.print(
        f"{word[found.done] if found.done else word['nothing']}{'' if yes or not found.done else word['dry']}"
    )


def _print(made: LibraryPlan, as_json: bool) -> None:
    if as_json:
        facts = {"steps": [asdict(step) for step in made.steps], "stops": [asdict(gate) for gate in made.stops]}
        console.print_json(json.dumps({**facts, "warnings": made.warnings}, ensure_ascii=False))
        return
    word, locale = words(), brand().locale
    for step in made.steps:
        console.print(f"  {step_text(asdict(step), word)}", highlight=False, markup=False)
    for gate in made.stops:
        console.print(f"  [bold red]{word['stop']}[/] {gate.zh if locale == 'zh' else gate.en}", highlight=False)
    for warning in made.warnings:
        console.print(f"  {warning}", highlight=False, markup=False)
    if not made.steps:
        console.print(word["EMPTY"])
