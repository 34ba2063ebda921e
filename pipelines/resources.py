"""What every step is given: the home, its configuration, and the warehouse opened for this run."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import dagster as dg
import duckdb
from pydantic import BaseModel

from cdp.brand import BrandConfig
from pipelines.dead_runs import bury_dead_runs
from pipelines.upkeep import at_work
from warehouse.connection import open_warehouse
from warehouse.home import Home, load_config

M = TypeVar("M", bound=BaseModel)
AS_OF_TAG, FULL_TAG = "cdp/as_of", "cdp/full"

Context = dg.AssetExecutionContext | dg.AssetCheckExecutionContext


class BrandHome(dg.ConfigurableResource[None]):
    """The brand's home. *root* is a folder made by `cdp init`."""

    root: str

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Generator[Any]:
        """Every run, of the daemon too, holds the home while it works, and begins by burying the dead and finishing
        erasures."""
        if context.instance and context.run:
            bury_dead_runs(self.home, context.instance, but=context.run.run_id)
        with at_work(self.home):
            yield self

    @property
    def home(self) -> Home:
        return Home(Path(self.root))

    def config(self, name: str, model: type[M]) -> M:
        return load_config(self.home, name, model)

    @property
    def brand(self) -> BrandConfig:
        return self.config("cdp.yaml", BrandConfig)

    def as_of(self, context: Context) -> datetime:
        """The cut of this run (UTC): its tag `cdp/as_of`, else the instant it started; the same for all its steps."""
        tagged = context.run.tags.get(AS_OF_TAG)
        if tagged:
            return datetime.fromisoformat(tagged).astimezone(UTC)
        record = context.instance.get_run_record_by_id(context.run.run_id)
        started = record.start_time if record and record.start_time else None
        return datetime.fromtimestamp(started, UTC) if started else datetime.now(UTC)

    def full(self, context: Context) -> bool:
        """Whether incremental models are made anew from the beginning: the run's tag `cdp/full`."""
        return FULL_TAG in context.run.tags

    @contextmanager
    def warehouse(self, context: Context) -> Iterator[duckdb.DuckDBPyConnection]:
        """The one writing connection, with `as_of` and the brand's time zone set; closed on leaving."""
        brand = self.brand
        with open_warehouse(
            self.home,
            as_of=self.as_of(context),
            timezone=brand.timezone,
            memory_limit=brand.resources.memory_limit,
            threads=brand.resources.threads,
        ) as con:
            yield con
