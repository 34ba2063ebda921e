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
from scipy.special import betaln, digamma, gammaln, hyp2f1

from cdp.ltv.fit import Array, Fitted, maximise

NAMES = ("r", "alpha", "a", "b")


def fit_bg_nbd(x: Array, t_x: Array, age: Array, weight: Array) -> Fitted:
    """BG/NBD by maximum likelihood over weighted distinct rows."""
    return _fit("bg_nbd", x, t_x, age, weight, modified=False)


def fit_mbg_nbd(x: Array, t_x: Array, age: Array, weight: Array) -> Fitted:
    """MBG/NBD by maximum likelihood over weighted distinct rows."""
    return _fit("mbg_nbd", x, t_x, age, weight, modified=True)


def _fit(family: str, x: Array, t_x: Array, age: Array, weight: Array, *, modified: bool) -> Fitted:
    scale = float(np.average(age, weights=weight)) or 1.0
    start = np.array([0.5, 0.3 * scale, 0.8, 2.0])

    def objective(params: Array) -> tuple[float, Array]:
        value, gradient = log_likelihood(params, x, t_x, age, modified=modified)
        return float(weight @ value), gradient @ weight

    return maximise(family, NAMES, start, objective, n=float(weight.sum()), n_collapsed=len(x))


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
    z = t / (alpha + age + t)
    # Euler's transformation of 2F1(r + x, b + x + m; a + b + x - 1 + m; z): both upper parameters shrink, which keeps
    # the series stable for heavy buyers.
    c = a + b + x - 1 + m
    hyper = hyp2f1(c - (r + x), a - 1.0, c, z)
    # ((alpha + age) / (alpha + age + t)) ** (r + x) = (1 - z) ** (r + x) cancels against the transformation's factor
    # (1 - z) ** (c - (r + x) - (b + x + m)) up to (1 - z) ** (a - 1).
    grown = c / (a - 1.0) * (1.0 - (1.0 - z) ** (a - 1.0) * hyper)
    return grown * p_alive(params, x, t_x, age, modified=modified)


def expected_for_new(params: Mapping[str, float], t: Array, *, modified: bool = False) -> Array:
    """Expected repeat purchases of a customer just acquired, in (0, t]; used to compare the whole with what
    happened."""
    zero = np.zeros_like(t)
    if modified:
        return np.array(
            [expected_purchases(params, float(s), zero[:1], zero[:1], zero[:1], modified=True)[0] for s in t]
        )
    r, alpha, a, b = (params[name] for name in NAMES)
    hyper = hyp2f1(r, b, a + b - 1, t / (alpha + t))
    return np.asarray((a + b - 1) / (a - 1) * (1 - (alpha / (alpha + t)) ** r * hyper))
