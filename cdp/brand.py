"""What a brand says about itself in `config/cdp.yaml`."""

from __future__ import annotations

import zoneinfo
from typing import Literal

from pydantic import Field, field_validator

from cdp.config import Strict


class Resources(Strict):
    """What a run may use of the machine."""

    memory_limit: str = Field("8GB", pattern=r"^\d+(\.\d+)?\s?(MB|GB|MiB|GiB)$")
    threads: int | None = Field(None, ge=1)


class BrandConfig(Strict):
    """One brand. Days, cohorts and schedules are cut in *timezone*; money without a currency is in *currency*."""

    name: str = Field(min_length=1)
    timezone: str = "Asia/Shanghai"
    currency: str = Field("CNY", pattern=r"^[A-Z]{3}$")
    locale: Literal["zh", "en"] = "zh"
    keep_versions: int = Field(3, ge=1)
    resources: Resources = Resources()

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        if value not in zoneinfo.available_timezones():
            raise ValueError("expected the name of a time zone such as Asia/Shanghai")
        return value
