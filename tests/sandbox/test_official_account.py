"""Official Account: the last line of the checklist, and the two Mini Program code exchanges."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from sandbox import official_account
from sandbox.server import RunningServer
from tests.sandbox.corp import OA, OA_SECRET


class Account:
    """Calls to the Official Account side with a stable token."""

    def __init__(self, server: RunningServer) -> None:
        self.http = httpx.Client(base_url=server.oa_base_url, trust_env=False)
        ask = {"grant_type": "client_credential", "appid": OA, "secret": OA_SECRET}
        self.token = self.http.post("/cgi-bin/stable_token", json=ask).json()["access_token"]

    def get(self, path: str, **query: Any) -> Any:
        return self.http.get(path, params={"access_token": self.token, **query}).json()

    def post(self, path: str, body: Any) -> Any:
        return self.http.post(path, params={"access_token": self.token}, json=body).json()


@pytest.fixture
def account(server: RunningServer) -> Iterator[Account]:
    found = Account(server)
    yield found
    found.http.close()


def openid(number: int) -> str:
    return f"o{number:027d}"


def test_pages_end_with_a_page_without_data(account: Account) -> None:
    first = account.get("/cgi-bin/user/get")
    assert (first["total"], first["count"]) == (29, 29)
    assert openid(5) not in first["data"]["openid"]
    assert first["next_openid"] == first["data"]["openid"][-1]
    last = account.get("/cgi-bin/user/get", next_openid=first["next_openid"])
    assert last["count"] == 0
    assert "data" not in last
    assert official_account.PAGE == 10_000


def test_batchget_shows_unsubscribed_as_bare_rows(account: Account) -> None:
    asked = {"user_list": [{"openid": openid(1), "lang": "zh_CN"}, {"openid": openid(5)}]}
    rows = account.post("/cgi-bin/user/info/batchget", asked)["user_info_list"]
    assert rows[0]["subscribe"] == 1
    assert rows[0]["unionid"]
    assert rows[0]["nickname"] == ""
    assert rows[1] == {"subscribe": 0, "openid": openid(5), "tagid_list": []}
    assert account.post("/cgi-bin/user/info/batchget", {"user_list": []})["errcode"] == 40032


def test_a_new_plain_token_ends_the_old_one_a_stable_one_does_not(account: Account) -> None:
    query = {"grant_type": "client_credential", "appid": OA, "secret": OA_SECRET}
    stable = account.http.post("/cgi-bin/stable_token", json=query).json()["access_token"]
    assert stable == account.token
    account.http.get("/cgi-bin/token", params=query)
    assert account.get("/cgi-bin/user/get")["errcode"] == 40001
    assert account.http.get("/cgi-bin/token", params=query | {"secret": "x"}).json()["errcode"] == 40125


def test_tags_follow_their_own_rules(account: Account) -> None:
    made = account.post("/cgi-bin/tags/create", {"tag": {"name": "老会员"}})["tag"]
    assert account.post("/cgi-bin/tags/create", {"tag": {"name": "老会员"}})["errcode"] == 45157
    assert account.post("/cgi-bin/tags/create", {"tag": {"name": "长" * 11}})["errcode"] == 45158
    mark = {"openid_list": [openid(1), openid(2)], "tagid": made["id"]}
    assert account.post("/cgi-bin/tags/members/batchtagging", mark)["errcode"] == 0
    assert account.get("/cgi-bin/tags/get")["tags"] == [{"id": made["id"], "name": "老会员", "count": 2}]
    assert account.post("/cgi-bin/tags/getidlist", {"openid": openid(1)})["tagid_list"] == [made["id"]]
    assert account.post("/cgi-bin/user/tag/get", {"tagid": made["id"]})["data"]["openid"] == [openid(1), openid(2)]
    assert account.post("/cgi-bin/tags/members/batchtagging", mark | {"openid_list": [openid(5)]})["errcode"] == 50005
    assert (
        account.post("/cgi-bin/tags/members/batchtagging", mark | {"openid_list": [openid(1)] * 51})["errcode"] == 40032
    )
    assert account.post("/cgi-bin/tags/members/batchtagging", mark | {"tagid": 9999})["errcode"] == 45159
    assert account.post("/cgi-bin/tags/update", {"tag": {"id": 2, "name": "星"}})["errcode"] == 45058
    assert account.post("/cgi-bin/tags/delete", {"tag": {"id": made["id"]}})["errcode"] == 0
    assert account.post("/cgi-bin/tags/getidlist", {"openid": openid(1)})["tagid_list"] == []


def test_two_taggings_of_one_user_at_once_are_45159(account: Account, server: RunningServer) -> None:
    tag = account.post("/cgi-bin/tags/create", {"tag": {"name": "并发"}})["tag"]["id"]
    path = "oa/cgi-bin/tags/members/batchtagging"
    server.admin("POST", "settings", {"latency_ms": {path: 200}})
    mark = {"openid_list": [openid(3)], "tagid": tag}
    with ThreadPoolExecutor(2) as pool:
        codes = list(pool.map(lambda _: account.post("/cgi-bin/tags/members/batchtagging", mark)["errcode"], range(2)))
    assert sorted(codes) == [0, 45159]
    server.admin("POST", "settings", {"latency_ms": {path: 0}})


def test_codes_of_the_mini_program_work_once(account: Account, server: RunningServer) -> None:
    login = server.admin("POST", "codes", {"kind": "login", "appid": OA, "openid": openid(1), "unionid": "ou1"})["code"]
    query = {"appid": OA, "secret": OA_SECRET, "js_code": login, "grant_type": "authorization_code"}
    first = account.http.get("/sns/jscode2session", params=query).json()
    assert (first["openid"], first["unionid"]) == (openid(1), "ou1")
    assert account.http.get("/sns/jscode2session", params=query).json()["errcode"] == 40029
    phone = server.admin("POST", "codes", {"kind": "phone", "appid": OA, "phone": "13712345678"})["code"]
    info = account.post("/wxa/business/getuserphonenumber", {"code": phone})["phone_info"]
    assert info["purePhoneNumber"] == "13712345678"


def test_openids_of_others_and_tokens_of_the_other_host(account: Account, server: RunningServer) -> None:
    assert account.post("/cgi-bin/tags/getidlist", {"openid": "onobody"})["errcode"] == 40003
    crossed = httpx.get(
        f"{server.base_url}externalcontact/get_follow_user_list",
        params={"access_token": account.token},
        trust_env=False,
    )
    assert crossed.json()["errcode"] == 40014
