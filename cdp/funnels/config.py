"""Funnels as analysts declare them in `config/funnels.yaml`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from cdp.config import Strict
from cdp.metrics.durations import Duration, microseconds

MAX_STEPS = 12
MAX_OPTIONAL = 4


class Step(Strict):
    """One step. *where*: a SQL condition on the event; *within*: longest time since the previous step of the chain;
    *optional*: a person may skip it; *hold*: this step's columns for the funnel's hold keys, where they are named
    differently."""

    id: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    event: str | tuple[str, ...]
    where: str | None = None
    within: Duration | None = None
    optional: bool = False
    label: str | None = None
    hold: dict[str, str] = Field(default_factory=dict)

    @property
    def events(self) -> tuple[str, ...]:
        return (self.event,) if isinstance(self.event, str) else self.event


class Window(Strict):
    """How long a whole chain may take. *boundary*: whether an event at the very end still counts. *clock*: rolling
    time, or calendar days of the brand (`1d` is the entry's own day). Whole days in `within` follow the same clock."""

    total: Duration | None = None
    boundary: Literal["inclusive", "exclusive"] = "inclusive"
    clock: Literal["rolling", "natural_day"] = "rolling"

    @model_validator(mode="after")
    def _days(self) -> Window:
        if self.clock == "natural_day" and self.total and microseconds(self.total) % 86_400_000_000:
            raise ValueError("a natural_day window is a whole number of days")
        return self


class Tolerance(Strict):
    """Events at most this far apart count as simultaneous for order, not for windows."""

    tolerance: Duration


def _ties(value: object) -> object:
    """`tolerance: 2s` may be written in one line as text."""
    if isinstance(value, str) and value.startswith("tolerance:"):
        return {"tolerance": value.split(":", 1)[1].strip()}
    return value


class Exclude(Strict):
    """An event that breaks the chain between two steps. *from* defaults to the first step, *to* to the last. `drop`:
    the chain does not count from `from` on; `truncate`: it counts up to the excluding event. With `order: any` the span
    is the whole chain, from its first event to the finish."""

    event: str | tuple[str, ...]
    where: str | None = None
    from_: str | None = Field(default=None, alias="from")
    to: str | None = None
    effect: Literal["drop", "truncate"] = "drop"

    @property
    def events(self) -> tuple[str, ...]:
        return (self.event,) if isinstance(self.event, str) else self.event


class Breakdown(Strict):
    """Split by a column. *at*: of the entry event, of a step's event, of the person's first or last touch, or of the
    person. *missing*: keep rows without a value (as null) or drop them."""

    by: str
    at: Annotated[str, Field(pattern=r"^(entry|first_touch|last_touch|person|step:[a-z][a-z0-9_]*)$")] = "entry"
    missing: Literal["keep", "drop"] = "keep"


class Bucket(Strict):
    """Split by calendar period of the entry, in the brand's time zone."""

    by: Literal["entry"] = "entry"
    grain: Literal["day", "week", "month", "all"] = "all"


class Funnel(Strict):
    """One funnel.

    A unit's level is the largest k for which k distinct events exist, the i-th matching step i, in order and inside all
    windows, with equal hold keys and no excluding event inside an exclusion span. *unit*: `person`, or a column of
    `marts.fct_journey`: each of its values is a unit then, whoever did its events.
    """

    id: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    label: str | None = None
    description: str = ""
    owner: str = "analytics"
    kind: Literal["conversion", "referral"] = "conversion"
    unit: str = Field(default="person", pattern=r"^[a-z][a-z0-9_]*$")
    hold: tuple[str, ...] = ()
    steps: tuple[Step, ...] = Field(min_length=1, max_length=MAX_STEPS)
    order: Literal["ordered", "adjacent", "any"] = "ordered"
    universe: tuple[str, ...] = ()
    window: Window = Window()
    ties: Annotated[Literal["by_step", "strictly_after"] | Tolerance, BeforeValidator(_ties)] = "by_step"
    entry: Literal["any", "first", "each"] = "any"
    exclude: tuple[Exclude, ...] = ()
    breakdown: Breakdown | None = None
    bucket: Bucket = Bucket()
    since: Duration | None = None
    mature_only: bool = False
    consent_purpose: str | None = None

    @property
    def tolerance_us(self) -> int:
        """The tolerance on ties in microseconds, 0 without one."""
        return microseconds(self.ties.tolerance) if isinstance(self.ties, Tolerance) else 0

    def position(self, step: str) -> int:
        """Place of the step called *step*, from 0."""
        return [item.id for item in self.steps].index(step)

    @model_validator(mode="after")
    def _consistent(self) -> Funnel:
        ids = [step.id for step in self.steps]
        faults = [f"step id `{name}` is used twice" for name in sorted({n for n in ids if ids.count(n) > 1})]
        for item in self.exclude:
            known = [name for name in (item.from_, item.to) if name is not None]
            faults += [f"exclude: no step `{name}`; steps: {', '.join(ids)}" for name in known if name not in ids]
            if len(known) == 2 and not set(known) - set(ids) and ids.index(known[0]) >= ids.index(known[1]):
                faults.append(f"exclude: `{known[0]}` does not come before `{known[1]}`")
        if self.breakdown and self.breakdown.at.startswith("step:") and self.breakdown.at[5:] not in ids:
            faults.append(f"breakdown: no step `{self.breakdown.at[5:]}`; steps: {', '.join(ids)}")
        if self.steps[0].optional:
            faults.append("the first step cannot be optional: it is the entry")
        if self.steps[0].within:
            faults.append("the first step has no step before it, so it takes no `within`")
        if sum(step.optional for step in self.steps) > MAX_OPTIONAL:
            faults.append(f"at most {MAX_OPTIONAL} steps may be optional")
        faults += self._order_faults()
        if faults:
            raise ValueError("; ".join(faults))
        return self

    def _order_faults(self) -> list[str]:
        faults = []
        if self.order == "any":
            if any(item.from_ or item.to for item in self.exclude):
                faults.append("`exclude` takes `from` and `to` only with an order; without them it spans the chain")
            if any(step.within for step in self.steps):
                faults.append("`within` needs an order: it counts since the previous step")
        if self.order != "ordered" and isinstance(self.ties, Tolerance):
            faults.append("`ties: tolerance` is for `order: ordered`")
        if self.tolerance_us and self.exclude and self.entry == "each":
            faults.append("`ties: tolerance`, `exclude` and `entry: each` do not go together: take `ties: by_step`")
        if self.universe and self.order != "adjacent":
            faults.append("`universe` is for `order: adjacent`")
        for step in self.steps:
            unknown = sorted(set(step.hold) - set(self.hold))
            faults += [f"step `{step.id}`: hold key `{name}` is not among the funnel's" for name in unknown]
        return faults


class FunnelsConfig(Strict):
    """Everything of `config/funnels.yaml`."""

    funnels: tuple[Funnel, ...] = ()

    @model_validator(mode="after")
    def _unique(self) -> FunnelsConfig:
        ids = [funnel.id for funnel in self.funnels]
        twice = sorted({name for name in ids if ids.count(name) > 1})
        if twice:
            raise ValueError(f"funnel ids used twice: {', '.join(twice)}")
        return self

    def funnel(self, name: str) -> Funnel:
        """The funnel called *name*; KeyError when there is none."""
        for funnel in self.funnels:
            if funnel.id == name:
                return funnel
        raise KeyError(name)
