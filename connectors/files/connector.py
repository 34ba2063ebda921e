"""A brand's own files: CSV, XLSX, Parquet or JSONL, mapped column by column onto the canonical streams."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import polars as pl

from cdp.ahead import ahead
from cdp.errors import CdpError, FatalError
from cdp.streams import Batch, SourceCheck, Stream
from connectors import canonical
from connectors.files.discover import Found, find, raise_all, unread
from connectors.files.reader import read
from connectors.mapping import apply
from connectors.registry import SourceContext
from connectors.sample import sample
from connectors.settings import FileSource, FileStream, MappedStream


def build(context: SourceContext) -> FileConnector:
    return FileConnector(context)


def streams_of(settings: FileSource) -> tuple[Stream, ...]:
    """The canonical streams a mapped source gives, with its own mode and budget."""
    return tuple(canonical.dated(stream) for stream in mapped_streams(settings.streams, settings.reject_budget))


def mapped_streams(mappings: Mapping[str, MappedStream], budget: float | None) -> tuple[Stream, ...]:
    """Canonical streams as configured; a stream's own reject budget goes before its source's."""
    streams = []
    for name, mapping in mappings.items():
        stream = canonical.STREAMS_BY_NAME[name]
        share = mapping.reject_budget if mapping.reject_budget is not None else budget
        streams.append(
            replace(
                stream,
                mode=mapping.mode or stream.mode,
                reject_budget=stream.reject_budget if share is None else share,
            )
        )
    return tuple(streams)


class FileConnector:
    """Files of a path, folder or glob; a file is read once per content."""

    def __init__(self, context: SourceContext) -> None:
        self.context = context

    def streams(self) -> tuple[Stream, ...]:
        return streams_of(self.context.settings)

    def pull(self, stream: Stream, state: Mapping[str, Any]) -> Iterator[Batch]:
        """A file's rows in parts; only its last part says that it was read. What cannot be read is told at the end."""
        mapping: FileStream = self.context.settings.streams[stream.name]
        faults: dict[str, CdpError] = {}
        before: Mapping[str, Any] = state
        whole = stream.mode == "snapshot"
        held: Batch | None = None
        for found in unread(mapping.path, self.context.root, state, failed=faults, whole=whole):
            try:
                for batch in ahead(self._batches(stream, mapping, found, before)):
                    if held is not None:
                        yield held
                    held = batch
                if held is not None and not whole:
                    last, held = held, None
                    yield last
                before = found.state
            except FatalError as error:
                faults[found.name], held = error, None
        raise_all(faults)
        if held is not None:
            yield replace(held, complete=True)

    def _batches(self, stream: Stream, mapping: FileStream, found: Found, before: Mapping[str, Any]) -> Iterator[Batch]:
        for part in read(found.path, mapping, name=found.name):
            state = found.state if part.last else before
            if not part.frame.height:
                yield Batch(stream.name, part.frame, state, part.rejects, found.name)
                continue
            mapped = apply(part.frame, stream, mapping, timezone=self.context.timezone, file=found.name)
            rejects = (*part.rejects, *mapped.rejects)
            yield Batch(stream.name, mapped.frame, state, rejects, found.name, known=mapped.known)

    def check(self) -> SourceCheck:
        steps: list[tuple[str, bool, str]] = []
        shown: pl.DataFrame | None = None
        for stream in self.streams():
            step, rows = self._check(stream)
            steps.append(step)
            shown = rows if shown is None else shown
        return SourceCheck(all(ok for _, ok, _ in steps), tuple(steps), shown)

    def _check(self, stream: Stream) -> tuple[tuple[str, bool, str], pl.DataFrame | None]:
        mapping: FileStream = self.context.settings.streams[stream.name]
        try:
            files = find(mapping.path, self.context.root)
            if not files:
                return (stream.name, True, "no file there yet"), None
            part = next(read(files[-1], mapping, name=files[-1].name))
            mapped = apply(part.frame, stream, mapping, timezone=self.context.timezone, file=files[-1].name)
        except CdpError as error:
            return (stream.name, False, error.message), None
        rejected = len(part.rejects) + len(mapped.rejects)
        told = f"{len(files)} files; {files[-1].name}: {mapped.frame.height} rows fit, {rejected} do not"
        return (stream.name, True, told), sample(mapped.frame, stream)
