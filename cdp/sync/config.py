"""`config/sync.yaml`: how tags reach WeCom, and what must hold before and while they do."""

from __future__ import annotations

import re
from datetime import time, timedelta
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from cdp.config import Strict

GroupMode = Literal["mirror", "add_only", "enrich_only"]
FanOut = Literal["all", "latest_contact", "owner", "store"]
DriftPolicy = Literal["ours", "human_wins", "report"]
CodeKind = Literal["RETRY", "TOKEN", "WAIT", "SLOW", "DROP", "MAP", "FIX", "ALERT", "UNKNOWN"]

_CLOCK = re.compile(r"^([01]\d|2[0-3]):[0-5]\d$")
_DURATION = re.compile(r"^(\d+)\s*(m|h|d)$")


def _is_clock(text: str) -> str:
    if not _CLOCK.match(text):
        raise ValueError("expected a time of day such as 22:00")
    return text


def _is_duration(text: str) -> str:
    parse_duration(text)
    return text


def parse_duration(text: str) -> timedelta:
    """`30m`, `26h` or `7d` as a timedelta. Raises ValueError otherwise."""
    match = _DURATION.match(text)
    if not match:
        raise ValueError("expected a duration such as 30m, 26h or 7d")
    return timedelta(**{{"m": "minutes", "h": "hours", "d": "days"}[match[2]]: int(match[1])})


Clock = Annotated[str, AfterValidator(_is_clock)]
Duration = Annotated[str, AfterValidator(_is_duration)]
Share = Annotated[float, Field(ge=0, le=1)]


class GateLimits(Strict):
    """Where a plan is held for a person's look. A gate fires when *all* of its limits are passed."""

    removal_share: Share = Field(default=0.20, description="removals of one tag, as a share of its present holders")
    removal_count: int = Field(default=50, ge=0, description="… and at least this many")
    total_removal_share: Share = Field(
        default=0.10, description="removals of the plan, as a share of all managed memberships"
    )
    total_removal_count: int = Field(default=500, ge=0)
    size_low: float = Field(default=0.5, ge=0, description="size against the median of the last 7 runs")
    size_high: float = Field(default=2.0, ge=1)
    size_runs: int = Field(default=3, ge=1, description="runs needed before the size gate speaks")
    new_tag_people: int = Field(
        default=5000, ge=0, description="first sync of a tag to more people than this needs a canary"
    )
    quota_share: Share = Field(default=0.60, description="of the hourly call budget")
    unit_factor: float = Field(default=5.0, ge=1, description="change of one store or employee against the median")
    unit_count: int = Field(default=50, ge=0, description="… and at least this many changes")

    def over(self, base: GateLimits) -> GateLimits:
        """*base* with the limits that were set here."""
        return base.model_copy(update=self.model_dump(exclude_unset=True))


class GroupRule(Strict):
    """How one tag group is written. What is left out comes from `defaults`."""

    mode: GroupMode | None = None
    fan_out: FanOut | None = None
    cap: int | None = Field(default=None, ge=1, description="most relations of one person that get the tags")
    drift: DriftPolicy | None = None
    freeze_days: int | None = Field(default=None, ge=1)
    names: dict[str, str] = Field(
        default_factory=dict, description="value -> what staff see in WeCom; a new name keeps the tag's id"
    )
    gates: GateLimits | None = Field(default=None, description="over those of the brand, one by one")
    tag_gates: dict[str, GateLimits] = Field(
        default_factory=dict, description="value -> limits of that one tag, over those of its group"
    )


class GroupDefaults(Strict):
    mode: GroupMode = "mirror"
    fan_out: FanOut = "all"
    cap: int = Field(default=20, ge=1)
    drift: DriftPolicy = "ours"
    freeze_days: int = Field(
        default=30, ge=1, description="how long a pair rests after a person changed it (human_wins)"
    )


class Consent(Strict):
    """Who may be tagged. `not_refused`: all but those who said no; `explicit`: only those who said yes."""

    require: Literal["not_refused", "explicit", "ignore"] = "not_refused"
    on_withdrawal: Literal["remove", "keep"] = Field(
        default="remove", description="what happens to tags they already have"
    )
    excluded: list[str] = Field(default_factory=list, description="one_id that are never tagged")


class Experiment(Strict):
    """A control group for some tag groups: *control* of the people get no tag, so that lift can be measured."""

    id: str
    salt: str
    control: Share
    groups: list[str] = Field(min_length=1)


class Control(Strict):
    holdout: Share = Field(
        default=0.02, description="small lasting share of people who get no synced tag at all; may be 0"
    )
    salt: str = "holdout-1"
    experiments: list[Experiment] = Field(default_factory=list)


class QuietHours(Strict):
    """No writes from *start* until *end* of the brand's day (may pass midnight)."""

    start: Clock = "22:00"
    end: Clock = "08:00"

    def covers(self, moment: time) -> bool:
        """Whether *moment* (brand time of day) lies in the quiet hours."""
        start, end = time.fromisoformat(self.start), time.fromisoformat(self.end)
        return start <= moment < end if start <= end else moment >= start or moment < end


class SyncLimits(Strict):
    """How hard the corp may be called while writing. Published: 10,000/min and 150,000/h per interface, 5 in flight."""

    calls_per_second: float = Field(default=10.0, gt=0)
    concurrency: int = Field(default=4, ge=1, le=4)
    hourly_calls: int = Field(default=150_000, ge=1)
    reserve: Share = Field(default=0.2, description="share of the hourly budget left to other apps")
    max_ops: int | None = Field(default=None, ge=1, description="most relations changed by one plan")
    assumed_call_ms: float = Field(default=200.0, gt=0, description="for the forecast, until calls have been measured")
    attempts: int = Field(default=4, ge=1, description="tries of one relation when the fault may pass")
    quota_window_s: float = Field(default=60.0, gt=0, description="how long a 45009 block is waited out")
    quiet_hours: QuietHours | None = QuietHours()


class Breaker(Strict):
    """When a running apply stops itself."""

    failure_share: Share = Field(default=0.05, description="of the last `window` relations")
    window: int = Field(default=200, ge=1)
    unclassified_in_a_row: int = Field(default=20, ge=1)


class Approval(Strict):
    required: Literal["when_held", "always"] = "when_held"
    self_approve: bool = Field(
        default=False, description="single-person installs: the author may approve; recorded and shown"
    )
    expires: Duration = "24h"


class Verify(Strict):
    sample_untouched: Share = Field(default=0.01, description="of the relations no op touched, read back as well")
    gap_alert: Share = Field(default=0.005, description="share of gaps that raises an alert")
    read_promise: Duration = Field(default="7d", description="every employee is re-read within this time")
    stale_share: Share = Field(
        default=0.05, description="a plan expires when more of its base than this is older than that"
    )


class Library(Strict):
    max_tags: int = Field(default=10_000, ge=1, description="corp tags of all apps; older corps: 3000")
    max_name: int = Field(default=30, ge=1)
    warn_name: int = Field(default=15, ge=1)
    retire_wait: Duration = "7d"


class Churn(Strict):
    flips: int = Field(default=5, ge=2, description="times in and out of a value …")
    days: int = Field(default=7, ge=1, description="… within this many days hold a person's tag as it is")


class Alerts(Strict):
    webhook: str | None = Field(
        default=None, pattern=r"^(env|file):.+", description="group-bot address: env:NAME or file:PATH"
    )


class Pending(Strict):
    expires: Duration = "30d"


class SyncConfig(Strict):
    """The whole of `config/sync.yaml`. *source*: the WeCom source of `sources.yaml` that is written to."""

    source: str = "wecom"
    enabled: bool = True
    on_run: Literal["plan", "apply"] = Field(
        "plan", description="what a run does: only plan, or also send a plan that no gate holds"
    )
    defaults: GroupDefaults = GroupDefaults()
    groups: dict[str, GroupRule] = Field(default_factory=dict)
    consent: Consent = Consent()
    control: Control = Control()
    gates: GateLimits = GateLimits()
    freshness: dict[str, Duration] = Field(default_factory=dict, description="stream -> how old its newest load may be")
    freshness_verdict: Literal["hold", "stop"] = "hold"
    warning_verdict: Literal["hold", "pass"] = Field(
        default="hold", description="what a failed check of severity `warn` does to a plan"
    )
    limits: SyncLimits = SyncLimits()
    breaker: Breaker = Breaker()
    approval: Approval = Approval()
    canary: Share | None = Field(
        default=None, description="share of relations written first, by whole employees, and verified"
    )
    verify: Verify = Verify()
    library: Library = Library()
    churn: Churn = Churn()
    retry_gone: Duration = Field(
        default="30d", description="a relation WeCom refused as gone is tried again after this, or once added again"
    )
    pending: Pending = Pending()
    alerts: Alerts = Alerts()
    errors: dict[int, CodeKind] = Field(
        default_factory=dict, description="return code -> class, over the built-in table"
    )

    @model_validator(mode="after")
    def _unique_experiments(self) -> SyncConfig:
        ids = [experiment.id for experiment in self.control.experiments]
        if len(ids) != len(set(ids)):
            raise ValueError("two experiments have the same id")
        return self
