"""`cdp init`: a brand's home."""

from __future__ import annotations

import shutil
from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated

import typer

from app.config_cli import write_schemas
from app.context import console
from cdp.errors import ConfigError
from warehouse.home import Home

FOLDERS = ("inbox", "data/raw", "data/rejects", "data/published", "data/plans", "dagster", "logs", "secrets")


def init(
    directory: Annotated[Path, typer.Argument(help="folder of the new home")],
    force: Annotated[bool, typer.Option("--force", help="write the missing files into a home that exists")] = False,
) -> None:
    """Make a brand's home: commented configuration and empty data folders. Existing files are never overwritten."""
    home = Home(directory.expanduser().resolve())
    if (home.config / "cdp.yaml").exists() and not force:
        raise ConfigError(
            f"{home.root} is a home already", hint="`cdp init DIR --force` adds only files that are missing"
        )
    written = create_home(home)
    console.print(f"[green]✓[/] {home.root}  ({len(written)} files)")
    console.print("next: edit config/sources.yaml, then  cdp --home DIR source check  and  cdp --home DIR run")


def create_home(home: Home) -> list[Path]:
    """Write what is missing of a home and return the files written. Running it again changes nothing."""
    for folder in FOLDERS:
        (home.root / folder).mkdir(parents=True, exist_ok=True)
    home.secrets.chmod(0o700)
    written = []
    with as_file(files("config")) as templates:
        for source in sorted(templates.rglob("*.yaml")):
            target = home.config / source.relative_to(templates)
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)
                written.append(target)
    with as_file(files("pipelines") / "instance.yaml") as instance:
        target = home.dagster / "dagster.yaml"
        if not target.exists():
            shutil.copyfile(instance, target)
            written.append(target)
    write_schemas(home.config / "schemas")
    return written
