"""Which conditions are told to people, and when: once when they begin, seldom while they last, once when they end.

Pure: what is true now and what was remembered go in, messages and the new memory come out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from pydantic import Field

from cdp.config import Strict

Level = Literal["error", "warn"]
Kind = Literal["failed", "lasting", "recovered"]
_RANK = {"error": 0, "warn": 1}
_ORDER = {"failed": 0, "lasting": 1, "recovered": 2}
_SIGNS = {"failed": "✗", "lasting": "…", "recovered": "✓"}


class AlertRules(Strict):
    """Who is told what. *robot*: webhook of a WeCom group robot (群机器人); *webhook*: any address that takes JSON.

    Both are references (`env:NAME`, `file:PATH`): the address of a robot is a secret.
    """

    robot: str | None = Field(default=None, pattern="^(env|file):.+")
    webhook: str | None = Field(default=None, pattern="^(env|file):.+")
    level: Level = Field(default="error", description="error: only what stops or fails; warn: warnings too")
    repeat_hours: float = Field(default=24.0, gt=0, description="a condition that lasts is told again after this long")


class Condition(Strict):
    """Something that is wrong now. *key* names it from run to run; *text* says what and where, nothing personal."""

    key: str
    level: Level
    text: str


class Remembered(Strict):
    """A condition people know about: since when, when it was last told, and its level then."""

    level: Level
    text: str
    since: datetime
    told_at: datetime


@dataclass(frozen=True)
class Alert:
    """One thing to tell. *lasted*: since it began."""

    kind: Kind
    key: str
    level: Level
    text: str
    lasted: timedelta


def decide(
    conditions: Sequence[Condition], before: Mapping[str, Remembered], *, now: datetime, rules: AlertRules
) -> tuple[list[Alert], dict[str, Remembered]]:
    """What to tell now, and what to remember once it has been told.

    A condition is told when it begins or becomes an error, again every `repeat_hours`, and once when it is gone. Those
    below `level` are neither told nor remembered. Of several conditions with one key the worst counts. The result does
    not depend on the order given.
    """
    current: dict[str, Condition] = {}
    for condition in sorted(conditions, key=lambda item: (item.key, _RANK[item.level], item.text)):
        if _RANK[condition.level] <= _RANK[rules.level]:
            current.setdefault(condition.key, condition)
    alerts, memory = [], {}
    for key, condition in current.items():
        known = before.get(key)
        kind = _kind(condition, known, now, rules)
        since = known.since if known else now
        if kind:
            alerts.append(Alert(kind, key, condition.level, condition.text, now - since))
        memory[key] = Remembered(
            level=condition.level,
            text=condition.text,
            since=since,
            told_at=now if kind or known is None else known.told_at,
        )
    for key, known in before.items():
        if key not in current:
            alerts.append(Alert("recovered", key, known.level, known.text, now - known.since))
    alerts.sort(key=lambda alert: (_ORDER[alert.kind], _RANK[alert.level], alert.key))
    return alerts, dict(sorted(memory.items()))


def compose(alerts: Sequence[Alert], *, brand: str, locale: Literal["zh", "en"], limit: int) -> str:
    """One message of at most *limit* UTF-8 bytes; what does not fit is counted on its last line."""
    failing = sum(alert.kind != "recovered" for alert in alerts)
    fine = len(alerts) - failing
    if locale == "zh":
        head = f"【{brand}】数据平台：{failing} 项异常，{fine} 项恢复"
    else:
        head = f"[{brand}] data platform: {failing} wrong, {fine} recovered"
    lines = [head, *(_line(alert, locale) for alert in alerts)]
    for kept in range(len(lines), 0, -1):
        left = len(lines) - kept
        more = ([f"… 另有 {left} 项"] if locale == "zh" else [f"… {left} more"]) if left else []
        text = "\n".join([*lines[:kept], *more])
        if len(text.encode()) <= limit:
            return text
    return head.encode()[:limit].decode(errors="ignore")


def _kind(condition: Condition, known: Remembered | None, now: datetime, rules: AlertRules) -> Kind | None:
    if known is None or _RANK[condition.level] < _RANK[known.level]:
        return "failed"
    return "lasting" if now - known.told_at >= timedelta(hours=rules.repeat_hours) else None


def _line(alert: Alert, locale: Literal["zh", "en"]) -> str:
    """`✗ key（持续 5 小时）：text`, the first line of the text only."""
    hours = f"{alert.lasted / timedelta(hours=1):.0f}"
    opened, colon = (f"（持续 {hours} 小时）", "：") if locale == "zh" else (f" ({hours} h)", ": ")
    lasted = "" if alert.kind == "failed" else opened
    text = alert.text.split("\n")[0]
    return f"{_SIGNS[alert.kind]} {alert.key}{lasted}{colon if text else ''}{text}"
