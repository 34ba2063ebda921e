"""`plan.html`: one self-contained page an approver can read on a phone. No names, phones or unionids."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment

from cdp.sync.model import WATERFALL

WORDS: dict[str, dict[str, str]] = {
    "zh": {
        "title": "企业微信标签同步计划",
        "gates": "闸门",
        "tags": "标签变化",
        "waterfall": "人群去向",
        "units": "员工与门店",
        "library": "标签库",
        "forecast": "预计",
        "samples": "抽样",
        "tag": "标签",
        "now": "现有",
        "after": "之后",
        "add": "加",
        "remove": "减",
        "segment": "人群",
        "green": "全部通过",
        "calls": "次调用",
        "seconds": "秒",
        "quota": "每小时额度",
        "planned_at": "计划时间",
        "expires_at": "失效时间",
        "author": "提交人",
        "version": "数据版本",
        "relations": "条关系",
        "unit": "单位",
        "next": "下一步",
        "READY": "可以执行",
        "HELD": "等待审批",
        "STOPPED": "禁止执行",
        "EMPTY": "无需变更",
        "pass": "通过",
        "hold": "待审批",
        "stop": "禁止",
        "unresolved": "身份未解析",
        "not_a_contact": "未加好友",
        "out_of_scope": "超出应用范围",
        "lost_relation": "已流失",
        "no_consent": "未同意",
        "control": "对照组",
        "no_target": "无负责员工",
        "not_enriched": "仅补充",
        "frozen": "被人工冻结",
        "churn_held": "反复进出",
        "over_budget": "超出预算",
        "planned": "本次变更",
        "unchanged": "无变化",
        "create": "新建",
        "revive": "恢复",
        "rename": "改名",
        "reorder": "调整排序",
        "drain": "摘除",
        "empty": "已无人持有",
        "delete": "删除",
        "adopt": "接管",
        "still on": "仍有",
        "deleted from": "可删除日期",
        "not in WeCom": "企业微信中已不存在",
        "nothing": "暂无可做",
        "dry": "（未执行，加 --yes 执行）",
        "store": "门店",
        "staff": "员工",
    },
    "en": {
        "title": "WeCom tag sync plan",
        "gates": "Gates",
        "tags": "Changes per tag",
        "waterfall": "Where the segment goes",
        "units": "Employees and stores",
        "library": "Tag library",
        "forecast": "Forecast",
        "samples": "Samples",
        "tag": "tag",
        "now": "now",
        "after": "after",
        "add": "+",
        "remove": "−",
        "segment": "segment",
        "green": "all green",
        "calls": "calls",
        "seconds": "s",
        "quota": "of the hourly budget",
        "planned_at": "planned",
        "expires_at": "expires",
        "author": "author",
        "version": "data version",
        "relations": "relations",
        "unit": "unit",
        "next": "next",
        "READY": "ready",
        "HELD": "waits for approval",
        "STOPPED": "stopped",
        "EMPTY": "nothing to do",
        "pass": "pass",
        "hold": "hold",
        "stop": "stop",
        "unresolved": "identity unresolved",
        "not_a_contact": "not a contact",
        "out_of_scope": "out of app scope",
        "lost_relation": "relation lost",
        "no_consent": "no consent",
        "control": "control",
        "no_target": "no employee to carry it",
        "not_enriched": "enrich only",
        "frozen": "frozen by people",
        "churn_held": "in and out",
        "over_budget": "over budget",
        "planned": "planned",
        "unchanged": "unchanged",
        "create": "create",
        "revive": "keep",
        "rename": "rename",
        "reorder": "reorder",
        "drain": "take off everybody",
        "empty": "nobody has it",
        "delete": "delete",
        "adopt": "adopt",
        "still on": "still on",
        "deleted from": "may be deleted from",
        "not in WeCom": "no longer in WeCom",
        "nothing": "nothing to do yet",
        "dry": " (not done; --yes does it)",
        "store": "stores",
        "staff": "employees",
    },
}

_TEMPLATE = Path(__file__).with_suffix(".html")


def render(summary: Mapping[str, Any], *, locale: str = "zh") -> str:
    """The page of a plan's summary, in Chinese or English; every value is escaped."""
    environment = Environment(autoescape=True, trim_blocks=True)
    steps = [step for step in WATERFALL if any(tag[step] for tag in summary["tags"])]
    environment.filters["step"] = lambda change: step_text(change, WORDS[locale])
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    return template.render(s=summary, w=WORDS[locale], locale=locale, steps=steps)


def step_text(change: Mapping[str, Any], word: Mapping[str, str]) -> str:
    """One step on the tag library in a line."""
    text = f"{word[change['action']]} {change['key'] or change['group']} → {change['name']}"
    if change["holders"]:
        text += f"  {word['still on']} {change['holders']} {word['relations']}"
    if change["deleted_from"]:
        text += f"  {word['deleted from']} {change['deleted_from']}"
    return text
