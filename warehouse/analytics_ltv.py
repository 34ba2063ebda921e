"""Lifetime value per person: history from the order facts, prediction from a fitted model behind its own hold-out."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import date, datetime, timedelta
from typing import Any

import duckdb
import numpy as np
import polars as pl

from cdp.ltv.holdout import HoldOutReport, compare
from cdp.ltv.models import Buyers, Prediction, fit_and_score
from cdp.metrics.config import MetricsConfig
from warehouse.analytics_common import MARTS, Cut, Table, business_cut, frame, view_of, write_marts

DAYS_PER_UNIT = 7.0  # models work in weeks, the unit of the published parameters


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
    """Write `fct_ltv_people`, `dim_ltv_models` and `fct_ltv_cohorts` from `fct_orders`, as of the last closed day.

    One purchase per person and day; refunds are taken off before spending is modelled; a day refunded in full is no
    purchase. Predictions are published only when the hold-out ratio lies in the declared bounds; history always is.
    """
    settings = metrics.ltv
    cut = business_cut(con, as_of, timezone)
    _purchase_days(con, cut)
    history = _buyers(con, cut.day - timedelta(days=1))
    report = _hold_out(con, cut.day - timedelta(days=1), metrics)
    published, reason = _gate(report, history, metrics)
    prediction = fit_and_score(history, settings, unit_days=DAYS_PER_UNIT) if len(history) else None
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
        select one_id, paid_date, sum(gross) as gross, sum(net) as net
        from (
            select one_id, paid_date, amount as gross,
                amount - case when coalesce(refunded_at, paid_at) < $at then coalesce(refund_amount, 0) else 0 end as net
            from {MARTS}.fct_orders
            where is_paid and one_id is not null and paid_at < $at
        )
        group by one_id, paid_date
        """,
        {"at": cut.at},
    )


def _buyers(con: duckdb.DuckDBPyConnection, end: date) -> Buyers:
    """Purchase histories up to and with the day *end*, ordered by person."""
    data = frame(
        con,
        """
        select one_id, count(*) - 1 as x, max(paid_date) - min(paid_date) as t_x, $end::date - min(paid_date) as T,
            cast(sum(net) - arg_min(net, paid_date) as double) as repeat_net
        from temp.purchase_days
        where paid_date <= $end and (net > 0 or gross <= 0)
        group by one_id
        order by one_id
        """,
        {"end": end},
    )
    x = data["x"].to_numpy().astype(np.float64)
    return Buyers(
        one_id=data["one_id"],
        x=x,
        t_x=data["t_x"].to_numpy().astype(np.float64),
        T=data["T"].to_numpy().astype(np.float64),
        mean_amount=np.divide(data["repeat_net"].to_numpy(), x, out=np.zeros_like(x), where=x > 0),
    )


def _hold_out(con: duckdb.DuckDBPyConnection, end: date, metrics: MetricsConfig) -> HoldOutReport | None:
    """Fit on purchases up to *days* before the end, predict those days, compare with what happened in them."""
    settings = metrics.ltv
    split = end - timedelta(days=settings.hold_out.days)
    before = _buyers(con, split)
    if len(before) < settings.hold_out.min_customers or not before.x.any():
        return None
    prediction = fit_and_score(before, settings, unit_days=DAYS_PER_UNIT, horizons=(settings.hold_out.days,))
    with view_of(con, "ltv_before", pl.DataFrame({"one_id": before.one_id})):
        actual = frame(
            con,
            """
            select before.one_id, count(days.paid_date) as purchases
            from ltv_before as before
            left join temp.purchase_days as days on days.one_id = before.one_id
                and days.paid_date > $split and days.paid_date <= $end and (days.net > 0 or days.gross <= 0)
            group by before.one_id order by before.one_id
            """,
            {"split": split, "end": end},
        )["purchases"].to_numpy()
    return compare(prediction.orders[0], actual.astype(np.float64), days=settings.hold_out.days)


def _gate(report: HoldOutReport | None, history: Buyers, metrics: MetricsConfig) -> tuple[bool, str | None]:
    settings = metrics.ltv.hold_out
    if report is None:
        return False, f"fewer than {settings.min_customers} customers {settings.days} days before the cut"
    low, high = settings.aggregate_ratio
    if not low <= report.aggregate_ratio <= high:
        return False, f"hold-out ratio {report.aggregate_ratio:.3f} is outside {low}–{high}"
    return True, None


def _people_frame(history: Buyers, prediction: Prediction | None, published: bool) -> pl.DataFrame:
    """One row per buyer with model inputs and, when published, predictions (else nulls)."""
    base = {
        "one_id": history.one_id.cast(pl.String),
        "x": history.x.astype(np.int64),
        "t_x": history.t_x.astype(np.int64),
        "T": history.T.astype(np.int64),
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
            "One row per person who ever paid.",
            _PEOPLE,
        ),
        Table("dim_ltv_models", _models_sql(cut, prediction, report, model_id, published, reason), *_MODEL_TEXT),
        Table("fct_ltv_cohorts", _cohorts_sql(), *_COHORT_TEXT),
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

    fits = [fit for fit in (prediction.buying, prediction.spending) if fit] if prediction else []
    rows = [
        f"""select '{model_id}' as model_id, '{fit.family}' as family, {text(dict(fit.params))} as parameters,
            {text({k: v if v == v else None for k, v in fit.std_errors.items()})} as std_errors,
            {fit.log_likelihood!r}::double as log_likelihood, {fit.n} as n, {fit.n_collapsed} as n_collapsed,
            {fit.gradient_norm!r}::double as gradient_norm, timestamptz '{cut.at.isoformat()}' as as_of,
            {text(asdict(report)) if report else "null"} as hold_out, {str(published).lower()} as is_published,
            {text(reason) if reason else "null"} as reason"""
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


_PEOPLE = {
    "one_id": "the person",
    "as_of": "start of the brand's open day; purchases before it count",
    "cohort": "month of the first purchase, brand time",
    "x": "repeat purchase days",
    "t_x": "days from the first to the last purchase",
    "T": "days from the first purchase to the last closed day",
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
    "One row per fitted model of the run.",
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
    "One row per month of first purchase and month since.",
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
