"""`cdp privacy …` and the erasing half of `cdp identity forget`: what is kept of whom, for how long, and what goes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.progress import Progress, SpinnerColumn, TextColumn
from rich.table import Table

from app.context import brand, console, home, instant
from connectors.registry import all_streams
from pipelines.upkeep import scene
from warehouse.erasure import ErasureReport, finish
from warehouse.erasure import Progress as Tell
from warehouse.privacy_ledger import PrivacyLedger
from warehouse.retention import RetentionReport, enforce_retention

app = typer.Typer(no_args_is_help=True)


@contextmanager
def told() -> Iterator[Tell]:
    """Which place is being looked at, while it is."""
    with Progress(SpinnerColumn(), TextColumn("{task.description}"), console=console, transient=True) as bars:
        task = bars.add_task("looking at the home")
        yield lambda place, done, total: bars.update(task, description=f"{place}: {done} of {total} done")


def show(report: ErasureReport) -> None:
    """An erasure, or what one would take, place by place."""
    console.print("erased:" if report.applied else "would erase (nothing was done; --apply does it):")
    console.print(f"  {len(report.people)} one_ids, {report.identifiers:,} identifiers", highlight=False)
    table = Table("place", "rows", "rows that lose cells")
    for item in report.removals:
        table.add_row(item.place, f"{item.whole:,}", f"{item.cells:,}" if item.cells else "")
    console.print(table)
    if report.farewells:
        console.print(f"tags in WeCom: {report.farewells} relations lose them with the next plan", highlight=False)
    for path in report.archives:
        console.print(f"backup {path}: made before; a restore forgets again", markup=False, highlight=False)
    if report.outside:
        console.print(
            f"not ours to change: {', '.join(report.outside)}; what comes from there again does not land (counted as "
            "suppressed)",
            markup=False,
            highlight=False,
        )
    for what, count in report.sought:
        console.print(f"looked for {what}: {count:,}", highlight=False)
    for why, count in report.unsought:
        console.print(f"cannot be looked for, {why}: {count:,}", highlight=False)
    if report.applied:
        console.print(
            f"read {report.files:,} files ({report.bytes / 1e6:,.1f} MB), as tables and as bytes: found in "
            f"none · request {report.request_id} · {report.seconds:.1f} s",
            highlight=False,
        )


def print_json(report: ErasureReport) -> None:
    """The same for programs. It names no identifier."""
    data = asdict(report) | {"found": [list(item) for item in report.found]}
    typer.echo(json.dumps(data, ensure_ascii=False, indent=2))


@app.command("requests")
def requests(as_json: Annotated[bool, typer.Option("--json")] = False) -> None:
    """Every request to be forgotten: who asked for it, why, when it was done. Of whom is not kept."""
    found = PrivacyLedger(home()).requests()
    if as_json:
        typer.echo(json.dumps([asdict(item) for item in found], default=str, ensure_ascii=False, indent=2))
        return
    table = Table("request", "asked by", "reason", "asked at (UTC)", "state", "places")
    for item in found:
        table.add_row(
            item.request_id, item.actor, item.reason, f"{item.requested_at:%Y-%m-%d %H:%M}", item.state,
            str(len(item.counts or {})),
        )  # fmt: skip
    console.print(table)


@app.command("finish")
def finish_open() -> None:
    """Finish what a stopped erasure left, and forget again what a restore brought back. Every run does so first."""
    with told() as tell:
        reports = finish(scene(home(), progress=tell), now=datetime.now(UTC))
    for report in reports:
        show(report)
    if not reports:
        console.print("nothing to finish")


@app.command("retention")
def retention(
    apply: Annotated[bool, typer.Option("--apply", help="really remove; without it only the count is shown")] = False,
    as_of: Annotated[str | None, typer.Option(help="date or instant; default: now")] = None,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Remove what is older than config/privacy.yaml lets it grow. Every run does so as well."""
    report = enforce_retention(
        home(), now=instant(as_of), streams=all_streams(), timezone=brand().timezone, apply=apply
    )
    if as_json:
        typer.echo(json.dumps(asdict(report), default=str, ensure_ascii=False, indent=2))
        return
    show_retention(report)


def show_retention(report: RetentionReport) -> None:
    """What retention took, or would take."""
    if not report.removals:
        console.print("nothing is older than config/privacy.yaml lets it grow")
        return
    table = Table("rule", "place", "before (UTC)", "rows")
    for item in report.removals:
        table.add_row(item.rule, item.place, f"{item.cut:%Y-%m-%d}", f"{item.rows:,}")
    console.print(table)
    console.print("removed" if report.applied else "nothing was done; --apply does it")
