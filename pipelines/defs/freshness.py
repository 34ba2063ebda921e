"""How fresh every asset has to be, declared on the assets; Dagster says which are late (docs/guides/schedules.md)."""

from collections.abc import Iterable
from datetime import timedelta

import dagster as dg

DEADLINE = "0 8 * * *"  # the run of 05:00 is over
LOOK_BACK = timedelta(hours=12)


def with_freshness(assets: Iterable[dg.AssetsDefinition], timezone: str) -> list[dg.AssetsDefinition]:
    """*assets*, each to be made in the twelve hours before 08:00 of every brand day (*timezone*)."""
    policy = dg.FreshnessPolicy.cron(deadline_cron=DEADLINE, lower_bound_delta=LOOK_BACK, timezone=timezone)
    return [asset.map_asset_specs(lambda spec: spec.replace_attributes(freshness_policy=policy)) for asset in assets]
