"""`mark_tag`: one (staff, customer) pair per call, all or nothing."""

from __future__ import annotations

import json
from typing import Any

from sandbox.errors import ApiError
from sandbox.http import Call, Endpoint
from sandbox.state import split
from sandbox.wecom.access import own_event, pair_claims, writable


def mark_tag(call: Call) -> dict[str, Any]:
    state, settings = call.state, call.state.settings
    userid, external_userid = call.text("userid", 40003), call.text("external_userid", 41035)
    add, remove = call.texts("add_tag"), call.texts("remove_tag")
    if not add and not remove:
        raise ApiError(41017)
    if settings["mark_ids_max"] and len(add) + len(remove) > settings["mark_ids_max"]:
        raise ApiError(40058)
    row = writable(call, userid, external_userid)
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
    own_event(call, "edit_external_contact", userid, external_userid)
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


ENDPOINTS: dict[str, Endpoint] = {
    "externalcontact/mark_tag": Endpoint("POST", mark_tag, writes=True, claims=pair_claims),
}
