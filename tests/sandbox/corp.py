"""A small corp for the server's tests: ten staff, some customers, and a client that sends plain HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from sandbox.server import RunningServer
from sandbox.state import DEFAULTS, create

CORPID = DEFAULTS["corpid"]
APP, APP_SECRET = 1000002, "secret-of-our-app"
OTHER, OTHER_SECRET = 1000003, "secret-of-another-app"
OA, OA_SECRET = "wx0a", "oa-secret"
STAFF = [f"store{number:02d}" for number in range(10)]
CUSTOMERS = 240


def customer(number: int) -> str:
    """The external_userid of a customer."""
    return f"wm{number:030d}"


def write_corp(path: Path, settings: Mapping[str, Any] | None = None) -> Path:
    """The state file: every customer follows staff `number % 9` and `(number + 3) % 9`; the tenth staff has none.

    Customer 200 is a WeCom user (type 2). Tags: a console group `客户等级` and a strategy group of our app.
    """
    con = create(path, settings)
    con.execute("begin")
    con.executemany(
        "insert into apps (agentid, name, secret) values (?, ?, ?)",
        [(APP, "ours", APP_SECRET), (OTHER, "other", OTHER_SECRET)],
    )
    con.executemany(
        "insert into staff (userid, name, store_id) values (?, ?, 'S001')",
        [(userid, f"导购{userid}") for userid in STAFF],
    )
    for number in range(CUSTOMERS):
        kind = 2 if number == 200 else 1
        con.execute(
            "insert into contacts (external_userid, name, type, gender, unionid, corp_name, position)"
            " values (?, ?, ?, 2, ?, ?, ?)",
            (customer(number), f"客户{number}", kind, f"ounion{number:022d}", "某公司", "采购"),
        )
        for staff in {number % 9, (number + 3) % 9}:
            con.execute(
                "insert into relations (userid, external_userid, createtime, state, remark_mobiles)"
                " values (?, ?, ?, 'counter', '13712345678')",
                (STAFF[staff], customer(number), 1_700_000_000 + number),
            )
    con.execute("insert into tag_groups values ('etconsole', '客户等级', 10, 1700000000, null, 0)")
    con.execute("insert into tags values ('etgold', 'etconsole', '金卡', 2, 1700000000, null, 0)")
    con.execute("insert into strategies values (7, '华东', ?, '[\"store00\"]')", (APP,))
    con.execute("insert into tag_groups values ('etstrategy', '规则组', 0, 1700000000, 7, 0)")
    con.execute("insert into tags values ('etrule', 'etstrategy', '重点', 0, 1700000000, ?, 0)", (APP,))
    con.execute("insert into oa_accounts values (?, ?, 1)", (OA, OA_SECRET))
    con.executemany(
        "insert into oa_followers (appid, openid, unionid, subscribe, subscribe_time) values (?, ?, ?, ?, 1700000000)",
        [(OA, f"o{number:027d}", f"ounion{number:022d}", int(number != 5)) for number in range(30)],
    )
    con.execute("commit")
    con.close()
    return path


class Corp:
    """Calls to a running server with the token of one app. Replies are checked by the tests, not here."""

    def __init__(self, server: RunningServer, secret: str = APP_SECRET) -> None:
        self.server, self.secret = server, secret
        self.http = httpx.Client(base_url=server.base_url, trust_env=False, timeout=20)
        self.token = ""
        self.renew()

    def renew(self) -> dict[str, Any]:
        reply = self.http.get("gettoken", params={"corpid": CORPID, "corpsecret": self.secret}).json()
        self.token = reply.get("access_token", "")
        return dict(reply)

    def get(self, path: str, **query: Any) -> dict[str, Any]:
        return dict(self.http.get(path, params={"access_token": self.token, **query}).json())

    def post(self, path: str, body: Mapping[str, Any] | None = None, **headers: str) -> dict[str, Any]:
        reply = self.http.post(path, params={"access_token": self.token}, json=body or {}, headers=headers)
        return dict(reply.json())

    def mark(
        self, number: int, staff: str | None = None, *, add: list[str] | None = None, remove: list[str] | None = None
    ) -> dict[str, Any]:
        body = {"userid": staff or STAFF[number % 9], "external_userid": customer(number)}
        return self.post("externalcontact/mark_tag", body | {"add_tag": add or [], "remove_tag": remove or []})

    def tags_on(self, number: int, staff: str | None = None) -> list[str]:
        found = self.server.admin(
            "GET", "relation", userid=staff or STAFF[number % 9], external_userid=customer(number)
        )
        return list(found["tag_ids"])

    def new_tags(self, group: str, *names: str) -> list[str]:
        """Create tags in a group by name; their ids in the order of the names."""
        reply = self.post(
            "externalcontact/add_corp_tag", {"group_name": group, "tag": [{"name": name} for name in names]}
        )
        by_name = {tag["name"]: tag["id"] for tag in reply["tag_group"]["tag"]}
        return [by_name[name] for name in names]

    def pull(self, staff: list[str], limit: int = 100) -> list[dict[str, Any]]:
        """Every row of `batch/get_by_user`, pages put together."""
        rows, cursor = [], ""
        while True:
            page = self.post(
                "externalcontact/batch/get_by_user", {"userid_list": staff, "cursor": cursor, "limit": limit}
            )
            assert page["errcode"] == 0, page
            rows += page["external_contact_list"]
            cursor = page["next_cursor"]
            if not cursor:
                return rows
