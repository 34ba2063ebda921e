"""The state outlives the process: every answered write is there after SIGKILL, at any point."""

from __future__ import annotations

import random
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from sandbox.server import RunningServer
from tests.sandbox.corp import STAFF, Corp, customer, write_corp


def test_what_was_answered_survives_kills_in_full_flight(fresh: RunningServer) -> None:
    corp = Corp(fresh)
    tag = corp.new_tags("生命周期", "首购")[0]
    answered: list[int] = []
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set() and number < 230:
            try:
                if corp.mark(number, add=[tag])["errcode"] == 0:
                    answered.append(number)
                    number += 1
            except httpx.TransportError:
                time.sleep(0.02)

    writer = threading.Thread(target=write)
    writer.start()
    chance = random.Random(5)
    for _ in range(3):
        time.sleep(chance.uniform(0.05, 0.15))
        fresh.restart()
    stop.set()
    writer.join()
    assert len(answered) > 20
    assert all(tag in corp.tags_on(number) for number in answered)
    corp.http.close()


def test_token_tags_and_settings_survive_a_restart(fresh: RunningServer) -> None:
    corp = Corp(fresh)
    tag = corp.new_tags("阶段", "复购")[0]
    fresh.admin("POST", "settings", {"tag_cap": 77})
    fresh.restart()
    assert corp.mark(1, add=[tag])["errcode"] == 0
    assert fresh.admin("GET", "settings")["tag_cap"] == 77
    corp.http.close()


def test_restart_on_demand_comes_back_on_the_same_address(fresh: RunningServer) -> None:
    corp = Corp(fresh)
    fresh.admin("POST", "faults", {"kind": "restart", "path": "*/mark_tag", "when": "after", "count": 1})
    try:
        corp.mark(2, add=["etgold"])
    except httpx.TransportError:
        pass
    else:
        raise AssertionError("the connection should have broken")
    fresh.wait_ready()
    assert corp.tags_on(2) == ["etgold"]
    assert fresh.admin("GET", "faults")["faults"] == []
    assert customer(2) in {row["external_contact"]["external_userid"] for row in corp.pull([STAFF[2]])}
    corp.http.close()


def test_the_server_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    path = write_corp(tmp_path / "wecom.sqlite")
    program = (
        "import time; from pathlib import Path; from sandbox.server import start;"
        f" server = start(Path({str(path)!r})); print(server.port, flush=True); time.sleep(60)"
    )
    starter = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert starter.stdout is not None
    port = int(starter.stdout.readline())
    starter.kill()
    starter.wait()
    starter.stdout.close()
    with pytest.raises(ConnectionRefusedError):  # noqa: PT012 (until the port is closed)
        for _ in range(200):
            socket.create_connection(("127.0.0.1", port)).close()
            time.sleep(0.05)
