"""`cdp model`: the SQL models: which there are, whether they are right, making some, and what a change changes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated

import duckdb
import typer
from rich.table import Table

import models
from app.context import brand, config, console, home, instant
from cdp.errors import CheckFailedError, ConfigError
from connectors import registry
from connectors.settings import SourcesConfig
from warehouse.connection import open_warehouse
from warehouse.dictionary import write_dictionary
from warehouse.expectations import load_suites, write_data_docs
from warehouse.model_diff import ModelDiff, diff_model
from warehouse.models import ModelGraph, ModelRun, check_models, column_lineage, load_models, run_models
from warehouse.publish import current
from warehouse.raw import register_raw
from warehouse.reconcile import grain_checks
from warehouse.sync_export import register_sync
from warehouse.sync_ledger import SyncLedger

app = typer.Typer(no_args_is_help=True)
Selection = Annotated[
    list[str] | None,
    typer.Argument(
        help="models, layers, `+model` (with all it needs), `model+` (with all that needs it); default: all"
    ),
]
AsOf = Annotated[
    str | None, typer.Option("--as-of", help="the cut: a date (end of that day) or an instant; default: now")
]


@app.command("list")
def list_models(select: Selection = None) -> None:
    """Models in running order, with their grain and what they hold."""
    graph = _graph()
    table = Table(header_style="bold")
    for name in ("model", "as", "grain", "what it holds"):
        table.add_column(name)
    for name in graph.select(*(select or [])):
        model = graph.models[name]
        table.add_row(name, model.materialized, ", ".join(model.grain), model.description)
    console.print(table)


@app.command()
def check() -> None:
    """Resolve every table and column of every model, and tell all faults with file and line. Runs none."""
    graph = _graph()
    with _warehouse(None) as con:
        known = check_models(graph, con)
    console.print(f"[green]✓[/] {len(graph.models)} models read {len(known):,} tables rightly", highlight=False)


@app.command()
def run(
    select: Selection = None,
    as_of: AsOf = None,
    since: Annotated[
        datetime | None, typer.Option("--from", formats=["%Y-%m-%d"], help="backfill: first day to make again")
    ] = None,
    until: Annotated[
        datetime | None, typer.Option("--to", formats=["%Y-%m-%d"], help="backfill: the day after the last one")
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="incremental models too: everything, not what changed")] = False,
) -> None:
    """Make the selected models again from what has been landed and resolved. Readers see it after the next publish.

    With --from and --to only those days of models that have a `partition:` are made again, their other days stay.
    """
    if (since is None) != (until is None):
        raise ConfigError("a backfill needs both --from and --to", hint="--to is the day after the last one")
    days = (since.date(), until.date()) if since and until else None
    graph = _graph()
    names = graph.select(*(select or []))
    with _warehouse(as_of) as con:
        check_models(graph, con)
        runs = run_models(con, graph, names, on_done=_tell, days=days, full=full)
        wrong = [check for check in grain_checks(con, graph, names) if not check.passed]
    console.print(f"{len(runs)} models in {sum(item.seconds for item in runs):.1f} s", highlight=False)
    if wrong:
        raise CheckFailedError(
            "\n".join(f"{graph.models[item.table].path}: not {item.description}: {item.observed}" for item in wrong),
            hint="name the columns that tell rows apart after `grain:`; a run would not publish the table as it is",
        )


@app.command()
def diff(select: Selection = None, as_of: AsOf = None) -> None:
    """Run the selected models' queries, keep nothing, and show what would change for readers."""
    graph = _graph()
    published = current(home())
    names = [name for name in graph.select(*(select or ["marts"])) if graph.models[name].schema == "marts"]
    with _warehouse(as_of) as con:
        check_models(graph, con)
        for name in names:
            _show(diff_model(con, graph.models[name], published.path))
    console.print(f"[dim]against version {published.version}[/]", highlight=False)


@app.command()
def lineage(model: Annotated[str, typer.Argument(help="a model")]) -> None:
    """Where every column of a model comes from."""
    graph = _graph()
    with _warehouse(None) as con:
        made = column_lineage(graph, model, check_models(graph, con))
    table = Table("column", "made from", header_style="bold")
    for column, sources in made.items():
        table.add_row(column, "\n".join(sources) or "-")
    console.print(table)


@app.command()
def docs(
    out: Annotated[Path, typer.Option("--out", "-o", help="file to write; .md gives Markdown")] = Path(
        "dictionary.html"
    ),
) -> None:
    """Write the data dictionary: tables, columns, meaning, lineage and checks on one searchable page."""
    graph = _graph()
    with _warehouse(None) as con:
        write_dictionary(out, con, graph, expectations=home().config / "expectations")
    console.print(f"[green]✓[/] {out}", highlight=False)


@app.command("data-docs")
def data_docs(
    out: Annotated[Path, typer.Option("--out", "-o", help="folder to write; shows failing values as they are")] = Path(
        "data-docs"
    ),
    as_of: AsOf = None,
) -> None:
    """Run every check suite and write Great Expectations' own site of the results."""
    with _warehouse(as_of) as con:
        page = write_data_docs(con, load_suites(home().config / "expectations"), out)
    console.print(f"[green]✓[/] {page}", highlight=False)


def _graph() -> ModelGraph:
    return load_models(Path(models.__file__).parent)


@contextmanager
def _warehouse(as_of: str | None) -> Iterator[duckdb.DuckDBPyConnection]:
    settings = brand()
    with open_warehouse(
        home(),
        as_of=instant(as_of),
        timezone=settings.timezone,
        memory_limit=settings.resources.memory_limit,
        threads=settings.resources.threads,
    ) as con:
        _register_sources(con, settings.timezone)
        yield con


def _register_sources(con: duckdb.DuckDBPyConnection, timezone: str) -> None:
    """Before the first run there is no raw layer, and every name in it would be unknown."""
    if con.execute("select 1 from information_schema.tables where table_schema = 'raw' limit 1").fetchall():
        return
    sources = registry.raw_sources(config("sources.yaml", SourcesConfig), timezone=timezone)
    register_raw(con, home(), sources, registry.all_streams())
    with SyncLedger(home().sync_ledger) as ledger:
        register_sync(con, ledger)


def _tell(done: ModelRun) -> None:
    rows = "view" if done.rows is None else f"{done.rows:,} rows"
    console.print(f"[green]✓[/] {done.name:<48} {rows:>16} {done.seconds:7.2f} s", highlight=False)


def _show(found: ModelDiff) -> None:
    if found.same:
        console.print(f"[green]=[/] {found.name}: {found.rows_after:,} rows, nothing differs", highlight=False)
        return
    console.print(
        f"[yellow]≠[/] {found.name}: {found.rows_before:,} → {found.rows_after:,} rows; {found.only_after:,} new, "
        f"{found.only_before:,} gone, {found.changed_rows:,} changed",
        highlight=False,
    )
    for sign, names in (("+", found.added_columns), ("-", found.removed_columns)):
        for name in names:
            console.print(f"    {sign} column {name}", highlight=False)
    for name, (before, after) in found.retyped_columns.items():
        console.print(f"    ~ column {name}: {before} → {after}", highlight=False)
    for name, count in found.changed.items():
        console.print(f"    {name}: {count:,} rows differ", highlight=False)
    if found.sample:
        console.print(f"    [dim]for example {'; '.join(found.sample)}[/]", highlight=False)
