"""Applying and verifying a plan against WeCom: lease, library, canary, ops, read-back. Each is safe to repeat."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol
from zoneinfo import ZoneInfo

import polars as pl

from cdp.sync.config import SyncConfig
from cdp.sync.ledger import Lease, LeaseLostError, Ledger
from cdp.sync.model import LibraryChange
from connectors.wecom.apply import Sender, SendReport
from connectors.wecom.client import WeComClient
from connectors.wecom.library import apply_library
from connectors.wecom.verify import VerifyReport, read_staff, verify_ops

Progress = Callable[[str, int, int], None]
BEAT_S = 10.0

__all__ = ["ApplyReport", "ApprovedPlan", "Progress", "Session", "apply", "read_staff", "verify"]


class ApprovedPlan(Protocol):
    """What apply needs of a plan: `warehouse.sync_plan.StoredPlan` fits."""

    @property
    def plan_id(self) -> str: ...

    @property
    def plan_hash(self) -> str: ...

    @property
    def summary(self) -> Mapping[str, Any]: ...

    @property
    def ops(self) -> pl.DataFrame: ...

    @property
    def control(self) -> pl.DataFrame: ...

    @property
    def pending(self) -> pl.DataFrame: ...

    @property
    def library(self) -> tuple[LibraryChange, ...]: ...


@dataclass(frozen=True)
class Session:
    """What an apply or a verification works with. *now*: UTC instants; *clock*, *sleep*: monotonic seconds; *stop*: why
    to stop now, or None; *progress*: (phase, done, total), with phases `library`, `canary`, `send`, `verify`."""

    client: WeComClient
    ledger: Ledger
    config: SyncConfig
    timezone: str
    who: str
    now: Callable[[], datetime]
    stop: Callable[[], str | None] = lambda: None
    progress: Progress | None = None
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    @property
    def app(self) -> str:
        """The lease's name: one apply at a time per corp."""
        return self.client.corpid

    def step(self, phase: str) -> Callable[[int, int], None] | None:
        """The progress callback of one phase."""
        progress = self.progress
        return None if progress is None else (lambda done, total: progress(phase, done, total))


@dataclass(frozen=True)
class ApplyReport:
    """What applying a plan came to. *outcome*: `DONE` every op has an answer; `PARTIAL` some failed; `STOPPED` ended
    early, *reason* says why. *counts*: ops by state. *calls*: of this apply, by interface."""

    plan_id: str
    run_id: int
    outcome: str
    reason: str | None
    counts: dict[str, int]
    library_calls: int
    sent: SendReport
    canary: VerifyReport | None = None
    calls: dict[str, int] = field(default_factory=dict)


def apply(plan: ApprovedPlan, session: Session, *, holder: str) -> ApplyReport:
    """Send *plan*, or what is left of it. *holder*: a name for this process. The plan must have come through
    `warehouse.sync_plan.ready`. Raises `LeaseHeldError` while another apply runs, `WeComError` on faults of permission
    or configuration (the run is then stopped and can be resumed), `LeaseLostError`."""
    ledger, now = session.ledger, session.now
    lease = ledger.acquire(session.app, holder, now=now())
    try:
        run_id = ledger.start_run(plan.plan_id, plan.ops, lease, now=now())
        ledger.audit(session.who, "apply", now=now(), plan_id=plan.plan_id, plan_hash=plan.plan_hash, run=run_id)
        try:
            with _kept(lease, session):
                return _apply(plan, session, lease, run_id)
        except LeaseLostError:  # the run belongs to whoever took the lease
            raise
        except BaseException as error:
            ledger.finish_run(run_id, "stopped", type(error).__name__, now=now())
            ledger.audit(session.who, "stopped", now=now(), plan_id=plan.plan_id, reason=type(error).__name__)
            raise
    finally:
        ledger.release(lease, now=now())


@contextmanager
def _kept(lease: Lease, session: Session) -> Iterator[None]:
    """Keep *lease* alive while the block runs, also while it waits. A lost lease shows at the next write."""
    done = threading.Event()

    def beat() -> None:
        while not done.wait(BEAT_S):
            try:
                session.ledger.heartbeat(lease, now=session.now())
            except LeaseLostError:
                return

    keeper = threading.Thread(target=beat, daemon=True)
    keeper.start()
    try:
        yield
    finally:
        done.set()
        keeper.join()


def _apply(plan: ApprovedPlan, session: Session, lease: Lease, run_id: int) -> ApplyReport:
    before = dict(session.client.calls)
    orders = {group["key"]: group["order"] for group in plan.summary["groups"]}
    steps = session.step("library")
    library = apply_library(session.client, session.ledger, plan.library, now=session.now, group_orders=orders)
    if steps:
        steps(len(plan.library), len(plan.library))
    if plan.summary["kind"] == "sync":
        if crossed := session.ledger.crossed(plan.ops):
            session.ledger.audit(
                session.who, "control crossed", now=session.now(), plan_id=plan.plan_id, people=crossed
            )
        session.ledger.hold_control(plan.control, now=session.now())
        session.ledger.set_pending(plan.pending, expires=session.config.pending.expires, now=session.now())
    canary = None
    sent = SendReport()
    if plan.summary["canary"]:
        sent, canary = _canary(session, lease, run_id)
        failed = sum(1 for _ in session.ledger.ops(run_id, states=("failed",), phase=0))
        if sent.stopped is None and (reason := canary_fault(canary, failed, session.config)):
            sent.stopped = reason
    if sent.stopped is None:
        sent = _send(session, lease, run_id, None, "send")
    return _finish(plan, session, run_id, sent, library, canary, before)


def _canary(session: Session, lease: Lease, run_id: int) -> tuple[SendReport, VerifyReport]:
    began = session.now()
    sent = _send(session, lease, run_id, 0, "canary")
    report = verify_ops(session.client, session.ledger, run_id, now=session.now, since=began, phase=0)
    return sent, report


def canary_fault(report: VerifyReport, failed: int, config: SyncConfig) -> str | None:
    """Why the rest must wait after a canary, or None: too many of its relations *failed*, or are not as written."""
    judged = report.verified + report.gap
    if failed > config.breaker.failure_share * (judged + failed):
        return f"canary: {failed} of {judged + failed} relations failed"
    if report.gap > config.verify.gap_alert * judged:
        return f"canary: {report.gap} of {judged} relations are not as written"
    return None


def _send(session: Session, lease: Lease, run_id: int, phase: int | None, name: str) -> SendReport:
    sender = Sender(
        session.client,
        session.ledger,
        run_id,
        lease,
        session.config,
        now=session.now,
        stop=lambda: session.stop() or quiet(session),
        progress=session.step(name),
        clock=session.clock,
        sleep=session.sleep,
    )
    return sender.send(phase=phase)


def quiet(session: Session) -> str | None:
    """`quiet hours` while the brand's day is in them, else None."""
    hours = session.config.limits.quiet_hours
    if hours is None or not hours.covers(session.now().astimezone(ZoneInfo(session.timezone)).time()):
        return None
    return f"quiet hours {hours.start}-{hours.end}"


def _finish(
    plan: ApprovedPlan,
    session: Session,
    run_id: int,
    sent: SendReport,
    library: int,
    canary: VerifyReport | None,
    before: Mapping[str, int],
) -> ApplyReport:
    counts = session.ledger.counts(run_id)
    left = sum(counts.get(state, 0) for state in ("planned", "sending", "unknown"))
    outcome = "STOPPED" if sent.stopped or left else "PARTIAL" if counts.get("failed") else "DONE"
    reason = sent.stopped or (f"{left} relations have no answer yet" if left else None)
    session.ledger.finish_run(run_id, outcome.lower(), reason, now=session.now())
    session.ledger.audit(
        session.who, outcome.lower(), now=session.now(), plan_id=plan.plan_id, plan_hash=plan.plan_hash, counts=counts
    )
    calls = {path: count - before.get(path, 0) for path, count in session.client.calls.items()}
    return ApplyReport(plan.plan_id, run_id, outcome, reason, counts, library, sent, canary, calls)


def verify(plan_id: str, session: Session, *, others: Sequence[str] = ()) -> VerifyReport:
    """Read back everything a plan's run wrote, and a sample of *others* (employees it did not touch). The reads are the
    base of the next plan. Raises `ConfigError` when the plan was never applied, `WeComError`."""
    ledger = session.ledger
    run_id, began = ledger.run_of(plan_id)
    report = verify_ops(
        session.client,
        ledger,
        run_id,
        now=session.now,
        since=began,
        others=others,
        sample=session.config.verify.sample_untouched,
        progress=session.step("verify"),
    )
    ledger.audit(
        session.who,
        report.outcome.lower(),
        now=session.now(),
        plan_id=plan_id,
        verified=report.verified,
        gap=report.gap,
        gone=report.gone,
        human_changed=report.human_changed,
    )
    return report
