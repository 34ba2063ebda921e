"""From text cells to typed columns: what a number, an amount, an instant looks like in exported files.

Pure Polars expressions; a cell that does not fit becomes null, and `misfits` tells those from cells that were empty.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import polars as pl

from cdp.streams import POLARS_TYPES, ColumnType

# Outer white space as people paste it: ASCII, TAB, no-break, ideographic (full-width), zero-width, byte order mark.
_OUTER = " \t\r\n\x0b\x0c\u00a0\u3000\u200b\u200c\u200d\u200e\u200f\u2060\ufeff"
_NUMBER = r"^[+-]?(\d+|\d{1,3}(,\d{3})+)(\.\d*)?$|^[+-]?\.\d+$"
_CURRENCY = r"^(¥|￥|CNY|RMB|\$)\s*|\s*(元|CNY|RMB)$"
_TRUE = ["true", "1", "yes", "y", "t", "on", "是", "已同意", "真"]
_FALSE = ["false", "0", "no", "n", "f", "off", "否", "未同意", "假"]
_LOCAL_FORMATS = (
    "%Y-%m-%d %H:%M:%S%.f",
    "%Y/%m/%d %H:%M:%S%.f",
    "%Y-%m-%dT%H:%M:%S%.f",
    "%Y-%m-%d %H:%M",
    "%Y/%m/%d %H:%M",
    "%Y.%m.%d %H:%M:%S",
    "%Y年%m月%d日 %H:%M:%S",
    "%Y年%m月%d日 %H:%M",
    "%Y%m%d%H%M%S",
    "%Y%m%d %H:%M:%S",
)
_DATE_FORMATS = ("%Y-%m-%d", "%Y/%m/%d", "%Y.%m.%d", "%Y年%m月%d日", "%Y%m%d")
_ZONED_FORMATS = ("%Y-%m-%dT%H:%M:%S%.f%#z", "%Y-%m-%d %H:%M:%S%.f%#z", "%Y-%m-%dT%H:%M:%S%.f %#z")
Reader = Callable[[pl.Series], pl.Series]
_EPOCHS = {"epoch_s": 1_000_000, "epoch_ms": 1_000, "epoch_us": 1}
# Digits alone are an instant only where no date reads the same: ten digits from 2001, thirteen in milliseconds.
_EPOCH_S, _EPOCH_MS = r"^1\d{9}$", r"^1\d{12}$"


def trimmed(column: pl.Series) -> pl.Series:
    """Text without outer white space of any kind; empty text is null."""
    text = column.cast(pl.String).str.strip_chars(_OUTER)
    return text.set(text == "", None) if (text == "").any() else text


def typed(column: pl.Series, kind: ColumnType, *, timezone: str = "UTC", formats: Sequence[str] = ()) -> pl.Series:
    """*column* as the declared type. Cells that do not fit are null. Instants without a zone are read in *timezone*.

    A column that already has the right dtype is returned as it is; numbers and times of another width are cast.
    """
    target = POLARS_TYPES[kind]
    if column.dtype == target:
        return column
    if column.dtype == pl.Null:
        return pl.Series(column.name, [None], dtype=target).new_from_index(0, len(column))
    if kind == "text":
        return _as_text(column)
    if kind == "timestamp":
        return _instant(column, timezone, formats)
    if kind == "date":
        return _date(column, timezone, formats)
    if kind == "decimal":
        return _decimal(column)
    if kind == "text_list":
        return _text_list(column)
    if kind == "json":
        return _json(column)
    if kind == "bool":
        return _bool(column)
    if kind in ("int", "float"):
        return _number(column, target)
    return column.cast(target, strict=False)


def misfits(before: pl.Series, after: pl.Series) -> pl.Series:
    """Boolean: cells that held something and could not be typed."""
    return before.is_not_null() & after.is_null()


def _as_text(column: pl.Series) -> pl.Series:
    if column.dtype in (pl.Float32, pl.Float64):
        # A whole number read as a float is written without `.0`, so that 1001.0 stays the id 1001.
        frame = column.to_frame("x").select(
            pl.when((pl.col("x") == pl.col("x").round(0)) & (pl.col("x").abs() < 2**53))
            .then(pl.col("x").cast(pl.Int64, strict=False).cast(pl.String))
            .otherwise(pl.col("x").cast(pl.String))
        )
        return frame.to_series().alias(column.name)
    if column.dtype == pl.Binary:
        return column.cast(pl.String, strict=False)
    if column.dtype.is_nested():
        return _json(column)
    return column.cast(pl.String, strict=False)


def _plain_number(column: pl.Series) -> pl.Series:
    """Digits only: currency marks and thousands commas taken off; null where it is no plain number (`6.9E+18`)."""
    text = trimmed(column)
    if not text.str.contains(r"^[+-]?\d*\.?\d+$").fill_null(True).all():
        text = text.str.replace_all(_CURRENCY, "")
        text = text.to_frame("x").select(pl.when(pl.col("x").str.contains(_NUMBER)).then(pl.col("x"))).to_series()
        text = text.str.replace_all(",", "")
    return text.alias(column.name)


def _number(column: pl.Series, target: pl.DataType) -> pl.Series:
    if column.dtype != pl.String:
        if target == pl.Int64() and column.dtype.is_float():
            whole = column.to_frame("x").select(pl.when(pl.col("x") == pl.col("x").round(0)).then(pl.col("x")))
            return whole.to_series().cast(target, strict=False).alias(column.name)
        return column.cast(target, strict=False)
    if target == pl.Float64():
        return trimmed(column).cast(target, strict=False)
    text = _plain_number(column).str.replace(r"\.0*$", "")
    return text.cast(target, strict=False)


def _decimal(column: pl.Series) -> pl.Series:
    """decimal(18,2), half away from zero at the third place; null beyond sixteen digits before the point."""
    text = _plain_number(column) if column.dtype == pl.String else column
    if column.dtype.is_float():
        text = text.round(4).cast(pl.String)
        text = text.to_frame("x").select(pl.when(~pl.col("x").str.contains("e|N|i")).then(pl.col("x"))).to_series()
    wide = text.cast(pl.Decimal(38, 6), strict=False)
    cents = wide.to_frame("x").select(
        pl.when(pl.col("x").abs() < 10**16).then(pl.col("x").round(2, mode="half_away_from_zero"))
    )
    return cents.to_series().cast(pl.Decimal(18, 2), strict=False).alias(column.name)


def _bool(column: pl.Series) -> pl.Series:
    lowered = trimmed(column).str.to_lowercase()
    frame = lowered.to_frame("x").select(
        pl.when(pl.col("x").is_in(_TRUE)).then(True).when(pl.col("x").is_in(_FALSE)).then(False)
    )
    return frame.to_series().cast(pl.Boolean).alias(column.name)


def _text_list(column: pl.Series) -> pl.Series:
    if isinstance(column.dtype, pl.List):
        return column.cast(pl.List(pl.String), strict=False)
    return column.str.json_decode(pl.List(pl.String))


def _json(column: pl.Series) -> pl.Series:
    if column.dtype.is_nested():
        frame = column.to_frame("x").select(pl.struct("x").struct.json_encode().str.slice(5).str.head(-1))
        return frame.to_series().alias(column.name).set(column.is_null(), None)
    return column.cast(pl.String, strict=False)


def _instant(column: pl.Series, timezone: str, formats: Sequence[str]) -> pl.Series:
    if isinstance(column.dtype, pl.Datetime):
        micro = column.dt.cast_time_unit("us")
        if column.dtype.time_zone is None:
            return _to_utc(micro, timezone)
        return micro.dt.convert_time_zone("UTC")
    if column.dtype == pl.Date:
        return _to_utc(column.cast(pl.Datetime("us")), timezone)
    if column.dtype.is_numeric():
        unit = next((name for name in formats if name in _EPOCHS), None)
        text = _as_text(column)
        return _epoch(column.cast(pl.Float64), unit) if unit else _instant(text, timezone, formats)
    text = trimmed(column)
    found = pl.Series(column.name, [None], dtype=pl.Datetime("us", "UTC")).new_from_index(0, len(text))
    for read in _readers(timezone, formats):
        left = text.is_not_null() & found.is_null()
        if not left.any():
            break
        found = found.to_frame("a").with_columns(b=read(text)).select(pl.coalesce("a", "b")).to_series()
    return found.alias(column.name)


def _readers(timezone: str, formats: Sequence[str]) -> list[Reader]:
    """Functions text -> instants (null where they do not apply), the likeliest first."""
    if formats:
        return [_reader(name, timezone) for name in formats]
    local = [_reader(name, timezone) for name in _LOCAL_FORMATS]
    zoned = [_reader(name, timezone) for name in _ZONED_FORMATS]
    dates = [_reader(name, timezone) for name in _DATE_FORMATS]
    return [local[0], local[1], zoned[0], dates[0], *local[2:], *zoned[1:], *dates[1:], _digits]


def _reader(name: str, timezone: str) -> Reader:
    if name in _EPOCHS:
        return lambda text: _epoch(text.cast(pl.Float64, strict=False), name)
    if "%z" in name or "%#z" in name or "%:z" in name:
        return lambda text: (
            text.str.replace(r"[Zz]$", "+00:00")
            .str.to_datetime(name, time_unit="us", strict=False)
            .dt.convert_time_zone("UTC")
        )
    if not any(mark in name for mark in ("%H", "%I", "%T", "%R", "%s")):
        return lambda text: _to_utc(text.str.to_date(name, strict=False).cast(pl.Datetime("us")), timezone)
    return lambda text: _to_utc(text.str.to_datetime(name, time_unit="us", strict=False), timezone)


def _digits(text: pl.Series) -> pl.Series:
    frame = text.to_frame("x").select(
        pl.when(pl.col("x").str.contains(_EPOCH_S))
        .then(pl.col("x").cast(pl.Int64, strict=False) * 1_000_000)
        .when(pl.col("x").str.contains(_EPOCH_MS))
        .then(pl.col("x").cast(pl.Int64, strict=False) * 1_000)
    )
    return frame.to_series().cast(pl.Datetime("us", "UTC"))


def _epoch(numbers: pl.Series, unit: str) -> pl.Series:
    return (numbers * _EPOCHS[unit]).round(0).cast(pl.Int64, strict=False).cast(pl.Datetime("us", "UTC"))


def _to_utc(naive: pl.Series, timezone: str) -> pl.Series:
    """Local wall time as an instant: the earlier one where a clock change repeats it, null where it never was."""
    return naive.dt.replace_time_zone(timezone, ambiguous="earliest", non_existent="null").dt.convert_time_zone("UTC")


def _date(column: pl.Series, timezone: str, formats: Sequence[str]) -> pl.Series:
    if isinstance(column.dtype, pl.Datetime):
        local = column.dt.convert_time_zone(timezone) if column.dtype.time_zone else column
        return local.dt.date()
    if column.dtype.is_numeric():
        return _date(_as_text(column), timezone, formats)
    text = trimmed(column)
    found = pl.Series(column.name, [None], dtype=pl.Date).new_from_index(0, len(text))
    for name in formats or _DATE_FORMATS:
        if (text.is_not_null() & found.is_null()).any() and name not in _EPOCHS:
            parsed = text.str.to_date(name, strict=False)
            found = found.to_frame("a").with_columns(b=parsed).select(pl.coalesce("a", "b")).to_series()
    if (text.is_not_null() & found.is_null()).any():
        instants = _instant(text, timezone, [name for name in formats if name in _EPOCHS])
        day = instants.dt.convert_time_zone(timezone).dt.date()
        found = found.to_frame("a").with_columns(b=day).select(pl.coalesce("a", "b")).to_series()
    return found.alias(column.name)
