"""Telling people how a run ended: what began to be wrong, what lasts, what has recovered."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from cdp.brand import BrandConfig
from cdp.quality.alerts import Condition
from connectors.alerts import send_to_all, senders
from warehouse.alerts import tell
from warehouse.home import Home, load_config


def announce(home: Home, conditions: Sequence[Condition], *, environment: Mapping[str, str] = os.environ) -> None:
    """Send what changed since the last run to the places `alerts:` of config/cdp.yaml names; nothing where it names
    none. *conditions*: everything wrong after this run."""
    brand = load_config(home, "cdp.yaml", BrandConfig)
    targets = senders(brand.alerts, environment=environment, root=home.root)
    if targets:
        tell(
            home,
            conditions,
            send=lambda text: send_to_all(targets, text),
            now=datetime.now(UTC),
            brand=brand.name,
            locale=brand.locale,
            rules=brand.alerts,
        )
