"""Tags of a forgotten person come off in WeCom with the next plan; until then the ledger names nobody in clear."""

from __future__ import annotations

from pathlib import Path

import pytest

from cdp.privacy.traces import Traces
from tests.sync.world import START, Brand, World, settings
from warehouse.erasure_sync import close_farewells, erase_in_sync, forgotten_customers
from warehouse.privacy_ledger import PrivacyLedger
from warehouse.secrets import identity_secret
from warehouse.sync_plan import PlanStoppedError, load

GONE, STAYS = "wmForgotten_Customer_0001", "wmOther_Customer_00000002"


@pytest.mark.parametrize("mode", ["mirror", "add_only"])
def test_tags_of_a_forgotten_person_come_off_and_then_nothing_is_left(tmp_path: Path, mode: str) -> None:
    brand = Brand(
        {("s1", GONE): "p1", ("s2", GONE): "p1", ("s1", STAYS): "p2"}, {"p1": ["life/首购"], "p2": ["life/首购"]}
    )
    world = World(tmp_path, brand, settings(defaults={"mode": mode}))
    try:
        first = world.apply()
        world.verify(first.plan_id)
        assert world.remote()["s1", GONE] == {"生命周期/首购"}
        traces = Traces(frozenset({("external_userid", GONE)}), one_ids=frozenset({"p1"}))
        ledger = PrivacyLedger(world.home)
        request = ledger.begin(
            traces, [], secret=identity_secret(world.home), actor="dpo", reason="asked", now=START, whole_person=True,
            expires_at=None,
        )  # fmt: skip
        world.ledger.audit("ops", "approve", now=START, reason=f"asked about {GONE} on the phone")
        rows = world.ledger.check_audit()
        dry = erase_in_sync(world.home, traces, apply=False, now=START)
        done = erase_in_sync(world.home, traces, apply=True, now=START)
        assert dry.places == done.places
        assert (done.farewells, done.places["data/sync.sqlite reads"]) == (2, 2)
        assert done.places["data/sync.sqlite texts"] == 1, "what people wrote about her"
        assert world.ledger.check_audit() == rows + 1, "the chain holds, and a row says what was done"
        ledger.finish(request, {}, now=START)
        assert not spelt(world), "enciphered, not in clear"
        with pytest.raises(PlanStoppedError, match="forgotten since"):
            load(world.home, world.ledger, first.plan_id)
        world.ledger.forgotten = forgotten_customers(world.home, now=START)
        # The relations are in no version any more: raw does not have them.
        brand.relations = {("s1", STAYS): "p2"}
        brand.wanted.pop("p1")
        brand.version = "v2"
        plan = world.plan()
        changes = [(row["userid"], row["external_userid"], row["add"], row["remove"]) for row in plan.ops.to_dicts()]
        assert changes == [("s1", GONE, [], ["life/首购"]), ("s2", GONE, [], ["life/首购"])]
        world.apply(plan)
        world.verify(plan.plan_id)
        assert close_farewells(world.home) == 2
        assert world.remote()["s1", GONE] == set()
        assert world.remote()["s2", GONE] == set()
        assert world.remote()["s1", STAYS] == {"生命周期/首购"}
        assert not spelt(world)
        assert world.plan().ops.is_empty()
        assert world.ledger.check_audit() > 4, "the audit log still fits together"
    finally:
        world.close()


def spelt(world: World) -> list[str]:
    files = [path for path in world.home.root.rglob("*") if path.is_file()]
    return [path.name for path in files if GONE.encode() in path.read_bytes()]
