"""A callback receiver for tests: `wechatpy`'s own cryptography checks and opens what the sandbox sends."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from wechatpy.enterprise.crypto import WeChatCrypto


class Receiver:
    """Listens on loopback; `messages` are the decrypted XML texts of acknowledged posts."""

    def __init__(self, token: str, aes_key: str, corpid: str, answers: Callable[[int], int] = lambda _: 200) -> None:
        self.messages: list[str] = []
        self.posts = 0
        crypto = WeChatCrypto(token, aes_key, corpid)
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def _query(self) -> dict[str, str]:
                return {key: values[0] for key, values in parse_qs(urlsplit(self.path).query).items()}

            def do_GET(self) -> None:
                query = self._query()
                echo = crypto.check_signature(
                    query["msg_signature"], query["timestamp"], query["nonce"], query["echostr"]
                )
                self._reply(200, echo if isinstance(echo, bytes) else str(echo).encode())

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"])).decode()
                query = self._query()
                status = answers(receiver.posts)
                receiver.posts += 1
                text = crypto.decrypt_message(body, query["msg_signature"], query["timestamp"], query["nonce"])
                if status == 200:
                    receiver.messages.append(text if isinstance(text, str) else text.decode())
                self._reply(status, b"")

            def _reply(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                return

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/callback"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()
