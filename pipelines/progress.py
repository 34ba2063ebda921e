"""What a running step tells whoever watches: one small model for the command line and for Dagster's log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import dagster as dg

from cdp.errors import RetriableError

# A step that met something that passes, such as a file in use by another process, is tried again.
RETRIES, RETRY_SECONDS = 2, 10


@dataclass
class Step:
    """One step at work. *done* and *total* count rows or calls; *total* 0 means it is not known yet."""

    name: str
    started: float
    done: int = 0
    total: int = 0
    phase: str = ""
    state: str = "running"
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started


Listener = Callable[[Step], None]
_listeners: list[Listener] = []


@contextmanager
def watched_by(listener: Listener) -> Iterator[None]:
    """Send every change of every step of this process to *listener* while the block runs."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


class Tracker:
    """Given to a step: call it with counts, set `note`s that end up in the summary."""

    def __init__(self, step: Step) -> None:
        self.step = step

    def __call__(self, done: int, total: int = 0, phase: str = "") -> None:
        self.step.done, self.step.total, self.step.phase = done, total or self.step.total, phase or self.step.phase
        _tell(self.step)

    def note(self, **facts: Any) -> None:
        self.step.notes.update(facts)


@contextmanager
def track(
    context: dg.AssetExecutionContext | dg.AssetCheckExecutionContext | dg.OpExecutionContext, name: str
) -> Iterator[Tracker]:
    """Announce a step, hand out its tracker, and announce how it ended."""
    step = Step(name, time.monotonic())
    _tell(step)
    try:
        yield Tracker(step)
    except RetriableError as error:
        step.state = "failed"
        _tell(step)
        if context.retry_number < RETRIES:
            raise dg.RetryRequested(max_retries=RETRIES, seconds_to_wait=RETRY_SECONDS) from error
        raise
    except BaseException:
        step.state = "failed"
        _tell(step)
        raise
    step.state = "done"
    _tell(step)
    context.log.info(f"{name}: {step.seconds:.1f} s {step.notes or ''}")


def _tell(step: Step) -> None:
    for listener in _listeners:
        listener(step)
