"""A thin client of the Official Account API: token, errors by class, back-off.

Codes are those of 公众号; they overlap in number with 企业微信 but not in meaning. The token rides in the URL, so no
URL and no reply body goes into a message.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import httpx
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from cdp.errors import ConfigError, FatalError, RetriableError

_TOKEN_CODES = {40001, 40014, 41001, 42001}
_RETRY_CODES = {-1, 45159}
_WAIT_CODES = {45009, 45011}
_CREDENTIAL_CODES = {40013, 40125, 40164, 41002, 41004}
_ATTEMPTS = 6


class OfficialAccountError(FatalError):
    """The API refused a call. *errcode* is its number."""

    code = "official_account"

    def __init__(self, path: str, errcode: int, *, hint: str) -> None:
        super().__init__(f"Official Account `{path}` answered errcode {errcode}", hint=hint)
        self.errcode = errcode


class OfficialAccountClient:
    """Calls on one account. *sleep* and *transport* are given by tests; one token is shared by all threads."""

    def __init__(
        self,
        base_url: str,
        appid: str,
        secret: str,
        *,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.appid, self._secret, self._sleep, self._clock = appid, secret, sleep, clock
        self._base_url, self._transport = base_url.rstrip("/"), transport
        self._http: httpx.Client | None = None
        self._token: tuple[str, float] | None = None
        self._lock = threading.Lock()

    def close(self) -> None:
        """End the connections; the next call opens new ones."""
        if self._http is not None:
            self._http.close()
            self._http = None

    def followers(self, after: str) -> Mapping[str, Any]:
        """One page of openids behind *after*: `total`, `count`, `data.openid`, `next_openid`."""
        return self._call("GET", "/cgi-bin/user/get", params={"next_openid": after} if after else {})

    def follower_details(self, openids: list[str]) -> list[dict[str, Any]]:
        """What is known of up to 100 followers."""
        body = {"user_list": [{"openid": openid, "lang": "zh_CN"} for openid in openids]}
        return list(self._call("POST", "/cgi-bin/user/info/batchget", json=body).get("user_info_list", []))

    def _call(self, method: str, path: str, **request: Any) -> Mapping[str, Any]:
        retrying = Retrying(
            retry=retry_if_exception_type(RetriableError),
            stop=stop_after_attempt(_ATTEMPTS),
            wait=wait_random_exponential(multiplier=0.5, max=20),
            sleep=self._sleep,
            reraise=True,
        )
        return retrying(self._once, method, path, **request)

    def _once(self, method: str, path: str, **request: Any) -> Mapping[str, Any]:
        token = self._fresh_token()
        reply = self._send(method, path, params={**request.pop("params", {}), "access_token": token}, **request)
        errcode = int(reply.get("errcode") or 0)
        if errcode == 0:
            return reply
        if errcode in _TOKEN_CODES:
            self._drop_token(token)
            raise RetriableError(f"Official Account `{path}`: the token has ended (errcode {errcode})")
        if errcode in _RETRY_CODES:
            raise RetriableError(f"Official Account `{path}`: busy (errcode {errcode})")
        if errcode in _WAIT_CODES:
            raise OfficialAccountError(path, errcode, hint="the quota of this interface is used up; run again tomorrow")
        hint = (
            "the account has no right to this interface" if errcode == 48001 else "see the 公众号 table of error codes"
        )
        raise OfficialAccountError(path, errcode, hint=hint)

    def _fresh_token(self) -> str:
        with self._lock:
            if self._token is None or self._token[1] <= self._clock():
                self._token = self._fetch_token()
            return self._token[0]

    def _drop_token(self, token: str) -> None:
        with self._lock:
            if self._token is not None and self._token[0] == token:
                self._token = None

    def _fetch_token(self) -> tuple[str, float]:
        path = "/cgi-bin/stable_token"
        body = {
            "grant_type": "client_credential",
            "appid": self.appid,
            "secret": self._secret,
            "force_refresh": False,
        }
        reply = self._send("POST", path, json=body)
        errcode = int(reply.get("errcode") or 0)
        if errcode in _CREDENTIAL_CODES or errcode == 40001:
            raise ConfigError(
                f"Official Account {self.appid}: appid or secret was refused (errcode {errcode})",
                hint="check `appid` and `secret` of the source, and that this machine's address is on the IP list",
            )
        if errcode:
            raise RetriableError(f"Official Account `{path}`: no token (errcode {errcode})")
        # Five minutes early: another holder of the token may see its end sooner than we do.
        return str(reply["access_token"]), self._clock() + max(60, int(reply.get("expires_in", 7200)) - 300)

    def _open(self) -> httpx.Client:
        if self._http is None:
            timeout = httpx.Timeout(30, connect=10)
            self._http = httpx.Client(base_url=self._base_url, timeout=timeout, transport=self._transport)
        return self._http

    def _send(self, method: str, path: str, **request: Any) -> Mapping[str, Any]:
        try:
            response = self._open().request(method, path, **request)
        except httpx.TransportError as error:
            raise RetriableError(
                f"Official Account `{path}`: {type(error).__name__}", hint="is the network, proxy or `base_url` right?"
            ) from None
        if response.status_code >= 500 or response.status_code == 429:
            raise RetriableError(f"Official Account `{path}`: HTTP {response.status_code}")
        if response.status_code != 200:
            raise FatalError(f"Official Account `{path}`: HTTP {response.status_code}", hint="is `base_url` right?")
        try:
            reply = response.json()
        except ValueError:
            raise RetriableError(f"Official Account `{path}`: the reply is not JSON") from None
        if not isinstance(reply, dict):
            raise RetriableError(f"Official Account `{path}`: the reply is not a JSON object")
        return reply
