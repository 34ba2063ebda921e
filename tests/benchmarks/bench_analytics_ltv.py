"""BG/NBD: CDNOW against `lifetimes` in the same run, then fit and score of a million people.

`python tests/benchmarks/bench_analytics_ltv.py [people]`
"""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

# Both sides on one thread: idle threads of the linear algebra library spin, and count as processor time.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import polars as pl

from cdp.ltv import buying
from cdp.ltv.fit import collapse
from cdp.ltv.models import Buyers, fit_and_score
from cdp.metrics.config import LtvConfig


def cpu(work: Callable[[], Any], repeat: int = 15) -> float:
    """Best processor time of *repeat* runs, seconds."""
    times = []
    for _ in range(repeat):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def simulated(people: int) -> Buyers:
    """Histories of a BG/NBD (r 0.8, alpha 6, a 0.9, b 3; weeks), whole days, without a loop over people."""
    rng = np.random.default_rng(7)
    rate = rng.gamma(0.8, 1 / 6.0, people)
    observed = np.floor(rng.uniform(10, 110, people) * 7) / 7
    most = rng.geometric(np.clip(rng.beta(0.9, 3.0, people), 1e-6, 1))
    x, t_x, now = np.zeros(people), np.zeros(people), np.zeros(people)
    alive = np.ones(people, dtype=bool)
    for step in range(1, 400):
        now = now + rng.exponential(1 / rate)
        alive &= (now <= observed) & (step <= most)
        if not alive.any():
            break
        x[alive], t_x[alive] = step, now[alive]
    amount = np.where(x > 0, rng.gamma(6.0, 20.0, people), 0.0)
    ids = pl.Series(np.arange(people)).cast(pl.String)
    return Buyers(ids, x, np.floor(t_x * 7), observed * 7, amount)


def main(people: int) -> None:
    from lifetimes import BetaGeoFitter
    from lifetimes.datasets import load_cdnow_summary

    data = load_cdnow_summary()
    rows = [data[name].to_numpy(dtype=float) for name in ("frequency", "recency", "T")]

    def ours() -> None:
        collapsed = collapse(*rows)
        buying.fit_bg_nbd(*collapsed.rows, collapsed.weight)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mine, peer = cpu(ours), cpu(lambda: BetaGeoFitter().fit(*rows))
    print(f"CDNOW fit: ours {mine * 1e3:.1f} ms, lifetimes {peer * 1e3:.1f} ms, {peer / mine:.1f} times faster")
    buyers = simulated(people)
    start, wall = time.process_time(), time.perf_counter()
    found = fit_and_score(buyers, LtvConfig())
    print(
        f"{people:,} people: fit and score with Gamma-Gamma and intervals, cpu {time.process_time() - start:.2f} s,"
        f" wall {time.perf_counter() - wall:.2f} s, {found.buying.n_collapsed:,} distinct rows,"
        f" parameters { {k: round(v, 3) for k, v in found.buying.params.items()} }"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
