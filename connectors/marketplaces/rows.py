"""From the rows of an export to canonical rows, as a profile says.

Where a row is an item, an order is made of all its rows: amounts that stand on every row are taken once, amounts of the
row are summed. So an order with a row that does not fit is rejected whole: half of it would land with half its amount.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import polars as pl

from cdp.cells import typed
from cdp.streams import Reject, Stream
from connectors.files.reader import Part
from connectors.mapping import apply, cleaned
from connectors.marketplaces.profile import Profile, ProfileColumn, named, options, source_of
from connectors.marketplaces.tables import ROW, Table

_MASKED = r"\*|^##|^\$\$|^~|^#.+#$|^\$.+\$$"
_TOTALS = r"^(合|总|小|共)\s*计|^汇\s*总|(?i)^(grand |sub)?total\b"


@dataclass(frozen=True)
class Rows:
    """Canonical rows of one table and what did not fit. *known*: columns the profile reads. *passed_over*: rows of
    another kind."""

    frame: pl.DataFrame
    rejects: tuple[Reject, ...]
    known: tuple[str, ...]
    passed_over: int = 0


def canonical_rows(stream: Stream, table: Table, part: Part, *, shop: str) -> Rows:
    """The rows of *part* (source columns as text, and `_row_number`) that are rows of *stream*."""
    profile, frame = table.profile, part.frame
    names = [column for column in frame.columns if column != ROW]
    mapping, columns = profile.mapping(stream.name, names, shop)
    prepared = _filled_down(_coalesced(frame, columns, profile), columns, profile)
    prepared, passed_over = _of_stream(prepared, profile.streams[stream.name].rows, profile)
    prepared, totals = _without_totals(prepared, frame, columns, profile)
    result = apply(
        _without_masks(prepared, columns, profile), stream, mapping, timezone=profile.timezone, file=table.name
    )
    raws = _raws(frame, [reject.row_number for reject in result.rejects])
    rejects = [replace(reject, raw=raws[reject.row_number]) for reject in result.rejects]
    mapped = _where_said(_with_values(result.frame, prepared, columns, profile), prepared, columns)
    mapped = _without_signs(mapped, columns)
    if stream.name == "orders" and profile.grain == "item":
        others = siblings(table, part, [*part.rejects, *rejects])
        mapped = mapped.filter(~pl.col(ROW).is_in([reject.row_number for reject in others]))
        mapped, rejects = _one_row_an_order(mapped, stream, columns), [*rejects, *others]
    known = (*result.known, *(name for rule in columns.values() for name in options(rule)))
    ordered = sorted([*rejects, *totals], key=lambda reject: reject.row_number or 0)
    return Rows(mapped, tuple(ordered), known, passed_over)


def _raws(frame: pl.DataFrame, numbers: Sequence[int | None]) -> dict[int | None, str]:
    """Row number -> the row as it came, as JSON."""
    wanted = [number for number in numbers if number is not None]
    if not wanted:
        return {}
    rows = frame.filter(pl.col(ROW).is_in(wanted))
    return dict(zip(rows[ROW], rows.drop(ROW).write_ndjson().splitlines(), strict=True))


def siblings(table: Table, part: Part, rejects: Sequence[Reject]) -> list[Reject]:
    """The other rows of the orders with a row among *rejects*, where a row is an item: they are mended together."""
    names = [name for name in part.frame.columns if name != ROW]
    if table.profile.grain != "item" or "orders" not in table.profile.streams or not rejects:
        return []
    columns = table.profile.mapping("orders", names, "")[1]
    key, nulls = source_of(columns["order_id"]), table.profile.nulls
    prepared = _filled_down(_coalesced(part.frame, columns, table.profile), columns, table.profile)
    ids = dict(zip(prepared[ROW], cleaned(prepared[key], nulls), strict=True))
    bad = {reject.row_number: reject for reject in rejects}
    causes = {ids.get(number) or _id_of_line(reject, table, names, key): reject for number, reject in bad.items()}
    others = [(number, order) for number, order in ids.items() if order and order in causes and number not in bad]
    raws = _raws(part.frame, [number for number, _ in others])
    told = {order: f"row {cause.row_number} of the same order: {cause.reason}" for order, cause in causes.items()}
    return [Reject(told[order], raws[number], number) for number, order in others]


def _id_of_line(reject: Reject, table: Table, names: Sequence[str], key: str) -> str | None:
    """The order id in a line that is no row (too many cells), if its cells are where the header says."""
    if reject.raw.startswith(("{", "[")) or key not in names:
        return None
    cells = next(csv.reader([reject.raw], delimiter=table.delimiter or ","), [])
    place = names.index(key)
    return cleaned(pl.Series([cells[place]], dtype=pl.String), table.profile.nulls)[0] if place < len(cells) else None


# -- before mapping --------------------------------------------------------------------------------------------------


def _coalesced(frame: pl.DataFrame, columns: Mapping[str, ProfileColumn], profile: Profile) -> pl.DataFrame:
    """*frame* with a column for each rule that reads several: what the first of them that holds something holds."""
    made = []
    for rule in columns.values():
        if len(options(rule)) > 1:
            cells = [cleaned(frame[name], profile.nulls) for name in options(rule)]
            made.append(pl.DataFrame(cells).select(pl.coalesce(pl.all())).to_series().alias(source_of(rule)))
    return frame.with_columns(**{series.name: series for series in made}) if made else frame


def _filled_down(frame: pl.DataFrame, columns: Mapping[str, ProfileColumn], profile: Profile) -> pl.DataFrame:
    """The order id of the row above where merged cells left it out: there is an item in the row, and no id."""
    rule = columns.get("order_id")
    lines = profile.streams.get("order_lines")
    if profile.grain != "item" or rule is None or lines is None or not options(rule):
        return frame
    key, wanted = source_of(rule), _item_columns(profile, [name for name in frame.columns if name != ROW])
    if not wanted or not cleaned(frame[key], profile.nulls).is_null().any():
        return frame
    item = pl.any_horizontal(cleaned(frame[name], profile.nulls).is_not_null() for name in wanted)
    cells = frame.select(cleaned(frame[key], profile.nulls).alias("id"), item.alias("item"))
    filled = cells.select(pl.when(pl.col("item")).then(pl.col("id").forward_fill()).otherwise(pl.col("id")).alias(key))
    return frame.with_columns(filled.to_series())


def _item_columns(profile: Profile, names: list[str]) -> list[str]:
    _, columns = profile.mapping("order_lines", names, "")
    targets = ("product_id", "product_name", "sku")
    return [name for target in targets if target in columns for name in options(columns[target])]


def _of_stream(frame: pl.DataFrame, wanted: Mapping[str, str] | None, profile: Profile) -> tuple[pl.DataFrame, int]:
    """The rows that are rows of the stream (a bill lists advertising and insurance beside orders), and how many not."""
    names = [name for name in frame.columns if name != ROW]
    tests = [
        cleaned(frame[there], profile.nulls).str.contains(f"^(?:{pattern})$").fill_null(False)
        for name, pattern in (wanted or {}).items()
        if (there := named(name, names))
    ]
    if not tests:
        return frame, 0
    kept = frame.filter(pl.all_horizontal(tests))
    return kept, frame.height - kept.height


def _without_totals(
    prepared: pl.DataFrame, frame: pl.DataFrame, columns: Mapping[str, ProfileColumn], profile: Profile
) -> tuple[pl.DataFrame, list[Reject]]:
    """Rows of totals are no orders: they would land as an order called 合计."""
    rule = columns.get("order_id")
    if rule is None or not options(rule):
        return prepared, []
    key = source_of(rule)
    totals = cleaned(prepared[key], profile.nulls).str.contains(_TOTALS).fill_null(False)
    if not totals.any():
        return prepared, []
    reason = f"a row of totals, not an order: `{key}` says so; leave it out"
    raws = _raws(frame, prepared.filter(totals)[ROW].to_list())
    rejects = [Reject(reason, raw, number, key) for number, raw in raws.items()]
    return prepared.filter(~totals), rejects


def _without_masks(frame: pl.DataFrame, columns: Mapping[str, ProfileColumn], profile: Profile) -> pl.DataFrame:
    """Starred and encrypted cells emptied where the profile says they identify nobody."""
    changes = []
    for rule in columns.values():
        if rule.unmasked and options(rule):
            cell = cleaned(frame[source_of(rule)], profile.nulls)
            kept = cell.to_frame("x").select(pl.when(~pl.col("x").str.contains(_MASKED)).then(pl.col("x"))).to_series()
            changes.append(kept.alias(cell.name))
    return frame.with_columns(changes) if changes else frame


# -- after mapping ---------------------------------------------------------------------------------------------------


def _same_rows(frame: pl.DataFrame, mapped: pl.DataFrame) -> pl.DataFrame:
    """The rows of *frame* that are left in *mapped*, which holds no others."""
    return frame if frame.height == mapped.height else frame.filter(pl.col(ROW).is_in(mapped[ROW].implode()))


def _with_values(
    mapped: pl.DataFrame, frame: pl.DataFrame, columns: Mapping[str, ProfileColumn], profile: Profile
) -> pl.DataFrame:
    """Columns that `map` or `contains` translate; a word neither knows leaves the cell empty, the word stays beside."""
    for target, rule in columns.items():
        if not options(rule) or (rule.map is None and rule.contains is None):
            continue
        source = source_of(rule)
        words = _same_rows(frame, mapped)[source]
        text = typed(cleaned(words, profile.nulls), "text")
        meanings = {word: _meaning(word, rule) for word in text.unique() if word is not None} or {"": None}
        result = text.replace_strict(meanings, default=None, return_dtype=pl.String)
        mapped = mapped.with_columns(result.alias(target), words.alias(source))
    return mapped


def _meaning(word: str, rule: ProfileColumn) -> str | None:
    exact = (rule.map or {}).get(word)
    return exact or next((value for part, value in (rule.contains or {}).items() if part in word), None)


def _where_said(mapped: pl.DataFrame, frame: pl.DataFrame, columns: Mapping[str, ProfileColumn]) -> pl.DataFrame:
    """Cells of rows that do not meet their rule's `where`, emptied."""
    conditions = {target: rule.where for target, rule in columns.items() if rule.where and target in mapped.columns}
    rows = _same_rows(frame, mapped) if conditions else frame
    for target, where in conditions.items():
        told = [name in rows.columns for name in where]
        tests = [pl.col(name).str.contains(text, literal=True).fill_null(False) for name, text in where.items()]
        hit = rows.select(pl.all_horizontal(tests)).to_series() if all(told) else pl.Series([False] * rows.height)
        mapped = mapped.with_columns(pl.when(hit).then(pl.col(target)).alias(target))
    return mapped


def _without_signs(mapped: pl.DataFrame, columns: Mapping[str, ProfileColumn]) -> pl.DataFrame:
    unsigned = [target for target, rule in columns.items() if rule.absolute and target in mapped.columns]
    return mapped.with_columns(pl.col(target).abs() for target in unsigned) if unsigned else mapped


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
        # the sum of nothing is nothing, not 0.00
        summed = pl.when(cell.is_not_null().any()).then(cell.sum()) if how == "sum" else cell
        picks.append({"sum": summed, "max": cell.max(), "first": cell.drop_nulls().first()}[how].alias(name))
    words = [source_of(rule) for rule in columns.values() if options(rule) and (rule.contains or rule.map)]
    kept = [pl.col(name).first() for name in dict.fromkeys(words) if name in mapped.columns]
    grouped = mapped.group_by(key, maintain_order=True).agg(*picks, *kept, pl.col(ROW).first())
    return grouped.select(*declared, *[pick.meta.output_name() for pick in kept], ROW)
