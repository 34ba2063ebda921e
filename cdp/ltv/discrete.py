"""BG/BB: buying or not at each of a row of opportunities (Fader, Hardie, Shang 2010, "Customer-base analysis in a
discrete-time noncontractual setting"). *x*: opportunities used, *t_x*: the last one used (0 if none), *n*:
opportunities."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.special import betaln, digamma, gammaln, logsumexp

from cdp.ltv.fit import Array, Fitted, maximise

NAMES = ("alpha", "beta", "gamma", "delta")


def fit_bg_bb(x: Array, t_x: Array, n: Array, weight: Array) -> Fitted:
    """BG/BB by maximum likelihood over weighted distinct rows."""

    def objective(params: Array) -> tuple[float, Array]:
        value, gradient = log_likelihood(params, x, t_x, n)
        return float((weight * value).sum()), (gradient * weight).sum(axis=1)

    start = np.array([1.0, 1.0, 0.8, 2.5])
    return maximise("bg_bb", NAMES, start, objective, n=float(weight.sum()), n_collapsed=len(x))


def _terms(params: Array, x: Array, t_x: Array, n: Array) -> tuple[Array, Array, Array]:
    """Log of every way to explain a row: alive throughout (first column), or gone after opportunity t_x + i; with the
    misses each way counts, and whether it ends in leaving."""
    alpha, beta, gamma, delta = params
    most = int((n - t_x).max()) if len(n) else 0
    ends = t_x[:, None] + np.arange(most)[None, :]
    possible = ends < n[:, None]
    seen = np.concatenate([n[:, None], np.where(possible, ends, n[:, None])], axis=1)
    misses = seen - x[:, None]
    leaves = np.concatenate([np.zeros((len(n), 1)), np.ones((len(n), most))], axis=1)
    logs = (
        betaln(alpha + x[:, None], beta + misses)
        - betaln(alpha, beta)
        + betaln(gamma + leaves, delta + seen)
        - betaln(gamma, delta)
    )
    logs[:, 1:] = np.where(possible, logs[:, 1:], -np.inf)
    return logs, seen, leaves


def log_likelihood(params: Array, x: Array, t_x: Array, n: Array) -> tuple[Array, Array]:
    """Per row: the log-likelihood, and its gradient in (alpha, beta, gamma, delta) of shape (4, rows)."""
    alpha, beta, gamma, delta = params
    logs, seen, leaves = _terms(params, x, t_x, n)
    total = logsumexp(logs, axis=1)
    share = np.exp(logs - total[:, None])
    size = digamma(alpha + beta + seen)
    life = digamma(gamma + leaves + delta + seen)
    gradient = np.stack(
        [
            (share * (digamma(alpha + x[:, None]) - size)).sum(axis=1) - digamma(alpha) + digamma(alpha + beta),
            (share * (digamma(beta + seen - x[:, None]) - size)).sum(axis=1) - digamma(beta) + digamma(alpha + beta),
            (share * (digamma(gamma + leaves) - life)).sum(axis=1) - digamma(gamma) + digamma(gamma + delta),
            (share * (digamma(delta + seen) - life)).sum(axis=1) - digamma(delta) + digamma(gamma + delta),
        ]
    )
    return total, gradient


def p_alive(params: Mapping[str, float], x: Array, t_x: Array, n: Array) -> Array:
    """Probability that each customer is still one at opportunity n + 1."""
    values = np.array([params[name] for name in NAMES])
    alpha, beta, gamma, delta = values
    total, _ = log_likelihood(values, x, t_x, n)
    alive = betaln(alpha + x, beta + n - x) - betaln(alpha, beta) + betaln(gamma, delta + n + 1) - betaln(gamma, delta)
    return np.exp(alive - total)


def expected_purchases(params: Mapping[str, float], ahead: float, x: Array, t_x: Array, n: Array) -> Array:
    """Expected opportunities used among the next *ahead*, given the history."""
    values = np.array([params[name] for name in NAMES])
    alpha, beta, gamma, delta = values
    total, _ = log_likelihood(values, x, t_x, n)
    if abs(gamma - 1.0) < 1e-6:
        gamma = 1.0 + 1e-6  # removable singularity
    log_common = betaln(alpha + x + 1, beta + n - x) - betaln(alpha, beta) - total
    log_life = gammaln(gamma + delta) - gammaln(1 + delta)
    now = np.exp(log_life + gammaln(1 + delta + n) - gammaln(gamma + delta + n))
    then = np.exp(log_life + gammaln(1 + delta + n + ahead) - gammaln(gamma + delta + n + ahead))
    return np.exp(log_common) * delta / (gamma - 1) * (now - then)
