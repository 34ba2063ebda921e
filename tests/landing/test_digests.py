"""Digests of rows: the same for the same content in any batch, another for any other content."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from cdp.streams import POLARS_TYPES
from warehouse.landing_digests import row_digests

_TEXTS = st.text(alphabet="a甲\x01\x02\x1f012", max_size=3)
_CELLS = {
    "text": st.none() | _TEXTS,
    "json": st.none() | _TEXTS,
    "int": st.none() | st.integers(-2, 2),
    "decimal": st.none() | st.sampled_from([Decimal("0.10"), Decimal("1.00"), Decimal("10.00")]),
    "bool": st.none() | st.booleans(),
    "timestamp": st.none()
    | st.sampled_from([datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, 0, 0, 1, tzinfo=UTC)]),
    "date": st.none() | st.sampled_from([date(2026, 1, 1), date(2026, 1, 2)]),
    "text_list": st.none() | st.lists(st.sampled_from(["a", "b"]), max_size=2),
}
_SCHEMA = {name: POLARS_TYPES[name] for name in _CELLS}


@settings(deadline=None, max_examples=60)
@given(st.lists(st.fixed_dictionaries(_CELLS), min_size=1, max_size=12), st.integers(0, 12))
def test_equal_rows_and_only_they_have_equal_digests(rows: list[dict[str, object]], cut: int) -> None:
    frame = pl.DataFrame(rows, schema=_SCHEMA, orient="row")
    whole = row_digests(frame, list(_SCHEMA)).to_list()
    parts = [*row_digests(frame[:cut], list(_SCHEMA)), *row_digests(frame[cut:], list(_SCHEMA))]
    assert parts == whole, "a row's digest does not hang on the rows beside it"
    for row, digest in zip(rows, whole, strict=True):
        assert [other == row for other in rows] == [other == digest for other in whole]


def test_no_rows_and_rows_of_nothing() -> None:
    frame = pl.DataFrame(schema=_SCHEMA)
    assert row_digests(frame, list(_SCHEMA)).to_list() == []
    nothing = pl.DataFrame([dict.fromkeys(_SCHEMA)] * 3, schema=_SCHEMA)
    assert row_digests(nothing, list(_SCHEMA)).n_unique() == 1
    beside = pl.DataFrame([{"text": "x"}, {}], schema=_SCHEMA)
    assert row_digests(beside, list(_SCHEMA))[1] == row_digests(nothing, list(_SCHEMA))[0]
