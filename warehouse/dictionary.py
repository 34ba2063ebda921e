"""The data dictionary: what every table and column means, where it comes from and how it is checked, on one page.

Everything on it is generated from the models and suites; the page is one file, needs no network and can be searched.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import duckdb
from jinja2 import Environment, FileSystemLoader, select_autoescape

from cdp.errors import ConfigError
from warehouse.connection import MARTS_CATALOG
from warehouse.expectations import load_suites
from warehouse.model_files import ModelGraph
from warehouse.models import check_models, column_lineage

_LAYERS = ("raw", "staging", "identity", "intermediate", "marts")
_BOX_WIDTH, _BOX_HEIGHT, _GAP_X, _GAP_Y = 196, 18, 84, 5


@dataclass(frozen=True)
class ColumnEntry:
    """One column. *made_from*, *read_by*: `schema.table.column` upstream and downstream."""

    name: str
    type: str
    description: str
    sensitivity: str
    made_from: tuple[str, ...]
    read_by: tuple[str, ...]


@dataclass(frozen=True)
class TableEntry:
    """One table or view. *kind*: table, view, incremental, or how else it is made."""

    name: str
    description: str
    description_zh: str
    grain: str
    owner: str
    kind: str
    file: str
    rows: int | None
    columns: tuple[ColumnEntry, ...]
    upstream: tuple[str, ...]
    downstream: tuple[str, ...]
    checks: tuple[tuple[str, str], ...]

    @property
    def schema(self) -> str:
        return self.name.split(".")[0]


def read_dictionary(
    con: duckdb.DuckDBPyConnection, graph: ModelGraph, *, checks: Mapping[str, Sequence[tuple[str, str]]]
) -> list[TableEntry]:
    """Every table that a model makes or reads and every table of `marts`, by layer and name.

    *checks*: table -> (severity, what holds). Types and row counts are those of the live tables, where they are there.
    """
    schema = check_models(graph, con)
    live = _live(con)
    lineage = {name: column_lineage(graph, name, schema) for name in graph.order}
    readers = _readers(lineage)
    read = {name for model in graph.models.values() for name in model.depends}
    names = sorted(
        {*graph.order, *read, *(name for name in schema if name.startswith("marts."))},
        key=lambda name: (_layer(name), name),
    )
    return [_entry(name, graph, schema, live, lineage, readers, checks) for name in names]


def write_dictionary(path: Path, con: duckdb.DuckDBPyConnection, graph: ModelGraph, *, expectations: Path) -> None:
    """Write the page to *path*, with the checks of the suites in *expectations* (none where the folder is missing).

    A path that ends in `.md` gets the published tables as Markdown, without what changes from run to run.
    """
    entries = read_dictionary(con, graph, checks=checks_of(expectations))
    path.write_text(render_markdown(entries) if path.suffix == ".md" else render(entries), encoding="utf-8")


def checks_of(folder: Path) -> dict[str, list[tuple[str, str]]]:
    """Table -> (severity, what holds), of the suites in *folder*."""
    if not folder.is_dir():
        return {}
    found: dict[str, list[tuple[str, str]]] = {}
    for suite in load_suites(folder):
        for table in suite.tables:
            found.setdefault(table.table, []).extend((check.severity, check.says) for check in table.checks)
    return found


def render(entries: Sequence[TableEntry]) -> str:
    """The page as HTML, in Chinese and English."""
    # what analysts read comes first, the way back to the sources after it
    layers = {layer: [entry for entry in entries if entry.schema == layer] for layer in reversed(_LAYERS)}
    ordered = [entry for layer in layers.values() for entry in layer]
    page = _templates().get_template("dictionary.html.j2")
    return page.render(entries=ordered, layers=layers, picture=picture(entries))


def render_markdown(entries: Sequence[TableEntry]) -> str:
    """The published tables as one Markdown page."""
    templates = _templates()
    templates.filters["cell"] = lambda text: " ".join((text or "").replace("|", "\\|").split())
    return templates.get_template("dictionary.md.j2").render(entries=[e for e in entries if e.schema == "marts"])


def _templates() -> Environment:
    return Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=select_autoescape(["html.j2"]),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def picture(entries: Sequence[TableEntry]) -> str:
    """The graph as SVG: one column of boxes for each layer, a line from each table to those that read it."""
    places: dict[str, tuple[int, int]] = {}
    for place, layer in enumerate(_LAYERS):
        for row, entry in enumerate(entry for entry in entries if entry.schema == layer):
            places[entry.name] = (place * (_BOX_WIDTH + _GAP_X), 26 + row * (_BOX_HEIGHT + _GAP_Y))
    if not places:
        raise ConfigError("there is no table to draw", hint="are there models?")
    width = len(_LAYERS) * (_BOX_WIDTH + _GAP_X)
    height = max(y for _, y in places.values()) + 40
    lines = [_line(places[source], places[entry.name], source, entry.name)
             for entry in entries for source in entry.upstream if source in places]  # fmt: skip
    boxes = [_box(name, *place) for name, place in places.items()]
    heads = [
        f'<text class="layer" x="{place * (_BOX_WIDTH + _GAP_X)}" y="14">{layer}</text>'
        for place, layer in enumerate(_LAYERS)
    ]
    body = "\n".join([*lines, *boxes, *heads])
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="血缘 lineage">\n{body}\n</svg>'


def _box(name: str, x: int, y: int) -> str:
    label = html.escape(name.split(".")[1])
    shown = label if len(label) <= 32 else label[:31] + "…"
    return (
        f'<a href="#{html.escape(name)}" data-name="{html.escape(name)}">'
        f'<rect x="{x}" y="{y}" width="{_BOX_WIDTH}" height="{_BOX_HEIGHT}" rx="3"/>'
        f'<text x="{x + 5}" y="{y + 13}">{shown}</text><title>{html.escape(name)}</title></a>'
    )


def _line(start: tuple[int, int], end: tuple[int, int], source: str, target: str) -> str:
    x1, y1 = start[0] + _BOX_WIDTH, start[1] + _BOX_HEIGHT // 2
    x2, y2 = end[0], end[1] + _BOX_HEIGHT // 2
    if x2 <= x1:  # within a layer: leave and come back on the right
        x2 = end[0] + _BOX_WIDTH
        bend = x1 + 24 + abs(y2 - y1) // 12
        path = f"M{x1},{y1} C{bend},{y1} {bend},{y2} {x2},{y2}"
    else:
        middle = (x1 + x2) // 2
        path = f"M{x1},{y1} C{middle},{y1} {middle},{y2} {x2},{y2}"
    return f'<path d="{path}" data-from="{html.escape(source)}" data-to="{html.escape(target)}"/>'


def _entry(
    name: str,
    graph: ModelGraph,
    schema: Mapping[str, Sequence[str]],
    live: Mapping[str, _Live],
    lineage: Mapping[str, Mapping[str, Sequence[str]]],
    readers: Mapping[str, Sequence[str]],
    checks: Mapping[str, Sequence[tuple[str, str]]],
) -> TableEntry:
    model, external, facts = graph.models.get(name), graph.externals.get(name), live.get(name, _Live())
    # tables that code writes bear `中文 | English` as their comment
    chinese, _, english = facts.comment.rpartition(" | ")
    described = {column.name: column for column in model.columns} if model else {}
    columns = tuple(
        ColumnEntry(
            name=column,
            type=facts.types.get(column, ""),
            description=described[column].description if column in described else facts.comments.get(column, ""),
            sensitivity=described[column].sensitivity if column in described else "none",
            made_from=tuple(lineage.get(name, {}).get(column, ())),
            read_by=tuple(readers.get(f"{name}.{column}", ())),
        )
        for column in schema.get(name, ())
    )
    return TableEntry(
        name=name,
        description=model.description if model else (english or (external.description if external else "")),
        description_zh=model.header.get("description_zh", "") if model else chinese,
        grain=", ".join(model.grain) if model else "",
        owner=model.owner if model else "",
        kind=model.materialized if model else ("landing" if name.startswith("raw.") else "code"),
        file=_file(model.path) if model else "",
        rows=facts.rows,
        columns=columns,
        upstream=tuple(model.depends) if model else (),
        downstream=tuple(sorted(key for key, other in graph.models.items() if name in other.depends)),
        checks=tuple(checks.get(name, ())),
    )


@dataclass(frozen=True)
class _Live:
    """What the database says of one table."""

    comment: str = ""
    rows: int | None = None
    types: Mapping[str, str] = field(default_factory=dict)
    comments: Mapping[str, str] = field(default_factory=dict)


def _live(con: duckdb.DuckDBPyConnection) -> dict[str, _Live]:
    here = "database_name in (current_database(), ?) and not internal"
    tables = con.execute(
        f"select schema_name || '.' || table_name, comment, estimated_size from duckdb_tables() where {here} "
        f"union all select schema_name || '.' || view_name, comment, null from duckdb_views() where {here}",
        [MARTS_CATALOG, MARTS_CATALOG],
    ).fetchall()
    types: dict[str, dict[str, str]] = {}
    comments: dict[str, dict[str, str]] = {}
    for name, column, kind, comment in con.execute(
        "select schema_name || '.' || table_name, column_name, data_type, comment from duckdb_columns() "
        f"where {here} order by 1, column_index",
        [MARTS_CATALOG],
    ).fetchall():
        types.setdefault(name, {})[column] = kind.lower()
        comments.setdefault(name, {})[column] = comment or ""
    return {
        name: _Live(comment or "", rows, types.get(name, {}), comments.get(name, {})) for name, comment, rows in tables
    }


def _readers(lineage: Mapping[str, Mapping[str, Sequence[str]]]) -> dict[str, list[str]]:
    readers: dict[str, list[str]] = {}
    for table, columns in lineage.items():
        for column, sources in columns.items():
            for source in sources:
                readers.setdefault(source, []).append(f"{table}.{column}")
    return readers


def _layer(name: str) -> int:
    schema = name.split(".")[0]
    return _LAYERS.index(schema) if schema in _LAYERS else len(_LAYERS)


def _file(path: Path) -> str:
    """*path* from the folder `models` on, so that pages of two machines are equal."""
    parts = path.parts
    return "/".join(parts[parts.index("models") :]) if "models" in parts else path.name
