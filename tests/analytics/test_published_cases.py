"""What the field has published, through our public interfaces: definitions in YAML, marts tables, `build_*`.

Facts and figures only; each test names where they were published.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import duckdb
import pytest

from cdp.metrics.config import MetricsConfig
from tests.analytics.brand import AS_OF, ZONE, at, insert, open_memory, run_model
from warehouse.analytics import build_ltv, build_metrics

MARTS = "marts_db.marts"
PAID = at("2025-12-10 12:00")

# ---------------------------------------------------------------- attribution


@contextmanager
def walks(rows: dict[str, tuple[int, int]], **settings: Any) -> Iterator[duckdb.DuckDBPyConnection]:
    """The metrics of *rows*: path like `a>b` -> (orders, walks that ended in nothing), one touch a day."""
    con = open_memory(AS_OF, ZONE)
    for path, (won, lost) in rows.items():
        channels = path.split(">")
        for number in range(won + lost):
            person = f"{path}-{number}"
            insert(con, "dim_people", [{"one_id": person}])
            for place, channel in enumerate(channels):
                when = PAID - timedelta(days=len(channels) - place)
                touch = {"touch_key": f"{person}-{place}", "one_id": person, "channel": channel, "touched_at": when}
                insert(con, "fct_touches", [touch])
            if number < won:
                order = {"order_key": person, "one_id": person, "is_paid": True, "paid_at": PAID}
                insert(con, "fct_orders", [order | {"paid_date": PAID.date(), "amount": 100, "refund_amount": 0}])
    metrics(con, attribution={"models": ["first", "last", "linear", "markov", "shapley"], "bootstrap": 0} | settings)
    yield con
    con.close()


def metrics(con: duckdb.DuckDBPyConnection, **settings: Any) -> None:
    config = MetricsConfig.model_validate(settings)
    build_ltv(con, config, as_of=AS_OF, timezone=ZONE)
    run_model(con, "fct_person_features")
    build_metrics(con, config, as_of=AS_OF, timezone=ZONE)


@pytest.mark.parametrize(
    ("rows", "probability", "effects", "orders"),
    [
        # Puzyrov, "Markov chain attribution: simple explanation of removal effect" (2019)
        ({"google": (2, 1), "mailing": (1, 0), "google>mailing": (1, 0)}, 0.8, [0.75, 0.5], [2.4, 1.6]),
        # pychattr's README: simulation answers 1.991 and 1.009
        ({"a>b>a>b>b>a": (1, 0), "a>b>b>a>a": (1, 0), "a>a": (1, 0)}, 1.0, [1.0, 0.5], [2.0, 1.0]),
        # AnalyzeCore, "Marketing multi-channel attribution model with R" (2016)
        ({"c1>c2>c3": (1, 0), "c1": (0, 1), "c2>c3": (0, 1)}, 1 / 3, [0.5, 1.0, 1.0], [0.2, 0.4, 0.4]),
    ],
    ids=["puzyrov", "pychattr", "analyzecore"],
)
def test_markov_totals_are_those_published(
    rows: dict[str, tuple[int, int]], probability: float, effects: list[float], orders: list[float]
) -> None:
    """`removal_orders` is the model's own total; `credited_orders`, which keeps each order on its own path, sums to
    the same number of orders."""
    with walks(rows) as con:
        found = con.execute(
            f"select removal_effect, removal_orders, credited_orders from {MARTS}.fct_attribution_channels"
            " where model = 'markov' order by channel"
        ).fetchall()
        chance = con.execute(
            f"select conversion_probability from {MARTS}.dim_attribution_models where model = 'markov'"
        ).fetchall()
    assert chance == [(pytest.approx(probability, rel=1e-12),)]
    assert [row[0] for row in found] == pytest.approx(effects, rel=1e-12)
    assert [row[1] for row in found] == pytest.approx(orders, rel=1e-12)
    assert sum(row[2] for row in found) == pytest.approx(sum(orders), rel=1e-12)


def credit(con: duckdb.DuckDBPyConnection, model: str) -> list[float]:
    rows = con.execute(
        f"select credit from {MARTS}.fct_attribution_credit where model = ? and kind = 'sale' order by position",
        [model],
    ).fetchall()
    return [row[0] for row in rows]


def test_rules_share_credit_as_analytics_tools_document_them(con: duckdb.DuckDBPyConnection) -> None:
    """Google Analytics' position based model (40/20/40) and time decay (a touch 7 days before the order counts half);
    a look-back of 30 days includes its very edge, and the order's own instant."""
    days: dict[str, list[int]] = {"p": [14, 7, 0], "q": [30, 20, 10, 5, 1]}
    for person, back in days.items():
        insert(con, "dim_people", [{"one_id": person}])
        moments = [PAID - timedelta(days=count) for count in back]
        moments += [PAID - timedelta(days=30, microseconds=1), PAID + timedelta(microseconds=1)]
        for number, when in enumerate(moments):
            touch = {"touch_key": f"{person}{number}", "one_id": person, "channel": f"c{number}", "touched_at": when}
            insert(con, "fct_touches", [touch])
    base = {"is_paid": True, "paid_at": PAID, "paid_date": PAID.date(), "amount": 100, "refund_amount": 0}
    models = {"attribution": {"models": ["position", "time_decay"]}}
    insert(con, "fct_orders", [base | {"order_key": "p", "one_id": "p"}])
    metrics(con, **models)
    assert credit(con, "time_decay") == pytest.approx([1 / 7, 2 / 7, 4 / 7], rel=1e-9)
    con.execute(f"update {MARTS}.fct_orders set one_id = 'q'")
    metrics(con, **models)
    assert credit(con, "position") == pytest.approx([0.4, 0.2 / 3, 0.2 / 3, 0.2 / 3, 0.4])


def test_returns_at_the_till_and_refunds_above_the_sale_are_shared_to_the_cent(con: duckdb.DuckDBPyConnection) -> None:
    """Σ amount per order and model is its net, whatever the sign (design row 11)."""
    insert(con, "dim_people", [{"one_id": "p"}])
    for number, back in enumerate((3, 2, 1)):
        when = PAID - timedelta(days=back)
        touch = {"touch_key": f"t{number}", "one_id": "p", "channel": f"c{number}", "touched_at": when}
        insert(con, "fct_touches", [touch])
    nets = {"back": (-20, 0, "-20.00"), "over": (100, 130, "-30.00"), "third": (100, 0, "100.00")}
    for key, (amount, refund, _) in nets.items():
        order = {"order_key": key, "one_id": "p", "is_paid": True, "paid_at": PAID, "paid_date": PAID.date()}
        insert(con, "fct_orders", [order | {"amount": amount, "refund_amount": refund, "refunded_at": PAID}])
    every = ["first", "last", "linear", "position", "time_decay", "markov", "shapley"]
    metrics(con, attribution={"models": every})
    found = con.execute(
        f"select order_key, model, sum(amount)::text from {MARTS}.fct_attribution_credit group by all"
    ).fetchall()
    assert len(found) == len(nets) * len(every)
    assert {(key, net) for key, _, net in found} == {(key, net) for key, (_, _, net) in nets.items()}
