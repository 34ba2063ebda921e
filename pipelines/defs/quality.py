"""Checks between building and publishing: landing reconciles, and every expectation suite holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import dagster as dg

from pipelines.defs.models import evidence_key
from pipelines.progress import track
from pipelines.resources import BrandHome
from pipelines.sql_assets import key_of
from warehouse.expectations import CheckResult, Suite, run_suite
from warehouse.home import Home
from warehouse.raw import reconcile

RECONCILE = "landing__reconciles"


@dg.asset_check(
    asset=evidence_key(),
    name=RECONCILE,
    blocking=True,
    description="received = landed + duplicates + rejected for every batch, and the files hold just that many rows",
)
def landing_reconciles(context: dg.AssetCheckExecutionContext, brand_home: BrandHome) -> dg.AssetCheckResult:
    """Every committed batch is held against its files."""
    with track(context, "reconcile landing") as tracker:
        rows = reconcile(brand_home.home)
        wrong = [f"{row.source}.{row.stream} {row.batch_id}" for row in rows if not row.ok]
        tracker.note(batches=len(rows), wrong=len(wrong))
        return dg.AssetCheckResult(
            passed=not wrong,
            severity=dg.AssetCheckSeverity.ERROR,
            metadata={
                "batches": len(rows),
                "received": sum(row.received for row in rows),
                "landed": sum(row.landed for row in rows),
                "duplicates": sum(row.duplicates for row in rows),
                "rejected": sum(row.rejected for row in rows),
                "wrong": ", ".join(wrong[:20]),
            },
        )


def suite_checks(suites: Sequence[Suite], made: set[dg.AssetKey]) -> dg.AssetChecksDefinition:
    """One step that runs every suite by Great Expectations; error severity blocks publication."""
    specs = {
        (suite.table, check.name): dg.AssetCheckSpec(
            check.name,
            asset=key_of(suite.table),
            blocking=check.severity == "error",
            description=check.description,
        )
        for suite in suites
        for check in suite.checks
        if key_of(suite.table) in made
    }

    @dg.multi_asset_check(name="quality", specs=list(specs.values()), pool="warehouse")
    def quality(context: dg.AssetCheckExecutionContext, brand_home: BrandHome) -> Iterator[Any]:
        with track(context, "quality checks") as tracker:
            results: list[CheckResult] = []
            for suite in suites:
                if key_of(suite.table) not in made:
                    continue
                results += _run(brand_home.home, suite)
                tracker(len(results), len(specs), suite.table)
            tracker.note(checks=len(results), failed=sum(not result.passed for result in results))
            for result in results:
                yield _result(result)

    return quality
