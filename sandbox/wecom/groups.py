"""Customer groups and their join ways."""

from __future__ import annotations

import json
import secrets
import sqlite3
from typing import Any

from sandbox.errors import ApiError
from sandbox.http import Call, Endpoint
from sandbox.wecom.access import cursor_of, encode_cursor, require_staff


def groupchat_list(call: Call) -> dict[str, Any]:
    limit = call.number("limit", 0)
    if not 1 <= limit <= 1000:
        raise ApiError(40058)
    status = call.number("status_filter", 0)
    if status not in (0, 1, 2, 3):
        raise ApiError(40058)
    owners = call.mapping("owner_filter").get("userid_list") or []
    if not isinstance(owners, list) or len(owners) > 100:
        raise ApiError(40058)
    if not owners and len(call.state.staff) > 1000 and not call.body.get("cursor"):
        raise ApiError(81017)
    offset, _ = cursor_of(call.word("cursor"), "chats", str(status))
    rows = call.state.all(
        "select rowid, chat_id, owner, status from groups where not dismissed and rowid > ? order by rowid", offset
    )
    rows = [
        row
        for row in rows
        if (not owners or row["owner"] in owners)
        and (status == 0 or row["status"] == status)
        and _sees(call, row["owner"])
    ]
    reply: dict[str, Any] = {
        "group_chat_list": [{"chat_id": row["chat_id"], "status": row["status"]} for row in rows[:limit]]
    }
    reply["next_cursor"] = encode_cursor("chats", str(status), rows[limit - 1]["rowid"], 0) if len(rows) > limit else ""
    return reply


def _sees(call: Call, owner: str) -> bool:
    return call.app["visible"] is None or owner in call.app["visible"]


def groupchat_get(call: Call) -> dict[str, Any]:
    chat_id = call.text("chat_id", 40050)
    group = call.state.one("select * from groups where chat_id = ?", chat_id)
    if group is None:
        raise ApiError(40050)
    if group["dismissed"]:
        raise ApiError(49008)
    if not _sees(call, group["owner"]):
        raise ApiError(60011)
    named = call.number("need_name", 0)
    members = [_member(call, row, bool(named)) for row in call.state.all(
        "select * from group_members where chat_id = ? order by join_time, member_id", chat_id
    )]  # fmt: skip
    return {
        "group_chat": {
            "chat_id": chat_id,
            "name": group["name"],
            "owner": group["owner"],
            "create_time": group["create_time"],
            "notice": group["notice"],
            "member_list": members,
            "admin_list": [{"userid": group["owner"]}],
            "member_version": f"v{len(members)}",
        }
    }


def _member(call: Call, row: sqlite3.Row, named: bool) -> dict[str, Any]:
    member: dict[str, Any] = {
        "userid": row["member_id"],
        "type": row["type"],
        "join_time": row["join_time"],
        "join_scene": row["join_scene"],
        "group_nickname": "",
    }
    if row["type"] == 2 and row["unionid"] and call.state.settings["unionid_bound"]:
        member["unionid"] = row["unionid"]
    if row["invitor"]:
        member["invitor"] = {"userid": row["invitor"]}
    if row["state"]:
        member["state"] = row["state"]
    if named:
        member["name"] = row["name"]
    return member


def opengid_to_chatid(call: Call) -> dict[str, Any]:
    opengid = call.text("opengid", 40050)
    if call.state.one("select 1 from groups where chat_id = ?", "wr" + opengid[2:]) is None:
        raise ApiError(40050)
    return {"chat_id": "wr" + opengid[2:]}


def groupchat_transfer(call: Call) -> dict[str, Any]:
    chats, owner = call.texts("chat_id_list"), call.text("new_owner", 40003)
    if not 1 <= len(chats) <= 100:
        raise ApiError(40058)
    require_staff(call, owner)
    failed = []
    for chat_id in chats:
        row = call.state.one("select * from groups where chat_id = ? and not dismissed", chat_id)
        if row is None:
            failed.append({"chat_id": chat_id, "errcode": 90500, "errmsg": "the owner of this chat can not be changed"})
        else:
            call.state.run("update groups set owner = ?, status = 3 where chat_id = ?", owner, chat_id)
    return {"failed_chat_list": failed}


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


ENDPOINTS: dict[str, Endpoint] = {
    "externalcontact/groupchat/list": Endpoint("POST", groupchat_list, {"group_chat_list": [], "next_cursor": ""}),
    "externalcontact/groupchat/get": Endpoint("POST", groupchat_get, {"group_chat": {"member_list": []}}),
    "externalcontact/groupchat/transfer": Endpoint("POST", groupchat_transfer, {"failed_chat_list": []}, writes=True),
    "externalcontact/groupchat/onjob_transfer": Endpoint(
        "POST", groupchat_transfer, {"failed_chat_list": []}, writes=True
    ),
    "externalcontact/opengid_to_chatid": Endpoint("POST", opengid_to_chatid, {"chat_id": ""}),
    "externalcontact/groupchat/add_join_way": Endpoint("POST", add_join_way, {"config_id": ""}, writes=True),
    "externalcontact/groupchat/get_join_way": Endpoint("POST", get_join_way, {"join_way": {}}),
}
