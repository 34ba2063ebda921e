"""Every list under every fault: what landed is what is there, by the corp's own tables, through landing over real HTTP.

A list is read clean once; then something comes and something goes at the corp, and it is read again under the fault
until a pull ends. Pages are cut to two items, so that faults strike in the middle of a pull.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import httpx
import pytest

from cdp.errors import CdpError
from cdp.streams import Connector, Stream
from connectors.official_account.client import OfficialAccountClient
from connectors.official_account.connector import OfficialAccountConnector
from connectors.official_account.streams import FOLLOWERS
from connectors.wecom import connector as module
from connectors.wecom import streams
from connectors.wecom.client import Limits, WeComClient
from connectors.wecom.connector import WeComConnector
from sandbox.server import RunningServer, start
from tests.source_support import Brand
from tests.sync.world import CORPID, SECRET, seed_corp
from warehouse import landing
from warehouse.landing import land

NOW = datetime.now(UTC) + timedelta(hours=1)
DAY_S = 86_400
TODAY = int(NOW.timestamp()) // DAY_S * DAY_S
APPID, OA_SECRET = "wx0a", "oa-secret"
YAML = f"""
sources:
  wx: {{connector: wecom, corpid: {CORPID}, secret: "env:X"}}
  oa: {{connector: official_account, appid: {APPID}, secret: "env:Y"}}
"""
PAGE = 2
AGAIN = "+again"
_NUMBER = count(1)


# -- the corp ----------------------------------------------------------------------------------------------------------


class Corp:
    """A corp with a bit of everything that is listed, its server, and its tables as the truth."""

    def __init__(self, path: Path, server: RunningServer) -> None:
        self.path, self.server = path, server

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        with sqlite3.connect(self.path) as con:
            return con.execute(sql).fetchall()

    def run(self, sql: str, *values: Any) -> None:
        with sqlite3.connect(self.path, timeout=10) as con:
            con.execute(sql, values)

    def hand(self, do: str, **action: Any) -> None:
        self.server.admin("POST", "hand", {"do": do, **action})


def _seed(path: Path) -> None:
    seed_corp(path, [(f"s{n % 3}", f"wm{n:02d}") for n in range(9)] + [("s1", "wm00"), ("s2", "wm00")])
    con = sqlite3.connect(path)
    con.execute("insert into oa_accounts values (?, ?, 1)", (APPID, OA_SECRET))
    for number in range(5):
        con.execute("insert into tag_groups values (?, ?, 0, 1, null, 0)", (f"etg{number}", f"组{number}"))
        con.execute(
            "insert into tags values (?, ?, ?, 0, 1, null, 0)", (f"et{number}", f"etg{number}", f"标签{number}")
        )
        con.execute("insert into groups (chat_id, name, owner, create_time) values (?, ?, 's0', 1)",
                    (f"wr{number}", f"群{number}"))  # fmt: skip
        for member in ("wm00", "wm01", "wm02"):
            con.execute("insert into group_members values (?, ?, 2, null, 1, 3, null, null, '')",
                        (f"wr{number}", member))  # fmt: skip
        _insert_way(con.execute, f"way{number}")
        _insert_link(con.execute, f"link{number}")
        _insert_follower(con.execute, f"o{number}")
        for userid in ("s0", "s1"):
            con.execute("insert into behavior values (?, ?, ?, 9, 0.5, 3, 0, 1, 1)",
                        (userid, TODAY - (number + 1) * DAY_S, number))  # fmt: skip
    for number in range(3):
        _insert_message(con.execute, f"msg{number}", [(f"s{n % 3}", f"wm0{n}") for n in range(9)])
    con.execute("update relations set tag_ids = 'et0,et1', personal_tags = '妈妈,老客'")
    con.commit()
    con.close()


def _insert_way(run: Callable[..., Any], name: str) -> None:
    run("insert into contact_ways values (?, 2, 2, ?, '', '[\"s0\"]', 1, 1700000000, 0, 1)", (name, f"store-{name}"))


def _insert_link(run: Callable[..., Any], name: str) -> None:
    run("insert into acquisition_links values (?, ?, '', '[\"s0\"]', 1700000000)", (name, f"链接-{name}"))


def _insert_message(run: Callable[..., Any], msgid: str, sends: list[tuple[str, str]]) -> None:
    """One of yesterday, that everybody but s2 has confirmed."""
    run("insert into messages values (?, 'single', '', '{\"text\": {\"content\": \"新品\"}}', ?, 0)",
        (msgid, TODAY - DAY_S))  # fmt: skip
    for userid, customer in sends:
        status, at = (0, 0) if userid == "s2" else (1, TODAY)
        run("insert into message_sends (msgid, userid, external_userid, status, send_time) values (?, ?, ?, ?, ?)",
            (msgid, userid, customer, status, at))  # fmt: skip


def _insert_follower(run: Callable[..., Any], openid: str) -> None:
    run("insert into oa_followers (appid, openid, unionid, subscribe_time) values (?, ?, ?, 1700000000)",
        (APPID, openid, f"u-{openid}"))  # fmt: skip


@pytest.fixture(scope="module")
def corp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Corp]:
    path: Path = tmp_path_factory.mktemp("matrix") / "wecom.sqlite"
    _seed(path)
    with start(path, limits=False) as server:
        yield Corp(path, server)


# -- the lists: what is there, and how something comes and goes --------------------------------------------------------


@dataclass(frozen=True)
class Listed:
    """*path*: the calls its faults strike. *cursor*: the call with pages, if any. *landed*: what *truth* tells, as
    columns of its raw view."""

    stream: Stream
    path: str
    cursor: str
    landed: str
    truth: Callable[[Corp], list[tuple[Any, ...]]]
    change: Callable[[Corp, int], None]

    def __str__(self) -> str:
        return self.stream.name


def _told(sql: str) -> Callable[[Corp], list[tuple[Any, ...]]]:
    return lambda corp: corp.rows(sql)


def _staff(corp: Corp, n: int) -> None:
    corp.hand("set_scope", userid=f"new{n}", in_scope=True)
    corp.hand("set_scope", userid=f"new{n - 1}", in_scope=False)


def _relations(corp: Corp, n: int) -> None:
    """The oldest relation that no other list needs goes, and one comes."""
    corp.hand("add_relation", userid=f"s{n % 3}", external_userid=f"new{n}")
    [[userid, customer]] = corp.rows(
        "select userid, external_userid from relations where status = 'normal' and external_userid not in"
        " ('wm00', 'wm01', 'wm02') order by rid limit 1"
    )
    corp.hand("remove_customer", userid=userid, external_userid=customer)


def _tags(corp: Corp, n: int) -> None:
    corp.hand("create_tag", group=f"新组{n}", name=f"新标签{n}")
    spare = corp.rows("select tag_id from tags where not deleted and tag_id not in ('et0', 'et1') order by rowid")
    corp.hand("delete_tag", id=spare[0][0])


def _groups(corp: Corp, n: int) -> None:
    corp.hand("create_group", chat_id=f"wrnew{n}", name=f"新群{n}", owner="s1")
    [[oldest]] = corp.rows("select chat_id from groups where not dismissed order by rowid limit 1")
    corp.hand("dismiss_group", chat_id=oldest)


def _members(corp: Corp, n: int) -> None:
    [[newest]] = corp.rows("select chat_id from groups where not dismissed order by rowid desc limit 1")
    corp.hand("join_group", chat_id=newest, external_userid=f"wmnew{n}")
    corp.hand("join_group", chat_id=newest, external_userid="wm08")
    corp.hand("quit_group", chat_id=newest, external_userid=f"wmnew{n - 1}")


def _ways(corp: Corp, n: int) -> None:
    _insert_way(lambda sql, values: corp.run(sql, *values), f"new{n}")
    corp.run("delete from contact_ways where rowid = (select min(rowid) from contact_ways)")


def _links(corp: Corp, n: int) -> None:
    _insert_link(lambda sql, values: corp.run(sql, *values), f"new{n}")
    corp.run("delete from acquisition_links where rowid = (select min(rowid) from acquisition_links)")


def _behaviour(corp: Corp, n: int) -> None:
    """A figure of yesterday settles late; days do not vanish."""
    corp.run("update behavior set message_cnt = ? where userid = 's1' and day = ?", 100 + n, TODAY - DAY_S)


def _customer_tags(corp: Corp, n: int) -> None:
    corp.hand("personal_tags", userid="s0", external_userid="wm00", tags=[f"印象{n}", "老客"])
    corp.hand("mark", userid="s1", external_userid="wm00", add=["et1"] if n % 2 else [], remove=["et0"])


def _messages(corp: Corp, n: int) -> None:
    """One staff confirms late what waited, and a new message goes out. What was sent does not vanish."""
    [[waiting]] = corp.rows("select max(msgid) from message_sends where status = 0")
    corp.hand("confirm_message", msgid=waiting, userid="s2")
    _insert_message(lambda sql, values: corp.run(sql, *values), f"new{n}", [("s0", "wm00"), ("s1", "wm01"),
                                                                           ("s2", "wm02"), ("s0", "wm03")])  # fmt: skip


def _true_tags(corp: Corp) -> list[tuple[Any, ...]]:
    names = dict(corp.rows("select tag_id, name from tags where not deleted"))
    found = []
    for userid, customer, tags, personal in corp.rows(
        "select userid, external_userid, tag_ids, personal_tags from relations where status = 'normal'"
    ):
        found += [(userid, customer, names[tag]) for tag in tags.split(",") if tag]
        found += [(userid, customer, name) for name in personal.split(",") if name]
    return found


def _followers(corp: Corp, n: int) -> None:
    _insert_follower(lambda sql, values: corp.run(sql, *values), f"new{n}")
    [[oldest]] = corp.rows("select openid from oa_followers where subscribe = 1 order by seq limit 1")
    corp.hand("unsubscribe", openid=oldest)


WECOM_LISTS = (
    Listed(streams.STAFF, "externalcontact/get_follow_user_list", "", "userid",
           _told("select userid from staff where in_scope"), _staff),
    Listed(streams.RELATIONS, "externalcontact/batch/get_by_user", "externalcontact/batch/get_by_user",
           "userid, external_userid",
           _told("select userid, external_userid from relations where status = 'normal'"), _relations),
    Listed(streams.TAGS, "externalcontact/get_corp_tag_list", "", "group_name, tag_name",
           _told("select tag_groups.name, tags.name from tags join tag_groups using (group_id)"
                 " where not tags.deleted"), _tags),
    Listed(streams.GROUP_CHATS, "externalcontact/groupchat/*", "externalcontact/groupchat/list", "chat_id, name, owner",
           _told("select chat_id, name, owner from groups where not dismissed"), _groups),
    Listed(streams.GROUP_MEMBERS, "externalcontact/groupchat/*", "externalcontact/groupchat/list",
           "chat_id, member_id",
           _told("select chat_id, member_id from group_members join groups using (chat_id) where not dismissed"),
           _members),
    Listed(streams.CONTACT_WAYS, "externalcontact/*contact_way", "externalcontact/list_contact_way",
           "config_id, state", _told("select config_id, state from contact_ways"), _ways),
    Listed(streams.ACQUISITION_LINKS, "externalcontact/customer_acquisition/*",
           "externalcontact/customer_acquisition/list_link", "link_id, name",
           _told("select link_id, name from acquisition_links"), _links),
    Listed(streams.STAFF_BEHAVIOR, "externalcontact/get_user_behavior_data", "",
           "userid, epoch(stat_at)::bigint, chat_count, message_count",
           _told("select userid, day, chat_cnt, message_cnt from behavior"), _behaviour),
    Listed(streams.CUSTOMER_TAGS, "externalcontact/get", "externalcontact/get",
           "userid, external_userid, tag_name", _true_tags, _customer_tags),
    Listed(streams.MESSAGES, "externalcontact/get_groupmsg_*", "externalcontact/get_groupmsg_send_result",
           "msgid, userid, external_userid, status, epoch(sent_at)::bigint",
           _told("select msgid, userid, external_userid, status, send_time from message_sends where status = 1"),
           _messages),
)  # fmt: skip
FOLLOWER_LIST = Listed(FOLLOWERS, "oa/cgi-bin/user/*", "cgi-bin/user/get", "openid, unionid",
                       _told("select openid, unionid from oa_followers where subscribe = 1"), _followers)  # fmt: skip
LISTS = (*WECOM_LISTS, FOLLOWER_LIST)

# -- the faults --------------------------------------------------------------------------------------------------------

# What strikes by chance on one call in two may let a list of one call pass: these strike its first calls for sure.
FAULTS: tuple[dict[str, Any], ...] = (
    {"kind": "code", "code": -1, "count": 3},
    {"kind": "code", "code": 45009, "count": 1},
    {"kind": "http", "status": 502, "count": 3},
    {"kind": "http", "status": 500, "when": "after", "count": 3},
    {"kind": "cut", "count": 3},
    {"kind": "cut", "when": "after", "count": 3},
    {"kind": "expire_token", "count": 1},
    {"kind": "hang", "count": 2},
    {"kind": "delay", "ms": 900, "count": 2},
    {"kind": "restart", "count": 1},
)
QUICK = (FAULTS[0], FAULTS[6])  # the others, and their like in the middle of a pull, run with the slow tests
PAGES = ("repeated", "empty", "leads to itself", "changing")


class Pages(httpx.HTTPTransport):
    """Cuts a list's pages to two items and, once, between the first page and the second, does *trouble*.

    repeated: the first page comes once more, under a cursor of its own; empty: no items, and a cursor; leads to itself:
    the first page again, its cursor the one that was asked for; changing: *act* happens at the corp.
    """

    def __init__(self, path: str, trouble: str = "", act: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self.path, self.trouble, self.act = path, trouble, act
        self.first: dict[str, Any] = {}
        self.struck = False

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if not self.path or not request.url.path.endswith(f"/{self.path}"):
            return super().handle_request(request)
        cursor = _cursor(request)
        asked, again = cursor.removesuffix(AGAIN), cursor.endswith(AGAIN)
        if self.trouble and asked and not again and not self.struck:
            self.struck = True
            if self.trouble == "changing":
                self.act()
            elif self.trouble == "repeated":
                return _page(_with_cursor(self.first, asked + AGAIN))
            elif self.trouble == "empty":
                return _page(_with_cursor(_without_items(self.first), asked + AGAIN))
            else:
                return _page(_with_cursor(self.first, asked))
        response = self._short(request, asked)
        if not self.first and not asked and response.status_code == 200:
            reply = json.loads(response.read())
            self.first = reply if _next(reply) else {}
        return response

    def _short(self, request: httpx.Request, cursor: str) -> httpx.Response:
        """The page behind *cursor*, of two items."""
        if request.method == "POST":
            body = {**json.loads(request.content), "cursor": cursor, "limit": PAGE}
            headers = {name: value for name, value in request.headers.items() if name != "content-length"}
            return super().handle_request(
                httpx.Request("POST", request.url, headers=headers, json=body, extensions=request.extensions)
            )
        # Interfaces without `limit`: the whole list is asked for, and cut here behind the item the cursor names.
        url = request.url.copy_remove_param("cursor").copy_remove_param("next_openid")
        response = super().handle_request(
            httpx.Request("GET", url, headers=request.headers, extensions=request.extensions)
        )
        if response.status_code != 200:
            return response
        reply = json.loads(response.read())
        if self.path.endswith("user/get"):
            return _page(_followers_page(reply, cursor))
        return _page(_followed_page(reply, cursor))


def _cursor(request: httpx.Request) -> str:
    if request.method == "POST":
        return str(json.loads(request.content).get("cursor") or "")
    query = dict(parse_qsl(request.url.query.decode()))
    return query.get("cursor") or query.get("next_openid") or ""


def _next(reply: dict[str, Any]) -> str:
    return str(reply.get("next_cursor") or reply.get("next_openid") or "")


def _with_cursor(reply: dict[str, Any], cursor: str) -> dict[str, Any]:
    return {**reply, "next_openid" if "next_openid" in reply else "next_cursor": cursor}


def _without_items(reply: dict[str, Any]) -> dict[str, Any]:
    kept = {name: [] if isinstance(value, list) else value for name, value in reply.items() if name != "data"}
    return kept | ({"count": 0} if "count" in kept else {})


def _followers_page(reply: dict[str, Any], after: str) -> dict[str, Any]:
    """As the interface does it: the last page still gives a cursor, and the one behind it has no `data`."""
    if reply.get("errcode"):
        return reply
    openids = (reply.get("data") or {}).get("openid") or []
    behind = openids[openids.index(after) + 1 :] if after in openids else openids if not after else []
    page = behind[:PAGE]
    told = {"total": reply["total"], "count": len(page), "next_openid": page[-1] if page else ""}
    return told | ({"data": {"openid": page}} if page else {})


def _followed_page(reply: dict[str, Any], cursor: str) -> dict[str, Any]:
    """One follower of a customer at a time."""
    follow = reply.get("follow_user") or []
    place = int(cursor or 0)
    following = str(place + 1) if place + 1 < len(follow) else ""
    return {**reply, "follow_user": follow[place : place + 1], "next_cursor": following}


def _page(reply: dict[str, Any]) -> httpx.Response:
    return httpx.Response(200, json=reply)


# -- landing -----------------------------------------------------------------------------------------------------------


class Source:
    """One list of the corp as a stream of a home."""

    def __init__(self, root: Path, corp: Corp, listed: Listed) -> None:
        self.brand, self.corp, self.listed = Brand(root, YAML), corp, listed
        self.view = f"{listed.stream.family}__{listed.stream.name}"

    def land(self, transport: Pages | None = None, *, timeout_s: float = 15.0) -> Any:
        transport = transport or Pages(self.listed.cursor)
        if self.listed is FOLLOWER_LIST:
            client = OfficialAccountClient(
                self.corp.server.oa_base_url, APPID, OA_SECRET, transport=transport, sleep=lambda _: None
            )
            client._open().timeout = httpx.Timeout(timeout_s)
            return self._land("oa", OfficialAccountConnector(client))
        limits = Limits(calls_per_second=5000.0, window_s=0.05, attempts=2, timeout_s=timeout_s)
        with WeComClient(
            self.corp.server.base_url, CORPID, SECRET, limits=limits, sleep=lambda _: None, transport=transport
        ) as wecom:
            return self._land("wx", WeComConnector(wecom, now=NOW))

    def _land(self, name: str, connector: Connector) -> Any:
        return land(self.brand.home, name, connector, self.listed.stream, now=NOW)

    def land_until_it_ends(self, make: Callable[[], Pages] | None = None, *, timeout_s: float = 15.0) -> None:
        """Faults of the interface end a pull; the next one goes on."""
        for _ in range(12):
            try:
                self.land(make() if make else None, timeout_s=timeout_s)
            except CdpError:
                continue
            return
        pytest.fail("no pull ended")

    def landed(self) -> list[tuple[Any, ...]]:
        return sorted(self.brand.latest(self.view, self.listed.landed))

    def truth(self) -> list[tuple[Any, ...]]:
        return sorted(self.listed.truth(self.corp))

    def versions(self) -> int:
        [[number]] = self.brand.sql(f"select count(*) from raw.{self.view}")
        return int(number)

    def gone(self) -> list[tuple[Any, ...]]:
        return sorted(self.brand.sql(f"select distinct {self.listed.landed} from raw.{self.view} where _deleted"))


@pytest.fixture(autouse=True)
def small_commits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many commits to a pull, so that faults strike between them."""
    monkeypatch.setattr(module, "ROWS_PER_BATCH", PAGE)
    monkeypatch.setattr(module, "CUSTOMERS_PER_BATCH", PAGE)
    monkeypatch.setattr(landing, "COMMIT_ROWS", PAGE)


@pytest.fixture
def source(corp: Corp, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Source]:
    """A list that was read clean once, after which something came and something went."""
    source = Source(tmp_path, corp, request.param)
    source.land()
    assert source.landed() == source.truth()
    assert len(source.truth()) > PAGE
    source.listed.change(corp, next(_NUMBER))
    assert source.landed() != source.truth()
    yield source
    corp.server.admin("DELETE", "faults")


def _assert_true(source: Source) -> None:
    """What landed is what is there, also for one who reads it all once more: nothing landed twice."""
    assert source.landed() == source.truth()
    versions = source.versions()
    source.land()
    assert source.landed() == source.truth()
    assert source.versions() == versions, "nothing landed twice, and nobody was taken away and put back"


@pytest.mark.parametrize(
    ("source", "fault", "after"),
    [
        pytest.param(
            listed,
            fault,
            after,
            id="-".join([str(listed), *map(str, fault.values()), *(["midway"] if after else [])]),
            marks=() if fault in QUICK and not after else pytest.mark.slow,
        )
        for listed in LISTS
        for fault in FAULTS
        for after in ((0,) if listed.stream in (streams.STAFF, streams.TAGS) else (0, 1))  # one call has no middle
    ],
    indirect=["source"],
)
def test_whatever_fails_the_list_lands_as_it_is(source: Source, fault: dict[str, Any], after: int) -> None:
    source.corp.server.admin("POST", "faults", {"path": source.listed.path, "after": after, **fault})
    source.land_until_it_ends(timeout_s=0.6 if fault["kind"] in ("hang", "delay") else 15.0)
    left = [rule["hits"] for rule in source.corp.server.admin("GET", "faults")["faults"]]
    assert left == [] if fault["kind"] == "restart" else left[0] > 0, "it came about; a new process knows no faults"
    source.corp.server.admin("DELETE", "faults")
    _assert_true(source)


@pytest.mark.parametrize("trouble", PAGES)
@pytest.mark.parametrize("source", [listed for listed in LISTS if listed.cursor], indirect=True, ids=str)
def test_whatever_the_pages_do_the_list_lands_as_it_is(source: Source, trouble: str) -> None:
    listed, corp = source.listed, source.corp
    pages = Pages(listed.cursor, trouble, lambda: listed.change(corp, next(_NUMBER)))
    source.land_until_it_ends(lambda: pages)
    assert pages.struck
    if trouble == "changing":  # what moved while it was read is right with the next pull at the latest
        source.land_until_it_ends()
    _assert_true(source)
    assert not set(source.gone()) & set(source.truth())
