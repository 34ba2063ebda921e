"""Pareto/NBD (Schmittlein, Morrison, Colombo 1987; Fader, Hardie 2005, "A note on deriving the Pareto/NBD model").

A customer buys at a gamma-distributed Poisson rate until leaving after a gamma-distributed exponential time. The term
for having left between the last purchase and age is an integral; it is taken by Gauss-Legendre nodes on the log scale,
where its gradient in every parameter falls out of the same nodes, instead of by 2F1 functions that have no simple
derivative.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.special import digamma, gammaln

from cdp.ltv.fit import Array, Fitted, maximise

NAMES = ("r", "alpha", "s", "beta")
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(32)
_CHUNK = 100_000  # rows at a time: 32 nodes each


def fit_pareto_nbd(x: Array, t_x: Array, age: Array, weight: Array) -> Fitted:
    """Pareto/NBD by maximum likelihood over weighted distinct rows."""
    scale = float(np.average(age, weights=weight)) or 1.0
    start = np.array([0.6, 0.3 * scale, 0.6, 0.4 * scale])

    def objective(params: Array) -> tuple[float, Array]:
        value, slope = 0.0, np.zeros(4)
        for begin in range(0, len(x), _CHUNK):
            part = slice(begin, begin + _CHUNK)
            rows, gradient = log_likelihood(params, x[part], t_x[part], age[part])
            value += float((weight[part] * rows).sum())
            slope += (gradient * weight[part]).sum(axis=1)
        return value, slope

    return maximise("pareto_nbd", NAMES, start, objective, n=float(weight.sum()), n_collapsed=len(x))


def _terms(params: Array, x: Array, t_x: Array, age: Array) -> tuple[Array, Array, Array, Array]:
    """Logs of the two parts (still a customer, left before age), and per node: instants and shares of the second
    part."""
    r, alpha, s, beta = params
    low, high = np.log(beta + t_x), np.log(beta + age)
    half = (high - low) / 2
    y = low[:, None] + half[:, None] * (_NODES + 1)
    tau = np.exp(y) - beta
    with np.errstate(divide="ignore"):
        node = (
            -(r + x[:, None]) * np.log(alpha + tau)
            - s * y  # (beta + tau) ** -(s + 1), times d tau = (beta + tau) dy
            + np.log(_WEIGHTS)
            + np.log(half)[:, None]
        )
    top = np.max(node, axis=1)
    safe = np.where(np.isfinite(top), top, 0.0)
    mass = np.exp(node - safe[:, None])
    total = mass.sum(axis=1)
    with np.errstate(divide="ignore"):
        left = np.log(s) + safe + np.log(total)
    alive = -(r + x) * np.log(alpha + age) - s * np.log(beta + age)
    return alive, left, tau, np.divide(mass, total[:, None], out=np.zeros_like(mass), where=total[:, None] > 0)


def log_likelihood(params: Array, x: Array, t_x: Array, age: Array) -> tuple[Array, Array]:
    """Per row: the log-likelihood, and its gradient in (r, alpha, s, beta) of shape (4, rows)."""
    r, alpha, s, beta = params
    alive, left, tau, share = _terms(params, x, t_x, age)
    common = gammaln(r + x) - gammaln(r) + r * np.log(alpha) + s * np.log(beta)
    total = np.logaddexp(alive, left)
    p_left = np.exp(left - total)
    p_here = 1.0 - p_left
    mean_log_a = (share * np.log(alpha + tau)).sum(axis=1)
    mean_log_b = (share * np.log(beta + tau)).sum(axis=1)
    mean_inv_a = (share / (alpha + tau)).sum(axis=1)
    mean_inv_b = (share / (beta + tau)).sum(axis=1)
    gradient = np.stack(
        [
            digamma(r + x) - digamma(r) + np.log(alpha) - p_here * np.log(alpha + age) - p_left * mean_log_a,
            r / alpha - (r + x) * (p_here / (alpha + age) + p_left * mean_inv_a),
            np.log(beta) - p_here * np.log(beta + age) + p_left * (1 / s - mean_log_b),
            s / beta - p_here * s / (beta + age) - p_left * (s + 1) * mean_inv_b,
        ]
    )
    return common + total, gradient


def p_alive(params: Mapping[str, float], x: Array, t_x: Array, age: Array) -> Array:
    """Probability that each customer is still one at *age*."""
    values = np.array([params[name] for name in NAMES])
    result = np.empty(len(x))
    for begin in range(0, len(x), _CHUNK):
        part = slice(begin, begin + _CHUNK)
        alive, left, _, _ = _terms(values, x[part], t_x[part], age[part])
        result[part] = np.exp(alive - np.logaddexp(alive, left))
    return result


def expected_purchases(params: Mapping[str, float], t: float, x: Array, t_x: Array, age: Array) -> Array:
    """Expected purchases of each customer in (age, age + t], given its history."""
    r, alpha, s, beta = (params[name] for name in NAMES)
    if abs(s - 1.0) < 1e-9:
        grown = np.log((beta + age + t) / (beta + age))
    else:
        grown = -np.expm1((s - 1) * np.log((beta + age) / (beta + age + t))) / (s - 1)
    return p_alive(params, x, t_x, age) * (r + x) * (beta + age) / (alpha + age) * grown
