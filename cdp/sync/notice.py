"""What a group robot is told when a sync plan or its sending changes state."""

from __future__ import annotations

from typing import Literal

State = Literal["held", "stopped", "partial", "gaps", "recovered"]

TITLES: dict[str, dict[State, str]] = {
    "zh": {
        "held": "标签同步等待审批",
        "stopped": "标签同步已停止",
        "partial": "标签同步部分失败",
        "gaps": "标签同步回读有缺口",
        "recovered": "标签同步已恢复",
    },
    "en": {
        "held": "Tag sync waits for approval",
        "stopped": "Tag sync stopped",
        "partial": "Tag sync partly failed",
        "gaps": "Tag sync: read-back shows gaps",
        "recovered": "Tag sync recovered",
    },
}


def notice(state: State, *, plan_id: str, facts: dict[str, str], locale: str = "zh") -> str:
    """The message as WeCom markdown: title, plan, one line per fact. Facts are counts and codes, nothing personal."""
    lines = [f"**{TITLES[locale][state]}**", f"> {plan_id}"]
    return "\n".join([*lines, *(f"> {name}: {value}" for name, value in facts.items())])
