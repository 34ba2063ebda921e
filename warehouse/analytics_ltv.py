"""Lifetime value per person: history from the order facts, prediction from a fitted model behind its own hold-out."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import date, datetime, timedelta
from typing import Any

import duckdb
import numpy as np
import polars as pl

from cdp.ltv.holdout import HoldOutReport, compare
from cdp.ltv.models import Buyers, Prediction, fit_and_score
from cdp.metrics.config import LtvConfig, MetricsConfig
from warehouse.analytics_common import (
    MARTS,
    Cut,
    Table,
    business_cut,
    frame,
    paid_orders_sql,
    quoted,
    view_of,
    write_marts,
)

# A day counts as a purchase when money stayed, or none was asked for; a day refunded in full or of returns does not.
_BOUGHT = "net > 0 or (gross = 0 and net = 0)"


@dataclass(frozen=True)
class LtvReport:
    """What one run did. *published*: predictions passed their hold-out; *reason*: why not."""

    people: int
    buyers: int
    model: str
    parameters: dict[str, float]
    hold_out: dict[str, Any]
    published: bool
    reason: str | None
    tables: dict[str, int]


def build_ltv(
    con: duckdb.DuckDBPyConnection, metrics: MetricsConfig, *, as_of: datetime, timezone: str, currency: str = "CNY"
) -> LtvReport:
    """Write `fct_ltv_people`, `dim_ltv_models` and `fct_ltv_cohorts` from orders and refunds, as of the last closed
    day.

    One purchase per person and day; refunds are taken off before spending is modelled; a day refunded in full is no
    purchase. Predictions are published only when the hold-out ratio lies in the declared bounds; history always is.
    """
    settings = metrics.ltv
    cut = business_cut(con, as_of, timezone)
    _purchase_days(con, cut)
    history = _buyers(con, cut.day - timedelta(days=1), settings)
    report = _hold_out(con, cut.day - timedelta(days=1), metrics)
    published, reason = _gate(report, metrics)
    prediction = fit_and_score(history, settings) if _can_fit(history) else None
    people = _people_frame(history, prediction, published)
    with view_of(con, "ltv_scored", people):
        counts = write_marts(con, _tables(cut, metrics, prediction, report, published, reason, currency))
    con.execute("drop table if exists temp.purchase_days")
    return LtvReport(
        people=counts["fct_ltv_people"],
        buyers=len(history),
        model=settings.model,
        parameters=dict(prediction.buying.params) if prediction else {},
        hold_out=asdict(report) if report else {},
        published=published,
        reason=reason,
        tables=counts,
    )


def _purchase_days(con: duckdb.DuckDBPyConnection, cut: Cut) -> None:
    """Temp table: one row per person and brand day with a purchase that was not refunded in full before the cut."""
    con.execute(
        f"""
        create or replace temp table purchase_days as
        select one_id, paid_date, sum(amount) as gross, sum(net) as net
        from ({paid_orders_sql("$at")}) where one_id is not null
        group by one_id, paid_date
        """,
        {"at": cut.at},
    )


def _buyers(con: duckdb.DuckDBPyConnection, end: date, settings: LtvConfig) -> Buyers:
    """Purchase histories up to and with the day *end*, ordered by person; in periods instead of days for BG/BB."""
    counted = "count(*) - 1 as x, max(paid_date) - min(paid_date) as t_x, $end::date - min(paid_date) as T"
    if settings.model == "bg_bb":
        place = f"ceil((paid_date - first_date) / {settings.period_days}.0)"
        inside = f"paid_date > first_date and {place} <= floor(($end::date - first_date) / {settings.period_days}.0)"
        counted = (
            f"count(distinct {place}) filter (where {inside}) as x,"
            f" coalesce(max({place}) filter (where {inside}), 0) as t_x,"
            f" floor(($end::date - min(paid_date)) / {settings.period_days}.0) as T"
        )
    data = frame(
        con,
        f"""
        select one_id, {counted}, count(*) - 1 as repeats, cast(sum(net) - arg_min(net, paid_date) as double) as
            repeat_net
        from (
            select *, min(paid_date) over (partition by one_id) as first_date from temp.purchase_days
            where paid_date <= $end and ({_BOUGHT})
        )
        group by one_id
        order by one_id
        """,
        {"end": end},
    )
    x = data["x"].to_numpy().astype(np.float64)
    per = np.where(x > 0, x, data["repeats"].to_numpy())
    return Buyers(
        one_id=data["one_id"],
        x=x,
        t_x=data["t_x"].to_numpy().astype(np.float64),
        age=data["T"].to_numpy().astype(np.float64),
        mean_amount=np.divide(data["repeat_net"].to_numpy(), per, out=np.zeros_like(x), where=per > 0),
    )


def _can_fit(history: Buyers) -> bool:
    """There is something to learn from: a repeat purchase, and time observed."""
    return bool(len(history) and history.x.any() and history.age.any())


def _hold_out(con: duckdb.DuckDBPyConnection, end: date, metrics: MetricsConfig) -> HoldOutReport | None:
    """Fit on purchases up to *days* before the end, predict those days, compare with what happened in them."""
    settings = metrics.ltv
    split = end - timedelta(days=settings.hold_out.days)
    before = _buyers(con, split, settings)
    if len(before) < settings.hold_out.min_customers or not _can_fit(before):
        return None
    prediction = fit_and_score(before, settings, horizons=(settings.hold_out.days,))
    with view_of(con, "ltv_before", pl.DataFrame({"one_id": before.one_id})):
        actual = frame(
            con,
            f"""
            select before.one_id, count(distinct (days.paid_date - $split::date - 1) // $period) as purchases
            from ltv_before as before
            left join temp.purchase_days as days on days.one_id = before.one_id
                and days.paid_date > $split and days.paid_date <= $end and ({_BOUGHT})
            group by before.one_id order by before.one_id
            """,
            {"split": split, "end": end, "period": settings.period_days if settings.model == "bg_bb" else 1},
        )["purchases"].to_numpy()
    return compare(prediction.orders[0], actual.astype(np.float64), days=settings.hold_out.days)


def _gate(report: HoldOutReport | None, metrics: MetricsConfig) -> tuple[bool, str | None]:
    settings = metrics.ltv.hold_out
    if report is None:
        return False, f"fewer than {settings.min_customers} customers {settings.days} days before the cut"
    low, high = settings.aggregate_ratio
    if not report.actual:
        return False, f"nobody bought in the last {settings.days} days: the hold-out ratio is outside {low}–{high}"
    if not low <= report.aggregate_ratio <= high:
        return False, f"hold-out ratio {report.aggregate_ratio:.3f} is outside {low}–{high}"
    return True, None


def _people_frame(history: Buyers, prediction: Prediction | None, published: bool) -> pl.DataFrame:
    """One row per buyer with model inputs and, when published, predictions (else nulls)."""
    base = {
        "one_id": history.one_id.cast(pl.String),
        "x": history.x.astype(np.int64),
        "t_x": history.t_x.astype(np.int64),
        "T": history.age.astype(np.int64),
    }
    names = ("p_alive", "exp_orders_90", "exp_orders_180", "exp_orders_365", "exp_aov")
    money = ("pred_net_90", "pred_net_180", "pred_net_365", "lo80", "hi80")
    size = len(history)
    values: dict[str, Any] = {}
    if prediction and published:
        values = dict(zip(names, (prediction.p_alive, *prediction.orders, prediction.amount), strict=True))
        values |= dict(zip(money, (*prediction.net, prediction.low, prediction.high), strict=True))
    columns = {name: pl.Series(name, values.get(name, [None] * size), dtype=pl.Float64) for name in names + money}
    grade = prediction.grade if prediction and published else [None] * size
    return pl.DataFrame({**base, **columns, "grade": pl.Series("grade", grade, dtype=pl.String)})


def _tables(
    cut: Cut,
    metrics: MetricsConfig,
    prediction: Prediction | None,
    report: HoldOutReport | None,
    published: bool,
    reason: str | None,
    currency: str,
) -> list[Table]:
    model_id = f"{metrics.ltv.model}+gamma_gamma@{cut.day.isoformat()}"
    return [
        Table(
            "fct_ltv_people",
            _people_sql(cut, metrics, model_id, currency),
            "生命周期价值：每个买过的人一行 | One row per person who ever paid.",
            _PEOPLE,
        ),
        Table("dim_ltv_models", _models_sql(cut, prediction, report, model_id, published, reason), *_MODEL_TEXT),
        Table("fct_ltv_cohorts", _cohorts_sql(), *_COHORT_TEXT),
        Table("fct_ltv_channels", _channels_sql(), *_CHANNEL_TEXT),
    ]


def _people_sql(cut: Cut, metrics: MetricsConfig, model_id: str, currency: str) -> str:
    return f"""
        select
            history.one_id, timestamptz '{cut.at.isoformat()}' as as_of,
            strftime(history.first_paid_date, '%Y-%m') as cohort,
            scored.x, scored.t_x, scored.T,
            history.hist_gross, history.hist_refund, history.hist_gross - history.hist_refund as hist_net,
            case when scored.p_alive is not null then '{model_id}' end as model_id,
            scored.p_alive, scored.exp_orders_90, scored.exp_orders_180, scored.exp_orders_365, scored.exp_aov,
            cast(scored.pred_net_90 as decimal(18, 2)) as pred_net_90,
            cast(scored.pred_net_180 as decimal(18, 2)) as pred_net_180,
            cast(scored.pred_net_365 as decimal(18, 2)) as pred_net_365,
            cast(scored.lo80 as decimal(18, 2)) as lo80, cast(scored.hi80 as decimal(18, 2)) as hi80,
            {metrics.ltv.discount_rate} as discount_rate, '{currency}' as currency,
            history.hist_gross - history.hist_refund
                + cast(coalesce(scored.pred_net_365, 0) as decimal(18, 2)) as ltv_total,
            scored.grade
        from (
            select one_id, min(paid_date) as first_paid_date, cast(sum(gross) as decimal(18, 2)) as hist_gross,
                cast(sum(gross - net) as decimal(18, 2)) as hist_refund
            from temp.purchase_days group by one_id
        ) as history
        left join ltv_scored as scored on scored.one_id = history.one_id
        order by history.one_id
    """


def _models_sql(
    cut: Cut,
    prediction: Prediction | None,
    report: HoldOutReport | None,
    model_id: str,
    published: bool,
    reason: str | None,
) -> str:
    def text(value: object) -> str:
        return "'" + json.dumps(value, ensure_ascii=False).replace("'", "''") + "'" if value is not None else "null"

    def finite(values: Mapping[str, Any]) -> dict[str, Any]:
        """JSON knows neither NaN nor infinity."""
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in values.items()
        }

    fits = [fit for fit in (prediction.buying, prediction.spending) if fit] if prediction else []
    rows = [
        f"""select '{model_id}' as model_id, '{fit.family}' as family, {text(dict(fit.params))} as parameters,
            {text(finite(fit.std_errors))} as std_errors,
            {fit.log_likelihood!r}::double as log_likelihood, {fit.n} as n, {fit.n_collapsed} as n_collapsed,
            {fit.gradient_norm!r}::double as gradient_norm, timestamptz '{cut.at.isoformat()}' as as_of,
            {text(finite(asdict(report))) if report else "null"} as hold_out, {str(published).lower()} as is_published,
            {quoted(reason) if reason else "null"} as reason"""
        for fit in fits
    ]
    if rows:
        return " union all ".join(rows)
    empty = ", ".join(f"null::{kind} as {name}" for name, kind in _MODEL_TYPES.items())
    return f"select {empty} where false"


def _cohorts_sql() -> str:
    return """
        with firsts as (
            select one_id, min(paid_date) as first_paid_date from temp.purchase_days group by one_id
        ),
        sizes as (
            select date_trunc('month', first_paid_date)::date as cohort_month, count(*) as people from firsts group by 1
        ),
        monthly as (
            select date_trunc('month', firsts.first_paid_date)::date as cohort_month,
                datediff('month', firsts.first_paid_date, days.paid_date) as months_since,
                sum(days.net) as net, count(distinct days.one_id) as buyers
            from temp.purchase_days as days
            inner join firsts on firsts.one_id = days.one_id
            group by 1, 2
        )
        select monthly.cohort_month, monthly.months_since, sizes.people, monthly.buyers,
            cast(monthly.net as decimal(18, 2)) as net,
            cast(sum(monthly.net) over curve as decimal(18, 2)) as cumulative_net,
            cast(sum(monthly.net) over curve / sizes.people as decimal(18, 2)) as cumulative_net_per_person
        from monthly
        inner join sizes on sizes.cohort_month = monthly.cohort_month
        window curve as (partition by monthly.cohort_month order by monthly.months_since)
        order by monthly.cohort_month, monthly.months_since
    """


def _channels_sql() -> str:
    """Value and payback per channel of origin. A channel pays back in the first month since acquisition in which the
    cumulative net of all people it brought covers what it cost."""
    return f"""
        with buyers as (
            select one_id, min(paid_date) as first_paid_date, sum(gross) as gross, sum(net) as net
            from temp.purchase_days group by one_id
        ),
        people as (
            select people.one_id, people.origin_channel_id as channel_id,
                coalesce(people.origin_channel, people.origin_channel_id) as channel_name
            from {MARTS}.dim_people as people
        ),
        summed as (
            select people.channel_id, min(people.channel_name) as channel_name, count(*) as people,
                count(buyers.one_id) as buyers, coalesce(sum(buyers.net), 0) as hist_net,
                sum(cast(scored.pred_net_365 as decimal(18, 2))) as pred_net_365
            from people
            left join buyers on buyers.one_id = people.one_id
            left join ltv_scored as scored on scored.one_id = people.one_id
            group by people.channel_id
        ),
        costs as (
            select channel_id, sum(cost) as cost from {MARTS}.dim_channels group by channel_id
        ),
        monthly as (
            select people.channel_id, datediff('month', buyers.first_paid_date, days.paid_date) as months_since,
                sum(days.net) as net
            from temp.purchase_days as days
            inner join buyers on buyers.one_id = days.one_id
            inner join people on people.one_id = days.one_id
            group by all
        ),
        curves as (
            select channel_id, months_since,
                sum(net) over (partition by channel_id order by months_since) as cumulative_net
            from monthly
        ),
        paid_back as (
            select curves.channel_id, min(curves.months_since) as payback_months
            from curves inner join costs on costs.channel_id = curves.channel_id
            where costs.cost > 0 and curves.cumulative_net >= costs.cost
            group by curves.channel_id
        )
        select summed.channel_id, summed.channel_name, summed.people, summed.buyers,
            cast(summed.hist_net as decimal(18, 2)) as hist_net, summed.pred_net_365,
            cast((summed.hist_net + coalesce(summed.pred_net_365, 0)) / summed.people as decimal(18, 2))
                as ltv_per_person,
            cast(costs.cost as decimal(18, 2)) as cost,
            cast(costs.cost / summed.people as decimal(18, 2)) as cost_per_person,
            paid_back.payback_months
        from summed
        left join costs on costs.channel_id = summed.channel_id
        left join paid_back on paid_back.channel_id = summed.channel_id
        order by summed.people desc, summed.channel_id
    """


_PEOPLE = {
    "one_id": "the person",
    "as_of": "start of the brand's open day; purchases before it count",
    "cohort": "month of the first purchase, brand time",
    "x": "repeat purchase days (BG/BB: periods with one)",
    "t_x": "days from the first to the last purchase (BG/BB: periods)",
    "T": "days from the first purchase to the last closed day (BG/BB: periods)",
    "hist_gross": "paid so far, before refunds",
    "hist_refund": "refunded so far",
    "hist_net": "hist_gross - hist_refund",
    "model_id": "the model behind the predictions; null when none is published",
    "p_alive": "probability of still being a customer",
    "exp_orders_90": "expected purchase days in the next 90 days",
    "exp_orders_180": "expected purchase days in the next 180 days",
    "exp_orders_365": "expected purchase days in the next 365 days",
    "exp_aov": "expected net amount of one purchase day",
    "pred_net_90": "expected net in the next 90 days",
    "pred_net_180": "expected net in the next 180 days",
    "pred_net_365": "expected net in the next 365 days",
    "lo80": "lower bound of net in the next 365 days (80 % interval)",
    "hi80": "upper bound of net in the next 365 days (80 % interval)",
    "discount_rate": "yearly discount applied to predictions",
    "currency": "currency of all amounts",
    "ltv_total": "hist_net + pred_net_365",
    "grade": "ok | prior_only (no repeat purchase) | out_of_domain",
}
_MODEL_TYPES = {
    "model_id": "text",
    "family": "text",
    "parameters": "text",
    "std_errors": "text",
    "log_likelihood": "double",
    "n": "bigint",
    "n_collapsed": "bigint",
    "gradient_norm": "double",
    "as_of": "timestamptz",
    "hold_out": "text",
    "is_published": "boolean",
    "reason": "text",
}
_MODEL_TEXT = (
    "生命周期价值模型：每次拟合一行 | One row per fitted model of the run.",
    {
        "model_id": "name used in fct_ltv_people",
        "family": "bg_nbd | mbg_nbd | pareto_nbd | bg_bb | gamma_gamma",
        "parameters": "fitted parameters, JSON; time in weeks",
        "std_errors": "their standard errors, JSON",
        "log_likelihood": "at the optimum",
        "n": "customers",
        "n_collapsed": "distinct rows",
        "gradient_norm": "largest derivative of the mean log-likelihood; near zero at an optimum",
        "as_of": "data cut",
        "hold_out": "hold-out report, JSON",
        "is_published": "predictions passed the hold-out",
        "reason": "why they did not",
    },
)
_COHORT_TEXT = (
    "生命周期价值同期群：每个首购月、此后第几月一行 | One row per month of first purchase and month since.",
    {
        "cohort_month": "first day of the month of first purchase, brand time",
        "months_since": "0 = the month of first purchase",
        "people": "people acquired in that month",
        "buyers": "of these, with a purchase in this month",
        "net": "their net in this month",
        "cumulative_net": "their net up to this month",
        "cumulative_net_per_person": "cumulative_net ÷ people",
    },
)
_CHANNEL_TEXT = (
    "渠道价值：每个来源渠道一行，花费与回本 | "
    "One row per channel of origin: what its people have spent and will spend, what it cost, when it paid back.",
    {
        "channel_id": "contact-way state people first came through; null = unknown",
        "channel_name": "its name",
        "people": "people who came through it",
        "buyers": "of these, with a purchase",
        "hist_net": "their net so far",
        "pred_net_365": "their expected net in the next 365 days",
        "ltv_per_person": "(hist_net + pred_net_365) ÷ people",
        "cost": "what the channel cost, where known",
        "cost_per_person": "cost ÷ people",
        "payback_months": "first month since acquisition in which cumulative net covers the cost; null = not yet",
    },
)
