"""Publication: a version readers see, once every blocking check above it has passed."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import dagster as dg
import duckdb

from pipelines.check_results import load_results
from pipelines.progress import track
from pipelines.resources import BrandHome
from pipelines.sql_assets import model_graph
from warehouse.anomalies import check_arrivals, check_flows
from warehouse.expectations import CheckResult
from warehouse.models import check_models, column_lineage
from warehouse.publish import publish
from warehouse.report import daily_report

PUBLISHED = dg.AssetKey(["published", "marts"])


def version_of(as_of: str, run_id: str) -> str:
    """Versions sort by their cut; the run's id tells two of the same cut apart."""
    return f"{as_of}-{run_id[:8]}"


def publication(after: Iterable[dg.AssetKey]) -> dg.AssetsDefinition:
    """The asset `published/marts`, behind every asset in *after* and their blocking checks."""

    ordered: list[dg.AssetKey] = sorted(after, key=lambda key: key.to_user_string())

    @dg.asset(
        key=PUBLISHED,
        deps=ordered,
        group_name="publication",
        owners=["team:data"],
        kinds={"duckdb"},
        pool="warehouse",
        description="The version that analysts and sync read: one file, found through data/published/current.json.",
    )
    def published_marts(context: dg.AssetExecutionContext, brand_home: BrandHome) -> dg.MaterializeResult[Any]:
        with track(context, "publish") as tracker, brand_home.warehouse(context) as con:
            graph = model_graph()
            schema = check_models(graph, con)
            lineage = {name: column_lineage(graph, name, schema) for name in graph.select("marts")}
            as_of, brand = brand_home.as_of(context), brand_home.brand
            done = publish(
                brand_home.home,
                con,
                version=version_of(as_of.strftime("%Y%m%dT%H%M%SZ"), context.run.run_id),
                checks=[*load_results(con, run_id=context.run.run_id), *_anomalies(con, brand_home, as_of)],
                lineage=lineage,
                keep=brand.keep_versions,
                pii=brand.personal_edition,
            )
            tracker.note(version=done.version, tables=len(done.tables), megabytes=round(done.size / 1e6))
            return dg.MaterializeResult(
                metadata={
                    "version": done.version,
                    "tables": len(done.tables),
                    "bytes": done.size,
                    "warnings": "\n".join(done.warnings),
                }
            )

    return published_marts


def _anomalies(con: duckdb.DuckDBPyConnection, brand_home: BrandHome, as_of: datetime) -> list[CheckResult]:
    """What arrived late, or unusually much or little: warnings that travel with the version."""
    brand = brand_home.brand
    found = check_arrivals(brand_home.home, as_of=as_of, timezone=brand.timezone, rules=brand.quality)
    return [*found, *check_flows(con, as_of=as_of, timezone=brand.timezone, rules=brand.quality)]


def daily_page(after: Iterable[dg.AssetKey]) -> dg.AssetsDefinition:
    """The asset `published/report`, behind *after*: the version's page, and the sync's outcome where there is one."""

    @dg.asset(
        key=["published", "report"],
        deps=list(after),
        group_name="publication",
        owners=["team:data"],
        kinds={"html"},
        description="The daily report: one HTML page that needs nothing else to be read.",
    )
    def report(context: dg.AssetExecutionContext, brand_home: BrandHome) -> dg.MaterializeResult[Any]:
        with track(context, "daily report") as tracker:
            brand = brand_home.brand
            page = daily_report(brand_home.home, now=datetime.now(UTC), locale=brand.locale, rules=brand.quality)
            tracker.note(page=page.relative_to(brand_home.home.root))
            return dg.MaterializeResult(metadata={"page": dg.MetadataValue.path(str(page))})

    return report
