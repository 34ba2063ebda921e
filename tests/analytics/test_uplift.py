"""Uplift: numbers worked by hand, the curve again person by person, and nothing that was known only later."""

from __future__ import annotations

from datetime import timedelta
from fractions import Fraction
from typing import Any

import duckdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdp.config import parse
from cdp.errors import ConfigError
from cdp.metrics.config import MetricsConfig
from cdp.metrics.uplift import Arms, qini_area, uplift_bins
from cdp.sync.config import Control
from cdp.sync.control import is_control
from tests.analytics.brand import AS_OF, ZONE, at, insert
from warehouse.analytics_common import set_cut, view_of, write_marts
from warehouse.analytics_uplift import uplift_frame, uplift_table

# -- the curve ---------------------------------------------------------------------------------------------------------


def test_lift_gain_qini_and_area_are_those_worked_by_hand() -> None:
    """By H2O's formulas: TY1/T - CY1/C; that times T + C; TY1 - CY1 T/C."""
    scored = [(3.0, Arms(10, 5, 6, 1)), (2.0, Arms(10, 10, 4, 2)), (1.0, Arms(10, 15, 2, 3))]
    curve = uplift_bins(scored, 4)
    assert [(point.number, point.lowest, point.arms) for point in curve] == [
        (1, 3.0, Arms(10, 5, 6, 1)),
        (2, 2.0, Arms(20, 15, 10, 3)),
        (3, 1.0, Arms(30, 30, 12, 6)),
    ]
    assert [point.arms.lift for point in curve] == [Fraction(4, 10), Fraction(3, 10), Fraction(2, 10)]
    assert [point.arms.gain for point in curve] == [6, Fraction(21, 2), 12]
    assert [point.arms.qini for point in curve] == [4, 6, 6]
    # Shares 1/4, 7/12, 1: 1/4 · (0 + 4)/2 + 1/3 · (4 + 6)/2 + 5/12 · (6 + 6)/2
    assert qini_area(curve) == Fraction(1, 2) + Fraction(5, 3) + Fraction(5, 2)
    # 1.96 · sqrt(0.4 · 0.6 / 30 + 0.2 · 0.8 / 30) = 0.226321
    assert curve[-1].arms.lift_bounds() == pytest.approx((-0.026321, 0.426321), abs=1e-6)


def test_where_an_arm_is_empty_nothing_is_made_up() -> None:
    curve = uplift_bins([(3.0, Arms(4, 0, 4, 0)), (2.0, Arms(4, 4, 0, 2)), (1.0, Arms(2, 6, 1, 1))], 20)
    assert [point.arms.lift for point in curve] == [None, 0, Fraction(1, 5)]
    assert [point.arms.qini for point in curve] == [None, 0, 2]
    assert curve[0].arms.lift_bounds() is None
    assert qini_area(curve) == Fraction(8, 20) * (0 + 2) / 2, "drawn through the point that has no control"
    assert qini_area(uplift_bins([(1.0, Arms(4, 0, 4, 0))], 2)) is None
    assert qini_area(uplift_bins([], 2)) is None


PERSON = st.tuples(st.integers(-3, 3), st.booleans(), st.booleans())  # score, treated, responded


@settings(max_examples=300, deadline=None)
@given(st.lists(PERSON, min_size=1, max_size=40), st.integers(1, 12), st.randoms())
def test_the_curve_is_that_of_the_people_one_by_one(
    people: list[tuple[int, bool, bool]], bins: int, chance: Any
) -> None:
    row = sorted(people, key=lambda person: -person[0])
    place = {score: min(n for n, person in enumerate(row) if person[0] == score) for score, _, _ in row}
    number = {score: int(np.floor(Fraction(first * bins, len(row)))) + 1 for score, first in place.items()}
    expected = []
    for wanted in sorted(set(number.values())):
        down_to = [person for person in row if number[person[0]] <= wanted]
        treated, control = ([person for person in down_to if person[1] is arm] for arm in (True, False))
        counts = Arms(len(treated), len(control), sum(p[2] for p in treated), sum(p[2] for p in control))
        expected.append((wanted, min(p[0] for p in down_to), counts))
    chance.shuffle(people)
    one_by_one = [
        (float(score), Arms(int(treated), int(not treated), int(hit and treated), int(hit and not treated)))
        for score, treated, hit in people
    ]
    curve = uplift_bins(one_by_one, bins)
    assert [(point.number, point.lowest, point.arms) for point in curve] == expected
    assert len({point.number for point in curve}) == len(curve) <= bins
    area = qini_area(curve)
    if all(point.arms.qini is not None for point in curve):
        shares = [0.0, *(point.arms.people / len(people) for point in curve)]
        heights = [0.0, *(float(point.arms.qini or 0) for point in curve)]
        assert area is not None
        assert float(area) == pytest.approx(float(np.trapezoid(heights, shares)))


# -- from the history --------------------------------------------------------------------------------------------------

CONTROL = Control.model_validate(
    {"holdout": 0, "experiments": [{"id": "winback", "salt": "s1", "control": 0.5, "groups": ["churn_risk"]}]}
)
YAML = """
uplift:
  - id: by_value
    experiment: winback
    since: 2026-01-01
    score: {tag: value_tier, order: [低, 中, 高]}
    response_days: 20
    bins: 3
"""
METRICS = parse(YAML, MetricsConfig, file="metrics.yaml")
IDS = [f"p{number}" for number in range(60)]
HELD = [one_id for one_id in IDS if is_control(one_id, "s1", 0.5)]
FREE = [one_id for one_id in IDS if one_id not in HELD]


@pytest.fixture
def world(con: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
    """A home in which tags were computed on 20 December (run 1), 10 January (run 2) and 20 January (run 3)."""
    con.execute(
        "create table marts_db.marts.fct_tag_history (one_id text, recorded_one_id text, tag_group text, value text,"
        " valid_from timestamptz, valid_to timestamptz, opened_run bigint, closed_run bigint)"
    )
    con.execute("create table marts_db.marts.fct_tag_group_runs (run bigint, tag_group text, as_of timestamptz)")
    for run, day in enumerate(("2025-12-20", "2026-01-10", "2026-01-20"), start=1):
        insert(con, "fct_tag_group_runs", [{"run": run, "tag_group": "churn_risk", "as_of": at(f"{day} 00:00")}])
    set_cut(con, AS_OF, ZONE)
    return con


def tag(con: duckdb.DuckDBPyConnection, one_id: str, group: str, value: str, *, run: int = 2, **more: Any) -> None:
    days = {1: "2025-12-20", 2: "2026-01-10", 3: "2026-01-20"}
    row = {"one_id": one_id, "recorded_one_id": one_id, "tag_group": group, "value": value, "opened_run": run,
           "valid_from": at(f"{days[run]} 00:00")}  # fmt: skip
    insert(con, "fct_tag_history", [row | more])


def enters(con: duckdb.DuckDBPyConnection, one_id: str, score: str | None = "高", **more: Any) -> None:
    """A customer of somebody who gets a tag of the experiment on 10 January and holds *score*."""
    insert(con, "fct_relations", [{"relation_key": one_id, "one_id": one_id, "added_at": at("2025-11-01 00:00")}])
    tag(con, one_id, "churn_risk", "高风险", **more)
    if score:
        tag(con, one_id, "value_tier", score, **more)


def buys(con: duckdb.DuckDBPyConnection, one_id: str, when: str = "2026-01-15 12:00") -> None:
    row = {"order_key": f"{one_id}-{when}", "one_id": one_id, "is_paid": True, "paid_at": at(when), "amount": 9}
    insert(con, "fct_orders", [row])


def curve(con: duckdb.DuckDBPyConnection, metrics: MetricsConfig = METRICS) -> list[tuple[Any, ...]]:
    """(score from, T, C, TY1, CY1) of each bin, as published."""
    with view_of(con, "uplift_curves", uplift_frame(con, metrics.uplift, CONTROL)):
        write_marts(con, [uplift_table()])
    told = "score_from, treated, control, treated_responders, control_responders"
    return con.execute(f"select {told} from marts_db.marts.fct_uplift order by bin").fetchall()


def test_people_are_counted_down_from_the_highest_score(world: duckdb.DuckDBPyConnection) -> None:
    for one_id in (*FREE[:4], *HELD[:2]):
        enters(world, one_id, "高")
    for one_id in (*FREE[4:6], *HELD[2:6]):
        enters(world, one_id, "低")
    enters(world, FREE[6], None)
    for one_id in (*FREE[:3], HELD[0], FREE[4], HELD[2], HELD[3]):
        buys(world, one_id)
    assert curve(world) == [(3.0, 4, 2, 3, 1), (1.0, 6, 6, 4, 3)]
    row = world.execute(
        "select lift, gain, qini, people_share, auqc, auqc_random, unscored, as_of = getvariable('cut_at')"
        " from marts_db.marts.fct_uplift order by bin"
    ).fetchall()
    assert row[0] == pytest.approx((0.25, 1.5, 1.0, 0.5, 0.75, 0.5, 1, True))
    assert row[1] == pytest.approx((1 / 6, 2.0, 1.0, 1.0, 0.75, 0.5, 1, True))


def test_the_score_is_the_one_known_when_people_entered(world: duckdb.DuckDBPyConnection) -> None:
    """Later values, and what was restated for that very day later, do not count."""
    enters(world, FREE[0], "低", closed_run=3, valid_to=at("2026-01-20 00:00"))
    tag(world, FREE[0], "value_tier", "高", run=3)
    enters(world, FREE[1], None)
    tag(world, FREE[1], "value_tier", "中", closed_run=3, valid_to=at("2026-01-10 00:00"))
    tag(world, FREE[1], "value_tier", "高", opened_run=3)
    enters(world, FREE[2], None)
    tag(world, FREE[2], "value_tier", "高", run=3)
    assert curve(world) == [(2.0, 1, 0, 0, 0), (1.0, 2, 0, 0, 0)]
    assert world.execute("select distinct unscored from marts_db.marts.fct_uplift").fetchall() == [(1,)]


def test_who_was_tagged_before_the_experiment_enters_on_its_first_day(world: duckdb.DuckDBPyConnection) -> None:
    enters(world, FREE[0], "低", run=1)
    tag(world, FREE[0], "value_tier", "高", run=2)
    buys(world, FREE[0], "2025-12-28 12:00")  # before it began
    enters(world, HELD[0], "低", run=1)
    buys(world, HELD[0], "2026-01-05 12:00")
    enters(world, FREE[1], "低", run=1, valid_to=at("2025-12-30 00:00"), closed_run=1)  # over before it began
    assert curve(world) == [(1.0, 1, 1, 0, 1)]


def test_responses_are_orders_inside_the_window_and_windows_have_ended(world: duckdb.DuckDBPyConnection) -> None:
    for one_id, when in zip(
        FREE[:4],
        ("2026-01-10 00:00", "2026-01-29 23:59", "2026-01-30 00:00", "2026-01-09 23:59"),
        strict=True,
    ):
        enters(world, one_id)
        buys(world, one_id, when)
    insert(world, "fct_orders", [{"order_key": "open", "one_id": FREE[2], "is_paid": False,
                                  "paid_at": at("2026-01-15 12:00")}])  # fmt: skip
    enters(world, FREE[4], valid_from=AS_OF - timedelta(days=19))
    assert curve(world) == [(3.0, 4, 0, 2, 0)]


def test_people_without_an_employee_then_and_people_of_both_arms_are_left_out(
    world: duckdb.DuckDBPyConnection,
) -> None:
    enters(world, FREE[0])
    tag(world, FREE[1], "churn_risk", "高风险")
    enters(world, FREE[2])
    world.execute(
        "update marts_db.marts.fct_relations set removed_at = ? where one_id = ?", [at("2026-01-09 00:00"), FREE[2]]
    )
    enters(world, FREE[3])
    tag(world, FREE[3], "churn_risk", "高风险", recorded_one_id=HELD[0])  # merged since
    enters(world, FREE[4])
    tag(world, FREE[4], "churn_risk", "高风险", recorded_one_id=FREE[5])  # merged since, of one arm
    assert curve(world) == [(3.0, 2, 0, 0, 0)]


def test_a_null_effect_stays_inside_its_bounds_and_a_planted_one_is_found(world: duckdb.DuckDBPyConnection) -> None:
    rng = np.random.default_rng(5)
    world.execute("begin")
    for number in range(1200):
        one_id, high = f"q{number}", number % 2 == 0
        enters(world, one_id, "高" if high else "低")
        moved = 0.35 if high and not is_control(one_id, "s1", 0.5) else 0.0
        if rng.random() < 0.2 + moved:
            buys(world, one_id)
    world.execute("commit")
    curve(world)
    rows = world.execute(
        "select score_from, lift_low, lift, lift_high, auqc, auqc_random from marts_db.marts.fct_uplift order by bin"
    ).fetchall()
    assert rows[0][1] < 0.35 < rows[0][3]
    assert rows[0][1] > 0
    assert rows[1][2] < rows[0][2]
    assert rows[0][4] > rows[0][5], "the score ranks well"
    flat = METRICS.uplift[0].model_copy(update={"score": METRICS.uplift[0].score.model_copy(update={"tag": "even"})})
    world.execute(
        "insert into marts_db.marts.fct_tag_history by name select * replace ('even' as tag_group, '中' as value)"
        " from marts_db.marts.fct_tag_history where tag_group = 'value_tier'"
    )
    assert [row[0] for row in curve(world, METRICS.model_copy(update={"uplift": (flat,)}))] == [2.0]


# -- faults of the declaration -----------------------------------------------------------------------------------------


def changed(**changes: Any) -> MetricsConfig:
    return METRICS.model_copy(update={"uplift": (METRICS.uplift[0].model_copy(update=changes),)})


def test_names_that_are_not_there_are_told_with_the_nearest(world: duckdb.DuckDBPyConnection) -> None:
    enters(world, FREE[0])
    score = METRICS.uplift[0].score
    faults = {
        "no experiment `winbak`; did you mean `winback`": changed(experiment="winbak"),
        "no tag group `value_teir`; did you mean `value_tier`": changed(
            score=score.model_copy(update={"tag": "value_teir"})
        ),
        "`高` is a value of `value_tier` that `order` does not list": changed(
            score=score.model_copy(update={"order": ("低", "中")})
        ),
        "values of `value_tier` are no numbers": changed(score=score.model_copy(update={"order": ()})),
    }
    for message, metrics in faults.items():
        with pytest.raises(ConfigError, match=message):
            curve(world, metrics)


def test_a_curve_is_declared_once_and_its_values_too() -> None:
    with pytest.raises(ConfigError, match="two curves have the same `id`"):
        parse(YAML + YAML.removeprefix("\nuplift:\n"), MetricsConfig, file="metrics.yaml")
    with pytest.raises(ConfigError, match="names a value twice"):
        parse(YAML.replace("[低, 中, 高]", "[低, 低]"), MetricsConfig, file="metrics.yaml")


def test_without_a_history_there_is_an_empty_table(con: duckdb.DuckDBPyConnection) -> None:
    set_cut(con, AS_OF, ZONE)
    assert curve(con) == []
