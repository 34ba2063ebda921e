"""`cdp collect`: serves a home with its configuration, and ends in order."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from app.collect_cli import collector_config, collector_of
from cdp.errors import ConfigError
from connectors.wecom.callbacks import CallbackReceiver
from tests.collector.running import ROOT, lines_of
from tests.collector.test_callbacks import AES_KEY, CORPID, EVENT, TOKEN, sent
from warehouse.home import Home

SOURCES = f"""
sources:
  corp:
    connector: wecom
    corpid: {CORPID}
    secret: env:WECOM_SECRET
    callback_token: env:CALLBACK_TOKEN
    callback_aes_key: env:CALLBACK_KEY
"""
ENVIRONMENT = {"CALLBACK_TOKEN": TOKEN, "CALLBACK_KEY": AES_KEY, "WEB_KEY": "key-1"}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "cdp.yaml").write_text("name: 测试\n", encoding="utf-8")
    (tmp_path / "config" / "sources.yaml").write_text(SOURCES, encoding="utf-8")
    (tmp_path / "config" / "collector.yaml").write_text("write_keys: {web: env:WEB_KEY}\n", encoding="utf-8")
    return Home(tmp_path)


def test_it_serves_the_home_until_it_is_asked_to_stop(home: Home) -> None:
    command = [sys.executable, "-m", "app.main", "--home", str(home.root), "collect", "--port", "0"]
    environment = {**os.environ, **ENVIRONMENT, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        printed = [process.stdout.readline() for _ in range(5)]
        (base,) = re.findall(r"http://127\.0\.0\.1:\d+(?=/wecom/callback/corp)", "".join(printed))
        query, body = sent(EVENT)
        assert httpx.post(f"{base}/wecom/callback/corp", params=query, content=body).text == "success"
        message = {"type": "track", "event": "E", "userId": "M1"}
        assert httpx.post(f"{base}/v1/track", json=message, auth=("key-1", "")).status_code == 200
        assert httpx.post(f"{base}/v1/track", json=message, auth=("other", "")).status_code == 401
        process.send_signal(signal.SIGINT)
        assert "every file is closed" in process.stdout.read()
        assert process.wait(timeout=10) == 0
    assert len(lines_of(home.root, "wecom_callbacks")) == len(lines_of(home.root, "segment")) == 1


def test_a_home_without_collector_yaml_has_the_defaults(home: Home) -> None:
    (home.config / "collector.yaml").unlink()
    collector = collector_of(home, collector_config(home), ENVIRONMENT)
    assert collector.write_keys == frozenset()
    assert collector.config.segment_seconds == 300
    assert collector.receivers == {"corp": CallbackReceiver.of(TOKEN, AES_KEY, CORPID)}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("    callback_token: env:CALLBACK_TOKEN\n", "", "go together"),
        ("env:CALLBACK_KEY", "env:MISSING", "`MISSING` is not set"),
        ("env:CALLBACK_KEY", "env:WEB_KEY", "43 letters"),
    ],
)
def test_wrong_callback_secrets_are_told_before_it_listens(home: Home, old: str, new: str, message: str) -> None:
    (home.config / "sources.yaml").write_text(SOURCES.replace(old, new), encoding="utf-8")
    with pytest.raises(ConfigError, match=message) as error:
        collector_of(home, collector_config(home), ENVIRONMENT)
    assert "key-1" not in str(error.value)
