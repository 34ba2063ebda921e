"""The sync's steps on a home, for the command line and for Dagster alike: plan, approve, apply, verify, library.

This module imports no Dagster. Each function opens what it needs and closes it; *now* is the clock (UTC), *progress* is
called with (phase, done, total).
"""

from __future__ import annotations

import getpass
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from types import FrameType
from typing import Any

from cdp.brand import BrandConfig
from cdp.errors import ConfigError
from cdp.sync.config import SyncConfig
from cdp.sync.model import Plan
from cdp.sync.plan import Inputs
from cdp.tags.config import TagsConfig
from connectors.settings import SourcesConfig, WeComSource
from connectors.wecom import sync
from connectors.wecom.client import Limits, WeComClient
from connectors.wecom.connector import client_of
from connectors.wecom.library import read_remote
from connectors.wecom.sync import ApplyReport, Progress, Session
from connectors.wecom.verify import VerifyReport
from warehouse import sync_plan
from warehouse.home import Home, load_config
from warehouse.publish import current
from warehouse.reader import open_version
from warehouse.sync_inputs import gather
from warehouse.sync_ledger import SyncLedger
from warehouse.sync_plan import StoredPlan

Now = Callable[[], datetime]


def utc_now() -> datetime:
    """The clock of everything that is not told another."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class Desk:
    """One home's configuration, ledger and WeCom client, open together."""

    home: Home
    brand: BrandConfig
    config: SyncConfig
    tags: TagsConfig
    ledger: SyncLedger
    client: WeComClient
    who: str
    now: Now

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
    """Open a home's sync. Raises `ConfigError` for faults in its files or a missing secret."""
    config = load_config(home, "sync.yaml", SyncConfig)
    settings = load_config(home, "sources.yaml", SourcesConfig).sources.get(config.source)
    if not isinstance(settings, WeComSource):
        raise ConfigError(
            f"config/sync.yaml: source `{config.source}` is no WeCom source of config/sources.yaml",
            hint="set `source:` to the name of the source with `connector: wecom`",
        )
    limits = Limits(
        **{"calls_per_second": config.limits.calls_per_second, "error_kinds": config.errors, **settings.options}
    )
    client = client_of(settings, root=home.root, environment=environment, where=config.source, limits=limits)
    brand, tags = load_config(home, "cdp.yaml", BrandConfig), load_config(home, "tags.yaml", TagsConfig)
    with SyncLedger(home.sync_ledger) as ledger, client:
        yield Desk(home, brand, config, tags, ledger, client, who or user(environment), now)


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
    """Make, store and record a plan. Sends nothing."""
    return sync_plan.make_plan(desk.home, desk.ledger, inputs(desk, canary=canary), locale=desk.brand.locale)


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
    return sync.apply(ready, desk.session(stop=stop, progress=progress), holder=holder())


def verify(desk: Desk, plan_id: str | None, *, progress: Progress | None = None) -> VerifyReport:
    """Read back what a plan wrote, and a sample of the employees it did not touch."""
    row = desk.ledger.plan_row(plan_id)
    return sync.verify(row["plan_id"], desk.session(progress=progress), others=desk.client.follow_users())


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
