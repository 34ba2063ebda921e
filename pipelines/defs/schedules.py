"""When what is run: everything at 05:00 and when a file arrives, contacts every hour, a backup every day."""

import hashlib
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from cdp.quality.alerts import Condition
from connectors.registry import source_streams
from connectors.settings import SourcesConfig
from pipelines.alerting import ORIGIN_TAG, announce, conditions_of_checks, failed_checks, job_failed
from pipelines.days import day_ended
from pipelines.defs.sources import raw_key
from pipelines.progress import track
from pipelines.resources import BrandHome
from warehouse.backup import create_backup, default_folder, prune_backups
from warehouse.home import Home

SETTLE_SECONDS = 30
HOURLY = ("wecom", "official_account")  # connectors whose people change all day
KEPT_BACKUPS = 7


def daily(job: Any, timezone: str) -> dg.ScheduleDefinition:
    """The whole way at 05:00 of the brand's day, when the day before is closed everywhere."""

    @dg.schedule(
        name="run_everything_daily",
        job=job,
        cron_schedule="0 5 * * *",
        execution_timezone=timezone,
        description="the whole way, for the day that ended",
    )
    def run_everything_daily(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
        return dg.RunRequest(partition_key=day_ended(context.scheduled_execution_time, timezone))

    return run_everything_daily


def hourly(config: SourcesConfig, timezone: str) -> list[dg.ScheduleDefinition]:
    """Contacts and callbacks pulled at 20 past every hour, landed and nothing more; none without such a source."""
    names = [name for name, settings in config.enabled().items() if settings.connector in HOURLY]
    keys = [raw_key(name, stream.name) for name in names for stream in source_streams(config.sources[name])]
    if not keys:
        return []
    job = dg.define_asset_job(
        "refresh_contacts",
        selection=dg.AssetSelection.assets(*keys),
        description=f"pull {', '.join(names)} and land what is new; the next run of everything takes it on",
    )
    return [
        dg.ScheduleDefinition(
            name="refresh_contacts_hourly",
            job=job,
            cron_schedule="20 * * * *",
            execution_timezone=timezone,
            description="contacts, followers and callbacks, landed every hour",
        )
    ]


@dg.op(pool="warehouse")
def back_up_home(context: dg.OpExecutionContext, brand_home: BrandHome) -> None:
    """Write one archive into the home's backup folder and keep the newest ones."""
    with track(context, "back up") as tracker:
        folder = default_folder(brand_home.home)
        report = create_backup(brand_home.home, to=folder, now=datetime.now(UTC))
        facts = {
            "file": report.path.name,
            "bytes": report.manifest.total_bytes,
            "older_removed": prune_backups(folder, keep=KEPT_BACKUPS),
        }
        tracker.note(**facts)
        context.add_output_metadata(facts)


@dg.job(
    name="back_up", description="one checksummed archive of what cannot be computed again, as `cdp backup` makes it"
)
def back_up() -> None:
    back_up_home()


def backup_daily(timezone: str) -> dg.ScheduleDefinition:
    """A backup at 04:00, before the run of the day."""
    return dg.ScheduleDefinition(
        name="back_up_daily",
        job=back_up,
        cron_schedule="0 4 * * *",
        execution_timezone=timezone,
        description=f"a backup into HOME/backups; the newest {KEPT_BACKUPS} are kept",
    )


def files_arrived(job: Any, home: Home, timezone: str) -> dg.SensorDefinition:
    """Starts a run when files in the home's inbox are new or changed and have been quiet for half a minute."""

    @dg.sensor(
        name="on_files_arrived",
        job=job,
        minimum_interval_seconds=60,
        description="a run when exported files arrive in inbox/",
    )
    def on_files_arrived(context: dg.SensorEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
        seen = inbox_state(home, now=time.time())
        if seen is None or seen == context.cursor:
            yield dg.SkipReason("nothing new in inbox/")
            return
        context.update_cursor(seen)
        yield dg.RunRequest(run_key=seen, partition_key=day_ended(datetime.now(UTC), timezone))

    return on_files_arrived


def run_failed(home: Home) -> dg.SensorDefinition:
    """Tells the places of `alerts:` when a run started by a schedule or in the UI has failed."""

    @dg.run_failure_sensor(name="on_run_failure", description="an alert when a run fails")
    def on_run_failure(context: dg.RunFailureSensorContext) -> None:
        run = context.dagster_run
        if ORIGIN_TAG not in run.tags:  # what the command line runs tells of itself
            text = f"run {run.run_id[:8]} failed: {context.failure_event.message}"
            announce(home, [*_checks_of(context), job_failed(run.job_name, text)], job=run.job_name)

    return on_run_failure


def run_succeeded(home: Home) -> dg.SensorDefinition:
    """Tells the same places what is well again after a run, and which checks failed though it ended."""

    @dg.run_status_sensor(
        run_status=dg.DagsterRunStatus.SUCCESS, name="on_run_success", description="an alert when a run recovers"
    )
    def on_run_success(context: dg.RunStatusSensorContext) -> None:
        if ORIGIN_TAG not in context.dagster_run.tags:
            announce(home, _checks_of(context), job=context.dagster_run.job_name)

    return on_run_success


def _checks_of(context: dg.RunStatusSensorContext) -> list[Condition]:
    """The failed checks of the run that *context* is about."""
    run_id = context.dagster_run.run_id
    entries = context.instance.all_logs(run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION)
    events = [entry.dagster_event for entry in entries if entry.dagster_event]
    return conditions_of_checks(failed_checks(event.asset_check_evaluation_data for event in events))


def inbox_state(home: Home, *, now: float) -> str | None:
    """A hash of names, sizes and times of the inbox; None when it is empty or a file is still being written.

    *now*: epoch seconds, to measure quiet from.
    """
    files = sorted(path for path in home.inbox.rglob("*") if path.is_file() and not path.name.startswith("."))
    stats = [(path, path.stat()) for path in files]
    if not stats or any(stat.st_mtime > now - SETTLE_SECONDS for _, stat in stats):
        return None
    text = "\n".join(f"{path.relative_to(home.inbox)} {stat.st_size} {stat.st_mtime_ns}" for path, stat in stats)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
