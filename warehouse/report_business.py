"""Sections of the daily report about people and business, read from the published marts."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

from warehouse import report_charts as charts
from warehouse.report_growth import repurchase, stages
from warehouse.report_parts import Chart, Context, Fact, Grid, Section, change, count, moved, numbers, ratio, share

_DAYS = 60
_COHORTS = 12
_FLOWS = 12
_VALUES = 10
_FACTORS = ("seeds", "referral_multiple", "buyer_share", "orders_per_buyer", "net_per_order")


def people(page: Context) -> Section:
    """Who the brand knows, and by which ids."""
    page.need("dim_people")
    t = page.t
    row = page.rows(
        "select count(*) as people, count(*) filter (where not is_anonymous) as known,"
        " count(*) filter (where member_id is not null) as members, count(*) filter (where is_friend) as friends,"
        " count(*) filter (where is_follower) as followers, count(*) filter (where group_count > 0) as in_groups,"
        " coalesce(sum(identifier_count), 0) as identifiers from marts.dim_people"
    )[0]
    name, title = "people", t("人与身份", "People and identities")
    if not row["people"]:
        return Section(name, title, empty=t("还没有识别到任何人。", "Nobody has been resolved yet."))
    total, known = row["people"], row["known"]

    def fact(zh: str, en: str, key: str) -> Fact:
        of_known = t(f"占实名 {share(ratio(row[key], known))}", f"{share(ratio(row[key], known))} of known")
        return Fact(t(zh, en), count(row[key]), of_known)

    per_person = row["identifiers"] / total
    return Section(
        name,
        title,
        lead=t(
            f"{count(row['identifiers'])} 个标识归并为 {count(total)} 人，平均每人 {per_person:.2f} 个；"
            f"其中 {count(known)} 人不只由设备认出。",
            f"{count(row['identifiers'])} identifiers make {count(total)} people, {per_person:.2f} each; "
            f"{count(known)} of them are known by more than a device.",
        ),
        facts=[
            Fact(t("人", "People"), count(total)),
            Fact(t("实名", "Known"), count(known), share(ratio(known, total))),
            fact("企微好友", "WeCom friends", "friends"),
            fact("会员", "Members", "members"),
            fact("公众号粉丝", "Followers", "followers"),
            fact("社群成员", "In groups", "in_groups"),
        ],
        charts=[_new_people(page), _identifier_types(page)],
    )


def _new_people(page: Context) -> Chart:
    t = page.t
    rows = page.rows(
        "select cast(date_trunc('month', timezone($zone, first_seen_at)) as date) as at, is_anonymous,"
        " count(*) as value from marts.dim_people"
        " where first_seen_at < $cut and first_seen_at >= $cut - interval 13 month"
        " group by all order by is_anonymous, 1",
        {"zone": page.timezone, "cut": page.as_of},
    )
    names = {False: t("实名", "known"), True: t("仅设备", "device only")}
    data = [{"at": str(row["at"]), "value": row["value"], "kind": names[bool(row["is_anonymous"])]} for row in rows]
    return Chart(t("每月新识别的人", "People first seen, by month"), charts.columns(data, unit="month"))


def _identifier_types(page: Context) -> Chart:
    t = page.t
    rows = page.rows(
        "select type, count(*) as value from (select unnest(identifier_types) as type from marts.dim_people)"
        " group by type order by value desc, type limit 12"
    )
    data = [{"label": row["type"], "value": row["value"], "text": count(row["value"])} for row in rows]
    return Chart(t("各类标识覆盖的人", "People by kind of identifier"), charts.bars(data))


def sales(page: Context) -> Section:
    """Orders of the last closed days, and what moved net sales between the last two periods."""
    page.need("fct_orders")
    t, name, title = page.t, "sales", page.t("成交", "Sales")
    rows = page.rows(
        "select paid_date as at, count(*) as orders, count(distinct one_id) as buyers, sum(net_amount) as value,"
        " count(*) filter (where is_first_order) as first_orders"
        " from marts.fct_orders where is_paid and paid_date < $day and paid_date >= $day - $days::int"
        " group by all order by 1",
        {"day": page.day, "days": _DAYS},
    )
    if not rows:
        text = t(f"最近 {_DAYS} 天没有已支付订单。", f"No order was paid in the last {_DAYS} days.")
        return Section(name, title, empty=text)
    half = page.day - timedelta(days=_DAYS // 2)
    late = [row for row in rows if row["at"] >= half]
    early = [row for row in rows if row["at"] < half]
    net, before = (float(sum(row["value"] or 0 for row in part)) for part in (late, early))
    orders, orders_before = (sum(row["orders"] for row in part) for part in (late, early))
    first = sum(row["first_orders"] for row in late)
    data = [{"at": str(row["at"]), "value": float(row["value"] or 0)} for row in rows]
    gmv = _gmv(page)
    return Section(
        name,
        title,
        lead=t(
            f"最近 30 天净成交 {page.money(net)}，比前 30 天 {change(net, before) or '（无对比）'}。",
            f"Net sales of the last 30 days: {page.money(net)}, "
            f"{change(net, before) or 'no comparison'} on the 30 before.",
        ),
        facts=[
            Fact(t("净成交，30 天", "Net sales, 30 days"), page.money(net), page.against(net, before, 30)),
            Fact(t("订单", "Orders"), count(orders), page.against(orders, orders_before, 30)),
            Fact(t("首单", "First orders"), count(first), t("占订单 ", "of orders ") + share(ratio(first, orders))),
            Fact(t("每单净额", "Net per order"), page.money(net / orders if orders else None, digits=2)),
        ],
        charts=[
            Chart(t("每日净成交，60 天", "Net sales by day, 60 days"), charts.columns(data)),
            *([gmv] if gmv else []),
        ],
        grids=_first_orders(page),
    )


def _gmv(page: Context) -> Chart | None:
    """LMDI: the change of net sales to reachable people, split exactly over five factors."""
    if "fct_gmv_identity" not in page.tables:
        return None
    effects = ", ".join(f"{name}_effect" for name in _FACTORS)
    rows = page.rows(
        f"select period_start, gmv_net, gmv_change, {effects} from marts.fct_gmv_identity"
        " order by period_start desc limit 2"
    )
    if len(rows) < 2 or rows[0]["gmv_change"] is None:
        return None
    t = page.t
    labels = (
        t("自来可触达人数", "people nobody referred"),
        t("裂变倍数", "referral multiple"),
        t("购买人数占比", "share who buy"),
        t("人均订单", "orders per buyer"),
        t("每单净额", "net per order"),
    )
    now, before = rows
    start = float(before["gmv_net"])
    steps: list[dict[str, Any]] = [_total(page, before)]
    for name, label in zip(_FACTORS, labels, strict=True):
        effect = float(now[f"{name}_effect"] or 0)
        text, kind = page.signed_money(effect), "up" if effect >= 0 else "down"
        steps.append({"label": label, "start": start, "end": start + effect, "text": text, "kind": kind})
        start += effect
    steps.append(_total(page, now))
    return Chart(
        t("净成交变化的来源（LMDI，各项相加无余数）", "What moved net sales (LMDI; the parts leave no rest)"),
        charts.waterfall(steps),
        t(
            "只含付款时已可触达的人：好友、粉丝、会员或群成员。两端总额的柱不从零起画，以便看清各项。",
            "Only people the brand could reach when they paid. The two totals are not drawn from zero.",
        ),
    )


def _total(page: Context, row: dict[str, Any]) -> dict[str, Any]:
    amount = float(row["gmv_net"])
    label = f"{row['period_start']:%Y-%m}"
    return {"label": label, "start": 0.0, "end": amount, "text": page.money(amount), "kind": "total"}


def _first_orders(page: Context) -> list[Grid]:
    if "fct_first_order_conversion" not in page.tables:
        return []
    t = page.t
    rows = page.rows(
        "select period_start, days, new_people, converted, rate, matured_people, matured_rate, subsidy_per_first_order"
        " from marts.fct_first_order_conversion where new_people > 0 order by period_start desc, days limit 12"
    )
    if not rows:
        return []
    heads = [
        t("新客期间", "new in"),
        t("窗口", "window"),
        t("新客", "new"),
        t("首单", "first orders"),
        t("转化", "rate"),
        t("窗口已满者", "window over"),
        t("窗口已满者转化", "their rate"),
        t("每首单补贴", "subsidy each"),
    ]
    body = [
        [
            f"{row['period_start']:%Y-%m}",
            t(f"{row['days']} 天", f"{row['days']} days"),
            *(count(row["new_people"]), count(row["converted"]), share(row["rate"])),
            *(count(row["matured_people"]), share(row["matured_rate"])),
            page.money(row["subsidy_per_first_order"], digits=2),
        ]
        for row in rows
    ]
    return [Grid(t("新客首单转化", "First order of new people"), heads, body)]


def funnels(page: Context) -> Section:
    """Every funnel as bars, over all entries; the rate of those whose window is over beside it."""
    page.need("fct_funnel_steps")
    t, name, title = page.t, "funnels", page.t("漏斗", "Funnels")
    rows = page.rows(
        "select funnel_id, step_no, label, entered, reached, rate, step_rate, matured_rate, matured_rate_low,"
        " matured_rate_high, matured_entered, p50_seconds from marts.fct_funnel_steps"
        " where all_buckets and all_values order by funnel_id, step_no"
    )
    if not rows:
        return Section(name, title, empty=t("没有人进入任何漏斗。", "Nobody has entered a funnel."))
    pictures, body = [], []
    for funnel in dict.fromkeys(row["funnel_id"] for row in rows):
        steps = [row for row in rows if row["funnel_id"] == funnel]
        way = f"{steps[0]['label']} → {steps[-1]['label']}"
        data = [
            {
                "label": row["label"],
                "value": row["reached"],
                "text": f"{count(row['reached'])} · {share(row['rate'])}",
            }
            for row in steps
        ]
        pictures.append(Chart(way, charts.bars(data), funnel))
        body += [
            [
                f"{way}：{row['label']}",
                *(count(row["reached"]), share(row["step_rate"]), share(row["matured_rate"])),
                f"{share(row['matured_rate_low'])} – {share(row['matured_rate_high'])}",
                page.age(timedelta(seconds=row["p50_seconds"])) if row["p50_seconds"] is not None else "–",
            ]
            for row in steps
        ]
    heads = [
        t("步骤", "step"),
        t("到达", "reached"),
        t("上一步转化", "of step before"),
        t("窗口已满者转化", "rate, window over"),
        t("95 % 区间", "95 % bounds"),
        t("耗时中位", "median time"),
    ]
    last = rows[-1]
    return Section(
        name,
        title,
        lead=t(
            f"共 {len(pictures)} 个漏斗；“{last['label']}”在窗口已满的 {count(last['matured_entered'])} 人中转化 "
            f"{share(last['matured_rate'])}。",
            f"{len(pictures)} funnels; “{last['label']}” was reached by {share(last['matured_rate'])} of the "
            f"{count(last['matured_entered'])} people whose window is over.",
        ),
        charts=pictures,
        grids=[Grid(t("逐步", "Step by step"), heads, body)],
    )


def cohorts(page: Context) -> Section:
    """Who came back to buy, and what a person has brought in, by month of first purchase."""
    page.need("fct_ltv_cohorts")
    t, name, title = page.t, "cohorts", page.t("同期群与终身价值", "Cohorts and lifetime value")
    rows = page.rows(
        "select cohort_month, months_since, people, buyers, cumulative_net_per_person from marts.fct_ltv_cohorts"
        " where cohort_month in (select distinct cohort_month from marts.fct_ltv_cohorts order by 1 desc limit ?)"
        " and months_since <= ? and (months_since = 0 or cohort_month + to_months(months_since::int)"
        " < date_trunc('month', ?::date)) order by cohort_month, months_since",  # an open month would look like a fall
        [_COHORTS, _COHORTS, page.day],
    )
    if not rows:
        return Section(name, title, empty=t("还没有人付过款。", "Nobody has paid yet."))
    heat = [
        {
            "y": f"{row['cohort_month']:%Y-%m}",
            "x": row["months_since"],
            "value": row["buyers"] / row["people"],
            "text": f"{row['buyers'] / row['people'] * 100:.0f}",
        }
        for row in rows
        if row["months_since"] > 0
    ]
    shown = sorted({row["cohort_month"] for row in rows})[::2][-6:]
    curves = [
        {
            "series": f"{row['cohort_month']:%Y-%m}",
            "x": row["months_since"],
            "y": float(row["cumulative_net_per_person"]),
        }
        for row in rows
        if row["cohort_month"] in shown
    ]
    months = t("首购后第几个月", "months since first purchase")
    pictures = [Chart(t("人均累计净额", "Net per person so far"), charts.lines(curves, x_title=months))]
    if heat:
        title_heat = t("每月仍有购买的人，%", "Still buying in the month, %")
        pictures.insert(0, Chart(title_heat, charts.heatmap(heat, x_title=months)))
    facts, grids, lead = _lifetime(page)
    return Section(name, title, lead=lead, facts=facts, charts=pictures, grids=[*repurchase(page), *grids])


def _lifetime(page: Context) -> tuple[list[Fact], list[Grid], str]:
    if "fct_ltv_people" not in page.tables:
        return [], [], ""
    t = page.t
    row = page.rows(
        "select count(*) as people, sum(hist_net) as hist, sum(pred_net_365) as pred, avg(p_alive) as alive,"
        " count(pred_net_365) as predicted from marts.fct_ltv_people"
    )[0]
    facts = [
        Fact(t("买过的人", "People who paid"), count(row["people"])),
        Fact(t("人均历史净额", "Net so far, each"), page.money(float(row["hist"] or 0) / max(row["people"], 1))),
    ]
    if row["predicted"]:
        facts += [
            Fact(t("人均未来 365 天", "Next 365 days, each"), page.money(float(row["pred"]) / row["predicted"])),
            Fact(t("仍活跃概率，平均", "Still a customer, mean"), share(row["alive"])),
        ]
        return facts, _models(page), ""
    reasons = page.rows("select any_value(reason) as reason from marts.dim_ltv_models") if _has_models(page) else []
    reason = reasons[0]["reason"] if reasons else None
    lead = t("预测未发布，只列历史", "Predictions are not published; only history is shown")
    return facts, _models(page), f"{lead}{t('：', ': ')}{reason}" if reason else lead


def _has_models(page: Context) -> bool:
    return "dim_ltv_models" in page.tables


def _models(page: Context) -> list[Grid]:
    if not _has_models(page):
        return []
    t = page.t
    rows = page.rows(
        "select family, parameters, n, is_published, hold_out from marts.dim_ltv_models order by family desc"
    )
    body = []
    for row in rows:
        held = json.loads(row["hold_out"]) if row["hold_out"] else {}
        parameters = ", ".join(f"{key} {float(value):.3g}" for key, value in json.loads(row["parameters"]).items())
        ratio_text = f"{held['aggregate_ratio']:.3f}" if "aggregate_ratio" in held else "–"
        published = t("已发布", "published") if row["is_published"] else t("未发布", "withheld")
        body.append([row["family"], parameters, count(row["n"]), ratio_text, published])
    heads = [
        t("模型", "model"),
        t("参数", "parameters"),
        t("样本", "customers"),
        t("留出比", "hold-out"),
        t("状态", "state"),
    ]
    note = t("留出比 = 预测购买 ÷ 实际购买。", "Hold-out = purchases predicted ÷ purchases that happened.")
    return [Grid(t("模型", "Models"), heads, body, numeric=False, note=note)] if body else []


def tags(page: Context) -> Section:
    """Holders of every tag, and who moved where in the last run."""
    page.need("dim_tags", "fct_tag_group_runs")
    t, name, title = page.t, "tags", page.t("标签", "Tags")
    rows = page.rows(
        "select tag_group, label, value, holders, wecom_group from marts.dim_tags order by group_order, value_order"
    )
    runs = page.rows(
        "select tag_group, status, reason, people, tagged, entering, leaving, as_of from marts.fct_tag_group_runs"
        " qualify row_number() over (partition by tag_group order by run desc) = 1"
    )
    if not rows:
        return Section(name, title, empty=t("没有声明任何标签。", "No tag is declared."))
    latest = {row["tag_group"]: row for row in runs}
    labels = {row["tag_group"]: row["label"] for row in rows}
    pictures = []
    for group, label in labels.items():
        values = [row for row in rows if row["tag_group"] == group]
        held = values if len(values) <= _VALUES else sorted(values, key=lambda row: -row["holders"])[:_VALUES]
        data = [{"label": row["value"], "value": row["holders"], "text": count(row["holders"])} for row in held]
        more = t(f"另有 {len(values) - len(held)} 个值", f"{len(values) - len(held)} more values")
        sent = t("同步到企微", "sent to WeCom") if values[0]["wecom_group"] else ""
        note = " · ".join(part for part in (group, sent, more if len(held) < len(values) else "") if part)
        if any(row["holders"] for row in held):
            pictures.append(Chart(label, charts.bars(data), note))
    kept = [group for group, row in latest.items() if row["status"] != "published"]
    body = [
        [
            labels.get(group, group),
            *(count(row["tagged"]), share(ratio(row["tagged"] or 0, row["people"] or 0))),
            *(moved(row["entering"], "+"), moved(row["leaving"], "-")),
            t("已发布", "published")
            if row["status"] == "published"
            else t("沿用上版：", "kept: ") + (row["reason"] or ""),
        ]
        for group, row in latest.items()
    ]
    heads = [t("标签组", "group"), t("有标签的人", "people"), t("覆盖", "coverage"), t("进", "in"), t("出", "out")]
    grids = [
        Grid(t("最近一次计算", "The last run"), [*heads, t("状态", "state")], body),
        *stages(page),
        *_flows(page, labels),
    ]
    return Section(
        name,
        title,
        lead=t(
            f"{len(labels)} 个标签组，{len(rows)} 个标签；{len(kept)} 组因健康检查沿用上一版。",
            f"{len(labels)} groups with {len(rows)} tags; {len(kept)} kept their last good version.",
        ),
        charts=pictures,
        grids=grids,
        tone="warn" if kept else "",
    )


def _flows(page: Context, labels: dict[str, str]) -> list[Grid]:
    """People who left one value of an exclusive group for another in its last run."""
    if "fct_tag_history" not in page.tables:
        return []
    t = page.t
    rows = page.rows(
        """
        with moved as (
            select left_.tag_group, left_.value as was, came.value as became, count(*) as people
            from marts.fct_tag_history as left_
            inner join marts.fct_tag_history as came on came.one_id = left_.one_id
                and came.tag_group = left_.tag_group and came.valid_from = left_.valid_to and came.value <> left_.value
            inner join (
                select tag_group, max(valid_from) as newest_at from marts.fct_tag_history group by tag_group
            ) as newest on newest.tag_group = left_.tag_group and newest.newest_at = left_.valid_to
            inner join (select distinct tag_group from marts.dim_tags where is_exclusive) as exclusive
                on exclusive.tag_group = left_.tag_group
            where left_.valid_from < left_.valid_to
            group by all
        )
        select * from moved order by people desc, tag_group, was, became limit ?
        """,
        [_FLOWS],
    )
    if not rows:
        return []
    body = [
        [labels.get(row["tag_group"], row["tag_group"]), f"{row['was']} → {row['became']}", count(row["people"])]
        for row in rows
    ]
    heads = [t("标签组", "group"), t("流向", "from → to"), t("人", "people")]
    return [Grid(t("最近一次流向", "Flows of the last run"), heads, body)]


def headline(page: Context) -> list[Fact]:
    """The few numbers on top of the page; what the version cannot tell is left out."""
    t = page.t
    facts = []
    if "dim_people" in page.tables:
        row = page.rows("select count(*) as n, count(*) filter (where is_friend) as f from marts.dim_people")[0]
        facts += [Fact(t("人", "People"), count(row["n"])), Fact(t("企微好友", "WeCom friends"), count(row["f"]))]
    if "fct_orders" in page.tables:
        row = page.rows(
            "select coalesce(sum(net_amount) filter (where paid_date >= $day - 7), 0) as net,"
            " coalesce(sum(net_amount) filter (where paid_date < $day - 7), 0) as before"
            " from marts.fct_orders where is_paid and paid_date < $day and paid_date >= $day - 14",
            {"day": page.day},
        )[0]
        week = numbers(row, ("net", "before"))
        text = t("净成交，7 天", "Net sales, 7 days")
        facts.append(Fact(text, page.money(week["net"]), page.against(week["net"], week["before"], 7)))
    return facts
