"""A corp that was not there before can be used at once."""

from __future__ import annotations

from pathlib import Path

from connectors.wecom.client import WeComClient
from sandbox.server import start
from sandbox.state import DEFAULTS, FIRST_APP


def test_a_new_corp_has_an_app_and_takes_staff_and_customers_by_hand(tmp_path: Path) -> None:
    with (
        start(tmp_path / "empty.sqlite") as server,
        WeComClient(server.base_url, DEFAULTS["corpid"], FIRST_APP[1]) as client,
    ):
        assert client.follow_users() == []
        server.admin("POST", "hand", {"do": "set_scope", "userid": "guide", "in_scope": True})
        server.admin("POST", "hand", {"do": "add_relation", "userid": "guide", "external_userid": "wm1"})
        assert client.follow_users() == ["guide"]
        assert [row["external_contact"]["external_userid"] for row in client.relations(["guide"])] == ["wm1"]
        server.restart()
        assert client.follow_users() == ["guide"]
        assert server.admin("GET", "settings")["corpid"] == DEFAULTS["corpid"]
