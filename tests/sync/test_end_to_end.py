"""Plan, apply, verify over real HTTP against the sandbox; and a second time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from connectors.wecom import sync
from tests.sync.world import World, people
from warehouse.sync_plan import ready


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path, people(300, 6))
    yield world
    world.close()


def test_plan_apply_verify_and_a_second_run_sends_nothing(world: World) -> None:
    plan = world.plan()
    assert plan.summary["verdict"] == "READY"
    plan = ready(world.home, world.ledger, plan.plan_id, world.config, version="v1", now=world.now())
    report = sync.apply(plan, world.session(), holder="test")
    assert (report.outcome, report.counts) == ("DONE", {"acked": 300})
    verified = sync.verify(plan.plan_id, world.session())
    assert (verified.outcome, verified.verified, verified.disagree) == ("VERIFIED", 300, 0)
    expected = {"生命周期/首购", "品类偏好/茶"}
    assert world.remote()[("s000", "wm000000")] == expected
    sent = len(world.marks())
    assert sent == 300
    second = world.plan()
    assert (second.summary["verdict"], second.ops.height, second.summary["library"]) == ("EMPTY", 0, [])
    assert len(world.marks()) == sent
    assert world.ledger.check_audit() >= 4
