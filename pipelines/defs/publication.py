"""Publication: a version readers see, once every blocking check above it has passed."""

from collections.abc import Iterable
from typing import Any

import dagster as dg

from pipelines.check_results import load_results
from pipelines.progress import track
from pipelines.resources import BrandHome
from pipelines.sql_assets import model_graph
from warehouse.models import check_models, column_lineage
from warehouse.publish import publish
from warehouse.sync_export import export_activation
from warehouse.sync_ledger import SyncLedger

PUBLISHED = dg.AssetKey(["published", "marts"])


def version_of(as_of: str, run_id: str) -> str:
    """Versions sort by their cut; the run's id tells two of the same cut apart."""
    return f"{as_of}-{run_id[:8]}"


def publication(after: Iterable[dg.AssetKey]) -> dg.AssetsDefinition:
    """The asset `published/marts`, behind every asset in *after* and their blocking checks."""

    @dg.asset(
        key=PUBLISHED,
        deps=sorted(after, key=lambda key: key.to_user_string()),
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
            with SyncLedger(brand_home.home.sync_ledger) as ledger:
                export_activation(con, ledger)
            as_of = brand_home.as_of(context)
            done = publish(
                brand_home.home,
                con,
                version=version_of(as_of.strftime("%Y%m%dT%H%M%SZ"), context.run.run_id),
                checks=load_results(con, run_id=context.run.run_id),
                lineage=lineage,
                keep=brand_home.brand.keep_versions,
                pii=brand_home.brand.personal_edition,
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
