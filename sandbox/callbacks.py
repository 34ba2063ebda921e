"""Callback events: built, encrypted and signed as § 8 of the reference says, posted with up to three more tries."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import secrets
import struct
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

import httpx
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

if TYPE_CHECKING:
    from sandbox.http import World

BLOCK = 32


def signature(token: str, timestamp: str, nonce: str, encrypted: str) -> str:
    """`sha1` over the sorted four parts."""
    joined = "".join(sorted([token, timestamp, nonce, encrypted])).encode()
    return hashlib.sha1(joined, usedforsecurity=False).hexdigest()  # the protocol prescribes SHA-1


def encrypt(text: str, aes_key: str, receive_id: str) -> str:
    """AES-256-CBC over 16 random bytes, length, text and receiver, padded to blocks of 32; base64."""
    key = base64.b64decode(aes_key + "=")
    raw = text.encode()
    plain = os.urandom(16) + struct.pack(">I", len(raw)) + raw + receive_id.encode()
    pad = BLOCK - len(plain) % BLOCK
    encryptor = Cipher(algorithms.AES(key), modes.CBC(key[:16])).encryptor()
    return base64.b64encode(encryptor.update(plain + bytes([pad]) * pad) + encryptor.finalize()).decode()


def new_aes_key() -> str:
    """A fresh EncodingAESKey (43 characters)."""
    return base64.b64encode(secrets.token_bytes(32)).decode().rstrip("=")


def event_xml(corpid: str, event: Mapping[str, str], at: int) -> str:
    """The plain XML of one event; `CreateTime` has seconds only, so many events share it."""
    fields = {"ToUserName": corpid, "FromUserName": "sys", "CreateTime": str(at), "MsgType": "event", **event}
    number = {"CreateTime", "JoinScene", "QuitScene", "MemChangeCnt", "StrategyId"}
    parts = [
        f"<{name}>{escape(value)}</{name}>" if name in number else f"<{name}><![CDATA[{value}]]></{name}>"
        for name, value in fields.items()
    ]
    return f"<xml>{''.join(parts)}</xml>"


def envelope(corpid: str, text: str, callback: Mapping[str, Any], timestamp: str) -> tuple[dict[str, str], str]:
    """Query and body of one POST."""
    nonce = secrets.token_hex(8)
    encrypted = encrypt(text, callback["aes_key"], corpid)
    query = {
        "msg_signature": signature(callback["token"], timestamp, nonce, encrypted),
        "timestamp": timestamp,
        "nonce": nonce,
    }
    body = (
        f"<xml><ToUserName><![CDATA[{corpid}]]></ToUserName><AgentID><![CDATA[]]></AgentID>"
        f"<Encrypt><![CDATA[{encrypted}]]></Encrypt></xml>"
    )
    return query, body


async def verify_address(world: World) -> dict[str, Any]:
    """The GET check of the console: the receiver must answer the decrypted `echostr` within one second."""
    settings = world.state.settings
    callback, corpid = settings["callback"], settings["corpid"]
    timestamp, nonce, echo = str(int(world.now())), secrets.token_hex(8), str(secrets.randbelow(10**18))
    encrypted = encrypt(echo, callback["aes_key"], corpid)
    query = {
        "msg_signature": signature(callback["token"], timestamp, nonce, encrypted),
        "timestamp": timestamp,
        "nonce": nonce,
        "echostr": encrypted,
    }
    started = time.monotonic()
    async with httpx.AsyncClient(timeout=5.0, trust_env=False) as client:
        reply = await client.get(callback["url"], params=query)
    seconds = time.monotonic() - started
    return {
        "ok": reply.status_code == 200 and reply.text == echo and seconds <= 1.0,
        "status": reply.status_code,
        "seconds": seconds,
    }


async def deliver_forever(world: World) -> None:
    """Take queued events and post them, in order, as long as the server runs."""
    async with httpx.AsyncClient(timeout=5.0, trust_env=False) as client:
        while True:
            if world.pending_events:
                world.delivering = True
                await _deliver(world, client, world.pending_events.pop(0))
                world.delivering = False
            else:
                await asyncio.sleep(0.02)


async def _deliver(world: World, client: httpx.AsyncClient, event: dict[str, str]) -> None:
    """One event: lost, sent, or sent twice, by the settings; not acknowledged within 5 s -> three more tries."""
    settings = world.state.settings
    callback, at = settings["callback"], int(world.now())
    record: dict[str, Any] = {"event": event, "at": at, "attempts": 0, "status": 0, "lost": False}
    world.delivered.append(record)
    if not callback["url"]:
        return
    if world.faults.random.random() < callback["loss_rate"]:
        record["lost"] = True
        return
    text = event_xml(settings["corpid"], event, at)
    for _ in range(2 if world.faults.random.random() < callback["repeat_rate"] else 1):
        for _ in range(4):
            record["attempts"] += 1
            query, body = envelope(settings["corpid"], text, callback, str(at))
            try:
                reply = await client.post(
                    callback["url"], params=query, content=body, headers={"content-type": "text/xml"}
                )
                record["status"] = reply.status_code
            except httpx.HTTPError:
                record["status"] = 0
            if record["status"] == 200:
                break
