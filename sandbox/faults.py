"""Faults on demand: which call fails, how, how often. Rules come from the admin endpoint and from scenario files."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal, get_args

# code: answer this errcode · http: answer this status, empty body · delay: wait `ms` · drop: say yes, change nothing
# cut: break the connection · hang: never answer · expire_token: the token dies first · restart: the process starts anew
Kind = Literal["code", "http", "delay", "drop", "cut", "hang", "expire_token", "restart"]


@dataclass
class Fault:
    """One rule. *path*: endpoint path below `/cgi-bin/`, `*` allowed. *when*: before or after the call took effect.

    *rate*: share of matching calls it hits; *after*: matching calls it lets pass first; *count*: hits left (None: no
    end); *match*: values of query or body that must be equal (`{"userid": "…"}`).
    """

    kind: Kind
    path: str = "*"
    code: int = -1
    status: int = 502
    ms: float = 0.0
    rate: float = 1.0
    after: int = 0
    count: int | None = None
    when: Literal["before", "after"] = "before"
    match: Mapping[str, str] = field(default_factory=dict)
    hits: int = 0
    seen: int = 0

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"unknown fault kind {self.kind!r}; one of {', '.join(get_args(Kind))}")
        if not 0.0 <= self.rate <= 1.0:
            raise ValueError(f"rate must lie between 0 and 1, found {self.rate}")


class Faults:
    """The rules in force, drawn from one seeded source of chance so that a run can be played again."""

    def __init__(self, seed: int) -> None:
        self.rules: list[Fault] = []
        self.random = random.Random(seed)

    def add(self, rule: Mapping[str, Any]) -> Fault:
        fault = Fault(**rule)
        self.rules.append(fault)
        return fault

    def clear(self) -> None:
        self.rules.clear()

    def hitting(self, path: str, fields: Mapping[str, Any]) -> list[Fault]:
        """The rules that hit this call, in the order they were added; their counters move."""
        hit = []
        for rule in self.rules:
            if not fnmatchcase(path, rule.path) or rule.count == 0:
                continue
            if any(fields.get(key) != value for key, value in rule.match.items()):
                continue
            rule.seen += 1
            if rule.seen <= rule.after or (rule.rate < 1.0 and self.random.random() >= rule.rate):
                continue
            rule.hits += 1
            if rule.count is not None:
                rule.count -= 1
            hit.append(rule)
        return hit
