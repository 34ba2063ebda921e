"""Speed of the sync: planning a million relations, and an apply against its forecast on a server that takes 50 ms.

python -m tests.benchmarks.bench_sync plan 1000000
python -m tests.benchmarks.bench_sync apply 100000 50
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl

from cdp.sync import changes as c
from cdp.sync.config import Consent
from cdp.sync.model import GroupSpec, RegisteredTag, TagSpec
from connectors.wecom import sync
from connectors.wecom.apply import MARK
from tests.sync.world import World, people, settings
from warehouse.sync_plan import ready

WHEN = datetime(2026, 11, 1, tzinfo=UTC)
GROUPS, VALUES = 8, 8


def million(count: int) -> tuple[tuple[GroupSpec, ...], tuple[RegisteredTag, ...], c.State]:
    """*count* relations of nine tenths as many people; everyone has 8 tags, every relation 4 of them by now."""
    chance = np.random.default_rng(1)
    groups = tuple(
        GroupSpec(f"g{g}", f"组{g}", g, tuple(TagSpec(f"g{g}/{v}", f"g{g}", str(v), f"t{v}", v) for v in range(VALUES)))
        for g in range(GROUPS)
    )
    register = tuple(
        RegisteredTag(f"et{tag.key}", spec.key, tag.key, spec.key, tag.value, tag.name, spec.name, tag.order)
        for spec in groups
        for tag in spec.tags
    )
    persons = max(1, count * 9 // 10)
    ids = pl.Series("one_id", [f"p{number:08d}" for number in range(persons)])
    tags = pl.concat(
        [
            pl.DataFrame({"one_id": ids, "key": [f"g{g}/{v}" for v in chance.integers(0, VALUES, persons)]})
            for g in range(GROUPS)
        ]
    )
    some = [[f"etg{g}/{chance.integers(VALUES)}" for g in range(4)] for _ in range(1000)]
    relations = pl.DataFrame(
        {
            "userid": [f"s{number % 2000:04d}" for number in range(count)],
            "external_userid": [f"wm{number:08d}" for number in range(count)],
            "one_id": [f"p{number % persons:08d}" for number in range(count)],
            "added_at": [WHEN] * count,
            "is_active": [True] * count,
            "tag_ids": (some * (count // 1000 + 1))[:count],
            "read_at": [WHEN] * count,
        },
        schema=c.RELATIONS_SCHEMA,
    )
    known = pl.DataFrame({"one_id": ids}).with_columns(
        consent=pl.lit(True), store_id=pl.lit(None, pl.String), owner_userid=pl.lit(None, pl.String)
    )
    state = c.State(
        tags=tags,
        relations=relations,
        people=known,
        staff=pl.DataFrame(schema=c.STAFF_SCHEMA),
        frozen=pl.DataFrame(schema=c.FROZEN_SCHEMA),
        churn_held=pl.DataFrame(schema=c.TAGS_SCHEMA),
        control=pl.DataFrame(schema=c.CONTROL_SCHEMA),
        visible=frozenset(f"s{number:04d}" for number in range(2000)),
    )
    return groups, register, state


def bench_plan(count: int) -> None:
    groups, register, state = million(count)
    began, used = time.perf_counter(), time.process_time()
    result = c.compute_changes(groups, register, state, consent=Consent())
    print(f"plan: {count:,} relations, {state.tags.height:,} wanted memberships -> {result.ops.height:,} ops")
    print(f"      {time.perf_counter() - began:.1f} s wall, {time.process_time() - used:.1f} s CPU, {_memory()}")


def bench_apply(count: int, delay_ms: int) -> None:
    limits = {"calls_per_second": 10_000, "assumed_call_ms": delay_ms + 1.0}
    config = settings(limits=limits, gates={"new_tag_people": 10**9})
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder), people(count, max(4, count // 250)), config, latency_ms={"default": delay_ms})
        plan = world.plan()
        forecast = plan.summary["forecast"]["seconds"]
        if plan.summary["verdict"] == "HELD":
            world.approve(plan)
        ready(world.home, world.ledger, plan.plan_id, config, version="v1", now=world.now())
        began, used = time.perf_counter(), time.process_time()
        report = sync.apply(plan, world.session(), holder="bench")
        sending = time.perf_counter() - began
        seen = world.verify(plan.plan_id)
        took = time.perf_counter() - began
        best = count * delay_ms / 1000 / config.limits.concurrency
        stats = world.server.admin("GET", "stats")
        print(f"apply: {count:,} relations, {delay_ms} ms a call: {report.counts}, {seen.outcome}")
        print(f"      sent in {sending:.1f} s, limits allow {best:.1f} s ({sending / best - 1:+.0%})")
        print(f"      with read-back {took:.1f} s, forecast {forecast:.1f} s ({took / forecast - 1:+.0%})")
        print(f"      {time.process_time() - used:.1f} s CPU, {_memory()}, codes {stats['calls'][MARK]}")
        print(f"      most in flight {stats['most_in_flight'][MARK]}, one customer twice at once: {stats['overlaps']}")
        world.close()


def _memory() -> str:
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2:.2f} GiB"


if __name__ == "__main__":
    if sys.argv[1] == "plan":
        bench_plan(int(sys.argv[2]))
    else:
        bench_apply(int(sys.argv[2]), int(sys.argv[3]))
