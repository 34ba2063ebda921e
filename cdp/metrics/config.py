"""What a brand says about its metrics in `config/metrics.yaml`."""

from __future__ import annotations

from datetime import date
from typing import Literal

from pydantic import Field, model_validator

from cdp.config import Strict
from cdp.metrics.durations import Duration

LtvModel = Literal["bg_nbd", "mbg_nbd", "pareto_nbd", "bg_bb"]
AttributionModel = Literal["first", "last", "linear", "position", "time_decay", "markov", "shapley"]


class HoldOut(Strict):
    """The gate before predictions are published: fit on the past, predict the last *days*, compare with what came.

    *aggregate_ratio*: predicted ÷ actual purchases must lie in this range.
    """

    days: int = Field(default=90, ge=7)
    aggregate_ratio: tuple[float, float] = (0.6, 1.6)
    min_customers: int = Field(default=100, ge=1)


class LtvConfig(Strict):
    """Lifetime value. *discount_rate* is yearly; *horizons* are days ahead, and name the columns, so they are these
    three; *interval* is the share of outcomes between the bounds; *period_days* is the length of one opportunity of
    BG/BB."""

    model: LtvModel = "bg_nbd"
    period_days: int = Field(default=30, ge=1)
    horizons: tuple[Literal[90], Literal[180], Literal[365]] = (90, 180, 365)
    discount_rate: float = Field(default=0.0, ge=0, lt=1)
    hold_out: HoldOut = HoldOut()
    interval: float = Field(default=0.8, gt=0, lt=1)


class FirstOrderConfig(Strict):
    """First-order conversion of new people: share with a first paid order within each number of days.

    *start*: the moment a person counts as new.
    """

    days: tuple[int, ...] = (3, 7)
    start: Literal["friend_added", "first_seen", "registered"] = "friend_added"
    grain: Literal["day", "week", "month"] = "month"


class GmvConfig(Strict):
    """The GMV identity by period. *reachable*: who the brand can speak to."""

    grain: Literal["month", "week", "day"] = "month"
    periods: int = Field(default=13, ge=2, le=60)


class RepurchaseConfig(Strict):
    """The four named repurchase definitions over *window_days* up to the cut."""

    window_days: int = Field(default=365, ge=1)
    within_days: int = Field(default=90, ge=1)
    merge_same_day: bool = True


class RfmConfig(Strict):
    """RFM scores over people with an order. *thresholds* fix the cuts; without them quantiles of the run are used."""

    bins: int = Field(default=5, ge=2, le=10)
    window_days: int | None = None
    thresholds: dict[Literal["recency", "frequency", "monetary"], tuple[float, ...]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _enough_cuts(self) -> RfmConfig:
        for name, cuts in self.thresholds.items():
            if len(cuts) != self.bins - 1 or list(cuts) != sorted(cuts):
                raise ValueError(f"`{name}`: expected {self.bins - 1} ascending cuts for {self.bins} bins")
        return self


class AttributionConfig(Strict):
    """Credit of orders to the touches before them. *max_touches*: the newest touches of a path that count. *control*:
    channel -> SQL condition on `dim_people` that tells who was held out of it."""

    models: tuple[AttributionModel, ...] = ("last", "linear", "position", "markov")
    look_back: Duration = "30d"
    half_life: Duration = "7d"
    position: tuple[float, float, float] = (0.4, 0.2, 0.4)
    markov_order: int = Field(default=1, ge=1, le=4)
    bootstrap: int = Field(default=50, ge=0, le=1000)
    max_touches: int = Field(default=50, ge=1, le=60)
    control: dict[str, str] = Field(default_factory=dict)


class UpliftScore(Strict):
    """What ranks people: the value of the tag group *tag* that each held on entering. *order*: its values, the lowest
    first; without it the values are numbers."""

    tag: str
    order: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _each_once(self) -> UpliftScore:
        if len(set(self.order)) != len(self.order):
            raise ValueError("`order` names a value twice")
        return self


class UpliftConfig(Strict):
    """An uplift curve. *experiment*: one of `control.experiments` in `config/sync.yaml`; people enter it with the first
    tag of its groups from *since* on (a day of the brand), when the experiment began. Response: a paid order within
    *response_days* of entering."""

    id: str
    experiment: str
    since: date
    score: UpliftScore
    response_days: int = Field(default=30, ge=1)
    bins: int = Field(default=10, ge=1, le=1000)


class ReferralConfig(Strict):
    """Which invitation earns credit. *lost_within*: an invitee who leaves sooner than this earns none."""

    window: Duration = "30d"
    allow_customers: bool = False
    lost_within: Duration | None = "1d"
    matured_after: Duration = "30d"


class CommunityConfig(Strict):
    """Roles in groups (社群): *core_days* active days of the last *window_days* make a core member. *events*: event
    names that count as activity, all tracked ones when empty."""

    window_days: int = Field(default=30, ge=1)
    core_days: int = Field(default=8, ge=1)
    events: tuple[str, ...] = ()


class NextBestConfig(Strict):
    """Next best product. *per_person*: how many are kept; *neighbours*: similar products each product keeps;
    *recent_items*: a person's newest products that count; *basket_limit*: products of one basket or session that
    count; *min_support*: baskets two products must share."""

    per_person: int = Field(default=3, ge=1, le=50)
    neighbours: int = Field(default=15, ge=1)
    recent_items: int = Field(default=4, ge=1)
    basket_limit: int = Field(default=20, ge=2)
    min_support: int = Field(default=2, ge=1)
    window_days: int = Field(default=180, ge=1)
    hold_out_days: int = Field(default=30, ge=1)
    exclude_bought: bool = True


class MetricsConfig(Strict):
    """Everything of `config/metrics.yaml`. Every part has defaults that work."""

    ltv: LtvConfig = LtvConfig()
    first_order: FirstOrderConfig = FirstOrderConfig()
    gmv: GmvConfig = GmvConfig()
    repurchase: RepurchaseConfig = RepurchaseConfig()
    rfm: RfmConfig = RfmConfig()
    attribution: AttributionConfig = AttributionConfig()
    uplift: tuple[UpliftConfig, ...] = ()
    referral: ReferralConfig = ReferralConfig()
    community: CommunityConfig = CommunityConfig()
    next_best: NextBestConfig = NextBestConfig()

    @model_validator(mode="after")
    def _curves_have_names_of_their_own(self) -> MetricsConfig:
        names = [item.id for item in self.uplift]
        if len(set(names)) != len(names):
            raise ValueError("`uplift`: two curves have the same `id`")
        return self
