"""`cdp backup`, `restore`, `doctor` and `report`: keeping a home safe, sound and readable."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from app.config_cli import FILES
from app.context import brand, console, home, home_path
from app.home_cli import FOLDERS
from cdp.brand import BrandConfig
from cdp.errors import CdpError, ConfigError
from connectors.settings import SourcesConfig
from warehouse.backup import PARTS, Manifest, Part, create_backup, default_folder, restore_backup, verify_backup
from warehouse.doctor import Finding, examine
from warehouse.erasure import note_restore
from warehouse.home import Home, load_config
from warehouse.report import daily_report
from warehouse.report_parts import Locale

_MARKS = {"ok": "[green]✓[/]", "warn": "[yellow]![/]", "fail": "[red]✗[/]"}
_ONLY = Annotated[str | None, typer.Option("--only", help=f"parts, with commas: {', '.join(PARTS)}")]


def backup(
    to: Annotated[Path | None, typer.Option("--to", help="folder, best on another disk; default: HOME/backups")] = None,
    only: _ONLY = None,
    with_secrets: Annotated[bool, typer.Option("--with-secrets", help="include the platform's own keys")] = False,
) -> None:
    """Write one checksummed archive of what cannot be computed again: config, raw, ledgers, identity, tag history."""
    target = to or default_folder(home())
    with _bar("backup") as progress:
        report = create_backup(
            home(), to=target, now=datetime.now(UTC), parts=_parts(only), with_secrets=with_secrets, progress=progress
        )
    manifest = report.manifest
    console.print(
        f"[green]✓[/] {report.path}\n  {len(manifest.files):,} files, {manifest.total_bytes / 1e6:,.1f} MB, "
        f"{report.seconds:.1f} s: {', '.join(manifest.parts)}",
        soft_wrap=True,
    )
    if report.missing:
        console.print(f"  nothing there yet: {', '.join(report.missing)}")
    if manifest.secret_fingerprints and "secrets" not in manifest.parts:
        console.print(
            "[yellow]![/] the keys in secrets/ are not in it, and without them people get new ids after a restore: "
            "keep them in your vault, or repeat with --with-secrets and keep the archive there"
        )
    if to is None:
        console.print("[yellow]![/] it lies in the home itself: copy it to another machine, or give --to")


def restore(
    file: Annotated[Path, typer.Argument(help="an archive made by `cdp backup`")],
    only: _ONLY = None,
    force: Annotated[bool, typer.Option("--force", help="put aside what the home holds (nothing is deleted)")] = False,
    check: Annotated[bool, typer.Option("--check", help="only compare every checksum and say what it holds")] = False,
) -> None:
    """Bring a home back from an archive: checksums first, then everything changes places at once."""
    if check:
        _print_contents(file, verify_backup(file))
        return
    place = home_path()
    with _bar("restore") as progress:
        report = restore_backup(file, place, now=datetime.now(UTC), parts=_parts(only), force=force, progress=progress)
    for folder in FOLDERS:
        (place.root / folder).mkdir(parents=True, exist_ok=True)
    place.secrets.chmod(0o700)
    console.print(f"[green]✓[/] {place.root}: {', '.join(report.parts)}, {report.seconds:.1f} s", soft_wrap=True)
    if report.replaced:
        console.print(f"  what was there before: {report.replaced}", soft_wrap=True)
    if note_restore(place, file):
        console.print("  people who were forgotten since are forgotten again by the next run, or by cdp privacy finish")
    if report.secrets_to_bring:
        names = ", ".join(f"secrets/{name}" for name in report.secrets_to_bring)
        console.print(f"[yellow]![/] bring back from your vault before the next run: {names}")
    console.print("next: cdp doctor, then cdp run")


def doctor(
    deep: Annotated[bool, typer.Option("--deep", help="read every table and file from end to end")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False,
) -> None:
    """Look at the machine, the home, its files, ledgers and secrets, and say what to do. Exit code 1 on a fault."""
    place = home_path()
    findings = examine(
        place,
        now=datetime.now(UTC),
        environment=os.environ,
        models=FILES,
        secrets=secret_references(place),
        deep=deep,
    )
    if as_json:
        console.print_json(json.dumps([asdict(finding) for finding in findings], ensure_ascii=False))
    else:
        _print(findings)
    if any(finding.status == "fail" for finding in findings):
        raise typer.Exit(1)


def report(
    out: Annotated[Path | None, typer.Option("--out", help="default: HOME/reports/<version>.html")] = None,
    version: Annotated[
        str | None, typer.Option("--version", help="a published version; default: the current one")
    ] = None,
    language: Annotated[str | None, typer.Option("--language", help="zh or en; default: the brand's")] = None,
) -> None:
    """Write the daily report of a published version: one HTML page that needs nothing else to be read."""
    chosen = language or brand().locale
    if chosen not in get_args(Locale):
        raise typer.BadParameter(f"expected zh or en, found `{chosen}`")
    locale: Locale = "zh" if chosen == "zh" else "en"
    path = daily_report(home(), now=datetime.now(UTC), locale=locale, out=out, version=version, rules=brand().quality)
    console.print(f"[green]✓[/] {path}", soft_wrap=True)


def _print_contents(file: Path, manifest: Manifest) -> None:
    console.print(f"[green]✓[/] {file.name} is whole: made {manifest.created_at:%Y-%m-%d %H:%M} UTC", soft_wrap=True)
    for part in manifest.parts:
        files = [item for item in manifest.files if item.part == part]
        console.print(f"  {part:<10} {len(files):>8,} files {sum(item.bytes for item in files) / 1e6:>12,.1f} MB")


def secret_references(place: Home) -> list[str]:
    """Every `env:NAME` and `file:PATH` that the brand and its enabled sources refer to; a file that is not readable
    counts as referring to nothing, because that is a finding of its own."""
    found: set[str] = set()
    try:
        found |= set(_references(load_config(place, "cdp.yaml", BrandConfig).alerts.model_dump(mode="json")))
        for settings in load_config(place, "sources.yaml", SourcesConfig).enabled().values():
            found |= set(_references(settings.model_dump(mode="json")))
    except CdpError:
        return sorted(found)
    return sorted(found)


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, str) and value.startswith(("env:", "file:")):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _references(item)
    elif isinstance(value, list):
        for item in value:
            yield from _references(item)


def _parts(text: str | None) -> list[Part] | None:
    if text is None:
        return None
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in PARTS]
    if unknown or not names:
        raise ConfigError(f"no part is called `{', '.join(unknown) or text}`", hint=f"parts: {', '.join(PARTS)}")
    return [part for part in PARTS if part in names]


def _print(findings: list[Finding]) -> None:
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        console.print(f"{_MARKS[finding.status]} {finding.name:<{width}}  ", end="")
        console.print(finding.detail, markup=False, highlight=False, soft_wrap=True)
        if finding.hint and finding.status != "ok":
            console.print(f"  {'':<{width}}  → {finding.hint}", markup=False, highlight=False, soft_wrap=True)
    bad = sum(finding.status == "fail" for finding in findings)
    warned = sum(finding.status == "warn" for finding in findings)
    console.print(f"{len(findings)} looked at: {bad} to mend, {warned} to watch")


@contextmanager
def _bar(name: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar over bytes; it goes away when the work is done."""
    columns = (TextColumn(name), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(name, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
