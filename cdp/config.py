"""Reading a brand's YAML: text in, a validated pydantic model out, and every fault told with its file and line."""

from __future__ import annotations

import difflib
import io
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, PrivateAttr, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError

from cdp.errors import ConfigError

M = TypeVar("M", bound=BaseModel)


class _Origin:
    """The file a model was read from, and its nodes with their lines. It makes no difference to what the model says."""

    def __init__(self, file: str, data: Any) -> None:
        self.file, self.data = file, data

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 0


class Strict(BaseModel):
    """Base of every configuration model: unknown keys are faults, values do not change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)
    _origin: _Origin | None = PrivateAttr(default=None)

    def place(self, *path: str) -> str:
        """`file:line` of *path* in the file that `parse` read this from, for faults that only the data shows. Items of
        a list go by their `id`. Empty when it was not read from a file."""
        return f"{self._origin.file}:{line_of(self._origin.data, path)}" if self._origin else ""


def parse(text: str, model: type[M], *, file: str) -> M:
    """Validate YAML *text* as *model*. Raises `ConfigError` that lists every fault as `file:line: where: what`.

    An unknown key or value comes with the nearest valid name. An empty text is an empty mapping.
    """
    data = _load(text, file)
    try:
        found = model.model_validate(_plain(data))
        if isinstance(found, Strict):
            found._origin = _Origin(file, data)
        return found
    except ValidationError as error:
        faults = [_fault(file, data, model, item) for item in error.errors(include_url=False)]
        raise ConfigError(
            "\n".join(faults), hint=f"mend {file}; `cdp config check` tells all faults of a home"
        ) from error


def _load(text: str, file: str) -> CommentedMap:
    yaml = YAML(typ="rt")
    yaml.allow_duplicate_keys = False
    try:
        data = yaml.load(io.StringIO(text))
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{file}:{mark.line + 1}:{mark.column + 1}" if mark else file
        problem = str(error.problem or error.context).split("\n")[0]
        raise ConfigError(f"{where}: not valid YAML: {problem}", hint="check indentation and quotes there") from error
    if data is None:
        return CommentedMap()
    if not isinstance(data, CommentedMap):
        raise ConfigError(f"{file}:1: expected a mapping of names to values, found {type(data).__name__}")
    return data


def _plain(node: Any) -> Any:
    """The same data as plain dicts, lists and scalars (ruamel's scalar classes would confuse strict validation)."""
    if isinstance(node, Mapping):
        return {str(key) if not isinstance(key, bool) else key: _plain(value) for key, value in node.items()}
    if isinstance(node, Sequence) and not isinstance(node, (str, bytes)):
        return [_plain(item) for item in node]
    for kind in (bool, int, float, str):
        if isinstance(node, kind) and type(node) is not kind and not (kind is int and isinstance(node, bool)):
            return kind(node)
    return node


def _fault(file: str, data: CommentedMap, model: type[BaseModel], item: Any) -> str:
    path = [*item["loc"], *item.get("ctx", {}).get("path", ())]  # a validator may point deeper than its own field
    line = line_of(data, path)
    where = ".".join(str(part) for part in path) or "(top)"
    message = item["msg"]
    found = item.get("input")
    if item["type"] == "extra_forbidden":
        names = _valid_names(model, path[:-1])
        message = f"unknown key `{path[-1]}`" + nearest(str(path[-1]), names)
    elif item["type"] == "union_tag_invalid":
        expected = [part.strip("'") for part in str(item["ctx"]["expected_tags"]).split(", ")]
        tag, found = str(item["ctx"]["discriminator"]).strip("'"), item["ctx"]["tag"]
        line, where = line_of(data, [*path, tag]), f"{where}.{tag}"
        message = f"expected one of {', '.join(expected)}; found `{found}`" + nearest(str(found), expected)
    elif item["type"] in ("literal_error", "enum"):
        expected = [part.strip("'") for part in str(item["ctx"]["expected"]).replace(" or ", ", ").split(", ")]
        message = f"expected one of {', '.join(expected)}; found `{found}`" + nearest(str(found), expected)
    elif item["type"] == "missing":
        message = f"`{path[-1]}` is missing"
    elif isinstance(found, (str, int, float, bool)) and item["type"] != "plain_secret":
        message = f"{message}; found `{found}`"
    return f"{file}:{line}: {where}: {message}"


def line_of(data: Any, path: Sequence[Any]) -> int:
    """The line (from 1) of the deepest part of *path* that exists in *data* as loaded by `parse`."""
    node, line = data, 1
    for part in path:
        if isinstance(node, CommentedMap) and part in node:
            line = node.lc.key(part)[0] + 1
            node = node[part]
        elif isinstance(node, CommentedSeq) and (number := _number(node, part)) is not None:
            line = node.lc.item(number)[0] + 1
            node = node[number]
    return line


def _number(items: CommentedSeq, part: Any) -> int | None:
    """Which of *items* is meant: by number, or by its `id`."""
    if isinstance(part, int):
        return part if part < len(items) else None
    ids = [item.get("id") if isinstance(item, CommentedMap) else None for item in items]
    if part in ids:
        return ids.index(part)
    return int(part) if str(part).isdecimal() and int(part) < len(items) else None


def nearest(name: str, valid: Sequence[str]) -> str:
    """`; did you mean …?` when a valid name is close to *name*, else the list of valid names (when short), else ''."""
    close = difflib.get_close_matches(name, valid, n=1, cutoff=0.6)
    if close:
        return f"; did you mean `{close[0]}`?"
    return f"; valid: {', '.join(valid)}" if 0 < len(valid) <= 20 else ""


def _valid_names(model: type[BaseModel], path: Sequence[Any]) -> list[str]:
    """Field names of the model that sits at *path*, found by annotations (unions give the names of all members)."""
    models = [model]
    for part in path:
        following: list[type[BaseModel]] = []
        for current in models:
            field = current.model_fields.get(str(part)) or next(
                (item for item in current.model_fields.values() if item.alias == part), None
            )
            following += _models_in(field.annotation) if field else [current]
        models = following or models
    return sorted({item.alias or name for current in models for name, item in current.model_fields.items()})


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for argument in getattr(annotation, "__args__", ()) for found in _models_in(argument)]
