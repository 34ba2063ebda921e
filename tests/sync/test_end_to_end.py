"""Plan, apply, verify over real HTTP against the sandbox; and what may go wrong in between."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta

import polars as pl
import pytest

from cdp.errors import ConfigError, FatalError
from cdp.sync.ledger import LeaseHeldError, LeaseLostError, Moved
from cdp.sync.model import WATERFALL
from connectors.wecom import sync
from connectors.wecom.replies import WeComError
from tests.sync.world import OTHER_SECRET, Brand, World, people, settings
from warehouse import sync_drift
from warehouse.sync_inputs import policies, tag_rule
from warehouse.sync_ledger import SyncLedger
from warehouse.sync_plan import PlanHeldError, PlanStoppedError, approve, load, ready, reject

Make = Callable[..., World]
MARK = "externalcontact/mark_tag"


def test_plan_apply_verify_and_a_second_run_sends_nothing(make_world: Make) -> None:
    world = make_world(people(300, 6))
    plan = world.plan()
    assert plan.summary["verdict"] == "READY"
    report = world.apply(plan)
    assert (report.outcome, report.counts) == ("DONE", {"acked": 300})
    verified = world.verify(plan.plan_id)
    assert (verified.outcome, verified.verified, verified.disagree) == ("VERIFIED", 300, 0)
    assert world.remote()["s000", "wm000000"] == {"生命周期/首购", "品类偏好/茶"}
    second = world.plan()
    assert (second.summary["verdict"], second.ops.height, second.summary["library"]) == ("EMPTY", 0, [])
    world.apply(second)
    assert len(world.marks()) == 300
    assert world.ledger.check_audit() >= 4


def test_the_same_inputs_give_the_same_bytes(make_world: Make) -> None:
    world = make_world()
    first = world.plan()
    before = {path.name: path.read_bytes() for path in first.folder.iterdir()}
    world.brand.relations = dict(reversed(world.brand.relations.items()))
    world.brand.wanted = dict(reversed(world.brand.wanted.items()))
    world.advance(seconds=-1)
    second = world.plan()
    assert second.plan_id == first.plan_id
    assert {path.name: path.read_bytes() for path in second.folder.iterdir()} == before


def test_row_1_a_bad_join_is_held_and_nothing_is_called(make_world: Make) -> None:
    brand = people(600, 4)
    world = make_world(brand)
    assert world.run().outcome == "VERIFIED"
    calls = len(world.marks())
    for number in range(0, 600, 2):
        brand.wanted[f"p{number:06d}"].remove("pref/茶")
    plan = world.plan()
    assert plan.summary["verdict"] == "HELD"
    assert any("50%" in gate["en"] and "pref/茶" in gate["en"] for gate in plan.summary["gates"])
    with pytest.raises(PlanHeldError, match="nothing was sent") as held:
        ready(world.home, world.ledger, plan.plan_id, world.config, version="v1", now=world.now())
    assert held.value.exit_code == 2
    assert len(world.marks()) == calls


def test_a_segment_that_is_suddenly_empty_stops_the_plan_for_everybody(make_world: Make) -> None:
    brand = people(60, 4)
    world = make_world(brand)
    world.run()
    for keys in brand.wanted.values():
        keys.remove("pref/茶")
    plan = world.plan()
    assert plan.summary["verdict"] == "STOPPED"
    with pytest.raises(PlanStoppedError, match="nobody can release"):
        world.approve(plan)
    with pytest.raises(PlanStoppedError):
        ready(world.home, world.ledger, plan.plan_id, world.config, version="v1", now=world.now())


def test_row_2_an_approval_is_for_one_plan_only(make_world: Make) -> None:
    world = make_world(config=settings(approval={"required": "always"}))
    plan = world.plan()
    world.approve(plan)
    path = plan.folder / "plan.parquet"
    pl.read_parquet(path).with_columns(pl.lit(["life/复购"]).alias("add")).write_parquet(path)
    with pytest.raises(FatalError, match="approval is for another plan"):
        ready(world.home, world.ledger, plan.plan_id, world.config, version="v1", now=world.now())
    assert world.marks() == []


@pytest.mark.parametrize("part", ["control", "pending"])
def test_row_2_an_approval_covers_those_held_back_and_those_who_wait(make_world: Make, part: str) -> None:
    brand = people(40, 4)
    brand.wanted["p-not-a-contact"] = ["life/首购"]
    world = make_world(brand, config=settings(approval={"required": "always"}, control={"holdout": 0.3}))
    plan = world.plan()
    world.approve(plan)
    path = plan.folder / f"{part}.parquet"
    rows = pl.read_parquet(path)
    assert rows.height > 0
    rows.with_columns(pl.lit("life/复购").alias("key")).write_parquet(path)
    with pytest.raises(FatalError, match="approval is for another plan"):
        ready(world.home, world.ledger, plan.plan_id, world.config, version="v1", now=world.now())


def test_what_is_left_of_an_old_run_does_not_overwrite_newer_tags(make_world: Make) -> None:
    world = make_world()
    first = world.plan()
    assert world.apply(first, stop=lambda: "kill switch").outcome == "STOPPED"
    with pytest.raises(PlanStoppedError, match="expired"):
        ready(
            world.home, world.ledger, first.plan_id, world.config, version="v1", now=world.now() + timedelta(hours=25)
        )
    assert ready(world.home, world.ledger, first.plan_id, world.config, version="v2", now=world.now())
    world.brand.wanted["p000000"] = ["life/复购"]
    world.run()
    with pytest.raises(PlanStoppedError, match="another plan was applied"):
        world.apply(first)
    assert world.remote()["s000", "wm000000"] == {"生命周期/复购"}


def test_the_author_may_not_approve_unless_the_install_says_so(make_world: Make) -> None:
    world = make_world(config=settings(approval={"required": "always", "self_approve": False}))
    plan = world.plan()
    with pytest.raises(ConfigError, match="somebody else must approve"):
        world.approve(plan)
    with pytest.raises(PlanHeldError):
        ready(world.home, world.ledger, plan.plan_id, world.config, version="v1", now=world.now())
    approve(world.home, world.ledger, plan.plan_id, world.config, who="boss", reason="looked at it", now=world.now())
    assert world.apply(plan).outcome == "DONE"
    row = world.ledger.decision(plan.plan_id)
    assert row is not None
    assert (row["who"], row["by_author"], row["plan_hash"]) == ("boss", 0, plan.plan_hash)


def test_a_rejected_expired_or_overtaken_plan_is_not_sent(make_world: Make) -> None:
    world = make_world()
    rejected = world.plan()
    reject(world.home, world.ledger, rejected.plan_id, who="boss", reason="too many", now=world.now())
    late = world.plan()
    other = world.plan()
    with pytest.raises(PlanStoppedError, match="was rejected: too many"):
        world.apply(rejected)
    with pytest.raises(PlanStoppedError, match="published is v2"):
        ready(world.home, world.ledger, late.plan_id, world.config, version="v2", now=world.now())
    assert world.apply(other).outcome == "DONE"
    with pytest.raises(PlanStoppedError, match="another plan was applied"):
        world.apply(late)
    fresh = world.plan()
    with pytest.raises(PlanStoppedError, match="expired"):
        ready(
            world.home, world.ledger, fresh.plan_id, world.config, version="v1", now=world.now() + timedelta(hours=25)
        )


def test_a_plan_on_reads_that_are_too_old_is_not_sent(make_world: Make) -> None:
    brand = people(60, 4)
    brand.read_at -= timedelta(days=8)
    world = make_world(brand)
    with pytest.raises(PlanStoppedError, match="read too long ago"):
        world.apply()


def test_row_3_silent_drops_are_named_and_planned_again(make_world: Make) -> None:
    world = make_world(people(300, 6))
    world.fault(kind="drop", path=MARK, rate=0.03)
    report = world.apply()
    assert report.counts == {"acked": 300}
    world.server.admin("DELETE", "faults")
    untagged = {pair for pair, tags in world.remote().items() if not tags}
    verified = world.verify(report.plan_id)
    assert verified.outcome == "VERIFIED_WITH_GAPS"
    assert {(userid, customer) for userid, customer, _ in verified.gaps} == untagged
    assert 0 < len(untagged) < 30
    following = world.plan()
    assert {(row["userid"], row["external_userid"]) for row in following.ops.to_dicts()} == untagged
    world.apply(following)
    assert world.verify(following.plan_id).outcome == "VERIFIED"


def test_row_5_another_app_is_found_without_callbacks(make_world: Make) -> None:
    world = make_world()
    world.run()
    with world.new_client(OTHER_SECRET) as other:
        other.mark("s000", "wm000000", [], [world.ids()["pref/茶"]])
    world.advance(days=8)
    groups = policies(world.config, world.tags)
    staff = world.client.follow_users()
    due = world.ledger.due(staff, before=world.now() - timedelta(days=7))
    assert due == staff
    found = []
    for userids, reads in sync.read_staff(world.client, due):
        found += sync_drift.from_reads(world.ledger, reads, groups, now=world.now()).drift
        world.ledger.mark_rota(userids, now=world.now())
    assert [(item.userid, item.external_userid, item.key, item.direction, item.by) for item in found] == [
        ("s000", "wm000000", "pref/茶", "removed", "not by us")
    ]
    assert world.ledger.due(staff, before=world.now() - timedelta(days=7)) == []
    assert world.plan().ops.height == 1


def test_row_6_a_tag_people_took_off_rests(make_world: Make) -> None:
    config = settings(groups={"pref": {"drift": "human_wins", "freeze_days": 30}})
    world = make_world(config=config)
    world.run()
    world.hand(do="mark", userid="s000", external_userid="wm000000", remove=[world.ids()["pref/茶"]])
    world.ledger.save_hints([("d1", "s000", "wm000000", "edit_external_contact", world.now())])
    reads = [read for _, part in sync.read_staff(world.client, ["s000"]) for read in part]
    report = sync_drift.from_reads(world.ledger, reads, policies(world.config, world.tags), now=world.now())
    assert [(item.key, item.by) for item in report.drift] == [("pref/茶", "staff")]
    plan = world.plan()
    row = next(tag for tag in plan.summary["tags"] if tag["key"] == "pref/茶")
    assert (plan.ops.height, row["frozen"]) == (0, 1)
    world.advance(days=31)
    assert world.plan().ops.height == 1


def test_drift_seen_by_a_pull_is_recorded_once(make_world: Make) -> None:
    world = make_world()
    world.run()
    ids = world.ids()
    world.brand.read_at = world.now() + timedelta(hours=20)
    world.advance(hours=21)
    world.brand.read = {
        pair: [ids[key] for key in world.brand.wanted[one or ""]] for pair, one in world.brand.relations.items()
    }
    world.brand.read["s001", "wm000001"] = [ids["life/初识"], ids["life/复购"]]
    groups = policies(world.config, world.tags)
    relations = world.inputs().state.relations
    report = sync_drift.from_version(world.ledger, relations, groups, now=world.now())
    assert {(item.key, item.direction) for item in report.drift} == {("pref/茶", "removed"), ("life/复购", "added")}
    assert report.new == 2
    assert sync_drift.from_version(world.ledger, relations, groups, now=world.now()).new == 0
    assert [row["relations"] for row in sync_drift.summary(world.ledger, since=world.brand.read_at)] == [1, 1]
    assert world.plan().ops.to_dicts()[0]["add"] == ["pref/茶"]


def test_row_9_every_waterfall_adds_up(make_world: Make) -> None:
    brand = people(200, 5)
    brand.consent = {f"p{n:06d}": False for n in range(10)}
    brand.inactive = {("s000", f"wm{n:06d}") for n in (10, 15)}
    brand.wanted |= {"stranger": ["pref/茶"], "nobody": ["pref/茶"]}
    brand.strangers = {"nobody"}
    world = make_world(brand, config=settings(control={"holdout": 0.1}, limits={"max_ops": 100}))
    plan = world.plan()
    for tag in plan.summary["tags"]:
        assert tag["segment"] == sum(tag[step] for step in WATERFALL)
    tea = next(tag for tag in plan.summary["tags"] if tag["key"] == "pref/茶")
    assert tea["segment"] == 202
    assert (tea["unresolved"], tea["not_a_contact"], tea["lost_relation"], tea["no_consent"]) == (1, 1, 2, 10)
    assert tea["planned"] == plan.ops.height == 100
    assert tea["control"] > 0
    assert tea["over_budget"] == 202 - 114 - tea["control"]


def test_row_11_a_late_input_holds_the_plan(make_world: Make) -> None:
    world = make_world(config=settings(freshness={"orders": "26h"}))
    loads = world.home.landing_ledger
    loads.parent.mkdir(parents=True, exist_ok=True)
    import sqlite3

    con = sqlite3.connect(loads)
    con.execute("create table batches (source text, stream text, loaded_at text)")
    old = (world.now() - timedelta(hours=31)).isoformat()
    con.execute("insert into batches values ('crm', 'orders', ?)", (old,))
    con.commit()
    con.close()
    plan = world.plan()
    assert plan.summary["verdict"] == "HELD"
    assert "stale input orders (31 h > 26 h)" in [gate["en"] for gate in plan.summary["gates"]]


def test_a_warning_holds_and_a_failed_blocking_check_stops(make_world: Make) -> None:
    world = make_world()
    assert world.plan(checks=[("share", False, "warn")]).summary["verdict"] == "HELD"
    assert world.plan(checks=[("unique", False, "error")]).summary["verdict"] == "STOPPED"


def test_row_12_undo_restores_only_what_is_still_ours(make_world: Make) -> None:
    from cdp.sync.undo import undo_plan
    from warehouse.sync_plan import store

    brand = people(40, 4)
    world = make_world(brand)
    world.run()
    before = world.remote()
    for number in range(30):
        brand.wanted[f"p{number:06d}"] = ["life/复购", "pref/茶"]
    changed = world.apply()
    world.verify(changed.plan_id)
    world.hand(do="mark", userid="s001", external_userid="wm000001", remove=[world.ids()["life/复购"]])
    run_id, _ = world.ledger.run_of(changed.plan_id)
    ops = list(world.ledger.ops(run_id, states=("acked", "verified")))
    found = {}
    for _, reads in sync.read_staff(world.client, world.client.follow_users()):
        found |= {(read.userid, read.external_userid): frozenset(read.tag_ids) for read in reads}
        world.ledger.save_reads(reads, now=world.now())
    undone = undo_plan(world.inputs(), changed.plan_id, ops, found, world.ids())
    assert (undone.plan.ops.height, undone.left, undone.gone) == (29, 1, 0)
    store(world.home, world.ledger, undone.plan, now=world.now())
    world.apply(load(world.home, world.ledger, undone.plan.plan_id))
    after = world.remote()
    assert {pair for pair in before if before[pair] != after[pair]} == {("s001", "wm000001")}
    # A tag that was retired since cannot come back; what else the op did can.
    gone = {key: tag_id for key, tag_id in world.ids().items() if key != "life/首购"}
    rest = undo_plan(world.inputs(), changed.plan_id, ops, found, gone)
    assert (rest.plan.ops.height, rest.left) == (29, 1)
    assert not rest.plan.ops.filter(pl.col("add").list.contains("life/首购")).height


def test_row_13_a_bad_canary_leaves_the_rest_alone(make_world: Make) -> None:
    world = make_world(people(200, 10), config=settings(canary=0.1))
    plan = world.plan()
    canary = set(plan.ops.filter(pl.col("phase") == 0)["userid"])
    assert len(canary) == 1
    world.fault(kind="drop", path=MARK, rate=0.5)
    report = world.apply(plan)
    assert report.outcome == "STOPPED"
    assert "canary" in (report.reason or "")
    assert {call["userid"] for call in world.marks()} == canary
    world.server.admin("DELETE", "faults")
    resumed = world.apply(load(world.home, world.ledger, plan.plan_id))
    assert resumed.canary is not None
    assert resumed.canary.gap > 0
    assert resumed.outcome == "STOPPED"


def test_row_13_a_canary_that_is_refused_leaves_the_rest_alone(make_world: Make) -> None:
    world = make_world(people(80, 10), config=settings(canary=0.1))
    plan = world.plan()
    world.fault(kind="code", path=MARK, code=40058)
    report = world.apply(plan)
    assert (report.outcome, report.reason) == ("STOPPED", "canary: 8 of 8 relations failed")
    assert report.counts == {"failed": 8, "planned": 72}
    world.server.admin("DELETE", "faults")
    assert world.apply(load(world.home, world.ledger, plan.plan_id)).counts == {"failed": 8, "planned": 72}


def test_a_good_canary_goes_on_by_itself(make_world: Make) -> None:
    world = make_world(people(100, 10), config=settings(canary=0.1))
    report = world.apply()
    assert report.outcome == "DONE"
    assert report.canary is not None
    assert report.canary.verified == 10
    calls = [call["userid"] for call in world.marks()]
    assert len(calls) == 100
    assert len(set(calls[:10])) == 1


def test_row_15_one_customer_is_never_written_twice_at_once(make_world: Make) -> None:
    relations = {(f"s{staff}", f"wm{n % 5}"): f"p{n % 5}" for n in range(5) for staff in range(12)}
    brand = Brand(dict(relations), {f"p{n}": ["life/首购"] for n in range(5)})
    world = make_world(brand, latency_ms={"default": 5})
    assert world.apply().counts == {"acked": 60}
    stats = world.server.admin("GET", "stats")
    assert stats["overlaps"] == 0
    assert 1 < stats["most_in_flight"][MARK] <= 4
    assert set(stats["calls"][MARK]) == {"0"}


def test_row_17_a_tag_is_retired_by_draining_first(make_world: Make) -> None:
    brand = people(30, 3)
    world = make_world(brand, config=settings(gates={"removal_count": 1000, "total_removal_count": 1000}))
    world.run()
    tag_id = world.ids()["pref/茶"]
    del world.tags.tag_groups[1].write_back.__dict__["wecom"]
    world.tags = type(world.tags).model_validate(
        {"tag_groups": [group.model_dump(mode="json") for group in world.tags.tag_groups[:1]]}
    )
    drained = world.plan()
    assert [(change["action"], change["key"]) for change in drained.summary["library"]] == [("drain", "pref/茶")]
    world.apply(drained)
    world.verify(drained.plan_id)
    assert not any("品类偏好/茶" in tags for tags in world.remote().values())
    assert tag_id in {tag.tag_id for tag in world.inputs().remote.tags}
    world.advance(days=8)
    world.hand(do="mark", userid="s000", external_userid="wm000000", add=[tag_id])
    world.ledger.save_reads([read for _, r in sync.read_staff(world.client, ["s000"]) for read in r], now=world.now())
    held = world.plan()
    assert held.summary["library"][0]["holders"] == 1
    world.apply(held)
    world.verify(held.plan_id)
    # The wait begins once it is read to be on nobody.
    empty = world.plan()
    assert [change["action"] for change in empty.summary["library"]] == ["empty"]
    world.apply(empty)
    waits = world.plan()
    assert [(change["action"], change["deleted_from"]) for change in waits.summary["library"]] == [
        ("empty", f"{world.now() + timedelta(days=7):%F}")
    ]
    assert waits.summary["verdict"] == "EMPTY"
    world.advance(days=7)
    last = world.plan()
    assert [change["action"] for change in last.summary["library"]] == ["delete"]
    world.apply(last)
    assert tag_id not in {tag.tag_id for tag in world.inputs().remote.tags}
    assert world.plan().summary["verdict"] == "EMPTY"


def test_row_18_a_transferred_customer_is_gone_not_failed(make_world: Make) -> None:
    brand = people(20, 2)
    world = make_world(brand)
    plan = world.plan()
    world.hand(do="transfer", userid="s000", to="s001", external_userids=["wm000000"])
    report = world.apply(plan)
    assert report.counts == {"acked": 19, "gone": 1}
    assert report.outcome == "DONE"
    world.verify(plan.plan_id)
    brand.inactive = {("s000", "wm000000")}
    brand.relations["s001", "wm000000"] = "p000000"
    following = world.plan()
    assert [(row["userid"], row["external_userid"]) for row in following.ops.to_dicts()] == [("s001", "wm000000")]


def test_a_half_relation_is_not_tried_again_until_the_staff_adds_back(make_world: Make) -> None:
    world = make_world(people(20, 2))
    world.hand(do="add_relation", userid="s000", external_userid="wm000000", half=True)
    assert world.apply().counts == {"acked": 19, "gone": 1}
    world.verify(world.ledger.plan_row(None)["plan_id"])
    second = world.plan()
    assert (second.summary["verdict"], second.ops.height) == ("EMPTY", 0)
    assert sum(tag["lost_relation"] for tag in second.summary["tags"]) == 2
    world.hand(do="add_back", userid="s000", external_userid="wm000000")
    world.ledger.save_hints([("d1", "s000", "wm000000", "add_external_contact", world.now())])
    assert world.run().verified == 1


def test_row_20_people_who_flip_are_held(make_world: Make) -> None:
    from tests.sync import world as module

    class Flipping(module.Brand):
        def marts(self):  # type: ignore[no-untyped-def]
            con = super().marts()
            con.execute(
                "create table marts.fct_tag_history (one_id text, tag_group text, value text,"
                " valid_from timestamptz, valid_to timestamptz)"
            )
            for day in (1, 3, 5):
                con.execute(
                    "insert into marts.fct_tag_history values ('p000000', 'life', '首购', ?, ?)",
                    [module.START - timedelta(days=day), module.START - timedelta(days=day - 1)],
                )
            return con

    base = people(20, 2)
    world = make_world(Flipping(base.relations, base.wanted))
    plan = world.plan()
    row = next(tag for tag in plan.summary["tags"] if tag["key"] == "life/首购")
    assert row["churn_held"] == 1
    assert plan.ops.filter(pl.col("one_id") == "p000000").to_dicts()[0]["add"] == ["pref/茶"]
    assert plan.summary["flapping"] == [{"key": "life/首购", "people": 1, "flips": 6, "rule": "true"}]
    assert "反复进出的标签" in (plan.folder / "plan.html").read_text()
    assert tag_rule(world.tags, "pref/茶") == 'kind: "preference", source: "marts.fct_order_lines", value: "category"'


def test_row_8_control_is_held_before_the_fan_out(make_world: Make) -> None:
    relations = {(f"s{staff}", f"wm{n:03d}"): f"p{n:03d}" for n in range(100) for staff in range(3)}
    brand = Brand(dict(relations), {f"p{n:03d}": ["life/首购"] for n in range(100)})
    world = make_world(brand, config=settings(control={"holdout": 0.2}))
    report = world.apply()
    tagged: dict[str, int] = {}
    for (_, customer), tags in world.remote().items():
        tagged[customer] = tagged.get(customer, 0) + bool(tags)
    assert set(tagged.values()) == {0, 3}
    held = {row["one_id"] for row in world.ledger.rows("select one_id from held_control")}
    assert held == {f"p{customer.removeprefix('wm')}" for customer, count in tagged.items() if count == 0}
    assert report.counts == {"acked": 300 - 3 * len(held)}
    world.verify(report.plan_id)
    world.config = settings(control={"holdout": 0.1})
    ramp = world.apply()
    assert 0 < ramp.counts["acked"] < 3 * len(held)
    rows = world.ledger.rows("select detail from audit where action = 'control crossed'")
    assert json.loads(rows[0]["detail"]) == {"people": ramp.counts["acked"] // 3}


def test_a_foreign_group_of_our_name_stops_the_plan_and_adoption_needs_its_maker(make_world: Make) -> None:
    from connectors.wecom.library import adopt_group

    world = make_world()
    with world.new_client(OTHER_SECRET) as other:
        other.add_tags([("初识", 1)], group_name="生命周期")
    plan = world.plan()
    assert plan.summary["verdict"] == "STOPPED"
    inputs = world.inputs()
    with pytest.raises(ConfigError, match="was not created by this app"):
        adopt_group(world.client, world.ledger, "生命周期", inputs.groups, inputs.remote, who="ops", now=world.now)
    world.client.add_tags([("茶", 1)], group_name="品类偏好")
    inputs = world.inputs()
    taken = adopt_group(world.client, world.ledger, "品类偏好", inputs.groups, inputs.remote, who="ops", now=world.now)
    assert taken == 1
    assert list(world.ids()) == ["pref/茶"]


def test_a_tag_renamed_or_deleted_by_hand_stops_the_plan(make_world: Make) -> None:
    world = make_world()
    world.run()
    world.client.edit_tag(world.ids()["life/初识"], name="别的名字")
    world.client.delete_tags([world.ids()["life/复购"]])
    plan = world.plan()
    assert plan.summary["verdict"] == "STOPPED"
    stops = {gate["subject"] for gate in plan.summary["gates"] if gate["verdict"] == "stop"}
    assert stops == {"life/初识", "life/复购"}


def test_a_crash_while_creating_tags_leaves_none_unknown(make_world: Make) -> None:
    world = make_world()
    plan = world.plan()
    world.fault(kind="cut", path="externalcontact/add_corp_tag", when="after", count=10)
    with pytest.raises(WeComError):
        world.apply(plan)
    assert world.ledger.intents()
    world.server.admin("DELETE", "faults")
    report = world.apply(load(world.home, world.ledger, plan.plan_id))
    assert report.outcome == "DONE"
    assert world.ledger.intents() == frozenset()
    assert len(world.inputs().remote.tags) == 4
    assert set(world.ids()) == {"life/初识", "life/首购", "life/复购", "pref/茶"}


def test_names_and_order_change_without_new_ids(make_world: Make) -> None:
    world = make_world()
    world.run()
    before = world.ids()
    data = world.tags.model_dump(mode="json")
    data["tag_groups"][0]["values"] = ["首购", "初识", "复购"]
    data["tag_groups"][0]["write_back"]["wecom"]["group"] = "客户阶段"
    world.tags = type(world.tags).model_validate(data)
    world.config = settings(groups={"life": {"names": {"复购": "老朋友"}}})
    plan = world.plan()
    assert {change["action"] for change in plan.summary["library"]} == {"rename", "reorder"}
    world.apply(plan)
    assert world.ids() == before
    remote = world.inputs().remote.tags
    assert {tag.group_name for tag in remote} == {"客户阶段", "品类偏好"}
    assert {tag.name for tag in remote} == {"初识", "首购", "老朋友", "茶"}
    assert world.plan().summary["verdict"] == "EMPTY"
    # Groups stand in WeCom as they stand in the file, also when they change places later.
    orders = {tag.group_name: tag.group_order for tag in remote}
    assert orders["客户阶段"] > orders["品类偏好"]
    world.tags = type(world.tags).model_validate({"tag_groups": data["tag_groups"][::-1]})
    turned = world.plan()
    assert {(change["action"], change["key"]) for change in turned.summary["library"]} == {("reorder", None)}
    world.apply(turned)
    orders = {tag.group_name: tag.group_order for tag in world.inputs().remote.tags}
    assert orders["客户阶段"] < orders["品类偏好"]
    assert world.ids() == before
    assert world.plan().summary["verdict"] == "EMPTY"


def test_a_name_given_by_hand_may_be_taken_over(make_world: Make) -> None:
    world = make_world()
    world.run()
    before = world.ids()
    world.client.edit_tag(before["life/初识"], name="新朋友")
    assert world.plan().summary["verdict"] == "STOPPED"
    world.config = settings(groups={"life": {"names": {"初识": "新朋友"}}})
    plan = world.plan()
    assert [(change["action"], change["key"]) for change in plan.summary["library"]] == [("rename", "life/初识")]
    world.apply(plan)
    assert world.ids() == before
    assert world.plan().summary["verdict"] == "EMPTY"


def test_a_tag_deleted_while_sending_stops_only_that_tag(make_world: Make) -> None:
    world = make_world(people(30, 3))
    first = world.plan()
    world.fault(kind="code", path=MARK, code=48002, after=5, count=1)
    with pytest.raises(WeComError, match="48002"):
        world.apply(first)
    world.client.delete_tags([world.ids()["pref/茶"]])
    report = world.apply(load(world.home, world.ledger, first.plan_id))
    assert report.outcome == "DONE"
    assert {tag.key for tag in world.ledger.register() if tag.state == "broken"} == {"pref/茶"}
    assert all(tags for tags in world.remote().values())


def test_row_7_the_sender_itself_refuses_a_tag_it_does_not_own(make_world: Make) -> None:
    import sqlite3

    world = make_world(people(10, 2))
    plan = world.plan()
    world.apply(plan, stop=lambda: "not yet")
    with sqlite3.connect(world.home.sync_ledger) as con:
        con.execute("""update ops set add_keys = '["life/foreign"]' where seq = 0""")
    con.close()
    with pytest.raises(WeComError, match="`life/foreign` is not in the register"):
        world.apply(load(world.home, world.ledger, plan.plan_id))
    assert ("s000", "wm000000") not in {(call["userid"], call["external_userid"]) for call in world.marks()}


def test_what_staff_changed_before_the_read_back_is_no_gap(make_world: Make) -> None:
    world = make_world(people(10, 2))
    report = world.apply()
    world.hand(do="mark", userid="s000", external_userid="wm000000", remove=[world.ids()["pref/茶"]])
    world.ledger.save_hints([("d1", "s000", "wm000000", "edit_external_contact", world.now())])
    seen = world.verify(report.plan_id)
    assert (seen.outcome, seen.verified, seen.human_changed) == ("VERIFIED", 9, 1)


def test_one_apply_at_a_time_and_a_lost_lease_writes_nothing(make_world: Make) -> None:
    world = make_world()
    plan = world.plan()
    lease = world.ledger.acquire(world.client.corpid, "somebody else", now=world.now())
    with pytest.raises(LeaseHeldError, match="another apply is running"):
        world.apply(plan)
    world.advance(seconds=120)
    assert world.apply(plan).outcome == "DONE"
    run_id, _ = world.ledger.run_of(plan.plan_id)
    with pytest.raises(LeaseLostError):
        world.ledger.move(run_id, lease, [Moved(0, "failed")], now=world.now())
    with pytest.raises(LeaseLostError):
        world.ledger.heartbeat(lease, now=world.now())


def test_a_run_that_another_process_took_over_is_left_to_it(make_world: Make) -> None:
    world = make_world()
    plan = world.plan()
    taken: list[int] = []

    def stop() -> str | None:
        if not taken and world.marks():
            world.advance(minutes=5)
            lease = world.ledger.acquire(world.client.corpid, "somebody else", now=world.now())
            taken.append(world.ledger.start_run(plan.plan_id, plan.ops, lease, now=world.now()))
        return None

    with pytest.raises(LeaseLostError):
        world.apply(plan, stop=stop)
    row = world.ledger.run_row(plan.plan_id)
    assert row is not None
    assert (row["state"], row["run_id"]) == ("running", taken[0])


def test_the_kill_switch_and_quiet_hours_stop_before_any_call(make_world: Make) -> None:
    world = make_world(config=settings(limits={"quiet_hours": {"start": "09:00", "end": "11:00"}}))
    plan = world.plan()
    assert plan.summary["verdict"] == "HELD"
    report = world.apply(plan)
    assert (report.outcome, report.reason) == ("STOPPED", "quiet hours 09:00-11:00")
    world.advance(hours=2)
    stopped = world.apply(load(world.home, world.ledger, plan.plan_id), stop=lambda: "kill switch")
    assert (stopped.outcome, stopped.reason) == ("STOPPED", "kill switch")
    assert world.marks() == []
    assert world.apply(load(world.home, world.ledger, plan.plan_id)).outcome == "DONE"


def test_the_breaker_trips_when_too_much_fails(make_world: Make) -> None:
    world = make_world(people(300, 4))
    world.fault(kind="code", path=MARK, code=40058, rate=0.5)
    report = world.apply()
    assert report.outcome == "STOPPED"
    assert "breaker" in (report.reason or "")
    assert len(world.marks()) < 60
    assert report.sent.codes.keys() == {40058}


def test_unknown_codes_stop_the_run_after_twenty_in_a_row(make_world: Make) -> None:
    config = settings(breaker={"failure_share": 1.0})
    world = make_world(people(100, 4), config=config)
    world.fault(kind="code", path=MARK, code=99999)
    report = world.apply()
    assert "20 unclassified replies in a row, the last with code 99999" in (report.reason or "")
    assert report.counts["failed"] < 30
    assert [tuple(row)[1:3] for row in world.ledger.rows("select * from codes")] == [(MARK, 99999)]


def test_a_deletion_request_is_kept_by_the_sender_too(make_world: Make) -> None:
    world = make_world(people(20, 2))
    plan = world.plan()
    world.ledger.forget("p000003", reason="deletion request", now=world.now())
    report = world.apply(plan)
    assert report.counts == {"acked": 19, "failed": 1}
    assert world.remote()["s001", "wm000003"] == set()
    world.verify(plan.plan_id)
    following = world.plan()
    assert following.ops.is_empty()


def test_people_excluded_since_the_plan_are_kept_by_the_sender(make_world: Make) -> None:
    world = make_world(people(20, 2))
    plan = world.plan()
    world.config = settings(consent={"excluded": ["p000003"]})
    assert world.apply(plan).counts == {"acked": 19, "failed": 1}
    assert world.remote()["s001", "wm000003"] == set()


def test_an_audit_log_cut_off_at_its_end_shows(make_world: Make) -> None:
    import sqlite3

    world = make_world(people(10, 2))
    world.run()
    rows = world.ledger.check_audit()
    con = sqlite3.connect(world.home.sync_ledger)
    con.execute("drop trigger audit_no_delete")
    con.execute("delete from audit where seq > 2")
    con.commit()
    con.close()
    with pytest.raises(FatalError, match=f"ends at row 2, the program wrote row {rows}"):
        world.ledger.check_audit()
    world.ledger.audit("nobody", "plan", now=world.now())
    with pytest.raises(FatalError, match="does not fit together at row 3"):
        world.ledger.check_audit()


def test_the_ledger_refuses_a_newer_one_and_its_audit_log_only_grows(make_world: Make) -> None:
    import sqlite3

    world = make_world(people(10, 2))
    world.run()
    con = sqlite3.connect(world.home.sync_ledger)
    with pytest.raises(sqlite3.IntegrityError, match="only grows"):
        con.execute("update audit set who = 'nobody'")
    con.execute("drop trigger audit_no_update")
    con.execute("update audit set who = 'nobody' where seq = 2")
    con.commit()
    with pytest.raises(FatalError, match="does not fit together at row 2"):
        world.ledger.check_audit()
    con.execute("update meta set value = '99' where key = 'version'")
    con.commit()
    con.close()
    with pytest.raises(ConfigError, match="newer version"):
        SyncLedger(world.home.sync_ledger)


def test_pages_and_plans_hold_nothing_personal(make_world: Make) -> None:
    world = make_world(people(30, 3))
    world.run()
    for path in (world.home.root).rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            for planted in (b"union_wm", "赵桂花".encode(), "王小明".encode(), b"sandbox-secret"):
                assert planted not in data, (path.name, planted)


def test_the_plan_page_stands_alone_and_speaks_both_languages(make_world: Make) -> None:
    from warehouse.sync_page import render

    plan = make_world(people(30, 3)).plan()
    for locale, word in (("zh", "人群去向"), ("en", "Where the segment goes")):
        page = render(json.loads((plan.folder / "plan.json").read_text()), locale=locale)
        assert word in page
        assert plan.plan_hash in page
        assert "http://" not in page
        assert "https://" not in page
        assert "<script" not in page
