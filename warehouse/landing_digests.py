"""Digests of rows and keys: 64 bits of XXH3 of what they hold.

Not DuckDB's `hash`: rows of the same shape collide there, and a collision would lose one. XXH3's definition is fixed,
so digests of different releases compare.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import xxhash

Digests = npt.NDArray[np.uint64]
# Texts that hold one of the marks themselves have them escaped, so that no two rows read the same.
_MISSING, _BETWEEN, _ESCAPE = "\x01", "\x1f", "\x02"
_MARKS = {_ESCAPE: f"{_ESCAPE}0", _MISSING: f"{_ESCAPE}1", _BETWEEN: f"{_ESCAPE}2"}
_ANY_MARK = f"[{''.join(_MARKS)}]"


def digests(texts: pa.Array) -> Digests:
    """The digest of each of *texts*; null counts as empty."""
    series = pl.Series(texts)
    return _digests(series.fill_null("") if series.null_count() else series)


def _digests(texts: pl.Series) -> Digests:
    return digests_of(texts.cast(pl.Binary).to_list())  # far cheaper than out of Arrow


def digests_of(cells: Sequence[bytes]) -> Digests:
    """The digest of each of *cells*."""
    return np.fromiter(map(xxhash.xxh3_64_intdigest, cells), np.uint64, len(cells))


def row_digests(frame: pl.DataFrame, columns: Sequence[str]) -> pl.Series:
    """The digest of the cells of *columns* in each row; an empty cell is told from a missing one."""
    cells = {
        str(place): _text(frame[column]).alias(str(place))
        for place, column in enumerate(columns)
        if frame[column].null_count() < frame.height
    }
    if not cells:
        constant = _BETWEEN.join([_MISSING] * len(columns))
        return pl.Series([xxhash.xxh3_64_intdigest(constant.encode())] * frame.height, dtype=pl.UInt64())
    return pl.Series(_digests(_joined(pl.DataFrame(list(cells.values())), len(columns))), dtype=pl.UInt64())


def _joined(texts: pl.DataFrame, width: int) -> pl.Series:
    """One text a row, of *width* cells; those not in *texts* (columns named by their place) are missing."""
    parts: list[pl.Expr] = []
    between = ""  # what stands between two cells, missing ones included, is one text: most columns are empty
    for place in range(width):
        mark = _BETWEEN if place else ""
        name = str(place)
        if name not in texts.columns:
            between += mark + _MISSING
            continue
        parts += [pl.lit(between + mark)] if between + mark else []
        parts.append(pl.col(name).fill_null(_MISSING) if texts[name].null_count() else pl.col(name))
        between = ""
    parts += [pl.lit(between)] if between else []
    return texts.select(pl.concat_str(parts)).to_series()


def _text(column: pl.Series) -> pl.Series:
    """A column as text: the same for the same content, whatever batch it comes in."""
    if column.dtype.is_nested():
        text = column.to_frame("x").select(pl.struct("x").struct.json_encode()).to_series()
        return text.set(column.is_null(), None)
    if isinstance(column.dtype, pl.Datetime):
        return column.dt.epoch("us").cast(pl.String)
    if column.dtype != pl.String:
        return column.cast(pl.String)
    return column.str.replace_many(_MARKS) if column.str.contains(_ANY_MARK).any() else column
