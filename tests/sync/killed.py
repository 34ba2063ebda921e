"""An apply in a process that ends itself by SIGKILL at a given point, whatever its other threads are doing."""

from __future__ import annotations

import os
import signal
import threading
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from cdp.sync.config import SyncConfig
from connectors.wecom import sync
from connectors.wecom.client import Limits, WeComClient
from connectors.wecom.sync import Session
from warehouse.home import Home
from warehouse.sync_ledger import SyncLedger
from warehouse.sync_plan import load

POINTS_PER_OP = 4  # before and after its commit, before and after its call


class Fuse:
    """Ends the process at the *point*-th point it comes to; never when None."""

    def __init__(self, point: int | None) -> None:
        self._left = point
        self._lock = threading.Lock()

    def burn(self) -> None:
        with self._lock:
            if self._left is not None:
                self._left -= 1
                if self._left <= 0:
                    os.kill(os.getpid(), signal.SIGKILL)


class FusedLedger(SyncLedger):
    fuse: Fuse

    def move(self, *arguments: Any, **named: Any) -> None:
        self.fuse.burn()
        super().move(*arguments, **named)
        self.fuse.burn()


class FusedClient(WeComClient):
    fuse: Fuse

    def mark(self, *arguments: Any, **named: Any) -> None:
        self.fuse.burn()
        super().mark(*arguments, **named)
        self.fuse.burn()


def run(
    root: Path,
    base_url: str,
    corp: tuple[str, str],
    config: dict[str, Any],
    plan_id: str,
    point: int | None,
    out: Connection,
) -> None:
    """Apply *plan_id*, dying at *point*; says the outcome when it lives."""
    home, fuse = Home(root), Fuse(point)
    FusedLedger.fuse = FusedClient.fuse = fuse
    client = FusedClient(base_url, *corp, limits=Limits(calls_per_second=5000.0))
    with FusedLedger(home.sync_ledger) as ledger, client:
        session = Session(client, ledger, SyncConfig.model_validate(config), "UTC", "ops", lambda: datetime.now(UTC))
        plan = load(home, ledger, plan_id)
        out.send(sync.apply(plan, session, holder="the only one").outcome)
