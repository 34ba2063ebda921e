"""BG/NBD and MBG/NBD: how often a customer buys, and whether they are still one.

Source: Fader, Hardie, Lee (2005), "Counting your customers the easy way"; Batislam, Denizel, Filiztekin (2007) for the
modified form, where a customer may also leave before the first repeat purchase. Time is in any one unit (we use weeks).
*x*: repeat purchases, *t_x*: time of the last one since the first purchase (0 when x = 0), *age*: time observed (T in
the
papers).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.special import betaincinv, betaln, digamma, gammaln, hyp2f1

from cdp.ltv.fit import Array, Fitted, collapse, maximise

NAMES = ("r", "alpha", "a", "b")
_NODES, _HALVES = np.polynomial.legendre.leggauss(64)
_QUANTILES, _WEIGHTS = (_NODES + 1) / 2, _HALVES / 2


def fit_bg_nbd(x: Array, t_x: Array, age: Array, weight: Array) -> Fitted:
    """BG/NBD by maximum likelihood over weighted distinct rows."""
    return _fit("bg_nbd", x, t_x, age, weight, modified=False)


def fit_mbg_nbd(x: Array, t_x: Array, age: Array, weight: Array) -> Fitted:
    """MBG/NBD by maximum likelihood over weighted distinct rows."""
    return _fit("mbg_nbd", x, t_x, age, weight, modified=True)


def _fit(family: str, x: Array, t_x: Array, age: Array, weight: Array, *, modified: bool) -> Fitted:
    scale = float(np.average(age, weights=weight)) or 1.0
    start = np.array([0.5, 0.3 * scale, 0.8, 2.0])

    grid = _Grid(x, t_x, age)

    def objective(params: Array) -> tuple[float, Array]:
        return grid.total(params, weight, modified=modified)

    return maximise(family, NAMES, start, objective, n=float(weight.sum()), n_collapsed=len(x))


class _Grid:
    """Rows by the distinct values of each column. The slow functions are taken of those few values only; what remains
    per row is one logaddexp."""

    def __init__(self, x: Array, t_x: Array, age: Array) -> None:
        self.x, self.at_x = np.unique(x, return_inverse=True)
        self.t_x, self.at_t = np.unique(t_x, return_inverse=True)
        self.age, self.at_age = np.unique(age, return_inverse=True)
        self.count = x
        self.may_have_left = x > 0

    def total(self, params: Array, weight: Array, *, modified: bool) -> tuple[float, Array]:
        """Weighted sums of `log_likelihood` and of its gradient. Plain sums: a BLAS would depend on its threads."""
        r, alpha, a, b = params
        m = 1.0 if modified else 0.0
        x = self.x
        common = gammaln(r + x) - gammaln(r) + r * np.log(alpha) + betaln(a, b + x + m) - betaln(a, b)
        divisor = np.where((x > 0) | modified, b + x - 1 + m, 1.0)
        log_age, log_t = np.log(alpha + self.age), np.log(alpha + self.t_x)
        rx = r + self.count
        alive = -rx * log_age[self.at_age]
        left = np.log(a / divisor)[self.at_x] - rx * log_t[self.at_t]
        if not modified:
            left = np.where(self.may_have_left, left, -np.inf)
        total = np.logaddexp(alive, left)
        p_left = weight * np.exp(left - total)
        p_here = weight - p_left
        per_x = np.bincount(self.at_x, weight, len(x))
        left_x = np.bincount(self.at_x, p_left, len(x))
        both = digamma(a + b) - digamma(a + b + x + m)
        value = float((weight * total).sum() + (per_x * common).sum())
        ages = np.bincount(self.at_age, p_here, len(self.age))
        times = np.bincount(self.at_t, p_left, len(self.t_x))
        ages_x = np.bincount(self.at_age, p_here * rx, len(self.age))
        times_x = np.bincount(self.at_t, p_left * rx, len(self.t_x))
        gradient = np.array(
            [
                (per_x * (digamma(r + x) - digamma(r) + np.log(alpha))).sum()
                - (ages * log_age).sum()
                - (times * log_t).sum(),
                per_x.sum() * r / alpha - (ages_x / (alpha + self.age)).sum() - (times_x / (alpha + self.t_x)).sum(),
                (per_x * both).sum() + left_x.sum() / a,
                (per_x * (both + digamma(b + x + m) - digamma(b))).sum() - (left_x / divisor).sum(),
            ]
        )
        return value, gradient


def log_likelihood(params: Array, x: Array, t_x: Array, age: Array, *, modified: bool = False) -> tuple[Array, Array]:
    """Per row: the log-likelihood, and its gradient in (r, alpha, a, b) of shape (4, rows). In log space throughout."""
    r, alpha, a, b = params
    m = 1.0 if modified else 0.0  # the modified model lets every purchase, the first included, be the last
    common = gammaln(r + x) - gammaln(r) + r * np.log(alpha) + betaln(a, b + x + m) - betaln(a, b)
    alive = -(r + x) * np.log(alpha + age)
    may_have_left = (x > 0) | modified
    left_divisor = np.where(may_have_left, b + x - 1 + m, 1.0)
    left = np.where(may_have_left, np.log(a / left_divisor) - (r + x) * np.log(alpha + t_x), -np.inf)
    total = np.logaddexp(alive, left)
    p_left = np.exp(left - total)
    p_alive = 1.0 - p_left
    both = digamma(a + b) - digamma(a + b + x + m)
    gradient = np.stack(
        [
            digamma(r + x) - digamma(r) + np.log(alpha) - p_alive * np.log(alpha + age) - p_left * np.log(alpha + t_x),
            r / alpha - (r + x) * (p_alive / (alpha + age) + p_left / (alpha + t_x)),
            both + p_left / a,
            both + digamma(b + x + m) - digamma(b) - p_left / left_divisor,
        ]
    )
    return common + total, gradient


def p_alive(params: Mapping[str, float], x: Array, t_x: Array, age: Array, *, modified: bool = False) -> Array:
    """Probability that each customer is still one at *age*. In BG/NBD it is 1 for customers without a repeat
    purchase."""
    r, alpha, a, b = (params[name] for name in NAMES)
    m = 1.0 if modified else 0.0
    odds = np.log(a) - np.log(np.maximum(b + x - 1 + m, 1e-300)) + (r + x) * np.log((alpha + age) / (alpha + t_x))
    alive = 1.0 / (1.0 + np.exp(np.minimum(odds, 700.0)))
    return alive if modified else np.where(x > 0, alive, 1.0)


def expected_purchases(
    params: Mapping[str, float], t: float, x: Array, t_x: Array, age: Array, *, modified: bool = False
) -> Array:
    """Expected purchases of each customer in (age, age + t], given its history."""
    r, alpha, a, b = (params[name] for name in NAMES)
    m = 1.0 if modified else 0.0
    if abs(a - 1.0) < 1e-6:
        a = 1.0 + 1e-6  # the closed form has a removable singularity at a = 1
    pairs = collapse(x, age)  # the growth factor depends on these two alone
    count, seen = pairs.rows
    z = t / (alpha + seen + t)
    # Euler's transformation of 2F1(r + x, b + x + m; a + b + x - 1 + m; z): both upper parameters shrink, which keeps
    # the series stable for heavy buyers.
    c = a + b + count - 1 + m
    hyper = hyp2f1(c - (r + count), a - 1.0, c, z)
    # ((alpha + age) / (alpha + age + t)) ** (r + x) = (1 - z) ** (r + x) cancels against the transformation's factor
    # (1 - z) ** (c - (r + x) - (b + x + m)) up to (1 - z) ** (a - 1).
    with np.errstate(invalid="ignore", over="ignore"):
        grown = c / (a - 1.0) * (1.0 - (1.0 - z) ** (a - 1.0) * hyper)
    lost = ~np.isfinite(grown)
    if lost.any():
        # Parameters that run away: everyone leaves, or everyone buys, at the same rate.
        grown[lost] = _grown_by_quadrature(r, alpha, a, b + m, t, count[lost], seen[lost])
    return grown[pairs.index] * p_alive(params, x, t_x, age, modified=modified)


def _grown_by_quadrature(r: float, alpha: float, a: float, b: float, t: float, count: Array, seen: Array) -> Array:
    """Expected purchases in (seen, seen + t] of a customer who is still one. Given the chance p of leaving with each
    purchase they are (1 - (1 + p t / (alpha + seen)) ** -(r + x)) / p; p is Beta(a, b + x), and its mean is taken over
    the quantiles, whatever the size of the parameters."""
    p = betaincinv(a, (b + count)[:, None], _QUANTILES[None, :])
    size, pace = (r + count)[:, None], t / (alpha + seen)[:, None]
    bought = -np.expm1(-size * np.log1p(p * pace))
    small = p < 1e-300
    each = np.where(small, size * pace, bought / np.where(small, 1.0, p))
    return np.asarray((each * _WEIGHTS).sum(axis=1))
