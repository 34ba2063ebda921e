"""Official Account (公众号) and Mini Program endpoints: tokens, followers, tags, and the two code exchanges."""

from __future__ import annotations

import sqlite3
from typing import Any

from sandbox.errors import ApiError
from sandbox.http import Call, Endpoint
from sandbox.state import split

PAGE = 10_000


def _token(call: Call, *, fresh: bool) -> dict[str, Any]:
    fields = {**call.query, **call.body}
    if fields.get("grant_type") != "client_credential":
        raise ApiError(40002, "invalid grant_type")
    appid = str(fields.get("appid") or "")
    account = call.state.one("select * from oa_accounts where appid = ?", appid)
    if account is None:
        raise ApiError(40013, "invalid appid")
    if fields.get("secret") != account["secret"]:
        raise ApiError(40125, "invalid appsecret")
    token, seconds = call.world.issue_token("oa", appid, fresh=fresh)
    return {"access_token": token, "expires_in": seconds}


def token(call: Call) -> dict[str, Any]:
    """The old way: every call gives a new token and ends the one before."""
    return _token(call, fresh=True)


def stable_token(call: Call) -> dict[str, Any]:
    return _token(call, fresh=bool(call.body.get("force_refresh")))


def user_get(call: Call) -> dict[str, Any]:
    """Pages by `next_openid`; the last page still gives one, and the page after it has no `data`."""
    after = call.query.get("next_openid", "")
    start = 0
    if after:
        row = call.state.one("select seq from oa_followers where appid = ? and openid = ?", call.owner, after)
        if row is None:
            raise ApiError(40003, "invalid openid")
        start = row["seq"]
    rows = call.state.all(
        "select seq, openid from oa_followers where appid = ? and subscribe = 1 and seq > ? order by seq limit ?",
        call.owner, start, PAGE,
    )  # fmt: skip
    total = call.state.one("select count(*) as n from oa_followers where appid = ? and subscribe = 1", call.owner)
    reply: dict[str, Any] = {"total": total["n"] if total else 0, "count": len(rows)}
    if rows:
        reply["data"] = {"openid": [row["openid"] for row in rows]}
    return reply | {"next_openid": rows[-1]["openid"] if rows else ""}


def _follower(call: Call, openid: str) -> sqlite3.Row:
    row = call.state.one("select * from oa_followers where appid = ? and openid = ?", call.owner, openid)
    if row is None:
        other = call.state.one("select 1 from oa_followers where openid = ?", openid)
        raise ApiError(49003 if other else 40003, None if other else "invalid openid")
    return row


def _info(call: Call, row: sqlite3.Row) -> dict[str, Any]:
    if not row["subscribe"]:
        return {"subscribe": 0, "openid": row["openid"], "tagid_list": []}
    account = call.state.one("select bound from oa_accounts where appid = ?", call.owner)
    info: dict[str, Any] = {
        "subscribe": 1,
        "openid": row["openid"],
        "nickname": "",
        "sex": 0,
        "language": row["language"],
        "city": "",
        "province": "",
        "country": "",
        "headimgurl": "",
        "subscribe_time": row["subscribe_time"],
        "remark": row["remark"],
        "groupid": 0,
        "tagid_list": [int(item) for item in split(row["tag_ids"])],
        "subscribe_scene": row["subscribe_scene"],
        "qr_scene": row["qr_scene"],
        "qr_scene_str": row["qr_scene_str"],
    }
    if row["unionid"] and account is not None and account["bound"]:
        info["unionid"] = row["unionid"]
    return info


def user_info(call: Call) -> dict[str, Any]:
    return _info(call, _follower(call, call.text("openid", 40003)))


def user_info_batchget(call: Call) -> dict[str, Any]:
    asked = call.rows("user_list")
    if not 1 <= len(asked) <= 100:
        raise ApiError(40032)
    return {"user_info_list": [_info(call, _follower(call, str(item.get("openid") or ""))) for item in asked]}


def updateremark(call: Call) -> dict[str, Any]:
    row = _follower(call, call.text("openid", 40003))
    call.state.run("update oa_followers set remark = ? where seq = ?", call.word("remark"), row["seq"])
    return {}


def _tag_name(call: Call) -> str:
    name = str(call.mapping("tag").get("name") or "")
    if not name:
        raise ApiError(45157)
    if len(name.encode()) > 30:
        raise ApiError(45158)
    if call.state.one("select 1 from oa_tags where appid = ? and name = ?", call.owner, name):
        raise ApiError(45157)
    return name


def tags_create(call: Call) -> dict[str, Any]:
    name = _tag_name(call)
    row = call.state.one("select count(*) as n, coalesce(max(id), 0) as top from oa_tags where appid = ?", call.owner)
    count, top = (row["n"], row["top"]) if row else (0, 0)
    if count >= 100:
        raise ApiError(45056)
    new = max(100, top + 1)
    call.state.run("insert into oa_tags values (?, ?, ?)", call.owner, new, name)
    return {"tag": {"id": new, "name": name}}


def tags_get(call: Call) -> dict[str, Any]:
    counts: dict[int, int] = {}
    for row in call.state.all("select tag_ids from oa_followers where appid = ? and tag_ids <> ''", call.owner):
        for item in split(row["tag_ids"]):
            counts[int(item)] = counts.get(int(item), 0) + 1
    rows = call.state.all("select id, name from oa_tags where appid = ? order by id", call.owner)
    return {"tags": [{"id": row["id"], "name": row["name"], "count": counts.get(row["id"], 0)} for row in rows]}


def _tag(call: Call, tag_id: Any) -> int:
    """A tag the account has; 45159 otherwise."""
    if not isinstance(tag_id, int) or not call.state.one(
        "select 1 from oa_tags where appid = ? and id = ?", call.owner, tag_id
    ):
        raise ApiError(45159)
    return tag_id


def _own_tag(call: Call) -> int:
    asked = call.mapping("tag").get("id")
    if asked in (0, 1, 2):
        raise ApiError(45058)
    return _tag(call, asked)


def tags_update(call: Call) -> dict[str, Any]:
    tag_id = _own_tag(call)
    call.state.run("update oa_tags set name = ? where appid = ? and id = ?", _tag_name(call), call.owner, tag_id)
    return {}


def tags_delete(call: Call) -> dict[str, Any]:
    tag_id = _own_tag(call)
    holders = _holders(call, tag_id)
    if len(holders) > 100_000:
        raise ApiError(45057, "the tag has more than 100000 users")
    for row in holders:
        _set_tags(call, row, [item for item in split(row["tag_ids"]) if item != str(tag_id)])
    call.state.run("delete from oa_tags where appid = ? and id = ?", call.owner, tag_id)
    return {}


def _holders(call: Call, tag_id: int) -> list[sqlite3.Row]:
    return call.state.all(
        "select * from oa_followers where appid = ? and ',' || tag_ids || ',' like ? order by seq",
        call.owner,
        f"%,{tag_id},%",
    )


def _set_tags(call: Call, row: sqlite3.Row, tags: list[str]) -> None:
    call.state.run("update oa_followers set tag_ids = ? where seq = ?", ",".join(tags), row["seq"])


def user_tag_get(call: Call) -> dict[str, Any]:
    tag_id = _tag(call, call.body.get("tagid"))
    after = call.word("next_openid")
    start = _follower(call, after)["seq"] if after else 0
    rows = [row for row in _holders(call, tag_id) if row["seq"] > start][:PAGE]
    reply: dict[str, Any] = {"count": len(rows)}
    if rows:
        reply["data"] = {"openid": [row["openid"] for row in rows]}
    return reply | {"next_openid": rows[-1]["openid"] if rows else ""}


def _tagging(call: Call, *, add: bool) -> dict[str, Any]:
    openids = call.texts("openid_list")
    if not 1 <= len(openids) <= 50:
        raise ApiError(40032)
    tag_id = str(_tag(call, call.body.get("tagid")))
    for openid in openids:
        row = _follower(call, openid)
        if not row["subscribe"]:
            raise ApiError(50005)
        tags = [item for item in split(row["tag_ids"]) if item != tag_id]
        if add and len(tags) >= 20:
            raise ApiError(45059)
        _set_tags(call, row, [*tags, tag_id] if add else tags)
    return {}


def _openid_claims(call: Call) -> list[tuple[str, int]]:
    """Two taggings of one user at once answer 45159."""
    return [(f"openid:{openid}", 45159) for openid in call.texts("openid_list")]


def batchtagging(call: Call) -> dict[str, Any]:
    return _tagging(call, add=True)


def batchuntagging(call: Call) -> dict[str, Any]:
    return _tagging(call, add=False)


def tags_getidlist(call: Call) -> dict[str, Any]:
    row = _follower(call, call.text("openid", 40003))
    return {"tagid_list": [int(item) for item in split(row["tag_ids"])]}


def _code(call: Call, code: str, kind: str) -> sqlite3.Row:
    """A code that is alive and not used (5 minutes, once); 40029 otherwise."""
    row = call.state.one("select * from mp_codes where code = ? and kind = ?", code, kind)
    if row is None or row["used"] or call.world.now() - row["issued"] > 300:
        raise ApiError(40029)
    call.state.run("update mp_codes set used = 1 where code = ?", code)
    return row


def jscode2session(call: Call) -> dict[str, Any]:
    account = call.state.one("select * from oa_accounts where appid = ?", call.query.get("appid", ""))
    if account is None:
        raise ApiError(40013, "invalid appid")
    if call.query.get("secret") != account["secret"]:
        raise ApiError(40125, "invalid appsecret")
    row = _code(call, call.query.get("js_code", ""), "login")
    reply = {"openid": row["openid"], "session_key": "c2FuZGJveC1zZXNzaW9uLWtleQ=="}
    return reply | ({"unionid": row["unionid"]} if row["unionid"] and account["bound"] else {})


def getuserphonenumber(call: Call) -> dict[str, Any]:
    row = _code(call, call.word("code"), "phone")
    if row["appid"] != call.owner:
        raise ApiError(40029)
    mark = {"timestamp": int(call.world.now()), "appid": row["appid"]}
    info = {"phoneNumber": row["phone"], "purePhoneNumber": row["phone"], "countryCode": "86", "watermark": mark}
    return {"phone_info": info}


ENDPOINTS: dict[str, Endpoint] = {
    "cgi-bin/token": Endpoint("GET", token, token=False, writes=True),
    "cgi-bin/stable_token": Endpoint("POST", stable_token, token=False, writes=True),
    "cgi-bin/user/get": Endpoint("GET", user_get),
    "cgi-bin/user/info": Endpoint("GET", user_info),
    "cgi-bin/user/info/batchget": Endpoint("POST", user_info_batchget),
    "cgi-bin/user/info/updateremark": Endpoint("POST", updateremark, writes=True),
    "cgi-bin/tags/create": Endpoint("POST", tags_create, writes=True),
    "cgi-bin/tags/get": Endpoint("GET", tags_get),
    "cgi-bin/tags/update": Endpoint("POST", tags_update, writes=True),
    "cgi-bin/tags/delete": Endpoint("POST", tags_delete, writes=True),
    "cgi-bin/user/tag/get": Endpoint("POST", user_tag_get),
    "cgi-bin/tags/members/batchtagging": Endpoint("POST", batchtagging, writes=True, claims=_openid_claims),
    "cgi-bin/tags/members/batchuntagging": Endpoint("POST", batchuntagging, writes=True, claims=_openid_claims),
    "cgi-bin/tags/getidlist": Endpoint("POST", tags_getidlist),
    "sns/jscode2session": Endpoint("GET", jscode2session, token=False, writes=True),
    "wxa/business/getuserphonenumber": Endpoint("POST", getuserphonenumber, writes=True),
}
