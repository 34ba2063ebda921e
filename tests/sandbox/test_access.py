"""Tokens and rights: § 1 of the reference, lines 1–3 of its checklist."""

from __future__ import annotations

import httpx
import pytest

from sandbox.server import RunningServer
from tests.sandbox.corp import APP, APP_SECRET, CORPID, CUSTOMERS, STAFF, Corp, customer

LIST = "externalcontact/get_follow_user_list"


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ({"corpid": CORPID}, 41004),
        ({}, 41004),
        ({"corpsecret": APP_SECRET}, 41002),
        ({"corpid": "ww0", "corpsecret": APP_SECRET}, 40013),
        ({"corpid": CORPID, "corpsecret": "wrong"}, 40001),
    ],
)
def test_gettoken_refuses_in_the_order_of_the_reference(corp: Corp, query: dict[str, str], code: int) -> None:
    reply = corp.http.get("gettoken", params=query)
    assert reply.status_code == 200
    assert reply.json()["errcode"] == code


def test_token_is_per_app_and_the_same_while_it_is_valid(corp: Corp, rival: Corp) -> None:
    assert rival.token != corp.token
    assert corp.renew()["access_token"] == corp.renew()["access_token"]
    assert 0 < corp.renew()["expires_in"] <= 7200


def test_token_comes_before_parameters_and_in_the_url_only(corp: Corp) -> None:
    assert corp.http.get("externalcontact/list").json()["errcode"] == 41001
    header = corp.http.get(LIST, headers={"Authorization": corp.token}).json()
    assert header["errcode"] == 41001
    unknown = corp.http.post("externalcontact/mark_tag", params={"access_token": "no"}, content=b"{broken").json()
    assert unknown["errcode"] == 40014


def test_token_ends_early_on_demand(corp: Corp, server: RunningServer) -> None:
    assert corp.get(LIST)["errcode"] == 0
    server.admin("POST", "tokens/expire", {"owner": str(APP)})
    assert corp.get(LIST)["errcode"] == 42001
    corp.renew()
    assert corp.get(LIST)["errcode"] == 0
    server.admin("POST", "clock", {"advance": 7300})
    assert corp.get(LIST)["errcode"] == 42001
    server.admin("POST", "clock", {"offset": 0})


def test_refusals_are_http_200_with_empty_fields_and_a_changing_hint(corp: Corp) -> None:
    replies = [corp.http.get(LIST, params={"access_token": "no"}) for _ in range(2)]
    assert [reply.status_code for reply in replies] == [200, 200]
    bodies = [reply.json() for reply in replies]
    assert bodies[0]["follow_user"] == []
    assert "hint: [" in bodies[0]["errmsg"]
    assert bodies[0]["errmsg"] != bodies[1]["errmsg"]


def test_unknown_path_is_404_with_an_empty_body(corp: Corp) -> None:
    reply = corp.http.post("externalcontact/marktag", params={"access_token": corp.token})
    assert (reply.status_code, reply.content) == (404, b"")


def test_visible_range_scope_callable_list_and_trusted_ip(corp: Corp, server: RunningServer) -> None:
    def change(**values: object) -> None:
        server.admin("POST", "hand", {"do": "set_app", "agentid": APP, **values})

    change(visible=STAFF[:2])
    assert corp.get(LIST)["follow_user"] == STAFF[:2]
    assert corp.get("externalcontact/list", userid=STAFF[5])["errcode"] == 60011
    seen = corp.get("externalcontact/get", external_userid=customer(0))["follow_user"]
    assert [row["userid"] for row in seen] == [STAFF[0]]
    change(visible=None, callable=0)
    assert corp.get(LIST)["errcode"] == 48002
    assert corp.get("user/get", userid=STAFF[0])["errcode"] == 0
    change(callable=1, trusted_ips=["203.0.113.9"])
    assert corp.get(LIST)["errcode"] == 60020
    trusted = corp.http.get(
        LIST, params={"access_token": corp.token}, headers={"X-Sandbox-From-Ip": "203.0.113.9"}
    ).json()
    assert trusted["errcode"] == 0
    change(trusted_ips=None)
    server.admin("POST", "hand", {"do": "set_scope", "userid": STAFF[4], "in_scope": False})
    assert STAFF[4] not in corp.get(LIST)["follow_user"]
    assert corp.get("externalcontact/list", userid=STAFF[4])["errcode"] == 84074
    server.admin("POST", "hand", {"do": "set_scope", "userid": STAFF[4], "in_scope": True})


def test_wrong_secrets_put_the_address_on_hold(corp: Corp, server: RunningServer) -> None:
    server.admin("POST", "settings", {"wrong_secret_per_hour": 3})
    header = {"X-Sandbox-From-Ip": "203.0.113.77"}

    def ask(secret: str) -> int:
        found = corp.http.get("gettoken", params={"corpid": CORPID, "corpsecret": secret}, headers=header).json()
        return int(found["errcode"])

    assert [ask("wrong") for _ in range(4)] == [40001, 40001, 40001, 45009]
    assert ask(APP_SECRET) == 45009


def test_a_bad_body_is_told(corp: Corp) -> None:
    path = "externalcontact/mark_tag"
    query = {"access_token": corp.token}
    assert corp.http.post(path, params=query, content=b"{broken").json()["errcode"] == 40063
    escaped = b'{"userid":"\\u5f20","external_userid":"x","add_tag":["y"]}'
    assert corp.http.post(path, params=query, content=escaped).json()["errcode"] == 40033
    assert corp.http.get(path, params=query).json()["errcode"] == 40003


def test_health_counts_requests(server: RunningServer) -> None:
    found = httpx.get(f"{server.root_url}/_sandbox/health", trust_env=False).json()
    assert found["ok"] is True
    assert CUSTOMERS == 240
