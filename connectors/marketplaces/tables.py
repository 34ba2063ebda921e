"""Where in an export the tables are: on which sheet, under how many lines of title, and which profile knows them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import orjson
import polars as pl

from cdp.errors import FatalError
from cdp.streams import Reject
from connectors.files.reader import Part, Top, read, tops, unique_names
from connectors.marketplaces.profile import Profile, best, report
from connectors.replay import REASON
from connectors.settings import FileStream

ROW = "_row_number"


class UnknownHeaderError(FatalError):
    """No profile knows the header of a file. `cdp load --draft` drafts one."""


@dataclass(frozen=True)
class Table:
    """One table of a file, not read yet. *strange*: sheets beside it that no profile knows, as rejects."""

    path: Path
    name: str
    profile: Profile
    sheet: str | None
    delimiter: str | None
    above: int
    strange: tuple[Reject, ...] = ()

    def parts(self) -> Iterator[Part]:
        """Its rows in parts of bounded size, source columns as text; rows without any cell are left out."""
        strange = self.strange
        for part in read(self.path, _settings(self.sheet, self.delimiter, self.above), name=self.name):
            frame = _without_blank_rows(part.frame.drop(REASON, strict=False))
            yield Part(frame, (*strange, *part.rejects), part.last)
            strange = ()

    def read(self) -> Part:
        """All its rows as one part."""
        parts = list(self.parts())
        frame = pl.concat([part.frame for part in parts], how="diagonal_relaxed")
        return Part(frame, tuple(reject for part in parts for reject in part.rejects))


def _without_blank_rows(frame: pl.DataFrame) -> pl.DataFrame:
    names = [name for name in frame.columns if name != ROW]
    for name in names:  # one column that is filled throughout shows that there are none
        cell = frame[name].cast(pl.String)
        if not (cell.is_null() | (cell.str.strip_chars() == "")).any():
            return frame
    cells = [pl.col(name).cast(pl.String).str.strip_chars() for name in names]
    return frame.filter(~pl.all_horizontal(cell.is_null() | (cell == "") for cell in cells)) if cells else frame


def tables(path: Path, profiles: Mapping[str, Profile], *, name: str, only: Sequence[str] | None = None) -> list[Table]:
    """The tables of a file that a profile knows: at most one a sheet, of *only* those. An empty file has none.

    Raises `UnknownHeaderError` when no row near the top of any sheet is a header that one of *profiles* knows.
    """
    sheets = [sheet for sheet in tops(path, name=name) if only is None or sheet.sheet in (None, *only)]
    found = [table for sheet in sheets if (table := _table(path, name, sheet, profiles)) is not None]
    if found:
        strange = _strange(sheets, found, profiles, name)
        found[0] = replace(found[0], strange=tuple(strange))
    elif any(sheet.rows for sheet in sheets):
        _, names = header(sheets, profiles)
        hint = "`cdp load FILE --draft config/profiles/NAME.yaml` writes a first draft of a profile for it"
        raise UnknownHeaderError(report(names, profiles, file=name), hint=hint)
    return found


def _table(path: Path, name: str, sheet: Top, profiles: Mapping[str, Profile]) -> Table | None:
    for above, names in _headers(sheet):
        if profile := best(names, profiles):
            return Table(path, name, profile, sheet.sheet, sheet.delimiter, above)
    return None


def _strange(sheets: Sequence[Top], found: Sequence[Table], profiles: Mapping[str, Profile], name: str) -> list[Reject]:
    """A reject for each sheet with rows that neither a profile knows nor the profiles found say is of no interest."""
    taken = {table.sheet for table in found} | {sheet for table in found for sheet in table.profile.beside}
    rejects = []
    for sheet in sheets:
        rows = list(_headers(sheet))
        if sheet.sheet not in taken and len(rows) > 1:
            _, names = header([sheet], profiles)
            reason = f"sheet `{sheet.sheet}` was not read: {report(names, profiles, file=name)}"
            rejects.append(Reject(reason, orjson.dumps(names).decode(), None, None, sheet.sheet))
    return rejects


def _headers(sheet: Top) -> Iterator[tuple[int, list[str]]]:
    for above, cells in sheet.rows:
        if any(cell.strip("\ufeff\u200b\u3000\t ") for cell in cells):
            yield above, unique_names(cells, "")


def header(sheets: Sequence[Top], profiles: Mapping[str, Profile]) -> tuple[int, list[str]]:
    """The row that most looks like a header of the first sheet with rows: known names first, then filled cells."""
    rows = next(list(_headers(sheet)) for sheet in sheets if sheet.rows)
    known = {name for profile in profiles.values() for _, names in rows for name in profile.reads(names)}
    return max(rows, key=lambda row: (sum(name in known for name in row[1]), len(row[1]), -row[0]))


def unknown(path: Path, profiles: Mapping[str, Profile]) -> pl.DataFrame:
    """The rows of a file that no profile knows, under what is most likely its header."""
    sheets = tops(path, name=path.name)
    top = next((sheet for sheet in sheets if sheet.rows), None)
    if top is None:
        raise FatalError(f"{path.name}: the file is empty")
    above, _ = header(sheets, profiles)
    return next(read(path, _settings(top.sheet, top.delimiter, above), name=path.name)).frame


def _settings(sheet: str | None, delimiter: str | None, above: int) -> FileStream:
    given = {"path": ".", "sheet": sheet, "delimiter": delimiter, "skip_rows": above}
    return FileStream.model_validate(given)
