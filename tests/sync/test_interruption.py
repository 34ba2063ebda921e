"""kill -9 at any moment, SIGTERM, a server that dies or hangs: nothing is lost, nothing sent twice beyond the bound."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import random
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from connectors.wecom import sync
from connectors.wecom.client import Limits, WeComClient
from connectors.wecom.replies import WeComError
from sandbox.server import load_scenario, scenario_path
from tests.sync import killed
from tests.sync.world import CORPID, SECRET, World, people, settings
from warehouse.sync_plan import StoredPlan, load

Make = Callable[..., World]
MARK = "externalcontact/mark_tag"
CONCURRENCY = 4


def desired(world: World) -> dict[tuple[str, str], set[str]]:
    names = {"life": "生命周期", "pref": "品类偏好"}
    return {
        pair: {f"{names[key.split('/')[0]]}/{key.split('/')[1]}" for key in world.brand.wanted[one or ""]}
        for pair, one in world.brand.relations.items()
    }


def kill_again_and_again(world: World, kills: int, *, seed: int) -> int:
    """Apply in processes that die at random points, then in one that lives; calls that were made twice."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.sync.killed"])
    chance = random.Random(seed)
    plan = world.plan()
    if plan.summary["verdict"] == "HELD":
        world.approve(plan)
    most = killed.POINTS_PER_OP * plan.ops.height * 3 // (4 * kills)  # so that work is left for every kill
    arguments = (Path(world.home.root), world.server.base_url, (CORPID, SECRET), world.config.model_dump())
    for point in [*(chance.randint(1, most) for _ in range(kills)), None]:
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=killed.run, args=(*arguments, plan.plan_id, point, theirs), daemon=True)
        process.start()
        theirs.close()
        if point is None:
            assert ours.recv() == "DONE"
        process.join()
        assert process.exitcode == (0 if point is None else -signal.SIGKILL)
        process.close()
        ours.close()
    calls = Counter((call["userid"], call["external_userid"]) for call in world.marks())
    return sum(count - 1 for count in calls.values())


@pytest.mark.parametrize(
    ("kills", "relations"), [(10, 800), pytest.param(200, 1_600, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])]
)
def test_row_4_kill_9_at_any_moment(make_world: Make, kills: int, relations: int) -> None:
    config = settings(limits={"calls_per_second": 2000}, gates={"new_tag_people": 10**9})
    world = make_world(people(relations, 20), config=config, latency_ms={"default": 2})
    twice = kill_again_and_again(world, kills, seed=7)
    print(f"{kills} kills of a running apply, {twice} calls made twice")
    assert twice <= CONCURRENCY * kills
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


def until_done(world: World, plan: StoredPlan) -> int:
    """Apply and resume until every relation has its answer; how often it took."""
    for times in range(1, 11):
        with contextlib.suppress(WeComError):
            if world.apply(load(world.home, world.ledger, plan.plan_id)).outcome == "DONE":
                return times
    raise AssertionError(world.ledger.counts(1))


def sent_once(world: World) -> bool:
    """Everything as desired, and each write taken by WeCom exactly once."""
    done = Counter((call["userid"], call["external_userid"]) for call in world.marks() if call["errcode"] == 0)
    return world.remote() == desired(world) and set(done) == set(desired(world)) and set(done.values()) == {1}


def test_a_storm_of_dying_tokens(make_world: Make) -> None:
    world = make_world(people(120, 4))
    plan = world.plan()
    world.server.admin("DELETE", "log")
    world.server.admin("POST", "scenario", load_scenario(scenario_path("token_storm")))
    world.fault(kind="expire_token", path=MARK, rate=0.15)
    until_done(world, plan)
    expired = sum(call["fault"] == "expire_token" for call in world.marks())
    asked = len(world.server.admin("GET", "log", path="gettoken")["log"])
    assert expired > 5
    # One refresh per dead token, not one per worker.
    assert asked <= expired + 2
    world.server.admin("DELETE", "faults")
    assert sent_once(world)


def test_clocks_that_jump_lose_nothing_and_stall_nothing(make_world: Make) -> None:
    world = make_world(people(160, 4), latency_ms={"default": 2})
    plan = world.plan()
    calls = itertools.count()
    began = time.monotonic()

    def clock() -> float:
        """Monotonic seconds that jump forth by a day and back by an hour."""
        number = next(calls)
        return time.monotonic() + (86_400 if 200 <= number < 400 else -3_600 if number >= 400 else 0)

    def tokens_age(done: int, _: int) -> None:
        if done == 80:
            world.server.admin("POST", "clock", {"advance": 7_300})
            world.advance(days=-1)

    report = world.apply(plan, clock=clock, progress=lambda _, done, total: tokens_age(done, total))
    assert report.outcome == "DONE"
    assert next(calls) > 400
    assert time.monotonic() - began < 60
    assert sent_once(world)


def test_names_that_do_not_resolve_for_a_while(make_world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world(people(60, 4), config=settings(limits={"attempts": 2}, breaker={"unclassified_in_a_row": 6}))
    plan = world.plan()
    world.client.close()
    quick = {"sleep": lambda seconds: time.sleep(min(seconds, 0.01))}
    world.client = WeComClient(world.server.base_url, CORPID, SECRET, limits=Limits(calls_per_second=5000.0), **quick)
    asked: list[str] = []
    resolve = socket.getaddrinfo

    def broken(host: Any, *arguments: Any, **named: Any) -> Any:
        asked.append(host)
        if len(asked) <= 40:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return resolve(host, *arguments, **named)

    monkeypatch.setattr(socket, "getaddrinfo", broken)
    assert until_done(world, plan) > 1
    monkeypatch.undo()
    assert len(asked) > 40
    assert sent_once(world)


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
