"""All definitions of one home, put together."""

from __future__ import annotations

import dagster as dg

from cdp.brand import BrandConfig
from connectors.settings import SourcesConfig
from pipelines.alerting import MAIN_JOB
from pipelines.defs import (
    activation,
    analytics,
    freshness,
    identity,
    models,
    publication,
    quality,
    schedules,
    sources,
    upkeep,
)
from pipelines.resources import BrandHome
from warehouse.expectations import load_suites
from warehouse.home import Home, load_config

JOB = MAIN_JOB


def build_definitions(home: Home) -> dg.Definitions:
    """Assets, checks, the job, its schedule and the file sensor of *home*. Needs no secret and opens no database.

    A folder that is no home yet gives the same definitions without sources.
    """
    config = (
        load_config(home, "sources.yaml", SourcesConfig) if (home.config / "sources.yaml").exists() else SourcesConfig()
    )
    zone = _brand_zone(home)
    assets = [
        *sources.source_assets(config),
        *models.model_layers(config, timezone=zone, job=JOB),
        identity.identity,
        *analytics.analytics_assets(),
        activation.sync_records,
    ]
    made = {key for definition in assets for key in definition.keys}
    checked = {key for key in made if key.path[0] != "raw"}
    job = dg.define_asset_job(
        JOB,
        selection=dg.AssetSelection.all(),
        description="the whole way: pull, resolve, compute, check, publish, sync",
    )
    sync = activation.activation_assets(home, config)
    page = publication.daily_page([publication.PUBLISHED, *(key for step in sync for key in step.keys)])
    everything = dg.Definitions(
        assets=freshness.with_freshness(
            [*assets, upkeep.retention, publication.publication(checked), *sync, page], zone
        ),
        asset_checks=[
            quality.landing_reconciles,
            quality.layers_reconcile,
            upkeep.erasures_are_whole,
            *quality.suite_checks(load_suites(home.config / "expectations"), assets),
        ],
        jobs=[job],
        schedules=[schedules.daily(job, zone), *schedules.hourly(config, zone), schedules.backup_daily(zone)],
        sensors=[
            schedules.files_arrived(job, home, zone),
            schedules.run_failed(home),
            schedules.run_succeeded(home),
        ],
        resources={"brand_home": BrandHome(root=str(home.root))},
        executor=dg.in_process_executor,
    )
    return dg.Definitions.merge(everything, activation.activation_jobs(home, config, zone))


def _brand_zone(home: Home) -> str:
    if not (home.config / "cdp.yaml").exists():
        return "Asia/Shanghai"
    return load_config(home, "cdp.yaml", BrandConfig).timezone
