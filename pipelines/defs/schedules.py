"""When the way is run: every day at 05:00, and when a file arrives."""

import hashlib
import time
from collections.abc import Iterator
from typing import Any

import dagster as dg

from cdp.quality.alerts import Condition
from pipelines.alerting import announce
from warehouse.home import Home

SETTLE_SECONDS = 30


def daily(job: Any, timezone: str) -> dg.ScheduleDefinition:
    """The whole way at 05:00 of the brand's day, when the day before is closed everywhere."""
    return dg.ScheduleDefinition(
        name="run_everything_daily",
        job=job,
        cron_schedule="0 5 * * *",
        execution_timezone=timezone,
        description="the whole way, for the day that ended",
    )


def files_arrived(job: Any, home: Home) -> dg.SensorDefinition:
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
        yield dg.RunRequest(run_key=seen)

    return on_files_arrived


def run_failed(home: Home) -> dg.SensorDefinition:
    """Tells the places of `alerts:` when a run started by a schedule or in the UI has failed."""

    @dg.run_failure_sensor(name="on_run_failure", description="an alert when a run fails")
    def on_run_failure(context: dg.RunFailureSensorContext) -> None:
        text = f"run {context.dagster_run.run_id[:8]} failed: {context.failure_event.message}"[:300]
        announce(home, [Condition(key=f"job {context.dagster_run.job_name}", level="error", text=text)])

    return on_run_failure


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
