"""Run by the crash tests as its own process: lands a home, and kills itself at the n-th point if told so."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from cdp.errors import CdpError
from tests.source_support import Brand
from warehouse import landing
from warehouse.landing_ledger import LandingLedger

YAML = """
sources:
  log: {connector: sensors, path: inbox/*.log, reject_budget: 0.5}
  crm:
    connector: sqlite
    path: crm.sqlite
    streams: {people: {table: members, cursor: at, page: 40, deletes: true, columns: {person_key: id, updated_at: at}}}
  dump:
    connector: file
    streams: {products: {path: "inbox/p*.csv", mode: snapshot}}
"""


def arm(point: int) -> None:
    """Kill this process at the *point*-th time that something is about to become lasting, or has just become so."""
    passed = [0]

    def dangerous(wrapped: Any) -> Any:
        def call(*args: Any, **facts: Any) -> Any:
            _step(passed, point)
            result = wrapped(*args, **facts)
            _step(passed, point)
            return result

        return call

    landing.os.replace = dangerous(os.replace)  # type: ignore[attr-defined]
    LandingLedger.commit = dangerous(LandingLedger.commit)  # type: ignore[method-assign]
    LandingLedger.reserve = dangerous(LandingLedger.reserve)  # type: ignore[method-assign]


def _step(passed: list[int], point: int) -> None:
    passed[0] += 1
    if passed[0] == point:
        os.kill(os.getpid(), signal.SIGKILL)


def main(root: str, point: int) -> None:
    landing.COMMIT_ROWS = 50
    if point:
        arm(point)
    brand = Brand(Path(root), YAML)
    for name in brand.config.sources:
        try:
            brand.land(name)
        except CdpError as error:
            print(error)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
