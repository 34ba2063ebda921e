"""A real Chromium, driven through its DevTools protocol: what a page shows, says, asks for and prints.

Protocol: https://chromedevtools.github.io/devtools-protocol/ (domains Target, Page, Runtime, Log, Network, Emulation).
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PATIENCE_S = 60  # a machine that runs eight other tests is slow to start a browser


def find_chromium() -> str:
    """The browser's path. Where there is none the test is skipped with what to install, and fails under CI."""
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if found:
        return found
    told = "no Chromium on this machine, so no page was looked at: apt-get install chromium fonts-noto-cjk"
    if os.environ.get("CI"):
        pytest.fail(told)
    pytest.skip(told)


@dataclass
class Tab:
    """One page at one size. *said*: errors and warnings of its console. *asked*: every address it asked for."""

    _link: ClientConnection
    _session: str
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    _number: int = 0

    def open(self, page: Path, *, width: int, height: int = 900, dark: bool = False) -> None:
        """Load *page* in a window of *width* CSS pixels and wait until it has run its scripts."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self._call("Emulation.setDeviceMetricsOverride", **metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])
        self._call("Page.navigate", url=page.as_uri())
        self._until("Page.loadEventFired")
        self.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def run(self, script: str) -> Any:
        """What *script*, an expression, is worth in the page; a promise is waited for."""
        answer = self._call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise AssertionError(answer["exceptionDetails"]["exception"].get("description", answer))
        return answer["result"].get("value")

    def press(self, selector: str, text: str) -> None:
        """Type *text* into the field that *selector* finds, as a person does."""
        self.run(f"document.querySelector({json.dumps(selector)}).focus()")
        self._call("Input.insertText", text=text)

    def hover(self, selector: str) -> None:
        """Move the pointer over what *selector* finds first."""
        found = f"document.querySelector({json.dumps(selector)})"
        self.run(f"{found}.scrollIntoView({{block: 'center'}})")
        box = self.run(f"{found}.getBoundingClientRect().toJSON()")
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        self._call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def text(self, selector: str = "body") -> str:
        """The text a reader sees there."""
        return str(self.run(f"document.querySelector({json.dumps(selector)}).innerText"))

    def picture(self, *, height: int = 4000) -> bytes:
        """A PNG of the page from its top, at most *height* pixels of it."""
        width, whole = self.run("[innerWidth, document.documentElement.scrollHeight]")
        clip = {"x": 0, "y": 0, "width": width, "height": min(height, whole), "scale": 1}
        return self._bytes("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)

    def printed(self) -> bytes:
        """The page as a PDF, on the paper its own `@page` asks for."""
        return self._bytes("Page.printToPDF", preferCSSPageSize=True, printBackground=True)

    def as_printed(self, width: int) -> None:
        """Lay the page out as on paper *width* CSS pixels wide (96 an inch)."""
        self._call("Emulation.setEmulatedMedia", media="print")
        metrics = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
        self._call("Emulation.setDeviceMetricsOverride", **metrics)

    def _bytes(self, method: str, **parameters: Any) -> bytes:
        return base64.b64decode(self._call(method, **parameters)["data"])

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "sessionId": self._session, "method": method, "params": parameters}
        self._link.send(json.dumps(message))
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]

    def _until(self, event: str) -> None:
        while self._receive().get("method") != event:
            pass

    def _receive(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(self._link.recv(timeout=PATIENCE_S))
        parameters = message.get("params", {})
        match message.get("method"):
            case "Runtime.consoleAPICalled" if parameters["type"] in ("error", "warning", "assert"):
                self.said.append(" ".join(str(item.get("value", item)) for item in parameters["args"]))
            case "Runtime.exceptionThrown":
                self.said.append(parameters["exceptionDetails"].get("exception", {}).get("description", "exception"))
            case "Log.entryAdded" if parameters["entry"]["level"] in ("error", "warning"):
                self.said.append(parameters["entry"]["text"])
            case "Network.requestWillBeSent":
                self.asked.append(parameters["request"]["url"])
        return message


class Browser:
    """One headless browser for many pages."""

    def __init__(self, link: ClientConnection) -> None:
        self._link = link

    def tab(self) -> Tab:
        """A fresh page that has nothing of the others."""
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        tab = Tab(self._link, session)
        for domain in ("Page", "Runtime", "Log", "Network"):
            tab._call(f"{domain}.enable")
        return tab

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._link.send(json.dumps({"id": 1_000_000, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self._link.recv(timeout=PATIENCE_S))
            if answer.get("id") == 1_000_000:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]  # type: ignore[no-any-return]


@contextmanager
def open_browser() -> Iterator[Browser]:
    """Start Chromium with a profile of its own; it is gone when the block ends."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [find_chromium(), "--headless=new", "--remote-debugging-port=0", f"--user-data-dir={profile}"]
        # a container has neither user namespaces for the sandbox nor a large /dev/shm
        command += ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", "--lang=zh-CN"]
        command += ["--no-first-run", "--disable-extensions", "--disable-background-networking", "about:blank"]
        errors = Path(profile) / "stderr.txt"
        with errors.open("w") as stderr:
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stderr)
        try:
            with connect(_address(errors, process), max_size=None, compression=None, open_timeout=PATIENCE_S) as link:
                yield Browser(link)
        finally:
            process.terminate()
            process.wait(timeout=PATIENCE_S)


def _address(errors: Path, process: subprocess.Popen[bytes]) -> str:
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        found = re.search(r"DevTools listening on (ws://\S+)", errors.read_text(errors="replace"))
        if found:
            return found[1]
        assert process.poll() is None, f"Chromium did not start:\n{errors.read_text(errors='replace')[-2000:]}"
        time.sleep(0.02)
    raise AssertionError(f"Chromium said no address in {PATIENCE_S} s")
