"""Small random worlds: few values, so that limits, sharing, unbinding and recycling collide all the time."""

from __future__ import annotations

import random
from datetime import timedelta

from cdp.identity.memory import Identifier, Item, micros
from cdp.identity.rules import IdentityRules
from tests.identity.brands import T0, Seen, day

RULES = IdentityRules.model_validate(
    {
        "types": {
            "member_id": {"limit": 1},
            "unionid": {"limit": 2},
            "phone": {
                "limit": 2,
                "recycle_gap_days": 60,
                "normalise": [],
                "block": [{"value": "p0", "reason": "test"}],
            },
            "device_id": {"max_links": {"member_id": 2, "unionid": 3, "phone": 2, "pending_id": 1}},
            "pending_id": {"ttl_days": 90},
            "ipad": {"class": 3, "priority": 5, "max_links": {"member_id": 1}, "shared_policy": "time_slice"},
            "email": {"normalise": [], "pattern": None, "limit": 1, "limit_window_days": 90, "latest_owner_wins": True},
        }
    }
)
POOL = (
    [("member_id", "", f"m{i}") for i in range(5)]
    + [("unionid", "", f"u{i}") for i in range(5)]
    + [("openid", f"wx{i % 2}", f"o{i // 2}") for i in range(6)]
    + [("phone", "", f"p{i}") for i in range(5)]
    + [("email", "", f"e{i}") for i in range(4)]
    + [("device_id", "", f"d{i}") for i in range(3)]
    + [("anonymous_id", "", f"a{i}") for i in range(4)]
    + [("pending_id", "", f"q{i}") for i in range(3)]
    + [("ipad", "", "i0")]
    + [("phone_relay", "", "r0")]
)
KINDS = ("bind", "bind", "login", "order", "co_occurrence", "unbind", "manual")


def rows(rng: random.Random, count: int, *, manual: bool = True) -> list[Item]:
    """*count* rows of one to four identifiers over half a year."""
    found = []
    for _ in range(count):
        kind = rng.choices(KINDS, weights=(6, 4, 6, 4, 4, 2, 0.3 if manual else 0))[0]
        ids = tuple(rng.sample(POOL, rng.choices((1, 2, 3, 4), weights=(1, 6, 3, 1))[0]))
        first = micros(T0) + rng.randrange(0, 170) * 86_400_000_000 + rng.randrange(3) * 3_600_000_000
        last = first + rng.choice((0, 0, 0, 1_800_000_000))
        found.append(Item(ids, kind, first, last, rng.choice(("crm", "shop")), rng.choice((0.5, 1.0))))
    return found


def as_seen(item: Item) -> Seen:
    """The same row for the evidence table."""
    ids: dict[str, list[str]] = {}
    for kind, scope, value in item.ids:
        ids.setdefault(f"{kind}@{scope}" if scope else kind, []).append(value)
    at = T0 + timedelta(microseconds=item.first - micros(T0))
    until = T0 + timedelta(microseconds=(item.last or item.first) - micros(T0))
    return Seen(ids, item.kind, at, until, item.source, item.confidence, recorded=day(200))


def blocked(item: Identifier) -> bool:
    return item == ("phone", "", "p0")
