"""A real collector in a process of its own, for tests and benchmarks.

`python -m tests.collector.running FOLDER PORT [settings as JSON]` serves; `Running` starts and stops that.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import orjson

from connectors.collector.collector import REJECTS, Collector, Folders
from connectors.collector.server import http_server, serve
from connectors.collector.settings import CollectorConfig
from connectors.wecom.callbacks import CallbackError, CallbackReceiver

ROOT = Path(__file__).resolve().parents[2]


def folders(root: Path) -> Folders:
    return Folders(root / "data" / "collected", root / "data" / "rejects" / "_collector")


def lines_of(root: Path, log: str, *, pattern: str = "*.jsonl") -> list[dict[str, Any]]:
    """Every line of the closed segments of *log*, in the order of closing."""
    files = sorted(folders(root).of(log).glob(pattern))
    return [orjson.loads(line) for path in files for line in path.read_bytes().splitlines()]


class Running:
    """A collector process over *root*. *settings*: fields of `CollectorConfig`, plus write_keys and receivers."""

    def __init__(self, root: Path, *, pin: set[int] | None = None, **settings: Any) -> None:
        self.root, self.settings, self.pin = root, settings, pin
        self.port = free_port()
        self.base = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        command = [
            sys.executable,
            "-m",
            "tests.collector.running",
            str(self.root),
            str(self.port),
            json.dumps(self.settings),
        ]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if self.pin:
            os.sched_setaffinity(self.process.pid, self.pin)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                if httpx.get(f"{self.base}/health", trust_env=False, timeout=1).status_code == 200:
                    return
            except httpx.HTTPError:
                time.sleep(0.02)
        raise RuntimeError(f"the collector did not start: {self.output()}")

    def output(self) -> str:
        """Everything it printed, once it has ended."""
        return "".join(self.process.communicate(timeout=10))

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()

    def stop(self) -> str:
        """End it in order, so that every segment is closed; what it printed."""
        if self.process.poll() is None:
            self.process.terminate()
        return self.output()

    def lines(self, log: str) -> list[dict[str, Any]]:
        return lines_of(self.root, log)

    def rejects(self) -> list[dict[str, Any]]:
        return lines_of(self.root, REJECTS)

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.process.poll() is None:
            self.stop()


class Threaded:
    """The same in a thread of this process, over a real socket: much sooner there than a process."""

    def __init__(self, root: Path, **settings: Any) -> None:
        self.root = root
        listener = socket.create_server(("127.0.0.1", 0))
        self.base = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self._server = http_server(collector_of(root, settings))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [listener]})
        self._thread.start()

    def stop(self) -> None:
        """End it in order, so that every segment is closed."""
        self._server.should_exit = True
        self._thread.join()

    def lines(self, log: str) -> list[dict[str, Any]]:
        return lines_of(self.root, log)

    def rejects(self) -> list[dict[str, Any]]:
        return lines_of(self.root, REJECTS)

    def __enter__(self) -> Threaded:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def collector_of(root: Path, settings: Mapping[str, Any]) -> Collector:
    given = dict(settings)
    keys = frozenset(given.pop("keys", ()))
    receivers = {name: CallbackReceiver.of(*parts) for name, parts in given.pop("receivers", {}).items()}
    return Collector(CollectorConfig.model_validate(given), folders(root), keys, receivers, (CallbackError,))


def main(root: str, port: str, settings: str) -> None:
    serve(collector_of(Path(root), json.loads(settings)), host="127.0.0.1", port=int(port))


if __name__ == "__main__":
    main(*sys.argv[1:])
