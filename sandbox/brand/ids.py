"""Id strings by the million: arrays of bytes turned into text columns without a Python loop."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from sandbox.brand import names

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

BASE64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
HEX = "0123456789abcdef"


def random_text(
    rng: np.random.Generator, count: int, length: int, alphabet: str = BASE64, prefix: str = ""
) -> pl.Series:
    """*count* texts: *prefix*, then *length* random characters. 28 characters of base64 do not collide."""
    table = np.frombuffer(alphabet.encode(), dtype=np.uint8)
    head = np.frombuffer(prefix.encode(), dtype=np.uint8)
    codes = rng.integers(0, len(alphabet), size=(count, length), dtype=np.uint8)
    data = np.empty((count, len(head) + length), dtype=np.uint8)
    data[:, : len(head)] = head
    data[:, len(head) :] = table[codes]
    offsets = np.arange(count + 1, dtype=np.int64) * data.shape[1]
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(data)]
    return pl.Series(pa.LargeStringArray.from_buffers(count, buffers[1], buffers[2]))


def phone_numbers(count: int, seed: int) -> pl.Series:
    """*count* distinct mainland mobile numbers, spread over the number space by one multiplication."""
    space = len(names.PHONE_PREFIXES) * 10**8
    step = 1_618_033_989 + 2 * (seed % 1000)  # odd and not a multiple of 5 or 29: a bijection of the space
    while step % 5 == 0 or step % 29 == 0:
        step += 2
    codes = (np.arange(1, count + 1, dtype=np.uint64) * np.uint64(step) + np.uint64(seed % 97)) % np.uint64(space)
    prefix = np.array(names.PHONE_PREFIXES, dtype=np.int64)[(codes // 10**8).astype(np.int64)]
    number = prefix * 10**8 + (codes % 10**8).astype(np.int64)
    clash = np.isin(number, np.array([int(item) for item in names.DEFAULT_PHONES]))
    number[clash] += 1
    return pl.Series(number).cast(pl.String)


def numbered(prefix: str, numbers: npt.NDArray[Any], width: int) -> pl.Series:
    """`prefix` and the zero-padded number."""
    return prefix + pl.Series(numbers).cast(pl.String).str.zfill(width)


def choose(rng: np.random.Generator, count: int, weights: npt.ArrayLike) -> Ints:
    """*count* draws from 0…k−1 by weight."""
    bounds = np.cumsum(np.asarray(weights, dtype=float))
    return np.asarray(np.searchsorted(bounds, rng.random(count) * bounds[-1], side="right"), dtype=np.int64)


def gather(column: pl.Series, index: Ints, keep: Bools | None = None) -> pl.Series:
    """`column[index]`, null where *keep* is false."""
    found = column.gather(pl.Series(np.maximum(index, 0), dtype=pl.UInt32))
    if keep is None:
        return found
    return pl.select(pl.when(pl.Series(keep)).then(found).otherwise(None)).to_series()


def local_text(seconds: npt.ArrayLike, fmt: str = "%Y-%m-%d %H:%M:%S") -> pl.Series:
    """Epoch seconds (UTC) as text of the brand's zone."""
    shifted = (np.asarray(seconds, dtype=np.float64) + names.OFFSET).astype(np.int64)
    return pl.Series(shifted * 1000).cast(pl.Datetime("ms")).dt.strftime(fmt)


def masked(phones: pl.Series) -> pl.Series:
    """`138****5678`."""
    return phones.str.slice(0, 3) + "****" + phones.str.slice(7, 4)
