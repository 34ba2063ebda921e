"""Corp messages (企业群发): staff must confirm before anything goes out."""

from __future__ import annotations

import json
import secrets
from typing import Any

from sandbox.errors import ApiError
from sandbox.http import Call, Endpoint
from sandbox.wecom.access import cursor_of, encode_cursor, require_staff, visible

DAY = 86_400


def add_msg_template(call: Call) -> dict[str, Any]:
    """Queue a message: one staff per customer (the newest relation among the senders)."""
    chat_type = call.word("chat_type") or "single"
    if chat_type not in ("single", "group"):
        raise ApiError(40058)
    text = str(call.mapping("text").get("content") or "")
    if not text and not call.body.get("attachments"):
        raise ApiError(40063)
    asked, sender = call.texts("external_userid"), call.word("sender")
    if len(text.encode()) > 4000 or len(call.rows("attachments")) > 9 or len(asked) > 10_000:
        raise ApiError(40058)
    if (chat_type == "group" and not sender) or (not sender and not asked):
        raise ApiError(41048)
    if sender:
        require_staff(call, sender)
    if chat_type == "group":
        column = "chat_id"
        picked, failed = _groups(call, call.texts("chat_id_list"), sender)
    else:
        column = "external_userid"
        picked, failed = _customers(call, asked, sender)
    if not picked:
        raise ApiError(41048)
    msgid = "msg" + secrets.token_urlsafe(20)
    now = int(call.world.now())
    call.state.run(
        "insert into messages values (?, ?, ?, ?, ?, 0)", msgid, chat_type, sender, json.dumps(call.body), now
    )
    for receiver, userid in picked:
        call.state.run(f"insert into message_sends (msgid, userid, {column}) values (?, ?, ?)", msgid, userid, receiver)
    return {"fail_list": failed, "msgid": msgid}


def _groups(call: Call, asked: list[str], sender: str) -> tuple[list[tuple[str, str]], list[str]]:
    """(group, owner) pairs a message goes to: those asked for or all, and what is asked for and not the sender's."""
    if len(asked) > 2000:
        raise ApiError(40058)
    rows = call.state.all("select chat_id from groups where owner = ? and not dismissed order by rowid", sender)
    owned = [row["chat_id"] for row in rows]
    picked = [chat_id for chat_id in owned if not asked or chat_id in asked]
    return [(chat_id, sender) for chat_id in picked], [chat_id for chat_id in asked if chat_id not in owned]


def _customers(call: Call, asked: list[str], sender: str) -> tuple[list[tuple[str, str]], list[str]]:
    """(customer, staff) pairs a message goes to, and the customers nobody can reach."""
    if not asked:
        wanted = _tag_filter(call)
        rows = call.state.all(
            "select external_userid, userid, tag_ids from relations"
            " where userid = ? and status in ('normal', 'oneway') order by rid",
            sender,
        )
        return [(row["external_userid"], row["userid"]) for row in rows if wanted(row["tag_ids"].split(","))], []
    picked, failed = [], []
    for external_userid in asked:
        rows = call.state.all(
            "select userid from relations where external_userid = ? and status = 'normal'"
            " order by createtime desc, rid desc",
            external_userid,
        )
        able = [row["userid"] for row in rows if visible(call, row["userid"]) and sender in ("", row["userid"])]
        if able:
            picked.append((external_userid, able[0]))
        else:
            failed.append(external_userid)
    return picked, failed


def _tag_filter(call: Call) -> Any:
    """OR inside an item, AND between items; no filter lets everybody through."""
    items = call.mapping("tag_filter").get("group_list") or []
    try:
        groups = [set(item.get("tag_list") or []) for item in items]
    except (AttributeError, TypeError):
        raise ApiError(40035) from None
    if any(len(group) > 100 for group in groups):
        raise ApiError(40058)
    return lambda tags: all(group & set(tags) for group in groups)


def _message(call: Call) -> str:
    msgid = call.text("msgid", 41046)
    if call.state.one("select 1 from messages where msgid = ?", msgid) is None:
        raise ApiError(41047)
    return msgid


def get_groupmsg_list_v2(call: Call) -> dict[str, Any]:
    start, end = call.number("start_time", 0), call.number("end_time", 0)
    if end < start or end - start > 31 * DAY:
        raise ApiError(600018)
    limit = min(max(call.number("limit", 50), 1), 100)
    after, _ = cursor_of(call.word("cursor"), "messages", "")
    rows = call.state.all(
        "select rowid, * from messages where chat_type = ? and create_time between ? and ? and rowid > ?"
        " order by rowid limit ?",
        (call.word("chat_type") or "single"), start, end, after, limit + 1,
    )  # fmt: skip
    found = [
        {"msgid": row["msgid"], "creator": row["sender"], "create_time": str(row["create_time"]), "create_type": 0}
        | {"text": json.loads(row["content"]).get("text", {})}
        for row in rows[:limit]
    ]
    following = encode_cursor("messages", "", rows[limit - 1]["rowid"], 0) if len(rows) > limit else ""
    return {"group_msg_list": found, "next_cursor": following}


def get_groupmsg_task(call: Call) -> dict[str, Any]:
    """Staff of the message: status 2 once confirmed, else 0."""
    msgid = _message(call)
    limit = min(max(call.number("limit", 500), 1), 1000)
    after, _ = cursor_of(call.word("cursor"), "tasks", msgid)
    rows = call.state.all(
        "select userid, max(send_time) as sent, max(status) as status from message_sends where msgid = ?"
        " group by userid order by userid limit ? offset ?",
        msgid, limit + 1, after,
    )  # fmt: skip
    tasks = [
        {"userid": row["userid"], "status": 2 if row["status"] else 0}
        | ({"send_time": row["sent"]} if row["sent"] else {})
        for row in rows[:limit]
    ]
    following = encode_cursor("tasks", msgid, after + limit, 0) if len(rows) > limit else ""
    return {"task_list": tasks, "next_cursor": following}


def get_groupmsg_send_result(call: Call) -> dict[str, Any]:
    msgid, userid = _message(call), call.text("userid", 40003)
    limit = min(max(call.number("limit", 500), 1), 1000)
    scope = f"{msgid}|{userid}"
    after, _ = cursor_of(call.word("cursor"), "sends", scope)
    rows = call.state.all(
        "select rowid, * from message_sends where msgid = ? and userid = ? and rowid > ? order by rowid limit ?",
        msgid, userid, after, limit + 1,
    )  # fmt: skip
    sends = [
        {name: row[name] for name in ("external_userid", "chat_id") if row[name]}
        | {"userid": userid, "status": row["status"]}
        | ({"send_time": row["send_time"]} if row["send_time"] else {})
        for row in rows[:limit]
    ]
    following = encode_cursor("sends", scope, rows[limit - 1]["rowid"], 0) if len(rows) > limit else ""
    return {"send_list": sends, "next_cursor": following}


def remind_groupmsg_send(call: Call) -> dict[str, Any]:
    """At most three reminders in 24 hours."""
    msgid = _message(call)
    window, used = call.world.windows.get(("remind", msgid, DAY), (int(call.world.now() // DAY), 0))
    if used >= 3:
        raise ApiError(41094, "too many reminders")
    call.world.windows[("remind", msgid, DAY)] = (window, used + 1)
    return {}


def cancel_groupmsg_send(call: Call) -> dict[str, Any]:
    msgid = _message(call)
    if call.state.run("update messages set status = 1 where msgid = ? and status = 0", msgid) == 0:
        raise ApiError(41093, "already cancelled")
    call.state.run("delete from message_sends where msgid = ? and status = 0", msgid)
    return {}


def send_welcome_msg(call: Call) -> dict[str, Any]:
    """Within 20 seconds of the event, once."""
    code = call.text("welcome_code", 41050)
    born = call.world.welcome_codes.pop(code, None)
    if born is None or call.world.now() - born > 20:
        raise ApiError(41050)
    return {}


ENDPOINTS: dict[str, Endpoint] = {
    "externalcontact/add_msg_template": Endpoint("POST", add_msg_template, {"fail_list": [], "msgid": ""}, writes=True),
    "externalcontact/get_groupmsg_list_v2": Endpoint("POST", get_groupmsg_list_v2, {"group_msg_list": []}),
    "externalcontact/get_groupmsg_task": Endpoint("POST", get_groupmsg_task, {"task_list": []}),
    "externalcontact/get_groupmsg_send_result": Endpoint("POST", get_groupmsg_send_result, {"send_list": []}),
    "externalcontact/remind_groupmsg_send": Endpoint("POST", remind_groupmsg_send),
    "externalcontact/cancel_groupmsg_send": Endpoint("POST", cancel_groupmsg_send, writes=True),
    "externalcontact/send_welcome_msg": Endpoint("POST", send_welcome_msg),
}
