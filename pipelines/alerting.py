"""Telling people how a run ended: what began to be wrong, what lasts, what has recovered."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import dagster as dg

from cdp.brand import BrandConfig
from cdp.quality.alerts import Condition
from connectors.alerts import send_to_all, senders
from warehouse.alerts import tell
from warehouse.home import Home, load_config

MAIN_JOB = "run_everything"
ORIGIN_TAG = "cdp/origin"  # on runs that the command line made and tells of itself


@dataclass(frozen=True)
class FailedCheck:
    """One check that did not pass: `asset`, `name`, whether it blocks, and what it said."""

    asset: str
    name: str
    severity: str
    facts: Mapping[str, str]


def failed_checks(evaluations: Iterable[dg.AssetCheckEvaluation]) -> tuple[FailedCheck, ...]:
    """Those of a run's checks that did not pass."""
    return tuple(
        FailedCheck(
            check.asset_key.to_user_string(),
            check.check_name,
            check.severity.value,
            {name: str(getattr(value, "value", value)) for name, value in check.metadata.items()},
        )
        for check in evaluations
        if not check.passed
    )


def conditions_of_checks(checks: Iterable[FailedCheck]) -> list[Condition]:
    """Failed checks as conditions, named by asset and check."""
    return [
        Condition(
            key=f"{check.asset} {check.name}",
            level="error" if check.severity == "ERROR" else "warn",
            text=f"{check.asset} {check.name}: {check.facts.get('observed') or check.facts.get('error') or 'failed'}"[
                :300
            ],
        )
        for check in checks
    ]


def announce(
    home: Home, conditions: Sequence[Condition], *, job: str, environment: Mapping[str, str] = os.environ
) -> None:
    """Send what changed since the last run of *job* to the places `alerts:` of config/cdp.yaml names; nothing where it
    names none. *conditions*: everything wrong after this run. What other jobs told of stays as it is."""
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
            about=lambda key: told_by(key) == job,
        )


def job_failed(job: str, text: str) -> Condition:
    """A run of *job* that ended without saying which of its steps failed."""
    return Condition(key=f"job {job}", level="error", text=text[:300])


def told_by(key: str) -> str:
    """The job whose runs tell of the condition *key*: steps and checks are those of the whole way."""
    return key.removeprefix("job ") if key.startswith("job ") else MAIN_JOB
