"""Steps on WeCom's tag library alone, without touching a customer: plan, apply, retire. No Dagster here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from cdp.config import nearest
from cdp.errors import ConfigError
from cdp.sync.library import diff
from cdp.sync.model import Gate, LibraryChange, RegisteredTag
from cdp.sync.plan import library_part
from connectors.wecom.library import apply_library
from connectors.wecom.sync import Progress
from connectors.wecom.verify import read_staff
from pipelines.sync_steps import Desk, holder, inputs
from warehouse.sync_plan import PlanStoppedError


@dataclass(frozen=True)
class LibraryPlan:
    """*steps* in the order they are carried out; *stops*: gates that nobody can release; *orders*: group -> order."""

    steps: tuple[LibraryChange, ...]
    stops: tuple[Gate, ...]
    warnings: tuple[str, ...]
    orders: dict[str, int]


@dataclass(frozen=True)
class Retirement:
    """Where a tag on its way out stands. *holders*: relations that have it, as just read; None when WeCom has the tag
    no more. *done*: what was (or would be) done: `drain`, `empty`, `delete`, or nothing yet.
    *deleted_from*: UTC day from which an empty tag may be deleted."""

    key: str
    holders: int | None
    done: str | None
    deleted_from: str


def plan(desk: Desk) -> LibraryPlan:
    """What would change in the library. Sends nothing. Raises `ConfigError` for names and budget."""
    known = inputs(desk)
    steps, gates, warnings = library_part(known)
    stops = tuple(gate for gate in gates if gate.verdict == "stop")
    return LibraryPlan(steps, stops, tuple(warnings), {group.key: group.order for group in known.groups})


def apply(desk: Desk) -> int:
    """Carry the plan of the library out; returns the calls made. Safe to repeat. Raises `PlanStoppedError` when a gate
    stops it, `LeaseHeldError` while an apply runs."""
    made = plan(desk)
    if made.stops:
        text = "; ".join(gate.zh if desk.brand.locale == "zh" else gate.en for gate in made.stops)
        raise PlanStoppedError(f"the tag library is not as registered: {text}")
    return _carry_out(desk, made.steps, made.orders, "library")


def retire(desk: Desk, key: str, *, write: bool, progress: Progress | None = None) -> Retirement:
    """Bring the tag *key* one step nearer its end: drain, found empty by reading every employee, deleted after the
    wait. A tag that somebody deleted in WeCom is struck from the register. Dry unless *write*. Raises `ConfigError` for
    a tag that is not ours or still declared."""
    mine = _registered(desk, key)
    known = inputs(desk)
    if mine.tag_id not in {tag.tag_id for tag in known.remote.tags}:
        step = LibraryChange("delete", mine.group, key, mine.name, mine.tag_id)
        return _retired(desk, key, None, [step], write=write)
    if any(tag.key == key for group in known.groups for tag in group.tags):
        raise ConfigError(f"tag `{key}` is still declared", hint="take it out of config/tags.yaml first")
    holders = 0
    shown = desk.session(progress=progress).step("read")
    for _, reads in read_staff(desk.client, sorted(known.remote.staff), done=shown):
        desk.ledger.save_reads(reads, now=desk.now())
        holders += sum(mine.tag_id in read.tag_ids for read in reads)
    steps = diff(
        known.groups, [mine], known.remote, desk.config.library, now=desk.now(), holders={mine.tag_id: holders}
    )
    return _retired(desk, key, holders, [step for step in steps if step.key == key], write=write)


def _registered(desk: Desk, key: str) -> RegisteredTag:
    known = {tag.key: tag for tag in desk.ledger.register() if tag.state != "retired"}
    if key not in known:
        raise ConfigError(
            f"tag `{key}` is not in the register{nearest(key, sorted(known))}", hint="write it group/value"
        )
    return known[key]


def _retired(desk: Desk, key: str, holders: int | None, steps: Sequence[LibraryChange], *, write: bool) -> Retirement:
    doing = [step for step in steps if step.acts]
    if write and doing:
        _carry_out(desk, doing, {}, "retire")
    waits = next((step.deleted_from for step in steps if step.deleted_from), "")
    return Retirement(key, holders, doing[0].action if doing else None, waits)


def _carry_out(desk: Desk, steps: Sequence[LibraryChange], orders: dict[str, int], action: str) -> int:
    with _lease(desk):
        calls = apply_library(desk.client, desk.ledger, steps, now=desk.now, group_orders=orders)
    done = [f"{step.action} {step.key or step.group}" for step in steps if step.acts]
    desk.ledger.audit(desk.who, action, now=desk.now(), steps=done, calls=calls)
    return calls


@contextmanager
def _lease(desk: Desk) -> Iterator[None]:
    """Nothing else writes to this corp meanwhile."""
    lease = desk.ledger.acquire(desk.client.corpid, holder(), now=desk.now())
    try:
        yield
    finally:
        desk.ledger.release(lease, now=desk.now())
