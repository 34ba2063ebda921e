"""A few rows for a person to look at, personal cells masked."""

from __future__ import annotations

import polars as pl

from cdp.streams import Stream

SAMPLE_ROWS = 5


def sample(frame: pl.DataFrame, stream: Stream) -> pl.DataFrame:
    """Up to five rows as text; cells of personal columns, and of columns nobody declared, keep first and last only."""
    open_columns = {column.name for column in stream.columns if column.sensitivity == "none"}
    shown = [column.name for column in stream.columns if column.name in frame.columns]
    shown += [name for name in frame.columns if name not in shown and not name.startswith("_")]
    rows = frame.head(SAMPLE_ROWS)
    cells = {name: [_shown(value, name in open_columns) for value in rows[name].to_list()] for name in shown}
    return pl.DataFrame(cells, schema=dict.fromkeys(shown, pl.String))


def masked(text: str) -> str:
    """`13800138000` as `1*********0`; one or two characters become stars altogether."""
    return "*" * len(text) if len(text) < 3 else f"{text[0]}{'*' * min(len(text) - 2, 9)}{text[-1]}"


def _shown(value: object, plain: bool) -> str | None:
    if value is None:
        return None
    return str(value) if plain else masked(str(value))
