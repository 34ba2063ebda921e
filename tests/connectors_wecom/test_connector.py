"""Reading a corp through the sandbox: paging, several staff per customer, rejects, resume, faults."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdp.errors import ConfigError
from cdp.streams import POLARS_TYPES
from connectors.settings import WeComSource
from connectors.wecom import connector as module
from connectors.wecom import parse, streams
from connectors.wecom.client import Limits, WeComClient
from connectors.wecom.connector import WeComConnector
from sandbox.server import RunningServer, start
from tests.sync.world import CORPID, SECRET, seed_corp

NOW = datetime.now(UTC) + timedelta(hours=1)
PAIRS = [(f"s{n % 7}", f"wm{n:04d}") for n in range(450)] + [("s0", "wm0001"), ("s1", "wm0000")]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    path: Path = tmp_path_factory.mktemp("corp") / "wecom.sqlite"
    seed_corp(path, PAIRS)
    with start(path, limits=False) as running:
        yield running


@pytest.fixture
def source(server: RunningServer) -> Iterator[WeComConnector]:
    server.admin("DELETE", "faults")
    limits = Limits(calls_per_second=2000.0, window_s=0.1)
    with WeComClient(server.base_url, CORPID, SECRET, limits=limits) as client:
        yield WeComConnector(client, now=NOW, chosen=streams.STREAMS)


def pairs(frames: list[pl.DataFrame]) -> set[tuple[str, str]]:
    return set(pl.concat(frames).select("userid", "external_userid").rows())


def pull(source: WeComConnector, name: str, state: dict[str, Any] | None = None) -> list[Any]:
    stream = next(stream for stream in source.streams() if stream.name == name)
    return list(source.pull(stream, state or {}))


def test_every_relation_is_read_once_and_the_last_batch_is_complete(source: WeComConnector) -> None:
    batches = pull(source, "relations")
    assert pairs([batch.frame for batch in batches]) == set(PAIRS)
    assert sum(batch.frame.height for batch in batches) == len(set(PAIRS))
    assert [batch.complete for batch in batches] == [False] * (len(batches) - 1) + [True]
    assert batches[0].frame.schema == {c.name: POLARS_TYPES[c.type] for c in streams.RELATIONS.columns}


def test_a_pull_goes_on_where_it_stopped(source: WeComConnector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROWS_PER_BATCH", 100)
    batches = pull(source, "relations")
    assert len(batches) > 3
    for cut in range(1, len(batches)):
        rest = pull(source, "relations", dict(batches[cut - 1].state))
        read = [batch.frame for batch in [*batches[:cut], *rest]]
        assert pairs(read) == set(PAIRS)
    refused = dict(batches[0].state) | {"cursor": "broken"}
    assert pairs([batch.frame for batch in pull(source, "relations", refused)]) == set(PAIRS)
    other_staff = dict(batches[-2].state) | {"staff": "other"}
    assert pairs([batch.frame for batch in pull(source, "relations", other_staff)]) == set(PAIRS)


@pytest.mark.parametrize(
    "rule",
    [
        {"kind": "code", "code": -1, "rate": 0.3},
        {"kind": "code", "code": 45009, "count": 1},
        {"kind": "http", "status": 503, "rate": 0.3},
        {"kind": "cut", "rate": 0.2},
        {"kind": "expire_token", "after": 2, "count": 1},
    ],
)
def test_faults_while_reading_lose_nothing(server: RunningServer, rule: dict[str, Any]) -> None:
    server.admin("DELETE", "faults")
    server.admin("POST", "faults", {"path": "externalcontact/batch/get_by_user", **rule})
    limits = Limits(calls_per_second=2000.0, window_s=0.1, attempts=10)
    with WeComClient(server.base_url, CORPID, SECRET, limits=limits, sleep=lambda _: None) as client:
        assert pairs([batch.frame for batch in pull(WeComConnector(client, now=NOW), "relations")]) == set(PAIRS)


def test_short_pages_and_text_genders_are_accepted(server: RunningServer, source: WeComConnector) -> None:
    server.admin("POST", "settings", {"short_page_rate": 0.5, "gender_as_string": True})
    try:
        batches = pull(source, "relations")
    finally:
        server.admin("POST", "settings", {"short_page_rate": 0.0, "gender_as_string": False})
    assert pairs([batch.frame for batch in batches]) == set(PAIRS)
    assert batches[0].frame["gender"].dtype == pl.Int64


def test_staff_tags_and_groups(source: WeComConnector, server: RunningServer) -> None:
    assert pull(source, "staff")[0].frame["userid"].to_list() == [f"s{n}" for n in range(7)]
    source._client.add_tags([("茶", 2), ("咖啡", 1)], group_name="品类", order=3)
    tags = pull(source, "tags")[0].frame
    assert tags.select("group_name", "tag_name", "group_order", "tag_order").rows() == [
        ("品类", "茶", 3, 2),
        ("品类", "咖啡", 3, 1),
    ]
    assert pull(source, "group_chats")[0].frame.is_empty()
    assert pull(source, "group_members")[0].complete


def test_contact_ways_links_behaviour_and_all_kinds_of_tags(source: WeComConnector, server: RunningServer) -> None:
    way = {"type": 2, "scene": 2, "state": "store01", "remark": "柜台", "user": ["s0", "s1"]}
    made = source._client.call("POST", "externalcontact/add_contact_way", body=way)
    ways = pull(source, "contact_ways")[0].frame
    assert ways.select("config_id", "state", "users").rows() == [(made["config_id"], "store01", '["s0", "s1"]')]
    assert pull(source, "acquisition_links")[0].frame.is_empty()
    days = pull(source, "staff_behavior")
    assert days[-1].state["until"] <= NOW.timestamp()
    assert len(pull(source, "staff_behavior", dict(days[-1].state))) == 1
    server.admin(
        "POST", "hand", {"do": "personal_tags", "userid": "s0", "external_userid": "wm0000", "tags": ["爱喝茶"]}
    )
    found = pl.concat([batch.frame for batch in pull(source, "customer_tags")])
    personal = found.filter(pl.col("type") == 2)
    assert personal.select("userid", "external_userid", "tag_name", "tag_id").rows() == [("s0", "wm0000", "爱喝茶", "")]


def _send(source: WeComConnector, server: RunningServer, **body: Any) -> str:
    """Make a corp message, and let staff s1 confirm it."""
    reply = source._client.call(
        "POST", "externalcontact/add_msg_template", body={"text": {"content": "会员日"}, **body}
    )
    server.admin("POST", "hand", {"do": "confirm_message", "msgid": reply["msgid"], "userid": "s1"})
    return str(reply["msgid"])


def test_messages_are_read_with_what_became_of_them(source: WeComConnector, server: RunningServer) -> None:
    server.admin("POST", "hand", {"do": "create_group", "chat_id": "wr1", "name": "福利群", "owner": "s1"})
    single = _send(source, server, external_userid=["wm0008", "wm0002", "wm0015"])
    group = _send(source, server, chat_type="group", sender="s1")
    batches = pull(source, "messages")
    rows = pl.concat([batch.frame for batch in batches]).sort("chat_type", "external_userid")
    told = ("msgid", "userid", "external_userid", "chat_id", "chat_type", "content", "status")
    assert rows.select(told).rows() == [
        (group, "s1", "", "wr1", "group", "会员日", 1),
        (single, "s1", "wm0008", "", "single", "会员日", 1),
        (single, "s1", "wm0015", "", "single", "会员日", 1),
    ], "wm0002 belongs to s2, who has confirmed nothing"
    assert rows["sent_at"].null_count() == 0
    assert [dict(batch.state) for batch in batches][-1] == {"until": int(NOW.timestamp())}


def test_messages_of_a_month_are_read_again_and_older_ones_are_not(
    source: WeComConnector, server: RunningServer
) -> None:
    msgid = _send(source, server, external_userid=["wm0008", "wm0002"])
    until = dict(pull(source, "messages")[-1].state)["until"]
    server.admin("POST", "hand", {"do": "confirm_message", "msgid": msgid, "userid": "s2"})

    def receivers(days: int) -> set[str]:
        """Of the message, when the last pull was a day ago and this one comes *days* after it was made."""
        late = WeComConnector(source._client, now=NOW + timedelta(days=days), chosen=streams.STREAMS)
        found = pull(late, "messages", {"until": until + (days - 1) * module.DAY_S})
        return set(pl.concat([batch.frame for batch in found]).filter(pl.col("msgid") == msgid)["external_userid"])

    assert receivers(29) == {"wm0008", "wm0002"}
    assert receivers(32) == set()


def test_a_pull_of_messages_that_broke_off_begins_its_window_anew(
    source: WeComConnector, server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    _send(source, server, external_userid=["wm0008", "wm0015", "wm0022"])
    monkeypatch.setattr(module, "ROWS_PER_BATCH", 2)
    whole = pl.concat([batch.frame for batch in pull(source, "messages")])
    key = ("msgid", "userid", "external_userid", "chat_id")
    batches = pull(source, "messages")
    full = next(place for place, batch in enumerate(batches) if batch.frame.height == 2)
    rest = pull(source, "messages", dict(batches[full].state))
    found = pl.concat([batch.frame for batch in (*batches[: full + 1], *rest)])
    assert set(found.select(key).rows()) == set(whole.select(key).rows())


def test_a_source_gives_the_streams_it_names() -> None:
    settings = {"connector": "wecom", "corpid": CORPID, "secret": "env:X"}
    assert module.streams_of(WeComSource.model_validate(settings)) == streams.DEFAULT
    chosen = WeComSource.model_validate(settings | {"streams": ["contact_ways", "staff"]})
    assert [stream.name for stream in module.streams_of(chosen)] == ["staff", "contact_ways"]
    with pytest.raises(ConfigError, match="did you mean `contact_ways`"):
        module.streams_of(WeComSource.model_validate(settings | {"streams": ["contact_way"]}))


def test_checking_shows_steps_and_masks_people(source: WeComConnector) -> None:
    check = source.check()
    assert check.ok
    assert [name for name, _, _ in check.steps] == ["token", "staff", "relations", "tag library"]
    assert check.sample is not None
    assert set(check.sample["name"].to_list()) == {"***"}
    with WeComClient(str(source._client._http.base_url), CORPID, "wrong", limits=Limits(attempts=1)) as client:
        failed = WeComConnector(client, now=NOW).check()
    assert not failed.ok
    assert "check the app's secret" in failed.steps[-1][2]


def test_what_cannot_be_read_becomes_a_reject_with_its_reason() -> None:
    good = {
        "external_contact": {"external_userid": "w", "gender": "2"},
        "follow_info": {"userid": "s", "createtime": 1},
    }
    items = [
        good,
        {"external_contact": {}, "follow_info": {"userid": "s"}},
        {**good, "follow_info": {"userid": "s", "createtime": "soon"}},
        "text",
        None,
    ]
    batch = parse.batch(streams.RELATIONS, items, lambda item: parse.relation_row(item, CORPID))
    assert batch.received == len(items)
    assert batch.frame.height == 1
    assert [reject.row_number for reject in batch.rejects] == [2, 3, 4, 5]
    assert "`external_userid` is missing" in batch.rejects[0].reason


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
follow = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("userid", "createtime", "tag_id", "remark_mobiles", "add_way"), json_values)
)
contact = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("external_userid", "type", "gender", "unionid", "name"), json_values)
)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.one_of(json_values, st.fixed_dictionaries({"external_contact": contact, "follow_info": follow})), max_size=6
    )
)
def test_any_reply_is_rows_plus_rejects(items: list[Any]) -> None:
    batch = parse.batch(streams.RELATIONS, items, lambda item: parse.relation_row(item, CORPID))
    assert batch.frame.height + len(batch.rejects) == len(items)
