"""Whatever a client sends, every endpoint answers with a code of the reference; nothing else gets out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sandbox import official_account, wecom
from sandbox.errors import ApiError
from sandbox.http import Call, World
from sandbox.state import State
from tests.sandbox.corp import APP, OA, STAFF, customer, write_corp

ENDPOINTS = {
    **wecom.ENDPOINTS,
    **{f"oa/{path}": endpoint for path, endpoint in official_account.ENDPOINTS.items()},
}
FIELDS = [
    "userid", "external_userid", "tag", "tag_id", "group_id", "group_name", "add_tag",
    "remove_tag", "userid_list", "cursor", "limit", "order", "name", "id",
    "remark", "remark_mobiles", "chat_id", "status_filter", "owner_filter", "user", "state",
    "config_id", "start_time", "end_time", "handover_userid", "msgid", "text", "takeover_userid",
    "tag_filter", "sender", "chat_type", "attachments", "user_list", "openid", "openid_list",
    "tagid", "next_openid", "code", "link_id", "welcome_code", "chat_id_list", "new_owner",
    "opengid", "strategy_id", "unionid", "page_size", "need_name", "group_list", "tag_list",
    "content",
]  # fmt: skip
KNOWN = st.sampled_from([STAFF[0], customer(0), "etgold", "etconsole", "o" + "0" * 27, "客户等级", "", "💐" * 40])
LEAF = st.one_of(
    KNOWN, st.integers(-(2**70), 2**70), st.booleans(), st.none(), st.floats(allow_nan=False), st.text(max_size=5)
)
VALUE = st.recursive(
    LEAF,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(FIELDS), inner, max_size=3)),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(State(write_corp(tmp_path_factory.mktemp("hostile") / "wecom.sqlite")))


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=st.sampled_from(sorted(ENDPOINTS)), body=st.dictionaries(st.sampled_from(FIELDS), VALUE, max_size=6))
def test_any_body_gets_a_code_or_an_answer(world: World, path: str, body: dict[str, Any]) -> None:
    endpoint = ENDPOINTS[path]
    call = Call(
        world,
        path,
        {key: str(value) for key, value in body.items()},
        body,
        "127.0.0.1",
        OA if path.startswith("oa/") else APP,
    )
    world.state.con.execute("begin")
    try:
        if endpoint.claims:
            endpoint.claims(call)
        reply = endpoint.handler(call)
        assert isinstance(reply, dict)
    except ApiError:
        pass  # a refusal with a code is an answer
    finally:
        world.state.con.execute("rollback")
        world.state.reload_tags()


def test_the_state_is_a_file_one_can_open_again(tmp_path: Path) -> None:
    path = write_corp(tmp_path / "wecom.sqlite")
    first = State(path)
    first.set("tag_cap", 9)
    first.close()
    second = State(path)
    assert second.settings["tag_cap"] == 9
    second.close()
