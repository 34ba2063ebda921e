"""Gates, forecast, library steps and names: pure."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest

from cdp.errors import ConfigError
from cdp.sync.config import GateLimits, Library, QuietHours, SyncConfig, SyncLimits
from cdp.sync.forecast import forecast
from cdp.sync.gates import plan_gates, tag_gates, verdict
from cdp.sync.library import adoption, diff, lint
from cdp.sync.model import WATERFALL, Forecast, GroupSpec, RegisteredTag, Remote, RemoteTag, TagSpec
from cdp.sync.plan import unit_table, with_canary
from warehouse.sync_inputs import group_rule

NOW = datetime(2026, 11, 20, 2, 0, tzinfo=UTC)
CHEAP = Forecast(0, 0, 0, 0.0, 0.0, False)


def group(names: list[str], key: str = "g", name: str = "组", **more: Any) -> GroupSpec:
    tags = tuple(TagSpec(f"{key}/{n}", key, n, n, len(names) - i) for i, n in enumerate(names))
    return GroupSpec(key, name, 1, tags, **more)


def row(key: str = "g/a", **counts: int) -> pl.DataFrame:
    base = dict.fromkeys(("now", "add", "remove", "after", "segment", *WATERFALL), 0)
    return pl.DataFrame([{"key": key, "group": "g", "name": "a", **base, **counts}])


def fired(
    limits: GateLimits, past: list[int], *, synced: bool = True, canary: bool = False, **counts: int
) -> list[str]:
    register = [RegisteredTag("t", "g", "g/a", "g", "a", "a", "组", 1, synced=synced)]
    gates = tag_gates([group(["a"], gates=limits)], register, row(**counts), {"g/a": past}, canary=canary)
    return [f"{gate.gate}:{gate.verdict}" for gate in gates]


@pytest.mark.parametrize(
    ("expected", "past", "more"),
    [
        ([], [], {"now": 1000, "remove": 200, "segment": 800}),
        (["removals:hold"], [], {"now": 1000, "remove": 201, "segment": 799}),
        ([], [], {"now": 100, "remove": 50, "segment": 50}),
        (["removals:hold"], [], {"now": 100, "remove": 51, "segment": 49}),
        (["empty_segment:stop"], [], {"now": 10, "remove": 10}),
        ([], [], {"now": 0, "segment": 0}),
        ([], [1000, 1000], {"segment": 5}),
        (["size:hold"], [1000, 1000, 1000], {"segment": 499}),
        ([], [1000, 1000, 1000], {"segment": 500}),
        ([], [1000, 1000, 1000], {"segment": 2000}),
        (["size:hold"], [1000, 1000, 1000], {"segment": 2001}),
        ([], [1, 1, 1, *[1000] * 7], {"segment": 1000}),
        (["new_tag:hold"], [], {"segment": 5001, "add": 5001, "synced": False}),
        ([], [], {"segment": 5001, "add": 5001, "synced": False, "canary": True}),
        ([], [], {"segment": 5000, "add": 5000, "synced": False}),
        ([], [], {"segment": 9000, "add": 9000}),
    ],
)
def test_gates_of_one_tag(expected: list[str], past: list[int], more: dict[str, Any]) -> None:
    assert fired(GateLimits(), past, **more) == expected


def test_a_group_may_have_limits_of_its_own() -> None:
    assert fired(GateLimits(removal_share=0.5), [], now=1000, remove=400, segment=600) == []


def test_one_tag_may_have_limits_of_its_own_over_those_of_its_group_and_brand() -> None:
    config = SyncConfig.model_validate(
        {
            "gates": {"removal_count": 5},
            "groups": {"g": {"gates": {"removal_share": 0.5}, "tag_gates": {"a": {"new_tag_people": 1}}}},
        }
    )
    rule = group_rule(config, "g", "mirror")
    assert (rule["gates"].removal_share, rule["gates"].removal_count) == (0.5, 5)
    tags = pl.concat([row(f"g/{name}", now=10, add=9, remove=6, segment=9) for name in ("a", "b")])
    gates = tag_gates([group(["a", "b"], **rule)], [], tags, {}, canary=False)
    assert [(gate.gate, gate.subject) for gate in gates] == [
        ("removals", "g/a"),
        ("new_tag", "g/a"),
        ("removals", "g/b"),
    ]


def units(changes: dict[str, int]) -> pl.DataFrame:
    rows = [("store", unit, count, count, 0) for unit, count in changes.items()]
    schema = {"kind": pl.String, "unit": pl.String, "relations": pl.Int64, "add": pl.Int64, "remove": pl.Int64}
    return pl.DataFrame(rows, schema=schema, orient="row")


def test_gates_of_the_whole_plan() -> None:
    config, nobody = SyncConfig(), units({})
    assert plan_gates(config, row(now=10_000, remove=1_000), nobody, CHEAP) == []
    assert [g.gate for g in plan_gates(config, row(now=10_000, remove=1_001), nobody, CHEAP)] == ["total_removals"]
    assert plan_gates(config, row(now=1_000, remove=500), nobody, CHEAP) == []
    busy = replace(CHEAP, quota_share=0.61, finishes_in_quiet_hours=True)
    assert [g.gate for g in plan_gates(config, row(), nobody, busy)] == ["quota", "quiet_hours"]


def test_row_27_a_store_that_changes_far_more_than_others_is_flagged() -> None:
    changes = {f"S{n}": 20 for n in range(9)}
    found = plan_gates(SyncConfig(), row(), units(changes | {"S9": 101}), CHEAP)
    assert [(gate.subject, gate.verdict) for gate in found] == [("store:S9", "hold")]
    assert plan_gates(SyncConfig(), row(), units(changes | {"S9": 100}), CHEAP) == []


def test_stop_beats_hold_beats_ready() -> None:
    hold = plan_gates(SyncConfig(), row(now=10_000, remove=5_000), units({}), CHEAP)
    assert verdict(hold, anything=True) == "HELD"
    assert verdict([replace(hold[0], verdict="stop"), *hold], anything=False) == "STOPPED"
    assert verdict([], anything=True) == "READY"
    assert verdict(hold, anything=False) == "EMPTY"


def test_the_forecast_takes_the_slower_of_pace_and_concurrency() -> None:
    facts: dict[str, Any] = {"ops": 36_000, "read_calls": 402, "library_calls": 2}
    limits = SyncLimits(calls_per_second=10, quiet_hours=None)
    paced = forecast(limits, **facts, call_ms=50, now=NOW, timezone="UTC")
    assert paced.seconds == pytest.approx(3600 + (402 + 20 + 2) * 0.1, rel=0.01)
    assert paced.quota_share == pytest.approx(36_000 / 120_000)
    slow = forecast(SyncLimits(calls_per_second=1000, quiet_hours=None), **facts, call_ms=200, now=NOW, timezone="UTC")
    assert slow.seconds == pytest.approx(1800 + 424 * 0.2, rel=0.01)


@pytest.mark.parametrize(
    ("hour", "seconds", "quiet"), [(12, 60, False), (21, 60, False), (21, 3700, True), (23, 1, True), (7, 1, True)]
)
def test_quiet_hours_pass_midnight(hour: int, seconds: int, quiet: bool) -> None:
    limits = SyncLimits(calls_per_second=1, quiet_hours=QuietHours())
    start = datetime(2026, 11, 20, hour, 0, tzinfo=UTC)
    found = forecast(limits, ops=seconds, read_calls=0, library_calls=0, call_ms=1, now=start, timezone="UTC")
    assert found.finishes_in_quiet_hours is quiet


def test_row_16_budget_and_names_fail_before_any_call_with_the_row() -> None:
    with pytest.raises(ConfigError, match=r"row 10001: 10050 tags of ours and 0 of others pass the corp's 10000"):
        lint([group([f"t{n}" for n in range(10_050)])], Library())
    with pytest.raises(ConfigError, match=r"row 2, tag `g/.*has 31 characters, at most 30"):
        lint([group(["ok", "长" * 31])], Library())
    twice = replace(group(["a"]), tags=(TagSpec("g/a", "g", "a", "茶", 2), TagSpec("g/b", "g", "b", "茶", 1)))
    with pytest.raises(ConfigError, match="row 2, tag `g/b`: `茶` stands in this group already, row 1"):
        lint([twice], Library())
    with pytest.raises(ConfigError, match="is also that of group `g`"):
        lint([group(["a"]), group(["a"], key="h")], Library())
    assert lint([group(["长" * 16])], Library()) == [
        "row 1, tag `g/" + "长" * 16 + "`: longer than 15 characters; some screens cut it"
    ]
    assert lint([group(["a"])], Library(max_tags=3), foreign_tags=2) == []


def remote(*names: str) -> Remote:
    return Remote(tuple(RemoteTag(f"id-{n}", n, 1, "G", "组", 1) for n in names), frozenset())


def mine(name: str, **more: Any) -> RegisteredTag:
    values = {"state": "active", "since": NOW.isoformat(), "group_order": 1, **more}
    return RegisteredTag(f"id-{name}", "G", f"g/{name}", "g", name, name, "组", 1, **values)


def test_library_steps() -> None:
    spec, limits = group(["a"]), Library()
    assert [c.action for c in diff([spec], [], remote(), limits, now=NOW)] == ["create"]
    assert diff([spec], [mine("a")], remote("a"), limits, now=NOW) == ()
    draining = mine("b", state="draining", since=(NOW - timedelta(days=8)).isoformat())
    steps = diff([spec], [mine("a"), mine("b")], remote("a", "b"), limits, now=NOW)
    assert [(c.action, c.key) for c in steps] == [("drain", "g/b")]
    held = diff([spec], [mine("a"), draining], remote("a", "b"), limits, now=NOW, holders={"id-b": 3})
    assert (held[0].action, held[0].holders, held[0].acts) == ("drain", 3, False)
    assert [c.action for c in diff([spec], [mine("a"), draining], remote("a", "b"), limits, now=NOW)] == ["empty"]
    empty = replace(draining, state="empty")
    assert [c.action for c in diff([spec], [mine("a"), empty], remote("a", "b"), limits, now=NOW)] == ["delete"]
    fresh = replace(empty, since=NOW.isoformat())
    waits = diff([spec], [mine("a"), fresh], remote("a", "b"), limits, now=NOW)
    assert [(c.action, c.acts) for c in waits] == [("empty", False)]
    # Somebody put it on again meanwhile: it is drained anew, and the wait begins anew.
    again = diff([spec], [mine("a"), empty], remote("a", "b"), limits, now=NOW, holders={"id-b": 1})
    assert [(c.action, c.acts) for c in again] == [("drain", True)]
    # Declared again, it stays.
    kept = diff([group(["a", "b"])], [mine("a"), draining], remote("a", "b"), limits, now=NOW)
    assert [(c.action, c.key) for c in kept] == [("revive", "g/b"), ("reorder", "g/a")]
    # Deleted in WeCom and not wanted: only the register still knows it.
    assert [c.action for c in diff([spec], [mine("a"), draining], remote("a"), limits, now=NOW)] == ["delete"]


def test_a_group_that_moves_is_reordered_whole() -> None:
    spec = replace(group(["a"]), order=5)
    steps = diff([spec], [mine("a", group_order=1)], remote("a"), Library(), now=NOW)
    assert [(c.action, c.key, c.tag_id, c.order) for c in steps] == [("reorder", None, "G", 5)]


def test_a_rename_made_by_hand_is_not_overwritten() -> None:
    renamed = Remote((RemoteTag("id-a", "别名", 1, "G", "组", 1),), frozenset())
    spec = replace(group(["a"]), tags=(TagSpec("g/a", "g", "a", "新名", 1),))
    assert diff([spec], [mine("a")], renamed, Library(), now=NOW) == ()
    assert [c.action for c in diff([spec], [mine("a")], remote("a"), Library(), now=NOW)] == ["rename"]


def test_adoption_tells_what_is_wrong() -> None:
    spec = [group(["a"])]
    assert [c.tag_id for c in adoption("组", spec, remote("a", "other"), created_by_app=True)] == ["id-a"]
    with pytest.raises(ConfigError, match="was not created by this app"):
        adoption("组", spec, remote("a"), created_by_app=False)
    with pytest.raises(ConfigError, match="no tag group is written to"):
        adoption("组组", spec, remote("a"), created_by_app=True)
    with pytest.raises(ConfigError, match="WeCom has no tag group"):
        adoption("组", spec, Remote((), frozenset()), created_by_app=True)


def test_a_canary_is_whole_employees_and_the_same_ones_every_time() -> None:
    rows = [(n, 1, f"s{n % 20:02d}", f"w{n}", "p", None, ["g/a"], []) for n in range(400)]
    columns = ("seq", "phase", "userid", "external_userid", "one_id", "store_id", "add", "remove")
    ops = pl.DataFrame(rows, schema=columns, orient="row").cast({"phase": pl.Int8, "store_id": pl.String})
    chosen = with_canary(ops, 0.07)
    canary = chosen.filter(pl.col("phase") == 0)
    assert canary["userid"].n_unique() == 2
    assert canary.height == 40
    assert chosen["seq"].to_list() == list(range(400))
    assert chosen["phase"].is_sorted()
    assert with_canary(ops.sample(fraction=1, shuffle=True, seed=1), 0.07).drop("seq").equals(chosen.drop("seq"))
    assert unit_table(ops)["relations"].sum() == 400
