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
    likelihood = Likelihood(x, mean_amount, weight)
    return maximise("gamma_gamma", NAMES, start, likelihood.total, n=float(weight.sum()), n_collapsed=len(x))


class Likelihood:
    """The log-likelihood summed within each distinct number of purchases: the slow functions are taken of those few
    values only; what remains per row is one logarithm and one division."""

    def __init__(self, x: Array, mean_amount: Array, weight: Array) -> None:
        self.x, self.at_x = np.unique(x, return_inverse=True)
        self.spent = x * mean_amount
        self.weight = weight
        self.customers = np.bincount(self.at_x, weight, len(self.x))
        self.log_mean = np.bincount(self.at_x, weight * np.log(mean_amount), len(self.x))

    def total(self, params: Array) -> tuple[float, Array]:
        """The log-likelihood of all customers, and its gradient in (p, q, v)."""
        p, q, v = params
        x, customers, px = self.x, self.customers, p * self.x
        total = v + self.spent
        log_total = np.bincount(self.at_x, self.weight * np.log(total), len(x))
        inverse = np.bincount(self.at_x, self.weight / total, len(x))
        shape = gammaln(px + q) - gammaln(px) - gammaln(q) + q * np.log(v) + px * np.log(x)
        value = float((customers * shape + (px - 1) * self.log_mean - (px + q) * log_total).sum())
        both = digamma(px + q)
        gradient = np.array(
            [
                (x * (customers * (both - digamma(px) + np.log(x)) + self.log_mean - log_total)).sum(),
                (customers * (both - digamma(q) + np.log(v)) - log_total).sum(),
                customers.sum() * q / v - ((px + q) * inverse).sum(),
            ]
        )
        return value, gradient


def expected_amount(params: Mapping[str, float], x: Array, mean_amount: Array) -> Array:
    """Expected spending per purchase. Customers with x = 0 get the population mean p v / (q - 1); inf when q <= 1."""
    p, q, v = (params[name] for name in NAMES)
    with np.errstate(divide="ignore", invalid="ignore"):
        own = p * (v + x * mean_amount) / (p * x + q - 1)
    return np.where((x > 0) | (q > 1), own, np.inf)
