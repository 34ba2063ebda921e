"""Mended rejects, read again by the rules of their source, without moving the place the source is read from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cdp.errors import ConfigError
from cdp.streams import Batch, Connector, JsonLines, SourceCheck, Stream
from connectors import registry
from connectors.registry import SourceContext
from connectors.settings import FileSource, MappedStream

REASON = "reject_reason"  # the column that says why a row was rejected; not part of the row
_WORKBOOKS = (".xlsx", ".xlsm")
_RULES = ("columns", "identifiers", "nulls", "mode", "reject_budget")


class Replay:
    """*connector* on another file; the state it was given is the state it leaves."""

    def __init__(self, connector: Connector) -> None:
        self.connector = connector

    def streams(self) -> tuple[Stream, ...]:
        return self.connector.streams()

    def pull(self, stream: Stream, state: Mapping[str, Any]) -> Iterator[Batch | JsonLines]:
        """The mended rows; never a complete pull, whatever the source's mode."""
        for item in self.connector.pull(stream, {}):
            if isinstance(item, Batch):
                frame = item.frame.drop(REASON, strict=False)
                yield replace(item, frame=frame, state=dict(state), complete=False)
            else:
                yield replace(item, state=dict(state))

    def check(self) -> SourceCheck:
        return self.connector.check()


def replay(context: SourceContext, path: Path, stream: str) -> Replay:
    """A connector for *path*, a file of mended rows of one stream of the source.

    Tables and files take a workbook (a sheet per stream) or CSV with the source's own columns; logs take lines.
    Raises `ConfigError` for sources whose rows come over an API: mend them there and pull again.
    """
    settings = context.settings
    mappings = getattr(settings, "streams", None)
    if isinstance(mappings, Mapping) and isinstance(mappings.get(stream), MappedStream):
        mapping = mappings[stream]
        given = {name: getattr(mapping, name) for name in _RULES}
        sheet = {"sheet": stream} if path.suffix.lower() in _WORKBOOKS else {}
        rules = {"connector": "file", "streams": {stream: {**given, **sheet, "path": str(path)}}}
        settings = FileSource.model_validate(rules | {"timezone": context.timezone})
    elif hasattr(settings, "path"):
        workbook = hasattr(settings, "sheets") and path.suffix.lower() in _WORKBOOKS
        settings = settings.model_copy(update={"path": str(path)} | ({"sheets": [stream]} if workbook else {}))
    else:
        raise ConfigError(
            f"{context.name}: rows of a `{settings.connector}` source cannot be replayed from a file",
            hint="mend them at the source and pull again",
        )
    connector = registry.build(
        context.name,
        settings,
        root=context.root,
        environment=context.environment,
        now=context.now,
        timezone=context.timezone,
    )
    return Replay(connector)
