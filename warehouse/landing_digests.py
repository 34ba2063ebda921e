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
import pyarrow.compute as pc
import xxhash

Digests = npt.NDArray[np.uint64]
# Texts that hold one of the marks themselves have them escaped, so that no two rows read the same.
_MISSING, _BETWEEN, _ESCAPE = "\x01", "\x1f", "\x02"
_MARKS = {_ESCAPE: f"{_ESCAPE}0", _MISSING: f"{_ESCAPE}1", _BETWEEN: f"{_ESCAPE}2"}
_ANY_MARK = f"[{''.join(_MARKS)}]"


def digests(texts: pa.Array) -> Digests:
    """The digest of each of *texts*; null counts as empty."""
    filled = pc.fill_null(texts, "") if texts.null_count else texts
    cells = filled.cast(pa.large_binary()).to_pylist()
    return np.fromiter(map(xxhash.xxh3_64_intdigest, cells), np.uint64, len(cells))


def row_digests(frame: pl.DataFrame, columns: Sequence[str]) -> pl.Series:
    """The digest of the cells of *columns* in each row; an empty cell is told from a missing one."""
    names = [str(place) for place in range(len(columns))]
    filled = [
        _text(frame[column]).alias(name)
        for name, column in zip(names, columns, strict=True)
        if frame[column].null_count() < frame.height
    ]
    if not filled:
        constant = _BETWEEN.join([_MISSING] * len(names))
        return pl.Series([xxhash.xxh3_64_intdigest(constant.encode())] * frame.height, dtype=pl.UInt64())
    texts = pl.DataFrame(filled)
    cells = [
        (pl.col(name).fill_null(_MISSING) if texts[name].null_count() else pl.col(name))
        if name in texts.columns
        else pl.lit(_MISSING)
        for name in names
    ]
    joined = texts.select(pl.concat_str(cells, separator=_BETWEEN)).to_series()
    return pl.Series(digests(joined.to_arrow()), dtype=pl.UInt64())


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
