"""What is too old goes, every run, by the rules of config/privacy.yaml."""

from datetime import UTC, datetime
from typing import Any

import dagster as dg

from pipelines.progress import track
from pipelines.resources import BrandHome
from pipelines.upkeep import remove_the_old
from warehouse.privacy_ledger import PrivacyLedger

RETENTION = dg.AssetKey(["privacy", "retention"])


@dg.asset(
    key=RETENTION,
    group_name="privacy",
    owners=["team:data"],
    kinds={"parquet", "duckdb"},
    pool="warehouse",
    description="Rows and files older than config/privacy.yaml lets them grow are removed; the ledgers say how many.",
)
def retention(context: dg.AssetExecutionContext, brand_home: BrandHome) -> dg.MaterializeResult[Any]:
    """By the clock, not by `as_of`: a run for a past day removes nothing it should not, and keeps nothing too long."""
    with track(context, "retention") as tracker:
        report = remove_the_old(brand_home.home, now=datetime.now(UTC))
        tracker.note(rules=len({item.rule for item in report.removals}), rows=report.rows)
        places = "\n".join(f"{item.place}: {item.rows:,} before {item.cut:%Y-%m-%d}" for item in report.removals)
        return dg.MaterializeResult(metadata={"rows": report.rows, "places": places or "nothing is too old"})


@dg.asset_check(
    asset=RETENTION,
    name="erasures__are_whole",
    description="nobody who asked to be forgotten is still to be found in the home",
)
def erasures_are_whole(brand_home: BrandHome) -> dg.AssetCheckResult:
    """Tells and does not block: what a run would publish of a forgotten person has stopped the run before."""
    left = PrivacyLedger(brand_home.home).unfinished()
    return dg.AssetCheckResult(
        passed=not left,
        severity=dg.AssetCheckSeverity.ERROR,
        metadata={"open": len(left), "observed": "; ".join(left.values()), "next": "cdp privacy finish"},
    )
