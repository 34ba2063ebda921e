"""Lifetime value at the edges: few customers, parameters that run away."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad

from cdp.ltv.buying import expected_purchases

TIMES = (np.array([2.0]), np.array([10.0]), np.array([20.0]))  # x, t_x, T


@pytest.mark.parametrize("scale", [1.0, 1e2, 1e4, 1e6])
def test_expected_purchases_stay_right_when_dropout_is_the_same_for_all(scale: float) -> None:
    """a and b grow together: the dropout probability tends to a / (a + b) for everyone, and the purchase rate of a
    living customer is Gamma(r + x, alpha + T), so the expectation is an integral over the rate."""
    r, alpha, a, b, ahead = 0.8, 6.0, 0.3 * scale, 0.7 * scale, 30.0
    x, t_x, age = TIMES
    found = expected_purchases({"r": r, "alpha": alpha, "a": a, "b": b}, ahead, x, t_x, age)[0]
    if scale >= 1e4:
        from math import exp, gamma

        p = a / (a + b)
        shape, rate = r + x[0], alpha + age[0]

        def expected(lam: float) -> float:
            density = rate**shape * lam ** (shape - 1) * exp(-rate * lam) / gamma(shape)
            return density * (1 - exp(-lam * p * ahead)) / p

        odds = a / (b + x[0] - 1) * ((alpha + age[0]) / (alpha + t_x[0])) ** (r + x[0])
        alive = 1 / (1 + odds)
        assert found == pytest.approx(alive * quad(expected, 0, 60)[0], rel=2e-3)
    assert np.isfinite(found)
    assert found > 0
