"""`cdp config`: which file is which model, checking all of them at once, JSON Schemas for editors."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from pydantic import BaseModel

from app.context import config, console, home, published
from cdp.brand import BrandConfig
from cdp.errors import ConfigError
from cdp.funnels.config import FunnelsConfig
from cdp.identity.rules import IdentityRules
from cdp.metrics.config import MetricsConfig
from cdp.privacy.config import PrivacyConfig
from cdp.sync.config import SyncConfig
from cdp.tags.config import TagsConfig
from connectors.collector.settings import CollectorConfig
from connectors.settings import SourcesConfig
from warehouse.expectations import SuiteConfig, load_suites
from warehouse.saved_queries import SavedQuery, saved_queries

app = typer.Typer(no_args_is_help=True)

# Every configuration file of a home and what it must be.
FILES: dict[str, type[BaseModel]] = {
    "cdp.yaml": BrandConfig,
    "sources.yaml": SourcesConfig,
    "identity.yaml": IdentityRules,
    "tags.yaml": TagsConfig,
    "funnels.yaml": FunnelsConfig,
    "metrics.yaml": MetricsConfig,
    "sync.yaml": SyncConfig,
    "collector.yaml": CollectorConfig,
    "privacy.yaml": PrivacyConfig,
}


@app.command()
def check() -> None:
    """Validate every file of the home and tell all faults at once, and what rules name that is not published."""
    faults = []
    for name, model in FILES.items():
        try:
            config(name, model)
            console.print(f"[green]✓[/] {name}")
        except ConfigError as error:
            console.print(f"[red]✗[/] {name}")
            faults.append(error.message)
    try:
        for suite in load_suites(home().config / "expectations"):
            console.print(f"[green]✓[/] expectations/{suite.name}.yaml")
    except ConfigError as error:
        console.print("[red]✗[/] expectations/")
        faults.append(error.message)
    try:
        for name in saved_queries(home()):
            console.print(f"[green]✓[/] queries/{name}.yaml")
    except ConfigError as error:
        console.print("[red]✗[/] queries/")
        faults.append(error.message)
    if faults:
        raise ConfigError("\n".join(faults), hint="mend the lines above; the schemas in config/schemas help an editor")
    for fault in _not_published():
        console.print(f"[yellow]![/] {fault}", highlight=False, soft_wrap=True)


def _not_published() -> list[str]:
    """Tables and columns of tags and funnels that the published version does not have: misspelt, or made by the next
    run. Empty when nothing is published."""
    if not (home().published / "current.json").exists():
        return []
    from warehouse.analytics import check_funnels, check_tags  # homes without a version need not wait for these

    tags, funnels = config("tags.yaml", TagsConfig), config("funnels.yaml", FunnelsConfig)
    faults = []
    with published() as con:
        checks: list[Callable[[], None]] = [
            partial(check_tags, con, tags, marts="marts"),
            partial(check_funnels, con, funnels, marts="marts", purposes=tags.purposes),
        ]
        for checked in checks:
            try:
                checked()
            except ConfigError as error:
                faults += error.message.splitlines()
    return faults


@app.command()
def schema(directory: Annotated[Path, typer.Argument(help="folder to write to")] = Path("config/schemas")) -> None:
    """Write a JSON Schema of every configuration file, for editors."""
    for path in write_schemas(directory):
        console.print(f"[green]✓[/] {path}")


def write_schemas(directory: Path) -> list[Path]:
    """One `<file>.json` for each configuration file, one for those of `expectations/` and one for those of `queries/`;
    returns the paths."""
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    models: dict[str, type[BaseModel]] = {**FILES, "expectations.yaml": SuiteConfig, "queries.yaml": SavedQuery}
    for name, model in models.items():
        path = directory / f"{name.removesuffix('.yaml')}.json"
        text = json.dumps(model.model_json_schema(), ensure_ascii=False, indent=2, sort_keys=True) + "\n"
        path.write_text(text, encoding="utf-8")
        written.append(path)
    return written
