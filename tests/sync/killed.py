"""An apply in a process of its own, so that a test can kill it at any moment."""

from __future__ import annotations

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


def run(
    root: Path, base_url: str, corp: tuple[str, str], config: dict[str, Any], plan_id: str, out: Connection
) -> None:
    """Apply *plan_id*; says `go` just before and the outcome after."""
    home = Home(root)
    client = WeComClient(base_url, *corp, limits=Limits(calls_per_second=5000.0))
    with SyncLedger(home.sync_ledger) as ledger, client:
        session = Session(client, ledger, SyncConfig.model_validate(config), "UTC", "ops", lambda: datetime.now(UTC))
        plan = load(home, ledger, plan_id)
        out.send("go")
        out.send(sync.apply(plan, session, holder="the only one").outcome)
