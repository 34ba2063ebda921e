"""The independent client `wechatpy`, over real HTTP, for every call it has that the sandbox serves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from wechatpy import WeChatClient as OfficialAccount
from wechatpy.enterprise import WeChatClient as WeCom
from wechatpy.exceptions import WeChatClientException

from sandbox.server import RunningServer
from tests.sandbox.corp import APP_SECRET, CORPID, OA, OA_SECRET, STAFF, customer


def _wecom(server: RunningServer) -> Any:
    class Client(WeCom):  # type: ignore[misc]
        API_BASE_URL = server.base_url

        def fetch_access_token(self) -> Any:
            query = {"corpid": self.corp_id, "corpsecret": self.secret}
            return self._fetch_access_token(url=f"{server.base_url}gettoken", params=query)

    client = Client(CORPID, APP_SECRET)
    client._http.trust_env = False
    return client


def _official_account(server: RunningServer) -> Any:
    class Client(OfficialAccount):  # type: ignore[misc]
        API_BASE_URL = f"{server.oa_base_url}/cgi-bin/"

        def fetch_access_token(self) -> Any:
            query = {"grant_type": "client_credential", "appid": self.appid, "secret": self.secret}
            return self._fetch_access_token(url=f"{server.oa_base_url}/cgi-bin/token", params=query)

    client = Client(OA, OA_SECRET)
    client._http.trust_env = False
    return client


@pytest.fixture
def wecom(server: RunningServer) -> Iterator[Any]:
    client = _wecom(server)
    yield client
    client._http.close()


@pytest.fixture
def account(server: RunningServer) -> Iterator[Any]:
    client = _official_account(server)
    yield client
    client._http.close()


def test_customers_and_staff(wecom: Any) -> None:
    contact = wecom.external_contact
    assert contact.get_follow_user_list()["follow_user"] == STAFF
    mine = contact.list(STAFF[0])["external_userid"]
    assert customer(0) in mine
    assert contact.get(customer(0))["external_contact"]["unionid"]
    assert [row["userid"] for row in wecom.user.list(1, simple=True)] == STAFF
    assert wecom.user.get(STAFF[0])["userid"] == STAFF[0]


def test_tag_library_and_marks(wecom: Any) -> None:
    contact = wecom.external_contact
    group = contact.add_corp_tag(None, "生命周期", 1, [{"name": "首购", "order": 2}, {"name": "复购", "order": 1}])[
        "tag_group"
    ]
    first, again = (tag["id"] for tag in group["tag"])
    assert contact.edit_corp_tag(again, "老客", 9)["errcode"] == 0
    found = contact.get_corp_tag_list([first, again])["tag_group"][0]["tag"]
    assert {tag["name"] for tag in found} == {"首购", "老客"}
    assert contact.mark_tag(STAFF[0], customer(0), [first], [])["errcode"] == 0
    assert contact.mark_tag(STAFF[0], customer(0), [again], [first])["errcode"] == 0
    tags = next(row["tags"] for row in contact.get(customer(0))["follow_user"] if row["userid"] == STAFF[0])
    assert [tag["tag_id"] for tag in tags] == [again]
    assert contact.del_corp_tag(group_id=[group["group_id"]])["errcode"] == 0
    with pytest.raises(WeChatClientException) as refused:
        contact.mark_tag(STAFF[0], customer(0), [first], [])
    assert refused.value.errcode == 40068


def test_contact_ways_behaviour_and_groups(wecom: Any, server: RunningServer) -> None:
    contact = wecom.external_contact
    made = contact.add_contact_way(2, 2, state="wechatpy", user=STAFF[:1])
    assert contact.get_contact_way(made["config_id"])["contact_way"]["state"] == "wechatpy"
    assert contact.update_contact_way(made["config_id"], "备注")["errcode"] == 0
    assert contact.del_contact_way(made["config_id"])["errcode"] == 0
    now = int(server.admin("GET", "health")["now"])
    assert contact.get_user_behavior_data(STAFF[0], now - 86400, now)["behavior_data"] == []
    server.admin("POST", "hand", {"do": "create_group", "chat_id": "wrone", "name": "群", "owner": STAFF[0]})
    chats = wecom.external_contact_group_chat
    assert [chat["chat_id"] for chat in chats.list_all()] == ["wrone"]
    assert chats.get("wrone")["group_chat"]["owner"] == STAFF[0]


def test_messages_and_unassigned(wecom: Any) -> None:
    sent = wecom.external_contact.add_msg_template({"external_userid": [customer(1)], "text": {"content": "你好"}})
    assert sent["msgid"]
    assert wecom.external_contact.get_unassigned_list(0, 100)["info"] == []


def test_it_renews_an_expired_token_by_itself(wecom: Any, server: RunningServer) -> None:
    wecom.external_contact.get_follow_user_list()
    server.admin("POST", "tokens/expire")
    assert wecom.external_contact.get_follow_user_list()["follow_user"] == STAFF


def test_official_account(account: Any) -> None:
    followers = list(account.user.iter_followers())
    assert len(followers) == 29
    rows = account.user.get_batch(followers[:3])
    assert [row["openid"] for row in rows] == followers[:3]
    assert account.user.get(followers[0])["subscribe"] == 1
    tag = account.tag.create("活跃")
    account.tag.tag_user(tag["id"], followers[:2])
    assert account.tag.get_user_tag(followers[0]) == [tag["id"]]
    assert list(account.tag.iter_tag_users(tag["id"])) == followers[:2]
    account.tag.untag_user(tag["id"], followers[0])
    assert [row["count"] for row in account.tag.get() if row["id"] == tag["id"]] == [1]
    account.tag.update(tag["id"], "很活跃")
    account.tag.delete(tag["id"])
    assert account.tag.get() == []
