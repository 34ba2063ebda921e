"""Funnels on the journey: conditions, hold keys, breakdowns, buckets, maturity, evidence, errors."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import duckdb
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from cdp.config import parse
from cdp.errors import ConfigError
from cdp.funnels.config import FunnelsConfig
from tests.analytics.brand import AS_OF, ZONE, at, build_marts, insert, open_memory
from warehouse.analytics import build_funnels, check_funnels, find_funnel, silent_steps

MARTS = "marts_db.marts"


def build(con: duckdb.DuckDBPyConnection, text: str) -> None:
    build_funnels(con, parse(text, FunnelsConfig, file="funnels.yaml"), as_of=AS_OF, timezone=ZONE)


def journey(con: duckdb.DuckDBPyConnection, *events: tuple[Any, ...]) -> None:
    """(person, name, brand-local time, further columns)."""
    for number, (one_id, name, when, *more) in enumerate(events):
        row = {"event_key": f"{one_id}-{number:03d}", "one_id": one_id, "event_name": name, "event_at": at(when)}
        insert(con, "fct_journey", [row | (more[0] if more else {})])


def reached(con: duckdb.DuckDBPyConnection, where: str = "all_buckets and all_values") -> list[int]:
    rows = con.execute(
        f"select reached from {MARTS}.fct_funnel_steps where {where} order by funnel_id, step_no"
    ).fetchall()
    return [row[0] for row in rows]


TWO = "funnels: [{id: f, steps: [{id: a, event: a}, {id: b, event: b}], window: {total: 2d}%s}]"


def test_conditions_read_columns_and_properties(con: duckdb.DuckDBPyConnection) -> None:
    new, old = {"properties": '{"is_new": true, "level": "vip"}'}, {"properties": '{"is_new": false}'}
    journey(con, ("p", "a", "2026-02-01 10:00", new), ("q", "a", "2026-02-01 10:00", old))
    build(con, "funnels: [{id: f, steps: [{id: a, event: a, where: is_new}]}]")
    assert reached(con) == [1]
    build(con, """funnels: [{id: f, steps: [{id: a, event: a, where: "properties.level = 'vip'"}]}]""")
    assert reached(con) == [1]


def test_hold_keys_equal_the_funnel_on_a_joined_key(con: duckdb.DuckDBPyConnection) -> None:
    """Two orders of one person: each is its own unit, and their events do not mix (design row 7)."""
    journey(
        con,
        ("p", "created", "2026-02-01 10:00", {"order_key": "o1", "campaign_id": "x"}),
        ("p", "created", "2026-02-01 11:00", {"order_key": "o2", "campaign_id": "x"}),
        ("p", "paid", "2026-02-01 12:00", {"order_key": "o2", "campaign_id": "x"}),
        ("p", "paid", "2026-02-01 12:00", {"order_key": "o1", "campaign_id": "y"}),
        ("q", "created", "2026-02-01 10:00"),
    )
    steps = "steps: [{id: c, event: created}, {id: p, event: paid}]"
    build(con, f"funnels: [{{id: f, hold: [order_key], {steps}}}]")
    assert reached(con) == [2, 2]
    build(con, f"funnels: [{{id: f, hold: [order_key, campaign_id], {steps}}}]")
    assert reached(con) == [2, 1]
    held = con.execute(f"select hold_key, level from {MARTS}.fct_funnel_people order by 1").fetchall()
    assert held == [(["o1", "x"], 1), (["o2", "x"], 2)]
    con.execute(f"update {MARTS}.fct_journey set product_id = order_key || '|' || campaign_id")
    build(con, f"funnels: [{{id: f, hold: [product_id], {steps}}}]")
    joined = con.execute(f"select hold_key[1], level from {MARTS}.fct_funnel_people order by 1").fetchall()
    assert joined == [("|".join(keys), level) for keys, level in held]


def test_hold_keys_may_be_named_differently_per_step(con: duckdb.DuckDBPyConnection) -> None:
    journey(
        con,
        ("p", "viewed", "2026-02-01 10:00", {"product_id": "k1"}),
        ("p", "shared", "2026-02-01 11:00", {"campaign_id": "k1"}),
        ("p", "viewed", "2026-02-01 10:00", {"product_id": "k2"}),
        ("p", "shared", "2026-02-01 09:00", {"campaign_id": "k2"}),
    )
    build(
        con,
        """
funnels:
  - id: f
    hold: [thing]
    steps:
      - {id: v, event: viewed, hold: {thing: product_id}}
      - {id: s, event: shared, hold: {thing: campaign_id}}
""",
    )
    held = con.execute(f"select hold_key, level from {MARTS}.fct_funnel_people order by 1").fetchall()
    assert held == [(["k1"], 2), (["k2"], 1)]


def test_of_simultaneous_events_the_lowest_key_is_the_evidence(con: duckdb.DuckDBPyConnection) -> None:
    """Whatever the order of rows, and with what stands beside the key: the event's bits go with it."""
    con.execute(
        f"insert into {MARTS}.fct_journey (event_key, one_id, event_name, event_at, channel)"
        f" select one_id || '-' || number, one_id, case when number % 3 = 0 then 'b' else 'a' end,"
        f" timestamptz '{at('2026-02-01 10:00')}' + to_seconds(number // 6), 'c' || number"
        " from (select 'p' || i // 30 as one_id, 99 - i % 30 as number from range(3000) as rows (i))"
        " order by number desc"
    )
    build(con, TWO % ", breakdown: {by: channel, at: entry}, ties: strictly_after")
    found = con.execute(f"select distinct event_keys[1][-3:], event_keys[2][-3:], breakdown_value, level"
                        f" from {MARTS}.fct_funnel_people").fetchall()  # fmt: skip
    assert found == [("-70", "-72", "c70", 2)]
    build(con, TWO % ", order: any")  # the latest entry is that of 72 … 77
    found = con.execute(
        f"select distinct event_keys[1][-3:], event_keys[2][-3:] from {MARTS}.fct_funnel_people"
    ).fetchall()
    assert found == [("-73", "-72")]


SHARED = "steps: [{id: v, event: page_view}, {id: c, event: add_to_cart}, {id: p, event: search}], window: {total: 40d}"


@pytest.mark.parametrize("options", ["", ", entry: each", ", order: any", ", order: adjacent", ", hold: [channel]"])
def test_a_unit_is_what_a_person_would_be_who_did_all_of_its_events(
    brand: duckdb.DuckDBPyConnection, options: str
) -> None:
    """The funnel of `unit: product_id` is that of persons in a journey where each product is one person; its one_id is
    that of the only person who did something with it."""
    brand.execute(
        f"update {MARTS}.fct_journey set event_name = 'search', campaign_id = channel where hash(event_key) % 3 = 0;"
        f" update {MARTS}.fct_journey set product_id = 'alone' || one_id where hash(one_id) % 4 = 0"
    )
    compared = (
        "funnel_id, hold_key, attempt, level, distinct_steps, entry_at, goal_at, window_ends_at, outcome, bucket_start,"
        " breakdown_value, event_keys, step_nos, step_ats"
    )
    more = f"{SHARED}, breakdown: {{by: campaign_id, at: 'step:c'}}, bucket: {{grain: month}}{options}"
    build(brand, f"funnels: [{{id: f, unit: product_id, {more}}}]")
    units = brand.execute(
        f"select unit_key, {compared} from {MARTS}.fct_funnel_people order by unit_key, hold_key, attempt"
    ).fetchall()
    steps = brand.execute(f"select * exclude (funnel_version) from {MARTS}.fct_funnel_steps order by all").fetchall()
    owners = brand.execute(f"select unit_key, any_value(one_id) from {MARTS}.fct_funnel_people group by 1").fetchall()
    people = dict(
        brand.execute(
            f"select product_id, list(distinct one_id) from {MARTS}.fct_journey where product_id is not null group by 1"
        ).fetchall()
    )
    alone = [(unit, one_id) for unit, one_id in owners if unit.startswith("alone")]
    assert len(alone) > 20
    assert all(people[unit] == [one_id] for unit, one_id in alone)
    assert {one_id for unit, one_id in owners if len(people[unit]) > 10} == {None}
    brand.execute(f"delete from {MARTS}.fct_journey where product_id is null")
    brand.execute(f"update {MARTS}.fct_journey set one_id = product_id, product_id = null")
    build(brand, f"funnels: [{{id: f, {more}}}]")
    persons = brand.execute(
        f"select one_id, {compared} from {MARTS}.fct_funnel_people order by one_id, hold_key, attempt"
    ).fetchall()
    assert persons == units
    assert len(units) > 60
    assert (
        brand.execute(f"select * exclude (funnel_version) from {MARTS}.fct_funnel_steps order by all").fetchall()
        == steps
    )
    assert brand.execute(f"select count(unit_key) from {MARTS}.fct_funnel_people").fetchall() == [(0,)]


def test_orders_as_units_are_the_persons_orders_where_each_is_one_persons(brand: duckdb.DuckDBPyConnection) -> None:
    brand.execute(
        f"insert into {MARTS}.fct_journey by name select 'c|' || order_key as event_key, one_id, 'created' as"
        f" event_name, event_at - interval 2 day as event_at, order_key from {MARTS}.fct_journey"
        " where order_key is not null and hash(order_key) % 3 > 0"
    )
    steps = "steps: [{id: c, event: created}, {id: p, event: order_paid}], window: {total: 3d}"
    found = []
    for key, options in (("hold_key[1]", "hold: [order_key]"), ("unit_key", "unit: order_key")):
        build(brand, f"funnels: [{{id: f, {options}, {steps}}}]")
        found.append(
            brand.execute(
                f"select {key}, one_id, level, entry_at, event_keys, outcome from {MARTS}.fct_funnel_people order by 1"
            ).fetchall()
        )
    assert found[0] == found[1]
    assert len(found[0]) > 50


def test_a_misspelt_unit_comes_with_the_nearest(con: duckdb.DuckDBPyConnection) -> None:
    for unit, instead in (("order_kei", "order_key"), ("persn", "person"), ("one_id", None)):
        with pytest.raises(ConfigError, match=f"f.unit: `{unit}` is neither") as told:
            build(con, f"funnels: [{{id: f, unit: {unit}, steps: [{{id: a, event: a}}]}}]")
        assert instead is None or f"did you mean `{instead}`?" in str(told.value)


def test_breakdowns_are_taken_where_they_are_asked_for(con: duckdb.DuckDBPyConnection) -> None:
    insert(con, "dim_people", [{"one_id": "p", "city": "上海"}])
    for number, (when, channel) in enumerate(
        (("2026-01-01 10:00", "t1"), ("2026-01-20 10:00", "t2"), ("2026-02-09 10:00", "t3"))
    ):
        insert(
            con, "fct_touches", [{"touch_key": f"t{number}", "one_id": "p", "touched_at": at(when), "channel": channel}]
        )
    journey(con, ("p", "a", "2026-02-01 10:00", {"channel": "c1"}), ("p", "b", "2026-02-02 10:00", {"channel": "c2"}))
    expected = {"entry": "c1", "step:b": "c2", "first_touch": "t1", "last_touch": "t2"}
    for where, value in expected.items():
        build(con, TWO % f", breakdown: {{by: channel, at: '{where}'}}")
        assert con.execute(f"select breakdown_value from {MARTS}.fct_funnel_people").fetchall() == [(value,)]
    build(con, TWO % ", breakdown: {by: city, at: person}")
    assert con.execute(f"select breakdown_value from {MARTS}.fct_funnel_people").fetchall() == [("上海",)]


@pytest.mark.parametrize("options", ["", ", order: adjacent", ", entry: each", ", entry: first", ", order: any"])
def test_parts_sum_to_the_whole_and_counts_follow_from_the_evidence(options: str) -> None:
    """In every mode (design rows 5 and 6). The recount knows nothing but the journey and the event ids."""
    con = open_memory(AS_OF, ZONE)
    build_marts(con, people=200, seed=11)
    con.execute(f"update {MARTS}.fct_journey set channel = null where hash(event_key) % 5 = 0")
    build(
        con,
        "funnels: [{id: f, steps: [{id: v, event: [page_view, product_view]}, {id: c, event: add_to_cart},"
        " {id: p, event: order_paid}], window: {total: 30d}, breakdown: {by: channel}, bucket: {grain: week}"
        + options
        + "}]",
    )
    wrong = con.execute(
        f"""
        with kinds as (
            select step_no, entered, reached, matured_entered, matured_reached,
                case when all_buckets and all_values then 'whole' when all_buckets then 'values'
                    when all_values then 'buckets' else 'cells' end as kind
            from {MARTS}.fct_funnel_steps
        )
        select step_no from (
            select step_no, kind, sum(entered) as entered, sum(reached) as reached,
                sum(matured_entered) as matured_entered, sum(matured_reached) as matured_reached
            from kinds group by all
        )
        group by step_no
        having count(distinct (entered, reached, matured_entered, matured_reached)) > 1 or count(*) <> 4
        """
    ).fetchall()
    assert wrong == []
    recounted = con.execute(
        f"""
        with evidence as (
            select one_id, is_best, is_matured, unnest(step_nos) as step_no, unnest(event_keys) as event_key
            from {MARTS}.fct_funnel_people
        )
        select evidence.step_no, count(*) filter (where is_best), count(*) filter (where is_matured) from evidence
        inner join {MARTS}.fct_journey as journey using (one_id, event_key)
        where case evidence.step_no when 1 then journey.event_name in ('page_view', 'product_view')
            when 2 then journey.event_name = 'add_to_cart' else journey.event_name = 'order_paid' end
        group by all order by all
        """
    ).fetchall()
    assert len(recounted) == 3
    assert [best for _, best, _ in recounted] == reached(con)
    matured = con.execute(
        f"select matured_reached from {MARTS}.fct_funnel_steps where all_buckets and all_values order by step_no"
    ).fetchall()
    assert [(ripe,) for _, _, ripe in recounted] == matured
    con.close()


def test_a_young_entry_never_changes_the_matured_rate(con: duckdb.DuckDBPyConnection) -> None:
    """Raw and matured rates stand side by side, each with its Wilson bounds (design row 4)."""
    journey(con, ("p", "a", "2026-01-01 10:00"), ("p", "b", "2026-01-02 10:00"), ("q", "a", "2026-01-01 10:00"))
    build(con, TWO % "")
    query = (
        f"select matured_entered, matured_reached, matured_rate, matured_rate_low from {MARTS}.fct_funnel_steps"
        " where all_buckets and all_values order by step_no"
    )
    before = con.execute(query).fetchall()
    journey(con, ("young", "a", "2026-03-01 20:00"))
    build(con, TWO % "")
    assert con.execute(query).fetchall() == before
    assert con.execute(f"select max(entered) from {MARTS}.fct_funnel_steps").fetchall() == [(3,)]
    bounds = con.execute(
        f"select rate, rate_low, rate_high, matured_rate, matured_rate_low, matured_rate_high"
        f" from {MARTS}.fct_funnel_steps where all_buckets and all_values and step_no = 2"
    ).fetchall()[0]
    expected = []
    for entered in (3, 2):
        wilson = binomtest(1, entered).proportion_ci(0.95, method="wilson")
        expected += [1 / entered, wilson.low, wilson.high]
    assert bounds == pytest.approx(expected, rel=1e-9)
    build(con, TWO % ", mature_only: true")
    assert con.execute(f"select max(entered) from {MARTS}.fct_funnel_steps").fetchall() == [(2,)]


@pytest.mark.parametrize("options", ["", ", order: any", ", order: adjacent", ", ties: strictly_after"])
def test_the_best_chain_may_be_young_and_another_matured(con: duckdb.DuckDBPyConnection, options: str) -> None:
    """The person's row is the young chain's; the older one stands beside it, and counts where chains have matured."""
    journey(con, ("p", "a", "2026-01-01 10:00"), ("q", "a", "2026-01-01 10:00"), ("q", "b", "2026-01-01 11:00"))
    again = {"event_key": "again"}, {"event_key": "bought"}
    journey(con, ("p", "a", "2026-03-01 10:00", again[0]), ("p", "b", "2026-03-01 11:00", again[1]))
    build(con, TWO % options)
    steps = con.execute(
        f"select entered, reached, matured_entered, matured_reached from {MARTS}.fct_funnel_steps"
        " where all_buckets and all_values order by step_no"
    ).fetchall()
    assert steps == [(2, 2, 2, 2), (2, 2, 2, 1)]
    people = con.execute(
        f"select one_id, is_best, is_matured, level, event_keys from {MARTS}.fct_funnel_people order by 1, 2"
    ).fetchall()
    assert people == [
        ("p", False, True, 1, ["p-000"]),
        ("p", True, False, 2, ["again", "bought"]),
        ("q", True, True, 2, ["q-001", "q-002"]),
    ]


MODES = ["", "order: any", "order: adjacent", "entry: first", "entry: each", "ties: strictly_after",
         "ties: {tolerance: 2s}", "window: {total: 5d, clock: natural_day}", "window: {}",
         "exclude: [{event: x, from: v, to: p}]", "order: any, exclude: [{event: x, effect: truncate}]"]  # fmt: skip


@pytest.mark.parametrize("options", MODES)
@settings(
    max_examples=10, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, phases=[Phase.generate]
)
@given(data=st.data())
def test_who_enters_again_never_changes_what_has_matured(options: str, data: st.DataObject) -> None:
    """Design row 4 for people who entered before as well, bucket by bucket and whatever the chain (the window is five
    days, the cut the second of March)."""
    happened = st.lists(st.tuples(st.sampled_from("pqr"), st.sampled_from("abcx"), st.integers(0, 90)), max_size=12)
    step = "within: 2d" if options == "window: {}" else "optional: " + ("true" if data.draw(st.booleans()) else "false")
    options = options if "window" in options else f"window: {{total: 5d}}{', ' * bool(options)}{options}"
    funnel = (
        f"funnels: [{{id: f, steps: [{{id: v, event: a}}, {{id: c, event: b, {step}}}, {{id: p, event: [a, c]"
        f"{', within: 2d' if 'within' in step else ''}}}], bucket: {{grain: day}}, {options}}}]"
    )
    con = open_memory(AS_OF, ZONE)
    told = []
    for first_day in (datetime(2026, 2, 12), datetime(2026, 2, 26, 2)):
        for number, (person, name, hours) in enumerate(data.draw(happened)):
            key = {"event_key": f"{first_day:%d}-{number:03d}"}
            journey(con, (person, name, f"{first_day + timedelta(hours=hours):%Y-%m-%d %H:%M}", key))
        build(con, funnel)
        told.append(
            con.execute(
                "select columns('matured|bucket|step_no') from "
                f"{MARTS}.fct_funnel_steps where matured_entered > 0 order by all"
            ).fetchall()
        )
    con.close()
    assert told[0] == told[1]


def test_natural_days_end_at_the_brands_midnight(con: duckdb.DuckDBPyConnection) -> None:
    journey(
        con,
        ("p", "a", "2026-02-01 23:50"),
        ("p", "b", "2026-02-01 23:59"),
        ("q", "a", "2026-02-01 23:50"),
        ("q", "b", "2026-02-02 00:01"),
    )
    for days, expected in ((1, [2, 1]), (2, [2, 2])):
        steps = "steps: [{id: a, event: a}, {id: b, event: b}]"
        build(con, f"funnels: [{{id: f, {steps}, window: {{total: {days}d, clock: natural_day}}}}]")
        assert reached(con) == expected
    ends = con.execute(f"select distinct window_ends_at from {MARTS}.fct_funnel_people").fetchall()
    assert ends[0][0].isoformat().startswith("2026-02-02T15:59:59.999999")


def test_adjacency_ignores_what_a_filter_would_leave(con: duckdb.DuckDBPyConnection) -> None:
    text = "funnels: [{id: f, order: adjacent, universe: [a, b, x], steps: [{id: a, event: a}, {id: b, event: b}]}]"
    journey(con, ("p", "a", "2026-02-01 10:00"), ("p", "x", "2026-02-01 10:30"), ("p", "b", "2026-02-01 11:00"))
    journey(con, ("q", "a", "2026-02-01 10:00"), ("q", "noise", "2026-02-01 10:30"), ("q", "b", "2026-02-01 11:00"))
    build(con, text)
    found = con.execute(f"select one_id, level from {MARTS}.fct_funnel_people order by 1").fetchall()
    assert found == [("p", 1), ("q", 2)]


def test_unrelated_events_and_the_order_of_rows_change_no_byte() -> None:
    """Adjacency is within the universe, not within what happened to be loaded (design row 3)."""
    text = (
        "funnels: [{id: f, order: adjacent, universe: [product_view, add_to_cart, order_paid], window: {total: 30d},"
        " steps: [{id: v, event: product_view}, {id: c, event: add_to_cart}, {id: p, event: order_paid}]}]"
    )
    found = []
    for loaded in ("as it came", "shuffled, with noise"):
        con = open_memory(AS_OF, ZONE)
        build_marts(con, people=200, seed=12)
        if loaded != "as it came":
            con.execute(
                f"insert into {MARTS}.fct_journey by name select 'noise|' || event_key as event_key, one_id,"
                f" 'noise' as event_name, event_at + interval 1 second as event_at, event_date from {MARTS}.fct_journey"
            )
            con.execute(f"create table journey as select * from {MARTS}.fct_journey order by md5(event_key)")
            con.execute(f"delete from {MARTS}.fct_journey")
            con.execute(f"insert into {MARTS}.fct_journey by name from journey")
        build(con, text)
        names = ("fct_funnel_people", "fct_funnel_steps")
        found.append([con.execute(f"select * from {MARTS}.{name} order by all").fetchall() for name in names])
        assert min(reached(con)) > 0
        con.close()
    assert found[0] == found[1]


def test_outcomes_tell_why_a_person_stopped(con: duckdb.DuckDBPyConnection) -> None:
    journey(
        con,
        ("done", "a", "2026-02-01 10:00"),
        ("done", "b", "2026-02-01 11:00"),
        ("ended", "a", "2026-02-01 10:00"),
        ("open", "a", "2026-03-01 10:00"),
        ("out", "a", "2026-02-01 10:00"),
        ("out", "x", "2026-02-01 10:30"),
        ("out", "b", "2026-02-01 11:00"),
    )
    build(con, TWO % ", exclude: [{event: x, from: a, to: b}]")
    found = dict(con.execute(f"select one_id, outcome from {MARTS}.fct_funnel_people").fetchall())
    assert found == {"done": "completed", "ended": "window_ended", "open": "window_open", "out": "excluded"}
    entered = con.execute(
        f"select entered, reached from {MARTS}.fct_funnel_steps where all_buckets and all_values"
    ).fetchall()
    assert entered == [(4, 3), (4, 1)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{id: f, steps: [{id: a, event: a, where: "chanel = 1"}]}', "no column `chanel`; did you mean `channel`"),
        ("{id: f, steps: [{id: a, event: a}], breakdown: {by: chanel}}", "no column `chanel`; did you mean `channel`"),
        ("{id: f, steps: [{id: a, event: a}], hold: [order_kei]}", "did you mean `order_key`"),
    ],
)
def test_a_misspelt_column_is_told_before_anything_runs(
    con: duckdb.DuckDBPyConnection, text: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        build(con, f"funnels: [{text}]")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps: [{id: a, event: a}, {id: a, event: b}]", "step id `a` is used twice"),
        ("steps: [{id: a, event: a, optional: true}]", "the first step cannot be optional"),
        ("steps: [{id: a, event: a}], exclude: [{event: x, from: b}]", "no step `b`; steps: a"),
        ("steps: [{id: a, event: a}, {id: b, event: b, within: 1d}], order: any", "`within` needs an order"),
        ("steps: [{id: a, event: a}], order: any, exclude: [{event: x, from: a}]", "only with an order"),
        ("steps: [{id: a, event: a}], order: adjacent, ties: {tolerance: 1s}", "is for `order: ordered`"),
        (
            "steps: [{id: a, event: a}], entry: each, ties: {tolerance: 1s}, exclude: [{event: x}]",
            "do not go together",
        ),
        ("steps: [{id: a, event: a}], window: {total: 90m, clock: natural_day}", "whole number of days"),
        ("steps: [{id: a, event: a}], window: {total: soon}", "expected a length such as"),
    ],
)
def test_options_that_contradict_each_other_are_told(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(f"funnels: [{{id: f, {text}}}]", FunnelsConfig, file="funnels.yaml")


def test_a_wrong_column_comes_with_its_line_and_an_event_nobody_did_with_the_nearest(
    brand: duckdb.DuckDBPyConnection,
) -> None:
    text = """
funnels:
  - id: other
    steps: [{id: a, event: page_view}]
  - id: mine
    steps:
      - {id: a, event: page_veiw}
      - {id: b, event: order_paid, where: "amont > 1"}
"""
    config = parse(text, FunnelsConfig, file="funnels.yaml")
    with pytest.raises(ConfigError, match=r"^funnels.yaml:8: mine.steps.b.where: .*did you mean `amount`\?"):
        check_funnels(brand, config)
    told = silent_steps(brand, find_funnel(config, "mine"))
    assert told == [("a", "page_veiw", "; did you mean `page_view`?")]
