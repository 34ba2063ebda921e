"""From a connector's frame to rows ready for raw: declared columns typed, misfits made rejects, the rest kept."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from cdp.cells import misfits, typed
from cdp.errors import FatalError
from cdp.streams import POLARS_TYPES, Batch, Reject, Stream

META = {
    "_source": pl.String(),
    "_batch_id": pl.String(),
    "_batch_seq": pl.Int64(),
    "_loaded_at": pl.Datetime("us", "UTC"),
    "_version_at": pl.Datetime("us", "UTC"),
    "_source_file": pl.String(),
    "_row_number": pl.Int64(),
    "_row_hash": pl.UInt64(),
    "_key_hash": pl.UInt64(),
    "_deleted": pl.Boolean(),
}


_NULL_MEMBER = r',"(?:[^"\\]|\\.)*":null'
_ESCAPED = r"""["\\\x00-\x1f]"""
_FIRST_NULL = r'^\{"(?:[^"\\]|\\.)*":null,?'


@dataclass(frozen=True)
class Prepared:
    """*frame*: declared columns in order, then `_extra_*` source columns, `_source_file`, `_row_number`."""

    frame: pl.DataFrame
    rejects: tuple[tuple[str | None, Reject], ...]
    extras: tuple[str, ...]


def prepare(batches: Sequence[Batch], stream: Stream) -> Prepared:
    """The rows of *batches* typed and united, in order; rejects carry their file. Raises `FatalError` when a required
    column is missing."""
    parts = [_typed(batch, stream) for batch in batches if not batch.keys_only]
    rejects = [(batch.source_file, reject) for batch in batches for reject in batch.rejects]
    rejects += [reject for part in parts for reject in part.rejects]
    extras = tuple(dict.fromkeys(name for part in parts for name in part.extras))
    frames = [part.frame for part in parts if part.frame.height]
    if not frames:
        return Prepared(empty(stream), tuple(rejects), extras)
    return Prepared(pl.concat(frames, how="diagonal_relaxed"), tuple(rejects), extras)


def with_extra(frame: pl.DataFrame) -> pl.DataFrame:
    """*frame* with its `_extra_*` columns folded into one JSON object `_extra`; empty cells are left out."""
    names = [name for name in frame.columns if name.startswith("_extra_")]
    if not names:
        return frame if "_extra" in frame.columns else frame.with_columns(pl.lit(None, pl.String).alias("_extra"))
    plain = (pl.String(), pl.Boolean(), pl.Int64(), pl.Float64())
    cells = [frame[name] if frame[name].dtype in plain else typed(frame[name], "text") for name in names]
    filled = [cell.alias(cell.name.removeprefix("_extra_")) for cell in cells if cell.null_count() < len(cell)]
    if not filled:
        return frame.drop(names).with_columns(pl.lit(None, pl.String).alias("_extra"))
    told = pl.DataFrame(filled)
    text = _plain_json(told) if _is_plain(told) else _json(told)
    return frame.drop(names).with_columns(text.replace("{}", None).alias("_extra"))


def _json(frame: pl.DataFrame) -> pl.Series:
    """Each row as a JSON object, without its empty cells."""
    text = frame.select(pl.struct(pl.all()).struct.json_encode()).to_series()
    if any(cell.null_count() for cell in frame):
        # Inside a value every quote is escaped, so `,"name":null` is a member of the object and nothing else.
        text = text.str.replace_all(_NULL_MEMBER, "").str.replace(_FIRST_NULL, "{")
    return text


def _is_plain(frame: pl.DataFrame) -> bool:
    """Whether nothing in *frame* needs escaping in JSON, as is usual: then it is written five times as fast."""
    texts = all(cell.dtype == pl.String() for cell in frame) and not re.search(_ESCAPED, "".join(frame.columns))
    return texts and not any(cell.str.contains(_ESCAPED).any() for cell in frame)


def _plain_json(frame: pl.DataFrame) -> pl.Series:
    """What `_json` gives, of texts that need no escaping."""
    members = [pl.concat_str(pl.lit(f',"{cell.name}":"'), pl.col(cell.name), pl.lit('"')) for cell in frame]
    if not any(cell.null_count() for cell in frame):
        parts = [part for cell in frame for part in (pl.lit(f'","{cell.name}":"'), pl.col(cell.name))]
        parts[0] = pl.lit(f'{{"{frame.columns[0]}":"')
        return frame.select(pl.concat_str([*parts, pl.lit('"}')])).to_series()
    joined = pl.concat_str(members, ignore_nulls=True).str.strip_prefix(",")
    return frame.select(pl.concat_str(pl.lit("{"), joined, pl.lit("}"))).to_series()


def empty(stream: Stream) -> pl.DataFrame:
    """No rows, with the declared columns and the two of place."""
    schema = {column.name: POLARS_TYPES[column.type] for column in stream.columns}
    return pl.DataFrame(schema={**schema, "_source_file": pl.String(), "_row_number": pl.Int64()})


def _typed(batch: Batch, stream: Stream) -> Prepared:
    frame = batch.frame
    if not frame.height:
        return Prepared(empty(stream), (), ())
    if "_row_number" not in frame.columns:
        frame = frame.with_row_index("_row_number", offset=1).with_columns(pl.col("_row_number").cast(pl.Int64))
    _require_columns(frame, stream, batch.source_file)
    columns, faults = [], []
    for column in stream.columns:
        if column.name not in frame.columns:
            columns.append(_nulls(column.name, POLARS_TYPES[column.type], frame.height))
            continue
        before = frame[column.name]
        after = typed(before, column.type)
        columns.append(after)
        bad = misfits(before, after)
        if bad.any():
            faults.append((column.name, f"is not a valid {column.type}", bad))
        if column.required:
            missing = before.is_null() if before.dtype != pl.String else before.is_null() | (before == "")
            if missing.any():
                faults.append((column.name, "is required and empty", missing))
    declared = {column.name for column in stream.columns}
    extras = tuple(name for name in frame.columns if name not in declared and name not in ("_row_number", "_extra"))
    whole = pl.DataFrame(columns).with_columns(
        *[frame[name].alias(f"_extra_{name}") for name in extras],
        *([frame["_extra"]] if "_extra" in frame.columns else []),
        pl.lit(batch.source_file, dtype=pl.String).alias("_source_file"),
        frame["_row_number"],
    )
    if not faults:
        return Prepared(whole, (), extras)
    return _split(whole, frame, faults, batch.source_file, extras)


def _nulls(name: str, dtype: pl.DataType, height: int) -> pl.Series:
    return pl.Series(name, [None], dtype=dtype).new_from_index(0, height)


def _split(
    whole: pl.DataFrame,
    came: pl.DataFrame,
    faults: Sequence[tuple[str, str, pl.Series]],
    file: str | None,
    extras: tuple[str, ...],
) -> Prepared:
    """Take the rows with a fault out; a row is rejected once, for its first fault in column order."""
    bad = faults[0][2].clone()
    for _, _, mask in faults[1:]:
        bad = bad | mask
    rejects, told = [], set[int]()
    for column, what, mask in faults:
        for place in mask.arg_true().to_list():
            if place in told:
                continue
            told.add(place)
            row = came.row(place, named=True)
            number = row.pop("_row_number")
            raw = came[place].drop("_row_number").write_ndjson().strip()
            value = None if row[column] is None else str(row[column])[:200]
            rejects.append((file, Reject(f"`{column}` {what}", raw, number, column, value)))
    rejects.sort(key=lambda item: item[1].row_number or 0)
    return Prepared(whole.filter(~bad), tuple(rejects), extras)


def _require_columns(frame: pl.DataFrame, stream: Stream, file: str | None) -> None:
    missing = [column.name for column in stream.columns if column.required and column.name not in frame.columns]
    if not missing:
        return
    found = [name for name in frame.columns if not name.startswith("_")]
    close = {name: difflib.get_close_matches(name, found, n=1, cutoff=0.6) for name in missing}
    near = "".join(f"; did `{match[0]}` mean `{name}`?" for name, match in close.items() if match)
    raise FatalError(
        f"{file or stream.name}: stream `{stream.name}` needs the columns {', '.join(missing)};"
        f" found {', '.join(found) or 'none'}{near}",
        hint="mend the column mapping in config/sources.yaml, or the file's header",
    )
