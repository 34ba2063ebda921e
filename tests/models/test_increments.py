"""Incremental models hold what a full rebuild holds, whatever was landed, merged, split, corrected or taken away."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import duckdb
import pytest

from cdp.identity.rules import IdentityRules
from tests.identity.brands import SECRET, T0
from tests.identity.random_evidence import POOL, RULES
from tests.models.model_worlds import land, setting
from warehouse.connection import set_parameters
from warehouse.identity_assertions import forget
from warehouse.identity_queries import find
from warehouse.identity_store import resolve_identities
from warehouse.models import ModelGraph, executable_sql, qualified_name, run_models

INCREMENTAL = (
    "staging.stg_tracking_identifiers",
    "identity.int_identity__evidence",
    "intermediate.int_people__identifier_sets",
    "marts.fct_events",
)
BEFORE_IDENTITY = ("stg_sources", "stg_tracking_batches", "stg_tracking_identifiers", "int_identity__evidence")
AFTER_IDENTITY = ("int_people__identifier_sets", "fct_events")
CLOCKS = ("looked_up_at", "made_at")  # when a row was made, not what it says


@dataclass
class World:
    """A warehouse that is landed in, resolved and modelled run after run."""

    con: duckdb.DuckDBPyConnection
    graph: ModelGraph
    rules: IdentityRules = RULES
    now: datetime = T0 + timedelta(days=100)
    runs: int = 0
    keys: int = 0
    made: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        setting(self.con, "logs", login_id_type="member_id")
        run_models(self.con, self.graph, self.graph.select("staging"))

    def land(self, stream: str, *rows: dict[str, Any], source: str = "shop") -> None:
        # one number over all streams, as landing gives them
        self.keys += 1
        land(self.con, stream, [row | {"_batch_seq": self.keys, "_loaded_at": self.now} for row in rows], source=source)

    def run(self, *, full: bool = False) -> None:
        """One run: staging and evidence, identities, marts."""
        self.runs += 1
        set_parameters(self.con, as_of=self.now, timezone="Asia/Shanghai")
        run_models(self.con, self.graph, BEFORE_IDENTITY, full=full)
        resolve_identities(self.con, self.rules, run_id=f"r{self.runs}", as_of=self.now, secret=SECRET)
        run_models(self.con, self.graph, AFTER_IDENTITY, full=full)

    def differences(self) -> dict[str, list[Any]]:
        """Model -> rows that its table has and its query, run whole, has not, or the other way round."""
        found = {}
        for name in INCREMENTAL:
            model = self.graph.models[name]
            columns = ", ".join(f'"{column.name}"' for column in model.columns if column.name not in CLOCKS)
            self.con.execute(f"create or replace temp table whole as {executable_sql(model)}")
            stored, whole = f"select {columns} from {qualified_name(name)}", f"select {columns} from whole"
            found[name] = self.con.execute(
                f"(select 'stored', * from ({stored} except all {whole})) union all "
                f"(select 'whole', * from ({whole} except all {stored})) limit 4"
            ).fetchall()
        return {name: rows for name, rows in found.items() if rows}

    def ask(self, sql: str) -> list[tuple[Any, ...]]:
        return self.con.execute(sql.replace("marts.", "marts_db.marts.")).fetchall()


@pytest.fixture
def world(con: duckdb.DuckDBPyConnection, graph: ModelGraph) -> World:
    return World(con, graph)


def identifiers(rng: random.Random, count: int) -> list[dict[str, str]]:
    return [dict(zip(("type", "scope", "value"), item, strict=True)) for item in rng.sample(POOL, count)]


def events(world: World, rng: random.Random) -> None:
    """A batch of events: new and late ones, of one or several identifiers, some naming an order."""
    world.land("canonical__events", *(
        {
            "event_id": f"e{world.keys}-{number}",
            "event_name": "view",
            "event_at": world.now - timedelta(days=rng.choice((0, 0, 1, 40)), hours=rng.randrange(24)),
            "identifiers": identifiers(rng, rng.choice((1, 1, 2, 3))),
            "order_id": rng.choice((None, None, "1", "2", "3")),
        }
        for number in range(rng.randrange(1, 8))
    ), source=rng.choice(("web", "app")))  # fmt: skip


def old_logs(world: World, rng: random.Random) -> None:
    """Lines of an SDK that does not flag login ids: what an id is, only a later line may tell."""
    at = int((world.now - timedelta(hours=rng.randrange(200))).timestamp() * 1000)
    who = f"v{rng.randrange(3)}"
    kind = rng.choice(("track", "track", "track_signup"))
    world.land("sensors__records", {
        "record_key": f"k{world.keys}", "type": kind, "event": "e", "time": at, "distinct_id": who,
        "original_id": f"c{rng.randrange(3)}" if kind == "track_signup" else None, "properties": "{}",
    }, source="logs")  # fmt: skip


def aliases(world: World, rng: random.Random) -> None:
    """Messages that join a former id, which may have been a visitor's or an account's, as others tell."""
    world.land("segment__messages", {
        "message_id": f"s{world.keys}", "type": rng.choice(("track", "alias")), "event": "e",
        "timestamp": (world.now - timedelta(hours=rng.randrange(90))).isoformat(), "user_id": f"m{rng.randrange(3)}",
        "previous_id": rng.choice((None, f"m{rng.randrange(5)}", f"a{rng.randrange(3)}")), "properties": "{}",
    }, source="js")  # fmt: skip


def updated_events(world: World, rng: random.Random) -> None:
    """Records of which several make one event, in whatever batches they come."""
    at = (world.now - timedelta(hours=rng.randrange(90))).strftime("%Y-%m-%d %H:%M:%S")
    world.land("thinkingdata__records", {
        "record_key": f"t{world.keys}", "type": rng.choice(("track", "track_update", "track_overwrite", "track_first")),
        "event_name": "e", "event_id": f"x{rng.randrange(3)}", "time": at, "distinct_id": f"a{rng.randrange(3)}",
        "account_id": rng.choice((None, "m1", "m2")), "properties": f'{{"page": "{rng.randrange(9)}"}}',
    }, source="td")  # fmt: skip


def links(world: World, rng: random.Random) -> None:
    """A link that joins two identifiers, or the end of one, which may split a person."""
    a, b = identifiers(rng, 2)
    world.land("canonical__id_links", {
        "link_id": f"l{rng.randrange(6)}", "kind": rng.choice(("bind", "login", "unbind")), "linked_at": world.now,
        "a_type": a["type"], "a_scope": a["scope"], "a_value": a["value"],
        "b_type": b["type"], "b_scope": b["scope"], "b_value": b["value"],
        "_deleted": rng.random() < 0.3,
    })  # fmt: skip


def orders(world: World, rng: random.Random) -> None:
    """Orders, whose ids events named before; the same id in a second shop takes its meaning away."""
    world.land("canonical__orders", {
        "order_id": rng.choice("123"), "platform": "p", "shop": rng.choice("st"), "paid_at": world.now, "amount": 1,
        "identifiers": identifiers(rng, 2), "_deleted": rng.random() < 0.2,
    })  # fmt: skip


def taken_away(world: World, rng: random.Random) -> None:
    """Some landed rows are no more, as after a request to be forgotten; a whole batch may be gone."""
    for table in ("canonical__events", "sensors__records", "segment__messages", "thinkingdata__records"):
        condition = (
            f"_batch_seq % 7 = {rng.randrange(7)}" if rng.random() < 0.3 else f"_row_hash % 11 = {rng.randrange(11)}"
        )
        world.con.execute(f"delete from raw.{table} where {condition}")


def another_meaning(world: World, rng: random.Random) -> None:
    """The settings of a source are corrected: its login ids are of another type."""
    world.con.execute(
        "update raw._source_settings set value = ? where source = 'logs'", [rng.choice(("member_id", "unionid"))]
    )


def time_passes(world: World, rng: random.Random) -> None:
    """Limits in time run out without anything new."""
    world.now += timedelta(days=rng.choice((1, 30, 95)))


STEPS: tuple[Callable[[World, random.Random], None], ...] = (
    events, events, events, old_logs, old_logs, aliases, updated_events, links, links, orders, time_passes, taken_away,
    another_meaning,
)  # fmt: skip


def walk(world: World, seed: int, runs: int) -> None:
    rng = random.Random(seed)
    for _ in range(runs):
        for step in rng.choices(STEPS, k=rng.randrange(1, 5)):
            world.made.append(step.__name__)
            step(world, rng)
        world.run()
        assert world.differences() == {}, f"seed {seed}, run {world.runs}, after {world.made}"


@pytest.mark.parametrize("seed", [0])
def test_incremental_equals_full_over_random_histories(world: World, seed: int) -> None:
    walk(world, seed, 7)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 115))
def test_incremental_equals_full_over_many_random_histories(world: World, seed: int) -> None:
    walk(world, seed, 12)


def test_what_a_visitor_did_before_login_follows_the_person_and_leaves_again(world: World) -> None:
    def visit(number: int, *ids: tuple[str, str]) -> dict[str, Any]:
        return {
            "event_id": f"e{number}", "event_name": "view", "event_at": world.now - timedelta(days=10 - number),
            "identifiers": [{"type": kind, "scope": "", "value": value} for kind, value in ids],
        }  # fmt: skip

    def owners() -> dict[str, str]:
        return dict(world.ask("select split_part(event_key, '|', 2), one_id from marts.fct_events"))

    world.land("canonical__events", visit(1, ("anonymous_id", "cookie")), visit(2, ("member_id", "m1")))
    world.run()
    before = owners()
    assert before["e1"] != before["e2"]
    world.land("canonical__events", visit(3, ("member_id", "m1"), ("anonymous_id", "cookie")))
    world.run()
    assert owners() == {"e1": before["e2"], "e2": before["e2"], "e3": before["e2"]}
    assert world.differences() == {}
    world.con.execute("delete from raw.canonical__events where event_id = 'e3'")
    world.run()
    assert owners() == before, "the split gives both their own again"


def test_events_of_somebody_forgotten_are_nobodys(world: World) -> None:
    world.land("canonical__events", {
        "event_id": "e1", "event_name": "view", "event_at": world.now,
        "identifiers": [{"type": "member_id", "scope": "", "value": "m1"}],
    })  # fmt: skip
    world.run()
    assert world.ask("select one_id is not null from marts.fct_events") == [(True,)]
    found = find(world.con, "m1")
    forget(world.con, world.rules, [found], now=world.now, secret=SECRET, apply=True)
    world.run()
    assert world.ask("select one_id from marts.fct_events") == [(None,)]
    assert world.ask("select one_id from intermediate.int_people__identifier_sets") == [(None,)]


def test_a_run_reads_new_batches_alone(world: World) -> None:
    for number in range(3):
        world.land("canonical__events", {
            "event_id": f"e{number}", "event_name": "view", "event_at": world.now,
            "identifiers": [{"type": "anonymous_id", "scope": "", "value": f"a{number}"}],
        })  # fmt: skip
        world.run()
    # a row that nothing gives shows which rows a run makes again
    for table, column in (("staging.stg_tracking_identifiers", "source"), ("marts_db.marts.fct_events", "page")):
        world.con.execute(f"update {table} set {column} = 'by hand'")
    world.land("canonical__events", {
        "event_id": "e9", "event_name": "view", "event_at": world.now,
        "identifiers": [{"type": "anonymous_id", "scope": "", "value": "a9"}],
    })  # fmt: skip
    world.run()
    assert world.ask("select count(*) filter (page = 'by hand'), count(*) from marts.fct_events") == [(3, 4)]
    world.run(full=True)
    assert world.ask("select count(*) filter (page = 'by hand'), count(*) from marts.fct_events") == [(0, 4)]
    assert world.differences() == {}


def test_a_failed_run_leaves_the_mark_where_it_was(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows and mark are one transaction: what stops between them leaves neither, and the next run makes both."""
    events(world, random.Random(1))
    world.run()
    events(world, random.Random(2))
    with monkeypatch.context() as patched:
        patched.setattr("warehouse.models.remember", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            world.run()
    world.run()
    assert world.differences() == {}


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_model_that_reads_otherwise_is_made_again(world: World, graph: ModelGraph) -> None:
    events(world, random.Random(1))
    world.run()
    world.con.execute("update marts_db.marts.fct_events set page = 'by hand'")
    set_parameters(world.con, as_of=world.now, timezone="Europe/Paris")
    run_models(world.con, graph, ["fct_events"])
    assert world.ask("select count(*) from marts.fct_events where page = 'by hand'") == [(0,)]


def event(number: int, *ids: str, at: datetime = T0) -> dict[str, Any]:
    return {
        "event_id": f"e{number}", "event_name": "view", "event_at": at,
        "identifiers": [{"type": kind, "scope": "", "value": value} for kind, value in (x.split(":") for x in ids)],
    }  # fmt: skip


def test_a_value_that_erasure_emptied_leaves_every_table(world: World) -> None:
    """Erasure keeps the row's hash, so that the row is known when it comes again: the ledger alone tells."""
    world.land("canonical__events", event(1, "member_id:m1", "phone:13800001111"))
    world.land("canonical__events", event(2, "member_id:m2"))
    world.run()
    world.con.execute("""update raw.canonical__events set identifiers = identifiers[1:1] where event_id = 'e1'""")
    world.con.execute("insert into raw._batches (batch_seq, erased_at) values (1, ?)", [world.now])
    world.run()
    assert world.differences() == {}
    for table in ("staging.stg_tracking_identifiers", "identity.int_identity__evidence", INCREMENTAL[2]):
        assert world.ask(f"select 1 from {table} where cast(identifiers as varchar) like '%1380000%'") == []
    # a second request may empty more of the same batch
    world.con.execute("update raw.canonical__events set identifiers = [] where event_id = 'e1'")
    world.con.execute("update raw._batches set erased_at = ?", [world.now + timedelta(hours=1)])
    world.run()
    assert world.differences() == {}


def test_a_batch_that_commits_after_a_later_one_is_read(world: World) -> None:
    world.keys = 5
    world.land("canonical__events", event(6, "member_id:m1"))
    world.run()
    world.keys = 2
    world.land("canonical__events", event(3, "member_id:m1", "anonymous_id:a"))
    world.run()
    assert world.ask("select count(*) from marts.fct_events") == [(2,)]
    assert world.differences() == {}


def test_people_follow_though_the_clock_went_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.land("canonical__events", event(1, "anonymous_id:cookie"), event(2, "member_id:m1"))
    world.run()
    monkeypatch.setattr("warehouse.model_increments.time.time_ns", lambda: 10**15)
    world.land("canonical__events", event(3, "member_id:m1", "anonymous_id:cookie"))
    world.run()
    assert world.ask("select count(distinct one_id) from marts.fct_events") == [(1,)]
    assert world.differences() == {}


def test_what_follows_a_table_of_another_text_is_made_again(world: World) -> None:
    """The followed table's batches are the same, what it says of them is not."""
    world.land("canonical__events", event(1, "member_id:m1"))
    world.run()
    name = "staging.stg_tracking_identifiers"
    former = world.graph.models[name]
    text = former.sql.replace(
        "when is_login then 'login'", "when is_login then 'login'\n            when true then 'bind'"
    )
    models = world.graph.models | {name: replace(former, sql=text)}
    world.graph = replace(world.graph, models=models)
    world.run()
    assert world.ask("select distinct kind from identity.int_identity__evidence") == [("bind",)]
    assert world.differences() == {}


def test_another_secret_makes_every_digest_again(world: World) -> None:
    world.land("canonical__events", event(1, "member_id:m1"))
    world.run()
    before = world.ask("select identifier_set from marts.fct_events")
    world.con.execute("set variable salt = 'another'")
    world.run()
    assert world.ask("select identifier_set from marts.fct_events") != before
    assert world.differences() == {}


def test_a_source_that_is_no_longer_configured_loses_its_settings(world: World) -> None:
    world.land("sensors__records", {
        "record_key": "k", "type": "track", "event": "e", "time": int(T0.timestamp() * 1000), "distinct_id": "u",
        "login_id": "u", "properties": '{"$is_login_id": true}',
    }, source="logs")  # fmt: skip
    setting(world.con, "logs", login_id_scope="eu")
    world.run()
    world.con.execute("delete from raw._source_settings where source = 'logs'")
    world.run()
    assert world.differences() == {}


def test_evidence_made_again_as_it_was_stays_and_says_when_it_was_made(world: World) -> None:
    def made() -> dict[str, int]:
        return dict(world.ask("select source_key, made_at from identity.int_identity__evidence"))

    def link(member: str, kind: str) -> None:
        world.land("canonical__id_links", {
            "link_id": member, "kind": kind, "linked_at": world.now, "a_type": "member_id", "a_scope": "",
            "a_value": member, "b_type": "phone", "b_scope": "", "b_value": f"1380000111{member[1]}",
        })  # fmt: skip

    link("m1", "bind")
    link("m2", "bind")
    world.land("canonical__events", event(1, "anonymous_id:a"), event(2, "anonymous_id:b"))
    world.run()
    before = made()
    assert len(before) == 4
    link("m2", "login")
    world.land("canonical__events", event(3, "anonymous_id:a"))
    world.run()
    after = made()
    newer = {key for key in after if after[key] != before.get(key)}
    assert len(newer) == 2, "the link that changed, and the visitor seen once more"
    assert all(after[key] > max(before.values()) for key in newer)
    assert world.differences() == {}
    report = world.con.execute("select report from identity.run_manifest order by run desc limit 1").fetchall()[0][0]
    assert ('"new_evidence": 2' in report, '"gone_evidence": 2' in report) == (True, True)
