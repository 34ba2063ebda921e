"""The jobs beside the main one, really run through Dagster: a backup, the hourly pull, a backfill of past days, each
also cut off by `kill -9`."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import polars as pl
import pytest
from dagster._core.storage.event_log import SqlEventLogStorage

from app.demo import outside_world, prepare
from app.home_cli import create_home
from pipelines.build import build_definitions
from pipelines.dead_runs import bury_dead_runs
from pipelines.run import run_job
from tests.e2e.conftest import CUT, content
from tests.operations.homes import land_batches
from warehouse.backup import default_folder, last_backup, restore_backup, verify_backup
from warehouse.home import Home, shared_lock
from warehouse.landing_ledger import LandingLedger
from warehouse.raw import reconcile
from warehouse.reader import connect

ROOT = Path(__file__).parents[2]
DAYS = ("2026-11-10", "2026-11-12")
BACKFILL = ("asset", "materialize", "--select", "marts/fct_events,marts/fct_orders",
            "--partition-range", "...".join(DAYS))  # fmt: skip


@pytest.fixture
def small(tmp_path: Path) -> Home:
    """A home with three landed batches and nothing computed."""
    home = Home(tmp_path / "home")
    create_home(home)
    land_batches(home, "shop", "orders", [100] * 3)
    return home


@pytest.fixture(scope="module")
def brand(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A small generated brand after one run. Tests work on copies of it."""
    home = Home(tmp_path_factory.mktemp("executed") / "home")
    prepare(home, people=300, events=3_000)
    with outside_world(home):
        assert run_job(home, as_of=CUT).failed_steps == {}
    return home


@pytest.fixture
def ran(brand: Home, tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    shutil.copytree(brand.root, home.root, symlinks=True)
    return home


def dagster(home: Home, *arguments: str) -> subprocess.Popen[str]:
    """`dagster …` on the home's definitions, as its daemon or a person starts it."""
    environment = {
        **os.environ, "DAGSTER_HOME": str(home.dagster), "CDP_HOME": str(home.root), "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "-m", "dagster", *arguments, "-m", "pipelines.definitions"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, cwd=ROOT,
    )  # fmt: skip


def ended_well(process: subprocess.Popen[str]) -> None:
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said[-3000:]


def marts(home: Home) -> dict[str, Any]:
    """Table of the marts being built -> its rows, free of their order."""
    with duckdb.connect() as con:
        con.execute(f"attach '{home.marts}' as held (read_only)")
        names = con.execute(
            "select table_name from duckdb_tables() where database_name = 'held' and schema_name = 'marts'"
        ).fetchall()
        return {
            name: con.execute(
                f'select count(*), sum(md5_number_lower(r::varchar)::hugeint)::varchar from held.marts."{name}" as r'
            ).fetchall()[0]
            for (name,) in names
        }


def archives(home: Home) -> Iterator[Path]:
    for path in sorted(default_folder(home).glob("cdp-*")):
        verify_backup(path)
        yield path


def test_the_backup_job_writes_an_archive_that_restores(small: Home, tmp_path: Path) -> None:
    job = build_definitions(small).resolve_job_def("back_up")
    with dg.DagsterInstance.ephemeral() as instance:
        assert job.execute_in_process(instance=instance).success
    [archive] = archives(small)
    record = last_backup(small)
    assert record is not None
    assert record.path == str(archive)
    other = Home(tmp_path / "other")
    restore_backup(archive, other, now=datetime.now(UTC))
    assert [(row.landed, row.ok) for row in reconcile(other)] == [(100, True)] * 3


@pytest.mark.parametrize("died", ["queued", "given a place", "in its place"])
def test_a_run_that_died_gives_back_its_place_in_the_pool(small: Home, died: str) -> None:
    """Without the daemon nobody else would free it, and the next run would wait for ever."""
    (small.dagster / "storage").mkdir(exist_ok=True)
    with dg.DagsterInstance.from_config(str(small.dagster)) as instance:
        job = build_definitions(small).resolve_job_def("back_up")
        dead = instance.create_run_for_job(job)
        pools = instance.event_log_storage
        assert isinstance(pools, SqlEventLogStorage)
        pools.set_concurrency_slots("warehouse", 1)
        if died == "in its place":
            assert pools.claim_concurrency_slot("warehouse", dead.run_id, "back_up_home").is_claimed
        else:
            pools.add_pending_step("warehouse", dead.run_id, "back_up_home", should_assign=died == "given a place")
        with shared_lock(small):
            bury_dead_runs(small, instance)
            unburied = instance.get_run_by_id(dead.run_id)
            assert unburied is not None
            assert not unburied.is_finished, "while somebody is at work nobody is taken for dead"
        bury_dead_runs(small, instance)
        buried = instance.get_run_by_id(dead.run_id)
        assert buried is not None
        assert buried.status == dg.DagsterRunStatus.FAILURE
        place = pools.get_concurrency_info("warehouse")
        assert (place.claimed_slots, place.pending_steps) == ([], [])
        assert job.execute_in_process(instance=instance).success, "the next run does not wait"


def test_whatever_a_person_picks_in_the_ui_can_be_made_alone(definitions: dg.Definitions) -> None:
    """Checks of a step are those of its picked tables: a backfill by the daemon is refused otherwise."""
    whole = definitions.resolve_implicit_global_asset_job_def()
    for names in ({"fct_events"}, {"fct_events", "fct_orders"}, {"dim_people"}, {"fct_refunds"}):
        keys = {dg.AssetKey(["marts", name]) for name in names}
        picked = whole.get_subset(asset_selection=keys)
        assert picked.asset_layer.selected_asset_keys == keys
        assert {"marts_models", "check_marts_models"} <= {node.name for node in picked.graph.nodes}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_hourly_job_lands_what_is_new_and_touches_nothing_else(ran: Home) -> None:
    with sqlite3.connect(ran.root / "brand" / "wecom.sqlite") as con:
        con.execute("update relations set remark = '改过的备注' where rid in (select rid from relations limit 3)")
    published = (ran.published / "current.json").read_bytes()
    before, rows = marts(ran), {record.batch_id for record in LandingLedger(ran.landing_ledger).batches()}
    with outside_world(ran):
        ended_well(dagster(ran, "job", "execute", "-j", "refresh_contacts"))
        new = [record for record in LandingLedger(ran.landing_ledger).batches() if record.batch_id not in rows]
        assert {record.source for record in new} <= {"wecom", "followers"}
        [relations] = [record for record in new if record.stream == "relations"]
        landed = pl.read_parquet(ran.raw / "wecom" / "relations" / f"{relations.batch_id}.parquet")
        assert landed.filter(pl.col("remark") == "改过的备注").height == 3, "beside the tags that the run has put on"
        assert [row for row in reconcile(ran) if not row.ok] == []
        assert (ran.published / "current.json").read_bytes() == published
        assert marts(ran) == before
        ended_well(dagster(ran, "job", "execute", "-j", "refresh_contacts"))
        again = [record for record in LandingLedger(ran.landing_ledger).batches()
                 if record.batch_id not in rows | {record.batch_id for record in new}]  # fmt: skip
        assert sum(record.landed for record in again) == 0, "nothing was new in the meantime"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_backfill_makes_its_days_again_and_changes_nothing_else(ran: Home) -> None:
    whole, published = marts(ran), content(ran)
    with duckdb.connect() as con:
        con.execute(f"attach '{ran.marts}' as held")
        inside = "event_date between date '2026-11-10' and date '2026-11-12'"
        [(lost,)] = con.execute(f"select count(*) from held.marts.fct_events where {inside}").fetchall()
        assert lost > 0
        con.execute(f"update held.marts.fct_events set page = 'spoilt' where {inside}")
        con.execute("delete from held.marts.fct_orders where ordered_date between date '2026-11-10' and '2026-11-12'")
    assert marts(ran) != whole
    ended_well(dagster(ran, *BACKFILL))
    assert marts(ran) == whole, "those days as they were, every other table untouched"
    assert content(ran) == published, "readers see it with the next publication"
    os.environ["DAGSTER_HOME"] = str(ran.dagster)
    with dg.DagsterInstance.get() as instance:
        made = instance.get_materialized_partitions(dg.AssetKey(["marts", "fct_events"]))
    assert {"2026-11-10", "2026-11-11", "2026-11-12"} <= made


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_backfill_or_backup_leaves_the_last_good_version(ran: Home) -> None:
    whole, published = marts(ran), content(ran)
    ended_well(dagster(ran, "job", "execute", "-j", "back_up"))
    [good] = archives(ran)
    for arguments in (BACKFILL, ("job", "execute", "-j", "back_up")):
        began = time.monotonic()
        ended_well(dagster(ran, *arguments))
        took = time.monotonic() - began
        for share in (0.6, 0.8, 0.95):
            process = dagster(ran, *arguments)
            time.sleep(took * share)
            process.kill()
            process.communicate()
            assert content(ran) == published
            with connect(ran) as con:
                assert con.execute("select count(*) > 0 from marts.fct_events").fetchall() == [(True,)]
            assert good in list(archives(ran)), "and no archive is a half one"
    ended_well(dagster(ran, *BACKFILL))
    assert marts(ran) == whole
    ended_well(dagster(ran, "job", "execute", "-j", "back_up"))
    assert len(list(archives(ran))) >= 3
