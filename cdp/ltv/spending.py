"""Gamma-Gamma: what a customer spends on one purchase (Fader, Hardie 2013, "The Gamma-Gamma model of monetary
value")."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.special import digamma, gammaln

from cdp.ltv.fit import Array, Fitted, maximise

NAMES = ("p", "q", "v")


def fit_gamma_gamma(x: Array, mean_amount: Array, weight: Array) -> Fitted:
    """*x*: purchases averaged over (> 0), *mean_amount*: their mean (> 0), one row per customer or weighted."""
    scale = float(np.average(mean_amount, weights=weight))
    start = np.array([4.0, 4.0, scale])

    def objective(params: Array) -> tuple[float, Array]:
        value, gradient = log_likelihood(params, x, mean_amount)
        return float((weight * value).sum()), (gradient * weight).sum(axis=1)

    return maximise("gamma_gamma", NAMES, start, objective, n=float(weight.sum()), n_collapsed=len(x))


def log_likelihood(params: Array, x: Array, mean_amount: Array) -> tuple[Array, Array]:
    """Per row: the log-likelihood, and its gradient in (p, q, v) of shape (3, rows)."""
    p, q, v = params
    px, total = p * x, v + x * mean_amount
    value = (
        gammaln(px + q)
        - gammaln(px)
        - gammaln(q)
        + q * np.log(v)
        + (px - 1) * np.log(mean_amount)
        + px * np.log(x)
        - (px + q) * np.log(total)
    )
    gradient = np.stack(
        [
            x * (digamma(px + q) - digamma(px) + np.log(mean_amount) + np.log(x) - np.log(total)),
            digamma(px + q) - digamma(q) + np.log(v) - np.log(total),
            q / v - (px + q) / total,
        ]
    )
    return value, gradient


def expected_amount(params: Mapping[str, float], x: Array, mean_amount: Array) -> Array:
    """Expected spending per purchase. Customers with x = 0 get the population mean p v / (q - 1); inf when q <= 1."""
    p, q, v = (params[name] for name in NAMES)
    with np.errstate(divide="ignore", invalid="ignore"):
        own = p * (v + x * mean_amount) / (p * x + q - 1)
    return np.where((x > 0) | (q > 1), own, np.inf)
