"""Runs whose process died: their places in Dagster's pools are given back, else the next run would wait for ever."""

import dagster as dg

from cdp.errors import RetriableError
from warehouse.home import Home, run_lock


def bury_dead_runs(home: Home, instance: dg.DagsterInstance, *, but: str = "") -> None:
    """End runs that hold a place in a pool while nobody holds *home*: every run holds it before its first step, so
    none of these lives. Does nothing while somebody is at work. *but*: the run that asks.

    Dagster's daemon does the same after a minute; without it nobody would.
    """
    try:
        with run_lock(home):
            storage = instance.event_log_storage
            pools = [storage.get_concurrency_info(name) for name in storage.get_concurrency_keys()]
            # A step stands in a queue, is given a place, and takes it: its run may have died at any of these.
            held = {run_id for pool in pools for run_id in pool.pending_run_ids | pool.assigned_run_ids}
            held |= {run_id for pool in pools for run_id in pool.active_run_ids}
            for run_id in sorted(held - {but}):
                run = instance.get_run_by_id(run_id)
                if run is not None and not run.is_finished:
                    instance.report_run_failed(run, "its process ended before it did")
                storage.free_concurrency_slots_for_run(run_id)
    except RetriableError:
        return
