"""Rejected rows as a workbook that a person mends and loads again: the row's own cells, then why it was rejected."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import xlsxwriter

from connectors.replay import REASON

_WIDTH = 18
_LONG = 60


def write_rejects(frame: pl.DataFrame, to: Path, *, header: Sequence[str] = ()) -> int:
    """*frame*: `raw` and `reason`, and `stream` where each is to have its sheet. Returns the rows written.

    *header*: the columns of the file, for rows that were no rows (too many cells, an open quote). A row rejected for
    several streams or reasons is written once a sheet. Anything but .xlsx becomes text: lines of a log, to be mended
    as lines.
    """
    to.parent.mkdir(parents=True, exist_ok=True)
    if to.suffix.lower() not in (".xlsx", ".xlsm"):
        lines = frame["raw"].unique(maintain_order=True)
        to.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return len(lines)
    written = 0
    with xlsxwriter.Workbook(str(to), {"strings_to_numbers": False, "strings_to_formulas": False}) as book:
        for stream in frame["stream"].unique(maintain_order=True) if "stream" in frame.columns else ["rejects"]:
            part = frame.filter(pl.col("stream") == stream) if "stream" in frame.columns else frame
            written += _write_sheet(book.add_worksheet(stream), part.unique("raw", maintain_order=True), header)
    return written


def _write_sheet(sheet: Any, frame: pl.DataFrame, header: Sequence[str]) -> int:
    raws = frame["raw"].to_list()
    names = list(header) or next((list(row) for raw in raws if (row := _row(raw)) is not None), [])
    rows = [
        (_row(raw) or _split(raw, names)) | {REASON: reason} for raw, reason in zip(raws, frame["reason"], strict=True)
    ]
    columns = [*dict.fromkeys([*names, *(name for row in rows for name in row if name != REASON)]), REASON]
    sheet.write_row(0, 0, columns)
    sheet.freeze_panes(1, 0)
    sheet.set_column(0, len(columns) - 2, _WIDTH)
    sheet.set_column(len(columns) - 1, len(columns) - 1, _LONG)
    for place, row in enumerate(rows, start=1):
        for column, name in enumerate(columns):
            if row.get(name) is not None:
                sheet.write_string(place, column, str(row[name]))
    return len(rows)


def _row(raw: str) -> dict[str, Any] | None:
    """The cells of a rejected row; None where it is the text of a line."""
    try:
        cells = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
    return cells if isinstance(cells, dict) else None


def _split(raw: str, names: Sequence[str]) -> dict[str, Any]:
    """A line of CSV under *names* as far as they go, further cells under `extra_1`, …; one cell `raw` without names."""
    if not names:
        return {"raw": raw}
    cells = next(csv.reader([raw]), [])
    further = [f"extra_{place}" for place in range(1, len(cells) - len(names) + 1)]
    return dict(zip([*names, *further], cells, strict=False))
