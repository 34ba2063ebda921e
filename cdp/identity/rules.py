"""The identity rules a brand edits (`config/identity.yaml`): types, limits, sharing, evidence tiers, gates,
scenarios."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import date, datetime
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from cdp.config import Strict, nearest

Normaliser = Literal["nfkc", "lower", "upper", "phone", "email"]
SharedPolicy = Literal["isolate", "strongest", "time_slice"]
HashForm = Literal["md5", "sha256", "sm3"]
EvidenceKind = Literal["bind", "login", "order", "co_occurrence", "hash_of", "manual", "unbind"]
EVIDENCE_KINDS: tuple[str, ...] = ("bind", "login", "order", "co_occurrence", "hash_of", "manual", "unbind")


class Block(Strict):
    """Values that never link anybody: exactly one of `value`, `prefix`, `pattern`, with a reason and optional dates."""

    value: str | None = None
    prefix: str | None = None
    pattern: str | None = None
    reason: str
    since: date | None = None
    until: date | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Block:
        if sum(item is not None for item in (self.value, self.prefix, self.pattern)) != 1:
            raise ValueError("give exactly one of `value`, `prefix`, `pattern`")
        return self

    def active(self, today: date) -> bool:
        """Whether the entry holds on *today*."""
        return (self.since is None or self.since <= today) and (self.until is None or today < self.until)


class HashOf(Strict):
    """This type holds digests of another type's values; *salts* are put before the value (`{value}` marks its
    place)."""

    type: str
    form: HashForm
    salts: tuple[str, ...] = ("{value}",)


class TypeRules(Strict):
    """One identifier type. `class`: 0 person, 1 platform account, 2 contact, 3 device, 4 session."""

    class_: int = Field(alias="class", ge=0, le=4)
    priority: int = Field(default=50, ge=0, le=99)
    scope: Literal["none", "appid", "corpid", "platform", "app", "brand"] = "none"
    normalise: tuple[Normaliser, ...] = ()
    pattern: str | None = None
    max_length: int = Field(default=128, ge=1, le=1024)
    block: tuple[Block, ...] = ()
    limit: int | None = Field(default=None, ge=0)
    limit_window_days: int | None = Field(default=None, ge=1)
    max_links: dict[str, int] = Field(default_factory=dict)
    shared_policy: SharedPolicy = "isolate"
    ttl_days: int | None = Field(default=None, ge=1)
    recycle_gap_days: int | None = Field(default=None, ge=1)
    latest_owner_wins: bool = False
    merges: bool = True
    hash_of: HashOf | None = None
    household: bool = False
    pii: bool = True


def default_types() -> dict[str, TypeRules]:
    """The types shipped, as in the table of identity.md § 2.1. `config/identity.yaml` spells the same out."""
    return {name: TypeRules.model_validate(item) for name, item in _DEFAULT_TYPES.items()}


_ACCOUNTS = {"member_id": 3, "crm_id": 3, "unionid": 6, "external_userid": 6, "phone": 6}
_NINE_ALIKE = "|".join(f"{digit}{{9}}" for digit in range(10))
_TEST_PHONES: list[dict[str, Any]] = [
    {"value": "13800138000", "reason": "number of the operator's own advertisements, typed in when none is wanted"},
    {"value": "13912345678", "reason": "typed in when none is wanted"},
    {"pattern": f"^1[3-9]({_NINE_ALIKE})$", "reason": "one digit nine times"},
    {"pattern": "^1[3-9][0-9](00000000|12345678|87654321)$", "reason": "typed in when none is wanted"},
    {"pattern": "^1[3-9]123456789$", "reason": "typed in when none is wanted"},
]
_DEFAULT_TYPES: dict[str, dict[str, Any]] = {
    "member_id": {"class": 0, "priority": 10, "scope": "brand", "limit": 1},
    "crm_id": {"class": 0, "priority": 20, "scope": "brand", "limit": 1},
    "reg_id": {"class": 0, "priority": 30, "scope": "app", "limit": 1},
    "unionid": {"class": 1, "priority": 10, "scope": "platform", "limit": 3},
    "external_userid": {"class": 1, "priority": 20, "scope": "corpid", "limit": 3},
    "openid": {
        "class": 1,
        "priority": 30,
        "scope": "appid",
        "limit": 3,
        "max_links": {"unionid": 1},
        "shared_policy": "strongest",
    },
    "pending_id": {"class": 1, "priority": 40, "scope": "app", "ttl_days": 90},
    "taobao_ouid": {"class": 1, "priority": 50, "scope": "platform", "limit": 3},
    "jd_openid": {"class": 1, "priority": 51, "scope": "platform", "limit": 3},
    "douyin_openid": {"class": 1, "priority": 52, "scope": "platform", "limit": 3},
    "buyer_id": {"class": 1, "priority": 60, "scope": "platform", "limit": 3},
    "phone": {
        "class": 2,
        "priority": 10,
        "limit": 3,
        "normalise": ["phone"],
        "max_links": {"member_id": 1, "crm_id": 1, "unionid": 20, "buyer_id": 20},
        "shared_policy": "strongest",
        "recycle_gap_days": 540,
        "block": _TEST_PHONES,
        "household": True,
    },
    "email": {
        "class": 2,
        "priority": 20,
        "limit": 5,
        "normalise": ["email"],
        "pattern": r"^[^@\s]+@[^@\s]+\.[^@\s]+$",
        "max_links": {"member_id": 1, "crm_id": 1},
        "shared_policy": "strongest",
        "household": True,
    },
    "phone_md5": {
        "class": 2,
        "priority": 30,
        "limit": 3,
        "normalise": ["lower"],
        "pattern": "^[0-9a-f]{32}$",
        "hash_of": {"type": "phone", "form": "md5", "salts": ["{value}", "+86{value}", "86{value}"]},
        "max_links": {"member_id": 1, "crm_id": 1, "unionid": 20, "buyer_id": 20},
        "shared_policy": "strongest",
    },
    "phone_sha256": {
        "class": 2,
        "priority": 31,
        "limit": 3,
        "normalise": ["lower"],
        "pattern": "^[0-9a-f]{64}$",
        "hash_of": {"type": "phone", "form": "sha256", "salts": ["{value}", "+86{value}", "86{value}"]},
        "max_links": {"member_id": 1, "crm_id": 1, "unionid": 20, "buyer_id": 20},
        "shared_policy": "strongest",
    },
    "phone_sm3": {
        "class": 2,
        "priority": 32,
        "limit": 3,
        "normalise": ["lower"],
        "pattern": "^[0-9a-f]{64}$",
        "hash_of": {"type": "phone", "form": "sm3", "salts": ["{value}", "+86{value}", "86{value}"]},
        "max_links": {"member_id": 1, "crm_id": 1, "unionid": 20, "buyer_id": 20},
        "shared_policy": "strongest",
    },
    "device_id": {"class": 3, "priority": 10, "scope": "app", "max_links": dict(_ACCOUNTS), "pii": False},
    "anonymous_id": {"class": 4, "priority": 10, "scope": "app", "max_links": dict(_ACCOUNTS), "pii": False},
    "phone_relay": {"class": 4, "priority": 90, "scope": "platform", "merges": False},
}


class PhoneRules(Strict):
    """How raw phone text is read. *relay_prefixes*: numbers that platforms lend per parcel; they become
    `phone_relay`."""

    region: str = "CN"
    relay_prefixes: tuple[str, ...] = ("95013", "95057", "95130", "95187")


class Gates(Strict):
    """What stops publication. Shares are of what existed before the run; the first run has only the absolute ones."""

    max_moved_share: float = Field(default=0.2, ge=0, le=1)
    max_merged_known_share: float = Field(default=0.05, ge=0, le=1)
    max_person_identifiers: int = Field(default=5_000, ge=1)
    max_contested_component: int = Field(default=200_000, ge=1)
    max_people_per_contact: int = Field(default=1_000, ge=1)
    min_people_for_shares: int = Field(default=1_000, ge=1)


class Placeholders(Strict):
    """Text that means "no value", compared without case."""

    values: tuple[str, ...] = (
        "", "null", "(null)", "none", "nil", "undefined", "nan", "n/a", "na", "-", "--", "0", "-1", "unknown", "无",
        "空", "未知", "匿名", "[]", "{}", "test",
    )  # fmt: skip


class Observation(Strict):
    """One piece of evidence of a scenario: identifiers as `type: value` (or `type@scope: value`) seen together."""

    ids: dict[str, str | list[str]]
    kind: EvidenceKind = "bind"
    at: datetime | None = None
    source: str = "scenario"


class Scenario(Strict):
    """A case the rules must get right; it runs as a test and is printed in the documentation.

    *given*: evidence; *when*: evidence that comes in a later run; *then*: `same` and `apart` groups of values,
    `nobody`: values that must have no person.
    """

    name: str
    given: tuple[Observation, ...]
    when: tuple[Observation, ...] = ()
    same: tuple[tuple[str, ...], ...] = ()
    apart: tuple[tuple[str, ...], ...] = ()
    nobody: tuple[str, ...] = ()
    as_of: datetime | None = None


class IdentityRules(Strict):
    """The whole of `config/identity.yaml`. Types named there are laid over the shipped ones, key by key."""

    types: dict[str, TypeRules] = Field(default_factory=default_types)
    tiers: dict[EvidenceKind, int] = Field(default_factory=lambda: _default_tiers())
    source_tiers: dict[str, dict[EvidenceKind, int]] = Field(default_factory=dict)
    phones: PhoneRules = PhoneRules()
    placeholders: Placeholders = Placeholders()
    gates: Gates = Gates()
    sample_components: int = Field(default=200, ge=0)
    scenarios: tuple[Scenario, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _over_defaults(cls, data: Any) -> Any:
        if not isinstance(data, Mapping) or not isinstance(data.get("types"), Mapping):
            return data
        types: dict[str, Any] = {name: dict(item) for name, item in _DEFAULT_TYPES.items()}
        for name, item in data["types"].items():
            if isinstance(item, Mapping):
                types[name] = {**types.get(name, {}), **item}
            else:
                types[name] = item
        return {**data, "types": types}

    @field_validator("tiers", mode="before")
    @classmethod
    def _tiers_over_defaults(cls, value: Any) -> Any:
        return {**_DEFAULT_TIERS, **value} if isinstance(value, Mapping) else value

    @model_validator(mode="after")
    def _names_known(self) -> IdentityRules:
        known = sorted(self.types)
        faults = []
        for name, item in self.types.items():
            unknown = [other for other in item.max_links if other not in self.types]
            faults += [f"types.{name}.max_links names `{other}`{nearest(other, known)}" for other in unknown]
            if item.hash_of and item.hash_of.type not in self.types:
                faults.append(f"types.{name}.hash_of names `{item.hash_of.type}`{nearest(item.hash_of.type, known)}")
        if faults:
            raise ValueError("; ".join(faults))
        return self

    def strength(self, name: str) -> int:
        """Class and priority in one number; smaller is stronger."""
        item = self.types[name]
        return item.class_ * 100 + item.priority

    def values_hash(self, today: date) -> str:
        """Fingerprint of what decides how a raw value is read on *today*; when it changes every value is read again."""
        fields = {"scope", "normalise", "pattern", "max_length", "hash_of"}
        parts = {
            name: [
                item.model_dump(mode="json", include=fields),
                [block.model_dump(mode="json") for block in item.block if block.active(today)],
            ]
            for name, item in self.types.items()
        }
        return _digest([parts, self.phones.model_dump(mode="json"), self.placeholders.model_dump(mode="json")])

    def rules_hash(self) -> str:
        """Fingerprint of all that can change a person; gates and scenarios are left out."""
        return _digest(self.model_dump(mode="json", exclude={"gates", "scenarios", "sample_components"}))


_DEFAULT_TIERS: dict[EvidenceKind, int] = {
    "manual": 0, "hash_of": 0, "bind": 1, "login": 2, "order": 3, "co_occurrence": 4, "unbind": 1,
}  # fmt: skip


def _default_tiers() -> dict[EvidenceKind, int]:
    return dict(_DEFAULT_TIERS)


def _digest(data: Any) -> str:
    text = json.dumps(data, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]
