"""Sections and tables of the daily report about growth: channels, referral, repurchase, stages."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

from warehouse import report_charts as charts
from warehouse.report_parts import Chart, Context, Fact, Grid, Section, count, moved, ratio, share

_CHANNELS = 10
_NO_TOUCH = "__none__"
_DEFINITIONS = {
    "by_person": "复购率（按人）：买过两次的人 ÷ 买过的人",
    "by_order": "复购率（按单）：复购订单 ÷ 全部订单",
    "within_days": "限期复购：首购后 {days} 天内再购",
    "next_period": "回购率：本月买家下月再买",
}
_VARIANTS = {"every order counts": "每单都算", "orders of one day count once": "同日合并"}


def channels(page: Context) -> Section:
    """What each channel brought: credit under every attribution model, value and cost per person, referral."""
    t, name, title = page.t, "channels", page.t("渠道与裂变", "Channels and referral")
    if not {"fct_attribution_channels", "fct_ltv_channels", "fct_referral_campaigns"} & page.tables:
        page.need("fct_attribution_channels")
    credit, pictures = _credit(page)
    grids = [*credit, *_value(page), *_referral(page)]
    if not grids:
        return Section(
            name, title, empty=t("还没有可归因的订单、渠道或邀请。", "No order, channel or invitation to credit yet.")
        )
    return Section(name, title, charts=pictures, grids=grids, facts=_referral_facts(page))


def _credit(page: Context) -> tuple[list[Grid], list[Chart]]:
    """One column per attribution model; every column has the same total."""
    if "fct_attribution_channels" not in page.tables:
        return [], []
    t = page.t
    named = "dim_channels" in page.tables
    label = "coalesce(channels.channel_name, credits.channel)" if named else "credits.channel"
    join = "left join marts.dim_channels as channels on channels.channel_id = credits.channel" if named else ""
    rows = page.rows(
        f"select model, {label} as channel, sum(credited_net) as credited_net"
        f" from marts.fct_attribution_channels as credits {join}"
        " group by all order by model, credited_net desc, channel"
    )
    if not rows:
        return [], []
    models = list(dict.fromkeys(row["model"] for row in rows))
    net = {(row["channel"], row["model"]): float(row["credited_net"] or 0) for row in rows}
    names = sorted({row["channel"] for row in rows}, key=lambda channel: (-_mean(net, channel, models), channel))
    shown = names[:_CHANNELS]
    body = [
        [_channel(page, channel), *(page.money(net.get((channel, model), 0.0)) for model in models)]
        for channel in shown
    ]
    if len(names) > len(shown):
        rest = [sum(net.get((channel, model), 0.0) for channel in names[_CHANNELS:]) for model in models]
        body.append(
            [t(f"其余 {len(names) - len(shown)} 个", f"{len(names) - len(shown)} more"), *map(page.money, rest)]
        )
    body.append([t("合计", "total"), *(page.money(sum(net.get((c, model), 0.0) for c in names)) for model in models)])
    main = "last" if "last" in models else models[0]
    data = [
        {
            "label": _channel(page, channel),
            "value": max(net.get((channel, main), 0.0), 0.0),
            "text": page.money(net.get((channel, main), 0.0)),
        }
        for channel in sorted(shown, key=lambda channel: (-net.get((channel, main), 0.0), channel))
        if channel != _NO_TOUCH
    ]
    note = t("每个模型都把同样的净成交分给各渠道。", "Each model shares out the same net sales.")
    grid = Grid(
        t("各归因模型下的净成交", "Net sales by attribution model"), [t("渠道", "channel"), *models], body, note=note
    )
    return [grid], [
        Chart(t("有触点的净成交", "Net sales with a touch"), charts.bars(data), f"{t('模型', 'model')}: {main}")
    ]


def _mean(net: dict[tuple[str, str], float], channel: str, models: list[str]) -> float:
    return sum(net.get((channel, model), 0.0) for model in models) / len(models)


def _channel(page: Context, channel: str | None) -> str:
    return page.t("无触点", "no touch") if channel in (None, _NO_TOUCH, "") else str(channel)


def _value(page: Context) -> list[Grid]:
    if "fct_ltv_channels" not in page.tables:
        return []
    t = page.t
    rows = page.rows(
        "select coalesce(channel_name, channel_id) as channel, people, buyers, ltv_per_person, cost_per_person,"
        " payback_months from marts.fct_ltv_channels order by people desc, channel_id nulls last limit ?",
        [_CHANNELS],
    )
    body = [
        [
            row["channel"] or t("未知", "unknown"),
            *(count(row["people"]), share(ratio(row["buyers"], row["people"]))),
            *(page.money(row["ltv_per_person"]), page.money(row["cost_per_person"], digits=2)),
            count(row["payback_months"]),
        ]
        for row in rows
    ]
    heads = [t("来源渠道", "origin"), t("人", "people"), t("买过", "bought"), t("人均价值", "value each")]
    title = t("各来源渠道的人：价值与成本", "People by origin: value and cost")
    note = t("人均价值 = 历史净额 + 未来 365 天预测。", "Value = net so far + expected net of 365 days.")
    grid = Grid(title, [*heads, t("人均成本", "cost each"), t("回本月数", "months to pay back")], body, note=note)
    return [grid] if body else []


def _campaigns(page: Context) -> list[dict[str, Any]]:
    if "fct_referral_campaigns" not in page.tables:
        return []
    return page.rows(
        "select campaign_id, seeds, invitations, joined, first_orders, reach, k, matured_k, median_cycle_seconds"
        " from marts.fct_referral_campaigns order by joined desc, campaign_id limit 12"
    )


def _referral_facts(page: Context) -> list[Fact]:
    rows = _campaigns(page)
    if not rows:
        return []
    t = page.t
    joined, first = sum(row["joined"] for row in rows), sum(row["first_orders"] for row in rows)
    return [
        Fact(t("裂变种子", "Referral seeds"), count(sum(row["seeds"] for row in rows))),
        Fact(t("裂变带来的人", "People referred"), count(joined)),
        Fact(t("其首单", "Their first orders"), count(first), share(ratio(first, joined))),
    ]


def _referral(page: Context) -> list[Grid]:
    t = page.t
    body = [
        [
            row["campaign_id"] or t("无活动", "no campaign"),
            *(count(row[key]) for key in ("seeds", "invitations", "joined", "first_orders")),
            *("–" if row[key] is None else f"{row[key]:.2f}" for key in ("k", "matured_k")),
            "–" if row["median_cycle_seconds"] is None else page.age(timedelta(seconds=row["median_cycle_seconds"])),
        ]
        for row in _campaigns(page)
    ]
    heads = [
        t("裂变活动", "campaign"),
        t("种子", "seeds"),
        t("邀请", "invited"),
        t("带来", "joined"),
        t("首单", "first orders"),
    ]
    return (
        [
            Grid(
                t("裂变", "Referral"),
                [*heads, "K", t("K（已成熟）", "K, matured"), t("周期中位", "median cycle")],
                body,
            )
        ]
        if body
        else []
    )


def repurchase(page: Context) -> list[Grid]:
    """The four named definitions side by side; there is no single repurchase rate."""
    if "fct_repurchase" not in page.tables:
        return []
    t = page.t
    rows = page.rows(
        "select definition, variant, repeated, base, rate from marts.fct_repurchase"
        " qualify row_number() over (partition by definition, variant order by period_start desc nulls last) = 1"
        " order by definition, variant"
    )
    body = [
        [
            t(_named(row["definition"], row["variant"]), f"{row['definition']}: {row['variant']}"),
            *(count(row["repeated"]), count(row["base"]), share(row["rate"])),
        ]
        for row in rows
    ]
    heads = [t("口径", "definition"), t("分子", "repeated"), t("分母", "of"), t("比率", "rate")]
    return [Grid(t("复购，四种口径", "Repurchase, four definitions"), heads, body)] if body else []


def _named(definition: str, variant: str) -> str:
    """A repurchase definition in Chinese; one that is not known here is shown as it is stored."""
    days = re.search(r"\d+", variant)
    name = _DEFINITIONS.get(definition, f"{definition}：{variant}").replace("{days}", days[0] if days else "N")
    return f"{name}（{_VARIANTS[variant]}）" if variant in _VARIANTS else name


def stages(page: Context) -> list[Grid]:
    """Stock and flow of every stage group in its last run: stock = before + in - out."""
    if "fct_stage_stock" not in page.tables:
        return []
    t = page.t
    rows = page.rows(
        "select stock.tag_group, stage, stock_before, entered, left_stage, stock from marts.fct_stage_stock as stock"
        " left join marts.dim_tags as tags on tags.tag_group = stock.tag_group and tags.value = stock.stage"
        " qualify as_of = max(as_of) over (partition by stock.tag_group)"
        " order by stock.tag_group, tags.value_order, stage"
    )
    body = [
        [
            row["stage"] or t("无", "none"),
            *(
                count(row["stock_before"]),
                moved(row["entered"], "+"),
                moved(row["left_stage"], "-"),
                count(row["stock"]),
            ),
        ]
        for row in rows
    ]
    heads = [t("阶段", "stage"), t("之前", "before"), t("进", "in"), t("出", "out"), t("现在", "now")]
    return [Grid(t("生命周期：存量与流量", "Lifecycle: stock and flow"), heads, body)] if body else []
