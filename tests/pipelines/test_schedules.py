"""Schedules, the brand's days and backfills: what runs when, for which day, and what a backfill leaves alone."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path

import dagster as dg
import pytest

from app.home_cli import create_home
from connectors.registry import all_streams
from pipelines.alerting import MAIN_JOB, job_failed, told_by
from pipelines.days import FIRST_DAY, brand_days, day_ended
from pipelines.resources import BrandHome
from pipelines.sql_assets import model_assets, model_graph
from tests.models.model_worlds import empty_identity
from warehouse.backup import SUFFIX, prune_backups
from warehouse.connection import open_warehouse
from warehouse.home import Home
from warehouse.models import run_models
from warehouse.raw import register_raw

ROOT = Path(__file__).parent.parent.parent
ZONE = "Asia/Shanghai"
NOON = datetime(2026, 3, 1, 4, tzinfo=UTC)


@pytest.mark.parametrize(
    ("name", "cron"),
    [("run_everything_daily", "0 5 * * *"), ("refresh_contacts_hourly", "20 * * * *"), ("back_up_daily", "0 4 * * *")],
)
def test_what_runs_when_in_the_brands_zone(definitions: dg.Definitions, name: str, cron: str) -> None:
    schedule = definitions.resolve_schedule_def(name)
    assert (schedule.cron_schedule, schedule.execution_timezone) == (cron, ZONE)


def test_the_run_of_the_day_is_for_the_day_that_ended(definitions: dg.Definitions) -> None:
    at = datetime(2026, 3, 1, 21, tzinfo=UTC)  # 05:00 of the second in Shanghai
    context = dg.build_schedule_context(scheduled_execution_time=at, repository_def=definitions.get_repository_def())
    [request] = definitions.resolve_schedule_def("run_everything_daily").evaluate_tick(context).run_requests or []
    assert request.partition_key == "2026-03-01"


def test_contacts_are_pulled_every_hour_and_nothing_else_is(definitions: dg.Definitions) -> None:
    job = definitions.resolve_job_def("refresh_contacts")
    sources = {node.name for node in job.graph.nodes}
    assert sources == {"pull_wecom", "pull_followers"}


def test_a_run_outside_of_the_known_days_takes_the_nearest(definitions: dg.Definitions) -> None:
    assert day_ended(datetime(1999, 1, 1, tzinfo=UTC), ZONE) == FIRST_DAY
    assert day_ended(datetime(2999, 1, 1, tzinfo=UTC), ZONE) == brand_days(ZONE).get_last_partition_key()


def test_events_and_orders_are_partitioned_by_the_brands_days(definitions: dg.Definitions) -> None:
    partitioned = {
        spec.key.path[-1]: spec.partitions_def for spec in definitions.resolve_all_asset_specs() if spec.partitions_def
    }
    assert partitioned == dict.fromkeys(("fct_events", "fct_orders"), brand_days(ZONE))


def test_every_asset_says_how_fresh_it_has_to_be(definitions: dg.Definitions) -> None:
    policies = {spec.freshness_policy for spec in definitions.resolve_all_asset_specs()}
    [policy] = policies
    assert isinstance(policy, type(dg.FreshnessPolicy.cron("0 8 * * *", policy.lower_bound_delta)))
    assert (policy.deadline_cron, policy.timezone) == ("0 8 * * *", ZONE)


def test_a_backfill_in_dagster_makes_its_days_again_and_no_other(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    create_home(home)
    graph = model_graph()
    with open_warehouse(home, as_of=NOON, timezone=ZONE) as con:
        register_raw(con, home, [], all_streams())
        empty_identity(con)
        run_models(con, graph, graph.select("+fct_events"))
        con.execute(
            "insert into marts_db.marts.fct_events (event_key, event_date, page) "
            "select 'e' || day, date '2026-02-01' + day::integer, 'by hand' from range(5) as days(day)"
        )
    step = model_assets("marts", ["marts.fct_events", "marts.dim_staff"], known={}, timezone=ZONE, job="run_everything")
    done = dg.materialize(
        [step],
        selection=["marts/fct_events"],
        resources={"brand_home": BrandHome(root=str(home.root))},
        instance=dg.DagsterInstance.ephemeral(),
        tags={
            "dagster/asset_partition_range_start": "2026-02-02",
            "dagster/asset_partition_range_end": "2026-02-03",
        },
    )
    assert [event.partition for event in done.get_asset_materialization_events()] == ["2026-02-02", "2026-02-03"]
    with open_warehouse(home, as_of=NOON, timezone=ZONE) as con:
        left = con.execute("select event_date from marts_db.marts.fct_events order by 1").fetchall()
    assert left == [(date(2026, 2, day),) for day in (1, 4, 5)], "no landed event bears out the rows of those days"


def test_alerts_of_one_job_say_nothing_of_another() -> None:
    assert told_by(job_failed("back_up", "disk full").key) == "back_up"
    assert told_by("marts/dim_people one_id__unique") == MAIN_JOB


def test_old_backups_go_and_the_newest_stay(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / f"cdp-2026030{number}{SUFFIX}").write_text(str(number), encoding="utf-8")
    (tmp_path / "notes.txt").write_text("kept", encoding="utf-8")
    assert prune_backups(tmp_path, keep=2) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"cdp-20260303{SUFFIX}",
        f"cdp-20260304{SUFFIX}",
        "notes.txt",
    ]
    assert prune_backups(tmp_path, keep=2) == 0
