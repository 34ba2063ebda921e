"""The same promises as test_properties, with hypothesis looking for the smallest counter-example."""

from __future__ import annotations

from dataclasses import replace

import hypothesis.strategies as st
from hypothesis import HealthCheck, given, settings

from cdp.identity.memory import Item, micros, resolve_items
from tests.identity.brands import T0, day
from tests.identity.random_evidence import POOL, RULES

AS_OF = micros(day(180))
ITEMS = st.builds(
    Item,
    ids=st.lists(st.sampled_from(POOL), min_size=1, max_size=4).map(tuple),
    kind=st.sampled_from(["bind", "login", "order", "co_occurrence", "unbind", "manual", "hash_of"]),
    first=st.integers(0, 170).map(lambda days: micros(T0) + days * 86_400_000_000),
    source=st.sampled_from(["crm", "shop"]),
    confidence=st.sampled_from([0.5, 1.0]),
)
PAIRS = st.lists(st.tuples(st.sampled_from(POOL), st.sampled_from(POOL)), max_size=3)
LOOK = settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))


@LOOK
@given(st.lists(ITEMS, max_size=14), PAIRS, PAIRS, PAIRS, st.randoms(use_true_random=False))
def test_order_swaps_and_repeats_never_matter(items, must, cannot, cut, rng) -> None:  # type: ignore[no-untyped-def]
    expected = resolve_items(items, RULES, as_of=AS_OF, must=must, cannot=cannot, cut=cut).partition()
    other = [replace(item, ids=tuple(rng.sample(item.ids, len(item.ids)))) for item in rng.sample(items, len(items))]
    swapped = [[(b, a) for a, b in rng.sample(pairs, len(pairs))] for pairs in (must, cannot, cut)]
    again = resolve_items(other, RULES, as_of=AS_OF, must=swapped[0], cannot=swapped[1], cut=swapped[2])
    assert again.partition() == expected
    twice = resolve_items([*items, *items], RULES, as_of=AS_OF, must=must, cannot=cannot, cut=cut)
    assert twice.partition() == expected


@LOOK
@given(st.lists(ITEMS, max_size=14), PAIRS)
def test_cannot_links_always_part(items, cannot) -> None:  # type: ignore[no-untyped-def]
    """An identifier that was cut into epochs is parted by its latest one."""
    person_of = resolve_items(items, RULES, as_of=AS_OF, cannot=cannot).person_of()
    latest = {key[:3]: person for key, person in sorted(person_of.items(), key=lambda pair: pair[0][3])}
    for a, b in cannot:
        if a != b and a in latest and b in latest:
            assert latest[a] != latest[b]


@LOOK
@given(st.lists(ITEMS, max_size=10), st.lists(ITEMS, max_size=10))
def test_worlds_that_share_nothing_do_not_touch_each_other(items, others) -> None:  # type: ignore[no-untyped-def]
    """Raw components are independent: the persons of two worlds together are those of each."""
    elsewhere = [
        replace(item, ids=tuple((kind, scope, f"x{value}") for kind, scope, value in item.ids)) for item in others
    ]
    both = resolve_items([*items, *elsewhere], RULES, as_of=AS_OF).partition()
    apart = [resolve_items(world, RULES, as_of=AS_OF).partition() for world in (items, elsewhere)]
    assert both == apart[0] | apart[1]
