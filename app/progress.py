"""How a run looks in the terminal: one line a step, with counts, rate and time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pipelines.progress import Step, watched_by


@contextmanager
def shown(console: Console) -> Iterator[list[Step]]:
    """Draw every step of this process on *console* while the block runs; gives the list of steps, in order."""
    steps: list[Step] = []
    with Progress(
        SpinnerColumn(finished_text=" "),
        TextColumn("{task.description}"),
        BarColumn(bar_width=18),
        TextColumn("{task.fields[count]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=console,
        transient=True,
    ) as bars:
        tasks: dict[int, TaskID] = {}

        def listen(step: Step) -> None:
            if id(step) not in tasks:
                steps.append(step)
                tasks[id(step)] = bars.add_task(step.name, total=None, count="")
            task = tasks[id(step)]
            bars.update(task, total=step.total or None, completed=step.done, count=_count(step))
            if step.state != "running":
                bars.remove_task(task)
                mark = "[green]✓[/]" if step.state == "done" else "[red]✗[/]"
                console.print(f"{mark} {step.name:<28} {step.seconds:6.1f} s  {_notes(step)}", highlight=False)

        with watched_by(listen):
            yield steps


def _count(step: Step) -> str:
    rate = f" {step.done / step.seconds:,.0f}/s" if step.seconds > 1 and step.done > 100 else ""
    return f"{step.phase} {step.done:,}{rate}" if step.done else step.phase


def _notes(step: Step) -> str:
    return "[dim]" + "  ".join(f"{name} {_short(value)}" for name, value in step.notes.items()) + "[/]"


def _short(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value).splitlines()[0][:160].replace("[", r"\[")
