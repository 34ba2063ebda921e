"""What lands of a corp is what is there, whatever the interface does meanwhile: through landing, over real HTTP."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from cdp.errors import CdpError, RetriableError
from cdp.streams import Stream
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
PAIRS = [(f"s{n % 7}", f"wm{n:04d}") for n in range(220)] + [("s0", "wm0001"), ("s1", "wm0000")]
PATH = "externalcontact/batch/get_by_user"
YAML = f"sources: {{wx: {{connector: wecom, corpid: {CORPID}, secret: 'env:X'}}}}"


@pytest.fixture(autouse=True)
def small_commits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many commits to a pull, so that faults strike between them."""
    monkeypatch.setattr(module, "ROWS_PER_BATCH", 50)
    monkeypatch.setattr(landing, "COMMIT_ROWS", 50)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    path: Path = tmp_path_factory.mktemp("corp") / "wecom.sqlite"
    seed_corp(path, PAIRS)
    with start(path, limits=False) as server:
        yield server


@pytest.fixture
def server(running: RunningServer) -> Iterator[RunningServer]:
    yield running
    running.admin("DELETE", "faults")


class Corp:
    """The corp behind *server* as a source of a home; landed again and again until a pull ends."""

    def __init__(
        self,
        root: Path,
        server: RunningServer,
        transport: httpx.BaseTransport | None = None,
        *,
        stream: Stream = streams.RELATIONS,
    ) -> None:
        self.brand, self.server, self.transport, self.stream = Brand(root, YAML), server, transport, stream

    def land(self, *, timeout_s: float = 15.0) -> Any:
        limits = Limits(calls_per_second=5000.0, window_s=0.1, attempts=2, timeout_s=timeout_s)
        client = WeComClient(
            self.server.base_url, CORPID, SECRET, limits=limits, sleep=lambda _: None, transport=self.transport
        )
        with client:
            return land(self.brand.home, "wx", WeComConnector(client, now=NOW), self.stream, now=NOW)

    def land_until_it_ends(self, *, timeout_s: float) -> int:
        """How many tries it took."""
        for attempt in range(1, 30):
            try:
                self.land(timeout_s=timeout_s)
            except RetriableError:
                continue
            return attempt
        pytest.fail("no pull ended")

    def pairs(self) -> list[tuple[str, str]]:
        return self.brand.latest("wecom__relations", "userid, external_userid")

    def ever_deleted(self) -> list[tuple[str, str]]:
        return self.brand.sql("select userid, external_userid from raw.wecom__relations where _deleted order by all")


FAULTS: list[dict[str, Any]] = [
    {"kind": "code", "code": -1, "rate": 0.6},
    {"kind": "hang", "after": 2, "count": 2},
    {"kind": "restart", "after": 2, "count": 1},
]
MORE_FAULTS: list[dict[str, Any]] = [
    {"kind": "code", "code": 45009, "after": 2, "count": 3},
    {"kind": "http", "status": 502, "rate": 0.6},
    {"kind": "http", "status": 500, "when": "after", "rate": 0.4},
    {"kind": "cut", "rate": 0.6},
    {"kind": "cut", "when": "after", "rate": 0.4},
    {"kind": "delay", "ms": 900, "after": 1, "count": 2},
    {"kind": "expire_token", "after": 2, "count": 1},
]


@pytest.mark.parametrize(
    "fault",
    [*FAULTS, *(pytest.param(fault, marks=pytest.mark.slow) for fault in MORE_FAULTS)],
    ids=lambda fault: "-".join(str(value) for value in fault.values()),
)
def test_whatever_fails_the_landed_relations_are_the_true_ones(
    server: RunningServer, tmp_path: Path, fault: dict[str, Any]
) -> None:
    corp = Corp(tmp_path, server)
    for _ in range(2):
        server.admin("DELETE", "faults")
        server.admin("POST", "faults", {"path": PATH, **fault})
        corp.land_until_it_ends(timeout_s=0.6 if fault["kind"] in ("hang", "delay") else 15.0)
        assert corp.pairs() == sorted(PAIRS)
    assert corp.ever_deleted() == []
    assert corp.brand.sql("select count(*) from raw.wecom__relations") == [(len(PAIRS),)]


class Between(httpx.HTTPTransport):
    """Does something before the *n*-th page of relations is asked for."""

    def __init__(self, number: int, act: Any) -> None:
        super().__init__()
        self.left, self.act = number, act

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith(PATH):
            self.left -= 1
            if self.left == 0:
                self.act()
        return super().handle_request(request)


@pytest.mark.parametrize("number", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_relations_that_come_and_go_while_being_read(tmp_path: Path, number: int) -> None:
    path = tmp_path / "wecom.sqlite"
    seed_corp(path, PAIRS)
    with start(path, limits=False) as server:

        def change() -> None:
            for customer, userid in (("wm0000", "s0"), ("wm0217", "s0"), ("wm0004", "s4")):
                server.admin("POST", "hand", {"do": "remove_customer", "userid": userid, "external_userid": customer})
            for userid in ("s0", "s6"):
                server.admin(
                    "POST", "hand", {"do": "add_relation", "userid": userid, "external_userid": f"new-{userid}"}
                )

        corp = Corp(tmp_path, server)
        corp.land()
        gone = {("s0", "wm0000"), ("s0", "wm0217"), ("s4", "wm0004")}
        gone &= set(PAIRS)
        came = {("s0", "new-s0"), ("s6", "new-s6")}
        corp.transport = Between(number, change)
        corp.land()
        assert set(PAIRS) - gone <= set(corp.pairs()) <= set(PAIRS) | came, "nobody is lost for having moved"
        corp.transport = None
        corp.land()
        assert set(corp.pairs()) == (set(PAIRS) | came) - gone
        assert set(corp.ever_deleted()) == gone


def _scripted(tmp_path: Path, pages: Sequence[tuple[Sequence[int], str, Sequence[str]]]) -> Corp:
    """A corp whose pages of relations are *pages*: (customers, next cursor, unlicensed staff) in turn."""
    left = iter(pages)

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("gettoken"):
            return httpx.Response(200, json={"errcode": 0, "access_token": "t", "expires_in": 7200})
        if request.url.path.endswith("get_follow_user_list"):
            return httpx.Response(200, json={"errcode": 0, "follow_user": ["s0"]})
        assert orjson.loads(request.content)["userid_list"] == ["s0"]
        customers, following, unlicensed = next(left)
        rows = [
            {"external_contact": {"external_userid": f"wm{n}"}, "follow_info": {"userid": "s0", "createtime": 1}}
            for n in customers
        ]
        return httpx.Response(
            200,
            json={
                "errcode": 0,
                "external_contact_list": rows,
                "next_cursor": following,
                "fail_info": {"unlicensed_userid_list": list(unlicensed)},
            },
        )

    server: Any = type("Server", (), {"base_url": "http://wx"})()
    return Corp(tmp_path, server, httpx.MockTransport(answer))


def _customers(corp: Corp) -> list[str]:
    return [customer for _, customer in corp.pairs()]


def test_a_page_that_comes_twice_and_an_empty_page_with_a_cursor(tmp_path: Path) -> None:
    pages = [([1, 2], "a", ()), ([1, 2], "b", ()), ([], "c", ()), ([], "d", ()), ([3], "", ())]
    corp = _scripted(tmp_path, pages)
    report = corp.land()
    assert (report.received, report.landed, report.duplicates) == (5, 3, 2)
    assert _customers(corp) == ["wm1", "wm2", "wm3"]


def test_a_page_that_leads_to_itself_is_told_and_deletes_nobody(tmp_path: Path) -> None:
    whole = [([1, 2], "a", ()), ([3], "", ())]
    corp = _scripted(tmp_path, [*whole, ([1, 2], "a", ()), ([1, 2], "a", ()), ([3], "", ())])
    corp.land()
    with pytest.raises(CdpError, match="the same page came twice"):
        corp.land()
    assert _customers(corp) == ["wm1", "wm2", "wm3"]


def test_staff_without_a_licence_keep_their_customers(tmp_path: Path) -> None:
    corp = _scripted(tmp_path, [([1, 2], "", ()), ([], "", ["s0"]), ([2], "", ())])
    for expected in (["wm1", "wm2"], ["wm1", "wm2"]):
        corp.land()
        assert _customers(corp) == expected
