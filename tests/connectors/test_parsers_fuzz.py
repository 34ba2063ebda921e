"""Whatever an interface or a file holds: no parser falls over, and what came is rows and rejects, one each."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdp.streams import Stream
from connectors.chat_archive.connector import event
from connectors.official_account.connector import read_followers
from connectors.settings import ChatArchiveSource
from connectors.wecom import parse, streams
from connectors.wecom.callbacks import read_callbacks
from tests.source_support import Brand

LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("1700000000")
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


def _like(*names: str) -> st.SearchStrategy[Any]:
    """Anything, mostly objects with some of *names* as keys."""
    return st.fixed_dictionaries({}, optional=dict.fromkeys(names, VALUES)) | VALUES


PARSERS: list[tuple[Stream, Callable[[Any], parse.Row], st.SearchStrategy[Any]]] = [
    (
        streams.TAGS,
        lambda pair: parse.tag_row(pair[0], pair[1], "ww"),
        st.tuples(_like("group_id", "group_name", "order"), _like("id", "name", "order", "create_time")),
    ),
    (
        streams.GROUP_CHATS,
        lambda pair: parse.group_chat_row(pair[0], pair[1], "ww"),
        st.tuples(_like("chat_id", "name", "owner", "create_time", "admin_list"), VALUES),
    ),
    (
        streams.GROUP_MEMBERS,
        lambda item: parse.group_member_row(item, "wr", "ww"),
        _like("userid", "type", "unionid", "join_time", "join_scene", "invitor", "state", "name", "group_nickname"),
    ),
    (
        streams.CONTACT_WAYS,
        lambda item: parse.contact_way_row(item, "ww"),
        _like("config_id", "type", "scene", "remark", "state", "skip_verify", "user", "is_temp"),
    ),
    (streams.ACQUISITION_LINKS, lambda item: parse.acquisition_link_row(item, "ww"), _like("link", "range")),
    (
        streams.STAFF_BEHAVIOR,
        lambda item: parse.behavior_row(item, "s", "ww"),
        _like("stat_time", "chat_cnt", "message_cnt", "reply_percentage", "avg_reply_time", "new_contact_cnt"),
    ),
    (
        streams.CUSTOMER_TAGS,
        lambda pair: parse.customer_tag_row("wm", pair[0], pair[1], "ww"),
        st.tuples(_like("userid"), _like("type", "tag_id", "tag_name", "group_name")),
    ),
    (
        streams.MESSAGES,
        lambda pair: parse.message_row(pair[0], pair[1], "single", "ww"),
        st.tuples(
            _like("msgid", "creator", "create_type", "create_time", "text"),
            _like("userid", "external_userid", "chat_id", "status", "send_time"),
        ),
    ),
]


@pytest.mark.parametrize(("stream", "read", "item"), PARSERS, ids=lambda given: getattr(given, "name", ""))
def test_every_reply_of_wecom_is_rows_plus_rejects(
    stream: Stream, read: Callable[[Any], parse.Row], item: st.SearchStrategy[Any]
) -> None:
    @settings(max_examples=60, deadline=None)
    @given(st.lists(item, max_size=5))
    def whatever_comes(items: list[Any]) -> None:
        found = parse.batch(stream, items, read)
        assert found.frame.height + len(found.rejects) == len(items)
        assert found.frame.columns == [column.name for column in stream.columns]

    whatever_comes()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.text(max_size=5), max_size=5, unique=True),
    st.lists(_like("openid", "unionid", "subscribe", "subscribe_time", "tagid_list", "remark"), max_size=6),
)
def test_every_follower_is_a_row_or_a_reject(openids: list[str], infos: list[Any]) -> None:
    infos = [{**info, "openid": openid} if isinstance(info, dict) else info
             for openid, info in zip([*openids, "other"] * 2, infos, strict=False)]  # fmt: skip
    frame, rejects = read_followers("wx", openids, infos)
    assert frame.height + len(rejects) == len(openids)
    assert {*frame["openid"], *(json.loads(reject.raw)["openid"] for reject in rejects)} == set(openids)


@settings(max_examples=150, deadline=None)
@given(_like("msgid", "msgtime", "time", "from", "user", "tolist", "roomid", "msgtype", "action", "text"))
def test_every_chat_line_is_an_event_or_a_reason(message: Any) -> None:
    source = ChatArchiveSource.model_validate(
        {"connector": "chat_archive", "path": "x", "corpid": "ww", "keep_text": True}
    )
    try:
        row = event(orjson.dumps(message, option=orjson.OPT_NON_STR_KEYS), source)
    except orjson.JSONEncodeError:
        return
    except ValueError:  # the reject's reason
        return
    assert row[0]
    assert row[2].tzinfo is not None


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=30) | _like("callback_id", "corpid", "xml", "received_at").map(repr), max_size=6))
def test_every_stored_callback_is_a_row_a_reject_or_another_corps(
    tmp_path_factory: pytest.TempPathFactory, lines: list[Any]
) -> None:
    folder: Path = tmp_path_factory.mktemp("callbacks")
    texts = [line if isinstance(line, bytes) else line.encode("utf-8", "replace") for line in lines]
    received, xml = "2026-01-01T00:00:00+00:00", "<xml><Event>e</Event></xml>"
    stored = orjson.dumps({"corpid": "ww", "callback_id": "c", "received_at": received, "xml": xml})
    (folder / "20260101T000000.000000Z-a.jsonl").write_bytes(b"\n".join([*texts, stored]))
    [batch] = read_callbacks(folder, "ww", {})
    assert batch.frame["callback_id"].to_list()[-1] == "c"


MESSAGES = _like("type", "messageId", "event", "userId", "timestamp", "properties", "traits", "context", "batch")
RECORDS = _like("#type", "#uuid", "#event_name", "#time", "#account_id", "#distinct_id", "properties")


@pytest.mark.parametrize(("connector", "item"), [("segment", MESSAGES), ("thinkingdata", RECORDS)])
def test_every_tracking_line_is_accounted_for(
    connector: str, item: st.SearchStrategy[Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    @settings(max_examples=8, deadline=None)
    @given(st.lists(item, min_size=1, max_size=30))
    def whatever_comes(items: list[Any]) -> None:
        root = tmp_path_factory.mktemp("log")
        lines = [orjson.dumps(each, default=str, option=orjson.OPT_PASSTHROUGH_DATACLASS) for each in _encodable(items)]
        (root / "a.log").write_bytes(b"\n".join(lines))
        brand = Brand(root, f"sources: {{log: {{connector: {connector}, path: a.log, reject_budget: 1.0}}}}")
        [report] = brand.land("log").values()
        assert report.received >= _least(lines)

    whatever_comes()


def _encodable(items: list[Any]) -> list[Any]:
    """Those that can stand in a file: integers of 64 bits, no lone surrogates."""
    kept = []
    for item in items:
        try:
            orjson.dumps(item)
        except (orjson.JSONEncodeError, TypeError):
            continue
        kept.append(item)
    return kept or [{}]


def _least(lines: list[bytes]) -> int:
    """How many rows must come of *lines*: the items of a file that is one array, else each line that is no batch."""
    values = [orjson.loads(line) for line in lines]
    if len(values) == 1 and isinstance(values[0], list):
        return len(values[0])
    return sum(not (isinstance(value, dict) and isinstance(value.get("batch"), list)) for value in values)
