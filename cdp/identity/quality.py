"""How good a resolution is: against labels, and without labels from the contradictions it ran into."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import nbinom

from cdp.identity.graph import Ints


@dataclass(frozen=True)
class Agreement:
    """*pairs*: over pairs of records; *b3*: over records (B-cubed, Bagga and Baldwin 1998); shares from 0 to 1."""

    pair_precision: float
    pair_recall: float
    b3_precision: float
    b3_recall: float

    @property
    def pair_f1(self) -> float:
        return _harmonic(self.pair_precision, self.pair_recall)

    @property
    def b3_f1(self) -> float:
        return _harmonic(self.b3_precision, self.b3_recall)


def _harmonic(a: float, b: float) -> float:
    return 2 * a * b / (a + b) if a + b else 0.0


def agreement(found: Ints, truth: Ints) -> Agreement:
    """Compare two labellings of the same records, one label per record in each; labels are any integers."""
    if not len(found):
        return Agreement(1.0, 1.0, 1.0, 1.0)
    _, ours = np.unique(found, return_inverse=True)
    _, theirs = np.unique(truth, return_inverse=True)
    keys, common = np.unique(ours.astype(np.int64) * (int(theirs.max()) + 1) + theirs, return_counts=True)
    our_size, their_size = np.bincount(ours), np.bincount(theirs)
    together = float(_pairs(common).sum())
    of_ours = our_size[keys // (int(theirs.max()) + 1)]
    of_theirs = their_size[keys % (int(theirs.max()) + 1)]
    return Agreement(
        pair_precision=together / float(_pairs(our_size).sum()) if _pairs(our_size).sum() else 1.0,
        pair_recall=together / float(_pairs(their_size).sum()) if _pairs(their_size).sum() else 1.0,
        b3_precision=float((common * common / of_ours).sum() / len(ours)),
        b3_recall=float((common * common / of_theirs).sum() / len(ours)),
    )


def _pairs(sizes: Ints) -> Ints:
    return sizes * (sizes - 1) // 2


@dataclass(frozen=True)
class WrongMerges:
    """Wrong merges that nothing contradicted, and so stand: the expected number, and its bounds at the confidence
    asked for. *seen_share*: the chance that a wrong merge is contradicted."""

    seen: int
    seen_share: float
    expected: float
    low: int
    high: int


def wrong_merges(contradictions: int, known_share: float, *, confidence: float = 0.95) -> WrongMerges | None:
    """Estimate wrong merges from *contradictions*: pairs of persons that evidence wanted as one while each has an id
    that a person can have but one of. None where nobody has such an id, since then nothing could contradict.

    *known_share*: share of persons who have such an id. Wrong evidence that meets two persons without regard to that is
    contradicted with the chance p = known_share²; it comes by a Poisson law of unknown rate, so what is contradicted
    and what is not are independent, and given the former (Jeffreys prior) the latter is negative binomial.
    """
    share = known_share**2
    if share <= 0:
        return None
    if share >= 1:
        return WrongMerges(contradictions, 1.0, 0.0, 0, 0)
    law = nbinom(contradictions + 0.5, share)
    tail = (1 - confidence) / 2
    low, high = law.ppf([tail, 1 - tail])
    return WrongMerges(contradictions, share, float(law.mean()), int(low), int(high))
