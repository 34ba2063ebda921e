"""Figures of how staff talk to customers."""

from __future__ import annotations

from typing import Any

from sandbox.errors import ApiError
from sandbox.http import Call, Endpoint
from sandbox.wecom.access import require_staff


def get_user_behavior_data(call: Call) -> dict[str, Any]:
    raw = call.body.get("userid")
    userids = [raw] if isinstance(raw, str) else call.texts("userid")
    if not userids and not call.body.get("partyid"):
        raise ApiError(41009)
    if len(userids) > 100:
        raise ApiError(40058)
    start, end = call.number("start_time", 0), call.number("end_time", 0)
    now = call.world.now()
    if end < start or end - start > 30 * 86400 or start < now - 181 * 86400:
        raise ApiError(600018)
    for userid in userids:
        require_staff(call, userid)
    marks = ",".join("?" * len(userids)) or "''"
    rows = call.state.con.execute(
        f"select day, sum(chat_cnt) chat_cnt, sum(message_cnt) message_cnt, avg(reply_percentage) reply_percentage,"
        f" avg(avg_reply_time) avg_reply_time, sum(negative_feedback_cnt) negative_feedback_cnt,"
        f" sum(new_apply_cnt) new_apply_cnt, sum(new_contact_cnt) new_contact_cnt"
        f" from behavior where userid in ({marks}) and day between ? and ? group by day order by day",
        [*userids, start, end],
    ).fetchall()
    found = []
    for row in rows:
        item = {"stat_time": row["day"]} | {
            name: row[name]
            for name in ("chat_cnt", "message_cnt", "negative_feedback_cnt", "new_apply_cnt", "new_contact_cnt")
        }
        if row["chat_cnt"]:
            item |= {
                "reply_percentage": round(row["reply_percentage"], 2),
                "avg_reply_time": int(row["avg_reply_time"]),
            }
        found.append(item)
    return {"behavior_data": found}


ENDPOINTS: dict[str, Endpoint] = {
    "externalcontact/get_user_behavior_data": Endpoint("POST", get_user_behavior_data, {"behavior_data": []}),
}
