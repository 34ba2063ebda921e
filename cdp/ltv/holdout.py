"""The gate of predictions: what a model fitted on the past said about days that have since happened."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cdp.ltv.fit import Array


@dataclass(frozen=True)
class HoldOutReport:
    """*aggregate_ratio*: predicted ÷ actual purchases. *deciles*: per tenth of customers by prediction, lowest first:
    (mean predicted, mean actual)."""

    days: int
    customers: int
    predicted: float
    actual: float
    aggregate_ratio: float
    mean_absolute_error: float
    deciles: tuple[tuple[float, float], ...]


def compare(predicted: Array, actual: Array, *, days: int) -> HoldOutReport:
    """Compare predictions with what happened, one entry per customer, in the same order."""
    order = np.argsort(predicted, kind="stable")
    tenths = np.array_split(order, min(10, len(order)))
    total = float(actual.sum())
    return HoldOutReport(
        days=days,
        customers=len(predicted),
        predicted=float(predicted.sum()),
        actual=total,
        aggregate_ratio=float(predicted.sum() / total) if total else float("inf"),
        mean_absolute_error=float(np.abs(predicted - actual).mean()),
        deciles=tuple((float(predicted[part].mean()), float(actual[part].mean())) for part in tenths if len(part)),
    )
