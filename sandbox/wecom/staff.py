"""Tokens, staff and departments."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sandbox.errors import ApiError
from sandbox.http import Call, Endpoint
from sandbox.wecom.access import visible


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


ENDPOINTS: dict[str, Endpoint] = {
    "gettoken": Endpoint("GET", gettoken, token=False, empty={"access_token": "", "expires_in": 0}, writes=True),
    "user/get": Endpoint("GET", user_get, contact=False),
    "user/simplelist": Endpoint("GET", user_simplelist, {"userlist": []}, contact=False),
    "user/list": Endpoint("GET", user_list, {"userlist": []}, contact=False),
    "department/list": Endpoint("GET", department_list, {"department": []}, contact=False),
    "externalcontact/get_follow_user_list": Endpoint("GET", get_follow_user_list, {"follow_user": []}),
}
