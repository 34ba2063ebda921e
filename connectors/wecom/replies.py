"""What each WeCom return code means for the caller: one table, overridable by configuration.

Kinds: RETRY back off, few tries; TOKEN refresh once, retry once; WAIT stop this interface until its window ends; SLOW
fewer at once, retry; DROP give up on this item and correct local state; MAP reload reference data, then DROP; FIX the
call itself is wrong; ALERT configuration or permission, stop the job; UNKNOWN not in the table.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from cdp.errors import CdpError, FatalError, RetriableError, SkippableError

Kind = Literal["RETRY", "TOKEN", "WAIT", "SLOW", "DROP", "MAP", "FIX", "ALERT", "UNKNOWN"]

_BY_KIND: dict[Kind, tuple[int, ...]] = {
    "RETRY": (-1, 6000, 41063),
    "TOKEN": (40001, 40014, 42001),
    "WAIT": (45009, 45011),
    "SLOW": (45033, 45035),
    "DROP": (
        *(
            40003,
            40050,
            40096,
            40097,
            40099,
            40100,
            40128,
            40129,
            40130,
            40131,
            40132,
            41048,
            41050,
            41051,
            41093,
            41094,
        ),
        *(41096, 46004, 49008, 60021, 60111, 84061, 84084, 90500, 90501, 90502, 90508, 92002, 301021, 301048, 610004),
        *(610014, 710006),
    ),
    "MAP": (40068, 40071),
    "FIX": (
        *(
            40033,
            40035,
            40058,
            40063,
            40072,
            40206,
            41001,
            41002,
            41004,
            41009,
            41017,
            41018,
            41035,
            41037,
            41038,
            41039,
        ),
        *(41040, 41041, 41042, 41043, 41044, 41046, 41047, 41056, 45029, 60123, 81017, 301058, 301060, 600018),
    ),
    "ALERT": (
        *(
            40013,
            40091,
            40098,
            40126,
            41045,
            41054,
            41057,
            45031,
            48001,
            48002,
            48004,
            48005,
            48006,
            50002,
            50003,
            60011,
        ),
        *(60020, 81011, 81013, 84074, 84083, 301002, 301042, 301052, 301053, 610015, 610017, 610018, 701008, 845003),
    ),
}
KINDS: dict[int, Kind] = {code: kind for kind, codes in _BY_KIND.items() for code in codes}

# The pair is no longer there (or no longer reachable): the relation is lost, which is not a failure of ours.
GONE_CODES = frozenset({40003, 40096, 46004, 60021, 60111, 84061, 84084})

HINTS: dict[int, str] = {
    40001: "check the app's secret and that corpid and secret belong to the same app",
    40013: "check `corpid` in config/sources.yaml",
    40126: "the corp's tag library is full: retire tags nobody uses",
    48002: "list this app under 客户联系 → 可调用接口的应用 in the WeCom console",
    60020: "add this machine's address to the app's 企业可信IP; it works after about a minute",
    60011: "the app has no right over this staff member: widen its 可见范围",
    84074: "the staff member is outside 客户联系 → 权限配置 → 使用范围",
}


def kind_of(code: int, overrides: Mapping[int, Kind] | None = None) -> Kind:
    """The class of return code *code*; UNKNOWN when neither *overrides* nor the table names it."""
    if overrides and code in overrides:
        return overrides[code]
    return KINDS.get(code, "UNKNOWN")


class WeComError(CdpError):
    """A call that WeCom answered with a code other than 0, or did not answer. Never carries errmsg, token or body.

    *errcode* is 0 for transport failures. *path* is the interface called. *never_sent*: no connection was made, so the
    call cannot have had an effect.
    """

    code = "wecom"
    never_sent = False

    def __init__(self, path: str, errcode: int, kind: Kind, *, detail: str = "") -> None:
        what = f"returned {errcode}" if errcode else "did not answer"
        super().__init__(
            f"WeCom `{path}` {what} ({kind.lower()}){': ' + detail if detail else ''}", hint=HINTS.get(errcode)
        )
        self.path = path
        self.errcode = errcode
        self.kind: Kind = kind


class WeComRetriableError(WeComError, RetriableError):
    """The same call may go through later (busy, limits, no answer)."""


class WeComItemError(WeComError, SkippableError):
    """This one staff member, customer, group or tag cannot be handled."""


class WeComFatalError(WeComError, FatalError):
    """Permission, configuration or a malformed call: stop the job."""


def error_for(path: str, errcode: int, kind: Kind, *, detail: str = "") -> WeComError:
    """The exception that fits *kind*."""
    if kind in ("RETRY", "WAIT", "SLOW"):
        return WeComRetriableError(path, errcode, kind, detail=detail)
    if kind in ("DROP", "MAP"):
        return WeComItemError(path, errcode, kind, detail=detail)
    return WeComFatalError(path, errcode, kind, detail=detail)
