"""Uplift by score: whether the people a score ranks first are those whom a treatment moves most.

The formulas are those of the documentation of H2O (`auuc_type`), over counts cumulated from the highest score.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class Arms:
    """People treated and held back, and how many of each responded."""

    treated: int = 0
    control: int = 0
    treated_responders: int = 0
    control_responders: int = 0

    def __add__(self, other: Arms) -> Arms:
        return Arms(
            self.treated + other.treated,
            self.control + other.control,
            self.treated_responders + other.treated_responders,
            self.control_responders + other.control_responders,
        )

    @property
    def people(self) -> int:
        return self.treated + self.control

    @property
    def lift(self) -> Fraction | None:
        """TY1/T - CY1/C; None while an arm is empty, as are the two below."""
        if not (self.treated and self.control):
            return None
        return Fraction(self.treated_responders, self.treated) - Fraction(self.control_responders, self.control)

    @property
    def gain(self) -> Fraction | None:
        """Lift · (T + C): responders won if everybody counted here were treated."""
        return None if self.lift is None else self.lift * self.people

    @property
    def qini(self) -> Fraction | None:
        """TY1 - CY1 · T/C: responders won among those treated."""
        return None if self.lift is None else self.lift * self.treated

    def lift_bounds(self, z: float = 1.96) -> tuple[float, float] | None:
        """The normal interval of the difference of two shares."""
        if self.lift is None:
            return None
        shares = ((self.treated_responders, self.treated), (self.control_responders, self.control))
        spread = z * math.sqrt(sum(hits / size * (1 - hits / size) / size for hits, size in shares))
        return float(self.lift) - spread, float(self.lift) + spread


@dataclass(frozen=True)
class UpliftBin:
    """*number*: 1 holds the highest scores. *lowest*: the lowest score in it. *arms*: of this bin and all above."""

    number: int
    lowest: float
    arms: Arms


def uplift_bins(scored: Iterable[tuple[float, Arms]], bins: int) -> list[UpliftBin]:
    """The curve of *scored* (score, people with it; scores may repeat): at most *bins* points, the highest score first.

    Everybody with one score is in one bin: the one in which the first of them falls when all stand in a row. A bin into
    which nobody begins to fall is left out.
    """
    by_score: dict[float, Arms] = {}
    for score, arms in scored:
        by_score[score] = by_score.get(score, Arms()) + arms
    total = sum(arms.people for arms in by_score.values())
    found: dict[int, UpliftBin] = {}
    above = Arms()
    for score in sorted(by_score, reverse=True):
        number = above.people * bins // total + 1 if total else 1
        above += by_score[score]
        found[number] = UpliftBin(number, score, above)
    return list(found.values())


def qini_area(curve: list[UpliftBin]) -> Fraction | None:
    """Area under the Qini curve over the share of people, by trapezoids from nothing; None when an arm is empty.

    A random order of the same people has half the Qini of all of them. Points at which an arm is still empty are drawn
    through.
    """
    if not curve or curve[-1].arms.qini is None:
        return None
    total = curve[-1].arms.people
    area, last_share, last_qini = Fraction(0), Fraction(0), Fraction(0)
    for point in curve:
        qini, share = point.arms.qini, Fraction(point.arms.people, total)
        if qini is not None:
            area += (share - last_share) * (qini + last_qini) / 2
            last_share, last_qini = share, qini
    return area
