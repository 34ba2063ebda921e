"""Maximum likelihood with analytic gradients: what the buying and spending models share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from cdp.errors import FatalError

Array = NDArray[np.float64]
Objective = Callable[[Array], tuple[float, Array]]


@dataclass(frozen=True)
class Fitted:
    """One fitted model. *n*: customers (or repeat buyers), *n_collapsed*: distinct rows the likelihood was summed over.

    *gradient_norm*: largest absolute derivative of the mean log-likelihood in log parameters; near zero at an optimum.
    """

    family: str
    params: Mapping[str, float]
    std_errors: Mapping[str, float]
    log_likelihood: float
    n: int
    n_collapsed: int
    gradient_norm: float
    converged: bool


def maximise(
    family: str, names: tuple[str, ...], start: Array, log_likelihood: Objective, *, n: float, n_collapsed: int
) -> Fitted:
    """The positive parameters that maximise *log_likelihood* (value and gradient in the parameters themselves).

    Works on log parameters and on the mean over *n*, so that the stopping rule does not depend on the number of
    customers. Raises `FatalError` when no finite optimum is found.
    """

    def objective(theta: Array) -> tuple[float, Array]:
        value, gradient = log_likelihood(np.exp(theta))
        return -value / n, -gradient * np.exp(theta) / n

    bounds = [(-12.0, 15.0)] * len(names)
    found = minimize(
        objective, np.log(start), jac=True, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-13, "gtol": 1e-7}
    )
    params = np.exp(found.x)
    value, gradient = log_likelihood(params)
    if not np.isfinite(value):
        raise FatalError(
            f"{family}: no finite likelihood over {int(n)} customers",
            hint="look for impossible rows: a last purchase after the end of observation, or amounts that are not > 0",
        )
    norm = float(np.max(np.abs(gradient * params))) / n
    errors = _standard_errors(log_likelihood, params)
    return Fitted(
        family=family,
        params=dict(zip(names, map(float, params), strict=True)),
        std_errors=dict(zip(names, map(float, errors), strict=True)),
        log_likelihood=float(value),
        n=int(n),
        n_collapsed=n_collapsed,
        gradient_norm=norm,
        converged=bool(norm < 1e-4),
    )


def _standard_errors(log_likelihood: Objective, params: Array) -> Array:
    """From the inverse of minus the Hessian (central differences of the analytic gradient); NaN where it is
    singular."""
    size = len(params)
    hessian = np.empty((size, size))
    for index in range(size):
        step = np.zeros(size)
        step[index] = 1e-5 * params[index]
        up, down = log_likelihood(params + step)[1], log_likelihood(params - step)[1]
        hessian[index] = (up - down) / (2 * step[index])
    try:
        variance = np.diag(np.linalg.inv(-(hessian + hessian.T) / 2))
    except np.linalg.LinAlgError:
        return np.full(size, np.nan)
    return np.sqrt(np.where(variance > 0, variance, np.nan))


@dataclass(frozen=True)
class Collapsed:
    """Distinct rows and how many customers share each. *index* maps every customer to its row."""

    rows: tuple[Array, ...]
    weight: Array
    index: NDArray[np.int64]


def collapse(*columns: Array) -> Collapsed:
    """Group equal customers: models see each distinct row once, with a weight. Independent of row order."""
    order = np.lexsort(columns[::-1])
    ordered = [np.asarray(column, dtype=np.float64)[order] for column in columns]
    is_new = np.ones(len(order), dtype=bool)
    if len(order):
        is_new[1:] = np.logical_or.reduce([column[1:] != column[:-1] for column in ordered])
    group = np.cumsum(is_new) - 1
    index = np.empty(len(order), dtype=np.int64)
    index[order] = group
    return Collapsed(
        rows=tuple(column[is_new] for column in ordered),
        weight=np.bincount(group, minlength=int(is_new.sum())).astype(np.float64),
        index=index,
    )
