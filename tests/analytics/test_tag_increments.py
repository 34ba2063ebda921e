"""A day's increment is the whole computed anew: facts, tags and their history, over random days, edits and merges."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from cdp.config import parse
from cdp.metrics.config import MetricsConfig
from cdp.tags.config import TagsConfig
from tests.analytics.brand import AS_OF, ROOT, ZONE, build_marts, model_graph, open_memory
from warehouse import analytics_tags
from warehouse.analytics import build_ltv, build_tags, set_manual_tag
from warehouse.analytics_tag_scope import plan_scope
from warehouse.model_diff import diff_model
from warehouse.models import load_models, run_models
from warehouse.touched_people import EVENTS, KEPT_RUNS, note_touched, touched_since_sql

MARTS = "marts_db.marts"
PEOPLE = 24
START = AS_OF - timedelta(days=70)
TEXT = (ROOT / "config" / "tags.yaml").read_text(encoding="utf-8") + (
    "  - {id: kept, kind: rule, resolve: first_match, on_empty: keep_last, ttl: 9d,"
    ' rules: {近购: "recency_days <= 10"}, overrides: [manual]}\n'
    '  - {id: flags, kind: rule, exclusive: false, rules: {会员: is_member, 买家: "orders_paid > 0"}}\n'
    "  - {id: last_seen, kind: first_last, source: fct_events, pick: last, value: event_name, history: none}\n"
    "  - {id: first_channel, kind: first_last, source: fct_orders, pick: first, value: channel}\n"
    '  - {id: slow, kind: rule, refresh: weekly, rules: {活跃: "interactions_30d > 0"}}\n'
    '  - {id: agreed, kind: rule, consent_purpose: marketing, rules: {买家: "orders_paid > 0"}}\n'
    '  - {id: spent, kind: statistic, source: fct_orders, value: "sum(amount)", window: 20d,'
    " bands: [{name: 低, below: 100}, {name: 高}]}\n"
    '  - {id: returned, kind: statistic, source: fct_refunds, value: "sum(amount)", window: 20d,'
    " bands: [{name: 少, below: 10}, {name: 多}]}\n"
    '  - {id: seen, kind: statistic, source: fct_events, value: "count(*)", window: 36h, among: "orders_paid > 0",'
    " bands: [{name: 少, below: 2}, {name: 多}]}\n"
    "  - {id: referrer, kind: statistic, value: referred_buyers, bands: [{name: 无, below: 1}, {name: 有}]}\n"
    '  - {id: steady, kind: rule, rules: {回头客: "orders_paid >= 2"}, health: {psi_max: 0.2, severity: error}}\n'
)
OTHER = TEXT.replace("- {name: 低活跃, below: 4}", "- {name: 低活跃, below: 3}").replace(
    "orders_paid >= 2", "orders_paid > 2"
)
ORDER = (
    f"insert into {MARTS}.fct_orders (order_key, one_id, is_paid, paid_at, paid_date, amount, refund_amount, channel)"
    " select 'x' || {n}, '{who}', true, timestamptz '{at}', cast(timezone('" + ZONE + "', timestamptz '{at}') as date),"
    " 30 + {n} % 50, 0, 'ch' || {n} % 3"
)
EVENT = (
    f"insert into {MARTS}.fct_events (event_key, one_id, event_name, event_at, event_date)"
    " select 'y' || {n}, '{who}', 'page' || {n} % 3, timestamptz '{at}',"
    " cast(timezone('" + ZONE + "', timestamptz '{at}') as date)"
)
EDITS = {
    "order": ORDER,
    "event": EVENT,
    "refund": f"update {MARTS}.fct_orders set refund_amount = amount, refunded_at = timestamptz '{{at}}'"
    " where one_id = '{who}'",
    "partial refund": f"insert into {MARTS}.fct_refunds (refund_key, order_key, one_id, refunded_at, amount)"
    " select concat('w', {n}, '|', later, '|', order_key), order_key, one_id, timestamptz '{at}' + to_days(later), 5"
    f" from {MARTS}.fct_orders, unnest([-5, 1, 20]) as parts (later) where one_id = '{{who}}';"
    f" update {MARTS}.fct_orders set refund_amount = told.amount, refunded_at = told.latest from (select order_key,"
    f" sum(amount) as amount, max(refunded_at) as latest from {MARTS}.fct_refunds group by order_key) as told"
    " where told.order_key = fct_orders.order_key and one_id = '{who}'",
    "refund moved": f"update {MARTS}.fct_refunds set refunded_at = timestamptz '{{at}}' where one_id = '{{who}}'"
    " and hash(refund_key) % 2 = {n} % 2",
    "order lost": f"delete from {MARTS}.fct_orders where one_id = '{{who}}' and hash(order_key) % 2 = {{n}} % 2",
    "event lost": f"delete from {MARTS}.fct_events where one_id = '{{who}}' and hash(event_key) % 2 = {{n}} % 2",
    "event moved": f"update {MARTS}.fct_events set one_id = '{{other}}' where one_id = '{{who}}'"
    " and hash(event_key) % 2 = {n} % 2",
    "line": f"update {MARTS}.fct_order_lines set category = '彩妆' where one_id = '{{who}}'",
    "city": f"update {MARTS}.dim_people set is_follower = not is_follower, consent_marketing = {{n}} % 2 = 0"
    " where one_id = '{who}'",
    "scored": f"update {MARTS}.fct_ltv_people set p_alive = {{n}} % 10 / 10.0 where one_id >= '{{who}}'",
    "unfriended": f"update {MARTS}.fct_relations set removed_at = timestamptz '{{at}}' where one_id = '{{who}}'",
    "invited": f"insert into {MARTS}.fct_referrals (referral_key, inviter_one_id, invitee_one_id, invited_at)"
    " select 'z' || {n}, '{who}', '{other}', timestamptz '{at}'",
    "merge": "; ".join(
        [f"update {MARTS}.{table} set one_id = '{{other}}' where one_id = '{{who}}' and '{{who}}' <> '{{other}}'"
         for table in ("fct_orders", "fct_refunds", "fct_order_lines", "fct_events", "fct_relations",
                       "fct_group_memberships")]
        + [f"delete from {MARTS}.dim_people where one_id = '{{who}}' and '{{who}}' <> '{{other}}'"]
    ),
    "forgotten": "; ".join(
        f"delete from {MARTS}.{table} where one_id = '{{who}}'"
        for table in ("fct_orders", "fct_refunds", "fct_events", "dim_people")
    ),
    "newcomer": f"insert into {MARTS}.dim_people (one_id, is_follower) select 'n{{n}}', true;"
    + ";".join(
        f" update {MARTS}.{table} set one_id = 'n{{n}}' where one_id = '{{who}}' and hash(order_key) % 3 = 0"
        for table in ("fct_orders", "fct_refunds")
    ),
}  # fmt: skip


class Brand:
    """A brand whose days are run by increments, or all anew. Edits tell whose events they touched."""

    def __init__(self, *, anew: bool) -> None:
        self.anew = anew
        self.con = open_memory(START, ZONE)
        build_marts(self.con, people=PEOPLE, seed=5)
        build_ltv(self.con, MetricsConfig(), as_of=START, timezone=ZONE)
        note_touched(self.con, EVENTS, None)

    def edit(self, text: str) -> None:
        self.con.execute(f"create or replace temp table before as from {MARTS}.fct_events")
        self.con.execute(text)
        gone = f"(from before except all from {MARTS}.fct_events)"
        come = f"(from {MARTS}.fct_events except all from before)"
        note_touched(self.con, EVENTS, f"select one_id from (from {gone} union all from {come})")

    def facts(self, as_of: datetime) -> None:
        self.con.execute("set variable as_of = ?::timestamptz", [as_of])
        run_models(
            self.con, model_graph(), ["fct_person_facts", "fct_person_activity", "fct_person_features"], full=self.anew
        )

    def tags(self, text: str, as_of: datetime) -> None:
        if self.anew:
            self.con.execute(analytics_tags._DDL)
            self.con.execute("delete from activation.tag_seen")
        build_tags(self.con, parse(text, TagsConfig, file="tags.yaml"), as_of=as_of, timezone=ZONE)

    def rows(self) -> dict[str, list[tuple[Any, ...]]]:
        tables = ("fct_person_features", "fct_tags_current", "fct_tag_history", "dim_tags", "fct_tag_group_runs",
                  "fct_tag_health")  # fmt: skip
        return {
            table: self.con.execute(
                f"select columns(lambda c: c <> 'row_id') from {MARTS}.{table} order by all"
            ).fetchall()
            for table in tables
        }


day = st.fixed_dictionaries(
    {
        "ahead": st.sampled_from([0, 1, 1, 1, 2, 7, 8, 30]),
        "changed": st.booleans(),
        "tagged": st.sampled_from([True, True, True, False]),
        "edits": st.lists(
            st.tuples(
                st.sampled_from(sorted(EDITS)),
                st.integers(0, PEOPLE - 1),
                st.integers(0, PEOPLE - 1),
                st.integers(-40, 2),
            ),
            max_size=4,
        ),
    }
)


ANY = {"deadline": None, "suppress_health_check": list(HealthCheck), "derandomize": True, "phases": [Phase.generate]}


@settings(max_examples=4, **ANY)
@given(days=st.lists(day, min_size=2, max_size=3))
def test_days_by_increment_equal_days_computed_anew(days: list[dict[str, Any]]) -> None:
    """Late, moved and lost rows, merges, people who come and go, changed definitions, days left out or run twice, and
    runs that stop between facts and tags."""
    run_days(days)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@settings(max_examples=40, **ANY)
@given(days=st.lists(day, min_size=2, max_size=6))
def test_many_days_by_increment_equal_days_computed_anew(days: list[dict[str, Any]]) -> None:
    run_days(days)


def run_days(days: list[dict[str, Any]]) -> None:
    brands = [Brand(anew=False), Brand(anew=True)]
    as_of, number = START, 0
    for plan in [{"ahead": 0, "changed": False, "tagged": True, "edits": []}, *days]:
        as_of += timedelta(days=plan["ahead"])
        text = OTHER if plan["changed"] else TEXT
        edits = []
        for kind, who, other, back in plan["edits"]:
            number += 1
            at = as_of + timedelta(days=back, hours=number % 24)
            edits.append(EDITS[kind].format(n=number, who=f"p{who:06d}", other=f"p{other:06d}", at=at.isoformat()))
        for brand in brands:
            for edit in edits:
                brand.edit(edit)
            brand.facts(as_of)
            if plan["tagged"]:
                brand.tags(text, as_of)
        if plan["tagged"]:
            increment, anew = (brand.rows() for brand in brands)
            assert increment == anew
    for brand in brands:
        brand.con.close()


def test_refunds_count_from_their_own_day_by_increment_too() -> None:
    """The cut passes one refund of an order after another, and a refund moves though its order stays as it is."""
    brands = [Brand(anew=False), Brand(anew=True)]
    for brand in brands:
        brand.facts(START)
        brand.edit(ORDER.format(n=1, who="p000003", at=(START - timedelta(days=3)).isoformat()))
        brand.edit(EDITS["partial refund"].format(n=1, who="p000003", at=START.isoformat()))
    moved = f"update {MARTS}.fct_refunds set refunded_at = timestamptz '{START}' where refund_key = 'w1|20|x1'"
    told = []
    for days, edit in ((0, ""), (2, ""), (2, moved), (3, ""), (21, "")):
        found = set()
        for brand in brands:
            if edit:
                brand.edit(edit)
            brand.facts(START + timedelta(days=days))
            found |= set(
                brand.con.execute(
                    f"select refund_amount, refunded_orders, orders_paid from {MARTS}.fct_person_features"
                    " where one_id = 'p000003'"
                ).fetchall()
            )
        assert len(found) == 1, (days, found)
        told.append(found.pop())
    orders = told[0][2]
    parts = (orders, 2 * orders, 2 * orders + 1, 2 * orders + 1, 3 * orders)  # refunds before each cut, of 5 yuan each
    assert told == [(5 * known, orders, orders) for known in parts]
    for brand in brands:
        brand.con.close()


def test_who_is_gone_holds_nothing_by_increment_too() -> None:
    """Groups whose rows are looked for among few people as well: merged into another, and forgotten."""
    run_days(
        [
            {"ahead": 1, "changed": False, "tagged": True, "edits": edits}
            for edits in ([("merge", 4, 1, -6)], [("forgotten", 2, 0, -1)])
        ]
    )


def test_an_increment_computes_only_who_can_differ() -> None:
    brand = Brand(anew=False)
    brand.facts(START)
    brand.tags(TEXT, START)
    brand.edit(EDITS["order"].format(n=1, who="p000003", at=START.isoformat()))
    brand.facts(START)
    made = brand.con.execute("select count(*) from temp.touched_people").fetchall()[0][0]
    scope = plan_scope(brand.con, parse(TEXT, TagsConfig, file="tags.yaml"), START)
    assert made <= 3
    assert not scope.whole
    assert scope.moving == {"rfm", "value_tier"}
    assert scope.anew == {"churn_risk", "kept", "agreed"}
    assert scope.rows.keys() == {"category_preference", "last_seen", "first_channel", "spent", "returned", "seen"}
    assert brand.con.execute("select count(*) from temp.tag_scope").fetchall()[0][0] <= 3
    brand.con.close()


def test_manual_values_are_seen_by_an_increment() -> None:
    brand = Brand(anew=False)
    brand.facts(START)
    brand.tags(TEXT, START)
    config = parse(TEXT, TagsConfig, file="tags.yaml")
    set_manual_tag(brand.con, config, one_id="p000002", group="kept", value="近购", by="店长", at=START)
    later = START + timedelta(days=1)
    brand.facts(later)
    brand.tags(TEXT, later)
    found = brand.con.execute(
        f"select value from {MARTS}.fct_tags_current where one_id = 'p000002' and tag_group = 'kept'"
    ).fetchall()
    assert found == [("近购",)]
    brand.con.close()


def test_an_increment_that_is_stopped_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Facts and tags are each one transaction with what they have seen: the next run starts from there."""
    brands = [Brand(anew=False), Brand(anew=True)]
    later = START + timedelta(days=1)
    for brand in brands:
        brand.facts(START)
        brand.tags(TEXT, START)
        brand.edit(EDITS["event"].format(n=1, who="p000004", at=START.isoformat()))
    with monkeypatch.context() as stopped:
        stopped.setattr("warehouse.models.remember", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            brands[0].facts(later)
    for brand in brands:
        brand.facts(later)
    with monkeypatch.context() as stopped:
        stopped.setattr(analytics_tags, "remember_scope", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            brands[0].tags(TEXT, later)
    for brand in brands:
        brand.tags(TEXT, later)
    assert brands[0].rows() == brands[1].rows()
    for brand in brands:
        brand.con.close()


@pytest.fixture
def noted() -> duckdb.DuckDBPyConnection:
    con = open_memory(START, ZONE)
    build_marts(con, people=5, seed=1)
    note_touched(con, EVENTS, None)
    return con


def _run(con: duckdb.DuckDBPyConnection) -> int:
    return int(con.execute("select max(run) from marts_db.meta.touched_runs").fetchall()[0][0])


def test_the_feed_tells_who_was_touched_since(noted: duckdb.DuckDBPyConnection) -> None:
    first = _run(noted)
    note_touched(noted, EVENTS, "select unnest(['b', 'a', 'b', null]) as one_id")
    second = _run(noted)
    note_touched(noted, EVENTS, "select 'c' as one_id")
    for since, expected in ((first, ["a", "b", "c"]), (second, ["c"]), (_run(noted), [])):
        query = touched_since_sql(noted, EVENTS, since)
        assert query is not None
        assert [row[0] for row in noted.execute(f"{query} order by 1").fetchall()] == expected


def test_everyone_is_taken_where_the_feed_cannot_tell(noted: duckdb.DuckDBPyConnection) -> None:
    first = _run(noted)
    assert touched_since_sql(noted, EVENTS, None) is None  # never seen
    assert touched_since_sql(noted, EVENTS, first - 1) is None  # of another file
    noted.execute(f"delete from {MARTS}.fct_events where event_key = (select min(event_key) from {MARTS}.fct_events)")
    assert touched_since_sql(noted, EVENTS, first) is None  # rows went without being noted
    note_touched(noted, EVENTS, "select 'a' as one_id")
    assert touched_since_sql(noted, EVENTS, first) is not None
    note_touched(noted, EVENTS, None)
    assert touched_since_sql(noted, EVENTS, first) is None  # made whole since
    for _ in range(KEPT_RUNS):
        note_touched(noted, EVENTS, "select 'a' as one_id")
    assert touched_since_sql(noted, EVENTS, first) is None  # too long ago
    kept = noted.execute("select count(*) from marts_db.meta.touched_people").fetchall()[0][0]
    assert kept == KEPT_RUNS


def test_facts_are_made_of_everyone_when_time_goes_back() -> None:
    brand = Brand(anew=False)
    brand.facts(START)
    brand.facts(START - timedelta(days=9))
    whole = brand.con.execute(
        "select is_whole from marts_db.meta.touched_runs where model = 'marts.fct_person_facts' order by run"
    ).fetchall()
    assert whole == [(True,), (True,)]
    brand.con.close()


FED = """/*
Events.
grain: event_key
owner: data
materialized: incremental
follows: raw.batches
*/
with fct_events as (
    select event_key, one_id, batch_seq from raw.events
)

select * from fct_events
"""
MOVED = """/*
Events whose person is another now.
grain: event_key
owner: data
*/
with fct_events_update as (
    select stored.event_key, owners.one_id
    from marts.fct_events as stored
    inner join raw.owners as owners on owners.event_key = stored.event_key
    where owners.one_id <> stored.one_id
)

select * from fct_events_update
"""


def test_a_model_notes_whose_rows_came_went_and_moved(tmp_path: Path) -> None:
    folder = tmp_path / "marts"
    folder.mkdir()
    (folder / "fct_events.sql").write_text(FED, encoding="utf-8")
    (folder / "fct_events.update.sql").write_text(MOVED, encoding="utf-8")
    (tmp_path / "external.yaml").write_text("", encoding="utf-8")
    graph = load_models(tmp_path)
    con = open_memory(START, ZONE)
    con.execute(f"drop table {MARTS}.fct_events")
    con.execute(
        """
        create schema raw;
        create table raw.batches (batch_seq bigint, source text, digest text);
        create table raw.events (event_key text, one_id text, batch_seq bigint);
        create table raw.owners (event_key text, one_id text);
        insert into raw.batches values (1, 's', 'x');
        insert into raw.events values ('e1', 'a', 1), ('e2', 'b', 1)
        """
    )
    changes = {
        "first": ("", None),
        "a batch comes": (
            "insert into raw.batches values (2, 's', 'y'); insert into raw.events values ('e3', 'c', 2)", ["c"]
        ),
        "a batch is read again": (
            "update raw.batches set digest = 'z' where batch_seq = 1; update raw.events set one_id = 'd'"
            " where event_key = 'e1'", ["a", "b", "d"]
        ),
        "a row goes": (
            "update raw.batches set digest = 'w' where batch_seq = 2; delete from raw.events where event_key = 'e3'",
            ["c"],
        ),
        "identity moves a row": ("insert into raw.owners values ('e2', 'f')", ["b", "f"]),
        "nothing": ("delete from raw.owners", []),
    }  # fmt: skip
    for name, (sql, expected) in changes.items():
        con.execute(sql)
        run_models(con, graph, ["fct_events"])
        run, whole = con.execute(
            "select max(run), arg_max(is_whole, run) from marts_db.meta.touched_runs where model = 'marts.fct_events'"
        ).fetchall()[0]
        people = con.execute(
            "select one_id from marts_db.meta.touched_people where run = ? order by 1", [run]
        ).fetchall()
        assert (name, None if whole else [row[0] for row in people]) == (name, expected)
    con.close()


def test_a_diff_makes_the_facts_of_everyone(tmp_path: Path) -> None:
    brand = Brand(anew=False)
    brand.facts(START)
    brand.facts(START)
    published = tmp_path / "published.duckdb"
    brand.con.execute(f"attach '{published}' as copy")
    brand.con.execute("create schema copy.marts")
    brand.con.execute(f"create table copy.marts.fct_person_facts as from {MARTS}.fct_person_facts")
    brand.con.execute("detach copy")
    assert diff_model(brand.con, model_graph()["fct_person_facts"], published).same
    brand.con.close()
