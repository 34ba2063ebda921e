"""A home in a temporary folder, sources written as YAML, and what landed, as rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb

from cdp.config import parse
from connectors import registry
from connectors.settings import SourcesConfig
from warehouse.home import Home
from warehouse.landing import LandingReport, land
from warehouse.raw import reconcile, register_raw

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


@dataclass
class Brand:
    """A home at *root* with the sources of *yaml*."""

    root: Path
    yaml: str
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def home(self) -> Home:
        return Home(self.root)

    @property
    def config(self) -> SourcesConfig:
        return parse(self.yaml, SourcesConfig, file="config/sources.yaml")

    def connector(self, name: str) -> Any:
        settings = self.config.sources[name]
        return registry.build(name, settings, root=self.root, environment=self.environment, now=NOW)

    def land(self, name: str, *, full: bool = False, now: datetime = NOW) -> dict[str, LandingReport]:
        """Land every stream of source *name*; counts must add up each time."""
        connector = self.connector(name)
        reports = {
            stream.name: land(self.home, name, connector, stream, now=now, full=full)
            for stream in registry.source_streams(self.config.sources[name])
        }
        for report in reports.values():
            assert report.received == report.landed + report.duplicates + report.rejected
        assert all(row.ok for row in reconcile(self.home)), reconcile(self.home)
        return reports

    def sql(self, text: str) -> list[tuple[Any, ...]]:
        """Rows of a query over the raw views."""
        with duckdb.connect() as con:
            con.execute("set timezone = 'UTC'")
            register_raw(con, self.home, registry.raw_sources(self.config), registry.all_streams())
            return con.execute(text).fetchall()

    def latest(self, view: str, columns: str) -> list[tuple[Any, ...]]:
        """Latest versions of the rows of *view* that are not deleted, ordered by *columns*."""
        return self.sql(
            f"select {columns} from (select *, row_number() over (partition by _source, _key_hash"
            " order by _version_at desc nulls last, _batch_seq desc, _row_number desc) as nth"
            f" from raw.{view}) where nth = 1 and not _deleted order by all"
        )
