"""`cdp load`: one order export of a public platform: previewed, landed, and what does not fit as a workbook to mend."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import polars as pl
import typer

from app.context import console, home
from app.reject_book import write_rejects
from app.source_cli import context_of, sources_config, told
from cdp.errors import ConfigError
from connectors.marketplaces.connector import Preview, ShopExportConnector
from connectors.marketplaces.draft import profile_draft
from connectors.marketplaces.tables import UnknownHeaderError, unknown
from connectors.settings import ShopExportSource
from warehouse.landing import land

_SHOWN = 5
_NAME = re.compile(r"^[a-z][a-z0-9_]*$")


def load(
    path: Annotated[Path, typer.Argument(help="an export file of a shop", exists=True, dir_okay=False)],
    shop: Annotated[str, typer.Option(help="name of the shop; part of every order's key")] = "default",
    profile: Annotated[str, typer.Option(help="profile name, or `auto` to go by the header")] = "auto",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="land without asking")] = False,
    rejects_to: Annotated[Path | None, typer.Option("--rejects", help="write rejected rows to this .xlsx")] = None,
    budget: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="share of rows that may be rejected; default: the source's, or 1 %"),
    ] = None,
    draft: Annotated[
        Path | None, typer.Option(help="header unknown: write a first draft of a profile to this .yaml")
    ] = None,
) -> None:
    """Preview one shop export (profile, encoding, rows, rejects), then land it.

    The workbook of rejects is mended in Excel or WPS and loaded again with the same command.
    """
    configured, given = _configured(shop), {"path": str(path.resolve()), "shop": shop, "profile": profile}
    share = budget if budget is not None or configured is None else configured[1].reject_budget
    settings = ShopExportSource.model_validate({"connector": "shop_export", "reject_budget": share, **given})
    connector = ShopExportConnector(context_of("load", settings))
    try:
        previews = connector.preview(path)
    except UnknownHeaderError:
        if draft is None:
            raise
        _write_draft(connector, path, draft)
        return
    if draft is not None:
        raise ConfigError(f"{path.name} is known: profile `{previews[0].profile.name}`", hint="load it without --draft")
    if not previews:
        console.print(f"{path.name}: the file is empty")
        return
    for preview in previews:
        _show(path, preview)
    if rejects_to is not None:
        _write_rejects(previews, rejects_to)
    if not yes and not typer.confirm("land it?"):
        raise typer.Exit(0)
    source = configured[0] if configured else f"shop_{previews[0].profile.platform}_{shop}".lower()
    for stream in connector.streams():
        if any(stream.name in preview.streams for preview in previews):
            told(land(home(), source, connector, stream, now=datetime.now(UTC)))
    if rejects_to is None and any(preview.rejects for preview in previews):
        console.print(f"what did not fit: cdp load {path} --shop {shop} --rejects mend.xlsx", markup=False)


def _configured(shop: str) -> tuple[str, ShopExportSource] | None:
    """The configured source of this shop, so that its history stays in one place."""
    for name, settings in sources_config().sources.items():
        if isinstance(settings, ShopExportSource) and settings.shop == shop:
            return name, settings
    return None


def _write_draft(connector: ShopExportConnector, path: Path, draft: Path) -> None:
    if not _NAME.match(draft.stem):
        raise ConfigError(
            f"`{draft.stem}`: a profile's name is lowercase letters, digits and `_`", hint="as in weidian"
        )
    if draft.exists():
        raise ConfigError(f"{draft} is there already", hint="choose another name, or edit it")
    text = profile_draft(unknown(path, connector.profiles), draft.stem, file=path.name)
    draft.parent.mkdir(parents=True, exist_ok=True)
    draft.write_text(text, encoding="utf-8")
    console.print(text, markup=False, highlight=False, soft_wrap=True)
    console.print(f"written to {draft}; read every line, then load the file again")


def _write_rejects(previews: list[Preview], to: Path) -> None:
    rows = [(item.raw, item.reason) for preview in previews for item in preview.mend if item.row_number is not None]
    if not rows:
        console.print("no rejected rows to write")
        return
    frame = pl.DataFrame(rows, schema=["raw", "reason"], orient="row")
    written = write_rejects(frame, to, header=previews[0].header)
    console.print(f"{written} rejected rows written to {to}: mend them and load that file")


def _show(path: Path, preview: Preview) -> None:
    where = f"{path.name} / {preview.sheet}" if preview.sheet else path.name
    console.print(f"{where}: {preview.profile.title} (profile `{preview.profile.name}`), {preview.encoding}")
    for name, frame in preview.streams.items():
        console.print(f"  {name}: {frame.height} rows")
    if preview.passed_over:
        console.print(f"  of another kind, not read: {preview.passed_over} rows")
    console.print(f"  rejected: {len(preview.rejects)} of {preview.rows} rows")
    for reject in preview.rejects[:_SHOWN]:
        place = f"row {reject.row_number}: " if reject.row_number else ""
        console.print(f"    {place}{reject.reason}", markup=False, highlight=False)
    if preview.unused:
        console.print(f"  kept in _extra: {', '.join(preview.unused)}", markup=False, highlight=False)
