"""Who may see and change what: visible range, scope, relations in force, cursors."""

from __future__ import annotations

import base64
import json
import sqlite3
from collections.abc import Mapping
from typing import Any

from sandbox.errors import ApiError
from sandbox.http import Call
from sandbox.state import State

ACTIVE = ("normal", "half", "oneway")  # relations that reads show; `removed` ones are over


def visible(call: Call, userid: str) -> bool:
    """True for staff of the corp, in the app's visible range and inside the customer-contact scope."""
    staff = call.state.staff.get(userid)
    if staff is None or staff["left_at"] is not None or not staff["in_scope"]:
        return False
    seen = call.app["visible"]
    return seen is None or userid in seen


def require_staff(call: Call, userid: str) -> None:
    """40003 unknown or gone, 60011 outside the app's range, 84074 outside the customer-contact scope."""
    staff = call.state.staff.get(userid)
    if staff is None or staff["left_at"] is not None:
        raise ApiError(40003)
    if call.app["visible"] is not None and userid not in call.app["visible"]:
        raise ApiError(60011)
    if not staff["in_scope"]:
        raise ApiError(84074)


def shown(state: State, row: Mapping[str, Any] | sqlite3.Row, now: float) -> bool:
    """Whether reads still show the relation (a removed one may linger for `removed_lag_seconds`)."""
    if row["status"] in ACTIVE:
        return True
    lag = state.settings["removed_lag_seconds"]
    return bool(lag) and row["ended_at"] is not None and now < row["ended_at"] + lag


def writable(call: Call, userid: str, external_userid: str) -> sqlite3.Row:
    """The relation a write may change; 40003, 40096 or 84061 otherwise. A one-way relation may be written."""
    require_staff(call, userid)
    if call.state.one("select 1 from contacts where external_userid = ?", external_userid) is None:
        raise ApiError(40096)
    row = call.state.relation(userid, external_userid)
    if row is None or row["status"] in ("removed", "half"):
        raise ApiError(84061)
    return row


def own_event(call: Call, change: str, userid: str, external_userid: str) -> None:
    if call.state.settings["api_raises_callbacks"]:
        event = {
            "Event": "change_external_contact",
            "ChangeType": change,
            "UserID": userid,
            "ExternalUserID": external_userid,
        }
        call.world.raise_event(event)


def pair_claims(call: Call) -> list[tuple[str, int]]:
    """Two writes at once on one (staff, customer) pair, or (†) on one customer, are refused."""
    settings = call.state.settings
    userid, external_userid = call.body.get("userid"), call.body.get("external_userid")
    claims = [(f"pair:{userid}|{external_userid}", settings["pair_conflict_code"])]
    return [*claims, (f"customer:{external_userid}", settings["customer_conflict_code"])]


def encode_cursor(kind: str, scope: str, first: int, second: int) -> str:
    return base64.urlsafe_b64encode(json.dumps([kind, scope, first, second]).encode()).decode()


def cursor_of(text: str, kind: str, scope: str) -> tuple[int, int]:
    """What a cursor stands for; 40058 when it is broken or was given for another list."""
    if not text:
        return 0, 0
    try:
        found_kind, found_scope, first, second = json.loads(base64.urlsafe_b64decode(text))
    except (ValueError, TypeError):
        raise ApiError(40058, "invalid cursor") from None
    if (found_kind, found_scope) != (kind, scope):
        raise ApiError(40058, "cursor of another list")
    return int(first), int(second)
