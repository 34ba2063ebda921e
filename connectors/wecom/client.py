"""One WeCom app's client: token, pace, retry by return code, and one method per interface the platform uses.

Thread-safe. The token rides in the URL, so URLs, request bodies and replies never reach a log or an error: errors name
the interface path and the code. Source of paths, limits and codes: WeCom customer-contact API (客户联系).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt

from connectors.wecom.pace import Pacer
from connectors.wecom.replies import Kind, WeComError, error_for, kind_of

PRODUCTION = "https://qyapi.weixin.qq.com"
BATCH_STAFF = 50  # the page says 100; the field reports a refusal past 64
PAGE = 100
CONFIRMED = 2  # status of a staff member's task of a corp message


@dataclass(frozen=True)
class Limits:
    """How hard one app may call. Seconds and calls per second, each per interface path.

    *window_s*: how long a 45009 block lasts. *attempts*: tries of one read, or of one library change.
    """

    calls_per_second: float = 10.0
    attempts: int = 4
    slow_attempts: int = 8
    window_s: float = 60.0
    timeout_s: float = 15.0
    connect_timeout_s: float = 5.0
    error_kinds: Mapping[int, Kind] = field(default_factory=dict)


class _NoUrls(logging.Filter):
    """Keeps httpx's request lines, whose URLs carry the token, out of every log."""

    def filter(self, record: logging.LogRecord) -> bool:
        return "access_token" not in record.getMessage() and "corpsecret" not in record.getMessage()


_NO_URLS = _NoUrls()


class WeComClient:
    """Calls of one (corp, app). *clock*, *sleep*: monotonic seconds; *transport* replaces the network in tests."""

    def __init__(
        self,
        base_url: str,
        corpid: str,
        secret: str,
        *,
        transport: httpx.BaseTransport | None = None,
        limits: Limits = Limits(),
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.corpid = corpid
        self.limits = limits
        self._secret = secret
        self._clock, self._sleep = clock, sleep
        self._token: str | None = None
        self._token_until = 0.0
        self._token_lock = threading.Lock()
        self._pacers: dict[str, Pacer] = {}
        self._pacers_lock = threading.Lock()
        self.calls: dict[str, int] = {}
        self.unlicensed: set[str] = set()  # staff whose relations WeCom did not give, for want of a licence (互通账号)
        timeout = httpx.Timeout(limits.timeout_s, connect=limits.connect_timeout_s)
        self._http = httpx.Client(
            base_url=base_url.rstrip("/").removesuffix("/cgi-bin") + "/cgi-bin/", timeout=timeout, transport=transport
        )
        for name in ("httpx", "httpcore"):
            logging.getLogger(name).addFilter(_NO_URLS)

    def __enter__(self) -> WeComClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"WeComClient(corpid={self.corpid!r})"

    def close(self) -> None:
        """Give back the connections."""
        self._http.close()

    # -- calling ---------------------------------------------------------------------------------------------------

    def call(
        self, method: str, path: str, *, params: Mapping[str, Any] | None = None, body: Any = None
    ) -> dict[str, Any]:
        """One interface call with pace and retries. Raises `WeComError` once the tries of its kind are used up."""
        retrying = Retrying(
            stop=self._stop, wait=self._wait, retry=retry_if_exception(_worth_retrying), sleep=self._sleep, reraise=True
        )
        return retrying(self.call_once, method, path, params=params, body=body)

    def call_once(
        self, method: str, path: str, *, params: Mapping[str, Any] | None = None, body: Any = None, paced: bool = True
    ) -> dict[str, Any]:
        """One call, retried only after a token refresh. Raises `WeComError` on any code but 0."""
        token = self.token()
        try:
            return self._send(method, path, token, params, body, paced)
        except WeComError as error:
            if error.kind != "TOKEN":
                raise
        try:
            return self._send(method, path, self.token(stale=token), params, body, paced)
        except WeComError as error:
            if error.kind == "TOKEN":
                raise error_for(
                    path, error.errcode, "ALERT", detail="refused twice, also with a fresh token"
                ) from error
            raise

    def token(self, *, stale: str | None = None) -> str:
        """The app's access token. *stale*: a token just refused; it is replaced once, however many threads ask."""
        with self._token_lock:
            held = self._token
            if held is not None and held != stale and self._clock() < self._token_until:
                return held
            self._token = None
            reply = self._gettoken()
            fresh = str(reply["access_token"])
            self._token = fresh
            self._token_until = self._clock() + max(float(reply.get("expires_in", 7200)) - 120, 1.0)
            return fresh

    def _gettoken(self) -> dict[str, Any]:
        params = {"corpid": self.corpid, "corpsecret": self._secret}
        retrying = Retrying(
            stop=self._stop, wait=self._wait, retry=retry_if_exception(_worth_retrying), sleep=self._sleep, reraise=True
        )
        try:
            return retrying(self._send, "GET", "gettoken", None, params, None, True)
        except WeComError as error:
            if error.kind == "TOKEN":
                raise error_for("gettoken", error.errcode, "ALERT", detail="corpid or secret refused") from error
            raise

    def _send(
        self, method: str, path: str, token: str | None, params: Mapping[str, Any] | None, body: Any, paced: bool
    ) -> dict[str, Any]:
        pacer = self.pacer(path)
        if paced:
            pacer.wait()
        query = dict(params or {}) | ({"access_token": token} if token else {})
        self.calls[path] = self.calls.get(path, 0) + 1
        try:
            response = self._http.request(method, path, params=query, json=body)
        except httpx.TransportError as error:
            # `from None`: the chained exception holds the request, whose URL holds the token.
            fault = error_for(path, 0, "RETRY", detail=type(error).__name__)
            fault.never_sent = isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout))
            raise fault from None
        return self._read(path, response, pacer)

    def _read(self, path: str, response: httpx.Response, pacer: Pacer) -> dict[str, Any]:
        if response.status_code >= 500 or response.status_code == 429:
            raise error_for(path, 0, "RETRY", detail=f"HTTP {response.status_code}")
        if response.status_code != 200:
            raise error_for(path, 0, "FIX", detail=f"HTTP {response.status_code}: no such interface")
        try:
            reply = response.json()
        except ValueError:
            raise error_for(path, 0, "RETRY", detail="the reply is not JSON") from None
        if not isinstance(reply, dict):
            raise error_for(path, 0, "RETRY", detail="the reply is not a JSON object")
        errcode = int(reply.get("errcode") or 0)
        if errcode == 0:
            pacer.good()
            return reply
        kind = kind_of(errcode, self.limits.error_kinds)
        if kind in ("WAIT", "SLOW"):
            pacer.slow_down()
        if kind == "WAIT":
            pacer.block(self.limits.window_s)
        raise error_for(path, errcode, kind)

    def pacer(self, path: str) -> Pacer:
        """The pace of one interface."""
        with self._pacers_lock:
            if path not in self._pacers:
                self._pacers[path] = Pacer(self.limits.calls_per_second, clock=self._clock, sleep=self._sleep)
            return self._pacers[path]

    def _stop(self, state: RetryCallState) -> bool:
        error = state.outcome.exception() if state.outcome else None
        slow = isinstance(error, WeComError) and error.kind in ("SLOW", "WAIT")
        return stop_after_attempt(self.limits.slow_attempts if slow else self.limits.attempts)(state)

    def _wait(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, WeComError) and error.kind == "WAIT":
            return 0.0  # the pacer is blocked until the window ends
        return float(min(2 ** (state.attempt_number - 1), 8)) * (0.25 if getattr(error, "kind", "") == "SLOW" else 1.0)

    # -- reading ---------------------------------------------------------------------------------------------------

    def follow_users(self) -> list[str]:
        """Staff who may have customers and whom this app sees, sorted."""
        return sorted(self.call("GET", "externalcontact/get_follow_user_list").get("follow_user") or [])

    def relation_page(self, userids: Sequence[str], cursor: str = "") -> tuple[list[dict[str, Any]], str]:
        """One page of the relations of up to 100 staff: rows and the next cursor ("" at the end)."""
        body = {"userid_list": list(userids), "cursor": cursor, "limit": PAGE}
        path = "externalcontact/batch/get_by_user"
        reply = self.call("POST", path, body=body)
        self.unlicensed |= set((reply.get("fail_info") or {}).get("unlicensed_userid_list") or ())
        return list(reply.get("external_contact_list") or []), _following(path, cursor, reply)

    def relations(self, userids: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Every relation of *userids*, in calls of at most 50 staff; a refused list (40058) is halved."""
        for start in range(0, len(userids), BATCH_STAFF):
            yield from self._relations_of(list(userids[start : start + BATCH_STAFF]))

    def _relations_of(self, userids: list[str]) -> Iterator[dict[str, Any]]:
        try:
            rows, cursor = self.relation_page(userids)
        except WeComError as error:
            if error.errcode != 40058 or len(userids) == 1:
                raise
            half = len(userids) // 2
            yield from self._relations_of(userids[:half])
            yield from self._relations_of(userids[half:])
            return
        yield from rows
        while cursor:
            rows, cursor = self.relation_page(userids, cursor)
            yield from rows

    def contact(self, external_userid: str) -> dict[str, Any]:
        """One customer with all visible followers: `external_contact` and the united `follow_user` list."""
        params = {"external_userid": external_userid}
        reply = self.call("GET", "externalcontact/get", params=params)
        follow = list(reply.get("follow_user") or [])
        path, cursor = "externalcontact/get", str(reply.get("next_cursor") or "")
        while cursor:
            page = self.call("GET", path, params=params | {"cursor": cursor})
            follow += page.get("follow_user") or []
            cursor = _following(path, cursor, page)
        return {"external_contact": reply.get("external_contact") or {}, "follow_user": follow}

    def tag_library(self) -> list[dict[str, Any]]:
        """Every corp tag group with its tags, as WeCom gives them."""
        return list(self.call("POST", "externalcontact/get_corp_tag_list", body={}).get("tag_group") or [])

    def group_chats(self, owners: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
        """`{chat_id, status}` of every customer group; of *owners* (up to 100) when given."""
        body: dict[str, Any] = {"status_filter": 0, "limit": 1000}
        if owners:
            body["owner_filter"] = {"userid_list": list(owners)}
        yield from self._listed("externalcontact/groupchat/list", body, "group_chat_list")

    def group_chat(self, chat_id: str) -> dict[str, Any]:
        """One customer group with all members."""
        reply = self.call("POST", "externalcontact/groupchat/get", body={"chat_id": chat_id, "need_name": 1})
        return dict(reply.get("group_chat") or {})

    def contact_ways(self, since: int, until: int) -> Iterator[dict[str, Any]]:
        """Contact ways made through the API between two Unix seconds, each read whole."""
        body: dict[str, Any] = {"start_time": since, "end_time": until, "limit": 1000}
        for entry in self._listed("externalcontact/list_contact_way", body, "contact_way"):
            reply = self.call("POST", "externalcontact/get_contact_way", body={"config_id": entry["config_id"]})
            yield dict(reply.get("contact_way") or {})

    def acquisition_links(self) -> Iterator[dict[str, Any]]:
        """Acquisition links, each as WeCom gives it: `link` and `range`."""
        for link_id in self._listed("externalcontact/customer_acquisition/list_link", {"limit": 100}, "link_id_list"):
            yield self.call("POST", "externalcontact/customer_acquisition/get", body={"link_id": link_id})

    def behavior(self, userid: str, since: int, until: int) -> list[dict[str, Any]]:
        """One employee's days between two Unix seconds, at most 30 days apart and not before 180 days ago."""
        body = {"userid": [userid], "start_time": since, "end_time": until}
        return list(self.call("POST", "externalcontact/get_user_behavior_data", body=body).get("behavior_data") or [])

    def messages(self, chat_type: str, since: int, until: int) -> Iterator[dict[str, Any]]:
        """Corp messages of *chat_type* (single, group) made between two Unix seconds, at most a month apart."""
        body = {"chat_type": chat_type, "start_time": since, "end_time": until, "limit": PAGE}
        yield from self._listed("externalcontact/get_groupmsg_list_v2", body, "group_msg_list")

    def message_senders(self, msgid: str) -> list[str]:
        """Staff who have confirmed a corp message, so that what is theirs of it has gone out."""
        tasks = self._listed("externalcontact/get_groupmsg_task", {"msgid": msgid, "limit": 1000}, "task_list")
        return [task["userid"] for task in tasks if task.get("status") == CONFIRMED]

    def message_receivers(self, msgid: str, userid: str) -> Iterator[dict[str, Any]]:
        """Who got a corp message from one of its senders, and what became of it."""
        body = {"msgid": msgid, "userid": userid, "limit": 1000}
        yield from self._listed("externalcontact/get_groupmsg_send_result", body, "send_list")

    def _listed(self, path: str, body: Mapping[str, Any], name: str) -> Iterator[Any]:
        """The items of a cursor list."""
        cursor = ""
        while True:
            reply = self.call("POST", path, body={**body, "cursor": cursor})
            yield from reply.get(name) or []
            cursor = _following(path, cursor, reply)
            if not cursor:
                return

    # -- writing ---------------------------------------------------------------------------------------------------

    def add_tags(
        self,
        names: Sequence[tuple[str, int]],
        *,
        group_id: str | None = None,
        group_name: str | None = None,
        order: int = 0,
    ) -> dict[str, Any]:
        """Create tags `(name, order)` in a group; the reply's group holds only the new tags."""
        body: dict[str, Any] = {"tag": [{"name": name, "order": rank} for name, rank in names]}
        body |= {"group_id": group_id} if group_id else {"group_name": group_name, "order": order}
        return dict(self.call("POST", "externalcontact/add_corp_tag", body=body).get("tag_group") or {})

    def edit_tag(self, item_id: str, *, name: str | None = None, order: int | None = None) -> None:
        """Rename or reorder a tag or a group; its id stays."""
        body = (
            {"id": item_id}
            | ({"name": name} if name is not None else {})
            | ({"order": order} if order is not None else {})
        )
        self.call("POST", "externalcontact/edit_corp_tag", body=body)

    def delete_tags(self, tag_ids: Sequence[str]) -> None:
        """Delete tags; WeCom takes them off every customer."""
        self.call("POST", "externalcontact/del_corp_tag", body={"tag_id": list(tag_ids)})

    def mark(self, userid: str, external_userid: str, add: Sequence[str], remove: Sequence[str]) -> None:
        """Add and remove tags of one relation in one call, tried once: the ledger decides about another try."""
        body = {"userid": userid, "external_userid": external_userid, "add_tag": list(add), "remove_tag": list(remove)}
        self.call_once("POST", "externalcontact/mark_tag", body=body, paced=False)


def _following(path: str, cursor: str, reply: Mapping[str, Any]) -> str:
    """The cursor of the next page, "" at the end. A page that leads to itself would be read for ever."""
    following = str(reply.get("next_cursor") or "")
    if following and following == cursor:
        raise error_for(path, 0, "RETRY", detail="the same page came twice")
    return following


def _worth_retrying(error: BaseException) -> bool:
    return isinstance(error, WeComError) and error.kind in ("RETRY", "WAIT", "SLOW")
