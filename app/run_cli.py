"""`cdp run`, `cdp demo`, `cdp dev`: the whole way, on a brand's home or on a generated one."""

from __future__ import annotations

import os
import sys
import time
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from app.context import brand, console, home, home_path, instant
from warehouse.home import Home

if TYPE_CHECKING:
    from pipelines.progress import Step

FAILED, PARTIAL = 1, 4

AsOf = Annotated[
    str | None, typer.Option("--as-of", help="the cut: a date (end of that day) or an ISO instant; default: now")
]


def run(
    as_of: AsOf = None,
    full: Annotated[bool, typer.Option("--full", help="make every table anew, not only what has changed")] = False,
) -> None:
    """Pull, land, resolve, compute, check, publish, plan, and sync as far as config/sync.yaml allows."""
    target = home()
    from app.summary import print_summary

    code, steps = _run(target, instant(as_of) if as_of else None, full=full)
    if code != FAILED:
        print_summary(console, target, brand(), steps)
    raise typer.Exit(code)


def demo(
    people: Annotated[int, typer.Option(help="people of the generated brand")] = 20_000,
    events: Annotated[int, typer.Option(help="tracking events of the generated brand")] = 400_000,
) -> None:
    """The main job on a generated brand, against a WeCom on loopback. Run again, it changes and sends nothing."""
    from app.demo import AS_OF, outside_world, prepare
    from app.summary import print_next_steps, print_summary

    target = home_path()
    started = time.monotonic()
    with console.status(f"generating a brand of {people:,} people and {events:,} events"):
        fresh = prepare(target, people=people, events=events)
    state = f"generated in {time.monotonic() - started:.1f} s" if fresh else "kept from the last demo"
    console.print(f"[green]✓[/] {'brand 山茶集':<28} {state}", highlight=False)
    with outside_world(target) as server:
        console.print(f"[green]✓[/] {'WeCom on loopback':<28} {server.base_url}", highlight=False)
        code, steps = _run(target, brand().instant(f"{AS_OF.isoformat()}T00:00:00"))
    if code == FAILED:
        raise typer.Exit(code)
    print_summary(console, target, brand(), steps)
    print_next_steps(console, target)
    console.print(f"[dim]the whole demo took {time.monotonic() - started:.0f} s[/]", highlight=False)
    raise typer.Exit(code)


def dev(port: Annotated[int, typer.Option(help="port of the UI")] = 3000) -> None:
    """The Dagster UI on the home: assets, checks, runs, schedules."""
    target = home()
    environment = {**os.environ, "DAGSTER_HOME": str(target.dagster), "CDP_HOME": str(target.root)}
    arguments = ["dagster", "dev", "-m", "pipelines.definitions", "-h", "127.0.0.1", "-p", str(port)]
    os.execve(sys.executable, [sys.executable, "-m", *arguments], environment)  # noqa: S606 (this very program)


def _run(target: Home, as_of: datetime | None, *, full: bool = False) -> tuple[int, list[Step]]:
    """Run the job with progress. Returns the exit code (0 ok, 1 failed, 4 some checks failed) and the steps."""
    from app.progress import shown
    from pipelines.run import run_job

    with shown(console) as steps:
        outcome = run_job(target, as_of=as_of, full=full)
    for step, reason in outcome.failed_steps.items():
        console.print(f"[red]✗ {step}[/]", highlight=False)
        console.print(reason, markup=False, highlight=False)
    for check in outcome.failed_checks:
        mark = "[red]✗[/]" if check.severity == "ERROR" else "[yellow]![/]"
        facts = "; ".join(f"{name}: {value}" for name, value in check.facts.items() if value)[:300]
        console.print(f"{mark} {check.asset} {check.name}", highlight=False)
        console.print(f"  {facts}", markup=False, highlight=False)
    if not outcome.success:
        return FAILED, steps
    return (PARTIAL if any(check.severity == "ERROR" for check in outcome.failed_checks) else 0), steps
