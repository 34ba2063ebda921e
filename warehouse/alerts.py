"""Telling people what is wrong, at least once: the memory of what was told is saved only after it was sent."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from cdp.quality.alerts import Alert, AlertRules, Condition, Remembered, compose, decide
from warehouse.expectations import CheckResult
from warehouse.home import Home

MESSAGE_BYTES = 2048  # what a WeCom group robot takes as text
_MEMORY = Path("logs") / "alerts.json"
_ADAPTER = TypeAdapter(dict[str, Remembered])


def tell(
    home: Home,
    conditions: Sequence[Condition],
    *,
    send: Callable[[str], None],
    now: datetime,
    brand: str,
    locale: Literal["zh", "en"],
    rules: AlertRules,
    about: Callable[[str], bool] | None = None,
) -> list[Alert]:
    """Send one message about what began, lasts or ended since the last call; nothing when nothing did.

    *conditions*: everything wrong now, from all of the run. *about*: which conditions, by key, such a run can tell of
    (default: all); the others stay remembered as they are. What *send* raises goes on to the caller; then nothing is
    remembered, and the next call tells it again. A memory that cannot be read counts as empty.
    """
    remembered = _remembered(home)
    before = {key: known for key, known in remembered.items() if about is None or about(key)}
    others = {key: known for key, known in remembered.items() if key not in before}
    alerts, memory = decide(conditions, before, now=now, rules=rules)
    if alerts:
        send(compose(alerts, brand=brand, locale=locale, limit=MESSAGE_BYTES))
    _remember(home, others | memory)
    return alerts


def conditions_of(checks: Iterable[CheckResult]) -> list[Condition]:
    """The failed ones of *checks* as conditions, named by table and check."""
    return [
        Condition(
            key=f"{check.table} {check.name}", level=check.severity, text=f"{check.description}: {check.observed}"
        )
        for check in checks
        if not check.passed
    ]


def _remembered(home: Home) -> dict[str, Remembered]:
    try:
        return _ADAPTER.validate_json((home.root / _MEMORY).read_bytes())
    except (FileNotFoundError, ValidationError):
        return {}


def _remember(home: Home, memory: dict[str, Remembered]) -> None:
    target = home.root / _MEMORY
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_suffix(".tmp")
    text = json.dumps(_ADAPTER.dump_python(memory, mode="json"), ensure_ascii=False, indent=1)
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, target)
