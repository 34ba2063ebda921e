"""Followers of an Official Account, from the sandbox over real HTTP, with the faults such an interface has."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from cdp.errors import CdpError, ConfigError, FatalError, RetriableError
from connectors.official_account.client import OfficialAccountClient
from connectors.official_account.connector import OfficialAccountConnector
from connectors.official_account.streams import FOLLOWERS
from sandbox import official_account as sandbox_pages
from sandbox.server import RunningServer, start
from sandbox.state import create
from tests.source_support import NOW, Brand
from warehouse.landing import land

APPID, SECRET = "wx0a", "oa-secret"
FOLLOWER_COUNT = 250


def _write_state(path: Path) -> Path:
    con = create(path, None)
    con.execute("begin")
    con.execute("insert into oa_accounts values (?, ?, 1)", (APPID, SECRET))
    columns = [row[1] for row in con.execute("pragma table_info(oa_followers)")]
    for number in range(FOLLOWER_COUNT):
        row = {
            "appid": APPID,
            "openid": f"o{number:04d}",
            "unionid": f"u{number:04d}",
            "subscribe": 1,
            "subscribe_time": 1_700_000_000 + number,
            "subscribe_scene": "ADD_SCENE_QR_CODE",
            "qr_scene_str": "store-1",
        }
        names = [name for name in row if name in columns]
        marks = ", ".join("?" for _ in names)
        con.execute(f"insert into oa_followers ({', '.join(names)}) values ({marks})", [row[name] for name in names])
    con.execute("commit")
    con.close()
    return path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    path = _write_state(tmp_path_factory.mktemp("oa") / "state.sqlite")
    with start(path) as running:
        yield running


@pytest.fixture
def brand(server: RunningServer, tmp_path: Path) -> Iterator[Brand]:
    yaml = f"""
sources:
  oa: {{connector: official_account, appid: {APPID}, secret: "env:OA_SECRET", base_url: "{server.oa_base_url}"}}
"""
    yield Brand(tmp_path, yaml, {"OA_SECRET": SECRET})
    server.admin("DELETE", "faults")


def _land(brand: Brand) -> Any:
    connector = brand.connector("oa")
    connector.client._sleep = lambda seconds: time.sleep(min(seconds, 0.3))
    return land(brand.home, "oa", connector, FOLLOWERS, now=NOW)


def test_every_follower_lands_once(brand: Brand) -> None:
    assert _land(brand).landed == FOLLOWER_COUNT
    assert _land(brand).duplicates == FOLLOWER_COUNT
    [row] = brand.sql(
        "select unionid, subscribe, subscribed_at::text, subscribe_scene, appid from raw.official_account__followers"
        " where openid = 'o0007'"
    )
    assert row == ("u0007", True, "2023-11-14 22:13:27+00", "ADD_SCENE_QR_CODE", APPID)


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "code", "code": -1, "count": 2},
        {"kind": "http", "status": 502, "count": 2},
        {"kind": "cut", "count": 2},
        {"kind": "expire_token", "count": 1, "after": 2},
        {"kind": "restart", "count": 1, "after": 2},
    ],
)
def test_faults_of_the_server_lose_nothing(brand: Brand, server: RunningServer, fault: dict[str, Any]) -> None:
    server.admin("POST", "faults", fault)
    for _ in range(4):
        try:
            _land(brand)
        except RetriableError:
            continue
        break
    rows = brand.sql("select count(*), count(distinct openid), count(*) filter (where _deleted)"
                     " from raw.official_account__followers")  # fmt: skip
    assert rows == [(FOLLOWER_COUNT, FOLLOWER_COUNT, 0)]


def test_a_wrong_secret_is_told_and_not_repeated(brand: Brand) -> None:
    brand.environment = {"OA_SECRET": "hunter2"}
    with pytest.raises(ConfigError, match=r"appid or secret was refused") as caught:
        _land(brand)
    assert "hunter2" not in str(caught.value)
    assert not brand.connector("oa").check().ok


def test_check_masks_its_sample(brand: Brand) -> None:
    check = brand.connector("oa").check()
    assert check.ok, check.steps
    assert check.sample is not None
    assert check.sample["openid"][0] == "o***0"


def _client(pages: list[dict[str, Any]]) -> OfficialAccountClient:
    """A client whose `user/get` answers *pages* in turn."""
    left = iter(pages)

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("stable_token"):
            return httpx.Response(200, json={"access_token": "t", "expires_in": 7200})
        if request.url.path.endswith("user/get"):
            return httpx.Response(200, json=next(left))
        asked = json.loads(request.content)["user_list"]
        infos = [{"subscribe": 1, "openid": item["openid"], "subscribe_time": 1} for item in asked]
        return httpx.Response(200, json={"user_info_list": infos})

    return OfficialAccountClient(
        "http://oa", APPID, SECRET, transport=httpx.MockTransport(answer), sleep=lambda seconds: None
    )


def _page(openids: list[str], following: str, total: int) -> dict[str, Any]:
    data = {"data": {"openid": openids}} if openids else {}
    return {"total": total, "count": len(openids), "next_openid": following, **data}


def _pull(pages: list[dict[str, Any]]) -> list[Any]:
    return list(OfficialAccountConnector(_client(pages)).pull(FOLLOWERS, {}))


def test_the_last_page_still_gives_a_cursor() -> None:
    batches = _pull([_page(["a", "b"], "b", 3), _page(["c"], "c", 3), _page([], "", 3)])
    assert [batch.frame.height for batch in batches] == [2, 1, 0]
    assert [batch.complete for batch in batches] == [False, False, True]


def test_a_page_without_followers_is_the_end_only_where_it_leads_nowhere() -> None:
    batches = _pull([_page(["a"], "a", 2), _page([], "x", 2), _page(["b"], "", 2)])
    assert [batch.frame["openid"].to_list() for batch in batches] == [["a"], ["b"], []]
    assert [batch.complete for batch in batches] == [False, False, True]


def test_a_pull_shorter_than_the_account_says_deletes_nobody() -> None:
    assert [batch.complete for batch in _pull([_page(["a"], "a", 9), _page([], "", 9)])] == [False, False]


def test_the_same_page_twice_is_not_followed_forever() -> None:
    with pytest.raises(RetriableError, match="the same page came twice"):
        _pull([_page(["a"], "a", 3), _page(["a"], "a", 3)])


def test_an_error_reply_with_an_empty_list_is_an_error() -> None:
    with pytest.raises(FatalError, match="errcode 48001"):
        _pull([{"errcode": 48001, "errmsg": "x", "data": {"openid": []}, "total": 0, "count": 0}])


def test_the_quota_of_the_day_is_told() -> None:
    with pytest.raises(CdpError, match="45009") as caught:
        _pull([{"errcode": 45009}])
    assert "tomorrow" in str(caught.value)


def test_pages_of_the_sandbox_are_as_large_as_the_real_ones() -> None:
    assert sandbox_pages.PAGE == 10_000
