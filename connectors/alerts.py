"""Where alerts go: a WeCom group robot (企业微信群机器人), or any address that takes JSON.

Robot: POST `{"msgtype": "text", "text": {"content": …}}` or the same with `markdown`, at most 2048 bytes of text and
20 messages a minute (developer.work.weixin.qq.com/document/path/91770). Its address holds its key, so it is never told
in an error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import httpx

from cdp.errors import FatalError, RetriableError
from cdp.quality.alerts import AlertRules
from connectors.settings import resolve

TIMEOUT_SECONDS = 10.0
Sender = Callable[[str], None]


def senders(
    rules: AlertRules, *, environment: Mapping[str, str], root: Path, transport: httpx.BaseTransport | None = None
) -> list[Sender]:
    """One sender for each address that *rules* names; none when they name none. Raises `ConfigError` when a
    reference leads nowhere."""
    found: list[Sender] = []
    if rules.robot:
        address = resolve(rules.robot, environment, root, where="alerts.robot")
        found.append(lambda text: to_robot(address, text, where="alerts.robot", transport=transport))
    if rules.webhook:
        url = resolve(rules.webhook, environment, root, where="alerts.webhook")
        found.append(lambda text: _to_webhook(url, text, transport))
    return found


def send_to_all(targets: Sequence[Sender], text: str) -> None:
    """Send to every target; the first fault is raised after all were tried."""
    faults: list[Exception] = []
    for target in targets:
        try:
            target(text)
        except (RetriableError, FatalError) as error:
            faults.append(error)
    if faults:
        raise faults[0]


def _to_webhook(url: str, text: str, transport: httpx.BaseTransport | None) -> None:
    _post(url, {"text": text}, "alerts.webhook", transport)


def to_robot(
    url: str,
    text: str,
    *,
    where: str,
    form: Literal["text", "markdown"] = "text",
    transport: httpx.BaseTransport | None = None,
) -> None:
    """Post *text* to the robot at *url*; *where* names the setting in errors. Raises `RetriableError`, `FatalError`."""
    reply = _post(url, {"msgtype": form, form: {"content": text}}, where, transport)
    code = reply.get("errcode", -1)
    if code == 45009:
        raise RetriableError(f"{where}: too many messages (45009)", hint="it takes 20 a minute")
    if code != 0:
        raise FatalError(f"{where}: refused with code {code}", hint="is the robot still in its group?")


def _post(url: str, body: Mapping[str, object], where: str, transport: httpx.BaseTransport | None) -> dict[str, object]:
    try:
        with httpx.Client(timeout=TIMEOUT_SECONDS, transport=transport) as client:
            answer = client.post(url, json=body)
    except (httpx.TransportError, httpx.InvalidURL) as error:
        # `from None`: the cause's text may hold the address, and with it the key
        raise RetriableError(
            f"{where}: not reached ({type(error).__name__})", hint="it is tried again next run"
        ) from None
    if answer.status_code >= 300:
        raise RetriableError(f"{where}: answered {answer.status_code}", hint="is the address still right?")
    try:
        reply = answer.json()
    except ValueError:
        return {}
    return reply if isinstance(reply, dict) else {}
