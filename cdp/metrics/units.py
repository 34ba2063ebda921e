"""Units of metrics: people, orders and money are not numbers to multiply at will."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cdp.errors import ConfigError

Base = str  # people | orders | money


@dataclass(frozen=True)
class Unit:
    """A product of powers of base units, e.g. money per order: {"money": 1, "orders": -1}."""

    powers: tuple[tuple[Base, int], ...] = ()

    @staticmethod
    def of(**powers: int) -> Unit:
        """`Unit.of(money=1, orders=-1)`; powers of zero vanish."""
        return Unit(tuple(sorted((name, power) for name, power in powers.items() if power)))

    def times(self, other: Unit) -> Unit:
        """The unit of a product."""
        total = dict(self.powers)
        for name, power in other.powers:
            total[name] = total.get(name, 0) + power
        return Unit.of(**total)

    def __str__(self) -> str:
        return " ".join(name if power == 1 else f"{name}^{power}" for name, power in self.powers) or "a plain number"


def check_product(factors: Mapping[str, Unit], result: Unit) -> None:
    """Raise `ConfigError` when the product of *factors* does not have the unit *result*, or multiplies money by
    money."""
    total = Unit()
    money: list[str] = []
    for name, unit in factors.items():
        total = total.times(unit)
        if dict(unit.powers).get("money", 0) > 0:
            money.append(name)
    if len(money) > 1:
        raise ConfigError(
            f"{' × '.join(money)} multiplies money by money",
            hint="lifetime value is a second identity (a sum of history and prediction), never a factor beside order "
            "value",
        )
    if total != result:
        raise ConfigError(f"{' × '.join(factors)} is in {total}, expected {result}")
