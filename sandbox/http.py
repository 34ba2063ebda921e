"""The HTTP side: one small ASGI application that both hosts share.

Order of a call, as the reference gives it: path (404), faults, token, address, app, rate window, concurrency, then the
endpoint. Business refusals are HTTP 200 with the endpoint's empty default fields.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.parse import parse_qsl

import orjson

from sandbox.errors import ApiError
from sandbox.faults import Fault, Faults
from sandbox.state import State

Send = Callable[[Mapping[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]


@dataclass
class Call:
    """One request, as an endpoint sees it. *owner*: agentid (WeCom) or appid (Official Account) behind the token."""

    world: World
    path: str
    query: dict[str, str]
    body: dict[str, Any]
    address: str
    owner: Any = None
    fault_in_body: int = 0
    arrived: float = 0.0  # monotonic

    @property
    def state(self) -> State:
        return self.world.state

    @property
    def app(self) -> dict[str, Any]:
        return self.state.apps[self.owner]

    def text(self, name: str, code: int = 40035) -> str:
        """A required text field of body or query; *code* when it is missing or empty."""
        value = self.body.get(name, self.query.get(name))
        if not isinstance(value, str) or not value:
            raise ApiError(code)
        return value

    def texts(self, name: str) -> list[str]:
        """An optional list of text; 40035 when it is something else."""
        value = self.body.get(name) or []
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise ApiError(40035)
        return value

    def mapping(self, name: str) -> dict[str, Any]:
        """An optional object; 40035 when it is something else."""
        value = self.body.get(name) or {}
        if not isinstance(value, dict):
            raise ApiError(40035)
        return value

    def rows(self, name: str) -> list[dict[str, Any]]:
        """An optional list of objects; 40035 when it is something else."""
        value = self.body.get(name) or []
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise ApiError(40035)
        return value

    def word(self, name: str) -> str:
        """An optional text, '' when absent; 40035 when it is something else."""
        value = self.body.get(name)
        if value is not None and not isinstance(value, str):
            raise ApiError(40035)
        return value or ""

    def number(self, name: str, default: int) -> int:
        """An optional whole number of body or query, also as text; 40035 for anything else or beyond 64 bits."""
        value = self.body.get(name, self.query.get(name))
        try:
            number = default if value is None else int(value)
        except (TypeError, ValueError, OverflowError):
            raise ApiError(40035) from None
        if not -(2**63) <= number < 2**63:
            raise ApiError(40035)
        return number


@dataclass(frozen=True)
class Endpoint:
    """One path. *empty*: fields a refusal still carries. *claims*: what it holds meanwhile (key, code if held)."""

    method: str
    handler: Callable[[Call], dict[str, Any]]
    empty: Mapping[str, Any] = field(default_factory=dict)
    token: bool = True
    writes: bool = False
    claims: Callable[[Call], list[tuple[str, int]]] | None = None
    contact: bool = True  # needs the app on the callable list (48002)


@dataclass(frozen=True, slots=True)
class LogRow:
    """One request in the log. Times are seconds of a monotonic clock that starts with the server process."""

    seq: int
    path: str
    started: float
    ended: float
    at: float
    status: int
    errcode: int | None
    owner: str
    userid: str
    external_userid: str
    fault: str
    in_flight: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class World:
    """State, faults, windows, log and what is in flight: everything one server process holds."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.faults = Faults(int(state.settings["seed"]))
        self.log: deque[LogRow] = deque(maxlen=2_000_000)
        self.log_seq = 0
        self.windows: dict[tuple[str, str, int], tuple[int, int]] = {}
        self.in_flight: Counter[str] = Counter()
        self.held: set[str] = set()
        self.wrong_secrets: dict[str, tuple[int, int]] = {}
        self.tokens = {row["token"]: dict(row) for row in state.all("select * from tokens")}
        self.pending_events: list[dict[str, str]] = []
        self.delivering = False
        self.delivered: list[dict[str, Any]] = []
        self.transports: dict[tuple[str, int], asyncio.Transport] = {}
        self.restart: Callable[[], None] = lambda: None
        self.welcome_codes: dict[str, float] = {}
        self.requests = 0

    def now(self) -> float:
        """The server's clock: the machine's, moved by `clock_offset`."""
        return time.time() + float(self.state.settings["clock_offset"])

    # Tokens

    def issue_token(self, host: str, owner: str, *, fresh: bool) -> tuple[str, int]:
        """The token of *owner*: a valid one again, or a new one that ends the old (*fresh*)."""
        now = self.now()
        valid = [t for t in self.tokens.values() if t["host"] == host and t["owner"] == owner and self._alive(t, now)]
        if valid and not fresh:
            newest = max(valid, key=lambda token: token["expires"])
            return newest["token"], max(1, int(newest["expires"] - now))
        for token in valid:
            self.end_token(token["token"])
        seconds = int(self.state.settings["token_seconds"])
        text = secrets.token_urlsafe(64)
        row = {"token": text, "host": host, "owner": owner, "issued": now, "expires": now + seconds, "revoked": 0}
        self.state.run("insert into tokens values (?, ?, ?, ?, ?, ?)", *row.values())
        self.tokens[text] = row
        return text, seconds

    @staticmethod
    def _alive(token: Mapping[str, Any], now: float) -> bool:
        return not token["revoked"] and now < token["expires"]

    def end_token(self, token: str) -> None:
        """The token dies before its time: later calls with it get 42001 (WeCom) or 40001 (Official Account)."""
        if token in self.tokens:
            self.tokens[token]["revoked"] = 1
            self.state.run("update tokens set revoked = 1 where token = ?", token)

    def check_token(self, host: str, token: str | None) -> str:
        """Who owns the token; 41001 missing, 40014 unknown or of the other host, 42001 over."""
        if not token:
            raise ApiError(41001)
        row = self.tokens.get(token)
        if row is None or row["host"] != host:
            raise ApiError(40014 if host == "wecom" else 40001)
        if not self._alive(row, self.now()):
            raise ApiError(42001 if host == "wecom" or not row["revoked"] else 40001)
        owner: str = row["owner"]
        return owner

    # Limits

    def count_call(self, path: str, owner: str, address: str) -> None:
        """Count the call in its windows; 45009 once one is full, until that window ends."""
        limits = self.state.settings["limits"]
        if not limits["enabled"]:
            return
        now = int(self.now())
        for scope, name, length in (
            ("corp", "per_minute", 60), ("corp", "per_hour", 3600),
            (address, "ip_per_minute", 60), (address, "ip_per_hour", 3600),
        ):  # fmt: skip
            limit = limits.get(f"{name}:{path}", limits[name])
            key = (f"{scope}:{owner}" if scope == "corp" else scope, path, length)
            window, used = self.windows.get(key, (0, 0))
            used = used + 1 if window == now // length else 1
            self.windows[key] = (now // length, used)
            if used > limit:
                raise ApiError(45009)

    def raise_event(self, event: Mapping[str, str]) -> None:
        """Queue one callback event (sent in the background when a callback address is set)."""
        self.pending_events.append(dict(event))


class Application:
    """The ASGI application over a `World`. *endpoints*: path below its host's `/cgi-bin/` (or `/`) -> `Endpoint`."""

    def __init__(
        self, world: World, routes: Mapping[str, tuple[str, str, Endpoint]], admin: Callable[..., Any]
    ) -> None:
        self.world = world
        self.routes = routes
        self.admin = admin
        self.epoch = time.monotonic()

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        raw = await _read(receive)
        path: str = scope["path"]
        query = dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
        if path.startswith(("/_sandbox", "/cgi-bin/webhook/")):
            status, body = await self.admin(self.world, scope["method"], path, query, raw)
            await _answer(send, status, orjson.dumps(body) if body is not None else b"")
            return
        route = self.routes.get(path)
        if route is None:
            await _answer(send, 404, b"")
            return
        await self._serve(route, scope, query, raw, send)

    async def _serve(
        self, route: tuple[str, str, Endpoint], scope: Mapping[str, Any], query: dict[str, str], raw: bytes, send: Send
    ) -> None:
        host, path, endpoint = route
        world = self.world
        world.requests += 1
        arrived = time.monotonic()
        started = arrived - self.epoch
        client = tuple(scope.get("client") or ("127.0.0.1", 0))
        call = Call(world, path, query, {}, _address(scope, client), arrived=arrived)
        code: int | None = 0
        body: dict[str, Any] = {}
        faults: list[Fault] = []
        status = 200
        world.in_flight[path] += 1
        in_flight = world.in_flight[path]
        try:
            call.body, call.fault_in_body = _json_body(
                scope["method"], raw, world.state.settings["refuse_escaped_unicode"]
            )
            faults = world.faults.hitting(path, {**query, **call.body})
            await self._before(faults, call)
            body = await self._apply(host, endpoint, scope["method"], call, faults, in_flight)
        except ApiError as refusal:
            code, body = refusal.code, self._refusal(endpoint, refusal, call)
        except _CutError as cut:
            status, code = cut.status, None
        finally:
            world.in_flight[path] -= 1
        self._record(call, started, status, code, faults, in_flight)
        await self._deliver(host, status, body, faults, client, send)

    async def _before(self, faults: list[Fault], call: Call) -> None:
        """Faults that strike before the call has any effect."""
        for fault in faults:
            if fault.kind == "delay":
                await asyncio.sleep(fault.ms / 1000)
            if fault.when == "after":
                continue
            if fault.kind == "code":
                raise ApiError(fault.code)
            if fault.kind == "http":
                raise _CutError(fault.status)
            if fault.kind in ("cut", "hang", "restart"):
                raise _CutError(0)
            if fault.kind == "expire_token":
                self.world.end_token(call.query.get("access_token", ""))

    async def _apply(
        self, host: str, endpoint: Endpoint, method: str, call: Call, faults: list[Fault], in_flight: int
    ) -> dict[str, Any]:
        """Token, app, limits, concurrency, then the endpoint; faults that strike afterwards keep its effect."""
        if endpoint.token:
            self._admit(host, endpoint, call)
        if call.fault_in_body:
            raise ApiError(call.fault_in_body)
        if method != endpoint.method:
            raise ApiError(40003 if host == "wecom" else 43002 if endpoint.method == "POST" else 43001)
        settings = self.world.state.settings
        cap = settings["concurrency"].get(call.path)
        if cap and in_flight > cap:
            raise ApiError(45033)
        held = self._claim(endpoint, call)
        try:
            latency = settings["latency_ms"].get(call.path, settings["latency_ms"]["default"])
            if latency:  # counted from the arrival of the call, so that a call takes what was asked for
                await asyncio.sleep(max(0.0, call.arrived + latency / 1000 - time.monotonic()))
            body = self._run(endpoint, call, drop=any(fault.kind == "drop" for fault in faults))
        finally:
            self.world.held.difference_update(held)
        for fault in faults:
            if fault.when == "after" and fault.kind == "code":
                raise ApiError(fault.code)
            if fault.when == "after" and fault.kind in ("http", "cut", "hang", "restart"):
                raise _CutError(fault.status if fault.kind == "http" else 0)
        return body

    def _admit(self, host: str, endpoint: Endpoint, call: Call) -> None:
        owner = self.world.check_token(host, call.query.get("access_token"))
        if host == "wecom":
            call.owner = int(owner)
            app = call.state.apps.get(call.owner)
            if app is None or not app["enabled"]:
                raise ApiError(40001)
            if app["trusted_ips"] is not None and call.address not in app["trusted_ips"]:
                raise ApiError(60020)
            if endpoint.contact and not app["callable"]:
                raise ApiError(48002)
        else:
            call.owner = owner
        self.world.count_call(call.path, owner, call.address)

    def _claim(self, endpoint: Endpoint, call: Call) -> list[str]:
        """Hold what the call needs for itself, or refuse with the code of the first key another call holds."""
        claims = endpoint.claims(call) if endpoint.claims else []
        for key, code in claims:
            if code and key in self.world.held:
                raise ApiError(code)
        keys = [key for key, code in claims if code]
        self.world.held.update(keys)
        return keys

    def _run(self, endpoint: Endpoint, call: Call, *, drop: bool) -> dict[str, Any]:
        """The endpoint inside one transaction; *drop* undoes it and still answers as if it were done."""
        if not endpoint.writes:
            return endpoint.handler(call)
        con = call.state.con
        con.execute("begin immediate")
        try:
            body = endpoint.handler(call)
        except ApiError as refusal:
            con.execute("commit" if refusal.keep else "rollback")
            call.state.reload_tags()
            raise
        except BaseException:
            con.execute("rollback")
            raise
        con.execute("rollback" if drop else "commit")
        if drop:
            call.state.reload_tags()
        return body

    def _refusal(self, endpoint: Endpoint, refusal: ApiError, call: Call) -> dict[str, Any]:
        hint = f"{int(self.world.now())}_{self.world.requests}_{secrets.token_hex(16)}"
        more = f"https://open.work.weixin.qq.com/devtool/query?e={refusal.code}"
        text = f"{refusal.text}, hint: [{hint}], from ip: {call.address}, more info at {more}"
        return {"errcode": refusal.code, "errmsg": text, **endpoint.empty}

    def _record(
        self, call: Call, started: float, status: int, code: int | None, faults: list[Fault], in_flight: int
    ) -> None:
        world = self.world
        world.log_seq += 1
        fields = {**call.query, **call.body}
        world.log.append(
            LogRow(
                seq=world.log_seq,
                path=call.path,
                started=started,
                ended=time.monotonic() - self.epoch,
                at=time.time(),
                status=status,
                errcode=code,
                owner=str(call.owner or ""),
                userid=str(fields.get("userid", ""))[:64],
                external_userid=str(fields.get("external_userid", ""))[:64],
                fault=",".join(fault.kind for fault in faults),
                in_flight=in_flight,
            )
        )

    async def _deliver(
        self,
        host: str,
        status: int,
        body: Mapping[str, Any],
        faults: list[Fault],
        client: tuple[Any, ...],
        send: Send,
    ) -> None:
        if status == 200:
            plain = "errcode" in body or (host == "oa" and body)  # that host gives no errcode beside data
            await _answer(send, 200, orjson.dumps(body if plain else {"errcode": 0, "errmsg": "ok", **body}))
            return
        if status:
            await _answer(send, status, b"")
            return
        if any(fault.kind == "restart" for fault in faults):
            self.world.restart()
        elif any(fault.kind == "hang" for fault in faults):
            await asyncio.sleep(3600)
        transport = self.world.transports.get((str(client[0]), int(client[1])))
        if transport is not None:
            transport.abort()

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        from sandbox.callbacks import deliver_forever

        task: asyncio.Task[None] | None = None
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                task = asyncio.create_task(deliver_forever(self.world))
                await send({"type": "lifespan.startup.complete"})
            else:
                if task:
                    task.cancel()
                self.world.state.close()
                await send({"type": "lifespan.shutdown.complete"})
                return


class _CutError(Exception):
    """The call ends without a business answer: HTTP *status*, or 0 = no answer at all."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def _json_body(method: str, raw: bytes, refuse_escapes: bool) -> tuple[dict[str, Any], int]:
    """The JSON object of a POST and the code to refuse it with: 40063 not JSON, 40033 escaped unicode, else 0."""
    if method != "POST" or not raw.strip():
        return {}, 0
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return {}, 40063
    if not isinstance(body, dict):
        return {}, 40063
    return body, 40033 if refuse_escapes and b"\\u" in raw else 0


def _address(scope: Mapping[str, Any], client: tuple[Any, ...]) -> str:
    """The caller's address; `X-Sandbox-From-Ip` lets a test pretend another."""
    for name, value in scope["headers"]:
        if name == b"x-sandbox-from-ip":
            text: str = value.decode("latin-1")
            return text
    return str(client[0])


async def _read(receive: Receive) -> bytes:
    body = b""
    while True:
        message = await receive()
        part: bytes = message.get("body", b"")
        body += part
        if not message.get("more_body"):
            return body


async def _answer(send: Send, status: int, body: bytes) -> None:
    headers = [(b"content-type", b"application/json; charset=UTF-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
