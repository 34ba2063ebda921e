"""Checks between building and publishing: landing reconciles, and every expectation suite holds."""

from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace

import dagster as dg

from cdp.errors import ConfigError
from pipelines.check_results import save_results
from pipelines.defs.models import evidence_key
from pipelines.progress import track
from pipelines.resources import BrandHome
from pipelines.sql_assets import key_of, model_graph
from warehouse.expectations import CheckResult, Suite, run_suites
from warehouse.raw import reconcile
from warehouse.reconcile import reconcile_layers

RECONCILE = "landing__reconciles"
LAYERS = "layers__reconcile"


@dg.asset_check(
    asset=evidence_key(),
    name=RECONCILE,
    blocking=True,
    description="received = landed + duplicates + rejected + suppressed for every batch; files hold that many rows",
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


@dg.asset_check(
    asset=key_of("marts.dim_people"),
    name=LAYERS,
    blocking=True,
    pool="warehouse",
    description="every layer holds what the layer above gave it, once, under keys that lead somewhere",
)
def layers_reconcile(context: dg.AssetCheckExecutionContext, brand_home: BrandHome) -> dg.AssetCheckResult:
    """Raw less deletions equals staging, staging equals marts, grains are unique, keys are found."""
    with track(context, "reconcile layers") as tracker, brand_home.warehouse(context) as con:
        results = reconcile_layers(con, model_graph())
        wrong = [f"{result.table} {result.name}: {result.observed}" for result in results if not result.passed]
        tracker.note(checks=len(results), wrong=len(wrong))
        return dg.AssetCheckResult(
            passed=not wrong,
            severity=dg.AssetCheckSeverity.ERROR,
            metadata={"checks": len(results), "wrong": "\n".join(wrong)},
        )


def suite_checks(suites: Sequence[Suite], makers: Sequence[dg.AssetsDefinition]) -> list[dg.AssetChecksDefinition]:
    """A step of checks behind every step of *makers* whose tables a suite names; error severity blocks what follows.

    Checks run as soon as their tables are there, so nothing is computed from a table that is known to be wrong.
    """
    steps = {maker.op.name: {key.to_user_string() for key in maker.keys} for maker in makers}
    named = {key_of(table.table).to_user_string() for suite in suites for table in suite.tables}
    if unknown := sorted(named - set().union(*steps.values())):
        raise ConfigError(
            f"config/expectations checks tables that nothing makes: {', '.join(unknown)}",
            hint="mend the `table:` lines there",
        )
    parts = {
        step: [
            replace(suite, tables=tables)
            for suite in suites
            if (tables := tuple(table for table in suite.tables if key_of(table.table).to_user_string() in keys))
        ]
        for step, keys in steps.items()
    }
    return [_checks_behind(step, part) for step, part in parts.items() if part]


def _checks_behind(step: str, suites: Sequence[Suite]) -> dg.AssetChecksDefinition:
    specs = [
        dg.AssetCheckSpec(
            check.title, asset=key_of(table.table), blocking=check.severity == "error", description=check.says
        )
        for suite in suites
        for table in suite.tables
        for check in table.checks
    ]

    @dg.multi_asset_check(name=f"check_{step}", specs=specs, pool="warehouse", can_subset=True)
    def checks(context: dg.AssetCheckExecutionContext, brand_home: BrandHome) -> Iterator[dg.AssetCheckResult]:
        with track(context, f"check {step.replace('_', ' ')}") as tracker, brand_home.warehouse(context) as con:
            results = run_suites(con, _chosen(suites, context.selected_asset_check_keys))
            save_results(con, results, run_id=context.run.run_id)
            tracker.note(checks=len(results), failed=sum(not result.passed for result in results))
            yield from map(_result, results)

    return checks


def _chosen(suites: Sequence[Suite], keys: AbstractSet[dg.AssetCheckKey]) -> list[Suite]:
    """Of *suites* what a run asks for: a backfill, or a table made by hand, brings the checks of its tables alone."""
    return [
        replace(suite, tables=tables)
        for suite in suites
        if (
            tables := tuple(
                table.model_copy(update={"checks": checks})
                for table in suite.tables
                if (
                    checks := [
                        check for check in table.checks if dg.AssetCheckKey(key_of(table.table), check.title) in keys
                    ]
                )
            )
        )
    ]


def _result(result: CheckResult) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        asset_key=key_of(result.table),
        check_name=result.name,
        passed=result.passed,
        severity=dg.AssetCheckSeverity.ERROR if result.severity == "error" else dg.AssetCheckSeverity.WARN,
        metadata={"observed": result.observed, "failing rows": "\n".join(result.failing_rows_sample)},
    )
