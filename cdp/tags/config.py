"""Tag groups as analysts declare them in `config/tags.yaml`: eleven kinds over person features."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from cdp.config import Strict, nearest
from cdp.metrics.durations import Duration

# WeCom accepts 30 characters for a tag name; half of that keeps names readable on a phone and leaves room for Chinese.
NAME_LIMIT = 15
Name = Annotated[str, StringConstraints(min_length=1, max_length=NAME_LIMIT, strip_whitespace=True)]
Share = Annotated[float, Field(ge=0, le=1)]


class WeComWriteBack(Strict):
    """Send the group's values to WeCom as the tag group *group*. *mode*: how a customer's present tags of the group are
    treated; *lock*: which of them the platform may take off."""

    group: Name
    mode: Literal["replace_in_group", "add_only"] = "replace_in_group"
    lock: Literal["automatic_only", "none"] = "automatic_only"


class WriteBack(Strict):
    """Where a group's values are sent."""

    wecom: WeComWriteBack | None = None


class Health(Strict):
    """Bounds beyond which the last good version of a group stays. *coverage*: share of people with a value;
    *value_share_max*: share of the largest value among tagged people; *psi_max*: population stability index against the
    version before; *daily_churn_max*: share of people whose value changed, per day since the version before;
    *input_age_max*: how old the newest row of the marts the group reads may be."""

    coverage: tuple[Share, Share] | None = None
    value_share_max: Share | None = None
    psi_max: float | None = Field(default=None, ge=0)
    daily_churn_max: Share | None = None
    input_age_max: Duration | None = None
    severity: Literal["error", "warn"] = "warn"


class Group(Strict):
    """What every kind has.

    *refresh*: weekly groups keep their values for seven days unless their definition changes. *max_age*: when
    `cdp tags health` calls the group stale. *on_empty*: `clear` ends the tag when the rules give nothing any more,
    `keep_last` keeps it for *ttl*.
    *overrides*: `manual` and `import` values win over the rules, first one named first; imported values are the
    columns `one_id` and `value` of the mart *imported_from*.
    """

    id: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    label: Name | None = None
    description: str = ""
    exclusive: bool = True
    on_empty: Literal["clear", "keep_last"] = "clear"
    ttl: Duration | None = None
    as_of: Literal["business_day"] = "business_day"
    history: Literal["scd2", "none"] = "scd2"
    refresh: Literal["daily", "weekly"] = "daily"
    max_age: Duration = "26h"
    health: Health = Health()
    owner: str = "crm-team"
    consent_purpose: str | None = None
    among: str | None = None
    overrides: tuple[Literal["manual", "import"], ...] = ()
    imported_from: str | None = None
    write_back: WriteBack = WriteBack()

    @property
    def declared_values(self) -> tuple[str, ...]:
        """Values known before the data is read, in order; empty when they come from the data."""
        return ()


class Band(Strict):
    """One band of a number: *name* for values below *below* (half-open); the last band has no upper bound."""

    name: Name
    below: float | None = None


def _bands(bands: tuple[Band, ...]) -> list[str]:
    uppers = [band.below for band in bands[:-1]]
    if any(value is None for value in uppers) or bands[-1].below is not None:
        return ["every band but the last needs `below`, and the last has none"]
    if uppers != sorted(set(uppers), key=lambda value: (value is None, value)):
        return ["`below` must rise from band to band"]
    return []


class BandedGroup(Group):
    """A group whose values are bands of a number."""

    bands: tuple[Band, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if faults := _bands(self.bands):
            raise ValueError("; ".join(faults))
        return self

    @property
    def declared_values(self) -> tuple[str, ...]:
        return tuple(band.name for band in self.bands)


class FactGroup(Group):
    """A column or expression as it stands. *names* maps its values to tag names; others are left out when
    *only_named*."""

    kind: Literal["fact"]
    value: str
    names: dict[str, Name] = Field(default_factory=dict)
    only_named: bool = False

    @property
    def declared_values(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.names.values())) if self.only_named else ()


class StatisticGroup(BandedGroup):
    """A number, cut into bands. The number is an expression over features, or an aggregate over a mart's rows."""

    kind: Literal["statistic"]
    value: str
    source: str | None = None
    where: str | None = None
    window: Duration | None = None


class FirstLastGroup(Group):
    """A column of a person's first or last row of a mart, by time."""

    kind: Literal["first_last"]
    source: str
    pick: Literal["first", "last"]
    value: str
    where: str | None = None
    names: dict[str, Name] = Field(default_factory=dict)


class PreferenceGroup(Group):
    """What a person has most of: the top values of a column of a mart, ranked by rows, then amount, then name."""

    kind: Literal["preference"]
    source: str
    value: str
    amount: str | None = None
    where: str | None = None
    window: Duration | None = None
    top: int = Field(default=1, ge=1, le=20)
    min_count: int = Field(default=1, ge=1)
    min_share: Share = 0.0
    exclusive: bool = False


class RuleGroup(Group):
    """Each value has a condition. Exclusive groups must have disjoint conditions unless *resolve* says which wins."""

    kind: Literal["rule"]
    rules: dict[Name, str] = Field(min_length=1)
    resolve: Literal["none", "first_match", "last_match"] = "none"

    @property
    def declared_values(self) -> tuple[str, ...]:
        return tuple(self.rules)


class TierGroup(Group):
    """Levels from the top: conditions tried in order, or the quantile bands of one number. Equal numbers always get
    equal tiers; the thresholds of a run are kept with it."""

    kind: Literal["tier"]
    rules: dict[Name, str] = Field(default_factory=dict)
    by: str | None = None
    quantiles: tuple[Share, ...] = ()
    values: tuple[Name, ...] = ()
    resolve: Literal["first_match"] = "first_match"

    @model_validator(mode="after")
    def _one_way(self) -> TierGroup:
        if bool(self.rules) == (self.by is not None):
            raise ValueError("a tier has either `rules`, or `by` with `quantiles` and `values`")
        if self.by is not None:
            if len(self.values) != len(self.quantiles) + 1:
                raise ValueError(f"{len(self.quantiles)} quantiles make {len(self.quantiles) + 1} tiers, lowest first")
            if list(self.quantiles) != sorted(set(self.quantiles)):
                raise ValueError("`quantiles` must rise")
        return self

    @property
    def declared_values(self) -> tuple[str, ...]:
        return tuple(self.rules) or self.values


class StageGroup(Group):
    """Ordered stages: a person who meets several is in the latest."""

    kind: Literal["stage"]
    values: tuple[Name, ...] = Field(min_length=1)
    rules: dict[Name, str]
    resolve: Literal["last_match"] = "last_match"

    @model_validator(mode="after")
    def _each_has_a_rule(self) -> StageGroup:
        if set(self.values) != set(self.rules):
            odd = sorted(set(self.values) ^ set(self.rules))
            raise ValueError(f"stages and rules differ: {', '.join(odd)}")
        return self

    @property
    def declared_values(self) -> tuple[str, ...]:
        return self.values


class TopBand(Strict):
    """The best *share* of people (cumulative); ties at the edge are all inside."""

    name: Name
    share: Share


class RankingGroup(Group):
    """The best people by a number: cumulative shares from the top, e.g. 1 %, 10 %, 100 %."""

    kind: Literal["ranking"]
    by: str
    tops: tuple[TopBand, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _rising(self) -> RankingGroup:
        shares = [top.share for top in self.tops]
        if shares != sorted(set(shares)):
            raise ValueError("`share` is cumulative, so it must rise from band to band")
        return self

    @property
    def declared_values(self) -> tuple[str, ...]:
        return tuple(top.name for top in self.tops)


class ModelGroup(BandedGroup):
    """Bands of a model's output column of `fct_person_features` (such as `p_alive`). People a model has not scored get
    no value, and a model that failed its hold-out changes no tag."""

    kind: Literal["model"]
    value: str
    on_unpublished: Literal["keep_last", "clear"] = "keep_last"


class ImportGroup(Group):
    """Values another system or step gives: a mart with `one_id`, the column *value*, and optionally *rank*. Without the
    table there are no values."""

    kind: Literal["import"]
    source: str
    value: str = "value"
    rank: str | None = None
    names: dict[str, Name] = Field(default_factory=dict)


class ManualGroup(Group):
    """Values people set with `cdp tags set`; *values* is the closed list they choose from."""

    kind: Literal["manual"]
    values: tuple[Name, ...] = Field(min_length=1)

    @property
    def declared_values(self) -> tuple[str, ...]:
        return self.values


TagGroup = Annotated[
    FactGroup
    | StatisticGroup
    | FirstLastGroup
    | PreferenceGroup
    | RuleGroup
    | TierGroup
    | StageGroup
    | RankingGroup
    | ModelGroup
    | ImportGroup
    | ManualGroup,
    Field(discriminator="kind"),
]


class Score(Strict):
    """A score from 1 (worst) to *bins* (best) that rules may use as a column. Cut at quantiles of the run, half-open at
    `quantile + 1` as the R package `rfm` does, or at fixed *thresholds*; never by rank, so equals score equal."""

    by: str
    among: str | None = None
    bins: int = Field(default=5, ge=2, le=10)
    best: Literal["high", "low"] = "high"
    thresholds: tuple[float, ...] = ()

    @model_validator(mode="after")
    def _cuts(self) -> Score:
        if self.thresholds and (
            len(self.thresholds) != self.bins - 1 or list(self.thresholds) != sorted(self.thresholds)
        ):
            raise ValueError(f"expected {self.bins - 1} rising thresholds for {self.bins} bins")
        return self


class TagsConfig(Strict):
    """Everything of `config/tags.yaml`.

    *purposes*: what people may agree to -> a condition over their features that says who does. A group with a
    `consent_purpose` tags nobody else, whoever sets the value.
    """

    purposes: dict[Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")], str] = Field(
        default_factory=lambda: {"marketing": "consent_marketing is not false"}
    )
    scores: dict[Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")], Score] = Field(default_factory=dict)
    tag_groups: tuple[TagGroup, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> TagsConfig:
        faults = []
        ids = [group.id for group in self.tag_groups]
        faults += [f"tag group `{name}` is declared twice" for name in sorted({n for n in ids if ids.count(n) > 1})]
        sent = [group.write_back.wecom.group for group in self.tag_groups if group.write_back.wecom]
        faults += [f"two groups write to WeCom's `{name}`" for name in sorted({n for n in sent if sent.count(n) > 1})]
        for group in self.tag_groups:
            if group.consent_purpose and group.consent_purpose not in self.purposes:
                close = nearest(group.consent_purpose, list(self.purposes))
                faults.append(f"`{group.id}`: no purpose is called `{group.consent_purpose}`{close}")
            if ("import" in group.overrides) != (group.imported_from is not None):
                faults.append(f"`{group.id}`: `overrides: [import]` and `imported_from` go together")
            if group.ttl and group.on_empty != "keep_last":
                faults.append(f"`{group.id}`: `ttl` goes with `on_empty: keep_last`")
            values = group.declared_values
            twice = sorted({value for value in values if values.count(value) > 1})
            if twice:
                faults.append(f"`{group.id}`: value named twice: {', '.join(twice)}")
        if faults:
            raise ValueError("; ".join(faults))
        return self

    @property
    def write_back(self) -> dict[str, WeComWriteBack]:
        """Tag group id -> how it is sent to WeCom; groups that are not sent are left out."""
        return {group.id: group.write_back.wecom for group in self.tag_groups if group.write_back.wecom}

    def group(self, name: str) -> Any:
        """The group called *name*; KeyError when there is none."""
        for group in self.tag_groups:
            if group.id == name:
                return group
        raise KeyError(name)
