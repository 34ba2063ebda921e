"""Pull and land: one asset per stream of every configured source, one step per source."""

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from cdp.errors import CdpError, RetriableError
from cdp.streams import Stream
from connectors import registry
from connectors.settings import SourcesConfig, TrackingSource, WeComSource
from pipelines.collected import prune_collected
from pipelines.progress import Tracker, track
from pipelines.resources import BrandHome
from pipelines.sql_assets import model_graph
from warehouse.home import load_config
from warehouse.landing import LandingReport, land

CHECK = "pull__complete"
RETRIES = 2


def source_assets(config: SourcesConfig) -> list[dg.AssetsDefinition]:
    """One multi-asset per enabled source of `config/sources.yaml`."""
    return [_pull(name, settings) for name, settings in config.enabled().items()]


def raw_key(source: str, stream: str) -> dg.AssetKey:
    return dg.AssetKey(["raw", f"{source}__{stream}"])


def _pull(name: str, settings: Any) -> dg.AssetsDefinition:
    streams = registry.source_streams(settings)
    summary = registry.KINDS[settings.connector].summary

    @dg.multi_asset(
        name=f"pull_{name}",
        specs=[
            dg.AssetSpec(
                raw_key(name, stream.name),
                group_name="sources",
                owners=["team:data"],
                kinds={settings.connector, "parquet"},
                description=f"{stream.description or stream.name}, from {name} ({summary}), as it came, landed once.",
                metadata={
                    "family": stream.family,
                    "mode": stream.mode,
                    "key": ", ".join(stream.key),
                    "dagster/column_schema": _columns(stream),
                },
            )
            for stream in streams
        ],
        check_specs=[
            dg.AssetCheckSpec(CHECK, asset=raw_key(name, stream.name), description="the pull ended without a fault")
            for stream in streams
        ],
        pool="landing",
    )
    def pull(context: dg.AssetExecutionContext, brand_home: BrandHome) -> Iterator[Any]:
        with track(context, f"pull {name}") as tracker:
            reports = {}
            for stream in streams:
                try:
                    reports[stream.name] = _land(brand_home, name, settings, stream.name, tracker)
                    yield _materialized(name, stream.name, reports[stream.name])
                    yield _check(name, stream.name, passed=True)
                except RetriableError as error:
                    if context.retry_number < RETRIES and not reports:
                        raise dg.RetryRequested(max_retries=RETRIES, seconds_to_wait=10) from error
                    yield from _failed(name, stream.name, error, tracker)
                except CdpError as error:
                    yield from _failed(name, stream.name, error, tracker)
            tracker.note(
                received=sum(report.received for report in reports.values()),
                landed=sum(report.landed for report in reports.values()),
                duplicates=sum(report.duplicates for report in reports.values()),
                rejected=sum(report.rejected for report in reports.values()),
            )
            if isinstance(settings, TrackingSource | WeComSource):
                _prune(brand_home, tracker)

    return pull


def _columns(stream: Stream) -> dg.TableSchema:
    """Columns of a stream. What is in them is shown nowhere: raw rows are as they came, personal data and all."""
    words = model_graph().words
    return dg.TableSchema(
        [
            dg.TableColumn(column.name, column.type, description=column.description or words.get(column.name))
            for column in stream.columns
        ]
    )


def _prune(brand_home: BrandHome, tracker: Tracker) -> None:
    """Collected files that have landed and are old; a folder that cannot be written fails no pull."""
    sources = load_config(brand_home.home, "sources.yaml", SourcesConfig)
    try:
        removed = prune_collected(brand_home.home, sources, now=datetime.now(UTC))
    except OSError as error:
        tracker.note(not_pruned=str(error))
    else:
        if removed:
            tracker.note(collected_files_removed=len(removed))


def _land(brand_home: BrandHome, name: str, settings: Any, stream: str, tracker: Tracker) -> LandingReport:
    now = datetime.now(UTC)
    connector = registry.build(
        name,
        settings,
        root=brand_home.home.root,
        environment=os.environ,
        now=now,
        timezone=brand_home.brand.timezone,
    )
    declared = next(item for item in connector.streams() if item.name == stream)
    try:
        return land(
            brand_home.home, name, connector, declared, now=now, progress=lambda rows: tracker(rows, phase=stream)
        )
    finally:
        if close := getattr(connector, "close", None):
            close()


def _materialized(name: str, stream: str, report: LandingReport) -> dg.MaterializeResult[Any]:
    return dg.MaterializeResult(
        asset_key=raw_key(name, stream),
        metadata={
            "received": report.received,
            "landed": report.landed,
            "duplicates": report.duplicates,
            "rejected": report.rejected,
            "dagster/row_count": report.landed,
        },
    )


def _check(name: str, stream: str, *, passed: bool, **facts: str) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        asset_key=raw_key(name, stream),
        check_name=CHECK,
        passed=passed,
        severity=dg.AssetCheckSeverity.ERROR,
        metadata=facts,
    )


def _failed(name: str, stream: str, error: CdpError, tracker: Tracker) -> Iterator[Any]:
    """The stream keeps what it last landed; its check is red and says why (docs/decisions/0002)."""
    tracker.note(**{f"failed {stream}": error.message})
    yield dg.MaterializeResult(asset_key=raw_key(name, stream), metadata={"landed": 0, "kept": "what landed before"})
    yield _check(name, stream, passed=False, error=error.message, hint=error.hint or "")
