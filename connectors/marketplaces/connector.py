"""Shop exports as a source: the header decides the profile, the profile maps the rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from cdp.ahead import ahead
from cdp.errors import CdpError, FatalError
from cdp.streams import Batch, Reject, SourceCheck, Stream
from connectors import canonical
from connectors.files.discover import Found, find, raise_all, unread
from connectors.files.reader import Part, encoding_of
from connectors.marketplaces.profile import Profile, load_profiles, profile_called
from connectors.marketplaces.rows import canonical_rows, siblings
from connectors.marketplaces.tables import ROW, Table, tables
from connectors.registry import SourceContext
from connectors.sample import sample
from connectors.settings import ShopExportSource

STREAMS = ("orders", "order_lines", "refunds", "costs")


def build(context: SourceContext) -> ShopExportConnector:
    return ShopExportConnector(context)


def streams_of(settings: ShopExportSource) -> tuple[Stream, ...]:
    """What exports can give; which of them a file gives depends on its profile."""
    streams = [canonical.dated(canonical.STREAMS_BY_NAME[name]) for name in STREAMS]
    if settings.reject_budget is None:
        return tuple(streams)
    return tuple(replace(stream, reject_budget=settings.reject_budget) for stream in streams)


@dataclass(frozen=True)
class Preview:
    """What `cdp load` shows before it loads, of one table. *rejects*: its rows that would be rejected.

    *mend*: those and the other rows of their orders, to be mended together. *header*: its columns. *unused*: those the
    profile makes nothing of. *passed_over*: rows that are of no stream.
    """

    profile: Profile
    encoding: str
    sheet: str | None
    rows: int
    header: tuple[str, ...]
    streams: Mapping[str, pl.DataFrame]
    rejects: tuple[Reject, ...]
    mend: tuple[Reject, ...]
    unused: tuple[str, ...]
    passed_over: int = 0


class ShopExportConnector:
    """Order files of one shop."""

    def __init__(self, context: SourceContext) -> None:
        self.context = context
        self.settings: ShopExportSource = context.settings
        profiles = load_profiles(context.root / self.settings.profiles)
        named = self.settings.profile
        self.profiles = profiles if named == "auto" else {named: profile_called(named, profiles)}

    def streams(self) -> tuple[Stream, ...]:
        return streams_of(self.settings)

    def pull(self, stream: Stream, state: Mapping[str, Any]) -> Iterator[Batch]:
        """A batch for each table of a file; only the last says that the file was read."""
        faults: dict[str, CdpError] = {}
        before: Mapping[str, Any] = state
        for found in unread(self.settings.path, self.context.root, state, failed=faults):
            try:
                yield from ahead(self._batches(stream, found, before))
                before = found.state
            except FatalError as error:
                faults[found.name] = error
        raise_all(faults)

    def _batches(self, stream: Stream, found: Found, before: Mapping[str, Any]) -> Iterator[Batch]:
        """Its tables in parts; where a row is an item, each as a whole: an order's rows may stand anywhere in it."""
        known = tables(found.path, self.profiles, name=found.name, only=self.settings.sheets)
        wanted = [table for table in known if stream.name in table.profile.streams]
        if not wanted:
            yield Batch(stream.name, pl.DataFrame(), found.state, (), found.name)
        for place, table in enumerate(wanted, start=1):
            whole = table.profile.grain == "item" or table.profile.counts_rows(stream.name)
            for part in [table.read()] if whole else table.parts():
                state = found.state if part.last and place == len(wanted) else before
                yield self._batch(stream, table, part, state)

    def _batch(self, stream: Stream, table: Table, part: Part, state: Mapping[str, Any]) -> Batch:
        if not part.frame.height:
            return Batch(stream.name, pl.DataFrame(), state, part.rejects, table.name)
        rows = canonical_rows(stream, table, part, shop=self.settings.shop)
        return Batch(stream.name, rows.frame, state, (*part.rejects, *rows.rejects), table.name, known=rows.known)

    def preview(self, path: Path) -> list[Preview]:
        """Everything about the tables of a file short of landing them. Raises `FatalError` when it cannot be read."""
        encoding = encoding_of(path)
        return [
            self._preview(table, encoding)
            for table in tables(path, self.profiles, name=path.name, only=self.settings.sheets)
        ]

    def _preview(self, table: Table, encoding: str) -> Preview:
        part = table.read()
        header = tuple(name for name in part.frame.columns if name != ROW)
        frames: dict[str, pl.DataFrame] = {}
        rejects, used, passed = list(part.rejects), set[str](), [part.frame.height]
        for stream in self.streams():
            if stream.name in table.profile.streams:
                rows = canonical_rows(stream, table, part, shop=self.settings.shop)
                frames[stream.name] = rows.frame
                rejects += rows.rejects
                used |= set(rows.known)
                passed.append(rows.passed_over)
        first = {reject.row_number: reject for reject in reversed(rejects)}  # a row is mended once, for all streams
        ordered = tuple(first[number] for number in sorted(first, key=lambda number: number or 0))
        mend = (*ordered, *siblings(table, part, ordered))
        unused = tuple(name for name in header if name not in used)
        height = part.frame.height + len(part.rejects)
        return Preview(table.profile, encoding, table.sheet, height, header, frames, ordered, mend, unused, min(passed))

    def check(self) -> SourceCheck:
        try:
            files = find(self.settings.path, self.context.root)
            if not files:
                return SourceCheck(True, (("files", True, "no file there yet"),))
            previews = self.preview(files[-1])
        except CdpError as error:
            return SourceCheck(False, (("files", False, error.message),))
        steps = [("files", True, f"{len(files)} found")]
        for preview in previews:
            told = f"{preview.profile.title}: {preview.rows} rows, {len(preview.rejects)} do not fit"
            steps.append((f"{files[-1].name} {preview.sheet or ''}".strip(), True, told))
        if not previews:
            return SourceCheck(True, (*steps, (files[-1].name, True, "the file is empty")))
        stream = next(item for item in self.streams() if item.name in previews[0].streams)
        return SourceCheck(True, tuple(steps), sample(previews[0].streams[stream.name], stream))
