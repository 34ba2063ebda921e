"""What the field has published, through our public interfaces: definitions in YAML, marts tables, `build_*`.

Facts and figures only; each test names where they were published.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pytest

from cdp.config import parse
from cdp.errors import ConfigError
from cdp.funnels.config import FunnelsConfig
from cdp.ltv import buying, discrete, pareto, spending
from cdp.ltv.models import Buyers, fit_and_score
from cdp.metrics.config import LtvConfig, MetricsConfig
from cdp.metrics.durations import microseconds
from cdp.tags.config import TagsConfig
from tests.analytics.brand import AS_OF, ROOT, ZONE, at, insert, open_memory, run_model
from warehouse.analytics import (
    build_funnels,
    build_ltv,
    build_metrics,
    build_next_best,
    build_tags,
    metric_rows,
    metric_texts,
    plan_tags,
)

MARTS = "marts_db.marts"
PAID = at("2025-12-10 12:00")

# ---------------------------------------------------------------- funnels


def funnel(names: str, options: str = "", **steps: str) -> str:
    """YAML of a funnel: *names* of the events of steps s1, s2, …; *steps* adds to one of them."""
    listed = ", ".join(
        f"{{id: s{n}, event: '{name}'{steps.get(f's{n}', '')}}}" for n, name in enumerate(names.split(), start=1)
    )
    return f"funnels: [{{id: f, steps: [{listed}]{', ' if options else ''}{options}}}]"


def run_funnel(
    con: duckdb.DuckDBPyConnection, definition: str, events: Sequence[tuple[Any, ...]], zone: str = ZONE
) -> None:
    """*events*: (person, name, seconds or brand-local time in Shanghai, further columns)."""
    for number, (person, name, when, *more) in enumerate(events):
        moment = at(when) if isinstance(when, str) else PAID + timedelta(seconds=when)
        row = {"event_key": f"{number:04d}", "one_id": person, "event_name": name, "event_at": moment}
        insert(con, "fct_journey", [row | (more[0] if more else {})])
    build_funnels(con, parse(definition, FunnelsConfig, file="funnels.yaml"), as_of=AS_OF, timezone=zone)


def funnel_levels(con: duckdb.DuckDBPyConnection) -> dict[str, list[int]]:
    rows = con.execute(
        f"select one_id, list(level order by hold_key, attempt) from {MARTS}.fct_funnel_people where is_best group by 1"
    ).fetchall()
    return dict(rows)


def line(person: str, names: str, gap: int = 1) -> list[tuple[str, str, int]]:
    return [(person, name, place * gap) for place, name in enumerate(names.split())]


# definition, events, levels per person (per attempt)
FUNNELS: dict[str, tuple[str, list[tuple[Any, ...]], dict[str, list[int]]]] = {
    # ClickHouse's documentation of windowFunnel: events out of the order of rows
    "clickhouse documentation": (
        funnel("1003 1009 1007 1010", "window: {total: 60d}"),
        [("u", "1003", "2026-01-29 10:00"), ("u", "1007", "2026-01-31 09:00"), ("u", "1009", "2026-01-30 08:00"),
         ("u", "1010", "2026-02-01 08:00")],
        {"u": [4]},
    ),
    # ClickHouse 52844 (answers 2), Doris 68093 (answered 2), ClickHouse 21835, 34986 (answered 2 for p and q)
    "clickhouse 52844": (
        funnel("v0 v1 v2 v3", "window: {total: 100000s}, ties: strictly_after"),
        [("u", name, when) for name, when in zip(
            ["v0", "v1", "v2", "v3", "v1", "v2", "v3", "v1", "v2", "v3"], [1, 2, 2, 2, 3, 3, 3, 4, 4, 4], strict=True)],
        {"u": [4]},
    ),
    "doris 68093": (
        funnel("A B C", "window: {total: 10s}, ties: strictly_after"),
        [("u", "A", 0), ("u", "B", 1), ("u", "B", 2), ("u", "C", 2)],
        {"u": [3]},
    ),
    "clickhouse 21835": (
        funnel("1 2", "window: {total: 50s}, ties: strictly_after"),
        [("123", "1", 100), ("123", "2", 100), ("345", "1", 200), ("345", "2", 230)],
        {"123": [1], "345": [2]},
    ),
    "clickhouse 34986": (
        funnel("e e", "window: {total: 50s}"), [("p", "e", 100), ("q", "e", 200)], {"p": [1], "q": [1]}
    ),
    "clickhouse 34986, times 100 100 300": (
        funnel("e e e", "ties: strictly_after"), [("p", "e", 100), ("p", "e", 100), ("p", "e", 300)], {"p": [2]}
    ),
    # ClickHouse 37177 (strict_deduplication answered 1): within a minute the whole of it, though steps repeat
    "clickhouse 37177": (
        funnel("install start login end", "window: {total: 60s}"),
        line("u", "install start login install start install start login end", 5),
        {"u": [4]},
    ),
    # Doris, mode `fixed`: an event of no step between them breaks the chain before 4.1 and does not since
    "doris fixed, all events": (
        funnel("login visit order pay", "order: adjacent"), line("u", "login visit login2 order pay", 60), {"u": [2]}
    ),
    "doris fixed, own events": (
        funnel("login visit order pay", "order: adjacent, universe: [login, visit, order, pay]"),
        line("u", "login visit login2 order pay", 60),
        {"u": [4]},
    ),
    "doris fixed, a jump": (funnel("A B C D", "order: adjacent"), line("u", "A B D C"), {"u": [2]}),
    # Mixpanel, "Funnels: conversion window": A 1:00, A 1:30, B 1:45, C 2:15, one hour
    "mixpanel, first entry": (
        funnel("A B C", "window: {total: 1h}, entry: first"),
        [("u", "A", 0), ("u", "A", 1_800), ("u", "B", 2_700), ("u", "C", 4_500)],
        {"u": [2]},
    ),
    "mixpanel, optimized re-entry": (
        funnel("A B C", "window: {total: 1h}"),
        [("u", "A", 0), ("u", "A", 1_800), ("u", "B", 2_700), ("u", "C", 4_500)],
        {"u": [3]},
    ),
    # Mixpanel, totals: in again after the finish (p), the end of the window (q), an exclusion (r)
    "mixpanel, totals": (
        funnel("A B", "window: {total: 10s}, entry: each, exclude: [{event: x}]"),
        [*line("p", "A B A B"), ("q", "A", 0), ("q", "A", 5), ("q", "B", 12), ("q", "A", 20), ("q", "B", 21),
         *line("r", "A x B A B")],
        {"p": [2, 2], "q": [1, 2], "r": [0, 2]},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FUNNELS)
def test_funnels_give_the_levels_published_or_asked_for(con: duckdb.DuckDBPyConnection, name: str) -> None:
    definition, events, expected = FUNNELS[name]
    run_funnel(con, definition, events)
    assert funnel_levels(con) == expected


SETTLED: dict[str, tuple[str, list[tuple[Any, ...]], dict[str, list[int]]]] = {
    "a repeat of the step just reached breaks adjacency; simultaneous events need one order that works": (
        funnel("A B C", "order: adjacent"),
        [*line("p", "A B B C"), ("q", "B", 5), ("q", "A", 5), ("q", "C", 6)],
        {"p": [2], "q": [3]},
    ),
    "any order: the steps 1..k done": (funnel("A B C", "order: any"), line("p", "C B A") + line("q", "A C"),
                                       {"p": [3], "q": [1]}),
    "an exclusion at the very instant of a step is outside the span": (
        funnel("A B", "exclude: [{event: x}]"),
        [("p", "A", 0), ("p", "x", 0), ("p", "x", 5), ("p", "B", 5), *line("q", "A x B")],
        {"p": [2], "q": [0]},
    ),
    "drop from the second step leaves the first, and a clean second event mends it": (
        funnel("A B C", "exclude: [{event: x, from: s2, to: s3}]"),
        line("p", "A x B C") + line("q", "A B x C") + line("r", "A B x B C"),
        {"p": [3], "q": [1], "r": [3]},
    ),
    "truncate keeps what came before": (
        funnel("A B C", "exclude: [{event: x, from: s2, to: s3, effect: truncate}]"), line("q", "A B x C"), {"q": [2]}
    ),
    "a span without its end lasts until the window ends": (
        funnel("A B C", "window: {total: 10s}, exclude: [{event: x, from: s1, to: s3}]"),
        [("p", "A", 0), ("p", "B", 1), ("p", "x", 9), ("q", "A", 0), ("q", "B", 1), ("q", "x", 10)],
        {"p": [0], "q": [2]},
    ),
    "within counts since the previous step": (
        funnel("A B C", s3=", within: 2s"),
        [("p", "A", 0), ("p", "B", 5), ("p", "C", 7), ("q", "A", 0), ("q", "B", 5), ("q", "C", 8)],
        {"p": [3], "q": [2]},
    ),
    "tolerance is for order, not for windows": (
        funnel("A B", "window: {total: 10s}, ties: {tolerance: 2s}"),
        [("p", "B", 0), ("p", "A", 2), ("q", "B", 0), ("q", "A", 3), ("r", "A", 0), ("r", "B", 11)],
        {"p": [2], "q": [1], "r": [1]},
    ),
    "an excluding event counts for the unit whose hold key it bears": (
        "funnels: [{id: f, hold: [thing], exclude: [{event: x}], steps: ["
        "{id: v, event: v, hold: {thing: product_id}}, {id: s, event: s, hold: {thing: campaign_id}}]}]",
        [("p", "v", 0, {"product_id": "k"}), ("p", "x", 1, {"product_id": "k"}), ("p", "s", 2, {"campaign_id": "k"}),
         ("q", "v", 0, {"product_id": "k"}), ("q", "x", 1, {"product_id": "n"}), ("q", "s", 2, {"campaign_id": "k"})],
        {"p": [0], "q": [2]},
    ),
    "attempts of natural days: midnight ends the first": (
        funnel("A B", "window: {total: 1d, clock: natural_day}, entry: each"),
        [("p", "A", "2026-02-01 23:50"), ("p", "A", "2026-02-02 00:10"), ("p", "B", "2026-02-02 00:20")],
        {"p": [1, 2]},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SETTLED)
def test_settled_questions_have_their_answer(con: duckdb.DuckDBPyConnection, name: str) -> None:
    """The table "Settled details" of design/analytics.md § 1, by YAML."""
    definition, events, expected = SETTLED[name]
    run_funnel(con, definition, events)
    assert funnel_levels(con) == expected


def test_natural_days_are_as_long_as_the_clock_makes_them(con: duckdb.DuckDBPyConnection) -> None:
    """In New York 9 March 2025 has 23 hours and 2 November 25. Window ends are told as they are computed."""
    ends = {"short": ("2025-03-09 05:30", "2025-03-10 04:00"), "long": ("2025-11-02 04:30", "2025-11-03 05:00")}
    events: list[tuple[Any, ...]] = []
    for name, (entry, midnight) in ends.items():
        first, last = (datetime.fromisoformat(text) + timedelta(hours=8) for text in (entry, midnight))
        inside = last - timedelta(microseconds=1)
        events += [(f"{name} in", "A", first.isoformat()), (f"{name} in", "B", inside.isoformat())]
        events += [(f"{name} out", "A", first.isoformat()), (f"{name} out", "B", last.isoformat())]
    zone = "America/New_York"
    run_funnel(con, funnel("A B", "window: {total: 1d, clock: natural_day}"), events, zone)
    assert funnel_levels(con) == {"short in": [2], "short out": [1], "long in": [2], "long out": [1]}
    whole = con.execute(f"select one_id, window_ends_at from {MARTS}.fct_funnel_people order by 1").fetchall()
    by_steps = funnel("A B", "window: {clock: natural_day}", s2=", within: 1d")
    build_funnels(con, parse(by_steps, FunnelsConfig, file="funnels.yaml"), as_of=AS_OF, timezone=zone)
    assert con.execute(f"select one_id, window_ends_at from {MARTS}.fct_funnel_people order by 1").fetchall() == whole


def test_a_step_that_may_be_skipped_is_no_base_of_the_next(con: duckdb.DuckDBPyConnection) -> None:
    """Two of three go on, one of them by the optional step: 2 of 3, not 2 of 1."""
    run_funnel(con, funnel("A B C", s2=", optional: true"), line("p", "A C") + line("q", "A B C") + line("r", "A"))
    rates = con.execute(
        f"select reached, step_rate from {MARTS}.fct_funnel_steps where all_buckets and all_values order by step_no"
    ).fetchall()
    assert rates == [(3, None), (1, pytest.approx(1 / 3)), (2, pytest.approx(2 / 3))]


ECOM = (
    ("home catalog product_view", "30m"),
    ("search filter_results product_view", "2h"),
    ("catalog product_view cart purchase", "1d"),
    ("product_view search product_view", "7d"),
)


def test_the_ecom_data_of_retentioneering_give_what_clickhouse_gives(con: duckdb.DuckDBPyConnection) -> None:
    """31,106 events of 600 users (retentioneering 5.2.4): every user's level by YAML equals `windowFunnel` with
    `strict_once`, a repeated step included."""
    chdb = pytest.importorskip("chdb", reason="test dependency of half a gigabyte, not on every machine")
    path = ROOT / "tests" / "data" / "retentioneering" / "ecom.csv.gz"
    con.execute(
        f"insert into {MARTS}.fct_journey by name select format('{{:06d}}', row_number() over ()) as event_key,"
        " user_id as one_id, event as event_name, timezone('UTC', timestamp) as event_at from read_csv(?)",
        [str(path)],
    )
    reached = []
    for names, window in ECOM:
        definition = parse(funnel(names, f"window: {{total: {window}}}"), FunnelsConfig, file="funnels.yaml")
        build_funnels(con, definition, as_of=AS_OF, timezone="UTC")
        ours = con.execute(f"select one_id, level from {MARTS}.fct_funnel_people order by 1").fetchall()
        conditions = ", ".join(f"event = '{name}'" for name in names.split())
        found = chdb.query(
            f"select user_id, windowFunnel({microseconds(window) // 1_000_000}, 'strict_once')"
            f"(toUInt64(toDateTime(timestamp, 'UTC')), {conditions}) as level"
            f" from file('{path}', CSVWithNames) group by user_id having level > 0 order by user_id",
            "CSV",
        )
        theirs = [line.split(",") for line in str(found).strip().splitlines()]
        assert ours == [(user.strip('"'), int(level)) for user, level in theirs]
        reached.append(sum(level == len(names.split()) for _, level in ours))
    assert min(reached) > 0


# ---------------------------------------------------------------- lifetime value


def row(x: float, t_x: float, age: float) -> list[np.ndarray]:
    return [np.array([float(value)]) for value in (x, t_x, age)]


BG_NBD = {"r": 0.243, "alpha": 4.414, "a": 0.793, "b": 2.426}
PARETO_NBD = {"r": 0.5534, "alpha": 10.5802, "s": 0.6061, "beta": 11.6562}
BG_BB = {"alpha": 1.204, "beta": 0.750, "gamma": 0.657, "delta": 2.783}


def test_single_customers_have_the_published_expectations() -> None:
    """BG/NBD: Hardie's spreadsheet note (2004), a customer of CDNOW with x = 2, t_x = 30.43, T = 38.86 buys 1.226 times
    in 39 weeks. Pareto/NBD: the vignette of R's BTYD, 25.46 in a year for x = 26, t_x = 30.86, T = 31, alive with
    0.9979, and 1.473 for a new customer. BG/BB: Fader, Hardie, Shang (2010), five more opportunities after six: 0.07
    for x = 0, 1.15 for x = 1 at the sixth, 3.75 for x = 6, alive 0.11 and 0.93. Gamma-Gamma: Fader, Hardie (2013), a
    population mean of about 35."""
    assert buying.expected_purchases(BG_NBD, 39.0, *row(2, 30.43, 38.86))[0] == pytest.approx(1.226, abs=5e-4)
    assert pareto.expected_purchases(PARETO_NBD, 52.0, *row(26, 30.86, 31))[0] == pytest.approx(25.46, abs=0.01)
    assert pareto.p_alive(PARETO_NBD, *row(26, 30.86, 31))[0] == pytest.approx(0.9979, abs=5e-5)
    assert pareto.expected_purchases(PARETO_NBD, 52.0, *row(0, 0, 0))[0] == pytest.approx(1.473, abs=5e-4)
    for (x, t_x), bought in {(0, 0): 0.07, (1, 6): 1.15, (6, 6): 3.75}.items():
        assert discrete.expected_purchases(BG_BB, 5.0, *row(x, t_x, 6))[0] == pytest.approx(bought, abs=5e-3)
    assert discrete.p_alive(BG_BB, *row(0, 0, 6))[0] == pytest.approx(0.11, abs=5e-3)
    assert discrete.p_alive(BG_BB, *row(6, 6, 6))[0] == pytest.approx(0.93, abs=5e-3)
    money = {"p": 6.25, "q": 3.74, "v": 15.44}
    assert spending.expected_amount(money, np.zeros(1), np.zeros(1))[0] == pytest.approx(35.2, abs=0.05)


PUBLISHED: dict[str, tuple[dict[str, float], float | None]] = {
    "bg_nbd": ({"r": 0.243, "alpha": 4.414, "a": 0.793, "b": 2.426}, -9582.4),
    "pareto_nbd": ({"r": 0.553, "alpha": 10.578, "s": 0.606, "beta": 11.669}, -9595.0),
    "mbg_nbd": ({"r": 0.525, "alpha": 6.183, "a": 0.891, "b": 1.614}, None),
}


@pytest.mark.parametrize("model", PUBLISHED)
def test_cdnow_goes_from_orders_to_the_published_parameters(model: str) -> None:
    """The 6,919 orders of the CDNOW sample as orders of a brand: cut after 30 September 1997 the marts hold the
    parameters of Fader, Hardie, Lee (2005) and, for MBG/NBD, those of Batislam et al. (2007) as the tests of lifetimes
    give them; nine months later the hold-out of 39 weeks has the paper's 1,882 purchases."""
    datasets = pytest.importorskip("lifetimes.datasets", reason="test dependency that carries CDNOW")
    text = (Path(datasets.__file__).parent / "CDNOW_sample.txt").read_text(encoding="ascii")
    lines = [line.split() for line in text.splitlines() if len(line.split()) == 5 and line.split()[2].isdigit()]
    days = [datetime.strptime(line[2], "%Y%m%d").replace(tzinfo=UTC) for line in lines]
    columns = {"one_id": [line[1] for line in lines], "amount": [float(line[4]) for line in lines]}
    columns |= {"paid_date": [day.date() for day in days], "paid_at": [day.replace(hour=4) for day in days]}
    orders = pl.DataFrame(columns | {"order_key": [str(n) for n in range(len(lines))], "is_paid": [True] * len(lines)})
    settings = {"model": model, "hold_out": {"days": 273, "aggregate_ratio": [0.8, 1.1]}}
    for cut in (datetime(1997, 10, 1, 3, tzinfo=UTC), datetime(1998, 7, 1, 3, tzinfo=UTC)):
        con = open_memory(cut, ZONE)
        con.register("loaded", orders.to_arrow())
        con.execute(f"insert into {MARTS}.fct_orders by name select * from loaded")
        report = build_ltv(con, MetricsConfig.model_validate({"ltv": settings}), as_of=cut, timezone=ZONE)
        families = con.execute(f"select family, parameters, log_likelihood, n from {MARTS}.dim_ltv_models").fetchall()
        con.close()
        if cut.year == 1997:
            fitted = {family: (json.loads(parameters), value, n) for family, parameters, value, n in families}
    parameters, likelihood = PUBLISHED[model]
    assert fitted[model][0] == pytest.approx(parameters, abs=2e-3)
    assert likelihood is None or fitted[model][1] == pytest.approx(likelihood, abs=0.06)
    assert fitted["gamma_gamma"][0] == pytest.approx({"p": 6.25, "q": 3.74, "v": 15.44}, abs=0.01)
    assert (fitted[model][2], fitted["gamma_gamma"][2]) == (2_357, 946)
    assert (report.hold_out["actual"], report.published) == (1_882.0, True)


@pytest.mark.parametrize("model", ["bg_nbd", "mbg_nbd", "pareto_nbd"])
def test_customers_more_regular_than_any_poisson_are_predicted(model: str) -> None:
    """A subscription, one purchase in thirty days, nobody leaves: the rate's gamma shrinks to a point (r and alpha run
    away together), and the year to come holds about twelve purchases."""
    age = np.arange(100.0, 400.0, 2.0)
    x = age // 30
    buyers = Buyers(pl.Series([str(n) for n in range(len(x))]), x, x * 30, age, np.where(x > 0, 50.0, 0.0))
    prediction = fit_and_score(buyers, LtvConfig.model_validate({"model": model}))
    assert prediction.buying.params["r"] > 1e4
    assert prediction.orders[-1] == pytest.approx(np.full(len(x), 12.0), rel=0.1)


def test_a_hold_out_without_a_single_purchase_is_withheld_and_told_in_valid_json(
    brand: duckdb.DuckDBPyConnection,
) -> None:
    brand.execute(f"delete from {MARTS}.fct_orders where paid_at > ?", [AS_OF - timedelta(days=95)])
    report = build_ltv(brand, MetricsConfig(), as_of=AS_OF, timezone=ZONE)
    assert (report.published, report.hold_out["actual"]) == (False, 0.0)
    told = brand.execute(
        f"select distinct json_valid(hold_out), hold_out->>'aggregate_ratio', reason from {MARTS}.dim_ltv_models"
    ).fetchall()
    assert told == [(True, None, "nobody bought in the last 90 days: the hold-out ratio is outside 0.6–1.6")]


def test_horizons_that_would_stand_under_other_names_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"metrics.yaml:1: ltv.horizons.0: expected one of 90; found `30`"):
        parse("ltv: {horizons: [30, 180, 365]}", MetricsConfig, file="metrics.yaml")


def test_a_day_of_returns_is_no_purchase(con: duckdb.DuckDBPyConnection) -> None:
    """Nor is a day refunded in full; one on which something was free is."""
    for number, (day, amount) in enumerate((("2025-06-01", 100), ("2025-07-01", -40), ("2025-08-01", 0))):
        order = {"order_key": f"o{number}", "one_id": "a", "is_paid": True, "paid_at": at(f"{day} 12:00")}
        insert(con, "fct_orders", [order | {"paid_date": day, "amount": amount, "refund_amount": 0}])
    build_ltv(con, MetricsConfig(), as_of=AS_OF, timezone=ZONE)
    assert con.execute(f"select x, t_x, hist_net from {MARTS}.fct_ltv_people").fetchall() == [(1, 61, 60)]


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


def test_every_metric_is_found_by_its_name_and_a_word_for_several_gives_each(brand: duckdb.DuckDBPyConnection) -> None:
    """There is no repurchase rate: Chinese 复购率 is four numbers (design row 22)."""
    metrics(brand)
    build_next_best(brand, MetricsConfig(), as_of=AS_OF, timezone=ZONE)
    for name, table, text in metric_texts(brand, marts=MARTS):
        rows = metric_rows(brand, name, marts=MARTS)
        assert text, f"{table} does not say what one row is"
        assert rows or name in ("stages", "stage_flow", "uplift"), name
    four = {row["definition"] for row in metric_rows(brand, "复购率", marts=MARTS)}
    assert four == {"by_person", "by_order", "within_days", "next_period"}
    with pytest.raises(ConfigError, match="no metric is called `referal`; did you mean `referral`"):
        metric_rows(brand, "referal", marts=MARTS)


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


# ---------------------------------------------------------------- referral


def test_k_is_invitations_times_conversion() -> None:
    """Skok, "Lessons learned: viral marketing", with the figures usual in Chinese texts: 100 seeds of 5 invitations;
    100 conversions make K = 1, 30 % of the invitations K = 1.5. A person invited by two seeds is reached once."""
    for joined, factor in ((100, 1.0), (150, 1.5)):
        con = open_memory(AS_OF, ZONE)
        invited = [(f"s{n // 5}", f"i{n}") for n in range(498)] + [("s98", "i0"), ("s99", "i1")]
        edges = {
            "referral_key": [f"r{n:03d}" for n in range(500)],
            "campaign_id": ["c"] * 500,
            "inviter_one_id": [inviter for inviter, _ in invited],
            "invitee_one_id": [invitee for _, invitee in invited],
            "invited_at": [PAID] * 500,
        }
        joins = {"event_key": [f"j{n}" for n in range(joined)], "one_id": [f"i{n}" for n in range(joined)]}
        events = pl.DataFrame(joins).with_columns(event_name=pl.lit("registered"), event_at=PAID + timedelta(days=1))
        for table, data in (("fct_referrals", pl.DataFrame(edges)), ("fct_journey", events)):
            con.register("loaded", data.to_arrow())
            con.execute(f"insert into {MARTS}.{table} by name select * from loaded")
        metrics(con)
        generation = con.execute(
            f"select members, sharers, invitations, reached, joined, i, c, k, median_cycle_seconds"
            f" from {MARTS}.fct_referral_generations where generation = 1"
        ).fetchall()
        share = pytest.approx(joined / 500)
        assert generation == [(100, 100, 500, 498, joined, 5.0, share, factor, 86_400.0)]
        whole = con.execute(
            f"select seeds, reach, sharers, reached, i * c, k, ceiling from {MARTS}.fct_referral_campaigns"
        ).fetchall()
        con.close()
        pooled, everyone = pytest.approx(joined / (100 + joined)), 100 + joined
        # Over a forest that has come to rest the ceiling of the pooled K is what was reached.
        assert whole == [(100, everyone, 100, 498, pooled, pooled, pytest.approx(everyone))]


# ---------------------------------------------------------------- GMV


def test_a_change_of_sales_is_decomposed_as_by_hand(con: duckdb.DuckDBPyConnection) -> None:
    """Ang (2005), "The LMDI approach to decomposition analysis: a practical guide", additive LMDI-I:
    L(V1, V0) ln(f1/f0). January: 100 reachable of 80 seeds, 20 buyers, 30 orders, 3,000 yuan; February: 150 of 100, 40,
    50, 6,000."""
    people = []
    for month, seeds, referred in (("2026-01", 80, 20), ("2026-02", 20, 30)):
        for number in range(seeds + referred):
            person = {"one_id": f"{month}-{number:03d}", "registered_at": at(f"{month}-01 00:00")}
            people.append(person | {"referred_by_one_id": "someone" if number >= seeds else None})
    insert(con, "dim_people", people)
    for month, buyers, orders, price in (("2026-01", 20, 30, 100), ("2026-02", 40, 50, 120)):
        for number in range(orders):
            order = {"order_key": f"{month}-{number}", "one_id": f"2026-01-{number % buyers:03d}", "is_paid": True}
            order |= {"paid_at": at(f"{month}-10 12:00"), "paid_date": f"{month}-10", "amount": price}
            insert(con, "fct_orders", [order | {"refund_amount": 0}])
    metrics(con)
    effects = ("seeds", "referral_multiple", "buyer_share", "orders_per_buyer", "net_per_order")
    before, after = con.execute(
        f"select {', '.join(effects)} from {MARTS}.fct_gmv_identity where gmv_net > 0 order by period_start"
    ).fetchall()
    assert before == pytest.approx((80, 1.25, 0.2, 1.5, 100))
    assert after == pytest.approx((100, 1.5, 4 / 15, 1.25, 120))
    change, *parts = con.execute(
        f"select gmv_change, {', '.join(f'{name}_effect' for name in effects)} from {MARTS}.fct_gmv_identity"
        " where period_start = '2026-02-01'"
    ).fetchall()[0]
    # 3,000 / ln 2 = 4,328.09, times ln 1.25, ln 1.2, ln 4/3, -ln 1.2, ln 1.2
    assert parts == pytest.approx([965.78, 789.10, 1_245.12, -789.10, 789.10], abs=0.01)
    assert change == pytest.approx(3_000, abs=1e-9)
    assert sum(parts) == pytest.approx(change, abs=1e-9)


# ---------------------------------------------------------------- tags


def test_the_first_plan_is_the_first_publication(brand: duckdb.DuckDBPyConnection) -> None:
    """Entering and leaving are predicted before there are any tags, as after a change of the rules (design row 18)."""
    text = (
        "tag_groups: [{id: g, kind: rule, overrides: [manual], rules: {甲: 'orders_paid = 1', 乙: 'orders_paid >= 2'}}]"
    )
    build_ltv(brand, MetricsConfig(), as_of=AS_OF, timezone=ZONE)
    run_model(brand, "fct_person_features")
    before: dict[str, int] = {}
    for definition in (text, text.replace(">= 2", ">= 3")):
        tags = parse(definition, TagsConfig, file="tags.yaml")
        planned = {row.value: row for row in plan_tags(brand, tags, marts=MARTS)}
        build_tags(brand, tags, as_of=AS_OF, timezone=ZONE)
        held = dict(brand.execute(f"select value, count(*) from {MARTS}.fct_tags_current group by 1").fetchall())
        assert {value: row.now for value, row in planned.items()} == {value: before.get(value, 0) for value in planned}
        assert {value: row.after for value, row in planned.items()} == held
        before = held
    assert min(before.values()) > 0
