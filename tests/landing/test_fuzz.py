"""Whatever bytes come: no crash, and every row that came is landed, a duplicate or a reject."""

from __future__ import annotations

import csv
import io
import json
from decimal import Decimal
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cdp.cells import misfits, typed
from cdp.errors import FatalError
from connectors.files import reader
from connectors.files.reader import read
from connectors.settings import FileStream
from tests.source_support import Brand

FUZZ = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)
LANDED = settings(FUZZ, max_examples=12)  # each example lands a file
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
RECORD = st.fixed_dictionaries(
    {},
    optional={
        "type": JSON, "event": JSON, "time": JSON | st.integers(0, 2**41), "distinct_id": JSON, "properties": JSON,
        "identities": JSON, "lib": JSON, "_track_id": JSON, "新": JSON,
    },
)  # fmt: skip


def _line(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


LINE = st.one_of(
    RECORD.map(_line),
    st.integers(0, 30).map(lambda n: _line({"type": "track", "event": "E", "time": n})),
    JSON.map(_line),
    st.binary(max_size=30).map(lambda raw: raw.replace(b"\n", b"").replace(b"\r", b"")),
    st.sampled_from(
        [b"", b"  ", b"{", b'{"type":"track","time":1', b"null", b'{"type":"\xff"}', b'{"a":1}{"b":2}', b"[]"]
    ),
)


@LANDED
@given(st.lists(LINE, max_size=25), st.booleans())
def test_log_lines_are_all_accounted_for(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], end: bool
) -> None:
    root = tmp_path_factory.mktemp("fuzz")
    content = b"\n".join(lines) + (b"\n" if end and lines else b"")
    (root / "x.log").write_bytes(content)
    brand = Brand(root, "sources: {log: {connector: sensors, path: x.log, reject_budget: 1}}")
    try:
        report = brand.land("log")["records"]
    except FatalError as error:
        assert error.hint  # noqa: PT017  (refused as a whole is one of two good ends)
        return
    plain = not content.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff", b"\x1f\x8b"))
    array = content.lstrip().startswith(b"[")
    if plain and not array and _is_utf8(content[: 1 << 16]):
        assert report.received == sum(bool(line.strip()) for line in content.split(b"\n"))
    kept = brand.sql(
        "select count(*), count(distinct _key_hash), count(distinct _row_number) from raw.sensors__records"
    )
    assert kept == [(report.landed, report.landed, report.landed)]


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


CELL = st.text(st.characters(exclude_categories=("Cs", "Cc")) | st.sampled_from("\",;\n\t' "), max_size=8)


def _lines_of_records(text: str) -> set[int]:
    """The lines that records start on, from 1."""
    found, line = set(), 1
    reading = csv.reader(io.StringIO(text, newline=""))
    for row in reading:
        found |= {line} if row else set()
        line = reading.line_num + 1
    return found


@FUZZ
@given(
    st.lists(st.lists(CELL, min_size=1, max_size=5), max_size=12),
    st.sampled_from(["utf-8", "utf-8-sig", "gb18030", "utf-16"]),
    st.sampled_from([8, 40, 1 << 20]),
)
def test_a_csv_file_gives_back_every_row(
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    rows: list[list[str]],
    encoding: str,
    block: int,
) -> None:
    monkeypatch.setattr(reader, "_ROWS_BLOCK", block)
    path = tmp_path_factory.mktemp("fuzz") / "x.csv"
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["甲", "乙", "丙"])
    writer.writerows(rows)
    path.write_bytes(text.getvalue().encode(encoding))
    parts = list(read(path, FileStream.model_validate({"path": ".", "delimiter": ","}), name="x.csv"))
    assert [part.last for part in parts] == [False] * (len(parts) - 1) + [True]
    frame = pl.concat([part.frame for part in parts])
    rejected = sum(len(part.rejects) for part in parts)
    told = list(csv.reader(io.StringIO(text.getvalue(), newline="")))[1:]
    whole = [row for row in told if row]
    assert set(frame["_row_number"]) <= _lines_of_records(text.getvalue())
    assert frame.height + rejected == len(whole)
    good = [[cell or None for cell in row[:3]] for row in whole if len(row) == 3 or (len(row) > 3 and not any(row[3:]))]
    landed = [[cell or None for cell in row] for row in frame.select("甲", "乙", "丙").rows()]
    assert landed == good


@FUZZ
@given(st.binary(max_size=400), st.sampled_from(["x.csv", "x.xlsx", "x.parquet", "x.jsonl", "x.csv.gz"]))
def test_any_bytes_are_rows_or_an_error_that_helps(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, name: str
) -> None:
    path = tmp_path_factory.mktemp("fuzz") / name
    path.write_bytes(content)
    try:
        parts = list(read(path, FileStream.model_validate({"path": "."}), name=name))
    except FatalError as error:
        assert name in error.message  # noqa: PT017  (an error is one of two good ends)
        return
    assert all("_row_number" in part.frame.columns for part in parts)


@FUZZ
@given(st.lists(st.none() | TEXT | st.decimals(allow_nan=False, allow_infinity=False, places=3).map(str), max_size=20),
       st.sampled_from(["int", "float", "decimal", "bool", "timestamp", "date"]))  # fmt: skip
def test_a_cell_is_typed_or_a_misfit_and_never_invented(cells: list[str | None], kind: Any) -> None:
    before = pl.Series("x", cells, dtype=pl.String)
    after = typed(before, kind, timezone="Asia/Shanghai")
    assert len(after) == len(before)
    for text, value, bad in zip(cells, after.to_list(), misfits(before, after).to_list(), strict=True):
        assert (text is None) <= (value is None)
        assert bad == (text is not None and value is None)


@FUZZ
@given(st.decimals(min_value=-(10**15), max_value=10**15, allow_nan=False, allow_infinity=False, places=2))
def test_money_is_exact(amount: Decimal) -> None:
    written = [f"{amount:f}", f"¥{amount:f}", f" {amount:f}元 ", f"{amount:,f}"]
    assert typed(pl.Series("x", written), "decimal").to_list() == [amount] * 4
