"""`config/collector.yaml`: limits, segment sizes, and which callers are let in."""

from __future__ import annotations

from pydantic import Field

from cdp.config import Strict
from connectors.settings import Secret


class CollectorConfig(Strict):
    """The whole of `config/collector.yaml`; a home without the file has these defaults."""

    max_body_mb: float = Field(default=8, gt=0, le=256, description="a larger body is answered 413")
    max_unpacked_mb: float = Field(default=32, gt=0, le=1024, description="limit of a body after gunzip")
    max_event_kb: float = Field(
        default=512, gt=0, le=16_000, description="a larger event becomes a reject, the rest is kept"
    )
    segment_mb: float = Field(default=64, gt=0, le=4096, description="a file of collected lines is closed at this size")
    segment_seconds: float = Field(
        default=300, gt=0, le=86_400, description="… or at this age; only closed files are landed"
    )
    keep_days: float | None = Field(
        default=30, ge=0, description="days a closed file stays after it has landed; empty: for ever"
    )
    allowed_origins: list[str] = Field(default=["*"], description="pages that may send (CORS)")
    projects: list[str] = Field(default_factory=list, description="神策 `project` names let in; empty: all")
    write_keys: dict[str, Secret] = Field(
        default_factory=dict, description="name -> Segment/RudderStack write key let in; empty: any key, or none"
    )
