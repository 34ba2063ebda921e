"""`kill -9` in the middle of a run, then the run again: the map of a clean run."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import pytest

from tests.benchmarks.bench_identity import fill
from tests.identity.brands import AS_OF, SECRET

RUN = f"""
import duckdb, sys
from datetime import datetime
from cdp.identity.rules import IdentityRules
from warehouse.identity_store import resolve_identities
con = duckdb.connect(sys.argv[1])
con.execute("set TimeZone = 'UTC'")
report = resolve_identities(con, IdentityRules(), run_id="run", as_of=datetime.fromisoformat("{AS_OF.isoformat()}"),
    secret=bytes.fromhex("{SECRET.hex()}"), progress=lambda stage: print(stage, flush=True))
print(report.map_hash)
"""


def prepare(path: Path) -> None:
    with duckdb.connect(str(path)) as con:
        con.execute("set TimeZone = 'UTC'")
        fill(con, 0, 4_000)


def change(path: Path) -> None:
    """Evidence that comes, evidence that goes, evidence made again otherwise."""
    with duckdb.connect(str(path)) as con:
        con.execute("set TimeZone = 'UTC'")
        fill(con, 4_000, 4_200)
        con.execute("delete from identity.int_identity__evidence where source_key in ('m7', 'u8', 'e9')")
        con.execute("""update identity.int_identity__evidence set evidence_id = evidence_id + 1, made_at = made_at + 1,
            last_time = last_time + interval 1 hour where source_key like 't1%'""")


def run(path: Path, kill_after: float | None) -> str:
    process = subprocess.Popen([sys.executable, "-c", RUN, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    if kill_after is None:
        return process.communicate()[0].splitlines()[-1]
    process.stdout.readline()  # the first stage has begun
    time.sleep(kill_after)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    return ""


@pytest.mark.slow
def test_killed_runs_leave_no_trace(tmp_path: Path) -> None:
    clean, broken = tmp_path / "clean.duckdb", tmp_path / "broken.duckdb"
    prepare(clean)
    prepare(broken)
    expected = run(clean, None)
    rng = random.Random(4)
    for _ in range(6):
        run(broken, rng.uniform(0, 1.2))
    assert run(broken, None) == expected
    for path in (clean, broken):
        change(path)
    expected = run(clean, None)
    for _ in range(6):
        run(broken, rng.uniform(0, 0.4))
    assert run(broken, None) == expected
