"""Measures of quality: against plain definitions, and against a simulated brand whose truth is known."""

from __future__ import annotations

import random
from itertools import combinations

import numpy as np
import pytest

from cdp.identity.memory import Item, micros, resolve_items
from cdp.identity.quality import agreement, wrong_merges
from cdp.identity.rules import IdentityRules
from tests.identity.brands import AS_OF, T0, Brand, seen
from warehouse import identity_queries as ask


@pytest.mark.parametrize("seed", range(20))
def test_agreement_is_what_its_definitions_say(seed: int) -> None:
    rng = np.random.default_rng(seed)
    found, truth = rng.integers(0, 5, 15), rng.integers(3, 9, 15)
    pairs = list(combinations(range(15), 2))
    ours = {pair for pair in pairs if found[pair[0]] == found[pair[1]]}
    theirs = {pair for pair in pairs if truth[pair[0]] == truth[pair[1]]}
    told = agreement(found, truth)
    assert told.pair_precision == pytest.approx(len(ours & theirs) / len(ours))
    assert told.pair_recall == pytest.approx(len(ours & theirs) / len(theirs))
    for labels, measured in ((found, told.b3_precision), (truth, told.b3_recall)):
        shares = []
        for record in range(15):
            mates = [other for other in range(15) if labels[other] == labels[record]]
            both = [other for other in mates if found[other] == found[record] and truth[other] == truth[record]]
            shares.append(len(both) / len(mates))
        assert measured == pytest.approx(np.mean(shares))


def simulated(seed: int) -> tuple[int, int, float]:
    """A brand in which some evidence joins two people at random. Returns wrong merges that stand, contradictions and
    the share of people with a member id."""
    rng = random.Random(seed)
    people, known = 400, {}
    items = []
    for person in range(people):
        at = micros(T0) + person
        items.append(Item((("unionid", "", f"u{person}"), ("openid", "wx", f"o{person}")), "bind", at))
        known[person] = rng.random() < 0.6
        if known[person]:
            items.append(Item((("unionid", "", f"u{person}"), ("member_id", "", f"m{person}")), "bind", at))
    wrong = [rng.sample(range(people), 2) for _ in range(rng.randrange(5, 40))]
    for place, (a, b) in enumerate(wrong):
        ids = (("unionid", "", f"u{a}"), ("unionid", "", f"u{b}"))
        items.append(Item(ids, "co_occurrence", micros(T0) + 10**9 + place))
    rules = IdentityRules.model_validate({"types": {"unionid": {"limit": None}, "openid": {"limit": None}}})
    person_of = resolve_items(items, rules, as_of=micros(AS_OF))
    contradictions = len(person_of.outcome.refusals.edge)
    standing = people - len({person_of.person_of()["unionid", "", f"u{person}", 1] for person in range(people)})
    return standing, contradictions, sum(known.values()) / people


def test_the_estimate_of_wrong_merges_holds_the_truth_in_its_interval() -> None:
    """An interval of 95 % may miss the truth in one brand of twenty; in 60 brands it has to hold it in at least 52."""
    held = []
    for seed in range(60):
        standing, contradictions, share = simulated(seed)
        told = wrong_merges(contradictions, share)
        assert told is not None
        held.append(told.low <= standing <= told.high)
    assert sum(held) >= 52


def test_wrong_merges_at_the_ends() -> None:
    assert wrong_merges(3, 0.0) is None
    everybody = wrong_merges(3, 1.0)
    assert everybody is not None
    assert (everybody.expected, everybody.high) == (0, 0)
    nothing_seen = wrong_merges(0, 0.7)
    assert nothing_seen is not None
    assert (nothing_seen.low, nothing_seen.high) == (0, 3)


def test_health_tells_the_estimate() -> None:
    brand = Brand()
    brand.run(
        seen(member_id="m1", unionid="u1"), seen(member_id="m2", unionid="u2"), seen(unionid="u3"),
        seen("login", 3, unionid="u1", member_id="m2"),
    )  # fmt: skip
    told = ask.health(brand.con)["wrong_merges"]
    assert told["contradictions"] == 1
    assert told["seen_share"] == pytest.approx((2 / 3) ** 2)
    assert told["low"] <= told["expected"] <= told["high"]
