"""A day's increment of the funnels is the whole computed anew, over random days, edits, merges, erasures and modes."""

from __future__ import annotations

import random
from collections.abc import Collection
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from cdp.config import parse
from cdp.funnels.config import FunnelsConfig
from cdp.privacy.traces import Traces
from tests.analytics.brand import AS_OF, ZONE, build_marts, open_memory
from warehouse import analytics_funnel_scope, analytics_funnels
from warehouse.analytics import FunnelReport, build_funnels
from warehouse.erasure_tables import erase_tables
from warehouse.touched_people import EVENTS, note_touched

MARTS = "marts_db.marts"
PEOPLE = 24
START = AS_OF - timedelta(days=70)
STEPS = "steps: [{id: v, event: [page_view, product_view]}, {id: c, event: add_to_cart}, {id: p, event: order_paid}]"
TWO = "steps: [{id: v, event: product_view}, {id: p, event: [order_paid, add_to_cart]}]"
TEXT = f"""funnels:
  - {{id: plain, {STEPS}, window: {{total: 30d}}, bucket: {{grain: week}}}}
  - {{id: at_entry, {STEPS}, window: {{total: 20d}}, breakdown: {{by: channel}}, bucket: {{grain: month}}}}
  - {{id: at_step, {STEPS}, breakdown: {{by: campaign_id, at: 'step:c', missing: drop}}}}
  - {{id: at_person, {STEPS}, breakdown: {{by: city, at: person}}, entry: first}}
  - {{id: at_first, {STEPS}, breakdown: {{by: channel, at: first_touch}}, entry: each, window: {{total: 10d}}}}
  - {{id: at_last, {STEPS}, breakdown: {{by: channel, at: last_touch, missing: drop}}}}
  - {{id: anyhow, order: any, {STEPS}, window: {{total: 30d}}}}
  - {{id: next_one, order: adjacent, {TWO}}}
  - {{id: next_of, order: adjacent, universe: [product_view, add_to_cart, order_paid], {TWO}, entry: each}}
  - {{id: held, hold: [product_id], {TWO}, window: {{total: 30d}}}}
  - id: held_otherwise
    hold: [thing]
    steps:
      - {{id: v, event: product_view, hold: {{thing: product_id}}}}
      - {{id: p, event: order_paid, hold: {{thing: channel}}}}
  - {{id: excluded, {STEPS}, exclude: [{{event: search, from: v, to: p, effect: truncate}}], window: {{total: 30d}}}}
  - {{id: dropped, {STEPS}, exclude: [{{event: page_view, where: "properties.x = '1'"}}], window: {{total: 30d}}}}
  - {{id: late, {STEPS}, since: 20d, ties: strictly_after}}
  - {{id: ripe, {STEPS}, window: {{total: 7d}}, mature_only: true}}
  - {{id: ripe_days, {STEPS}, window: {{total: 7d, clock: natural_day}}, mature_only: true, entry: each}}
  - {{id: agreed, {STEPS}, consent_purpose: marketing}}
  - {{id: unit, unit: product_id, {TWO}, window: {{total: 30d}}}}
  - id: optional
    steps:
      - {{id: v, event: product_view}}
      - {{id: c, event: add_to_cart, optional: true, within: 9d}}
      - {{id: p, event: order_paid}}
"""
OTHER = TEXT.replace("id: plain, ", "id: plain, entry: first, ")
NUMBER = TEXT.count("\n  - ")


def some(text: str, numbers: Collection[int]) -> str:
    """*text* with these of its funnels: what one funnel makes a run look at again hides what another would miss."""
    head, *funnels = text.split("\n  - ")
    return "\n  - ".join([head, *(funnels[number] for number in sorted(numbers))])


PURPOSES = {"marketing": "agrees"}
AT = "timestamptz '{at}'"
DAY = f"cast(timezone('{ZONE}', {AT}) as date)"
EDITS = {
    "event": f"insert into {MARTS}.fct_events (event_key, one_id, event_name, event_at, event_date, channel,"
    " product_id, properties) select 'y{n}', '{who}',"
    " (['page_view', 'product_view', 'add_to_cart', 'search'])[1 + {n} % 4],"
    f" {AT}, {DAY}, 'ch' || {{n}} % 3, 'sku' || {{n}} % 20, '{{{{\"x\": {{n}}}}}}'",
    "order": f"insert into {MARTS}.fct_orders (order_key, one_id, is_paid, paid_at, paid_date, amount, channel)"
    f" select 'x{{n}}', '{{who}}', true, {AT}, {DAY}, 30, 'sku' || {{n}} % 20",
    "order mended": f"update {MARTS}.fct_orders set paid_at = paid_at + interval 3 day where one_id = '{{who}}'",
    "order lost": f"delete from {MARTS}.fct_orders where one_id = '{{who}}' and hash(order_key) % 2 = {{n}} % 2",
    "events lost": f"delete from {MARTS}.fct_events where one_id = '{{who}}' and hash(event_key) % 2 = {{n}} % 2",
    "events moved": f"update {MARTS}.fct_events set one_id = '{{other}}' where one_id = '{{who}}'"
    " and hash(event_key) % 2 = {n} % 2",
    "events named": f"update {MARTS}.fct_events set campaign_id = 'k{{n}}', properties = '{{{{\"x\": \"1\"}}}}'"
    " where one_id = '{who}' and hash(event_key) % 3 = {n} % 3",
    "city": f"update {MARTS}.dim_people set city = 'city' || {{n}} % 4 where one_id = '{{who}}'",
    "touch": f"insert into {MARTS}.fct_touches (touch_key, one_id, touched_at, channel)"
    f" select 't{{n}}', '{{who}}', {AT}, 'ch' || {{n}} % 3",
    "touch lost": f"delete from {MARTS}.fct_touches where one_id = '{{who}}'",
    "mind": f"update {MARTS}.fct_person_features set agrees = not agrees where one_id = '{{who}}'",
    "merge": "; ".join(
        [f"update {MARTS}.{table} set one_id = '{{other}}' where one_id = '{{who}}' and '{{who}}' <> '{{other}}'"
         for table in ("fct_orders", "fct_events", "fct_touches")]
        + [f"delete from {MARTS}.{table} where one_id = '{{who}}' and '{{who}}' <> '{{other}}'"
           for table in ("dim_people", "fct_person_features")]
    ),
}  # fmt: skip
JOURNEY = f"""
    select event_key, one_id, event_name, event_at, event_date, channel, campaign_id, order_key, product_id, amount,
        null::bigint as order_no, properties, source from {MARTS}.fct_events where one_id is not null
    union all by name
    select 'paid|' || order_key as event_key, one_id, 'order_paid' as event_name, paid_at as event_at,
        paid_date as event_date, channel, order_key, amount, order_no from {MARTS}.fct_orders where is_paid
"""


class Brand:
    """A brand whose funnels are made by increments, or all anew. Edits tell whose events they touched. *is_united*: its
    journey is a union of tables, so that only what was touched of its events is looked at."""

    def __init__(self, *, anew: bool, is_united: bool = True) -> None:
        self.anew = anew
        self.con = open_memory(START, ZONE)
        build_marts(self.con, people=PEOPLE, seed=5)
        journey = JOURNEY if is_united else f"select distinct * from ({JOURNEY})"
        self.con.execute(
            f"""
            update {MARTS}.dim_people set city = 'city' || hash(one_id) % 4;
            insert into {MARTS}.fct_touches by name select 't' || event_key as touch_key, one_id,
                event_at as touched_at, 'ch' || hash(event_key) % 3 as channel
                from {MARTS}.fct_events where hash(event_key) % 6 = 0;
            create table {MARTS}.fct_person_features as select one_id, hash(one_id) % 3 > 0 as agrees
                from {MARTS}.dim_people;
            drop table {MARTS}.fct_journey;
            create view {MARTS}.fct_journey as {journey};
            """
        )
        note_touched(self.con, EVENTS, None)

    def edit(self, text: str) -> None:
        self.con.execute(f"create or replace temp table before as from {MARTS}.fct_events")
        self.con.execute(text)
        gone = f"(from before except all from {MARTS}.fct_events)"
        come = f"(from {MARTS}.fct_events except all from before)"
        note_touched(self.con, EVENTS, f"select one_id from (from {gone} union all from {come})")

    def erase(self, who: str) -> None:
        traces = Traces(identifiers=frozenset(), one_ids=frozenset({who}))
        erase_tables(self.con, "marts_db", traces, apply=True)
        assert erase_tables(self.con, "marts_db", traces, apply=False) == {}

    def funnels(self, text: str, as_of: datetime, zone: str = ZONE) -> FunnelReport:
        if self.anew:
            self.con.execute("drop table if exists marts_db.meta.funnel_seen")
        config = parse(text, FunnelsConfig, file="funnels.yaml")
        return build_funnels(self.con, config, as_of=as_of, timezone=zone, purposes=PURPOSES)

    def rows(self) -> dict[str, list[tuple[Any, ...]]]:
        return {
            table: self.con.execute(f"select * from {MARTS}.{table} order by all").fetchall()
            for table in ("fct_funnel_people", "fct_funnel_steps")
        }


day = st.fixed_dictionaries(
    {
        "ahead": st.sampled_from([0, 1, 1, 1, 2, 7, 8, 30, -3]),
        "changed": st.sampled_from([False, False, False, True]),
        "zone": st.sampled_from([ZONE, ZONE, ZONE, "America/New_York"]),
        "erased": st.sampled_from([None, None, None, *range(PEOPLE)]),
        "run": st.sampled_from([True, True, True, False]),
        "edits": st.lists(
            st.tuples(
                st.sampled_from(sorted(EDITS)),
                st.integers(0, PEOPLE - 1),
                st.integers(0, PEOPLE - 1),
                st.integers(-40, 2),
            ),
            max_size=5,
        ),
    }
)
ANY = {"deadline": None, "suppress_health_check": list(HealthCheck), "derandomize": True, "phases": [Phase.generate]}


@pytest.mark.parametrize(("seed", "numbers"), [(1, [*range(13), NUMBER - 1]), (2, range(13, NUMBER))])
def test_days_by_increment_equal_days_computed_anew(seed: int, numbers: Collection[int]) -> None:
    """Late, moved and lost rows, merges, changed minds, and days that go by, in every mode at once."""
    draw = random.Random(seed)
    days = [
        {"ahead": ahead, "changed": False, "zone": ZONE, "erased": None, "run": True}
        | {
            "edits": [
                (kind, draw.randrange(PEOPLE), draw.randrange(PEOPLE), draw.randint(-40, 2))
                for kind in draw.sample(sorted(EDITS), 6)
            ]
        }
        for ahead in (1, 8, 2)
    ]
    computed = run_days(days, numbers, is_united=True)
    assert computed[0] is None
    assert None not in computed[1:]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@settings(max_examples=60, **ANY)
@given(
    days=st.lists(day, min_size=2, max_size=6),
    numbers=st.sets(st.integers(0, NUMBER - 1), min_size=1, max_size=8),
    is_united=st.booleans(),
)
def test_many_days_by_increment_equal_days_computed_anew(
    days: list[dict[str, Any]], numbers: set[int], is_united: bool
) -> None:
    """Also erasures, changed definitions and zones, days left out or run twice, and time that goes back."""
    run_days(days, numbers, is_united=is_united)


def run_days(days: list[dict[str, Any]], numbers: Collection[int], *, is_united: bool) -> list[int | None]:
    """How many people each increment computed; None: everyone."""
    brands = [Brand(anew=False, is_united=is_united), Brand(anew=True, is_united=is_united)]
    as_of, number, computed = START, 0, []
    first = {"ahead": 0, "changed": False, "zone": ZONE, "erased": None, "run": True, "edits": []}
    for plan in [first, *days]:
        as_of += timedelta(days=plan["ahead"])
        text = some(OTHER if plan["changed"] else TEXT, numbers)
        edits = []
        for kind, who, other, back in plan["edits"]:
            number += 1
            at = as_of + timedelta(days=back, hours=number % 24)
            edits.append(EDITS[kind].format(n=number, who=f"p{who:06d}", other=f"p{other:06d}", at=at.isoformat()))
        for brand in brands:
            for edit in edits:
                brand.edit(edit)
            if plan["erased"] is not None:
                brand.erase(f"p{plan['erased']:06d}")
            if plan["run"]:
                report = brand.funnels(text, as_of, plan["zone"])
                computed += [] if brand.anew else [report.people]
        if plan["run"]:
            increment, anew = (brand.rows() for brand in brands)
            assert all(anew.values()) or len(numbers) < 8
            assert increment == anew
    for brand in brands:
        brand.con.close()
    return computed


def test_an_increment_computes_only_whom_something_new_is_of() -> None:
    brand = Brand(anew=False)
    assert brand.funnels(TEXT, START).people is None
    assert brand.funnels(TEXT, START).people == 0
    brand.edit(EDITS["event"].format(n=1, who="p000003", at=START.isoformat()))
    brand.edit(EDITS["order"].format(n=2, who="p000005", at=START.isoformat()))
    brand.con.execute(EDITS["city"].format(n=3, who="p000007"))
    brand.con.execute(f"update {MARTS}.fct_person_features set agrees = not agrees where one_id = 'p000009'")
    assert brand.funnels(TEXT, START).people == 4
    brand.con.execute(f"update {MARTS}.dim_people set gender = '女', province = '上海'")  # which no funnel reads
    assert brand.funnels(TEXT, START).people == 0
    brand.con.close()


@pytest.mark.parametrize(
    "change",
    [
        "delete from marts_db.meta.touched_runs",
        f"delete from {MARTS}.fct_events where event_key = (select min(event_key) from {MARTS}.fct_events)",
        f"delete from {MARTS}.fct_funnel_people where one_id = (select max(one_id) from {MARTS}.fct_funnel_people)",
        "delete from marts_db.meta.funnel_inputs where one_id = (select min(one_id) from marts_db.meta.funnel_inputs)",
    ],
)
def test_everyone_is_computed_where_it_cannot_be_told_who_changed(change: str) -> None:
    brand = Brand(anew=False)
    brand.funnels(TEXT, START)
    brand.con.execute(change)
    assert brand.funnels(TEXT, START).people is None
    brand.con.close()


def test_an_erasure_reaches_what_was_seen_and_everyone_is_computed() -> None:
    brands = [Brand(anew=False), Brand(anew=True)]
    who = "p000003"
    for brand in brands:
        brand.funnels(TEXT, START)
        note_touched(brand.con, EVENTS, f"select '{who}' as one_id")
    held = ("marts.fct_funnel_people", "meta.funnel_inputs", "meta.touched_people")
    for table in held:
        found = brands[0].con.execute(f"select count(*) from marts_db.{table} where one_id = '{who}'").fetchall()
        assert found[0][0] > 0, table
    for brand in brands:
        brand.erase(who)
    reports = [brand.funnels(TEXT, START + timedelta(days=1)) for brand in brands]
    assert reports[0].people is None
    assert brands[0].rows() == brands[1].rows()
    for brand in brands:
        brand.con.close()


def test_everyone_is_computed_with_other_definitions_zones_codes_and_an_earlier_day(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    brand = Brand(anew=False)
    later = START + timedelta(days=1)
    brand.funnels(TEXT, START)
    assert brand.funnels(TEXT.replace("id: plain,", "id: plain, label: 另名,"), START).people == 0
    assert brand.funnels(OTHER, START).people is None
    assert brand.funnels(OTHER, START, "Europe/Berlin").people is None
    assert brand.funnels(OTHER, later, "Europe/Berlin").people is not None
    assert brand.funnels(OTHER, START, "Europe/Berlin").people is None
    monkeypatch.setattr(analytics_funnel_scope, "_code", lambda: "another")
    assert brand.funnels(OTHER, START, "Europe/Berlin").people is None
    brand.con.close()


def test_a_run_that_is_stopped_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Results and what they were made from are one transaction: the next run goes on from the last good one."""
    brands = [Brand(anew=False), Brand(anew=True)]
    later = START + timedelta(days=8)
    for brand in brands:
        brand.funnels(TEXT, START)
        brand.edit(EDITS["event"].format(n=1, who="p000004", at=START.isoformat()))
        brand.con.execute(EDITS["order"].format(n=2, who="p000005", at=START.isoformat()))
    before = brands[0].rows()
    for place in ("put_table", "remember_funnel_scope"):
        with monkeypatch.context() as stopped:
            stopped.setattr(analytics_funnels, place, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                brands[0].funnels(TEXT, later)
        assert brands[0].rows() == before
    assert brands[0].funnels(TEXT, later).people is not None
    brands[1].funnels(TEXT, later)
    assert brands[0].rows() == brands[1].rows() != before
    for brand in brands:
        brand.con.close()


def test_an_older_marts_file_brought_back_is_gone_on_from(tmp_path: Path) -> None:
    """What was seen stands in the file of the results."""
    brand, path = Brand(anew=False), tmp_path / "marts.duckdb"
    brand.funnels(TEXT, START)
    brand.con.execute(f"attach '{path}' as held; copy from database marts_db to held; detach held")
    brand.edit(EDITS["event"].format(n=1, who="p000004", at=START.isoformat()))
    brand.funnels(TEXT, START + timedelta(days=1))
    brand.con.execute(f"detach marts_db; attach '{path}' as marts_db")
    assert brand.funnels(TEXT, START + timedelta(days=2)).people is not None
    increment = brand.rows()
    brand.anew = True
    brand.funnels(TEXT, START + timedelta(days=2))
    assert increment == brand.rows()
    brand.con.close()


@pytest.mark.parametrize(
    ("query", "is_told"),
    [
        ("select * from {e} union all by name select * from {o}", True),
        ("with a as (select * from {e} where one_id is not null) select * from a union all by name select * from {o}",
         True),
        ("select e.* from {e} as e inner join {o} as o on o.one_id = e.one_id", False),
        ("select e.* from {e} as e, {o} as o", False),
        ("select *, row_number() over () as n from {e}", False),
        ("select * from {e} where one_id in (select one_id from {o})", False),
        ("select *, (select max(one_id) from {o}) as n from {e}", False),
        ("select event_key from {e} union select order_key from {o}", False),
        ("select one_id, max(event_key) as event_key from {e} group by one_id", False),
    ],
)  # fmt: skip
def test_only_a_journey_that_unites_tables_is_told_by_the_feed_of_events(query: str, is_told: bool) -> None:
    con = open_memory(START, ZONE)
    con.execute(f"drop table {MARTS}.fct_journey")
    names = {"e": f"{MARTS}.fct_events", "o": f"{MARTS}.fct_orders"}
    con.execute(f"create view {MARTS}.fct_journey as {query.format(**names)}")
    con.execute(f"insert into {MARTS}.fct_events (event_key, one_id) values ('e', 'p')")
    con.execute(f"insert into {MARTS}.fct_orders (order_key, one_id) values ('o', 'p')")
    rest, found = analytics_funnel_scope._untold(con)
    assert found == is_told
    whole, left = (con.execute(f"select count(*) from {of}").fetchall()[0][0] for of in (f"{MARTS}.fct_journey", rest))
    assert (whole, left) == (2, 1) if is_told else left == whole
    con.close()
