"""Masks: the same rule as a Python function and as a SQL expression, so that logs, checks and published tables agree.

A mask keeps what people need to recognise a value they know and too little to find one they do not. Masks are lossy:
nothing is recovered from them, and two values may share one.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal, get_args

Mask = Literal["phone", "name", "email", "id", "date", "hide"]
MASKS: tuple[str, ...] = get_args(Mask)
_DIGITS = re.compile(r"(?<!\d)(\d{3})\d{4,}(\d{4})(?!\d)")
_LONG = 16


def mask_phone(value: str) -> str:
    """`138****5678`: three digits from the front of the last eleven, four from the end; short numbers vanish."""
    digits = re.sub(r"[^0-9]", "", value)[-11:]
    return f"{digits[:3]}****{digits[-4:]}" if len(digits) >= 7 else "****"


def mask_name(value: str) -> str:
    """`张*`, `欧**华`: the first character, and the last one where there are more than two."""
    if len(value) <= 1:
        return "*"
    if len(value) == 2:
        return value[0] + "*"
    return value[0] + "*" * (len(value) - 2) + value[-1]


def mask_email(value: str) -> str:
    """`z***@example.com`: the first character and the domain."""
    local, at, domain = value.rpartition("@")
    return f"{local[:1]}***@{domain}" if at else "***"


def mask_id(value: str) -> str:
    """`…f2d9`: the last four characters of an id that has at least eight."""
    return f"…{value[-4:]}" if len(value) >= 8 else "…"


def mask_date(value: str) -> str:
    """`1990-01-01`: the first day of its year (*value* starts with the year)."""
    return f"{value[:4]}-01-01"


def mask_hide(_: str) -> str:
    """Nothing at all, only that there is a value."""
    return "***"


_FUNCTIONS: dict[str, Callable[[str], str]] = {
    "phone": mask_phone,
    "name": mask_name,
    "email": mask_email,
    "id": mask_id,
    "date": mask_date,
    "hide": mask_hide,
}


def mask(value: str | None, kind: Mask) -> str | None:
    """*value* under the mask *kind*; None stays None."""
    return None if value is None else _FUNCTIONS[kind](value)


def mask_text(value: object) -> str:
    """Any value as shown in a check or an error: numbers that could be a phone lose their middle, long text its end."""
    text = _DIGITS.sub(r"\1****\2", str(value))
    return text if len(text) <= _LONG else f"{text[:6]}…{text[-2:]}"


def mask_sql(expression: str, kind: Mask) -> str:
    """The same mask as a DuckDB expression over *expression*; null stays null."""
    digits = f"regexp_replace({expression}, '[^0-9]', '', 'g')"
    forms = {
        "phone": f"case when len({digits}) >= 7 "
        f"then concat(left(right({digits}, 11), 3), '****', right({digits}, 4)) else '****' end",
        "name": f"case when len({expression}) <= 1 then '*' "
        f"when len({expression}) = 2 then concat(left({expression}, 1), '*') "
        f"else concat(left({expression}, 1), repeat('*', len({expression}) - 2), right({expression}, 1)) end",
        "email": f"case when contains({expression}, '@') "
        f"then concat(left(regexp_replace({expression}, '@[^@]*$', ''), 1), '***@', split_part({expression}, '@', -1)) "
        f"else '***' end",
        "id": f"case when len({expression}) >= 8 then concat('…', right({expression}, 4)) else '…' end",
        "date": f"date_trunc('year', {expression})::date",
        "hide": "'***'",
    }
    return f"case when {expression} is not null then {forms[kind]} end"
