"""Reading model files: one SQL file, one table or view. Text in, a graph of models out; touches no database.

A model file starts with a comment that describes its table and holds `key: value` lines (`grain`, `owner`,
`materialized`, `unique_key`, `partition`, `schema`, and for incremental models `follows`, `scope`, `cursor`,
`digest`: see `warehouse.model_increments`); then one query, whose last CTE lists the columns with a comment behind
each. Its folder is its layer. See `docs/guides/models.md`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Literal, get_args

import sqlglot
from ruamel.yaml import YAML
from sqlglot import exp
from sqlglot.errors import ParseError, TokenError

from cdp.config import nearest
from cdp.errors import ConfigError
from cdp.privacy.masking import MASKS, Mask

DIALECT = "duckdb"
Materialized = Literal["table", "view", "incremental"]
Sensitivity = Literal["none", "personal"]
# Folder -> schema its models are stored in, unless the header says otherwise.
LAYER_SCHEMAS = {
    "staging": "staging",
    "identity": "identity",
    "marts": "marts",
    "analytics": "marts",
    "activation": "activation",
}
_HEADER = re.compile(r"\A\s*/\*(.*?)\*/", re.DOTALL)
_FIELD = re.compile(r"^\s*([a-z_]+):\s*(.+?)\s*$")
_FIELDS = (
    "grain",
    "owner",
    "materialized",
    "unique_key",
    "partition",
    "schema",
    "sensitivity",
    "description_zh",
    "follows",
    "scope",
    "cursor",
    "digest",
)
_UPDATE = ".update.sql"  # of an incremental model: which stored rows have other values now
_PERSONAL = re.compile(r"\s*\[personal(?::\s*(\w+))?\]\s*$")
_MARTS = "marts"


@dataclass(frozen=True)
class ModelColumn:
    """One output column; *description* is the comment behind it.

    `[personal]` at the comment's end marks personal data; `[personal: phone]` says besides how a published table masks
    it (see `cdp.privacy.masking`), which every personal column of the schema `marts` must say.
    """

    name: str
    description: str = ""
    sensitivity: Sensitivity = "none"
    mask: Mask | None = None


@dataclass(frozen=True)
class Model:
    """One file. *name* is `schema.relation`; *depends* are the tables its query reads, in order of appearance."""

    name: str
    layer: str
    path: Path
    sql: str
    description: str
    grain: tuple[str, ...]
    owner: str
    materialized: Materialized
    unique_key: tuple[str, ...]
    partition: str | None
    columns: tuple[ModelColumn, ...]
    depends: tuple[str, ...]
    header: Mapping[str, str] = field(default_factory=dict)
    update: Model | None = None  # the query of `<name>.update.sql`
    marts_places: tuple[int, ...] = ()  # where the text names the schema `marts`, last first

    @property
    def schema(self) -> str:
        return self.name.split(".")[0]

    @property
    def follows(self) -> str | None:
        """The table of landing batches, or the incremental model made from them, whose changes this one takes."""
        return self.header.get("follows")

    @property
    def scope(self) -> str | None:
        """Condition on the rows that an incremental run makes again."""
        return self.header.get("scope")

    @property
    def digest(self) -> str | None:
        """Column that is equal where rows are: an incremental run leaves those rows as they are."""
        return self.header.get("digest")

    @property
    def masked(self) -> dict[str, Mask]:
        """Columns that a published table shows masked, with the mask."""
        return {column.name: column.mask for column in self.columns if column.mask and self.schema == _MARTS}

    @property
    def relation(self) -> str:
        return self.name.split(".")[1]

    def tree(self) -> exp.Query:
        """The query, parsed afresh (callers may change it)."""
        tree = sqlglot.parse_one(self.sql, dialect=DIALECT)
        if not isinstance(tree, exp.Query):
            raise ConfigError(f"{self.path}:1: expected one query, found {type(tree).__name__.upper()}")
        return tree


@dataclass(frozen=True)
class ExternalTable:
    """A table that code writes and models read, as declared in `models/external.yaml`."""

    name: str
    description: str
    columns: tuple[str, ...]


@dataclass(frozen=True)
class ModelGraph:
    """All models of a folder. *order*: every model after what it reads, ties by name, so always the same. *words*:
    column -> what it means wherever it bears this name."""

    models: Mapping[str, Model]
    order: tuple[str, ...]
    externals: Mapping[str, ExternalTable] = field(default_factory=dict)
    words: Mapping[str, str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Model:
        """The model called *name*, as `schema.relation` or the relation alone. Raises `ConfigError` if none is."""
        if name in self.models:
            return self.models[name]
        found = [key for key in self.order if key.split(".")[1] == name]
        if len(found) == 1:
            return self.models[found[0]]
        raise ConfigError(f"no model is called `{name}`{nearest(name, [*self.order, *map(_relation, self.order)])}")

    def select(self, *terms: str) -> list[str]:
        """Names in running order. A term is a layer, a schema, a model, `+model` (with all it needs), `model+` (with
        all that needs it), or `*`. No term selects everything."""
        chosen: set[str] = set()
        for term in terms or ("*",):
            chosen |= self._select(term)
        return [name for name in self.order if name in chosen]

    def upstream(self, name: str) -> set[str]:
        """Every model that *name* needs, itself not included."""
        return self._closure(name, {key: model.depends for key, model in self.models.items()})

    def downstream(self, name: str) -> set[str]:
        """Every model that needs *name*, itself not included."""
        readers: dict[str, list[str]] = {}
        for key, model in self.models.items():
            for needed in model.depends:
                readers.setdefault(needed, []).append(key)
        return self._closure(name, readers)

    def _select(self, term: str) -> set[str]:
        if term == "*":
            return set(self.order)
        for attribute in ("layer", "schema"):
            found = {key for key, model in self.models.items() if getattr(model, attribute) == term}
            if found:
                return found
        name = self[term.strip("+")].name
        chosen = {name}
        if term.startswith("+"):
            chosen |= self.upstream(name)
        if term.endswith("+"):
            chosen |= self.downstream(name)
        return chosen

    def _closure(self, name: str, edges: Mapping[str, Sequence[str]]) -> set[str]:
        found: set[str] = set()
        queue = [name]
        while queue:
            for following in edges.get(queue.pop(), ()):
                if following in self.models and following not in found:
                    found.add(following)
                    queue.append(following)
        return found


def load_models(directory: Path) -> ModelGraph:
    """Read every `*.sql` below *directory*. Raises one `ConfigError` that lists all faults as `file:line: what`.

    Unknown names are not looked for here: `warehouse.models.check_models` does that against a live connection.
    """
    faults: list[str] = []
    models: dict[str, Model] = {}
    words = column_words(directory)
    for path in sorted(directory.rglob("*.sql")):
        if path.name.endswith(_UPDATE):
            continue  # read with the model it belongs to
        try:
            model = _worded(read_model(path, directory), words)
        except ConfigError as error:
            faults.append(error.message)
            continue
        if model.name in models:
            faults.append(f"{path}:1: `{model.name}` is already made by {models[model.name].path}")
        models[model.name] = model
    if faults:
        raise ConfigError("\n".join(faults), hint="mend the files above; nothing has run")
    return ModelGraph(models, _ordered(models), _externals(directory / "external.yaml"), words)


def column_words(directory: Path) -> dict[str, str]:
    """Column -> what it means wherever it bears this name (`columns.yaml` of *directory*)."""
    path = directory / "columns.yaml"
    words: dict[str, str] = YAML(typ="safe").load(path.read_text(encoding="utf-8")) if path.exists() else {}
    return words


def _worded(model: Model, words: Mapping[str, str]) -> Model:
    """*model* with a meaning for columns of which its file says nothing more than their name."""
    columns = (replace(item, description=item.description or words.get(item.name, "")) for item in model.columns)
    return replace(model, columns=tuple(columns))


def read_model(path: Path, root: Path) -> Model:
    """Parse one file below *root*. Raises `ConfigError` with file and line."""
    sql = path.read_text(encoding="utf-8")
    layer = path.relative_to(root).parts[0]
    if layer not in LAYER_SCHEMAS:
        raise ConfigError(f"{path}:1: folder `{layer}` is no layer{nearest(layer, list(LAYER_SCHEMAS))}")
    description, header = _header(sql, path)
    tree = _parsed(sql, path)
    columns = tuple(_columns(tree, path))
    names = [column.name for column in columns]
    schema = header.get("schema", LAYER_SCHEMAS[layer])
    for column in columns:
        if schema == _MARTS and column.sensitivity == "personal" and column.mask is None:
            raise ConfigError(
                f"{path}:{_line_of(sql, column.name)}: `{column.name}` is personal and would be published: "
                f"say how it is masked, e.g. `[personal: phone]` (one of {', '.join(MASKS)})"
            )
    grain = _names(header.get("grain", ""))
    for key, listed in (
        ("grain", grain),
        ("unique_key", _names(header.get("unique_key", ""))),
        ("partition", _names(header.get("partition", ""))),
        ("digest", _names(header.get("digest", ""))),
    ):
        for name in listed:
            if name not in names:
                line = _line_of(sql, f"{key}:")
                raise ConfigError(f"{path}:{line}: {key} names `{name}`, which is no column{nearest(name, names)}")
    materialized = header.get("materialized", "view" if layer == "staging" else "table")
    if materialized not in get_args(Materialized):
        line = _line_of(sql, "materialized:")
        raise ConfigError(f"{path}:{line}: `{materialized}`{nearest(materialized, get_args(Materialized))}")
    ways = ("unique_key", "partition", "follows", "scope")
    if materialized == "incremental" and not any(way in header for way in ways):
        raise ConfigError(f"{path}:1: an incremental model needs one of {', '.join(f'`{way}:`' for way in ways)}")
    companion = path.with_name(f"{path.stem}{_UPDATE}")
    update = read_model(companion, root) if companion.exists() else None
    name = f"{schema}.{path.stem}"
    needed = [table_name(table) for table in tables_read(tree)] + [*filter(None, [header.get("follows")])]
    if update:
        needed += [other for other in update.depends if other != name]
    return Model(
        name=name,
        layer=layer,
        path=path,
        sql=sql,
        description=description,
        grain=grain,
        owner=header.get("owner", ""),
        materialized=materialized,  # type: ignore[arg-type]  # checked above
        unique_key=_names(header.get("unique_key", "")),
        partition=header.get("partition"),
        columns=columns,
        depends=tuple(dict.fromkeys(needed)),
        header=header,
        update=update,
        marts_places=tuple(
            sorted((table.args["db"].meta["start"] for table in tables_read(tree) if table.db == _MARTS), reverse=True)
        ),
    )


def tables_read(tree: exp.Expr) -> Iterator[exp.Table]:
    """Every real table a query names: not its CTEs, not table functions."""
    ctes = {cte.alias for cte in tree.find_all(exp.CTE)}
    for table in tree.find_all(exp.Table):
        if isinstance(table.this, exp.Identifier) and (table.db or table.name not in ctes):
            yield table


def table_name(table: exp.Table) -> str:
    """`schema.relation` as models name tables."""
    return f"{table.db}.{table.name}" if table.db else table.name


def line_of_node(node: exp.Expr) -> int:
    """Line (from 1) of the first word below *node* that knows its place; 1 when none does."""
    for part in node.find_all(exp.Identifier, exp.Star):
        if part.meta.get("line"):
            return int(part.meta["line"])
    return 1


def final_select(tree: exp.Query) -> exp.Query:
    """The query that lists the columns: the last CTE when the file ends in `select * from <last CTE>`."""
    query: exp.Query = tree
    while isinstance(query, exp.Select) and query.is_star and len(query.expressions) == 1:
        source = query.args.get("from_")
        target = source.this.name if source and isinstance(source.this, exp.Table) else None
        following = next((cte.this for cte in tree.find_all(exp.CTE) if cte.alias == target), None)
        if not isinstance(following, exp.Query):
            break
        query = following
    return query


def _header(sql: str, path: Path) -> tuple[str, dict[str, str]]:
    match = _HEADER.match(sql)
    if not match:
        raise ConfigError(f"{path}:1: no header comment: a model starts with /* what it holds, grain:, owner: */")
    header: dict[str, str] = {}
    prose: list[str] = []
    for number, line in enumerate(match[1].splitlines(), start=1):
        found = _FIELD.match(line)
        if found and found[1] in _FIELDS:
            header[found[1]] = found[2]
        elif found and nearest(found[1], _FIELDS).startswith("; did you mean"):
            raise ConfigError(f"{path}:{number}: unknown header field `{found[1]}`{nearest(found[1], _FIELDS)}")
        elif line.strip():
            prose.append(line.strip())
    for needed in ("grain", "owner"):
        if needed not in header:
            raise ConfigError(f"{path}:1: the header has no `{needed}:` line")
    return " ".join(prose), header


def _parsed(sql: str, path: Path) -> exp.Query:
    try:
        trees = [tree for tree in sqlglot.parse(sql, dialect=DIALECT) if tree is not None]
    except ParseError as error:
        first = error.errors[0]
        raise ConfigError(f"{path}:{first['line']}: {first['description']} near `{first['highlight']}`") from error
    except TokenError as error:
        raise ConfigError(f"{path}:1: not SQL: {error}") from error
    if len(trees) != 1 or not isinstance(trees[0], exp.Query):
        found = ", ".join(type(tree).__name__.upper() for tree in trees) or "nothing"
        raise ConfigError(f"{path}:1: expected exactly one query, found {found}")
    return trees[0]


def _columns(tree: exp.Query, path: Path) -> Iterator[ModelColumn]:
    for node in final_select(tree).selects:
        if node.is_star or not node.alias_or_name:
            line = line_of_node(node)
            raise ConfigError(f"{path}:{line}: the last CTE lists its columns one by one; found `{node.sql(DIALECT)}`")
        comments = [*(node.comments or []), *((node.this.comments if isinstance(node, exp.Alias) else None) or [])]
        text = " ".join(comment.strip() for comment in comments)
        found = _PERSONAL.search(text)
        mask = found[1] if found else None
        if mask is not None and mask not in MASKS:
            raise ConfigError(f"{path}:{line_of_node(node)}: no mask is called `{mask}`{nearest(mask, MASKS)}")
        yield ModelColumn(
            node.alias_or_name,
            _PERSONAL.sub("", text),
            "personal" if found else "none",
            mask,  # type: ignore[arg-type]  # one of MASKS
        )


def _ordered(models: Mapping[str, Model]) -> tuple[str, ...]:
    sorter: TopologicalSorter[str] = TopologicalSorter()
    for name in sorted(models):
        sorter.add(name, *(needed for needed in models[name].depends if needed in models))
    try:
        sorter.prepare()
    except CycleError as error:
        cycle = list(reversed(error.args[1]))
        first = models[cycle[0]]
        node = next(table for table in tables_read(first.tree()) if table_name(table) == cycle[1])
        raise ConfigError(
            f"{first.path}:{line_of_node(node)}: models need each other in a circle: {' reads '.join(cycle)}",
            hint="move what both need into a model of its own",
        ) from error
    order: list[str] = []
    while sorter.is_active():
        ready = sorted(sorter.get_ready())
        order += ready
        sorter.done(*ready)
    return tuple(order)


def _externals(path: Path) -> dict[str, ExternalTable]:
    if not path.exists():
        return {}
    declared = YAML(typ="safe").load(path.read_text(encoding="utf-8")) or {}
    return {
        name: ExternalTable(name, str(entry.get("description", "")), tuple(entry["columns"]))
        for name, entry in declared.items()
    }


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _relation(name: str) -> str:
    return name.split(".")[1]


def _line_of(sql: str, text: str) -> int:
    return sql[: sql.find(text)].count("\n") + 1 if text in sql else 1
