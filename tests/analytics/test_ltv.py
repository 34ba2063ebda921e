"""Lifetime value: published parameters, analytic gradients, the hold-out gate, intervals, money."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

from cdp.errors import ConfigError
from cdp.ltv import buying, discrete, pareto, spending
from cdp.ltv.fit import Fitted, collapse
from cdp.ltv.models import FAMILIES, Buyers, fit_and_score
from cdp.metrics.config import LtvConfig, MetricsConfig
from tests.analytics.brand import AS_OF, ZONE, at, insert
from tests.benchmarks.bench_analytics_ltv import simulated as a_million
from warehouse.analytics import build_ltv, funnel_chart, ltv_chart

datasets = pytest.importorskip("lifetimes.datasets", reason="test dependency that carries CDNOW and the donations")


def columns(data: Any, *names: str) -> list[np.ndarray]:
    return [data[name].to_numpy(dtype=float) for name in names]


@pytest.fixture(scope="module")
def cdnow() -> list[np.ndarray]:
    return columns(datasets.load_cdnow_summary(), "frequency", "recency", "T")


def fitted(family: str, rows: list[np.ndarray]) -> Fitted:
    collapsed = collapse(*rows)
    return FAMILIES[family].fit(*collapsed.rows, collapsed.weight)


def test_bg_nbd_on_cdnow_gives_the_published_parameters(cdnow: list[np.ndarray]) -> None:
    """Fader, Hardie, Lee (2005)."""
    found = fitted("bg_nbd", cdnow)
    assert found.params == pytest.approx({"r": 0.243, "alpha": 4.414, "a": 0.793, "b": 2.426}, abs=6e-4)
    assert found.log_likelihood == pytest.approx(-9582.4, abs=0.05)
    assert found.converged


def test_pareto_nbd_on_cdnow_gives_the_published_parameters(cdnow: list[np.ndarray]) -> None:
    found = fitted("pareto_nbd", cdnow)
    assert found.params == pytest.approx({"r": 0.553, "alpha": 10.578, "s": 0.606, "beta": 11.669}, abs=2e-3)
    assert found.log_likelihood == pytest.approx(-9595.0, abs=0.05)


def test_mbg_nbd_agrees_with_lifetimes(cdnow: list[np.ndarray]) -> None:
    from lifetimes import ModifiedBetaGeoFitter

    peer = ModifiedBetaGeoFitter()
    peer.fit(*cdnow)
    found = fitted("mbg_nbd", cdnow)
    assert found.params == pytest.approx(dict(peer.params_), rel=2e-3)


def test_gamma_gamma_on_cdnow_gives_the_published_parameters() -> None:
    data = datasets.load_cdnow_summary_data_with_monetary_value()
    x, amount = columns(data[data["frequency"] > 0], "frequency", "monetary_value")
    assert len(x) == 946
    found = spending.fit_gamma_gamma(x, amount, np.ones(len(x)))
    assert found.params == pytest.approx({"p": 6.25, "q": 3.74, "v": 15.44}, abs=0.01)


def test_bg_bb_on_the_donations_gives_the_published_parameters() -> None:
    """Fader, Hardie, Shang (2010)."""
    x, t_x, n, weight = columns(datasets.load_donations(), "frequency", "recency", "periods", "weights")
    found = discrete.fit_bg_bb(x, t_x, n, weight)
    assert found.params == pytest.approx({"alpha": 1.204, "beta": 0.750, "gamma": 0.657, "delta": 2.783}, abs=1e-3)
    assert found.log_likelihood == pytest.approx(-33225.6, abs=0.05)


def test_predictions_agree_with_lifetimes(cdnow: list[np.ndarray]) -> None:
    from lifetimes import BetaGeoFitter, ParetoNBDFitter

    for family, peer in (("bg_nbd", BetaGeoFitter()), ("pareto_nbd", ParetoNBDFitter())):
        found = fitted(family, cdnow)
        peer.fit(*cdnow)
        for name in peer.params_.index:
            peer.params_[name] = found.params[name]
        ours = FAMILIES[family].expected(found.params, 39.0, *cdnow)
        theirs = peer.conditional_expected_number_of_purchases_up_to_time(39, *cdnow)
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-9)
        alive = FAMILIES[family].p_alive(found.params, *cdnow)
        np.testing.assert_allclose(alive, peer.conditional_probability_alive(*cdnow), rtol=1e-6, atol=1e-9)


LIKELIHOODS: dict[str, tuple[Callable[..., Any], list[float]]] = {
    "bg_nbd": (buying.log_likelihood, [0.3, 5.0, 0.9, 2.0]),
    "mbg_nbd": (lambda *a: buying.log_likelihood(*a, modified=True), [0.5, 6.0, 0.9, 1.6]),
    "pareto_nbd": (pareto.log_likelihood, [0.6, 9.0, 0.5, 14.0]),
    "pareto_nbd_fast_loss": (pareto.log_likelihood, [0.6, 14.0, 0.5, 3.0]),
    "bg_bb": (discrete.log_likelihood, [1.2, 0.8, 0.7, 2.5]),
}


@pytest.mark.parametrize("family", LIKELIHOODS)
def test_gradients_are_the_derivatives(family: str) -> None:
    function, start = LIKELIHOODS[family]
    rows = [np.array([0.0, 1, 5, 3]), np.array([0.0, 2, 30, 7]), np.array([38.0, 20, 30, 39])]
    params = np.array(start)
    _, gradient = function(params, *rows)
    for index in range(len(params)):
        step = np.zeros(len(params))
        step[index] = 1e-6 * params[index]
        numeric = (function(params + step, *rows)[0] - function(params - step, *rows)[0]) / (2 * step[index])
        np.testing.assert_allclose(gradient[index], numeric, rtol=1e-5, atol=1e-7)


def test_the_spending_likelihood_is_the_papers_and_its_gradient_the_derivative() -> None:
    """Fader, Hardie (2013), equation 1a, one customer at a time, weights as repeats."""
    from scipy.stats import betaprime

    x, mean, weight = np.array([1.0, 3, 3, 8]), np.array([20.0, 35, 5, 90]), np.array([2.0, 1, 3, 1])
    p, q, v = params = np.array([6.0, 3.5, 15.0])
    # Given its mean rate, x purchases sum to a gamma of shape p x; mixed over the rate, to v times a beta prime.
    each = betaprime.logpdf(x * mean / v, p * x, q) + np.log(x / v)
    likelihood = spending.Likelihood(x, mean, weight)
    value, gradient = likelihood.total(params)
    assert value == pytest.approx((weight * each).sum(), rel=1e-12)
    for index in range(3):
        step = np.zeros(3)
        step[index] = 1e-6 * params[index]
        numeric = (likelihood.total(params + step)[0] - likelihood.total(params - step)[0]) / (2 * step[index])
        assert gradient[index] == pytest.approx(numeric, rel=1e-5, abs=1e-7)


def simulated(people: int, seed: int, *, horizon: float = 52.0) -> tuple[Buyers, np.ndarray]:
    """Customers of a BG/NBD with known parameters and Gamma-Gamma spending, and what they spend afterwards."""
    rng = np.random.default_rng(seed)
    rate, quits = rng.gamma(0.8, 1 / 6.0, people), rng.beta(0.9, 3.0, people)
    mean = 6.0 / rng.gamma(4.0, 1 / 150.0, people) / 10
    observed = rng.uniform(10, 60, people)
    x, t_x, spent, later = (np.zeros(people) for _ in range(4))
    for i in range(people):
        now = 0.0
        while rng.random() >= quits[i]:
            now += rng.exponential(1 / rate[i])
            if now > observed[i] + horizon:
                break
            amount = rng.gamma(6.0, mean[i] / 6.0)
            if now <= observed[i]:
                x[i], t_x[i] = x[i] + 1, now
                spent[i] += amount
            else:
                later[i] += amount
    import polars as pl

    amount = np.divide(spent, x, out=np.zeros(people), where=x > 0)
    ids = pl.Series([str(i) for i in range(people)])
    # The simulation may lose a customer at once, as MBG/NBD has it.
    return Buyers(ids, x, t_x * 7, observed * 7, amount), later


def test_intervals_hold_the_share_they_promise() -> None:
    buyers, later = simulated(4_000, 3)
    prediction = fit_and_score(buyers, LtvConfig(model="mbg_nbd"), horizons=(364,))
    inside = (later >= prediction.low - 1e-9) & (later <= prediction.high + 1e-9)
    assert 0.76 <= inside.mean() <= 0.93
    assert prediction.net[0].sum() == pytest.approx(later.sum(), rel=0.12)


@pytest.mark.slow
def test_a_million_buyers_are_fitted_and_scored_in_seconds() -> None:
    """Design row 14, in processor time: other work on the machine does not count."""
    buyers = a_million(1_000_000)
    start = time.process_time()
    prediction = fit_and_score(buyers, LtvConfig())
    assert time.process_time() - start < 10
    assert prediction.buying.params["r"] == pytest.approx(0.8, rel=0.1)
    assert len(prediction.net[0]) == 1_000_000


@pytest.mark.parametrize("model", ["bg_nbd", "mbg_nbd", "pareto_nbd", "bg_bb"])
def test_every_model_runs_the_whole_way(brand: duckdb.DuckDBPyConnection, model: str) -> None:
    metrics = MetricsConfig.model_validate({"ltv": {"model": model, "hold_out": {"aggregate_ratio": [0.1, 10]}}})
    report = build_ltv(brand, metrics, as_of=AS_OF, timezone=ZONE)
    assert report.published, report.reason
    row = brand.execute(
        "select count(*), count(pred_net_365), sum((lo80 > hi80)::int), min(p_alive), max(p_alive),"
        " sum((pred_net_90 > pred_net_365)::int) from marts_db.marts.fct_ltv_people"
    ).fetchall()[0]
    assert row[1] >= 0.95 * row[0]
    assert row[2] == 0
    assert 0 <= row[3] <= row[4] <= 1
    assert row[5] == 0


def test_a_wrong_calibration_blocks_publishing_but_not_history(brand: duckdb.DuckDBPyConnection) -> None:
    """Everybody stops buying at the split: the model must overpredict, and its predictions stay unpublished (design row
    14; its speed is checked below)."""
    split = AS_OF - timedelta(days=90)
    brand.execute("delete from marts_db.marts.fct_orders where paid_at > ? and order_no > 1", [split])
    report = build_ltv(brand, MetricsConfig(), as_of=AS_OF, timezone=ZONE)
    assert not report.published
    assert "outside" in (report.reason or "")
    rows = brand.execute(
        "select count(pred_net_365), count(p_alive), count(hist_net), count(*) from marts_db.marts.fct_ltv_people"
    ).fetchall()[0]
    assert rows[:2] == (0, 0)
    assert rows[2] == rows[3] > 0
    assert brand.execute("select bool_or(is_published) from marts_db.marts.dim_ltv_models").fetchall() == [(False,)]


def test_purchases_of_one_day_are_one_and_refunded_days_none(con: duckdb.DuckDBPyConnection) -> None:
    base = {"is_paid": True, "refund_amount": 0, "one_id": "a"}
    days = [("2025-06-01", 100, 0), ("2025-06-01", 50, 0), ("2025-07-01", 80, 80), ("2025-08-01", 60, 10)]
    for number, (day, amount, refund) in enumerate(days):
        row = {"order_key": f"o{number}", "paid_at": at(f"{day} 12:00"), "paid_date": day, "amount": amount}
        row |= {"refund_amount": refund, "refunded_at": at("2025-09-01 12:00") if refund else None}
        insert(con, "fct_orders", [base | row])
    build_ltv(con, MetricsConfig(), as_of=AS_OF, timezone=ZONE)
    found = con.execute(
        "select x, t_x, T, hist_gross, hist_refund, hist_net from marts_db.marts.fct_ltv_people"
    ).fetchall()
    assert found == [(1, 61, 273, 290, 90, 200)]


def test_no_orders_at_all_is_a_result(con: duckdb.DuckDBPyConnection) -> None:
    report = build_ltv(con, MetricsConfig(), as_of=AS_OF, timezone=ZONE)
    assert report.people == 0
    assert not report.published


def test_channels_pay_back_when_their_people_have_spent_what_they_cost(con: duckdb.DuckDBPyConnection) -> None:
    insert(con, "dim_channels", [{"channel_id": "live", "channel_name": "直播间", "cost": 150}])
    insert(con, "dim_people", [{"one_id": "a", "origin_channel_id": "live", "origin_channel": "直播间"}])
    for number, (day, amount) in enumerate([("2025-06-01", 100), ("2025-08-10", 60)]):
        row = {"order_key": f"o{number}", "one_id": "a", "is_paid": True, "paid_at": at(f"{day} 12:00")}
        insert(con, "fct_orders", [row | {"paid_date": day, "amount": amount, "refund_amount": 0}])
    build_ltv(con, MetricsConfig(), as_of=AS_OF, timezone=ZONE)
    found = con.execute(
        "select channel_id, people, buyers, hist_net, cost, payback_months from marts_db.marts.fct_ltv_channels"
    ).fetchall()
    assert found == [("live", 1, 1, 160, 150, 2)]


def test_charts_are_written_or_refused_with_a_reason(brand: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    build_ltv(brand, MetricsConfig(), as_of=AS_OF, timezone=ZONE)
    ltv_chart(brand, tmp_path / "ltv.svg", marts="marts_db.marts")
    assert (tmp_path / "ltv.svg").read_text(encoding="utf-8").startswith("<svg")
    with pytest.raises(ConfigError, match="a chart is"):
        ltv_chart(brand, tmp_path / "ltv.pdf", marts="marts_db.marts")
    steps = [{"label": "首购", "step_no": 1, "reached": 5, "rate": 0.5, "rate_low": 0.3, "rate_high": 0.7}]
    funnel_chart(steps, title="漏斗", path=tmp_path / "funnel.html")
    page = (tmp_path / "funnel.html").read_text(encoding="utf-8")
    assert "1. 首购" in page
    assert "<script" not in page, "a chart opens without a network"
