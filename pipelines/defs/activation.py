"""Tags out to WeCom: a plan every run; sent and verified when config/sync.yaml says so and no gate holds it. Beside the
run: employees re-read on a rota every day, and waiting tags put on customers within a minute of their arrival."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import dagster as dg

from cdp.sync.config import SyncConfig
from connectors.settings import SourcesConfig, WeComSource
from pipelines import sync_steps
from pipelines.defs.publication import PUBLISHED
from pipelines.progress import track
from pipelines.resources import BrandHome
from pipelines.sql_assets import made
from warehouse.home import Home, load_config
from warehouse.sync_export import TABLES, export_activation
from warehouse.sync_ledger import SyncLedger
from warehouse.sync_plan import PlanHeldError, PlanStoppedError

PLAN = dg.AssetKey(["activation", "tag_plan"])
SENT = dg.AssetKey(["activation", "tag_sync"])
VERIFIED = "wecom__holds_what_was_sent"
RELEASED = "gates__released"


@dg.multi_asset(
    name="sync_records",
    specs=[
        dg.AssetSpec(
            ["marts", table],
            group_name="marts",
            owners=["team:operations"],
            kinds={"duckdb"},
            deps=[dg.AssetKey(["marts", "dim_people"])],  # the checks look for the people there
            description=text,
            metadata={"dagster/column_schema": dg.TableSchema([dg.TableColumn(column) for column in columns])},
        )
        for table, (text, _, columns) in TABLES.items()
    ],
    pool="warehouse",
)
def sync_records(context: dg.AssetExecutionContext, brand_home: BrandHome) -> Iterator[dg.MaterializeResult[Any]]:
    """The sync ledger as it stands, as tables of the marts, to be checked and published with them."""
    with track(context, "sync records") as tracker, brand_home.warehouse(context) as con:
        with SyncLedger(brand_home.home.sync_ledger) as ledger:
            tracker.note(rows=export_activation(con, ledger))
        for table in TABLES:
            yield made(con, f"marts.{table}")


def activation_jobs(home: Home, sources: SourcesConfig, timezone: str) -> dg.Definitions:
    """The jobs of the sync with what starts them; empty where `activation_assets` gives none."""
    if not activation_assets(home, sources):
        return dg.Definitions()
    daily = dg.ScheduleDefinition(
        name="read_drift_daily",
        job_name=read_drift.name,
        cron_schedule="0 3 * * *",
        execution_timezone=timezone,
        description="employees whose turn it is on the rota are read back; what others changed is recorded",
    )
    return dg.Definitions(jobs=[read_drift, tag_new_customers], schedules=[daily], sensors=[_customers_added(home)])


@dg.op(pool="sync")
def read_rota(context: dg.OpExecutionContext, brand_home: BrandHome) -> None:
    """Read the employees that are due and record what others changed on their customers' tags."""
    with track(context, "read drift") as tracker, sync_steps.desk(brand_home.home) as desk:
        report = sync_steps.drift(desk, progress=lambda phase, done, total: tracker(done, total, phase))
        facts = {"found": len(report.drift), "new": report.new, "put_to_rest": report.frozen}
        tracker.note(**facts)
        context.add_output_metadata(facts)


@dg.op(pool="sync")
def tag_arrivals(context: dg.OpExecutionContext, brand_home: BrandHome) -> None:
    """Put the tags that waited on customers who were added since the last time."""
    with track(context, "tag arrivals") as tracker, sync_steps.desk(brand_home.home) as desk:
        with sync_steps.stop_on_signals() as stop:
            report = sync_steps.fire_pending(desk, stop=stop)
        facts = {"outcome": "nobody waits"} if report is None else {"outcome": report.outcome, **report.counts}
        tracker.note(**facts)
        context.add_output_metadata(facts)
        if report is not None and report.outcome == "STOPPED":
            raise dg.Failure(f"waiting tags: {report.reason}; the next minute tries again", allow_retries=False)


@dg.job(name="read_drift", description="the rota: who changed managed tags in WeCom, without a callback too")
def read_drift() -> None:
    read_rota()


@dg.job(name="tag_new_customers", description="waiting tags onto customers who have just been added")
def tag_new_customers() -> None:
    tag_arrivals()


def _customers_added(home: Home) -> dg.SensorDefinition:
    @dg.sensor(
        name="on_customers_added",
        # by name: a sensor that holds its job is copied by Dagster, with a warning of its own
        job_name=tag_new_customers.name,
        minimum_interval_seconds=60,
        description="a callback says that a customer was added, and tags are waiting for somebody",
    )
    def on_customers_added(_: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        with sync_steps.desk(home) as desk:
            came = sync_steps.arrivals(desk)
            return dg.RunRequest(run_key=None) if came else dg.SkipReason("nobody new, or nobody waits")

    return on_customers_added


def activation_assets(home: Home, sources: SourcesConfig) -> list[dg.AssetsDefinition]:
    """Steps `tag_plan` and `tag_sync`; none where the home's sync has no WeCom source to write to."""
    if not (home.config / "sync.yaml").exists():
        return []
    config = load_config(home, "sync.yaml", SyncConfig)
    source = sources.enabled().get(config.source)
    return [tag_plan, tag_sync] if config.enabled and isinstance(source, WeComSource) else []


@dg.asset(
    key=PLAN,
    deps=[PUBLISHED],
    group_name="activation",
    owners=["team:operations"],
    kinds={"wecom"},
    pool="sync",
    description="What would change on each (staff, customer) relation, with gates and forecast. Sends nothing.",
)
def tag_plan(context: dg.AssetExecutionContext, brand_home: BrandHome) -> dg.MaterializeResult[Any]:
    """One plan of the version just published."""
    with track(context, "plan tags") as tracker, sync_steps.desk(brand_home.home) as desk:
        plan = sync_steps.plan(desk)
        facts = {"plan": plan.plan_id, "verdict": plan.summary["verdict"], "relations": plan.ops.height}
        tracker.note(**facts)
        page = brand_home.home.plans / plan.plan_id / "plan.html"
        return dg.MaterializeResult(metadata={**facts, "page": dg.MetadataValue.path(str(page))})


@dg.multi_asset(
    name="tag_sync",
    specs=[
        dg.AssetSpec(
            SENT,
            deps=[PLAN],
            group_name="activation",
            owners=["team:operations"],
            kinds={"wecom"},
            description="The plan's outcome in WeCom, per relation, as read back.",
        )
    ],
    check_specs=[
        dg.AssetCheckSpec(RELEASED, asset=SENT, description="no gate holds the newest plan"),
        dg.AssetCheckSpec(VERIFIED, asset=SENT, description="every acknowledged change is there when read back"),
    ],
    pool="sync",
)
def tag_sync(context: dg.AssetExecutionContext, brand_home: BrandHome) -> Iterator[Any]:
    """Send and verify the newest plan; only plan where `on_run: plan`."""
    with track(context, "sync tags") as tracker, sync_steps.desk(brand_home.home) as desk:
        if desk.config.on_run == "plan":
            tracker.note(sent="nothing: on_run is plan")
            yield from _outcome({"sent": "nothing: `on_run: plan` in config/sync.yaml"}, released=True, gaps=0)
            return
        try:
            with sync_steps.stop_on_signals() as stop:
                report = sync_steps.apply(
                    desk, None, stop=stop, progress=lambda phase, done, total: tracker(done, total, phase)
                )
        except (PlanHeldError, PlanStoppedError) as held:
            tracker.note(held=held.message)
            yield from _outcome({"held": str(held)}, released=False, gaps=0)
            return
        if report.outcome == "STOPPED":
            raise dg.Failure(f"the sync stopped: {report.reason}; `cdp sync resume` goes on", allow_retries=False)
        seen = sync_steps.verify(desk, report.plan_id, progress=lambda phase, done, total: tracker(done, total, phase))
        facts = {name: value for name, value in asdict(seen).items() if isinstance(value, int)}
        tracker.note(outcome=seen.outcome, **facts)
        yield from _outcome({"plan": report.plan_id, "outcome": seen.outcome, **facts}, released=True, gaps=seen.gap)


def _outcome(facts: dict[str, Any], *, released: bool, gaps: int) -> Iterator[Any]:
    yield dg.MaterializeResult(asset_key=SENT, metadata=facts)
    yield dg.AssetCheckResult(
        asset_key=SENT, check_name=RELEASED, passed=released, severity=dg.AssetCheckSeverity.WARN, metadata=facts
    )
    yield dg.AssetCheckResult(
        asset_key=SENT,
        check_name=VERIFIED,
        passed=gaps == 0,
        severity=dg.AssetCheckSeverity.ERROR,
        metadata={"gaps": gaps},
    )
