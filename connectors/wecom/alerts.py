"""Short messages to a WeCom group bot when a plan or a run changes state. A bot that fails never fails the work."""

from __future__ import annotations

from typing import Literal

import httpx

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


def message(state: State, *, plan_id: str, facts: dict[str, str], locale: str = "zh") -> str:
    """The message as WeCom markdown: title, plan, one line per fact. Facts are counts and codes, nothing personal."""
    lines = [f"**{TITLES[locale][state]}**", f"> {plan_id}"]
    return "\n".join([*lines, *(f"> {name}: {value}" for name, value in facts.items())])


def send(address: str, text: str, *, transport: httpx.BaseTransport | None = None) -> str | None:
    """Post *text* to a group-bot address. Returns what went wrong in a few words, without the address, or None."""
    try:
        with httpx.Client(timeout=10.0, transport=transport) as client:
            reply = client.post(address, json={"msgtype": "markdown", "markdown": {"content": text}})
        code = reply.json().get("errcode") if reply.status_code == 200 else reply.status_code
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        return type(error).__name__
    return None if code == 0 else f"code {code}"
