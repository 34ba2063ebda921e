"""The change of a product of factors between two periods, split among the factors without a residual (LMDI-I)."""

from __future__ import annotations

import math
from collections.abc import Mapping

from cdp.errors import FatalError


def log_mean(a: float, b: float) -> float:
    """L(a, b) = (a - b) / ln(a / b), and a when both are equal. Both must be positive."""
    if a == b:
        return a
    ratio = (a - b) / b
    # log1p keeps its digits where a and b nearly agree.
    return (a - b) / math.log1p(ratio)


def lmdi(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """Each factor's part of the change of the product of all factors; the parts sum to the change.

    *before*, *after*: the same factors, all positive. Raises `FatalError` on a factor that is missing or not positive:
    a period with nothing sold has no decomposition.
    """
    if before.keys() != after.keys():
        raise FatalError(f"the two periods have different factors: {sorted(before)} and {sorted(after)}")
    bad = sorted(name for name in before if not (before[name] > 0 and after[name] > 0))
    if bad:
        raise FatalError(
            f"factors must be positive: {', '.join(bad)}", hint="leave out periods in which nothing was sold"
        )
    weight = log_mean(math.prod(after.values()), math.prod(before.values()))
    return {name: weight * math.log(after[name] / before[name]) for name in before}
