"""What `dagster` loads: the definitions of the home named by CDP_HOME (or the current folder)."""

from __future__ import annotations

from pipelines.build import build_definitions
from warehouse.home import home_from

defs = build_definitions(home_from(None))
