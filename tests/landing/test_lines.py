"""Line files against a plain reading of the same bytes: every line once, in its place, whatever stands around it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.source_support import Brand
from warehouse import landing_lines
from warehouse.landing_lines import KnownKeys
from warehouse.raw import reconcile

LOG = "sources: {log: {connector: sensors, path: inbox/, reject_budget: 1.0}}"
MESSAGES = "sources: {web: {connector: segment, path: inbox/, reject_budget: 1.0}}"

good = st.integers(0, 12).map(lambda n: f'{{"type":"track","event":"浏览","time":{n},"distinct_id":"d{n}"}}')
with_id = st.tuples(st.sampled_from(["k1", "k2", ""]), st.integers(0, 3)).map(
    lambda pair: f'{{"type":"track","time":{pair[1]},"_record_key":"{pair[0]}"}}'
)
unexpected = st.integers(0, 3).map(lambda n: f'{{"type":"track","time":{n},"新字段":[{n}]}}')
bad = st.sampled_from(['{"type":"track"', "[1]", '"text"', "null", '{"time":1}', '{"type":"t","time":"soon"}', "x"])
blank = st.sampled_from(["", " ", "\t\r", " " * 90])
line = st.one_of(good, good, with_id, unexpected, bad, blank)
files = st.lists(
    st.tuples(st.lists(line, max_size=60), st.sampled_from(["\n", "\r\n"]), st.booleans()), min_size=1, max_size=3
)


def _plain(texts: list[list[str]]) -> tuple[list[tuple[int, dict[str, Any]]], int, int]:
    """(line number and line of what lands), duplicates, rejects: by the rules, in plain Python."""
    landed, known = [], set[str]()
    duplicates = rejected = 0
    for lines in texts:
        for number, text in enumerate(lines, start=1):
            if not text.strip():
                continue
            try:
                row = json.loads(text)
            except json.JSONDecodeError:
                row = None
            if not isinstance(row, dict) or not row.get("type") or not isinstance(row.get("time"), int):
                rejected += 1
                continue
            key = row.get("_record_key") or text.strip()
            if key in known:
                duplicates += 1
                continue
            known.add(key)
            landed.append((number, row))
    return landed, duplicates, rejected


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files=files)
def test_lines_land_as_a_plain_reading_of_them(
    files: list[Any], tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(landing_lines, "CHUNK_ROWS", 4)
    monkeypatch.setattr(landing_lines, "_BLOCK", 64)
    root = tmp_path_factory.mktemp("lines")
    (root / "inbox").mkdir()
    for place, (lines, ending, ended) in enumerate(files):
        # Two files of the same bytes are one file to a source: the first line keeps them apart.
        text = ending.join([f'{{"type":"x","time":{place},"distinct_id":"f{place}"}}', *lines]) + ending * ended
        (root / "inbox" / f"{place}.log").write_bytes(text.encode())
    brand = Brand(root, LOG)
    report = brand.land("log")["records"]
    texts = [path.read_bytes().decode().split("\n") for path in sorted((root / "inbox").iterdir())]
    landed, duplicates, rejected = _plain(texts)
    assert (report.landed, report.duplicates, report.rejected) == (len(landed), duplicates, rejected)
    rows = brand.sql(
        "select _row_number, type, time, distinct_id, _extra from raw.sensors__records order by _batch_seq, _row_number"
    )
    assert [(number, kind, at, who) for number, kind, at, who, _ in rows] == [
        (number, row["type"], row["time"], row.get("distinct_id")) for number, row in landed
    ]
    assert [json.loads(extra) if extra else {} for *_, extra in rows] == [
        {"新字段": row["新字段"]} if "新字段" in row else {} for _, row in landed
    ]
    assert all(row.ok for row in reconcile(brand.home))
    assert brand.sql("select count(distinct record_key) from raw.sensors__records") == [(len(landed),)]
    assert brand.land("log")["records"].received == 0


@pytest.mark.parametrize("connector", [LOG, MESSAGES])
def test_an_empty_id_is_no_id(tmp_path: Path, connector: str) -> None:
    (tmp_path / "inbox").mkdir()
    lines = [
        f'{{"type":"track","time":{n},"timestamp":"2026-01-0{n}","messageId":"","_record_key":""}}' for n in (1, 2)
    ]
    (tmp_path / "inbox" / "a.log").write_text("\n".join(lines), encoding="utf-8")
    [report] = Brand(tmp_path, connector).land("log" if connector is LOG else "web").values()
    assert report.landed == 2


def test_a_log_over_its_budget_leaves_its_keys_unknown(tmp_path: Path) -> None:
    (tmp_path / "inbox").mkdir()
    line = '{"type":"track","time":1}\n'
    (tmp_path / "inbox" / "a.log").write_text(line + "broken\n" * 30, encoding="utf-8")
    (tmp_path / "inbox" / "b.log").write_text(line, encoding="utf-8")
    brand = Brand(tmp_path, "sources: {log: {connector: sensors, path: inbox/}}")
    with pytest.raises(Exception, match=r"30 of 31 rows"):
        brand.land("log")
    assert brand.sql("select _source_file from raw.sensors__records") == [("inbox/b.log",)]


@settings(deadline=None)
@given(st.lists(st.integers(0, 40), max_size=30), st.lists(st.lists(st.integers(0, 40), max_size=20), max_size=8))
def test_known_keys_are_a_set(before: list[int], chunks: list[list[int]]) -> None:
    known, truth = KnownKeys(np.array(before, np.uint64)), set(before)
    for chunk in chunks:
        expected = []
        for key in chunk:
            expected.append(key not in truth)
            truth.add(key)
        assert known.first_seen(np.array(chunk, np.uint64)).tolist() == expected
