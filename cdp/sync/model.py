"""The words of the sync: groups and tags we manage, the register, the remote library, ops, gates, plans."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import polars as pl

from cdp.sync.config import DriftPolicy, FanOut, GateLimits, GroupMode

Verdict = Literal["pass", "hold", "stop"]
PlanVerdict = Literal["READY", "HELD", "STOPPED", "EMPTY"]
RegisterState = Literal["active", "draining", "empty", "retired", "broken"]
LIVE: tuple[RegisterState, ...] = ("active", "draining", "empty")  # in WeCom's library, as far as we know
OpState = Literal[
    "planned", "sending", "acked", "verified", "gap", "gone", "failed", "unknown", "human_changed", "held"
]


@dataclass(frozen=True)
class TagSpec:
    """One tag we want in WeCom. *key* is `group/value` and lasts; *name* is what staff see and may change."""

    key: str
    group: str
    value: str
    name: str
    order: int


@dataclass(frozen=True)
class GroupSpec:
    """One tag group we manage. *key*: id in tags.yaml; *name*: what staff see. *tags* in display order."""

    key: str
    name: str
    order: int
    tags: tuple[TagSpec, ...]
    mode: GroupMode = "mirror"
    fan_out: FanOut = "all"
    cap: int = 20
    drift: DriftPolicy = "ours"
    freeze_days: int = 30
    gates: GateLimits = field(default_factory=lambda: GateLimits())
    tag_gates: Mapping[str, GateLimits] = field(default_factory=dict)  # value -> limits of its own


@dataclass(frozen=True)
class RegisteredTag:
    """A tag our app created: the only tags that may ever be sent."""

    tag_id: str
    group_id: str
    key: str
    group: str
    value: str
    name: str
    group_name: str
    order: int
    group_order: int | None = None  # as we last gave it; None when that is not known
    state: RegisterState = "active"
    since: str = ""  # ISO instant of the present state
    synced: bool = False  # some plan with this tag has been applied


@dataclass(frozen=True)
class RemoteTag:
    """One tag of the corp's library, whoever made it."""

    tag_id: str
    name: str
    order: int
    group_id: str
    group_name: str
    group_order: int


@dataclass(frozen=True)
class Remote:
    """What WeCom says now: the library and the staff this app sees. Read just before planning."""

    tags: tuple[RemoteTag, ...]
    staff: frozenset[str]


# In the order they are carried out.
LibraryAction = Literal["create", "revive", "rename", "reorder", "drain", "empty", "delete", "adopt"]


@dataclass(frozen=True)
class LibraryChange:
    """One step on the tag library; without a *key* on a whole group. `drain` takes a tag off everybody, `empty` notes
    that nobody has it any more, `delete` ends it, `revive` keeps one that was on its way out."""

    action: LibraryAction
    group: str
    key: str | None
    name: str
    tag_id: str | None = None
    order: int = 0
    detail: str = ""  # create: the group's name; rename: the old name
    holders: int = 0  # relations that still have a tag on its way out
    deleted_from: str = ""  # UTC day from which an empty tag may be deleted

    @property
    def acts(self) -> bool:
        """Whether it does something; a drain or an emptiness that waits only tells where it stands."""
        return not (self.holders or self.deleted_from)


@dataclass(frozen=True)
class Gate:
    """One gate's answer. *subject*: a tag key, a unit, or "" for the whole plan. Texts for people in both languages."""

    gate: str
    subject: str
    verdict: Verdict
    observed: float
    limit: float
    zh: str
    en: str


# One row per relation that changes. add/remove: tag keys, sorted; `phase` 0 is the canary.
OPS_SCHEMA: dict[str, pl.DataType] = {
    "seq": pl.Int64(),
    "phase": pl.Int8(),
    "userid": pl.String(),
    "external_userid": pl.String(),
    "one_id": pl.String(),
    "store_id": pl.String(),
    "add": pl.List(pl.String),
    "remove": pl.List(pl.String),
}

# One row per tag: present holders, changes and the exclusion waterfall, which adds up to `segment` (people).
WATERFALL = (
    "unresolved",
    "not_a_contact",
    "out_of_scope",
    "lost_relation",
    "no_consent",
    "control",
    "no_target",
    "not_enriched",
    "frozen",
    "churn_held",
    "over_budget",
    "planned",
    "unchanged",
)


@dataclass(frozen=True)
class Forecast:
    """What an apply would cost at present limits. Seconds; *quota_share* of the usable hourly budget."""

    calls: int
    verify_calls: int
    library_calls: int
    seconds: float
    quota_share: float
    finishes_in_quiet_hours: bool


@dataclass(frozen=True)
class Plan:
    """A reviewed unit of change, the same bytes for the same inputs.

    *ops*: `OPS_SCHEMA`, in sending order. *tags*: one row per tag (`key, group, name, now, add, remove, after,
    segment` and the columns of `WATERFALL`). *units*: one row per employee and per store with `add` and `remove`.
    *control*: people held as control (`one_id, experiment, key`). *pending*: people who are not yet contacts
    (`one_id, key`).
    """

    plan_id: str
    plan_hash: str
    summary: Mapping[str, Any]
    ops: pl.DataFrame
    tags: pl.DataFrame
    units: pl.DataFrame
    control: pl.DataFrame
    pending: pl.DataFrame
    library: tuple[LibraryChange, ...]
    gates: tuple[Gate, ...]
    forecast: Forecast

    @property
    def verdict(self) -> PlanVerdict:
        verdict: PlanVerdict = self.summary["verdict"]
        return verdict
