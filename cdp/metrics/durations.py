"""Lengths of time as analysts write them: `30s`, `15m`, `26h`, `7d`, `2w`."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator

_UNITS = {"ms": 1_000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000, "w": 604_800_000_000}
DAY_US = _UNITS["d"]


def microseconds(text: str) -> int:
    """*text* (a number and one of ms, s, m, h, d, w) in microseconds. ValueError when it is not such a length."""
    found = re.fullmatch(r"\s*(\d+)\s*(ms|s|m|h|d|w)\s*", str(text))
    if not found:
        raise ValueError("expected a length such as 30s, 15m, 26h, 7d or 2w")
    return int(found[1]) * _UNITS[found[2]]


def whole_days(text: str) -> int | None:
    """*text* as a number of days when it is a whole number of days, else None."""
    days, rest = divmod(microseconds(text), DAY_US)
    return days if rest == 0 else None


def _checked(value: object) -> str:
    microseconds(str(value))
    return str(value).strip()


Duration = Annotated[str, BeforeValidator(_checked)]
"""A pydantic field type: a valid length of time, kept as written."""
