"""`cdp sql` without a query: one question after another. Tab completes tables and columns; `.help` tells the rest."""

from __future__ import annotations

import readline
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from app.context import console, errors
from cdp.errors import CdpError, ConfigError
from warehouse.home import Home
from warehouse.query import Format, QueryResult, age_text, save
from warehouse.reader import connect, published
from warehouse.saved_queries import saved_queries

_WORDS = (
    *("select", "from", "where", "group", "by", "order", "limit", "having", "with", "join", "left", "using", "on"),
    *("and", "or", "not", "in", "is", "null", "between", "like", "distinct", "case", "when", "then", "else", "end"),
    *(
        "count",
        "sum",
        "avg",
        "min",
        "max",
        "filter",
        "over",
        "partition",
        "qualify",
        "union",
        "all",
        "as",
        "asc",
        "desc",
    ),
    *("describe", "summarize"),
)
_HELP = """  end a query with ; and Enter (it may take several lines)
  .tables             published tables, with what they hold
  .columns TABLE      columns of a table, with their meaning
  .saved              saved queries of config/queries/; .saved NAME runs one
  .save FILE          the last answer as .csv, .json, .xlsx or .parquet
  .version            which version answers
  .quit               leave (also Ctrl-D)"""


@dataclass(frozen=True)
class Catalog:
    """What is published. *tables*: name -> meaning. *columns*: table -> (column, type, meaning)."""

    tables: dict[str, str]
    columns: dict[str, list[tuple[str, str, str]]]


def read_catalog(home: Home, version: str | None) -> Catalog:
    """Tables and columns of the published version, as their models describe them."""
    with connect(home, version=version) as con:
        tables = con.execute(
            "select table_name, coalesce(comment, '') from duckdb_tables() where schema_name = 'marts' "
            "union all select view_name, coalesce(comment, '') from duckdb_views() where schema_name = 'marts' "
            "order by 1"
        ).fetchall()
        rows = con.execute(
            "select table_name, column_name, lower(data_type), coalesce(comment, '') from duckdb_columns() "
            "where schema_name = 'marts' order by table_name, column_index"
        ).fetchall()
    columns: dict[str, list[tuple[str, str, str]]] = {}
    for table, *facts in rows:
        columns.setdefault(table, []).append((facts[0], facts[1], facts[2]))
    return Catalog(dict(tables), columns)


def completions(text: str, line: str, catalog: Catalog) -> list[str]:
    """What *text*, the word before the cursor in *line*, may become: columns of tables the line names come first."""
    stem, dot, part = text.rpartition(".")
    if dot and stem.split(".")[-1] in catalog.columns:
        return [f"{stem}.{name}" for name, _, _ in catalog.columns[stem.split(".")[-1]] if name.startswith(part)]
    if stem == "marts":
        return [f"marts.{name}" for name in catalog.tables if name.startswith(part)]
    named = [table for table in catalog.tables if table in line]
    columns = [name for table in named for name, _, _ in catalog.columns.get(table, [])]
    every = dict.fromkeys([*columns, *catalog.tables, "marts.", *_WORDS])
    return [name for name in every if name.startswith(text.lower())]


def loop(
    home: Home,
    *,
    version: str | None,
    ask: Callable[[str], QueryResult],
    ask_saved: Callable[[str], QueryResult],
    show: Callable[[QueryResult], None],
    suffixes: dict[str, Format],
) -> None:
    """Read queries and commands until the end of input. An error is told and the loop goes on; no history is kept."""
    catalog = read_catalog(home, version)
    item = published(home, version)
    _complete_with(catalog)
    console.print(
        f"version {item.version}, as of {item.as_of:%Y-%m-%d %H:%M} UTC · {len(catalog.tables)} tables · .help",
        highlight=False,
    )
    last: QueryResult | None = None
    for text in _inputs():
        try:
            if text.startswith(".saved "):
                last = ask_saved(text.removeprefix(".saved ").strip())
                show(last)
            elif text.startswith("."):
                if not _command(text, home, version, catalog, last, suffixes):
                    return
            else:
                last = ask(text)
                show(last)
        except CdpError as error:
            errors.print(str(error), markup=False, highlight=False, style="red")


def _inputs() -> Iterator[str]:
    lines: list[str] = []
    while True:
        try:
            line = input("   ... " if lines else "cdp> ").strip()
        except EOFError:
            return
        except KeyboardInterrupt:
            lines = []
            console.print()
            continue
        if not lines and line.startswith("."):
            yield line
        elif line:
            lines.append(line)
            if line.endswith(";"):
                yield "\n".join(lines)
                lines = []


def _command(
    text: str,
    home: Home,
    version: str | None,
    catalog: Catalog,
    last: QueryResult | None,
    suffixes: dict[str, Format],
) -> bool:
    """Do one dot command; False to leave."""
    word, _, rest = text.partition(" ")
    rest = rest.strip().removeprefix("marts.")
    if word in (".quit", ".exit", ".q"):
        return False
    if word == ".tables":
        _list([(name, meaning.split(" | ")[0][:100]) for name, meaning in sorted(catalog.tables.items())])
    elif word == ".columns":
        if rest not in catalog.columns:
            raise ConfigError(f"no table is called `{rest}`", hint=".tables lists them")
        _list([(name, f"{kind}  {meaning}") for name, kind, meaning in catalog.columns[rest]])
    elif word == ".version":
        item = published(home, version)
        console.print(f"{item.version}, published {item.published_at:%Y-%m-%d %H:%M} UTC", highlight=False)
    elif word == ".saved":
        _list([(name, query.description) for name, query in saved_queries(home).items()])
    elif word == ".save":
        _save(rest, last, suffixes)
    else:
        console.print(_HELP, markup=False, highlight=False)
    return True


def _save(name: str, last: QueryResult | None, suffixes: dict[str, Format]) -> None:
    path = Path(name).expanduser()
    form = suffixes.get(path.suffix.lower())
    if last is None:
        raise ConfigError("there is no answer to save yet", hint="ask something first")
    if form is None:
        raise ConfigError(f"`{name}` has no known ending", hint=", ".join(suffixes))
    save(last, form, path)
    console.print(f"{last.table.num_rows:,} rows → {path} ({age_text(last.age)} old)", highlight=False)


def _list(pairs: Sequence[tuple[str, str]]) -> None:
    width = max((len(name) for name, _ in pairs), default=0)
    for name, meaning in pairs:
        console.print(f"  {name:<{width}}  {meaning}", markup=False, highlight=False)


def _complete_with(catalog: Catalog) -> None:
    def complete(text: str, state: int) -> str | None:
        found = completions(text, readline.get_line_buffer(), catalog)
        return found[state] if state < len(found) else None

    readline.set_completer(complete)
    readline.set_completer_delims(" \t\n,()=<>+-*/;'\"")
    readline.parse_and_bind("tab: complete")
