"""Four-step funnel, 7-day window: chdb's windowFunnel, our plain SQL, our kernel, on one Parquet file.

`python tests/benchmarks/bench_analytics_funnels.py [events]` prints seconds of processor and wall time and the ratios.
Each engine runs in a process of its own, after a warm-up on a small file (compiled code cached, libraries loaded).
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import duckdb
import numpy as np
import polars as pl

STEPS = ["view", "cart", "order", "again"]
WEEK_US = 7 * 86_400_000_000


def make_events(path: Path, events: int) -> None:
    """Random unsorted events: forty per user, 90 days, eight event names of which four are steps."""
    rng = np.random.default_rng(20_26)
    names = pl.Series([*STEPS, "page", "search", "share", "login"])
    pl.DataFrame(
        {
            "user_id": rng.integers(0, max(events // 40, 1), events),
            "t": rng.integers(0, 90 * 86_400, events) * 1_000_000,
            "event": names.gather(rng.integers(0, 8, events, dtype=np.uint32)),
        }
    ).write_parquet(path)


def definition():  # type: ignore[no-untyped-def]
    from cdp.funnels.config import Funnel

    return Funnel.model_validate(
        {"id": "bench", "steps": [{"id": s, "event": s} for s in STEPS], "window": {"total": "7d"}}
    )


def run_sql(path: str) -> list[int]:
    from cdp.funnels.sql import level_sql

    conditions = [f"event = '{name}'" for name in STEPS]
    sql = level_sql(definition(), f"read_parquet('{path}')", conditions, unit="user_id", time="t")
    with duckdb.connect(config={"threads": 2}) as con:
        rows = con.execute(f"select level, count(*) from ({sql}) group by 1 order by 1").fetchall()
    return reached(dict(rows))


def run_kernel(path: str) -> list[int]:
    from cdp.funnels.packed import packed_levels

    with duckdb.connect(config={"threads": 2}) as con:
        cases = " ".join(f"when '{name}' then {i}" for i, name in enumerate(STEPS))
        columns = con.execute(
            f"select user_id, t, cast(case event {cases} end as utinyint) as step from read_parquet('{path}')"
            f" where event in ({', '.join(repr(s) for s in STEPS)})"
        ).fetchnumpy()
    found = packed_levels(
        np.asarray(columns["user_id"]), np.asarray(columns["t"]), np.asarray(columns["step"]), len(STEPS), WEEK_US
    )
    return reached(dict(enumerate(np.bincount(found, minlength=len(STEPS) + 1).tolist())))


def run_chdb(path: str) -> list[int]:
    import chdb

    from cdp.funnels.sql import level_sql

    conditions = [f"event = '{name}'" for name in STEPS]
    source = f"file('{path}', Parquet)"
    sql = level_sql(definition(), source, conditions, unit="user_id", time="t", dialect="clickhouse")
    text = str(chdb.query(f"select level, count() from ({sql}) group by level order by level settings max_threads=2"))
    return reached({int(a): int(b) for a, b in (line.split(",") for line in text.strip().splitlines())})


def reached(levels: dict[int, int]) -> list[int]:
    return [sum(count for level, count in levels.items() if level > step) for step in range(len(STEPS))]


ENGINES = {"chdb windowFunnel": run_chdb, "plain SQL": run_sql, "kernel": run_kernel}


def child(engine: str, small: str, path: str) -> None:
    """Run one engine and print its figures as JSON."""
    ENGINES[engine](small)
    before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    counts = ENGINES[engine](path)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(json.dumps({"counts": counts, "cpu": cpu, "wall": wall, "peak_mib": after.ru_maxrss // 1024}))


def main(events: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        small, path = Path(folder) / "small.parquet", Path(folder) / "events.parquet"
        make_events(small, 10_000)
        make_events(path, events)
        figures = {}
        for engine in ENGINES:
            command = [sys.executable, __file__, "--child", engine, str(small), str(path)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            figures[engine] = json.loads(done.stdout.strip().splitlines()[-1])
    base = figures["chdb windowFunnel"]["cpu"]
    print(f"{events:,} events, four steps, seven days")
    for engine, f in figures.items():
        share = f["cpu"] / base
        print(
            f"{engine:<18} cpu {f['cpu']:6.2f} s  wall {f['wall']:6.2f} s  peak {f['peak_mib']:6,} MiB  {share:4.2f} x"
        )
    if len({tuple(f["counts"]) for f in figures.values()}) > 1:
        raise SystemExit(f"counts differ: { {name: f['counts'] for name, f in figures.items()} }")
    print("counts", figures["kernel"]["counts"])


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(*sys.argv[2:5])
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000_000)
