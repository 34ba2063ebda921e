"""A small brand for the sync's tests: a WeCom that answers over HTTP, and marts in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb

from cdp.sync.config import SyncConfig
from cdp.sync.plan import Inputs
from cdp.tags.config import TagsConfig
from connectors.wecom import sync
from connectors.wecom.client import Limits, WeComClient
from connectors.wecom.library import read_remote
from connectors.wecom.sync import ApplyReport, Session
from connectors.wecom.verify import VerifyReport
from sandbox.server import RunningServer, start
from sandbox.state import create
from warehouse.home import Home
from warehouse.sync_inputs import gather
from warehouse.sync_ledger import SyncLedger
from warehouse.sync_plan import StoredPlan, approve, load, make_plan, ready

CORPID = "ww5a7d0c3b9e1f2468"
SECRET = "sandbox-secret-of-the-self-built-app-0001"
OTHER_SECRET = "sandbox-secret-of-another-teams-app-00002"
START = datetime(2026, 11, 20, 2, 0, tzinfo=UTC)  # 10:00 in Shanghai
FAST = {"calls_per_second": 5000, "assumed_call_ms": 2, "quiet_hours": None, "quota_window_s": 0.2}
TAGS = {
    "tag_groups": [
        {
            "id": "life",
            "kind": "stage",
            "values": ["初识", "首购", "复购"],
            "rules": {"初识": "true", "首购": "true", "复购": "true"},
            "write_back": {"wecom": {"group": "生命周期", "mode": "replace_in_group"}},
        },
        {
            "id": "pref",
            "kind": "preference",
            "source": "marts.fct_order_lines",
            "value": "category",
            "write_back": {"wecom": {"group": "品类偏好", "mode": "replace_in_group"}},
        },
    ]
}


def settings(**changes: Any) -> SyncConfig:
    """A fast configuration without quiet hours or holdout; *changes* replace whole sections."""
    base: dict[str, Any] = {
        "limits": FAST,
        "control": {"holdout": 0},
        "approval": {"self_approve": True},
    }
    for name, value in changes.items():
        base[name] = {**base.get(name, {}), **value} if isinstance(value, dict) and name in base else value
    return SyncConfig.model_validate(base)


def seed_corp(path: Path, relations: Sequence[tuple[str, str]], *, settings: Mapping[str, Any] | None = None) -> None:
    """A server state with two apps, the staff and customers of *relations*, and nothing else."""
    con = create(path, {"corpid": CORPID, **(settings or {})})
    con.execute("begin")
    for agent, secret in ((1000002, SECRET), (1000003, OTHER_SECRET)):
        con.execute("insert into apps (agentid, name, secret) values (?, ?, ?)", (agent, f"app{agent}", secret))
    for userid in sorted({userid for userid, _ in relations}):
        con.execute("insert into staff (userid, name) values (?, ?)", (userid, f"王小明{userid}"))
    for customer in sorted({customer for _, customer in relations}):
        con.execute(
            "insert into contacts (external_userid, name, unionid) values (?, ?, ?)",
            (customer, "赵桂花", f"union_{customer}"),
        )
    for userid, customer in relations:
        con.execute(
            "insert into relations (userid, external_userid, createtime, remark_mobiles)"
            " values (?, ?, ?, '13912345678')",
            (userid, customer, int(START.timestamp()) - 86_400),
        )
    con.execute("commit")
    con.close()


@dataclass
class Brand:
    """Marts in memory: `wanted` maps one_id to tag keys, `relations` maps (userid, external_userid) to one_id."""

    relations: dict[tuple[str, str], str | None]
    wanted: dict[str, list[str]]
    consent: dict[str, bool] = field(default_factory=dict)
    store: dict[str, str] = field(default_factory=dict)
    inactive: set[tuple[str, str]] = field(default_factory=set)
    read: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    read_at: datetime = START - timedelta(hours=1)
    version: str = "v1"
    strangers: set[str] = field(default_factory=set)

    def marts(self) -> duckdb.DuckDBPyConnection:
        con = duckdb.connect(":memory:")
        con.execute("set TimeZone = 'UTC'")
        con.execute("create schema marts")
        con.execute("create table marts.fct_tags_current (one_id text, tag_group text, value text)")
        con.execute("create table marts.dim_people (one_id text, consent_marketing boolean, store_id text)")
        con.execute("create table marts.dim_staff (corpid text, userid text, store_id text)")
        con.execute(
            "create table marts.fct_relations (corpid text, userid text, external_userid text, one_id text,"
            " added_at timestamptz, is_active boolean, tag_ids text[], read_at timestamptz)"
        )
        tags = [(one, *key.split("/", 1)) for one, keys in self.wanted.items() for key in keys]
        people = {one for one in self.relations.values() if one} | set(self.wanted) - self.strangers
        staff = sorted({userid for userid, _ in self.relations})
        rows = [
            (CORPID, userid, customer, one, START - timedelta(days=1), (userid, customer) not in self.inactive,
             self.read.get((userid, customer), []), self.read_at)
            for (userid, customer), one in self.relations.items()
        ]  # fmt: skip
        self._fill(con, "fct_tags_current", 3, tags)
        self._fill(con, "dim_people", 3, [(one, self.consent.get(one), None) for one in sorted(people)])
        self._fill(con, "dim_staff", 3, [(CORPID, userid, self.store.get(userid)) for userid in staff])
        self._fill(con, "fct_relations", 8, rows)
        return con

    @staticmethod
    def _fill(con: duckdb.DuckDBPyConnection, table: str, width: int, rows: Iterable[tuple[Any, ...]]) -> None:
        rows = list(rows)
        for begin in range(0, len(rows), 2000):
            part = rows[begin : begin + 2000]
            marks = ", ".join(f"({', '.join('?' * width)})" for _ in part)
            con.execute(f"insert into marts.{table} values {marks}", [cell for row in part for cell in row])


class World:
    """One home, one corp, one brand; the clock moves a second with every look."""

    def __init__(self, root: Path, brand: Brand, config: SyncConfig | None = None, **corp: Any) -> None:
        self.brand = brand
        self.config = config or settings()
        self.tags = TagsConfig.model_validate(TAGS)
        self.home = Home(root / "home")
        self.home.root.mkdir(parents=True, exist_ok=True)
        self.state = root / "wecom.sqlite"
        seed_corp(self.state, list(brand.relations), settings=corp)
        self.server: RunningServer = start(self.state, limits=False)
        self.ledger = SyncLedger(self.home.sync_ledger)
        self.client = self.new_client()
        self._now = START

    def close(self) -> None:
        self.client.close()
        self.ledger.close()
        self.server.stop()

    def new_client(self, secret: str = SECRET, **limits: Any) -> WeComClient:
        chosen = {"calls_per_second": 5000.0, "window_s": 0.2, **limits}
        return WeComClient(self.server.base_url, CORPID, secret, limits=Limits(**chosen))

    def now(self) -> datetime:
        self._now += timedelta(seconds=1)
        return self._now

    def advance(self, **delta: float) -> None:
        self._now += timedelta(**delta)

    def inputs(self, **more: Any) -> Inputs:
        with self.brand.marts() as con:
            return gather(
                self.home,
                con,
                version=self.brand.version,
                published_at=self.brand.read_at,
                checks=more.pop("checks", ()),
                config=self.config,
                tags=self.tags,
                ledger=self.ledger,
                remote=read_remote(self.client),
                corpid=CORPID,
                now=self.now(),
                timezone="Asia/Shanghai",
                author="ops",
                **more,
            )

    def plan(self, **more: Any) -> StoredPlan:
        plan = make_plan(self.home, self.ledger, self.inputs(**more))
        return load(self.home, self.ledger, plan.plan_id)

    def approve(self, plan: StoredPlan) -> None:
        approve(self.home, self.ledger, plan.plan_id, self.config, who="ops", reason="test", now=self.now())

    def apply(self, plan: StoredPlan | None = None, **more: Any) -> ApplyReport:
        """Plan (unless given), approve, and send."""
        plan = plan or self.plan()
        if plan.summary["verdict"] == "HELD":
            self.approve(plan)
        checked = ready(self.home, self.ledger, plan.plan_id, self.config, version=self.brand.version, now=self.now())
        return sync.apply(checked, self.session(**more), holder="test")

    def verify(self, plan_id: str) -> VerifyReport:
        return sync.verify(plan_id, self.session())

    def run(self) -> VerifyReport:
        """Plan, send and verify."""
        return self.verify(self.apply().plan_id)

    def fault(self, **rule: Any) -> None:
        self.server.admin("POST", "faults", rule)

    def hand(self, **action: Any) -> None:
        self.server.admin("POST", "hand", action)

    def ids(self) -> dict[str, str]:
        """Tag key -> id."""
        return {tag.key: tag.tag_id for tag in self.ledger.register()}

    def session(self, **more: Any) -> Session:
        values: dict[str, Any] = {
            "client": self.client,
            "ledger": self.ledger,
            "config": self.config,
            "timezone": "Asia/Shanghai",
            "who": "ops",
            "now": self.now,
        }
        return Session(**{**values, **more})

    def remote(self) -> dict[tuple[str, str], set[str]]:
        """What the server holds now: relation -> names of its tags."""
        names = {tag.tag_id: f"{tag.group_name}/{tag.name}" for tag in read_remote(self.client).tags}
        rows = self.server.admin("GET", "relations")["relations"]
        return {(row[0], row[1]): {names.get(tag, tag) for tag in row[3]} for row in rows}

    def marks(self) -> list[dict[str, Any]]:
        """Every `mark_tag` call the server saw."""
        return list(self.server.admin("GET", "log", path="externalcontact/mark_tag")["log"])


def people(count: int, staff: int) -> Brand:
    """*count* people, each with one employee of *staff*, everyone 初识, every third 首购 instead."""
    relations: dict[tuple[str, str], str | None] = {
        (f"s{number % staff:03d}", f"wm{number:06d}"): f"p{number:06d}" for number in range(count)
    }
    wanted = {f"p{n:06d}": ["life/首购" if n % 3 == 0 else "life/初识", "pref/茶"] for n in range(count)}
    return Brand(relations, wanted)
