"""kill -9 at any moment, SIGTERM, a server that dies or hangs: nothing is lost, nothing sent twice beyond the bound."""

from __future__ import annotations

import multiprocessing
import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from connectors.wecom import sync
from tests.sync import killed
from tests.sync.world import CORPID, SECRET, World, people, settings
from warehouse.sync_plan import load

Make = Callable[..., World]
MARK = "externalcontact/mark_tag"
CONCURRENCY = 4


def desired(world: World) -> dict[tuple[str, str], set[str]]:
    names = {"life": "生命周期", "pref": "品类偏好"}
    return {
        pair: {f"{names[key.split('/')[0]]}/{key.split('/')[1]}" for key in world.brand.wanted[one or ""]}
        for pair, one in world.brand.relations.items()
    }


def kill_again_and_again(world: World, kills: int, *, seed: int, most: float) -> tuple[int, int]:
    """Apply in processes killed at random moments until one ends by itself; (kills that hit, calls made twice)."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.sync.killed"])
    chance = random.Random(seed)
    plan = world.plan()
    if plan.summary["verdict"] == "HELD":
        world.approve(plan)
    hit = 0
    for number in range(kills + 1):
        ours, theirs = context.Pipe(duplex=False)
        arguments = (Path(world.home.root), world.server.base_url, (CORPID, SECRET))
        process = context.Process(
            target=killed.run, args=(*arguments, world.config.model_dump(), plan.plan_id, theirs), daemon=True
        )
        process.start()
        theirs.close()
        assert ours.recv() == "go"
        if number == kills:
            assert ours.recv() == "DONE"
        else:
            time.sleep(chance.uniform(0.0, most))
            process.kill()
            hit += not ours.poll()
        process.join()
        process.close()
        ours.close()
    calls = Counter((call["userid"], call["external_userid"]) for call in world.marks())
    return hit, sum(count - 1 for count in calls.values())


@pytest.mark.parametrize(("kills", "relations"), [(10, 800), pytest.param(200, 12_000, marks=pytest.mark.slow)])
def test_row_4_kill_9_at_any_moment(make_world: Make, kills: int, relations: int) -> None:
    config = settings(limits={"calls_per_second": 2000}, gates={"new_tag_people": 10**9})
    world = make_world(people(relations, 20), config=config, latency_ms={"default": 2})
    hit, twice = kill_again_and_again(world, kills, seed=7, most=0.12)
    print(f"{kills} kills, {hit} hit a running apply, {twice} calls made twice")
    assert hit >= kills * 0.8
    assert twice <= CONCURRENCY * hit
    assert world.remote() == desired(world)
    plan_id = world.ledger.plan_row(None)["plan_id"]
    assert world.verify(plan_id).outcome == "VERIFIED"
    assert world.plan().summary["verdict"] == "EMPTY"
    assert world.ledger.check_audit() > 3


@pytest.mark.parametrize(
    "rule",
    [
        # The write arrived, its answer did not: it is read back before anything is sent again.
        {"kind": "cut", "when": "after", "rate": 0.1},
        {"kind": "cut", "when": "before", "rate": 0.1},
        {"kind": "http", "status": 502, "rate": 0.1},
        {"kind": "code", "code": -1, "rate": 0.1},
        {"kind": "code", "code": 6000, "rate": 0.1},
        {"kind": "code", "code": 45033, "rate": 0.05},
        {"kind": "code", "code": 45009, "count": 2},
        {"kind": "expire_token", "after": 20, "count": 1},
        {"kind": "code", "code": 42001, "count": 1},
    ],
)
def test_no_write_is_lost_or_takes_effect_twice(make_world: Make, rule: dict[str, object]) -> None:
    world = make_world(people(80, 4), config=settings(limits={"attempts": 8}))
    world.fault(path=MARK, **rule)
    report = world.apply()
    world.server.admin("DELETE", "faults")
    assert (report.outcome, report.counts) == ("DONE", {"acked": 80})
    assert world.remote() == desired(world)
    done = Counter((call["userid"], call["external_userid"]) for call in world.marks() if call["errcode"] == 0)
    assert set(done.values()) == {1}


def test_a_half_open_connection_times_out_and_is_read_back(make_world: Make) -> None:
    world = make_world(people(12, 2))
    world.client.close()
    world.client = world.new_client(timeout_s=0.5)
    world.fault(kind="hang", path=MARK, count=2)
    report = world.apply()
    assert report.counts == {"acked": 12}
    assert world.remote() == desired(world)


def test_a_server_that_restarts_in_the_middle(make_world: Make) -> None:
    world = make_world(people(200, 4), config=settings(limits={"attempts": 8}))
    world.fault(kind="restart", path=MARK, after=60, count=1)
    report = world.apply()
    assert report.counts == {"acked": 200}
    assert world.remote() == desired(world)


def test_a_dead_server_leaves_the_run_to_be_resumed(make_world: Make) -> None:
    world = make_world(people(40, 4), config=settings(limits={"attempts": 1}))
    plan = world.plan()
    world.apply(plan, stop=lambda: "not yet")
    world.server.kill()
    report = world.apply(load(world.home, world.ledger, plan.plan_id))
    assert report.outcome == "STOPPED"
    assert report.reason == "breaker: WeCom cannot be reached"
    assert report.counts == {"planned": 40}
    world.server.restart()
    assert world.apply(load(world.home, world.ledger, plan.plan_id)).counts == {"acked": 40}
    assert world.remote() == desired(world)


def test_a_stop_signal_ends_after_the_calls_in_flight(make_world: Make) -> None:
    world = make_world(people(200, 4), latency_ms={"default": 10})
    plan = world.plan()
    began = time.monotonic()
    asked: list[float] = []

    def stop() -> str | None:
        if len(asked) > 20:
            return "signal SIGTERM"
        asked.append(time.monotonic())
        return None

    report = world.apply(plan, stop=stop)
    assert time.monotonic() - began < 30
    assert (report.outcome, report.reason) == ("STOPPED", "signal SIGTERM")
    assert set(report.counts) == {"acked", "planned"}
    assert report.counts["acked"] == len(world.marks())
    assert sync.verify(plan.plan_id, world.session()).verified == report.counts["acked"]
    assert world.apply(load(world.home, world.ledger, plan.plan_id)).counts["acked"] > 0
