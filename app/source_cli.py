"""`cdp source …`: what sources there are, whether they work, what landed, and what was rejected."""

from __future__ import annotations

import os
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import polars as pl
import typer
from rich.table import Table

from app.collector_rejects import COLLECTOR, refused, replay_refused, write_refused
from app.context import brand, config, console, home, instant
from app.reject_book import write_rejects
from app.scaffold_cli import add
from cdp.errors import CdpError, ConfigError
from cdp.streams import SourceCheck
from connectors import registry
from connectors.database.connector import DatabaseConnector
from connectors.replay import replay as replaying
from connectors.settings import SourcesConfig
from warehouse.landing import LandingReport, land
from warehouse.landing_ledger import BatchRecord, LandingLedger

app = typer.Typer(no_args_is_help=True)
app.command("add")(add)

_NAME = Annotated[str, typer.Argument(help="a source of config/sources.yaml")]


@app.command("list")
def list_sources() -> None:
    """Every configured source: its kind, streams, and whether it is switched on."""
    table = Table("source", "kind", "on", "streams", "what it is")
    for name, settings in sources_config().sources.items():
        streams = ", ".join(stream.name for stream in registry.source_streams(settings))
        kind = registry.KINDS[settings.connector]
        table.add_row(name, kind.name, "yes" if settings.enabled else "no", streams, kind.summary)
    console.print(table)
    console.print(f"kinds: {', '.join(registry.KINDS)}")


@app.command()
def check(name: _NAME) -> None:
    """Credentials, reach and permissions of one source, with a sample of five rows, masked."""
    result: SourceCheck = _connector(name).check()
    for step, ok, told in result.steps:
        console.print(f"{'[green]ok  [/]' if ok else '[red]fail[/]'} {step}: ", end="")
        console.print(told, markup=False, highlight=False)
    if result.sample is not None and result.sample.height:
        console.print(_table(result.sample))
    if not result.ok:
        raise typer.Exit(1)


@app.command()
def status(name: Annotated[str | None, typer.Argument(help="only this source")] = None) -> None:
    """What landed, stream by stream, and how the last try went.

    received = landed + duplicates + rejected + suppressed (people who asked to be forgotten).
    """
    ledger = LandingLedger(home().landing_ledger)
    by_stream: dict[tuple[str, str], list[BatchRecord]] = defaultdict(list)
    for record in ledger.batches(name):
        by_stream[record.source, record.stream].append(record)
    attempts = ledger.attempts()
    table = Table("source", "stream", *_COUNTS, "batches", "last", "state")
    for source, stream in sorted(set(by_stream) | {key for key in attempts if name in (None, key[0])}):
        records = by_stream[source, stream]
        started, ended, error = attempts.get((source, stream), ("", "", None))
        told = f"failed: {error.splitlines()[0][:70]}" if error else "ok" if ended else "interrupted: run it again"
        sums = [sum(getattr(record, field) for record in records) for field in _COUNTS]
        cells = [f"{value:,}" for value in [*sums, len(records)]]
        table.add_row(source, stream, *cells, _local(started), told)
    console.print(table)
    drift = [row for row in ledger.drift() if name in (None, row[0])]
    for source, stream, column, seen in drift[:20]:
        console.print(
            f"new column in {source}.{stream}: `{column}` (kept in _extra), seen {_local(seen)}", markup=False
        )
    if len(drift) > 20:
        console.print(f"… and {len(drift) - 20} more new columns")


_COUNTS = ("received", "landed", "duplicates", "rejected", "suppressed", "deleted")


@app.command()
def pull(
    name: _NAME,
    full: Annotated[bool, typer.Option("--full", help="from the very start; unchanged rows change nothing")] = False,
    since: Annotated[
        str | None, typer.Option(help="tables: read again what changed from this date or instant on")
    ] = None,
    until: Annotated[str | None, typer.Option(help="tables: … and before this one")] = None,
) -> None:
    """Pull one source now and land what is new."""
    settings = _settings(name)
    connector, failed = _connector(name), False
    if since or until:
        connector = _backfill(name, connector, since, until)
    for stream in registry.source_streams(settings):
        with console.status(f"{name}.{stream.name}"):
            try:
                report = land(home(), name, connector, stream, now=datetime.now(UTC), full=full)
            except CdpError as error:
                failed = True
                console.print(f"[red]{name}.{stream.name} failed[/]")
                console.print(str(error), markup=False, highlight=False)
                continue
        told(report)
    if failed:
        raise typer.Exit(1)


@app.command()
def replay(
    name: _NAME,
    path: Annotated[Path, typer.Argument(help="mended rows: what `rejects --to` wrote", exists=True, dir_okay=False)],
    stream: Annotated[str | None, typer.Option(help="only this stream; default: every sheet")] = None,
) -> None:
    """Land mended rejects by the rules of their source; those of `_collector` are collected again."""
    if name == COLLECTOR:
        console.print(replay_refused(home(), path), markup=False)
        return
    settings = _settings(name)
    declared = {item.name: item for item in registry.source_streams(settings)}
    chosen = [stream] if stream else [item for item in _sheets(path) or declared if item in declared]
    if not chosen or any(item not in declared for item in chosen):
        raise ConfigError(f"{path}: no rows of {name}'s streams", hint=f"streams: {', '.join(declared)}")
    for item in chosen:
        connector = replaying(context_of(name, settings), path.resolve(), item)
        told(land(home(), name, connector, declared[item], now=datetime.now(UTC)))


def _sheets(path: Path) -> list[str]:
    if path.suffix.lower() not in (".xlsx", ".xlsm"):
        return []
    import fastexcel

    return list(fastexcel.read_excel(path).sheet_names)


@app.command()
def rejects(
    name: _NAME,
    to: Annotated[Path | None, typer.Option("--to", help="write them as .xlsx, to be mended and loaded again")] = None,
    limit: Annotated[int, typer.Option(help="rows shown")] = 20,
) -> None:
    """Rows that could not be read, newest first: file, row, column, reason. `_collector`: what it refused."""
    frame = refused(home()) if name == COLLECTOR else _rejects(name)
    if to is not None and name == COLLECTOR:
        write_refused(frame, to)
    elif to is not None:
        write_rejects(frame, to)
    if to is not None:
        console.print(f"{frame.height} rejected rows written to {to}")
        return
    if not frame.height:
        console.print(f"no rejected rows in {name}")
        return
    console.print(_table(frame.head(limit).select("stream", "file", "row_number", "column", "reason")))
    counts = frame.group_by("stream", "reason").len("rows").sort("rows", "reason", descending=[True, False])
    console.print(_table(counts))


def _backfill(name: str, connector: Any, since: str | None, until: str | None) -> Any:
    if not isinstance(connector, DatabaseConnector) or since is None:
        raise ConfigError(
            f"{name}: `--since` and `--until` are for tables with a cursor, and `--since` comes first",
            hint="other sources: `--full` reads everything again",
        )
    connector.window = (instant(since), instant(until) if until else None)
    return connector


def told(report: LandingReport) -> None:
    """One line for one landing of one stream, and what a person should know of it."""
    console.print(
        f"{report.source}.{report.stream}: {report.received:,} received = {report.landed:,} landed"
        f" + {report.duplicates:,} duplicates + {report.rejected:,} rejected"
        + (f" + {report.suppressed:,} suppressed" if report.suppressed else "")
        + (f"; {report.deleted:,} marked deleted" if report.deleted else "")
        + f" ({report.seconds:.1f} s)"
    )
    for note in report.notes:
        console.print(f"  note: {note}", markup=False)


def _rejects(name: str) -> pl.DataFrame:
    files = sorted((home().rejects / name).glob("*/*.parquet"))
    if not files:
        return pl.DataFrame(schema=["stream", "file", "row_number", "column", "reason", "raw", "rejected_at"])
    frames = [pl.read_parquet(file) for file in files]
    return pl.concat(frames, how="diagonal_relaxed").sort("rejected_at", "batch_id", "row_number", descending=True)


def sources_config() -> SourcesConfig:
    """`config/sources.yaml` of the home."""
    return config("sources.yaml", SourcesConfig)


def _settings(name: str) -> Any:
    sources = sources_config().sources
    if name not in sources:
        raise ConfigError(
            f"no source `{name}` in config/sources.yaml", hint=f"there are: {', '.join(sources) or 'none'}"
        )
    return sources[name]


def _connector(name: str) -> Any:
    return registry.build(
        name,
        _settings(name),
        root=home().root,
        environment=os.environ,
        now=datetime.now(UTC),
        timezone=brand().timezone,
    )


def context_of(name: str, settings: Any) -> registry.SourceContext:
    """What a connector of source *name* may know, now."""
    return registry.SourceContext(name, settings, home().root, os.environ, datetime.now(UTC), brand().timezone)


def _table(frame: pl.DataFrame) -> Table:
    table = Table(*frame.columns)
    for row in frame.iter_rows():
        table.add_row(*["" if cell is None else str(cell) for cell in row])
    return table


def _local(text: str) -> str:
    """An instant of the ledger as the minute it was, UTC."""
    return text[:16].replace("T", " ") if text else ""
