"""`cdp sql` and `cdp publish`: what analysts type. Rows go to standard output, all about them to standard error."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, get_args

import typer
from rich.box import SIMPLE
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from app.context import console, errors, home
from cdp.config import nearest
from cdp.errors import ConfigError
from warehouse.publish import Published, rollback, versions
from warehouse.publish import current as current_version
from warehouse.query import Format, QueryResult, Role, age_text, plain, run_query, save, to_csv, to_json
from warehouse.saved_queries import run_saved

publish_app = typer.Typer(no_args_is_help=True)
_SUFFIXES: dict[str, Format] = {".csv": "csv", ".json": "json", ".xlsx": "xlsx", ".parquet": "parquet"}


def sql(
    query: Annotated[
        str | None, typer.Argument(help="one SELECT; `-`: from standard input; without: ask one after another")
    ] = None,
    form: Annotated[
        str | None,
        typer.Option("--format", "-f", help="table, csv, json, xlsx or parquet; default: by --out, else table"),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="file to write; needed for xlsx and parquet")] = None,
    limit: Annotated[int, typer.Option(help="rows at most; 0 = all")] = 1_000,
    timeout: Annotated[float, typer.Option(help="seconds a query may take")] = 60,
    version: Annotated[str | None, typer.Option(help="a published version; default: the current one")] = None,
    role: Annotated[
        str, typer.Option(help="analyst; analyst_pii for personal data (logged); viewer for saved queries only")
    ] = "analyst",
    purpose: Annotated[str | None, typer.Option(help="why personal data is needed; kept in the query log")] = None,
    saved: Annotated[str | None, typer.Option("--saved", "-s", help="a query of config/queries/, by its name")] = None,
) -> None:
    """Ask the published version with SQL, for example: cdp sql "select count(*) from marts.dim_people"."""
    chosen = _format(form, out)
    place, known_role = home(), _role(role)

    def ask(text: str) -> QueryResult:
        return run_query(
            place, text, limit=limit or None, timeout_s=timeout, role=known_role, purpose=purpose, version=version
        )

    def ask_saved(name: str) -> QueryResult:
        return run_saved(
            place, name, limit=limit or None, timeout_s=timeout, role=known_role, purpose=purpose, version=version
        )

    def answer(result: QueryResult) -> None:
        show(result, chosen)
        tell(result)

    if saved is not None and query is not None:
        raise ConfigError("a query and --saved at once", hint="give one of them")
    if saved is None and query is None and sys.stdin.isatty():
        from app.sql_repl import loop

        loop(place, version=version, ask=ask, ask_saved=ask_saved, show=answer, suffixes=_SUFFIXES)
        return
    if saved is not None:
        result = ask_saved(saved)
    else:
        result = ask(sys.stdin.read() if query in (None, "-") else query)
    if out:
        save(result, chosen, out)
        errors.print(f"{result.table.num_rows:,} rows → {out}", highlight=False)
        tell(result)
    else:
        answer(result)


def show(result: QueryResult, form: Format) -> None:
    """Print the rows on standard output."""
    if form == "csv":
        sys.stdout.write(to_csv(result))
    elif form == "json":
        sys.stdout.write(to_json(result) + "\n")
    else:
        cells = [[_cell(value) for value in row] for row in result.rows]
        widths = [
            max([cell_len(name), *(cell_len(row[place]) for row in cells)]) for place, name in enumerate(result.columns)
        ]
        needed = sum(widths) + 3 * len(widths) + 1
        if console.is_terminal and needed > console.width:
            console.print(_records(result, cells))
        else:  # a pipe or a file has no edge
            Console(width=max(needed, console.width)).print(_grid(result, cells))


def _grid(result: QueryResult, cells: Sequence[Sequence[str]]) -> Table:
    table = Table(header_style="bold")
    for place, column in enumerate(result.columns):
        kind = str(result.table.schema.field(place).type)
        right = kind.startswith(("int", "uint", "double", "float", "decimal"))
        table.add_column(Text(column), justify="right" if right else "left")
    for row in cells:
        table.add_row(*map(Text, row))
    return table


def _records(result: QueryResult, cells: Sequence[Sequence[str]]) -> Table:
    """One column a line, for rows too wide for the screen."""
    table = Table(show_header=False, box=SIMPLE)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for row in cells:
        for name, value in zip(result.columns, row, strict=True):
            table.add_row(Text(name), Text(value))
        table.add_section()
    return table


def _cell(value: object) -> str:
    if isinstance(value, list) and all(isinstance(item, str | int) for item in value):
        return ", ".join(map(str, value))
    return plain(value)


def tell(result: QueryResult) -> None:
    """Print on standard error which version answered, how old it is, and what to mind."""
    count = f"{result.table.num_rows:,} rows"
    cut = f" (cut at {result.table.num_rows:,}; --limit 0 gives all)" if result.truncated else ""
    # a query that was cut, or that reads no table, has no count of rows scanned
    scanned = f"{result.scanned:,} rows scanned · " if result.scanned else ""
    errors.print(
        f"[dim]{count}{cut} · version {result.version} · {age_text(result.age)} old · {scanned}{result.ms} ms[/]",
        highlight=False,
    )
    for warning in result.warnings:
        errors.print(f"[yellow]warning[/] {warning}", highlight=False)


@publish_app.command("list")
def list_versions() -> None:
    """Published versions, the newest first; * marks the one readers get."""
    table = Table(header_style="bold")
    for name in ("", "version", "published (UTC)", "as of (UTC)", "tables", "rows", "MB", "warnings"):
        table.add_column(name, justify="right" if name in ("tables", "rows", "MB", "warnings") else "left")
    found = versions(home())
    here = current_version(home()).version if found else None
    for item in found:
        table.add_row(*_line(item, item.version == here))
    console.print(table)


@publish_app.command("rollback")
def roll_back(
    version: Annotated[
        str | None, typer.Argument(help="a version of `cdp publish list`; default: the one before")
    ] = None,
) -> None:
    """Let readers get an earlier version. The next run publishes a new one as usual."""
    item = rollback(home(), version)
    console.print(f"[green]✓[/] readers now get version {item.version}", highlight=False)


def _line(item: Published, here: bool) -> list[str]:
    return [
        "*" if here else "",
        item.version,
        f"{item.published_at:%Y-%m-%d %H:%M}",
        f"{item.as_of:%Y-%m-%d %H:%M}",
        str(len(item.tables)),
        f"{sum(item.tables.values()):,}",
        f"{item.size / 1e6:,.1f}",
        str(len(item.warnings)),
    ]


def _format(form: str | None, out: Path | None) -> Format:
    chosen = form or (_SUFFIXES.get(out.suffix.lower()) if out else "table")
    if chosen not in ("table", "csv", "json", "xlsx", "parquet"):
        raise ConfigError(f"`{chosen or out}` is no format", hint="table, csv, json, xlsx or parquet")
    if out is None and chosen in ("xlsx", "parquet"):
        raise ConfigError(f"{chosen} is written to a file", hint=f"add --out result.{chosen}")
    if out is not None and chosen == "table":
        raise ConfigError("a table is for reading on screen", hint="for a file take csv, json, xlsx or parquet")
    return chosen  # type: ignore[return-value]  # one of the names above


def _role(role: str) -> Role:
    if role not in get_args(Role):
        raise ConfigError(f"`{role}` is no role that asks{nearest(role, get_args(Role))}")
    return role  # type: ignore[return-value]  # one of them
