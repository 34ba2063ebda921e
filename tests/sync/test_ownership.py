"""Whatever the library, the remote side and the wishes: only tags of our register are ever sent, others' stay."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import timedelta

import pytest

from cdp.tags.config import TagsConfig
from tests.sync.world import OTHER_SECRET, Brand, World, settings

Make = Callable[..., World]
GROUPS = {"life": "生命周期", "pref": "品类偏好", "rfm": "价值分层"}
VALUES = ["甲", "乙", "丙", "丁"]
GATES = {"removal_count": 10**6, "total_removal_count": 10**6, "unit_count": 10**6, "size_runs": 10**6}


def library(chance: random.Random) -> TagsConfig:
    """Some groups with some values each, in some order."""
    groups = [
        {
            "id": group,
            "kind": "stage",
            "values": values,
            "rules": dict.fromkeys(values, "true"),
            "write_back": {"wecom": {"group": GROUPS[group], "mode": chance.choice(["replace_in_group", "add_only"])}},
        }
        for group in chance.sample(sorted(GROUPS), chance.randint(1, 3))
        if (values := chance.sample(VALUES, chance.randint(1, 4)))
    ]
    return TagsConfig.model_validate({"tag_groups": groups})


def wishes(chance: random.Random, tags: TagsConfig, people: list[str]) -> dict[str, list[str]]:
    """For each person one value of some groups; no value is left without anybody, which would stop the plan."""
    wanted: dict[str, list[str]] = {person: [] for person in people}
    for group in tags.tag_groups:
        for number, value in enumerate(group.declared_values):
            wanted[people[number]].append(f"{group.id}/{value}")
        for person in people[len(group.declared_values) :]:
            if chance.random() < 0.7:
                wanted[person].append(f"{group.id}/{chance.choice(list(group.declared_values))}")
    return wanted


@pytest.mark.parametrize("seed", range(3))
def test_row_7_only_registered_tags_are_sent_and_foreign_ones_stay(
    make_world: Make, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    chance = random.Random(seed)
    people = [f"p{number}" for number in range(8)]
    relations: dict[tuple[str, str], str | None] = {
        (f"s{staff}", f"wm{number}"): one for number, one in enumerate(people) for staff in range(2)
    }
    world = make_world(Brand(relations, {}), config=settings(gates=GATES))
    rival = world.new_client(OTHER_SECRET)
    # Another app's groups, one of a name near ours, with values named like ours.
    others = [
        tag["id"]
        for name in ("门店活动", "生命周期·旧")
        for tag in rival.add_tags([(value, 0) for value in VALUES], group_name=name)["tag"]
    ]
    seen_by_us: set[str] = set()
    sent: set[str] = set()
    mark = world.client.mark

    def noted(userid: str, customer: str, add: list[str], remove: list[str]) -> None:
        sent.update(add, remove)
        mark(userid, customer, add, remove)

    monkeypatch.setattr(world.client, "mark", noted)
    for _ in range(6):
        world.tags = library(chance)
        world.brand.wanted = wishes(chance, world.tags, people)
        for userid, customer in chance.sample(sorted(relations), 5):
            add, remove = chance.sample(others, 2), chance.sample(sorted({*others, *seen_by_us}), 2)
            world.hand(do="mark", userid=userid, external_userid=customer, add=add, remove=sorted({*remove} - {*add}))
        before = foreign(world, others)
        world.advance(days=8)  # tags on their way out may be deleted
        world.brand.read_at = world.now() - timedelta(hours=1)
        world.brand.read = {(row[0], row[1]): row[3] for row in world.server.admin("GET", "relations")["relations"]}
        plan = world.plan()
        assert plan.summary["verdict"] in ("READY", "HELD", "EMPTY"), plan.summary["gates"]
        world.apply(plan)
        world.verify(plan.plan_id)
        seen_by_us |= {tag.tag_id for tag in world.ledger.register() if tag.state != "retired"}
        assert sent <= {tag.tag_id for tag in world.ledger.register()}
        assert foreign(world, others) == before
    assert len(sent) > 3
    rival.close()


def foreign(world: World, others: list[str]) -> dict[tuple[str, str], set[str]]:
    """Tags of the other app on each relation."""
    rows = world.server.admin("GET", "relations")["relations"]
    return {(row[0], row[1]): set(row[3]) & set(others) for row in rows}
