"""One way in to all models: purchase histories to fitted parameters and predictions per person."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import polars as pl
from scipy.special import gammaincinv

from cdp.ltv import buying, discrete, pareto, spending
from cdp.ltv.fit import Array, Fitted, collapse
from cdp.metrics.config import LtvConfig


@dataclass(frozen=True)
class Family:
    """One buying model: how to fit it, who is still a customer, and how much they will buy."""

    fit: Callable[..., Fitted]
    p_alive: Callable[..., Array]
    expected: Callable[..., Array]


FAMILIES: dict[str, Family] = {
    "bg_nbd": Family(buying.fit_bg_nbd, buying.p_alive, buying.expected_purchases),
    "mbg_nbd": Family(
        buying.fit_mbg_nbd, partial(buying.p_alive, modified=True), partial(buying.expected_purchases, modified=True)
    ),
    "pareto_nbd": Family(pareto.fit_pareto_nbd, pareto.p_alive, pareto.expected_purchases),
    "bg_bb": Family(discrete.fit_bg_bb, discrete.p_alive, discrete.expected_purchases),
}


@dataclass(frozen=True)
class Buyers:
    """Purchase histories, one entry per person. *x*: repeat purchase days; *t_x*, *age*: days from the first purchase
    to the last one and to the end of observation (with BG/BB all three count periods); *mean_amount*: net per repeat
    purchase, 0 without one."""

    one_id: pl.Series
    x: Array
    t_x: Array
    age: Array
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


def unit_days(settings: LtvConfig) -> float:
    """Days per unit of model time: weeks, the unit of the published parameters, or the periods of BG/BB."""
    return float(settings.period_days) if settings.model == "bg_bb" else 7.0


def fit_and_score(buyers: Buyers, settings: LtvConfig, *, horizons: Sequence[int] | None = None) -> Prediction:
    """Fit the configured buying model and Gamma-Gamma, and predict each horizon (days) for every buyer.

    Deterministic, and independent of the order of buyers: likelihoods are summed over sorted distinct rows.
    """
    family, unit = FAMILIES[settings.model], unit_days(settings)
    scale = 1.0 if settings.model == "bg_bb" else unit
    rows = collapse(buyers.x, buyers.t_x / scale, buyers.age / scale)
    ahead = tuple(horizons or settings.horizons)
    fitted = family.fit(*rows.rows, rows.weight)
    alive = family.p_alive(fitted.params, *rows.rows)[rows.index]
    orders = tuple(family.expected(fitted.params, days / unit, *rows.rows)[rows.index] for days in ahead)
    money, amount = _amounts(buyers)
    net = tuple(
        _discounted(expected, days, settings.discount_rate) * amount
        for expected, days in zip(orders, ahead, strict=True)
    )
    low, high = _interval(fitted, buyers.x, alive, orders[-1], amount, money, settings.interval)
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
    fitted = spending.fit_gamma_gamma(rows.rows[0], rows.rows[1], rows.weight)
    amount = spending.expected_amount(fitted.params, x, mean)
    return fitted, np.where(np.isfinite(amount), amount, float(mean[usable].mean()))


def _discounted(expected: Array, days: int, rate: float) -> Array:
    """Expected purchases, each discounted as if spread evenly over the horizon."""
    if rate == 0:
        return expected
    force = np.log1p(rate) * days / 365.0
    return np.asarray(expected * -np.expm1(-force) / force)


def _interval(
    fitted: Fitted, x: Array, alive: Array, orders: Array, amount: Array, money: Fitted | None, level: float
) -> tuple[Array, Array]:
    """Bounds that hold the coming net with probability *level*: nothing from those who have left, and for the others a
    gamma distribution with the mean and variance of a gamma-mixed Poisson number of gamma-sized purchases."""
    tail = (1 - level) / 2
    here = np.clip(alive, 1e-12, 1.0)
    count = orders / here
    mixing = fitted.params.get("r", fitted.params.get("alpha", 1.0)) + x
    count_variance = count + count**2 / mixing
    size_variance = amount**2 / (money.params["p"] if money else 1e9)
    mean = np.maximum(count * amount, 1e-9)
    variance = np.maximum(count * size_variance + count_variance * amount**2, 1e-12)
    shape, scale = mean**2 / variance, variance / mean

    def quantile(q: float) -> Array:
        inside = np.clip((q - (1 - here)) / here, 0.0, 1.0)
        return np.where(inside > 0, gammaincinv(shape, inside) * scale, 0.0)

    return quantile(tail), quantile(1 - tail)


def _grades(buyers: Buyers, orders: Array, amount: Array) -> list[str]:
    domain = np.isfinite(orders) & np.isfinite(amount) & (orders >= 0)
    grade = np.where(~domain, "out_of_domain", np.where(buyers.x == 0, "prior_only", "ok"))
    return list(grade.tolist())
