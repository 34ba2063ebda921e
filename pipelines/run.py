"""Running the job in this process, for the command line: the same assets, checks and history as in the Dagster UI."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import dagster as dg

from cdp.brand import BrandConfig
from cdp.quality.alerts import Condition
from pipelines.alerting import ORIGIN_TAG, FailedCheck, announce, conditions_of_checks, failed_checks
from pipelines.build import JOB, build_definitions
from pipelines.days import day_ended
from pipelines.dead_runs import bury_dead_runs
from pipelines.resources import AS_OF_TAG, FULL_TAG
from pipelines.upkeep import at_work
from warehouse.home import Home, load_config

ORIGIN = "command line"


@dataclass(frozen=True)
class RunOutcome:
    """How a run of the job ended. *failed_steps*: step -> its error in one line."""

    run_id: str
    success: bool
    failed_steps: Mapping[str, str]
    failed_checks: tuple[FailedCheck, ...]


def run_job(home: Home, *, as_of: datetime | None = None, job: str = JOB, full: bool = False) -> RunOutcome:
    """Run *job* on *home* and wait for it. *as_of*: the cut (UTC); default: the instant the run starts. *full*: make
    incremental models anew from the beginning.

    Run history lies in `HOME/dagster`. Failing steps and checks are in the outcome, not raised. Raises `RetriableError`
    while another run is at work on the home.
    """
    os.environ["DAGSTER_HOME"] = str(home.dagster)
    tags = {ORIGIN_TAG: ORIGIN} | ({AS_OF_TAG: as_of.isoformat()} if as_of else {}) | ({FULL_TAG: "1"} if full else {})
    with at_work(home, alone=True), dg.DagsterInstance.get() as instance:
        bury_dead_runs(home, instance)
        _end_dead_runs(instance)
        definition = build_definitions(home).resolve_job_def(job)
        day = day_ended(as_of or datetime.now(UTC), load_config(home, "cdp.yaml", BrandConfig).timezone)
        result = definition.execute_in_process(
            instance=instance,
            tags=tags,
            partition_key=day if definition.partitions_def else None,
            raise_on_error=False,
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        )
    outcome = RunOutcome(
        run_id=result.run_id,
        success=result.success,
        failed_steps={
            str(event.step_key): _reason(event) for event in result.filter_events(lambda event: event.is_step_failure)
        },
        failed_checks=failed_checks(result.get_asset_check_evaluations()),
    )
    announce(home, conditions_of(outcome), job=job)
    return outcome


def _end_dead_runs(instance: dg.DagsterInstance) -> None:
    """End the runs of ours that a killed process left as started. Holding the home alone proves that none lives."""
    living = [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.NOT_STARTED]
    for run in instance.get_runs(filters=dg.RunsFilter(statuses=living, tags={ORIGIN_TAG: ORIGIN})):
        instance.report_run_failed(run, "its process ended before it did")


def conditions_of(outcome: RunOutcome) -> list[Condition]:
    """Everything wrong after a run, for the alerts: failed steps, and failed checks by severity."""
    steps = [
        Condition(key=f"step {name}", level="error", text=reason[:300]) for name, reason in outcome.failed_steps.items()
    ]
    return [*steps, *conditions_of_checks(outcome.failed_checks)]


def _reason(event: dg.DagsterEvent) -> str:
    error = event.step_failure_data.error
    while error is not None and error.cause is not None:
        error = error.cause
    return (error.message if error else "").strip()
