"""Attribution: worked examples solved exactly, money to the cent, credit beside incrementality."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import duckdb
import numpy as np
import pytest

from cdp.attribution.markov import Paths, credits, fit_markov, shapley
from cdp.metrics.config import MetricsConfig
from tests.analytics.brand import AS_OF, ZONE, at, build_marts, insert, run_model
from warehouse.analytics import build_ltv, build_metrics

MODELS = ("first", "last", "linear", "position", "time_decay", "markov", "shapley")


def paths(rows: list[tuple[str, int, int]]) -> tuple[Paths, list[str]]:
    """(path like `a>b`, conversions, nulls) as arrays."""
    names = sorted({name for row in rows for name in row[0].split(">")})
    split = [[names.index(name) for name in row[0].split(">")] for row in rows]
    channel = np.array([code for path in split for code in path], dtype=np.int64)
    offsets = np.cumsum([0, *(len(path) for path in split)]).astype(np.int64)
    won, lost = (np.array([row[i] for row in rows], dtype=np.int64) for i in (1, 2))
    return Paths(channel, offsets, won, lost), names


def test_worked_example_of_google_and_mailing() -> None:
    given, names = paths([("google", 2, 0), ("mailing", 1, 0), ("google>mailing", 1, 0), ("google", 0, 1)])
    model = fit_markov(given, len(names))
    assert model.probability == 0.8
    assert dict(zip(names, model.removal, strict=True)) == {"google": 0.75, "mailing": 0.5}
    assert credits(model.removal, 4) == pytest.approx([2.4, 1.6], abs=1e-15)


def test_paths_with_returns_give_two_and_one_exactly() -> None:
    """The example simulations answer with 1.991 (design row 12)."""
    given, names = paths([("a>b>a>b>b>a", 1, 0), ("a>b>b>a>a", 1, 0), ("a>a", 1, 0)])
    model = fit_markov(given, len(names))
    assert credits(model.removal, 3) == [2.0, 1.0]


def test_exact_and_floating_solutions_agree_and_repeat() -> None:
    rng = np.random.default_rng(4)
    rows = [(">".join(rng.choice(list("abcdef"), rng.integers(1, 6))), int(rng.integers(0, 4)), 1) for _ in range(60)]
    given, names = paths(rows)
    small = fit_markov(given, len(names))
    from cdp.attribution import markov

    chain = markov._Chain(given, len(names), 1)
    probability, removal = chain.effects(given.conversions, given.nulls)
    assert float(probability) == pytest.approx(small.probability, rel=1e-12)
    assert [float(v) for v in removal] == pytest.approx(list(small.removal), rel=1e-9)
    again = fit_markov(given, len(names), order=2, bootstrap=5, seed=3)
    assert again == fit_markov(given, len(names), order=2, bootstrap=5, seed=3)
    assert all(low <= high for low, high in zip(again.low, again.high, strict=True))


def test_shapley_equals_the_definition_over_all_orders_of_channels() -> None:
    from itertools import permutations

    sets = {frozenset("ab"): 3, frozenset("abc"): 2, frozenset("c"): 4, frozenset("a"): 1}
    players = sorted({name for s in sets for name in s})

    def worth(coalition: frozenset[str]) -> int:
        return sum(orders for s, orders in sets.items() if s <= coalition)

    expected = dict.fromkeys(players, Fraction(0))
    lines = list(permutations(players))
    for line in lines:
        for place, name in enumerate(line):
            gain = worth(frozenset(line[: place + 1])) - worth(frozenset(line[:place]))
            expected[name] += Fraction(gain, len(lines))
    assert shapley(sets) == expected


@pytest.fixture
def shop(con: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
    """Three orders with three, one and no touches; the first refunded in part, the second in full."""
    insert(con, "dim_people", [{"one_id": name} for name in "abc"])
    orders: list[dict[str, Any]] = [
        {"order_key": "o1", "one_id": "a", "amount": 100.01, "refund_amount": 10.00},
        {"order_key": "o2", "one_id": "b", "amount": 50.00, "refund_amount": 50.00},
        {"order_key": "o3", "one_id": "c", "amount": 7.00, "refund_amount": 0},
    ]
    for number, order in enumerate(orders):
        day = f"2025-12-{10 + number}"
        when = {"paid_at": at(f"{day} 12:00"), "paid_date": day, "refunded_at": at(f"{day} 18:00")}
        insert(con, "fct_orders", [order | when | {"is_paid": True, "is_first_order": True, "order_no": 1}])
    touches = [("a", "x", 4), ("a", "y", 3), ("a", "x", 1), ("b", "y", 2), ("a", "z", 60)]
    for number, (one_id, channel, days) in enumerate(touches):
        moment = at(f"2025-12-{10 - days:02d} 12:00") if days < 10 else at("2025-10-01 12:00")
        insert(
            con,
            "fct_touches",
            [{"touch_key": f"t{number}", "one_id": one_id, "channel": channel, "touched_at": moment}],
        )
    build_ltv(con, MetricsConfig(), as_of=AS_OF, timezone=ZONE)
    run_model(con, "fct_person_features")
    every = MetricsConfig.model_validate({"attribution": {"models": MODELS}})
    build_metrics(con, every, as_of=AS_OF, timezone=ZONE)
    return con


def test_every_model_shares_every_order_to_the_cent(shop: duckdb.DuckDBPyConnection) -> None:
    """Design row 11, with the full refund below."""
    rows = shop.execute(
        "select model, order_key, sum(amount), sum(credit_numerator) filter (where kind = 'sale'),"
        " any_value(credit_denominator) from marts_db.marts.fct_attribution_credit group by 1, 2"
    ).fetchall()
    assert {row[0] for row in rows} == set(MODELS)
    net = {"o1": "90.01", "o2": "0.00", "o3": "7.00"}
    for _, order, amount, numerator, denominator in rows:
        assert str(amount) == net[order]
        assert numerator == denominator


def test_every_credit_says_under_what_terms_it_was_given(shop: duckdb.DuckDBPyConnection) -> None:
    rows = shop.execute(
        "select distinct credit.look_back, credit.as_of = models.as_of,"
        " models.parameters->>'look_back' = credit.look_back, credit.as_of = getvariable('cut_at')"
        " from marts_db.marts.fct_attribution_credit as credit"
        " join marts_db.marts.dim_attribution_models as models using (model)"
    ).fetchall()
    assert rows == [("30d", True, True, True)]
    hashes = shop.execute(
        "select order_key, count(distinct path_hash) from marts_db.marts.fct_attribution_credit group by 1 order by 1"
    ).fetchall()
    assert hashes == [("o1", 1), ("o2", 1), ("o3", 0)]


def test_models_weigh_touches_as_they_say(shop: duckdb.DuckDBPyConnection) -> None:
    rows = shop.execute(
        "select model, position, credit from marts_db.marts.fct_attribution_credit"
        " where order_key = 'o1' and kind = 'sale' order by 1, 2"
    ).fetchall()
    credit = {name: {position: value for model, position, value in rows if model == name} for name in MODELS}
    assert credit["first"] == {1: 1.0}
    assert credit["last"] == {3: 1.0}
    assert credit["linear"] == pytest.approx({1: 1 / 3, 2: 1 / 3, 3: 1 / 3})
    assert credit["position"] == pytest.approx({1: 0.4, 2: 0.2, 3: 0.4})
    assert credit["shapley"] == pytest.approx({1: 0.25, 2: 0.5, 3: 0.25})
    decay = [2 ** (-3 / 7), 2 ** (-2 / 7), 1.0]
    assert credit["time_decay"] == pytest.approx({i + 1: v / sum(decay) for i, v in enumerate(decay)}, rel=1e-9)


def test_a_full_refund_brings_every_channel_back_to_zero(shop: duckdb.DuckDBPyConnection) -> None:
    rows = shop.execute(
        "select sum(amount) from marts_db.marts.fct_attribution_credit where order_key = 'o2' group by model, channel"
    ).fetchall()
    assert {str(row[0]) for row in rows} == {"0.00"}


def test_orders_without_a_touch_keep_their_money(shop: duckdb.DuckDBPyConnection) -> None:
    rows = shop.execute(
        "select distinct touch_key, amount::text from marts_db.marts.fct_attribution_credit where order_key = 'o3'"
    ).fetchall()
    assert rows == [("__none__", "7.00")]


def test_a_channel_without_effect_has_an_interval_over_zero(con: duckdb.DuckDBPyConnection) -> None:
    """Design row 13."""
    build_marts(con, people=1_000, seed=1)
    con.execute(
        "update marts_db.marts.dim_people set city = case when hash(one_id) % 4 = 0 then 'held' else 'open' end"
    )
    con.execute(
        "insert into marts_db.marts.fct_touches select 't' || order_key, one_id, paid_at - interval 1 hour, 'sms', "
        "null,"
        " null, 'message' from marts_db.marts.fct_orders where hash(one_id) % 4 <> 0"
    )
    metrics = MetricsConfig.model_validate({"attribution": {"control": {"sms": "city = 'held'"}}})
    build_ltv(con, metrics, as_of=AS_OF, timezone=ZONE)
    run_model(con, "fct_person_features")
    build_metrics(con, metrics, as_of=AS_OF, timezone=ZONE)
    row = con.execute(
        "select credited_orders, incremental_low, incremental_high from marts_db.marts.fct_attribution_channels"
        " where model = 'last' and channel = 'sms'"
    ).fetchall()[0]
    assert row[0] > 500
    assert row[1] < 0 < row[2]
