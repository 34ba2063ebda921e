"""Definitions load without a secret, in seconds; every step says whose it is and what it makes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import dagster as dg

from app.home_cli import create_home
from pipelines.build import JOB, build_definitions
from pipelines.defs.schedules import SETTLE_SECONDS, inbox_state
from warehouse.home import Home

ROOT = Path(__file__).parent.parent.parent


def test_a_fresh_interpreter_loads_them_without_secrets(home: Home) -> None:
    environment = {"PATH": os.environ["PATH"], "HOME": str(home.root), "CDP_HOME": str(home.root)}
    code = (
        "import time; began = time.process_time()\n"
        "from pipelines.definitions import defs\n"
        "defs.resolve_job_def('run_everything')\n"
        "print(time.process_time() - began)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert float(done.stdout.strip().splitlines()[-1]) < 15
    assert not (home.dagster / "storage").exists(), "loading writes nothing"


def test_the_shipped_template_loads_too(tmp_path: Path) -> None:
    home = Home(tmp_path / "new")
    create_home(home)
    assert build_definitions(home).resolve_job_def(JOB)


def test_every_asset_has_group_owner_kinds_and_description(definitions: dg.Definitions) -> None:
    specs = list(definitions.resolve_all_asset_specs())
    assert len(specs) > 80
    bare = [
        spec.key.to_user_string()
        for spec in specs
        if not (spec.group_name and spec.owners and spec.kinds and spec.description) or spec.group_name == "default"
    ]
    assert bare == []


def test_every_step_of_the_way_is_there(definitions: dg.Definitions) -> None:
    keys = {key.to_user_string() for key in definitions.resolve_all_asset_keys()}
    assert {
        "raw/wecom__relations",
        "staging/stg_events",
        "identity/identity_map",
        "marts/dim_people",
        "marts/fct_tags_current",
        "marts/fct_funnel_steps",
        "marts/fct_ltv_people",
        "published/marts",
        "activation/tag_plan",
        "activation/tag_sync",
        "published/report",
    } <= keys


def test_the_warehouse_has_one_writer_at_a_time(definitions: dg.Definitions) -> None:
    job = definitions.resolve_job_def(JOB)
    pools = {
        node.name: node.definition.pool for node in job.graph.nodes if isinstance(node.definition, dg.OpDefinition)
    }
    outside = ("pull_", "activation__tag_plan", "tag_sync", "published__report")
    writers = {name: pool for name, pool in pools.items() if not name.startswith(outside)}
    writers.pop("identity__int_identity__evidence_landing__reconciles")  # reads ledger and Parquet alone
    writers.pop("privacy__retention_erasures__are_whole")  # reads the privacy ledger alone
    assert {name: pool for name, pool in writers.items() if pool != "warehouse"} == {}
    assert {pool for name, pool in pools.items() if name.startswith("pull_")} == {"landing"}
    assert job.executor_def.name == "in_process"


def test_the_day_starts_at_five_in_the_brands_zone(definitions: dg.Definitions) -> None:
    schedule = definitions.resolve_schedule_def("run_everything_daily")
    assert isinstance(schedule, dg.ScheduleDefinition)
    assert (schedule.cron_schedule, schedule.execution_timezone) == ("0 5 * * *", "Asia/Shanghai")


def test_a_file_that_is_still_being_written_starts_nothing(home: Home) -> None:
    now = time.time()
    assert inbox_state(home, now=now) is None
    file = home.inbox / "orders.csv"
    file.write_text("a\n", encoding="utf-8")
    assert inbox_state(home, now=now) is None, "quiet for half a minute first"
    settled = inbox_state(home, now=now + SETTLE_SECONDS + 5)
    assert settled is not None
    assert inbox_state(home, now=now + SETTLE_SECONDS + 60) == settled, "the same files are one request"
    file.write_text("a\nb\n", encoding="utf-8")
    assert inbox_state(home, now=now + SETTLE_SECONDS + 60) != settled
    file.unlink()
