"""Run the server: in this process (`serve`) or as a process of its own for tests and the demo (`start`)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from ruamel.yaml import YAML
from uvicorn.config import HTTP_PROTOCOLS
from uvicorn.importer import import_from_string

from sandbox import official_account, wecom
from sandbox.admin import admin, apply_scenario
from sandbox.http import Application, Endpoint, World
from sandbox.state import State

STARTUP_SECONDS = 30.0


def routes() -> dict[str, tuple[str, str, Endpoint]]:
    """URL path -> (host, path below the host's root, endpoint). The Official Account lives under `/oa/`."""
    table = {f"/cgi-bin/{path}": ("wecom", path, endpoint) for path, endpoint in wecom.ENDPOINTS.items()}
    return table | {
        f"/oa/{path}": ("oa", f"oa/{path}", endpoint) for path, endpoint in official_account.ENDPOINTS.items()
    }


def scenario_path(name: str) -> Path:
    """A scenario by the name of one that is shipped (`bad_day`), or by its path. Raises `FileNotFoundError`."""
    shipped = {path.stem: path for path in (Path(__file__).parent / "scenarios").glob("*.yaml")}
    path = shipped.get(name, Path(name))
    if not path.is_file():
        raise FileNotFoundError(f"no scenario {name!r}; shipped: {', '.join(sorted(shipped))}, or give a YAML file")
    return path


def load_scenario(path: Path) -> Mapping[str, Any]:
    """A scenario file (YAML or JSON): settings, faults and hand actions."""
    data = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    if not isinstance(data, dict):
        raise ValueError(f"{path}: a scenario is a mapping with `settings`, `faults`, `hand`")
    return data


def _protocol(world: World) -> type[asyncio.Protocol]:
    """uvicorn's HTTP protocol, which also notes the transport of each client so that a fault can break it."""
    found = import_from_string(HTTP_PROTOCOLS["httptools" if find_spec("httptools") else "h11"])
    base: Any = found

    class Noting(base):
        def connection_made(self, transport: Any) -> None:
            self.peer = tuple(transport.get_extra_info("peername") or ("", 0))[:2]
            world.transports[self.peer] = transport
            super().connection_made(transport)

        def connection_lost(self, exc: Exception | None) -> None:
            world.transports.pop(self.peer, None)
            super().connection_lost(exc)

    return Noting


def serve(
    state_path: Path,
    *,
    host: str,
    port: int,
    scenario: Path | None = None,
    limits: bool | None = None,
    end_with_stdin: bool = False,
) -> None:
    """Serve until stopped. A `restart` replaces this process by a new one on the same port and state."""
    listener = socket.create_server((host, port), reuse_port=False, backlog=512)
    port = listener.getsockname()[1]
    world = World(State(state_path))
    world.state.add_first_app()
    if limits is not None:
        world.state.set("limits", {"enabled": limits})
    if scenario is not None:
        apply_scenario(world, load_scenario(scenario))

    def restart() -> None:
        arguments = ["serve", "--state", str(state_path), "--host", host, "--port", str(port)]
        arguments += ["--end-with-stdin"] if end_with_stdin else []
        os.execv(sys.executable, [sys.executable, "-m", "sandbox", *arguments])  # noqa: S606 (this very program)

    world.restart = restart
    if end_with_stdin:
        threading.Thread(target=_end_with_stdin, daemon=True).start()
    application = Application(world, routes(), admin)
    config = uvicorn.Config(
        application,
        log_level="warning",
        access_log=False,
        http=_protocol(world),
        lifespan="on",
        timeout_keep_alive=75,
        backlog=512,
    )
    base = f"http://{host}:{port}"
    print(
        f"sandbox: WeCom {base}/cgi-bin/  Official Account {base}/oa  admin {base}/_sandbox/  state {state_path}",
        flush=True,
    )
    logging.getLogger("uvicorn.error").addFilter(_expected)
    uvicorn.Server(config).run(sockets=[listener])


def _end_with_stdin() -> None:
    """End this process when the one that started it is gone."""
    sys.stdin.buffer.read()
    os._exit(0)


def _expected(record: logging.LogRecord) -> bool:
    """Keep log records, except those of connections that a fault broke on purpose."""
    return "without starting response" not in record.getMessage()


class RunningServer:
    """A server process started by `start`. `base_url` is for WeCom paths, `oa_base_url` for the Official Account."""

    def __init__(self, state_path: Path, host: str, port: int, scenario: Path | None, limits: bool | None) -> None:
        self.state_path, self.host, self.port = state_path, host, port
        self._scenario, self._limits = scenario, limits
        self._process: subprocess.Popen[bytes] | None = None
        self.client = httpx.Client(trust_env=False, timeout=30.0)
        self._launch()

    @property
    def root_url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def base_url(self) -> str:
        return f"{self.root_url}/cgi-bin/"

    @property
    def oa_base_url(self) -> str:
        return f"{self.root_url}/oa"

    @property
    def pid(self) -> int:
        return self._process.pid if self._process is not None else 0

    def _launch(self) -> None:
        command = [sys.executable, "-m", "sandbox", "serve", "--state", str(self.state_path), "--host", self.host]
        command += ["--port", str(self.port), "--end-with-stdin"]
        if self._scenario is not None:
            command += ["--scenario", str(self._scenario)]
        if self._limits is not None:
            command += ["--limits", "on" if self._limits else "off"]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, [_root(), os.environ.get("PYTHONPATH", "")])),
        }
        self._process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.port = self._announced_port()
        self.wait_ready()

    def _announced_port(self) -> int:
        """The port in the line the server prints once it listens. Raises `RuntimeError` when it ends before that."""
        line = self._process.stdout.readline().decode() if self._process and self._process.stdout else ""
        found = re.search(r"http://[^/]*:(\d+)/", line)
        if found is None:
            self.kill()
            raise RuntimeError(f"the sandbox server did not start on {self.host}:{self.port}; state {self.state_path}")
        return int(found[1])

    def wait_ready(self) -> None:
        """Return once the server answers. Raises `RuntimeError` when it ends or stays silent."""
        deadline = time.monotonic() + STARTUP_SECONDS
        while time.monotonic() < deadline:
            if self._process is not None and self._process.poll() is not None:
                raise RuntimeError(
                    f"the sandbox server ended with code {self._process.returncode}; state {self.state_path}"
                )
            with contextlib.suppress(httpx.HTTPError):
                if self.client.get(f"{self.root_url}/_sandbox/health", timeout=1.0).status_code == 200:
                    return
            time.sleep(0.03)
        raise RuntimeError(f"the sandbox server did not answer within {STARTUP_SECONDS:.0f} s on {self.root_url}")

    def admin(self, method: str, name: str, body: Any = None, **query: Any) -> Any:
        """One admin call, e.g. `admin("POST", "faults", {"kind": "drop", "path": "*/mark_tag", "rate": 0.03})`."""
        reply = self.client.request(method, f"{self.root_url}/_sandbox/{name}", json=body, params=query)
        if reply.status_code != 200:
            raise RuntimeError(f"{method} /_sandbox/{name}: {reply.text}")
        return reply.json()

    def kill(self) -> None:
        """End the process at once (SIGKILL): what was answered must still be there afterwards."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._close_pipe()

    def restart(self) -> None:
        """Kill and start again on the same port and state."""
        self.kill()
        self._launch()

    def stop(self) -> None:
        """End the process in order."""
        self.client.close()
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                self.kill()
        self._close_pipe()

    def _close_pipe(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout) if self._process is not None else ():
            if pipe is not None:
                pipe.close()

    def __enter__(self) -> RunningServer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()


def _root() -> str:
    return str(Path(__file__).resolve().parent.parent)


def start(
    state_path: Path,
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    scenario: Path | None = None,
    limits: bool | None = None,
) -> RunningServer:
    """Start the server in a process of its own and wait until it answers; it ends with its starter.

    *port* 0 takes a free one; *limits* False lifts the 45009 windows.
    """
    return RunningServer(Path(state_path), host, port, scenario, limits)
