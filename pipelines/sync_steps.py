"""The sync's steps on a home, for the command line and for Dagster alike: plan, approve, apply, verify, library.

This module imports no Dagster. Each function opens what it needs and closes it; *now* is the clock (UTC), *progress* is
called with (phase, done, total).
"""

from __future__ import annotations

import getpass
import json
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from types import FrameType
from typing import Any

import polars as pl

from cdp.brand import BrandConfig
from cdp.errors import ConfigError, FatalError, RetriableError
from cdp.sync.config import SyncConfig, parse_duration
from cdp.sync.gates import Evidence
from cdp.sync.model import LIVE, Plan
from cdp.sync.notice import State, notice
from cdp.sync.pending import empty_state, pending_ops
from cdp.sync.plan import Inputs
from cdp.sync.undo import Undone, pending_plan, undo_plan
from cdp.tags.config import TagsConfig
from connectors.alerts import to_robot
from connectors.settings import SourcesConfig, WeComSource, resolve
from connectors.wecom import sync
from connectors.wecom.arrivals import match_added
from connectors.wecom.callbacks import read_callbacks
from connectors.wecom.client import Limits, WeComClient
from connectors.wecom.connector import CALLBACKS_FOLDER, client_of
from connectors.wecom.library import adopt_group, read_remote
from connectors.wecom.replies import WeComError
from connectors.wecom.sync import ApplyReport, Progress, Session
from connectors.wecom.verify import VerifyReport, read_staff
from warehouse import sync_drift, sync_explain, sync_plan
from warehouse.erasure_sync import close_farewells, forgotten_customers
from warehouse.home import Home, load_config
from warehouse.publish import current
from warehouse.reader import open_version
from warehouse.secrets import identity_secret
from warehouse.sync_drift import DriftReport
from warehouse.sync_inputs import gather, group_specs, policies, published_relations
from warehouse.sync_ledger import SyncLedger
from warehouse.sync_pending import refresh_keys
from warehouse.sync_plan import StoredPlan

Now = Callable[[], datetime]
_PENDING_MARK = "pending fired up to"
_CALLBACKS_MARK = "callbacks read"
_PLAN_ALERTS: dict[str, State] = {"HELD": "held", "STOPPED": "stopped"}


def utc_now() -> datetime:
    """The clock of everything that is not told another."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class Desk:
    """One home's configuration and ledger, open together; the WeCom client is made when first asked for, so that
    showing and approving need no secret."""

    home: Home
    brand: BrandConfig
    config: SyncConfig
    source: WeComSource
    tags: TagsConfig
    ledger: SyncLedger
    who: str
    now: Now
    environment: Mapping[str, str]

    @cached_property
    def client(self) -> WeComClient:
        """The client of the source that is written to. Raises `ConfigError` when its secret is not set."""
        pace = {"calls_per_second": self.config.limits.calls_per_second, "error_kinds": self.config.errors}
        limits = Limits(**{**pace, **self.source.options})
        return client_of(
            self.source, root=self.home.root, environment=self.environment, where=self.config.source, limits=limits
        )

    @cached_property
    def corpid(self) -> str:
        """The corp that is written to; known without its secret."""
        where = f"sources.{self.config.source}.corpid"
        return resolve(self.source.corpid, self.environment, self.home.root, where=where)

    def close(self) -> None:
        """Give back the client's connections, if there is one."""
        if "client" in vars(self):
            self.client.close()

    def session(self, *, stop: Callable[[], str | None] | None = None, progress: Progress | None = None) -> Session:
        """What apply and verify work with; the kill switch file of the home always counts."""
        return Session(
            client=self.client,
            ledger=self.ledger,
            config=self.config,
            timezone=self.brand.timezone,
            who=self.who,
            now=self.now,
            stop=lambda: (stop() if stop else None) or kill_switch(self.home),
            progress=progress,
        )


@contextmanager
def desk(
    home: Home, *, who: str | None = None, now: Now = utc_now, environment: Mapping[str, str] = os.environ
) -> Iterator[Desk]:
    """Open a home's sync. Raises `ConfigError` for faults in its files."""
    config = load_config(home, "sync.yaml", SyncConfig)
    settings = load_config(home, "sources.yaml", SourcesConfig).sources.get(config.source)
    if not isinstance(settings, WeComSource):
        raise ConfigError(
            f"config/sync.yaml: source `{config.source}` is no WeCom source of config/sources.yaml",
            hint="set `source:` to the name of the source with `connector: wecom`",
        )
    brand, tags = load_config(home, "cdp.yaml", BrandConfig), load_config(home, "tags.yaml", TagsConfig)
    with SyncLedger(home.sync_ledger) as ledger:
        ledger.forgotten = forgotten_customers(home, now=now())
        opened = Desk(home, brand, config, settings, tags, ledger, who or user(environment), now, environment)
        try:
            yield opened
        finally:
            opened.close()


def user(environment: Mapping[str, str] = os.environ) -> str:
    """Who acts: CDP_USER, else the login name."""
    return environment.get("CDP_USER") or getpass.getuser()


def holder() -> str:
    """A name for this process, for the lease."""
    return f"{socket.gethostname()}:{os.getpid()}:{threading.get_ident()}"


def kill_switch(home: Home) -> str | None:
    """Why nothing may be sent now: the file `data/sync.stop` is there; else None."""
    return "kill switch: data/sync.stop is there" if (home.root / "data" / "sync.stop").exists() else None


def inputs(desk: Desk, *, canary: float | None = None) -> Inputs:
    """What a plan made now stands on: the published version, the ledger, and WeCom's library as it is."""
    remote = read_remote(desk.client)
    version = current(desk.home)
    with open_version(version) as con:
        return gather(
            desk.home,
            con,
            version=version.version,
            published_at=version.published_at,
            checks=[(name, False, "warn") for name in version.warnings],
            config=desk.config,
            tags=desk.tags,
            ledger=desk.ledger,
            remote=remote,
            corpid=desk.client.corpid,
            now=desk.now(),
            timezone=desk.brand.timezone,
            author=desk.who,
            canary=canary,
        )


def plan(desk: Desk, *, canary: float | None = None) -> Plan:
    """Make, store and record a plan. Sends nothing to WeCom; a held or stopped plan is told to the group bot."""
    note_drift(desk)
    made = sync_plan.make_plan(desk.home, desk.ledger, inputs(desk, canary=canary), locale=desk.brand.locale)
    state = _PLAN_ALERTS.get(made.verdict)
    if state is not None:
        gates = [gate.zh if desk.brand.locale == "zh" else gate.en for gate in made.gates if gate.verdict != "pass"]
        alert(desk, state, made.plan_id, {str(number): text for number, text in enumerate(gates[:5], start=1)})
    return made


def take_hints(desk: Desk) -> int:
    """Take what callbacks said since the last time; returns how many relations were touched by hand or are new."""
    state = json.loads(desk.ledger.mark(_CALLBACKS_MARK) or "{}")
    new = 0
    for batch in read_callbacks(desk.home.root / CALLBACKS_FOLDER, desk.corpid, state):
        rows = batch.frame.filter(pl.col("userid").is_not_null() & pl.col("external_userid").is_not_null())
        new += desk.ledger.save_hints(
            rows.select("callback_id", "userid", "external_userid", "change_type", "received_at").iter_rows()
        )
        desk.ledger.set_mark(_CALLBACKS_MARK, json.dumps(dict(batch.state)))
    return new


def note_drift(desk: Desk) -> DriftReport:
    """Compare the published version's newer reads with what we last left."""
    take_hints(desk)
    version = current(desk.home)
    with open_version(version) as con:
        found = published_relations(desk.home, con, desk.client.corpid, desk.config.source, version.published_at)
    return sync_drift.from_version(desk.ledger, found, policies(desk.config, desk.tags), now=desk.now())


def drift(desk: Desk, *, everyone: bool = False, progress: Progress | None = None) -> DriftReport:
    """Read the employees that are due (all with *everyone*) and record what others changed. Sends nothing."""
    take_hints(desk)
    promise = parse_duration(desk.config.verify.read_promise)
    staff = desk.client.follow_users()
    due = staff if everyone else desk.ledger.due(staff, before=desk.now() - promise)
    groups = policies(desk.config, desk.tags)
    reports = []
    step = desk.session(progress=progress).step("read")
    for userids, reads in read_staff(desk.client, due, done=step):
        reports.append(sync_drift.from_reads(desk.ledger, reads, groups, now=desk.now()))
        desk.ledger.mark_rota(userids, now=desk.now())
    return DriftReport(
        drift=tuple(item for report in reports for item in report.drift),
        new=sum(report.new for report in reports),
        frozen=sum(report.frozen for report in reports),
    )


def undo(desk: Desk, plan_id: str | None, *, progress: Progress | None = None) -> Undone:
    """Plan the way back from an applied plan: its relations are read, and those still as we left them are restored by
    the plan this makes. Sends nothing itself."""
    row = desk.ledger.plan_row(plan_id, applied=True)
    run_id, _ = desk.ledger.run_of(row["plan_id"])
    ops = list(desk.ledger.ops(run_id, states=("acked", "verified", "gap", "human_changed")))
    found: dict[tuple[str, str], frozenset[str]] = {}
    step = desk.session(progress=progress).step("read")
    for _, reads in read_staff(desk.client, sorted({op.userid for op in ops}), done=step):
        found |= {(read.userid, read.external_userid): frozenset(read.tag_ids) for read in reads}
        desk.ledger.save_reads(reads, now=desk.now())
    ids = {tag.key: tag.tag_id for tag in desk.ledger.register() if tag.state in LIVE}
    undone = undo_plan(inputs(desk), row["plan_id"], ops, found, ids)
    sync_plan.store(desk.home, desk.ledger, undone.plan, now=desk.now(), locale=desk.brand.locale)
    return undone


def fire_pending(desk: Desk, *, stop: Callable[[], str | None] | None = None) -> ApplyReport | None:
    """Tag customers who were added since the last call, as callbacks tell, and whose tags were waiting. None when there
    are none. Meant to run every minute; what it does is a plan like any other, in the ledger and the audit log."""
    take_hints(desk)
    since = desk.ledger.mark(_PENDING_MARK)
    added = desk.ledger.added_since(since)
    found = match_added(desk.client, desk.ledger, added, identity_secret(desk.home), now=desk.now)
    report = None
    if found:
        ops = pending_ops(found)
        plan = pending_plan(_pending_inputs(desk), ops)
        sync_plan.store(desk.home, desk.ledger, plan, now=desk.now(), locale=desk.brand.locale)
        ready = sync_plan.ready(desk.home, desk.ledger, plan.plan_id, desk.config, version=None, now=desk.now())
        report = sync.apply(ready, desk.session(stop=stop), holder=holder())
        desk.ledger.fill_pending(report.run_id, now=desk.now())
    if added and (report is None or report.outcome != "STOPPED"):
        desk.ledger.set_mark(_PENDING_MARK, added[-1][2])
    return report


def arrivals(desk: Desk) -> int:
    """How many customers were added since `fire_pending` last looked, while tags wait for somebody. Cheap: asks WeCom
    nothing and needs no secret."""
    take_hints(desk)
    if not desk.ledger.waiting(now=desk.now()):
        return 0
    return len(desk.ledger.added_since(desk.ledger.mark(_PENDING_MARK)))


def _pending_inputs(desk: Desk) -> Inputs:
    return Inputs(
        config=desk.config,
        groups=policies(desk.config, desk.tags),
        register=desk.ledger.register(),
        remote=read_remote(desk.client),
        state=empty_state(),
        evidence=Evidence(),
        pins={},
        now=desk.now(),
        timezone=desk.brand.timezone,
        author=desk.who,
        call_ms=desk.ledger.call_ms(),
    )


def explain(desk: Desk, person: str, tag: str | None = None) -> dict[str, Any]:
    """Why *person* has a tag in WeCom or has it not, from the rule to the last read-back."""
    with open_version(current(desk.home)) as con:
        facts = sync_explain.explain(con, desk.ledger, desk.tags, person, tag)
    return facts | {"planned": _planned(desk, facts["one_id"], tag)}


def _planned(desk: Desk, one_id: str, tag: str | None) -> list[dict[str, Any]]:
    """What the newest plan holds for a person, as long as it was not applied."""
    try:
        stored = sync_plan.load(desk.home, desk.ledger)
    except ConfigError:
        return []
    rows = stored.ops.filter(pl.col("one_id") == one_id).select("userid", "external_userid", "add", "remove")
    applied = desk.ledger.run_row(stored.plan_id) is not None
    return [
        {"plan_id": stored.plan_id, "verdict": stored.summary["verdict"], **row}
        for row in rows.iter_rows(named=True)
        if not applied and (tag is None or tag in row["add"] or tag in row["remove"])
    ]


def adopt(desk: Desk, group_name: str) -> int:
    """Take over the WeCom tag group *group_name* for the group of ours that is written to it; returns the tags taken.
    Only possible where this app created it, which an edit that changes nothing shows."""
    remote = read_remote(desk.client)
    with open_version(current(desk.home)) as con:
        groups = group_specs(con, desk.config, desk.tags, desk.ledger.register())
    return adopt_group(desk.client, desk.ledger, group_name, groups, remote, who=desk.who, now=desk.now)


def alert(desk: Desk, state: State, plan_id: str, facts: Mapping[str, str]) -> None:
    """Tell the group bot, if there is one. A bot that does not answer is noted in the audit log and nothing else."""
    if desk.config.alerts.webhook is None:
        return
    address = resolve(desk.config.alerts.webhook, desk.environment, desk.home.root, where="sync.alerts.webhook")
    text = notice(state, plan_id=plan_id, facts=dict(facts), locale=desk.brand.locale)
    fault: str | None = None
    try:
        to_robot(address, text, where="sync.alerts.webhook", form="markdown")
    except (RetriableError, FatalError) as error:
        fault = error.message
    desk.ledger.audit(desk.who, "alert", now=desk.now(), plan_id=plan_id, state=state, fault=fault)


def approve(desk: Desk, plan_id: str | None, *, reason: str) -> StoredPlan:
    """Release a held plan for this user."""
    return sync_plan.approve(desk.home, desk.ledger, plan_id, desk.config, who=desk.who, reason=reason, now=desk.now())


def apply(
    desk: Desk, plan_id: str | None, *, stop: Callable[[], str | None] | None = None, progress: Progress | None = None
) -> ApplyReport:
    """Send a plan that may be sent, or go on with one that was begun."""
    ready = sync_plan.ready(
        desk.home, desk.ledger, plan_id, desk.config, version=current(desk.home).version, now=desk.now()
    )
    before = desk.ledger.last_outcome()
    try:
        report = sync.apply(ready, desk.session(stop=stop, progress=progress), holder=holder())
    except WeComError as error:
        alert(desk, "stopped", ready.plan_id, {"reason": f"{error.path} {error.errcode}"})
        raise
    if ready.summary["kind"] == "sync" and ready.summary["pending"]:
        kept = refresh_keys(desk.home, desk.ledger, now=desk.now(), timezone=desk.brand.timezone)
        desk.ledger.audit(desk.who, "pending keys", now=desk.now(), plan_id=ready.plan_id, keys=kept)
    counts = {state: str(count) for state, count in report.counts.items()}
    if report.outcome == "DONE" and before in ("stopped", "partial"):
        alert(desk, "recovered", report.plan_id, counts)
    elif report.outcome != "DONE":
        state: State = "stopped" if report.outcome == "STOPPED" else "partial"
        alert(desk, state, report.plan_id, counts | ({"reason": report.reason} if report.reason else {}))
    return report


def verify(desk: Desk, plan_id: str | None, *, progress: Progress | None = None) -> VerifyReport:
    """Read back what a plan wrote, and a sample of the employees it did not touch."""
    take_hints(desk)
    row = desk.ledger.plan_row(plan_id, applied=True)
    report = sync.verify(row["plan_id"], desk.session(progress=progress), others=desk.client.follow_users())
    if report.gap > desk.config.verify.gap_alert * max(report.verified + report.gap, 1):
        alert(desk, "gaps", row["plan_id"], {"verified": str(report.verified), "gap": str(report.gap)})
    if closed := close_farewells(desk.home):
        desk.ledger.audit(desk.who, "farewell", now=desk.now(), plan_id=row["plan_id"], relations=closed)
    return report


@contextmanager
def stop_on_signals() -> Iterator[Callable[[], str | None]]:
    """SIGTERM and SIGINT end an apply after the calls in flight; gives the function that says which one came."""
    came: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        came.append(number)

    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: f"signal {signal.Signals(came[0]).name}" if came else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
