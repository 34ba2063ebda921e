"""The brand's days as Dagster partitions: what a run is for, and what a backfill makes again."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import dagster as dg

FIRST_DAY = "2015-01-01"  # earlier days are made again with `cdp model run --from --to`


def brand_days(timezone: str) -> dg.DailyPartitionsDefinition:
    """Every closed day of a brand in *timezone* since 2015."""
    return dg.DailyPartitionsDefinition(start_date=FIRST_DAY, timezone=timezone)


def day_ended(as_of: datetime, timezone: str) -> str:
    """Partition key of the last day that was over at *as_of*; the nearest there is, where that lies outside of them."""
    days = brand_days(timezone)
    ended = (as_of.astimezone(ZoneInfo(timezone)).date() - timedelta(days=1)).isoformat()
    return max(FIRST_DAY, min(ended, days.get_last_partition_key() or FIRST_DAY))


def asked_days(context: dg.AssetExecutionContext) -> tuple[date, date]:
    """The days a backfill asks for: the first, and the day after the last."""
    keys = context.partition_key_range
    return date.fromisoformat(keys.start), date.fromisoformat(keys.end) + timedelta(days=1)
