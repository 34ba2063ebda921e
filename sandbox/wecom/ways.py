"""Contact ways (活码) and acquisition links (获客链接).

The links are not on the reference page; their shape here is what public clients use.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
from typing import Any

from sandbox.errors import ApiError
from sandbox.http import Call, Endpoint
from sandbox.wecom.access import cursor_of, encode_cursor, require_staff


def add_contact_way(call: Call) -> dict[str, Any]:
    users, remark_text = call.texts("user"), call.word("remark")
    if len(users) > 100:
        raise ApiError(41041)
    if not users and not call.body.get("party"):
        raise ApiError(40035)
    for userid in users:
        require_staff(call, userid)
        if call.state.staff[userid]["status"] != 1:
            raise ApiError(41054)
    if len(remark_text) > 30 or len(call.word("state")) > 30:
        raise ApiError(40058)
    count = call.state.one("select count(*) as n from contact_ways")
    if count is not None and count["n"] >= call.state.settings["contact_way_cap"]:
        raise ApiError(41045)
    config_id = secrets.token_hex(16)
    call.state.run(
        "insert into contact_ways values (?, ?, ?, ?, ?, ?, ?, ?, ?, 1)",
        config_id,
        call.number("type", 1),
        call.number("scene", 2),
        call.word("state"),
        remark_text,
        json.dumps(users),
        int(bool(call.body.get("skip_verify", True))),
        int(call.world.now()),
        int(bool(call.body.get("is_temp"))),
    )
    return {"config_id": config_id, "qr_code": f"https://wework.qpic.cn/wwpic/{config_id}/0"}


def _contact_way(call: Call) -> sqlite3.Row:
    row = call.state.one("select * from contact_ways where config_id = ?", call.text("config_id", 40035))
    if row is None:
        raise ApiError(40058, "invalid config_id")
    return row


def get_contact_way(call: Call) -> dict[str, Any]:
    row = _contact_way(call)
    return {
        "contact_way": {
            "config_id": row["config_id"],
            "type": row["type"],
            "scene": row["scene"],
            "style": 1,
            "remark": row["remark"],
            "skip_verify": bool(row["skip_verify"]),
            "state": row["state"],
            "qr_code": f"https://wework.qpic.cn/wwpic/{row['config_id']}/0",
            "user": json.loads(row["users"]),
            "party": [],
            "is_temp": bool(row["temporary"]),
        }
    }


def list_contact_way(call: Call) -> dict[str, Any]:
    now = int(call.world.now())
    start, end = call.number("start_time", now - 90 * 86400), call.number("end_time", now)
    limit = min(max(call.number("limit", 100) or 100, 1), 1000)
    offset, _ = cursor_of(call.word("cursor"), "ways", f"{start}-{end}" if "start_time" in call.body else "")
    rows = call.state.all(
        "select rowid, config_id from contact_ways where by_api and not temporary and create_time between ? and ?"
        " and rowid > ? order by rowid limit ?",
        start, end, offset, limit + 1,
    )  # fmt: skip
    scope = f"{start}-{end}" if "start_time" in call.body else ""
    following = encode_cursor("ways", scope, rows[limit - 1]["rowid"], 0) if len(rows) > limit else ""
    return {"contact_way": [{"config_id": row["config_id"]} for row in rows[:limit]], "next_cursor": following}


def update_contact_way(call: Call) -> dict[str, Any]:
    row = _contact_way(call)
    users = call.texts("user") if "user" in call.body else json.loads(row["users"])
    if len(users) > 100:
        raise ApiError(41041)
    call.state.run(
        "update contact_ways set remark = ?, state = ?, users = ? where config_id = ?",
        str(call.body.get("remark", row["remark"])), str(call.body.get("state", row["state"])),
        json.dumps(users), row["config_id"],
    )  # fmt: skip
    return {}


def del_contact_way(call: Call) -> dict[str, Any]:
    row = _contact_way(call)
    call.state.run("delete from contact_ways where config_id = ?", row["config_id"])
    return {}


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


ENDPOINTS: dict[str, Endpoint] = {
    "externalcontact/add_contact_way": Endpoint("POST", add_contact_way, {"config_id": ""}, writes=True),
    "externalcontact/get_contact_way": Endpoint("POST", get_contact_way, {"contact_way": {}}),
    "externalcontact/list_contact_way": Endpoint("POST", list_contact_way, {"contact_way": [], "next_cursor": ""}),
    "externalcontact/update_contact_way": Endpoint("POST", update_contact_way, writes=True),
    "externalcontact/del_contact_way": Endpoint("POST", del_contact_way, writes=True),
    "externalcontact/customer_acquisition/list_link": Endpoint("POST", list_link, {"link_id_list": []}),
    "externalcontact/customer_acquisition/get": Endpoint("POST", get_link, {"link": {}}),
    "externalcontact/customer_acquisition/customer": Endpoint("POST", link_customers, {"customer_list": []}),
}
