"""Hand-over of customers: asked for now, done after a day, without tags."""

from __future__ import annotations

from typing import Any

from sandbox.errors import ApiError
from sandbox.http import Call, Endpoint
from sandbox.wecom.access import cursor_of, encode_cursor, require_staff

DAY = 86_400


def _transfer(call: Call, *, resigned: bool) -> dict[str, Any]:
    """Begin the hand-over of up to 100 customers; one answer per customer, 0 = begun."""
    state, now = call.state, int(call.world.now())
    handover, takeover = call.text("handover_userid", 40003), call.text("takeover_userid", 40003)
    asked = call.texts("external_userid")
    if not 1 <= len(asked) <= 100:
        raise ApiError(40058)
    require_staff(call, takeover)
    old = state.staff.get(handover)
    if old is None or (old["left_at"] is not None) != resigned:
        raise ApiError(40003)
    answers = []
    for external_userid in asked:
        code = _transfer_code(call, handover, takeover, external_userid)
        if code == 0:
            state.run(
                "insert or replace into transfers (external_userid, handover, takeover, asked_at, resigned)"
                " values (?, ?, ?, ?, ?)",
                external_userid, handover, takeover, now, int(resigned),
            )  # fmt: skip
        answers.append({"external_userid": external_userid, "errcode": code})
    return {"customer": answers}


def _transfer_code(call: Call, handover: str, takeover: str, external_userid: str) -> int:
    row = call.state.relation(handover, external_userid)
    if row is None or row["status"] == "removed":
        return 40096
    if call.state.relation(takeover, external_userid) is not None:
        return 40097
    waiting = call.state.one("select 1 from transfers where external_userid = ? and status = 2", external_userid)
    return 40099 if waiting else 0


def settle_transfers(call: Call) -> None:
    """Finish hand-overs begun 24 hours ago: the taker gets a relation without tags, the old one is over."""
    due = call.world.now() - DAY
    for row in call.state.all("select rowid, * from transfers where status = 2 and asked_at <= ?", due):
        old = call.state.relation(row["handover"], row["external_userid"])
        at = row["asked_at"] + DAY
        call.state.run("update transfers set status = 1, taken_at = ? where rowid = ?", at, row["rowid"])
        if old is None:
            continue
        call.state.run("update relations set status = 'removed', ended_at = ? where rid = ?", at, old["rid"])
        call.state.run(
            "insert into relations (userid, external_userid, createtime, oper_userid, add_way, state)"
            " values (?, ?, ?, ?, 202, ?)",
            row["takeover"], row["external_userid"], at, row["takeover"], old["state"],
        )  # fmt: skip


def _transfer_result(call: Call, *, resigned: bool) -> dict[str, Any]:
    handover, takeover = call.text("handover_userid", 40003), call.text("takeover_userid", 40003)
    settle_transfers(call)
    scope = f"{handover}|{takeover}"
    after, _ = cursor_of(call.word("cursor"), "transfer", scope)
    rows = call.state.all(
        "select rowid, * from transfers where handover = ? and takeover = ? and resigned = ? and rowid > ?"
        " order by rowid limit 1001",
        handover, takeover, int(resigned), after,
    )  # fmt: skip
    names = ("external_userid", "status", "taken_at")
    customers = [
        dict(zip(("external_userid", "status", "takeover_time"), (row[name] for name in names), strict=True))
        for row in rows[:1000]
    ]
    following = encode_cursor("transfer", scope, rows[999]["rowid"], 0) if len(rows) > 1000 else ""
    return {"customer": customers, "next_cursor": following}


def transfer_customer(call: Call) -> dict[str, Any]:
    return _transfer(call, resigned=False)


def resigned_transfer_customer(call: Call) -> dict[str, Any]:
    return _transfer(call, resigned=True)


def transfer_result(call: Call) -> dict[str, Any]:
    return _transfer_result(call, resigned=False)


def resigned_transfer_result(call: Call) -> dict[str, Any]:
    return _transfer_result(call, resigned=True)


def get_unassigned_list(call: Call) -> dict[str, Any]:
    """Customers of staff who left and who wait for a taker."""
    size = min(max(call.number("page_size", 1000), 1), 1000)
    after, _ = cursor_of(call.word("cursor"), "unassigned", "")
    rows = call.state.all(
        "select rid, userid, external_userid, left_at from relations join staff using (userid)"
        " where left_at is not null and relations.status <> 'removed' and rid > ? order by rid limit ?",
        after, size + 1,
    )  # fmt: skip
    info = [
        {
            "handover_userid": row["userid"],
            "external_userid": row["external_userid"],
            "dimission_time": row["left_at"],
        }
        for row in rows[:size]
    ]
    last = len(rows) <= size
    return {
        "info": info,
        "is_last": last,
        "next_cursor": "" if last else encode_cursor("unassigned", "", rows[size - 1]["rid"], 0),
    }


ENDPOINTS: dict[str, Endpoint] = {
    "externalcontact/transfer_customer": Endpoint("POST", transfer_customer, {"customer": []}, writes=True),
    "externalcontact/transfer_result": Endpoint("POST", transfer_result, {"customer": []}, writes=True),
    "externalcontact/resigned/transfer_customer": Endpoint(
        "POST", resigned_transfer_customer, {"customer": []}, writes=True
    ),
    "externalcontact/resigned/transfer_result": Endpoint(
        "POST", resigned_transfer_result, {"customer": []}, writes=True
    ),
    "externalcontact/get_unassigned_list": Endpoint("POST", get_unassigned_list, {"info": [], "is_last": True}),
}
