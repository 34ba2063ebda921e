"""Shop exports as a source: the header decides the profile, the profile maps the rows.

Files whose rows are items give one order per order id: amounts that stand on every row are taken once, amounts of the
row are summed, as the profile says.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from cdp.cells import typed
from cdp.errors import CdpError, FatalError
from cdp.streams import Batch, Reject, SourceCheck, Stream
from connectors import canonical
from connectors.files.discover import find, raise_all, unread
from connectors.files.reader import Part, encoding_of, read
from connectors.mapping import apply, cleaned
from connectors.marketplaces.profile import Profile, ProfileColumn, load_profiles, profile_called, recognise
from connectors.registry import SourceContext
from connectors.sample import sample
from connectors.settings import FileStream, ShopExportSource

_MASKED = r"\*|^##|^\$\$|^~|^#.+#$|^\$.+\$$"
_AS_IT_COMES = FileStream.model_validate({"path": "."})


def build(context: SourceContext) -> ShopExportConnector:
    return ShopExportConnector(context)


def streams_of(settings: ShopExportSource) -> tuple[Stream, ...]:
    """Orders and order lines; which of them a file gives depends on its profile."""
    streams = [canonical.STREAMS_BY_NAME[name] for name in ("orders", "order_lines")]
    if settings.reject_budget is None:
        return tuple(streams)
    return tuple(replace(stream, reject_budget=settings.reject_budget) for stream in streams)


@dataclass(frozen=True)
class Preview:
    """What `cdp load` shows before it loads. *rejects*: rows of the whole file that would be rejected."""

    profile: Profile
    encoding: str
    rows: int
    streams: Mapping[str, pl.DataFrame]
    rejects: tuple[Reject, ...]
    unused: tuple[str, ...]


class ShopExportConnector:
    """Order files of one shop."""

    def __init__(self, context: SourceContext) -> None:
        self.context = context
        self.settings: ShopExportSource = context.settings
        extra = context.root / self.settings.profiles if self.settings.profiles else None
        self.profiles = load_profiles(extra if extra and extra.is_dir() else None)

    def streams(self) -> tuple[Stream, ...]:
        return streams_of(self.settings)

    def pull(self, stream: Stream, state: Mapping[str, Any]) -> Iterator[Batch]:
        faults: dict[str, CdpError] = {}
        for found in unread(self.settings.path, self.context.root, state, failed=faults):
            try:
                yield self._batch(stream, found.path, found.name, found.state)
            except FatalError as error:
                faults[found.name] = error
        raise_all(faults)

    def _batch(self, stream: Stream, path: Path, name: str, state: Mapping[str, Any]) -> Batch:
        """The whole file at once: the rows of one order may stand anywhere in it."""
        part = whole(path, name)
        if not part.frame.width or part.frame.columns == ["_row_number"]:
            return Batch(stream.name, pl.DataFrame(), state, part.rejects, name)
        profile = self.profile_of(part.frame, name)
        if stream.name not in profile.streams:
            return Batch(stream.name, pl.DataFrame(), state, (), name)
        frame, rejects, known = self.mapped(stream, profile, part.frame, name)
        return Batch(stream.name, frame, state, (*part.rejects, *rejects), name, known=known)

    def profile_of(self, frame: pl.DataFrame, name: str) -> Profile:
        names = [column for column in frame.columns if column != "_row_number"]
        if self.settings.profile == "auto":
            return recognise(names, self.profiles, file=name)
        profile = profile_called(self.settings.profile, self.profiles)
        if missing := profile.missing(names):
            raise FatalError(f"{name}: profile `{profile.name}` needs {', '.join(missing)}; found {', '.join(names)}")
        return profile

    def mapped(
        self, stream: Stream, profile: Profile, frame: pl.DataFrame, name: str
    ) -> tuple[pl.DataFrame, tuple[Reject, ...], tuple[str, ...]]:
        """Canonical rows of one file, what did not fit, and the columns the profile reads."""
        names = [column for column in frame.columns if column != "_row_number"]
        mapping, columns = profile.mapping(stream.name, names, self.settings.shop)
        prepared = _without_masks(frame, columns, profile)
        result = apply(prepared, stream, mapping, timezone=profile.timezone, file=name)
        mapped = _where_said(_with_values(result.frame, frame, columns, profile), frame, columns)
        if stream.name == "orders" and profile.grain == "item":
            mapped = _one_row_an_order(mapped, stream, columns)
        return mapped, result.rejects, result.known

    def preview(self, path: Path) -> Preview:
        """Everything about a file short of landing it. Raises `FatalError` when it cannot be read."""
        part = whole(path, path.name)
        profile = self.profile_of(part.frame, path.name)
        frames: dict[str, pl.DataFrame] = {}
        rejects, used = list(part.rejects), set[str]()
        for stream in self.streams():
            if stream.name in profile.streams:
                frames[stream.name], bad, known = self.mapped(stream, profile, part.frame, path.name)
                rejects += bad
                used |= set(known)
        unused = tuple(name for name in part.frame.columns if name not in used and name != "_row_number")
        rows = part.frame.height + len(part.rejects)
        return Preview(profile, encoding_of(path), rows, frames, tuple(rejects), unused)

    def check(self) -> SourceCheck:
        try:
            files = find(self.settings.path, self.context.root)
            if not files:
                return SourceCheck(True, (("files", True, "no file there yet"),))
            preview = self.preview(files[-1])
        except CdpError as error:
            return SourceCheck(False, (("files", False, error.message),))
        stream = next(item for item in self.streams() if item.name in preview.streams)
        told = f"{preview.profile.title}: {preview.rows} rows, {len(preview.rejects)} do not fit"
        shown = sample(preview.streams[stream.name], stream)
        return SourceCheck(True, (("files", True, f"{len(files)} found"), (files[-1].name, True, told)), shown)


def whole(path: Path, name: str) -> Part:
    """All rows of a file as one part."""
    parts = list(read(path, _AS_IT_COMES, name=name))
    frame = pl.concat([part.frame for part in parts], how="diagonal_relaxed")
    return Part(frame, tuple(reject for part in parts for reject in part.rejects))


def _without_masks(frame: pl.DataFrame, columns: Mapping[str, ProfileColumn], profile: Profile) -> pl.DataFrame:
    """Starred and encrypted cells emptied where the profile says they identify nobody."""
    masked = [rule.from_ for rule in columns.values() if rule.unmasked and isinstance(rule.from_, str)]
    changes = []
    for name in masked:
        cell = cleaned(frame[name], profile.nulls)
        kept = cell.to_frame("x").select(pl.when(~pl.col("x").str.contains(_MASKED)).then(pl.col("x"))).to_series()
        changes.append(kept.alias(name))
    return frame.with_columns(changes) if changes else frame


def _with_values(
    mapped: pl.DataFrame, frame: pl.DataFrame, columns: Mapping[str, ProfileColumn], profile: Profile
) -> pl.DataFrame:
    """Columns that `map` or `contains` translate; a word neither knows leaves the cell empty, the word stays beside."""
    for target, rule in columns.items():
        if not isinstance(rule.from_, str) or (rule.map is None and rule.contains is None):
            continue
        words = frame.filter(pl.col("_row_number").is_in(mapped["_row_number"].implode()))[rule.from_]
        text = typed(cleaned(words, profile.nulls), "text")
        result = text.replace_strict(rule.map or {"": None}, default=None, return_dtype=pl.String)
        for part, value in (rule.contains or {}).items():
            hit = text.str.contains(part, literal=True) & result.is_null()
            result = result.to_frame("x").select(pl.when(hit).then(pl.lit(value)).otherwise(pl.col("x"))).to_series()
        mapped = mapped.with_columns(result.alias(target), words.alias(rule.from_))
    return mapped


def _where_said(mapped: pl.DataFrame, frame: pl.DataFrame, columns: Mapping[str, ProfileColumn]) -> pl.DataFrame:
    """Cells of rows that do not meet their rule's `where`, emptied."""
    conditions = {target: rule.where for target, rule in columns.items() if rule.where and target in mapped.columns}
    rows = frame.filter(pl.col("_row_number").is_in(mapped["_row_number"].implode())) if conditions else frame
    for target, where in conditions.items():
        told = [name in rows.columns for name in where]
        tests = [pl.col(name).str.contains(text, literal=True).fill_null(False) for name, text in where.items()]
        hit = rows.select(pl.all_horizontal(tests)).to_series() if all(told) else pl.Series([False] * rows.height)
        mapped = mapped.with_columns(pl.when(hit).then(pl.col(target)).alias(target))
    return mapped


def _one_row_an_order(mapped: pl.DataFrame, stream: Stream, columns: Mapping[str, ProfileColumn]) -> pl.DataFrame:
    """Item rows as orders, in file order; columns of the single items stay with the order lines."""
    declared = [column.name for column in stream.columns if column.name in mapped.columns]
    key = [name for name in stream.key if name in declared]
    picks = []
    for name in declared:
        if name in key:
            continue
        how = columns[name].aggregate if name in columns else "first"
        cell = pl.col(name)
        picks.append({"sum": cell.sum(), "max": cell.max(), "first": cell.drop_nulls().first()}[how])
    words = [str(rule.from_) for rule in columns.values() if rule.contains or rule.map]
    kept = [pl.col(name).first() for name in dict.fromkeys(words) if name in mapped.columns]
    grouped = mapped.group_by(key, maintain_order=True).agg(*picks, *kept, pl.col("_row_number").first())
    return grouped.select(*declared, *[pick.meta.output_name() for pick in kept], "_row_number")
