"""Customers: `list`, `get`, `batch/get_by_user` and `remark`, and what an id may be turned into (§ 2, § 3)."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from typing import Any

from sandbox.errors import ApiError
from sandbox.http import Call, Endpoint
from sandbox.state import State, split
from sandbox.wecom.access import (
    cursor_of,
    encode_cursor,
    own_event,
    pair_claims,
    require_staff,
    shown,
    visible,
    writable,
)


def contact_list(call: Call) -> dict[str, Any]:
    userid = call.query.get("userid", "")
    if not userid:
        raise ApiError(60111)
    require_staff(call, userid)
    rows = call.state.all(
        "select external_userid, status, ended_at from relations where userid = ? order by rid", userid
    )
    found = [row["external_userid"] for row in rows if shown(call.state, row, call.world.now())]
    if not found and call.state.settings["list_empty_code"]:
        raise ApiError(call.state.settings["list_empty_code"])
    return {"external_userid": found}


def external_contact(call: Call, row: Mapping[str, Any] | sqlite3.Row) -> dict[str, Any]:
    """The contact object of both reads: unionid for WeChat users and only when bound, firm fields only for type 2."""
    gender = row["gender"]
    contact: dict[str, Any] = {
        "external_userid": row["external_userid"],
        "name": row["name"],
        "avatar": row["avatar"],
        "type": row["type"],
        "gender": str(gender) if call.state.settings["gender_as_string"] else gender,
    }
    if row["type"] == 1:
        if row["unionid"] and call.state.settings["unionid_bound"]:
            contact["unionid"] = row["unionid"]
    else:
        contact |= {
            "position": row["position"] or "",
            "corp_name": row["corp_name"] or "",
            "corp_full_name": row["corp_name"] or "",
        }
    return contact


def follow_info(row: Mapping[str, Any] | sqlite3.Row) -> dict[str, Any]:
    info: dict[str, Any] = {
        "userid": row["userid"],
        "remark": row["remark"],
        "description": row["description"],
        "createtime": row["createtime"],
        "tag_id": split(row["tag_ids"]),
        "remark_corp_name": row["remark_corp_name"],
        "remark_mobiles": split(row["remark_mobiles"]),
        "oper_userid": row["oper_userid"],
        "add_way": row["add_way"],
    }
    if row["state"]:
        info["state"] = row["state"]
    return info


def _tags_of(state: State, row: sqlite3.Row) -> list[dict[str, Any]]:
    """The `tags` array of `get`: corp (1) and strategy (3) tags with id, personal (2) ones without."""
    found = []
    for tag_id in split(row["tag_ids"]):
        tag = state.tags.get(tag_id)
        if tag is None:
            continue
        group = state.groups[tag["group_id"]]
        kind = 1 if group["strategy_id"] is None else 3
        found.append({"group_name": group["name"], "tag_name": tag["name"], "tag_id": tag_id, "type": kind})
    return found + [{"group_name": "", "tag_name": name, "type": 2} for name in split(row["personal_tags"])]


def contact_get(call: Call) -> dict[str, Any]:
    external_userid = call.query.get("external_userid", "")
    if not external_userid:
        raise ApiError(41035)
    contact = call.state.one("select * from contacts where external_userid = ?", external_userid)
    if contact is None:
        raise ApiError(40096)
    after = cursor_of(call.query.get("cursor", ""), "get", external_userid)
    rows = call.state.all(
        "select * from relations where external_userid = ? and rid > ? order by rid", external_userid, after[0]
    )
    rows = [row for row in rows if shown(call.state, row, call.world.now()) and visible(call, row["userid"])]
    if not rows:
        raise ApiError(84061 if after[0] == 0 and _known(call, external_userid) else 40096)
    follow = []
    for row in rows[:500]:
        info = follow_info(row)
        del info["tag_id"]
        follow.append(info | {"tags": _tags_of(call.state, row)})
    reply: dict[str, Any] = {"external_contact": external_contact(call, contact), "follow_user": follow}
    if len(rows) > 500:
        reply["next_cursor"] = encode_cursor("get", external_userid, rows[499]["rid"], 0)
    return reply


def _known(call: Call, external_userid: str) -> bool:
    """Whether some visible staff once had this customer."""
    rows = call.state.all("select userid from relations where external_userid = ?", external_userid)
    return any(visible(call, row["userid"]) for row in rows)


BATCH_SQL = """
select relations.*, contacts.name, contacts.type, contacts.gender, contacts.avatar, contacts.unionid,
    contacts.corp_name, contacts.position
from relations join contacts using (external_userid)
where relations.userid = ? and relations.rid > ? order by relations.rid limit ?
"""


def batch_get_by_user(call: Call) -> dict[str, Any]:
    userids = call.texts("userid_list")
    if not userids:
        raise ApiError(41009)
    if len(userids) > call.state.settings["userid_list_max"]:
        raise ApiError(40058, f"userid_list exceed max length {call.state.settings['userid_list_max']}")
    for userid in userids:
        require_staff(call, userid)
    limit = call.number("limit", 50) or 50
    limit = min(max(limit, 1), 100)
    scope = "|".join(userids) if len(userids) < 3 else str(hash_of(userids))
    index, rid = cursor_of(call.word("cursor"), "batch", scope)
    if (
        call.state.settings["short_page_rate"]
        and call.world.faults.random.random() < call.state.settings["short_page_rate"]
    ):
        limit = max(1, limit // 3)
    found: list[dict[str, Any]] = []
    now = call.world.now()
    while index < len(userids) and len(found) < limit:
        rows = call.state.con.execute(BATCH_SQL, (userids[index], rid, limit - len(found))).fetchall()
        for row in rows:
            rid = row["rid"]
            if shown(call.state, row, now):
                found.append({"external_contact": external_contact(call, row), "follow_info": follow_info(row)})
        if len(rows) == 0:
            index, rid = index + 1, 0
    following = encode_cursor("batch", scope, index, rid) if _more(call.state, userids, index, rid) else ""
    return {"external_contact_list": found, "next_cursor": following, "fail_info": {"unlicensed_userid_list": []}}


def hash_of(items: Iterable[str]) -> int:
    """A number that stands for a list of text, the same in every process."""
    value = 1469598103934665603
    for item in items:
        for byte in item.encode() + b"\0":
            value = ((value ^ byte) * 1099511628211) % 2**64
    return value


def _more(state: State, userids: list[str], index: int, rid: int) -> bool:
    """Whether a page after (staff *index*, relation *rid*) would hold something."""
    for position in range(index, len(userids)):
        after = rid if position == index else 0
        if state.one("select 1 from relations where userid = ? and rid > ? limit 1", userids[position], after):
            return True
    return False


def remark(call: Call) -> dict[str, Any]:
    userid, external_userid = call.text("userid", 40003), call.text("external_userid", 41035)
    names = ("remark", "description", "remark_company", "remark_mobiles", "remark_pic_mediaid")
    if not any(call.body.get(name) for name in names):
        raise ApiError(40035)
    for name, length in (("remark", 20), ("description", 150), ("remark_company", 20)):
        if len(str(call.body.get(name) or "")) > length:
            raise ApiError(40058)
    row = writable(call, userid, external_userid)
    call.state.run(
        "update relations set remark = ?, description = ?, remark_corp_name = ?, remark_mobiles = ? where rid = ?",
        call.body.get("remark", row["remark"]),
        call.body.get("description", row["description"]),
        call.body.get("remark_company", row["remark_corp_name"]),
        ",".join(call.texts("remark_mobiles")) if "remark_mobiles" in call.body else row["remark_mobiles"],
        row["rid"],
    )
    own_event(call, "edit_external_contact", userid, external_userid)
    return {}


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


_LISTS = {"external_contact_list": [], "next_cursor": "", "fail_info": {"unlicensed_userid_list": []}}


ENDPOINTS: dict[str, Endpoint] = {
    "externalcontact/list": Endpoint("GET", contact_list, {"external_userid": []}),
    "externalcontact/get": Endpoint("GET", contact_get, {"follow_user": []}),
    "externalcontact/batch/get_by_user": Endpoint("POST", batch_get_by_user, _LISTS),
    "externalcontact/remark": Endpoint("POST", remark, writes=True, claims=pair_claims),
    "externalcontact/convert_to_openid": Endpoint("POST", convert_to_openid, {"openid": ""}),
    "idconvert/unionid_to_external_userid": Endpoint("POST", provider_only, {"external_userid": ""}),
}
