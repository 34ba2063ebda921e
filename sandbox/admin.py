"""The admin side, `/_sandbox/…`: settings, faults, log, clock, hand actions, callbacks; and the group-bot webhook."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import orjson

from sandbox.callbacks import verify_address
from sandbox.hand import HandError, perform
from sandbox.http import World
from sandbox.state import split

Reply = tuple[int, Any]


async def admin(world: World, method: str, path: str, query: Mapping[str, str], raw: bytes) -> Reply:
    """Answer one admin or webhook call: (HTTP status, JSON)."""
    try:
        body = orjson.loads(raw) if raw.strip() else {}
    except orjson.JSONDecodeError:
        return 400, {"error": "the body is not JSON"}
    if path.startswith("/cgi-bin/webhook/"):
        return _webhook(world, path, query, body)
    name = path.removeprefix("/_sandbox/").rstrip("/")
    if name == "callback/verify":
        return 200, await verify_address(world)
    handler = HANDLERS.get((method, name))
    if handler is None:
        return 404, {"error": f"no admin call {method} {path}", "known": sorted(f"{m} /_sandbox/{n}" for m, n in HANDLERS)}
    try:
        return 200, handler(world, query, body)
    except (HandError, ValueError, TypeError, KeyError) as error:
        return 400, {"error": f"{type(error).__name__}: {error}"}


def _webhook(world: World, path: str, query: Mapping[str, str], body: Any) -> Reply:
    """The group bot: any key is taken; 20 messages a minute each, as the real one."""
    key = query.get("key", "")
    if path != "/cgi-bin/webhook/send":
        return 404, None
    if not key:
        return 200, {"errcode": 93000, "errmsg": "invalid webhook url"}
    hit = world.faults.hitting("webhook/send", query)
    for fault in hit:
        if fault.kind == "http":
            return fault.status, None
        if fault.kind == "code":
            return 200, {"errcode": fault.code, "errmsg": "error"}
    kind = body.get("msgtype") if isinstance(body, dict) else None
    if kind not in ("text", "markdown", "markdown_v2", "news", "image", "file", "template_card") or kind not in body:
        return 200, {"errcode": 40008, "errmsg": "invalid message type"}
    minute = int(world.now() // 60)
    window, used = world.windows.get(("webhook", key, 60), (minute, 0))
    used = used + 1 if window == minute else 1
    world.windows[("webhook", key, 60)] = (minute, used)
    if used > 20:
        return 200, {"errcode": 45009, "errmsg": "api freq out of limit"}
    world.state.run(
        "insert into webhook_messages (at, key, body) values (?, ?, ?)", world.now(), key, orjson.dumps(body).decode()
    )
    return 200, {"errcode": 0, "errmsg": "ok"}


def _health(world: World, query: Mapping[str, str], body: Any) -> Any:
    return {"ok": True, "state": str(world.state.path), "requests": world.requests, "now": world.now()}


def _settings(world: World, query: Mapping[str, str], body: Any) -> Any:
    return {key: value for key, value in world.state.settings.items() if key != "callback"} | {
        "callback": {**world.state.settings["callback"], "aes_key": "***", "token": "***"}
    }


def _set_settings(world: World, query: Mapping[str, str], body: Any) -> Any:
    unknown = [key for key in body if key not in world.state.settings]
    if unknown:
        raise ValueError(f"unknown settings {unknown}; known: {sorted(world.state.settings)}")
    for key, value in body.items():
        world.state.set(key, value)
    return _settings(world, query, body)


def _faults(world: World, query: Mapping[str, str], body: Any) -> Any:
    return {"faults": [dict(rule.__dict__) for rule in world.faults.rules]}


def _add_faults(world: World, query: Mapping[str, str], body: Any) -> Any:
    for rule in body if isinstance(body, list) else [body]:
        world.faults.add(rule)
    return _faults(world, query, body)


def _clear_faults(world: World, query: Mapping[str, str], body: Any) -> Any:
    world.faults.clear()
    return {"faults": []}


def _log(world: World, query: Mapping[str, str], body: Any) -> Any:
    """Requests in order. `path`, `since` (seq), `errcode`, `limit` narrow it; times are monotonic seconds."""
    since, limit = int(query.get("since", 0)), int(query.get("limit", 2_000_000))
    rows = (row for row in world.log if row.seq > since)
    if "path" in query:
        rows = (row for row in rows if row.path == query["path"])
    if "errcode" in query:
        rows = (row for row in rows if str(row.errcode) == query["errcode"])
    return {"log": [row.as_dict() for row, _ in zip(rows, range(limit), strict=False)]}


def _stats(world: World, query: Mapping[str, str], body: Any) -> Any:
    """Calls per path and code, the most in flight, and whether two calls of one customer ever overlapped."""
    counts: dict[str, dict[str, int]] = {}
    most: dict[str, int] = {}
    for row in world.log:
        by_code = counts.setdefault(row.path, {})
        by_code[str(row.errcode)] = by_code.get(str(row.errcode), 0) + 1
        most[row.path] = max(most.get(row.path, 0), row.in_flight)
    return {"calls": counts, "most_in_flight": most, "overlaps": overlaps(world)}


def overlaps(world: World) -> int:
    """How many `mark_tag` calls began while another for the same customer was under way."""
    ends: dict[str, float] = {}
    found = 0
    marks = sorted((row for row in world.log if row.path.endswith("mark_tag")), key=lambda row: row.started)
    for row in marks:
        if row.started < ends.get(row.external_userid, -1.0):
            found += 1
        ends[row.external_userid] = max(ends.get(row.external_userid, -1.0), row.ended)
    return found


def _clear_log(world: World, query: Mapping[str, str], body: Any) -> Any:
    world.log.clear()
    return {"log": []}


def _clock(world: World, query: Mapping[str, str], body: Any) -> Any:
    """Move the server's clock: `{"advance": seconds}` or `{"offset": seconds}`."""
    offset = float(body.get("offset", world.state.settings["clock_offset"])) + float(body.get("advance", 0))
    world.state.set("clock_offset", offset)
    return {"now": world.now(), "offset": offset}


def _expire_tokens(world: World, query: Mapping[str, str], body: Any) -> Any:
    """End every token now (or those of one `owner`: agentid or appid)."""
    doomed = [text for text, row in world.tokens.items() if body.get("owner") in (None, row["owner"])]
    for text in doomed:
        world.end_token(text)
    return {"expired": len(doomed)}


def _restart(world: World, query: Mapping[str, str], body: Any) -> Any:
    world.restart()
    return {"restarting": True}


def _hand(world: World, query: Mapping[str, str], body: Any) -> Any:
    """Do one action or a list of them, in order, in one transaction."""
    actions = body if isinstance(body, list) else [body]
    world.state.con.execute("begin immediate")
    try:
        done = [perform(world, action) for action in actions]
    except BaseException:
        world.state.con.execute("rollback")
        world.state.reload()
        raise
    world.state.con.execute("commit")
    return {"done": done}


def _scenario(world: World, query: Mapping[str, str], body: Any) -> Any:
    """Take a scenario: `settings`, `faults`, `hand`; `reset: true` drops the faults in force first."""
    return apply_scenario(world, body)


def apply_scenario(world: World, scenario: Mapping[str, Any]) -> Any:
    unknown = set(scenario) - {"name", "description", "reset", "settings", "faults", "hand"}
    if unknown:
        raise ValueError(f"unknown keys in the scenario: {sorted(unknown)}")
    if scenario.get("reset"):
        world.faults.clear()
    _set_settings(world, {}, scenario.get("settings") or {})
    _add_faults(world, {}, scenario.get("faults") or [])
    if scenario.get("hand"):
        _hand(world, {}, scenario["hand"])
    return {"name": scenario.get("name", ""), "faults": len(world.faults.rules)}


def _relation(world: World, query: Mapping[str, str], body: Any) -> Any:
    row = world.state.relation(query["userid"], query["external_userid"])
    return None if row is None else dict(row) | {"tag_ids": split(row["tag_ids"])}


def _relations(world: World, query: Mapping[str, str], body: Any) -> Any:
    """Every relation as [userid, external_userid, status, [tag ids]]; `tagged=1` only those with tags."""
    where = "where tag_ids <> ''" if query.get("tagged") else ""
    rows = world.state.all(f"select userid, external_userid, status, tag_ids from relations {where} order by rid")
    return {"relations": [[row[0], row[1], row[2], split(row[3])] for row in rows]}


def _webhook_messages(world: World, query: Mapping[str, str], body: Any) -> Any:
    rows = world.state.all("select * from webhook_messages order by seq")
    return {"messages": [{"seq": row["seq"], "at": row["at"], "key": row["key"], "body": orjson.loads(row["body"])} for row in rows]}


def _events(world: World, query: Mapping[str, str], body: Any) -> Any:
    return {"pending": len(world.pending_events), "events": world.delivered}


def _wait_events(world: World, query: Mapping[str, str], body: Any) -> Any:
    return {"pending": len(world.pending_events)}


def _code(world: World, query: Mapping[str, str], body: Any) -> Any:
    """Issue a Mini Program code: `{"kind": "login"|"phone", "appid", "openid", "unionid", "phone"}`."""
    code = f"code{time.monotonic_ns()}"
    world.state.run(
        "insert into mp_codes values (?, ?, ?, ?, ?, ?, ?, 0)",
        code, body["appid"], body["kind"], body.get("openid"), body.get("unionid"), body.get("phone"), int(world.now()),
    )  # fmt: skip
    return {"code": code}


HANDLERS: dict[tuple[str, str], Callable[[World, Mapping[str, str], Any], Any]] = {
    ("GET", "health"): _health,
    ("GET", "settings"): _settings,
    ("POST", "settings"): _set_settings,
    ("GET", "faults"): _faults,
    ("POST", "faults"): _add_faults,
    ("DELETE", "faults"): _clear_faults,
    ("GET", "log"): _log,
    ("DELETE", "log"): _clear_log,
    ("GET", "stats"): _stats,
    ("POST", "clock"): _clock,
    ("POST", "tokens/expire"): _expire_tokens,
    ("POST", "restart"): _restart,
    ("POST", "hand"): _hand,
    ("POST", "scenario"): _scenario,
    ("GET", "relation"): _relation,
    ("GET", "relations"): _relations,
    ("GET", "webhook"): _webhook_messages,
    ("GET", "events"): _events,
    ("POST", "codes"): _code,
}
