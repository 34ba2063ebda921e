"""WeCom endpoints the platform uses first: staff, customers, tags, groups, contact ways, behaviour.

Shapes and rules: § 2–§ 5 of the API reference. Handlers are synchronous, read one `Call` and run in one transaction.
"""

from __future__ import annotations

import base64
import json
import re
import secrets
import sqlite3
from collections.abc import Iterable, Mapping
from typing import Any

from sandbox.errors import ApiError
from sandbox.http import Call, Endpoint
from sandbox.state import State, split

ACTIVE = ("normal", "half", "oneway")  # relations that reads show; `removed` ones are over


# Who may be seen


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


# Tokens and staff


def gettoken(call: Call) -> dict[str, Any]:
    settings, world = call.state.settings, call.world
    corpid, secret = call.query.get("corpid", ""), call.query.get("corpsecret", "")
    if not secret:
        raise ApiError(41004)
    if not corpid:
        raise ApiError(41002)
    if corpid != settings["corpid"]:
        raise ApiError(40013)
    world.count_call("gettoken", corpid, call.address)
    hour = int(world.now() // 3600)
    window, wrong = world.wrong_secrets.get(call.address, (hour, 0))
    wrong = wrong if window == hour else 0
    if wrong >= settings["wrong_secret_per_hour"]:
        raise ApiError(45009)
    app = next((app for app in call.state.apps.values() if app["secret"] == secret), None)
    if app is None or not app["enabled"]:
        world.wrong_secrets[call.address] = (hour, wrong + 1)
        raise ApiError(40001)
    token, seconds = world.issue_token("wecom", str(app["agentid"]), fresh=not settings["token_same_while_valid"])
    return {"access_token": token, "expires_in": seconds}


def get_follow_user_list(call: Call) -> dict[str, Any]:
    return {"follow_user": [userid for userid in call.state.staff if visible(call, userid)]}


def user_get(call: Call) -> dict[str, Any]:
    userid = call.text("userid", 41009)
    staff = call.state.staff.get(userid)
    if staff is None or staff["left_at"] is not None:
        raise ApiError(60111)
    if call.app["visible"] is not None and userid not in call.app["visible"]:
        raise ApiError(60011)
    return _staff(staff) | {"status": staff["status"], "is_leader_in_dept": [0], "alias": "", "position": "导购"}


def _staff(staff: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "userid": staff["userid"],
        "name": staff["name"],
        "department": json.loads(staff["department"]),
        "open_userid": "",
    }


def user_simplelist(call: Call) -> dict[str, Any]:
    department = call.number("department_id", 1)
    deep = call.number("fetch_child", 0) or department == 1
    found = [
        _staff(staff)
        for userid, staff in call.state.staff.items()
        if staff["left_at"] is None
        and (call.app["visible"] is None or userid in call.app["visible"])
        and (deep or department in json.loads(staff["department"]))
    ]
    return {"userlist": found}


def user_list(call: Call) -> dict[str, Any]:
    rows = user_simplelist(call)["userlist"]
    return {"userlist": [row | {"status": call.state.staff[row["userid"]]["status"]} for row in rows]}


def department_list(call: Call) -> dict[str, Any]:
    ids = sorted({item for staff in call.state.staff.values() for item in json.loads(staff["department"])} | {1})
    return {
        "department": [
            {
                "id": item,
                "name": "总部" if item == 1 else f"门店{item - 1:03d}",
                "parentid": int(item != 1),
                "order": 1000 - item,
            }
            for item in ids
        ]
    }


# Customers


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
    row = _writable(call, userid, external_userid)
    call.state.run(
        "update relations set remark = ?, description = ?, remark_corp_name = ?, remark_mobiles = ? where rid = ?",
        call.body.get("remark", row["remark"]),
        call.body.get("description", row["description"]),
        call.body.get("remark_company", row["remark_corp_name"]),
        ",".join(call.texts("remark_mobiles")) if "remark_mobiles" in call.body else row["remark_mobiles"],
        row["rid"],
    )
    _own_event(call, "edit_external_contact", userid, external_userid)
    return {}


def _writable(call: Call, userid: str, external_userid: str) -> sqlite3.Row:
    """The relation a write may change; 40003, 40096 or 84061 otherwise. A one-way relation may be written."""
    require_staff(call, userid)
    if call.state.one("select 1 from contacts where external_userid = ?", external_userid) is None:
        raise ApiError(40096)
    row = call.state.relation(userid, external_userid)
    if row is None or row["status"] in ("removed", "half"):
        raise ApiError(84061)
    return row


def _own_event(call: Call, change: str, userid: str, external_userid: str) -> None:
    if call.state.settings["api_raises_callbacks"]:
        event = {
            "Event": "change_external_contact",
            "ChangeType": change,
            "UserID": userid,
            "ExternalUserID": external_userid,
        }
        call.world.raise_event(event)


def _pair_claims(call: Call) -> list[tuple[str, int]]:
    """Two writes at once on one (staff, customer) pair, or (†) on one customer, are refused."""
    settings = call.state.settings
    userid, external_userid = call.body.get("userid"), call.body.get("external_userid")
    claims = [(f"pair:{userid}|{external_userid}", settings["pair_conflict_code"])]
    return [*claims, (f"customer:{external_userid}", settings["customer_conflict_code"])]


# Tag library


def _new_id(prefix: str) -> str:
    return prefix + re.sub("[-_]", "A", secrets.token_urlsafe(24))[:30]


def _group(state: State, group_id: str, *, only: set[str] | None = None, deleted: bool = False) -> dict[str, Any]:
    group = state.groups[group_id]
    tags = sorted(
        (tag for tag in state.tags.values() if tag["group_id"] == group_id and (only is None or tag["tag_id"] in only)),
        key=lambda tag: -tag["ord"],
    )
    extra = {"deleted": False} if deleted else {}
    return {
        "group_id": group_id,
        "group_name": group["name"],
        "create_time": group["create_time"],
        "order": group["ord"],
        "tag": [
            {"id": tag["tag_id"], "name": tag["name"], "create_time": tag["create_time"], "order": tag["ord"]} | extra
            for tag in tags
        ],
    } | extra


def get_corp_tag_list(call: Call) -> dict[str, Any]:
    """Corp tags by order; strategy tags are not in it. With ids asked for, `deleted` is shown."""
    state = call.state
    tag_ids, group_ids = call.texts("tag_id"), call.texts("group_id")
    corp = [key for key, group in state.groups.items() if group["strategy_id"] is None]
    corp.sort(key=lambda key: -state.groups[key]["ord"])
    if group_ids:
        if any(group_id not in corp for group_id in group_ids):
            raise ApiError(40068)
        return {"tag_group": [_group(state, key, deleted=True) for key in corp if key in group_ids]}
    if tag_ids:
        groups = {state.tags[tag_id]["group_id"] for tag_id in tag_ids if tag_id in state.tags}
        if any(tag_id not in state.tags for tag_id in tag_ids) or not groups <= set(corp):
            raise ApiError(40068)
        return {"tag_group": [_group(state, key, only=set(tag_ids), deleted=True) for key in corp if key in groups]}
    return {"tag_group": [_group(state, key) for key in corp]}


def _tag_names(call: Call) -> list[tuple[str, int]]:
    """The asked-for tags without repeats; 41018 none or empty name, 40072 too long, 40058 order out of range."""
    names: dict[str, int] = {}
    for item in call.rows("tag"):
        name, order = str(item.get("name") or ""), item.get("order") or 0
        if not name:
            raise ApiError(41018)
        if len(name) > call.state.settings["name_max"]:
            raise ApiError(40072)
        if not isinstance(order, int) or not 0 <= order < 2**32:
            raise ApiError(40058)
        names.setdefault(name, order)
    if not names:
        raise ApiError(41018)
    return list(names.items())


def _add_tags(call: Call, strategy_id: int | None) -> dict[str, Any]:
    state, now = call.state, int(call.world.now())
    names = _tag_names(call)
    if len(state.tags) + len(names) > state.settings["tag_cap"]:
        raise ApiError(40126)
    group_id, group_name = call.word("group_id"), call.word("group_name")
    if group_id:
        if group_id not in state.groups or state.groups[group_id]["strategy_id"] != strategy_id:
            raise ApiError(40068)
    else:
        if not group_name:
            raise ApiError(41018)
        if len(group_name) > state.settings["name_max"]:
            raise ApiError(40072)
        same = (
            key
            for key, group in state.groups.items()
            if (group["name"], group["strategy_id"]) == (group_name, strategy_id)
        )
        group_id = next(same, "")
    if group_id:
        taken = {tag["name"] for tag in state.tags.values() if tag["group_id"] == group_id}
        if any(name in taken for name, _ in names):
            raise ApiError(40071)
    else:
        group_id = _new_id("et")
        order = call.number("order", 0)
        state.run("insert into tag_groups values (?, ?, ?, ?, ?, 0)", group_id, group_name, order, now, strategy_id)
    new = []
    for name, order in names:
        new.append(_new_id("et"))
        state.run("insert into tags values (?, ?, ?, ?, ?, ?, 0)", new[-1], group_id, name, order, now, call.owner)
    state.reload_tags()
    return {"tag_group": _group(state, group_id, only=set(new))}


def add_corp_tag(call: Call) -> dict[str, Any]:
    return _add_tags(call, None)


def _owned_group(state: State, group_id: str, agentid: int) -> bool:
    """A group is the app's when every tag in it is."""
    tags = [tag for tag in state.tags.values() if tag["group_id"] == group_id]
    return bool(tags) and all(tag["agentid"] == agentid for tag in tags)


def _edit_tag(call: Call, *, strategy: bool) -> dict[str, Any]:
    state = call.state
    key = call.text("id", 41017)
    name = call.word("name")
    if len(name) > state.settings["name_max"]:
        raise ApiError(40072)
    if key in state.tags and (state.groups[state.tags[key]["group_id"]]["strategy_id"] is not None) == strategy:
        tag = state.tags[key]
        if tag["agentid"] != call.owner:
            raise ApiError(state.settings["foreign_tag_code"])
        rivals = {
            other["name"] for other in state.tags.values() if other["group_id"] == tag["group_id"] and other is not tag
        }
        if name in rivals:
            raise ApiError(40071)
        order = call.number("order", tag["ord"])
        state.run("update tags set name = ?, ord = ? where tag_id = ?", name or tag["name"], order, key)
    elif key in state.groups and (state.groups[key]["strategy_id"] is not None) == strategy:
        group = state.groups[key]
        if not _owned_group(state, key, call.owner):
            raise ApiError(state.settings["foreign_tag_code"])
        if name and any(other["name"] == name for other_id, other in state.groups.items() if other_id != key):
            raise ApiError(40071)
        order = call.number("order", group["ord"])
        state.run("update tag_groups set name = ?, ord = ? where group_id = ?", name or group["name"], order, key)
    else:
        raise ApiError(40068)
    state.reload_tags()
    return {}


def edit_corp_tag(call: Call) -> dict[str, Any]:
    return _edit_tag(call, strategy=False)


def _delete_tags(call: Call, *, strategy: bool) -> dict[str, Any]:
    state = call.state
    tag_ids, group_ids = call.texts("tag_id"), call.texts("group_id")
    if not tag_ids and not group_ids:
        raise ApiError(41017)
    for group_id in group_ids:
        if group_id not in state.groups or (state.groups[group_id]["strategy_id"] is not None) != strategy:
            raise ApiError(40068)
        if not _owned_group(state, group_id, call.owner):
            raise ApiError(state.settings["foreign_tag_code"])
    for tag_id in tag_ids:
        tag = state.tags.get(tag_id)
        if tag is None or (state.groups[tag["group_id"]]["strategy_id"] is not None) != strategy:
            raise ApiError(40068)
        if tag["agentid"] != call.owner:
            raise ApiError(state.settings["foreign_tag_code"])
    doomed = set(tag_ids) | {tag["tag_id"] for tag in state.tags.values() if tag["group_id"] in group_ids}
    delete_tags(state, doomed)
    return {}


def delete_tags(state: State, tag_ids: set[str]) -> None:
    """Delete tags, groups left empty, and (by setting) every customer's mark."""
    for tag_id in sorted(tag_ids):
        state.run("update tags set deleted = 1 where tag_id = ?", tag_id)
    state.run(
        "update tag_groups set deleted = 1"
        " where not deleted and group_id not in (select group_id from tags where not deleted)"
    )
    if state.settings["delete_strips_customers"]:
        strip_tags(state, tag_ids)
    state.reload_tags()


def strip_tags(state: State, tag_ids: set[str]) -> None:
    """Take the tags off every customer."""
    for row in state.all("select rid, tag_ids from relations where tag_ids <> ''"):
        kept = [tag_id for tag_id in split(row["tag_ids"]) if tag_id not in tag_ids]
        if len(kept) != len(split(row["tag_ids"])):
            state.run("update relations set tag_ids = ? where rid = ?", ",".join(kept), row["rid"])


def del_corp_tag(call: Call) -> dict[str, Any]:
    return _delete_tags(call, strategy=False)


def mark_tag(call: Call) -> dict[str, Any]:
    state, settings = call.state, call.state.settings
    userid, external_userid = call.text("userid", 40003), call.text("external_userid", 41035)
    add, remove = call.texts("add_tag"), call.texts("remove_tag")
    if not add and not remove:
        raise ApiError(41017)
    if settings["mark_ids_max"] and len(add) + len(remove) > settings["mark_ids_max"]:
        raise ApiError(40058)
    row = _writable(call, userid, external_userid)
    bad = [tag_id for tag_id in add + remove if not _markable(call, tag_id, userid)]
    if bad and settings["mark_atomic"]:
        raise ApiError(40068)
    now_on = dict.fromkeys(split(row["tag_ids"]))
    for tag_id in remove:
        now_on.pop(tag_id, None)
    for tag_id in add:
        if tag_id not in bad:
            now_on[tag_id] = None
    if len(now_on) > settings["tags_per_pair"]:
        raise ApiError(settings["pair_cap_code"])
    state.run("update relations set tag_ids = ? where rid = ?", ",".join(now_on), row["rid"])
    _own_event(call, "edit_external_contact", userid, external_userid)
    if bad:
        raise ApiError(40068, keep=True)
    return {}


def _markable(call: Call, tag_id: str, userid: str) -> bool:
    tag = call.state.tags.get(tag_id)
    if tag is None:
        return False
    strategy_id = call.state.groups[tag["group_id"]]["strategy_id"]
    if strategy_id is not None:
        strategy = call.state.one("select * from strategies where strategy_id = ?", strategy_id)
        return (
            strategy is not None
            and strategy["agentid"] == call.owner
            and userid in json.loads(strategy["members"] or "[]")
        )
    return bool(call.state.settings["mark_foreign_tags"]) or tag["agentid"] == call.owner


# Strategy tags (规则组标签)


def _own_strategies(call: Call) -> list[int]:
    rows = call.state.all("select strategy_id from strategies where agentid = ? order by strategy_id", call.owner)
    return [row["strategy_id"] for row in rows]


def get_strategy_tag_list(call: Call) -> dict[str, Any]:
    asked = call.number("strategy_id", 0)
    own = [item for item in _own_strategies(call) if asked in (0, item)]
    keys = [key for key, group in call.state.groups.items() if group["strategy_id"] in own]
    return {
        "tag_group": [_group(call.state, key) | {"strategy_id": call.state.groups[key]["strategy_id"]} for key in keys]
    }


def add_strategy_tag(call: Call) -> dict[str, Any]:
    strategy_id = call.number("strategy_id", 0)
    if strategy_id not in _own_strategies(call):
        raise ApiError(40058)
    return _add_tags(call, strategy_id)


def edit_strategy_tag(call: Call) -> dict[str, Any]:
    return _edit_tag(call, strategy=True)


def del_strategy_tag(call: Call) -> dict[str, Any]:
    return _delete_tags(call, strategy=True)


def customer_strategy_list(call: Call) -> dict[str, Any]:
    return {"strategy": [{"strategy_id": item} for item in _own_strategies(call)], "next_cursor": ""}


# Customer groups


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


# Contact ways (活码)


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


# Behaviour


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


_LISTS = {"external_contact_list": [], "next_cursor": "", "fail_info": {"unlicensed_userid_list": []}}

ENDPOINTS: dict[str, Endpoint] = {
    "gettoken": Endpoint("GET", gettoken, token=False, empty={"access_token": "", "expires_in": 0}, writes=True),
    "user/get": Endpoint("GET", user_get, contact=False),
    "user/simplelist": Endpoint("GET", user_simplelist, {"userlist": []}, contact=False),
    "user/list": Endpoint("GET", user_list, {"userlist": []}, contact=False),
    "department/list": Endpoint("GET", department_list, {"department": []}, contact=False),
    "externalcontact/get_follow_user_list": Endpoint("GET", get_follow_user_list, {"follow_user": []}),
    "externalcontact/list": Endpoint("GET", contact_list, {"external_userid": []}),
    "externalcontact/get": Endpoint("GET", contact_get, {"follow_user": []}),
    "externalcontact/batch/get_by_user": Endpoint("POST", batch_get_by_user, _LISTS),
    "externalcontact/remark": Endpoint("POST", remark, writes=True, claims=_pair_claims),
    "externalcontact/get_corp_tag_list": Endpoint("POST", get_corp_tag_list, {"tag_group": []}),
    "externalcontact/add_corp_tag": Endpoint("POST", add_corp_tag, {"tag_group": {"tag": []}}, writes=True),
    "externalcontact/edit_corp_tag": Endpoint("POST", edit_corp_tag, writes=True),
    "externalcontact/del_corp_tag": Endpoint("POST", del_corp_tag, writes=True),
    "externalcontact/mark_tag": Endpoint("POST", mark_tag, writes=True, claims=_pair_claims),
    "externalcontact/get_strategy_tag_list": Endpoint("POST", get_strategy_tag_list, {"tag_group": []}),
    "externalcontact/add_strategy_tag": Endpoint("POST", add_strategy_tag, {"tag_group": {"tag": []}}, writes=True),
    "externalcontact/edit_strategy_tag": Endpoint("POST", edit_strategy_tag, writes=True),
    "externalcontact/del_strategy_tag": Endpoint("POST", del_strategy_tag, writes=True),
    "externalcontact/customer_strategy/list": Endpoint("POST", customer_strategy_list, {"strategy": []}),
    "externalcontact/groupchat/list": Endpoint("POST", groupchat_list, {"group_chat_list": [], "next_cursor": ""}),
    "externalcontact/groupchat/get": Endpoint("POST", groupchat_get, {"group_chat": {"member_list": []}}),
    "externalcontact/groupchat/transfer": Endpoint("POST", groupchat_transfer, {"failed_chat_list": []}, writes=True),
    "externalcontact/groupchat/onjob_transfer": Endpoint(
        "POST", groupchat_transfer, {"failed_chat_list": []}, writes=True
    ),
    "externalcontact/opengid_to_chatid": Endpoint("POST", opengid_to_chatid, {"chat_id": ""}),
    "externalcontact/add_contact_way": Endpoint("POST", add_contact_way, {"config_id": ""}, writes=True),
    "externalcontact/get_contact_way": Endpoint("POST", get_contact_way, {"contact_way": {}}),
    "externalcontact/list_contact_way": Endpoint("POST", list_contact_way, {"contact_way": [], "next_cursor": ""}),
    "externalcontact/update_contact_way": Endpoint("POST", update_contact_way, writes=True),
    "externalcontact/del_contact_way": Endpoint("POST", del_contact_way, writes=True),
    "externalcontact/get_user_behavior_data": Endpoint("POST", get_user_behavior_data, {"behavior_data": []}),
}
