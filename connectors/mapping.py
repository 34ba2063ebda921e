"""Mapping source columns onto a canonical stream by the rules of `config/sources.yaml`.

A row whose cell does not fit is rejected with the row as it came; source columns that no rule uses are kept beside the
declared ones, so that nothing is lost.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import polars as pl

from cdp.cells import misfits, trimmed, typed
from cdp.config import nearest
from cdp.errors import FatalError
from cdp.streams import IDENTIFIER_DTYPE, Column, Reject, Stream
from connectors.settings import ColumnRule, MappedStream

# What exporters write for "nothing"; a source adds its own with `nulls`.
_NULLS = ("NULL", "null", "\\N", "<NULL>")
# Columns a rule may name although no file has them.
PSEUDO = ("_row", "_file", "_occurrence")
_SCIENTIFIC = r"^\d(\.\d+)?[eE]\+\d{1,3}$"


@dataclass(frozen=True)
class Mapped:
    """*frame*: canonical columns typed, then the unused source columns, and `_row_number`. *known*: names of kept
    source columns that a rule reads."""

    frame: pl.DataFrame
    rejects: tuple[Reject, ...]
    known: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Fault:
    column: str
    reason: str
    cells: pl.Series
    rows: pl.Series


def rules_of(stream: Stream, mapping: MappedStream, names: Sequence[str]) -> dict[str, ColumnRule]:
    """The rule of every canonical column that can be made: those given, then source columns of the same name, also
    those that another rule reads (a key made of `member_id` does not hide the member)."""
    rules = {
        name: rule if isinstance(rule, ColumnRule) else ColumnRule.model_validate({"from": rule})
        for name, rule in mapping.columns.items()
    }
    for column in stream.columns:
        if column.name not in rules and column.name in names:
            rules[column.name] = ColumnRule.model_validate({"from": column.name})
    return rules


def inputs(rule: ColumnRule) -> list[str]:
    """The source columns a rule reads."""
    return [name for name in [rule.from_, *(rule.join or []), *(rule.hash or [])] if name]


def apply(
    frame: pl.DataFrame,
    stream: Stream,
    mapping: MappedStream,
    *,
    timezone: str,
    file: str | None = None,
    only: Sequence[str] | None = None,
) -> Mapped:
    """Map *frame* (source columns, text or typed, and `_row_number`). *only*: just these canonical columns (keys).

    Raises `FatalError` when a rule names a column that is not there, or a required column has no rule.
    """
    names = [name for name in frame.columns if name != "_row_number"]
    rules = rules_of(stream, mapping, names)
    if only is not None:
        rules = {name: rule for name, rule in rules.items() if name in only}
    _require(stream, mapping, rules, names, file, only)
    faults: list[_Fault] = []
    columns = [
        _column(frame, column, rules[column.name], mapping, timezone, file, faults)
        for column in stream.columns
        if column.name in rules
    ]
    if only is None and mapping.identifiers:
        columns.append(_identifiers(frame, mapping))
    if only is None:
        columns += _unused(frame, rules, {series.name for series in columns})
    columns.append(frame["_row_number"])
    read = [name for rule in rules.values() for name in inputs(rule)]
    known = (*read, *[f"source.{name}" for name in read])
    return replace(_without_faults(pl.DataFrame(columns), frame, faults), known=known)


def cleaned(column: pl.Series, nulls: Sequence[str] = ()) -> pl.Series:
    """A text cell as it was meant: outer white space, Excel's `="…"` and a leading `'` taken off; "nothing" as null."""
    if column.dtype != pl.String:
        return column
    text = trimmed(column)
    if text.str.starts_with('="').any():
        text = trimmed(_unwrapped(text))
    if text.str.starts_with("'").any():
        text = trimmed(text.str.replace("^'", ""))
    nothing = text.is_in([*_NULLS, *nulls])
    return text.set(nothing, None) if nothing.any() else text


def _unwrapped(text: pl.Series) -> pl.Series:
    """What Excel shows of `="…"`."""
    whole = text.name
    cell = pl.col(whole)
    wrapped = cell.str.starts_with('="') & cell.str.ends_with('"') & (cell.str.len_bytes() > 2)
    inner = cell.str.strip_prefix('="').str.strip_suffix('"')
    return text.to_frame().select(pl.when(wrapped).then(inner).otherwise(cell).alias(whole)).to_series()


def _column(
    frame: pl.DataFrame,
    column: Column,
    rule: ColumnRule,
    mapping: MappedStream,
    timezone: str,
    file: str | None,
    faults: list[_Fault],
) -> pl.Series:
    source = _origin(frame, rule, mapping, file)
    shown = rule.from_ or column.name
    if rule.map is not None:
        source = _mapped(source, rule, shown, faults)
    elif rule.default is not None:
        source = typed(source, "text").fill_null(rule.default)
    if column.type == "text" and rule.from_ and _is_id(column.name):
        _refuse_scientific(source, shown, faults)
    result = _typed(source, column, rule, timezone)
    bad = misfits(source, result)
    if bad.any():
        faults.append(_Fault(shown, f"`{shown}` is not a valid {column.type}{_wanted(rule)}", source, bad))
    if column.required:
        missing = source.is_null()
        if missing.any():
            faults.append(_Fault(shown, f"`{shown}` is empty, and `{column.name}` is required", source, missing))
    return result.alias(column.name)


def _origin(frame: pl.DataFrame, rule: ColumnRule, mapping: MappedStream, file: str | None) -> pl.Series:
    if rule.value is not None:
        return pl.Series("value", [rule.value], dtype=pl.String).new_from_index(0, frame.height)
    if rule.join is not None:
        parts = [typed(_source(frame, name, mapping, file, rule.join), "text") for name in rule.join]
        return pl.DataFrame([part.alias(str(place)) for place, part in enumerate(parts)]).select(
            pl.concat_str(pl.all(), separator=rule.with_, ignore_nulls=True).replace("", None)
        ).to_series()  # fmt: skip
    if rule.hash is not None:
        parts = [typed(_source(frame, name, mapping, file, rule.hash), "text") for name in rule.hash]
        joined = pl.DataFrame([part.alias(str(place)) for place, part in enumerate(parts)]).select(
            pl.concat_str(pl.all().fill_null("\x01"), separator="\x1f")
        )
        return pl.Series("hash", [hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()[:16]
                                  for text in joined.to_series()], dtype=pl.String)  # fmt: skip
    return _source(frame, str(rule.from_), mapping, file, [])


def _source(
    frame: pl.DataFrame, name: str, mapping: MappedStream, file: str | None, beside: Sequence[str]
) -> pl.Series:
    """A source column, cleaned, or one of the pseudo columns."""
    if name == "_row":
        return frame["_row_number"]
    if name == "_file":
        return pl.Series("_file", [file], dtype=pl.String).new_from_index(0, frame.height)
    if name == "_occurrence":
        others = [other for other in beside if other not in PSEUDO]
        return frame.select(pl.int_range(1, pl.len() + 1).over(others)).to_series()
    return cleaned(frame[name], mapping.nulls)


def _mapped(source: pl.Series, rule: ColumnRule, shown: str, faults: list[_Fault]) -> pl.Series:
    text = typed(source, "text")
    table = dict(rule.map or {})
    result = text.replace_strict(table, default=rule.default, return_dtype=pl.String)
    if rule.default is None:
        unknown = text.is_not_null() & result.is_null()
        if unknown.any():
            values = ", ".join(f"`{key}`" for key in list(table)[:8])
            faults.append(
                _Fault(shown, f"`{shown}` holds a value that `map` does not know; it knows {values}", text, unknown)
            )
    return result


def _typed(source: pl.Series, column: Column, rule: ColumnRule, timezone: str) -> pl.Series:
    formats = [rule.format] if isinstance(rule.format, str) else list(rule.format or [])
    if rule.split is not None and column.type == "text_list" and source.dtype == pl.String:
        return source.str.split(rule.split).list.eval(pl.element().str.strip_chars())
    if rule.scale is not None:
        source = typed(source, "float") * rule.scale
    return typed(source, column.type, timezone=rule.timezone or timezone, formats=formats)


def _wanted(rule: ColumnRule) -> str:
    return f" of format `{rule.format}`" if rule.format else ""


def _is_id(name: str) -> bool:
    return name.endswith(("_id", "_key", "phone", "_value", "openid", "userid", "sku"))


def _refuse_scientific(source: pl.Series, shown: str, faults: list[_Fault]) -> None:
    """`6.91793E+18` is what Excel leaves of a long id: the digits are gone, and no cast brings them back."""
    if source.dtype != pl.String:
        return
    broken = source.str.contains(_SCIENTIFIC).fill_null(False)
    if broken.any():
        reason = f"`{shown}` is in scientific notation: Excel has destroyed the id; export again with ids as text"
        faults.append(_Fault(shown, reason, source, broken))


def _identifiers(frame: pl.DataFrame, mapping: MappedStream) -> pl.Series:
    cells = []
    for place, rule in enumerate(mapping.identifiers):
        value = typed(cleaned(frame[rule.column], mapping.nulls), "text").alias(str(place)).to_frame()
        cells.append(
            value.select(
                pl.when(pl.col(str(place)).is_not_null())
                .then(
                    pl.struct(
                        pl.lit(rule.type).alias("type"),
                        pl.lit(rule.scope).alias("scope"),
                        pl.col(str(place)).alias("value"),
                    )
                )
                .alias(str(place))
            ).to_series()
        )
    whole = pl.DataFrame(cells).select(pl.concat_list(pl.all()).list.drop_nulls().cast(IDENTIFIER_DTYPE))
    return whole.to_series().alias("identifiers")


def _unused(frame: pl.DataFrame, rules: dict[str, ColumnRule], taken: set[str]) -> list[pl.Series]:
    """Source columns to keep: those no rule reads, and those a rule turns into something else."""
    used = {rule.from_ for rule in rules.values() if rule.from_ and rule.map is None and rule.scale is None}
    kept = []
    for name in frame.columns:
        if name in used or name == "_row_number":
            continue
        kept.append(typed(frame[name], "text").alias(f"source.{name}" if name in taken else name))
    return kept


def _require(
    stream: Stream,
    mapping: MappedStream,
    rules: dict[str, ColumnRule],
    names: Sequence[str],
    file: str | None,
    only: Sequence[str] | None,
) -> None:
    """Every column a rule reads must be there, and every required column must have a rule; all faults at once."""
    faults = []
    wanted = [(target, name) for target, rule in rules.items() for name in inputs(rule)]
    wanted += [("identifiers", rule.column) for rule in mapping.identifiers if only is None]
    for target, name in wanted:
        if name in names or name in PSEUDO:
            continue
        twice = [other for other in names if other.startswith(f"{name}#")]
        if twice:
            faults.append(f"`{name}` stands {len(twice)} times in the header: name one of {', '.join(twice)}")
        else:
            faults.append(f"`{target}` is mapped from `{name}`, which is not there{nearest(name, names)}")
    faults += [
        f"`{column.name}` is required and nothing is mapped to it{nearest(column.name, names)}"
        for column in stream.columns
        if column.required and column.name not in rules and (only is None or column.name in only)
    ]
    if faults:
        raise FatalError(
            f"{file or stream.name}: the columns do not fit stream `{stream.name}`: {'; '.join(faults)};"
            f" found: {', '.join(names) or 'no columns'}",
            hint="mend `columns` of this stream in config/sources.yaml, or the file's header",
        )


def _without_faults(result: pl.DataFrame, came: pl.DataFrame, faults: Sequence[_Fault]) -> Mapped:
    if not faults:
        return Mapped(result, ())
    bad = faults[0].rows.clone()
    for fault in faults[1:]:
        bad = bad | fault.rows
    rejects: dict[int, Reject] = {}
    for fault in faults:
        for place in fault.rows.arg_true().to_list():
            if place not in rejects:
                rejects[place] = _reject(came, place, fault)
    ordered = tuple(rejects[place] for place in sorted(rejects))
    return Mapped(result.filter(~bad), ordered)


def _reject(came: pl.DataFrame, place: int, fault: _Fault) -> Reject:
    raw = came[place].drop("_row_number").write_ndjson().strip()
    value = fault.cells[place]
    number = came["_row_number"][place]
    return Reject(fault.reason, raw, number, fault.column, None if value is None else str(value)[:200])
