"""Plans on disk: `plans/<id>/plan.parquet`, `plan.json`, `plan.html`; made once, approved by hash, loaded intact."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl

from cdp.errors import CdpError, ConfigError, FatalError
from cdp.sync.config import SyncConfig
from cdp.sync.model import LibraryChange, Plan
from cdp.sync.plan import Inputs, build_plan, canonical, check_hash, ops_bytes
from warehouse.erasure_sync import ERASED
from warehouse.home import Home
from warehouse.sync_ledger import SyncLedger, iso
from warehouse.sync_page import render


class PlanHeldError(CdpError):
    """The plan waits for an approver; nothing was sent."""

    code = "held"
    exit_code = 2


class PlanStoppedError(FatalError):
    """The plan may not be sent: stopped by a gate, rejected, expired or overtaken."""

    code = "stopped"
    exit_code = 3


@dataclass(frozen=True)
class StoredPlan:
    """A plan as loaded from disk, its hash checked."""

    plan_id: str
    plan_hash: str
    summary: Mapping[str, Any]
    ops: pl.DataFrame
    control: pl.DataFrame
    pending: pl.DataFrame
    folder: Path

    @property
    def library(self) -> tuple[LibraryChange, ...]:
        return tuple(LibraryChange(**change) for change in self.summary["library"])


def make_plan(home: Home, ledger: SyncLedger, inputs: Inputs, *, locale: str = "zh") -> Plan:
    """Build the plan of *inputs*, write its files and record it. The same inputs give the same files and one record.

    Raises `ConfigError` when the tag library cannot be built (names, budget).
    """
    plan = build_plan(inputs)
    store(home, ledger, plan, now=inputs.now, locale=locale)
    return plan


def store(home: Home, ledger: SyncLedger, plan: Plan, *, now: datetime, locale: str = "zh") -> Path:
    """Write a plan's files, whole or not at all, and record it in the ledger."""
    folder = home.plans / plan.plan_id
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "plan.parquet", ops_bytes(plan.ops))
    _write(folder / "control.parquet", _parquet(plan.control))
    _write(folder / "pending.parquet", _parquet(plan.pending))
    _write(folder / "plan.html", render(plan.summary, locale=locale).encode())
    _write(folder / "plan.json", canonical(dict(plan.summary)))
    ledger.save_plan(plan, now=now)
    return folder


def load(home: Home, ledger: SyncLedger, plan_id: str | None = None) -> StoredPlan:
    """A stored plan (the newest by default). Raises `FatalError` when its files are not those that were planned."""
    row = ledger.plan_row(plan_id)
    if row["state"] == ERASED:
        raise PlanStoppedError(f"plan {row['plan_id']} named somebody who was forgotten since", hint="plan again")
    folder = home.plans / row["plan_id"]
    try:
        summary = json.loads((folder / "plan.json").read_bytes())
        ops = (folder / "plan.parquet").read_bytes()
        control = pl.read_parquet(folder / "control.parquet")
        pending = pl.read_parquet(folder / "pending.parquet")
    except (OSError, ValueError, pl.exceptions.PolarsError) as error:
        raise FatalError(
            f"the files of plan {row['plan_id']} cannot be read: {type(error).__name__}",
            hint="`cdp sync plan` plans again",
        ) from error
    check_hash(summary, ops, control, pending, row["plan_hash"])
    return StoredPlan(
        row["plan_id"], row["plan_hash"], summary, pl.read_parquet(io.BytesIO(ops)), control, pending, folder
    )


def approve(
    home: Home, ledger: SyncLedger, plan_id: str | None, config: SyncConfig, *, who: str, reason: str, now: datetime
) -> StoredPlan:
    """Release a held plan. Raises `PlanStoppedError` when nobody may, `ConfigError` when *who* or *reason* is wrong."""
    plan = load(home, ledger, plan_id)
    if plan.summary["verdict"] == "STOPPED":
        raise PlanStoppedError(
            f"plan {plan.plan_id} is stopped by a gate that nobody can release", hint="`cdp sync show` names the gate"
        )
    by_author = who == plan.summary["author"]
    if by_author and not config.approval.self_approve:
        raise ConfigError(
            f"{who} made plan {plan.plan_id}; somebody else must approve it",
            hint="a single-person install may set `approval: {self_approve: true}` in config/sync.yaml",
        )
    if not reason.strip():
        raise ConfigError("an approval needs a reason", hint="add --reason '…'")
    _unexpired(plan, ledger, now)
    ledger.decide(plan.plan_id, plan.plan_hash, "approved", who=who, reason=reason, by_author=by_author, now=now)
    return plan


def reject(home: Home, ledger: SyncLedger, plan_id: str | None, *, who: str, reason: str, now: datetime) -> StoredPlan:
    """Turn a plan down; it is kept for comparison."""
    plan = load(home, ledger, plan_id)
    if not reason.strip():
        raise ConfigError("a rejection needs a reason", hint="add --reason '…'")
    by_author = who == plan.summary["author"]
    ledger.decide(plan.plan_id, plan.plan_hash, "rejected", who=who, reason=reason, by_author=by_author, now=now)
    return plan


def ready(
    home: Home, ledger: SyncLedger, plan_id: str | None, config: SyncConfig, *, version: str | None, now: datetime
) -> StoredPlan:
    """A plan that may be applied now. *version*: the marts version published now; None skips that comparison (undo).

    Raises `PlanHeldError` while an approval is missing, `PlanStoppedError` when the plan is stopped, rejected, expired
    or its inputs have moved on, `FatalError` when the files or the approval are for another plan. A run once begun may
    be resumed whatever has been published meanwhile, but not past the plan's own end, nor after a later plan was sent:
    what is left of it would overwrite newer tags.
    """
    plan = load(home, ledger, plan_id)
    state = ledger.plan_row(plan.plan_id)["state"]
    if plan.summary["verdict"] == "STOPPED":
        raise PlanStoppedError(f"plan {plan.plan_id} is stopped by a gate", hint="`cdp sync show` names the gate")
    decision = ledger.decision(plan.plan_id)
    if decision is not None and decision["decision"] == "rejected":
        raise PlanStoppedError(f"plan {plan.plan_id} was rejected: {decision['reason']}", hint="plan again")
    needed = plan.summary["verdict"] == "HELD" or config.approval.required == "always"
    if needed and plan.summary["verdict"] != "EMPTY" and decision is None:
        raise PlanHeldError(
            f"plan {plan.plan_id} is held and nothing was sent",
            hint=f"`cdp sync show {plan.plan_id}`, then `cdp sync approve {plan.plan_id} --reason '…'`",
        )
    if decision is not None and decision["plan_hash"] != plan.plan_hash:
        raise FatalError("approval is for another plan", hint="approve this plan, or apply the one that was approved")
    if state not in ("partial", "applied"):  # nothing of those is left to send
        _unexpired(plan, ledger, now)
        if state not in ("applying", "stopped"):
            _current(plan, config, version, now)
    return plan


def _unexpired(plan: StoredPlan, ledger: SyncLedger, now: datetime) -> None:
    if iso(now) > plan.summary["expires_at"]:
        raise PlanStoppedError(f"plan {plan.plan_id} expired at {plan.summary['expires_at']}", hint="plan again")
    applied = ledger.rows(
        "select 1 from runs join plans using (plan_id) where plan_id != ? and started_at > ? and kind != 'pending'"
        " and exists (select 1 from ops where ops.run_id = runs.run_id)",
        (plan.plan_id, _planned(plan)),
    )
    if applied:
        raise PlanStoppedError(f"another plan was applied since {plan.plan_id} was made", hint="plan again")


def _current(plan: StoredPlan, config: SyncConfig, version: str | None, now: datetime) -> None:
    pinned = plan.summary["pins"].get("version")
    if version is not None and pinned != version:
        raise PlanStoppedError(
            f"plan {plan.plan_id} stands on version {pinned}, published is {version}", hint="plan again"
        )
    promise = plan.summary.get("base_stale_at")
    if promise is not None and iso(now) > promise:
        raise PlanStoppedError(
            f"more than {config.verify.stale_share:.0%} of what plan {plan.plan_id} stands on was read too long ago",
            hint="pull WeCom again (`cdp run`), then plan again",
        )


def _planned(plan: StoredPlan) -> str:
    return iso(datetime.fromisoformat(plan.summary["planned_at"]))


def _parquet(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.write_parquet(buffer, compression="zstd", statistics=False)
    return buffer.getvalue()


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_suffix(path.suffix + ".tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
