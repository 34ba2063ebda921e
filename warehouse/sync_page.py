"""`plan.html`: one self-contained page an approver can read on a phone. No names, phones or unionids."""

from __future__ import annotations

from collections.abc import Mapping
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
    },
}

_TEMPLATE = """<!doctype html>
<html lang="{{ locale }}"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ w.title }} {{ s.plan_id }}</title><style>
:root { color-scheme: light dark } body { font: 15px/1.5 system-ui, "PingFang SC", "Microsoft YaHei", sans-serif; margin: 0 auto;
max-width: 60rem; padding: 1rem } h1 { font-size: 1.3rem } h2 { font-size: 1.05rem; margin-top: 2rem }
.wide { overflow-x: auto } table { border-collapse: collapse; width: 100% } th, td { padding: .3rem .5rem; text-align: right;
border-bottom: 1px solid #8884; white-space: nowrap } th:first-child, td:first-child { text-align: left }
.verdict { display: inline-block; padding: .2rem .7rem; border-radius: 1rem; color: #fff } .READY, .EMPTY { background: #2a7d46 }
.HELD { background: #b26a00 } .STOPPED { background: #b3261e } .plus { color: #2a7d46 } .minus { color: #b3261e }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem } dd { margin: 0; overflow-wrap: anywhere }
</style></head><body>
<h1>{{ w.title }} <span class="verdict {{ s.verdict }}">{{ w[s.verdict] }}</span></h1>
<dl><dt>ID</dt><dd>{{ s.plan_id }}</dd><dt>SHA-256</dt><dd>{{ s.plan_hash }}</dd><dt>{{ w.planned_at }}</dt><dd>{{ s.planned_at }}</dd>
<dt>{{ w.expires_at }}</dt><dd>{{ s.expires_at }}</dd><dt>{{ w.author }}</dt><dd>{{ s.author }}</dd>
<dt>{{ w.version }}</dt><dd>{{ s.pins.version }}</dd>
<dt>{{ w.relations }}</dt><dd>{{ s.relations }} (<span class="plus">+{{ s.adds }}</span> <span class="minus">−{{ s.removes }}</span>)</dd>
<dt>{{ w.forecast }}</dt><dd>{{ s.forecast.calls + s.forecast.verify_calls + s.forecast.library_calls }} {{ w.calls }},
{{ "%.0f"|format(s.forecast.seconds) }} {{ w.seconds }}, {{ "%.1f"|format(s.forecast.quota_share * 100) }} % {{ w.quota }}</dd></dl>
<h2>{{ w.gates }}</h2>{% set open = s.gates|rejectattr("verdict", "equalto", "pass")|list %}
{% if open %}<ul>{% for gate in open %}<li><b>{{ w[gate.verdict] }}</b> {{ gate[locale] }}</li>{% endfor %}</ul>{% else %}<p>{{ w.green }}</p>{% endif %}
<h2>{{ w.tags }}</h2><div class="wide"><table><tr><th>{{ w.tag }}</th><th>{{ w.now }}</th><th>{{ w.add }}</th><th>{{ w.remove }}</th>
<th>{{ w.after }}</th><th>%</th></tr>{% for tag in s.tags %}<tr><td>{{ tag.key }}</td><td>{{ tag.now }}</td><td class="plus">+{{ tag.add }}</td>
<td class="minus">−{{ tag.remove }}</td><td>{{ tag.after }}</td>
<td>{% if tag.now %}{{ "%+.0f"|format((tag.after - tag.now) / tag.now * 100) }}{% endif %}</td></tr>{% endfor %}</table></div>
<h2>{{ w.waterfall }}</h2><div class="wide"><table><tr><th>{{ w.tag }}</th><th>{{ w.segment }}</th>{% for step in steps %}
<th>{{ w[step] }}</th>{% endfor %}</tr>{% for tag in s.tags %}<tr><td>{{ tag.key }}</td><td>{{ tag.segment }}</td>
{% for step in steps %}<td>{{ tag[step] or "" }}</td>{% endfor %}</tr>{% endfor %}</table></div>
{% if s.library %}<h2>{{ w.library }}</h2><ul>{% for change in s.library %}<li>{{ change.action }} {{ change.key or change.group }}
→ {{ change.name }} {{ change.detail }}</li>{% endfor %}</ul>{% endif %}
<h2>{{ w.samples }}</h2>{% for side, lines in s.samples.items() %}{% if lines %}<p>{{ w[side] }}</p><ul>{% for line in lines %}
<li>{{ line }}</li>{% endfor %}</ul>{% endif %}{% endfor %}
{% for kind in ("store", "staff") %}{% set rows = s.units|selectattr("kind", "equalto", kind)|list %}{% if rows %}
<h2>{{ w.units }}: {{ kind }}</h2><div class="wide"><table><tr><th>{{ w.unit }}</th><th>{{ w.relations }}</th><th>{{ w.add }}</th>
<th>{{ w.remove }}</th></tr>{% for unit in rows %}<tr><td>{{ unit.unit }}</td><td>{{ unit.relations }}</td><td>{{ unit.add }}</td>
<td>{{ unit.remove }}</td></tr>{% endfor %}</table></div>{% endif %}{% endfor %}
</body></html>
"""


def render(summary: Mapping[str, Any], *, locale: str = "zh") -> str:
    """The page of a plan's summary, in Chinese or English; every value is escaped."""
    environment = Environment(autoescape=True, trim_blocks=True)
    steps = [step for step in WATERFALL if any(tag[step] for tag in summary["tags"])]
    template = environment.from_string(_TEMPLATE)
    return template.render(s=summary, w=WORDS[locale], locale=locale, steps=steps)
