"""WeCom endpoints beyond the tag job: hand-over, corp messages, join ways, acquisition links, id conversion.

Shapes: § 5 of the API reference. Acquisition links (获客链接) are not on that page; their shape here is what public
clients use.
"""

from __future__ import annotations

import json
import secrets
from typing import Any

from sandbox.errors import ApiError
from sandbox.http import Call, Endpoint
from sandbox.wecom import cursor_of, encode_cursor, require_staff, visible

DAY = 86_400
WAITING, DONE, REFUSED, FULL, NONE = 2, 1, 3, 4, 5  # transfer status


# Hand-over


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


# Corp messages (企业群发): staff must confirm before anything goes out


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
    picked, failed = _receivers(call, asked, sender)
    if not picked and chat_type == "single":
        raise ApiError(41048)
    msgid = "msg" + secrets.token_urlsafe(20)
    now = int(call.world.now())
    call.state.run(
        "insert into messages values (?, ?, ?, ?, ?, 0)", msgid, chat_type, sender, json.dumps(call.body), now
    )
    for external_userid, userid in picked:
        call.state.run(
            "insert into message_sends (msgid, userid, external_userid) values (?, ?, ?)",
            msgid,
            userid,
            external_userid,
        )
    return {"fail_list": failed, "msgid": msgid}


def _receivers(call: Call, asked: list[str], sender: str) -> tuple[list[tuple[str, str]], list[str]]:
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
        {"msgid": row["msgid"], "creator": row["sender"], "create_time": str(row["create_time"]), "create_type": 1}
        | {"text": json.loads(row["content"]).get("text", {})}
        for row in rows[:limit]
    ]
    following = encode_cursor("messages", "", rows[limit - 1]["rowid"], 0) if len(rows) > limit else ""
    return {"group_msg_list": found, "next_cursor": following}


def get_groupmsg_task(call: Call) -> dict[str, Any]:
    """Staff of the message: status 2 once confirmed, else 0."""
    rows = call.state.all(
        "select userid, max(send_time) as sent, max(status) as status from message_sends where msgid = ?"
        " group by userid order by userid",
        _message(call),
    )
    tasks = [
        {"userid": row["userid"], "status": 2 if row["status"] else 0}
        | ({"send_time": row["sent"]} if row["sent"] else {})
        for row in rows
    ]
    return {"task_list": tasks, "next_cursor": ""}


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
        {"external_userid": row["external_userid"], "userid": userid, "status": row["status"]}
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


# Join ways and acquisition links


def add_join_way(call: Call) -> dict[str, Any]:
    chats = call.texts("chat_id_list")
    if not 1 <= len(chats) <= 5 or len(call.word("state")) > 30:
        raise ApiError(40058)
    config_id = secrets.token_hex(16)
    kept = {"chat_id_list": chats, "scene": call.number("scene", 2), "state": call.word("state")}
    kept["remark"] = call.word("remark")
    call.state.run("insert into join_ways values (?, ?)", config_id, json.dumps(kept, ensure_ascii=False))
    return {"config_id": config_id}


def get_join_way(call: Call) -> dict[str, Any]:
    config_id = call.text("config_id", 40035)
    row = call.state.one("select * from join_ways where config_id = ?", config_id)
    if row is None:
        raise ApiError(40058, "invalid config_id")
    return {"join_way": {"config_id": config_id, **json.loads(row["body"])}}


def list_link(call: Call) -> dict[str, Any]:
    limit = min(max(call.number("limit", 100), 1), 100)
    after, _ = cursor_of(call.word("cursor"), "links", "")
    rows = call.state.all(
        "select rowid, link_id from acquisition_links where rowid > ? order by rowid limit ?", after, limit + 1
    )
    following = encode_cursor("links", "", rows[limit - 1]["rowid"], 0) if len(rows) > limit else ""
    return {"link_id_list": [row["link_id"] for row in rows[:limit]], "next_cursor": following}


def _link(call: Call) -> Any:
    row = call.state.one("select * from acquisition_links where link_id = ?", call.text("link_id", 40035))
    if row is None:
        raise ApiError(40058, "invalid link_id")
    return row


def get_link(call: Call) -> dict[str, Any]:
    row = _link(call)
    link = {"link_id": row["link_id"], "link_name": row["name"], "create_time": row["create_time"]}
    link["url"] = f"https://work.weixin.qq.com/ca/{row['link_id']}"
    return {"link": link, "range": {"user_list": json.loads(row["users"]), "department_list": []}}


def link_customers(call: Call) -> dict[str, Any]:
    """Customers who came by the link, with the `customer_channel` (state) they carried."""
    row = _link(call)
    limit = min(max(call.number("limit", 1000), 1), 1000)
    after, _ = cursor_of(call.word("cursor"), "link", row["link_id"])
    rows = call.state.all(
        "select * from relations where add_way = 16 and state = ? and rid > ? and status <> 'removed'"
        " order by rid limit ?",
        row["state"], after, limit + 1,
    )  # fmt: skip
    customers = [
        {"external_userid": item["external_userid"], "userid": item["userid"], "chat_status": 1, "state": item["state"]}
        for item in rows[:limit]
    ]
    following = encode_cursor("link", row["link_id"], rows[limit - 1]["rid"], 0) if len(rows) > limit else ""
    return {"customer_list": customers, "next_cursor": following}


# Id conversion


def convert_to_openid(call: Call) -> dict[str, Any]:
    external_userid = call.text("external_userid", 41035)
    row = call.state.one("select * from contacts where external_userid = ?", external_userid)
    if row is None:
        raise ApiError(40096)
    if row["type"] != 1 or not row["openid"]:
        raise ApiError(41056, "not a wechat user")
    return {"openid": row["openid"]}


def provider_only(call: Call) -> dict[str, Any]:
    """A self-built app has no unionid -> external_userid call."""
    del call
    raise ApiError(48002)


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
    "externalcontact/add_msg_template": Endpoint("POST", add_msg_template, {"fail_list": [], "msgid": ""}, writes=True),
    "externalcontact/get_groupmsg_list_v2": Endpoint("POST", get_groupmsg_list_v2, {"group_msg_list": []}),
    "externalcontact/get_groupmsg_task": Endpoint("POST", get_groupmsg_task, {"task_list": []}),
    "externalcontact/get_groupmsg_send_result": Endpoint("POST", get_groupmsg_send_result, {"send_list": []}),
    "externalcontact/remind_groupmsg_send": Endpoint("POST", remind_groupmsg_send),
    "externalcontact/cancel_groupmsg_send": Endpoint("POST", cancel_groupmsg_send, writes=True),
    "externalcontact/send_welcome_msg": Endpoint("POST", send_welcome_msg),
    "externalcontact/groupchat/add_join_way": Endpoint("POST", add_join_way, {"config_id": ""}, writes=True),
    "externalcontact/groupchat/get_join_way": Endpoint("POST", get_join_way, {"join_way": {}}),
    "externalcontact/customer_acquisition/list_link": Endpoint("POST", list_link, {"link_id_list": []}),
    "externalcontact/customer_acquisition/get": Endpoint("POST", get_link, {"link": {}}),
    "externalcontact/customer_acquisition/customer": Endpoint("POST", link_customers, {"customer_list": []}),
    "externalcontact/convert_to_openid": Endpoint("POST", convert_to_openid, {"openid": ""}),
    "idconvert/unionid_to_external_userid": Endpoint("POST", provider_only, {"external_userid": ""}),
}
