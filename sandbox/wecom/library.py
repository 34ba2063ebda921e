"""The tag library: corp tags, and strategy tags (规则组标签) which only their own app sees."""

from __future__ import annotations

import re
import secrets
from typing import Any

from sandbox.errors import ApiError
from sandbox.http import Call, Endpoint
from sandbox.state import State, split


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


ENDPOINTS: dict[str, Endpoint] = {
    "externalcontact/get_corp_tag_list": Endpoint("POST", get_corp_tag_list, {"tag_group": []}),
    "externalcontact/add_corp_tag": Endpoint("POST", add_corp_tag, {"tag_group": {"tag": []}}, writes=True),
    "externalcontact/edit_corp_tag": Endpoint("POST", edit_corp_tag, writes=True),
    "externalcontact/del_corp_tag": Endpoint("POST", del_corp_tag, writes=True),
    "externalcontact/get_strategy_tag_list": Endpoint("POST", get_strategy_tag_list, {"tag_group": []}),
    "externalcontact/add_strategy_tag": Endpoint("POST", add_strategy_tag, {"tag_group": {"tag": []}}, writes=True),
    "externalcontact/edit_strategy_tag": Endpoint("POST", edit_strategy_tag, writes=True),
    "externalcontact/del_strategy_tag": Endpoint("POST", del_strategy_tag, writes=True),
    "externalcontact/customer_strategy/list": Endpoint("POST", customer_strategy_list, {"strategy": []}),
}
