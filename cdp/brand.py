"""What a brand says about itself in `config/cdp.yaml`."""

from __future__ import annotations

import zoneinfo
from datetime import UTC, datetime, time, timedelta
from typing import Literal

from pydantic import Field, field_validator

from cdp.config import Strict
from cdp.quality.alerts import AlertRules
from cdp.quality.anomalies import AnomalyRules


class Resources(Strict):
    """What a run may use of the machine."""

    memory_limit: str = Field(default="8GB", pattern=r"^\d+(\.\d+)?\s?(MB|GB|MiB|GiB)$")
    threads: int | None = Field(default=None, ge=1)


class BrandConfig(Strict):
    """One brand. Days, cohorts and schedules are cut in *timezone*; money without a currency is in *currency*."""

    name: str = Field(min_length=1)
    timezone: str = "Asia/Shanghai"
    currency: str = Field("CNY", pattern=r"^[A-Z]{3}$")
    locale: Literal["zh", "en"] = "zh"
    keep_versions: int = Field(3, ge=1)
    personal_edition: bool = Field(False, description="also publish an edition with plain names and phones")
    resources: Resources = Resources()
    quality: AnomalyRules = AnomalyRules()
    alerts: AlertRules = AlertRules()

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        if value not in zoneinfo.available_timezones():
            raise ValueError("expected the name of a time zone such as Asia/Shanghai")
        return value

    def instant(self, text: str) -> datetime:
        """*text* as a UTC instant. A bare date means the end of that day in the brand's zone; an instant without an
        offset is in the brand's zone. ValueError when it is neither."""
        zone = zoneinfo.ZoneInfo(self.timezone)
        value = datetime.fromisoformat(text)
        if len(text) <= 10:
            value = datetime.combine(value.date() + timedelta(days=1), time.min)
        return (value if value.tzinfo else value.replace(tzinfo=zone)).astimezone(UTC)
