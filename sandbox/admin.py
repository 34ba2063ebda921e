"""The admin side, `/_sandbox/…`: settings, faults, log, clock, hand actions, callbacks; and the group-bot webhook."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from sandbox.callbacks import verify_address
from sandbox.hand import HandError, perform
from sandbox.http import World
from sandbox.state import split

Reply = tuple[int, Any]


@dataclass(frozen=True)
class Ask:
    """One admin call."""

    world: World
    query: Mapping[str, str]
    body: Any


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
        return 404, {
            "error": f"no admin call {method} {path}",
            "known": sorted(f"{m} /_sandbox/{n}" for m, n in HANDLERS),
        }
    try:
        return 200, handler(Ask(world, query, body))
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


def _health(ask: Ask) -> Any:
    return {"ok": True, "state": str(ask.world.state.path), "requests": ask.world.requests, "now": ask.world.now()}


def _settings(ask: Ask) -> Any:
    return {key: value for key, value in ask.world.state.settings.items() if key != "callback"} | {
        "callback": {**ask.world.state.settings["callback"], "aes_key": "***", "token": "***"}
    }


def _set_settings(ask: Ask) -> Any:
    unknown = [key for key in ask.body if key not in ask.world.state.settings]
    if unknown:
        raise ValueError(f"unknown settings {unknown}; known: {sorted(ask.world.state.settings)}")
    for key, value in ask.body.items():
        ask.world.state.set(key, value)
    return _settings(ask)


def _faults(ask: Ask) -> Any:
    return {"faults": [dict(rule.__dict__) for rule in ask.world.faults.rules]}


def _add_faults(ask: Ask) -> Any:
    for rule in ask.body if isinstance(ask.body, list) else [ask.body]:
        ask.world.faults.add(rule)
    return _faults(ask)


def _clear_faults(ask: Ask) -> Any:
    ask.world.faults.clear()
    return {"faults": []}


def _log(ask: Ask) -> Any:
    """Requests in order. `path`, `since` (seq), `errcode`, `limit` narrow it; times are monotonic seconds."""
    since, limit = int(ask.query.get("since", 0)), int(ask.query.get("limit", 2_000_000))
    rows = (row for row in ask.world.log if row.seq > since)
    if "path" in ask.query:
        rows = (row for row in rows if row.path == ask.query["path"])
    if "errcode" in ask.query:
        rows = (row for row in rows if str(row.errcode) == ask.query["errcode"])
    return {"log": [row.as_dict() for row, _ in zip(rows, range(limit), strict=False)]}


def _stats(ask: Ask) -> Any:
    """Calls per path and code, the most in flight, and whether two calls of one customer ever overlapped."""
    counts: dict[str, dict[str, int]] = {}
    most: dict[str, int] = {}
    for row in ask.world.log:
        by_code = counts.setdefault(row.path, {})
        by_code[str(row.errcode)] = by_code.get(str(row.errcode), 0) + 1
        most[row.path] = max(most.get(row.path, 0), row.in_flight)
    return {"calls": counts, "most_in_flight": most, "overlaps": overlaps(ask.world)}


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


def _clear_log(ask: Ask) -> Any:
    ask.world.log.clear()
    return {"log": []}


def _clock(ask: Ask) -> Any:
    """Move the server's clock: `{"advance": seconds}` or `{"offset": seconds}`."""
    offset = float(ask.body.get("offset", ask.world.state.settings["clock_offset"])) + float(ask.body.get("advance", 0))
    ask.world.state.set("clock_offset", offset)
    return {"now": ask.world.now(), "offset": offset}


def _expire_tokens(ask: Ask) -> Any:
    """End every token now (or those of one `owner`: agentid or appid)."""
    doomed = [text for text, row in ask.world.tokens.items() if ask.body.get("owner") in (None, row["owner"])]
    for text in doomed:
        ask.world.end_token(text)
    return {"expired": len(doomed)}


def _restart(ask: Ask) -> Any:
    ask.world.restart()
    return {"restarting": True}


def _hand(ask: Ask) -> Any:
    """Do one action or a list of them, in order, in one transaction."""
    actions = ask.body if isinstance(ask.body, list) else [ask.body]
    ask.world.state.con.execute("begin immediate")
    try:
        done = [perform(ask.world, action) for action in actions]
    except BaseException:
        ask.world.state.con.execute("rollback")
        ask.world.state.reload()
        raise
    ask.world.state.con.execute("commit")
    return {"done": done}


def _scenario(ask: Ask) -> Any:
    """Take a scenario: `settings`, `faults`, `hand`; `reset: true` drops the faults in force first."""
    return apply_scenario(ask.world, ask.body)


def apply_scenario(world: World, scenario: Mapping[str, Any]) -> Any:
    unknown = set(scenario) - {"name", "description", "reset", "settings", "faults", "hand"}
    if unknown:
        raise ValueError(f"unknown keys in the scenario: {sorted(unknown)}")
    if scenario.get("reset"):
        world.faults.clear()
    _set_settings(Ask(world, {}, scenario.get("settings") or {}))
    _add_faults(Ask(world, {}, scenario.get("faults") or []))
    if scenario.get("hand"):
        _hand(Ask(world, {}, scenario["hand"]))
    return {"name": scenario.get("name", ""), "faults": len(world.faults.rules)}


def _relation(ask: Ask) -> Any:
    row = ask.world.state.relation(ask.query["userid"], ask.query["external_userid"])
    return None if row is None else dict(row) | {"tag_ids": split(row["tag_ids"])}


def _relations(ask: Ask) -> Any:
    """Every relation as [userid, external_userid, status, [tag ids]]; `tagged=1` only those with tags."""
    where = "where tag_ids <> ''" if ask.query.get("tagged") else ""
    rows = ask.world.state.all(f"select userid, external_userid, status, tag_ids from relations {where} order by rid")
    return {"relations": [[row[0], row[1], row[2], split(row[3])] for row in rows]}


def _webhook_messages(ask: Ask) -> Any:
    rows = ask.world.state.all("select * from webhook_messages order by seq")
    return {
        "messages": [
            {"seq": row["seq"], "at": row["at"], "key": row["key"], "body": orjson.loads(row["body"])} for row in rows
        ]
    }


def _events(ask: Ask) -> Any:
    """Callback events so far; `busy` while one is under way."""
    world = ask.world
    return {"pending": len(world.pending_events), "busy": world.delivering, "events": world.delivered}


def _code(ask: Ask) -> Any:
    """Issue a Mini Program code: `{"kind": "login"|"phone", "appid", "openid", "unionid", "phone"}`."""
    code = f"code{time.monotonic_ns()}"
    ask.world.state.run(
        "insert into mp_codes values (?, ?, ?, ?, ?, ?, ?, 0)",
        code, ask.body["appid"], ask.body["kind"], ask.body.get("openid"), ask.body.get("unionid"),
        ask.body.get("phone"), int(ask.world.now()),
    )  # fmt: skip
    return {"code": code}


HANDLERS: dict[tuple[str, str], Callable[[Ask], Any]] = {
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
