"""One way in to all models: purchase histories to fitted parameters and predictions per person."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from cdp.ltv import buying, spending
from cdp.ltv.fit import Array, Collapsed, Fitted, collapse
from cdp.metrics.config import LtvConfig


@dataclass(frozen=True)
class Buyers:
    """Purchase histories, one entry per person. *x*: repeat purchase days; *t_x*, *T*: days; *mean_amount*: net per
    repeat purchase day, 0 without one."""

    one_id: pl.Series
    x: Array
    t_x: Array
    T: Array
    mean_amount: Array

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True)
class Prediction:
    """Fitted models and what they say per person. *orders*, *net*: one array per horizon. *low*, *high*: bounds of net
    over the last horizon. *grade*: ok, prior_only (no repeat purchase) or out_of_domain."""

    buying: Fitted
    spending: Fitted | None
    p_alive: Array
    orders: tuple[Array, ...]
    amount: Array
    net: tuple[Array, ...]
    low: Array
    high: Array
    grade: list[str]


def fit_and_score(
    buyers: Buyers, settings: LtvConfig, *, unit_days: float, horizons: Sequence[int] | None = None
) -> Prediction:
    """Fit the configured buying model and Gamma-Gamma, and predict each horizon (days) for every buyer.

    Deterministic and independent of the order of buyers up to floating-point summation over sorted distinct rows.
    """
    rows = collapse(buyers.x, buyers.t_x / unit_days, buyers.T / unit_days)
    ahead = tuple(horizons or settings.horizons)
    modified = settings.model == "mbg_nbd"
    fit = buying.fit_mbg_nbd if modified else buying.fit_bg_nbd
    fitted = fit(*rows.rows, rows.weight)
    alive = buying.p_alive(fitted.params, *rows.rows, modified=modified)[rows.index]
    orders = tuple(
        buying.expected_purchases(fitted.params, days / unit_days, *rows.rows, modified=modified)[rows.index]
        for days in ahead
    )
    money, amount = _amounts(buyers)
    net = tuple(_discounted(expected, days, settings.discount_rate) * amount for expected, days in zip(orders, ahead))
    low, high = _interval(orders[-1], amount, money)
    return Prediction(fitted, money, alive, orders, amount, net, low, high, _grades(buyers, orders[-1], amount))


def _amounts(buyers: Buyers) -> tuple[Fitted | None, Array]:
    """Gamma-Gamma over people with repeat purchases of a positive mean; without enough of them, the plain mean."""
    usable = (buyers.x > 0) & (buyers.mean_amount > 0)
    x = np.where(usable, buyers.x, 0.0)
    mean = np.where(usable, buyers.mean_amount, 0.0)
    if usable.sum() < 10 or np.ptp(mean[usable]) == 0:
        typical = float(mean[usable].mean()) if usable.any() else 0.0
        return None, np.full(len(buyers), typical)
    rows = collapse(x[usable], mean[usable])
    fitted = spending.fit_gamma_gamma(*rows.rows, rows.weight)
    amount = spending.expected_amount(fitted.params, x, mean)
    return fitted, np.where(np.isfinite(amount), amount, float(mean[usable].mean()))


def _discounted(expected: Array, days: int, rate: float) -> Array:
    """Expected purchases, each discounted as if spread evenly over the horizon."""
    if rate == 0:
        return expected
    force = np.log1p(rate) * days / 365.0
    return np.asarray(expected * -np.expm1(-force) / force)


def _interval(orders: Array, amount: Array, money: Fitted | None) -> tuple[Array, Array]:
    """80 % bounds of net: Poisson-gamma spread of counts around the expectation, normal on the square root scale."""
    spread = 1.2815515655446004 * np.sqrt(np.maximum(orders, 0.0) * 1.5)
    return np.maximum(orders - spread, 0.0) * amount, (orders + spread) * amount


def _grades(buyers: Buyers, orders: Array, amount: Array) -> list[str]:
    domain = np.isfinite(orders) & np.isfinite(amount) & (orders >= 0)
    grade = np.where(~domain, "out_of_domain", np.where(buyers.x == 0, "prior_only", "ok"))
    return [str(value) for value in grade]


__all__ = ["Buyers", "Collapsed", "Prediction", "fit_and_score"]
