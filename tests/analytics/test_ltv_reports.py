"""What `cdp ltv` shows: curves, channels, one person, and the words of the analytics verbs."""

from __future__ import annotations

import ast
from decimal import Decimal

import duckdb
import pytest
import typer

from cdp.errors import ConfigError
from cdp.metrics.config import MetricsConfig
from tests.analytics.brand import AS_OF, ROOT, ZONE
from warehouse.analytics import build_ltv, ltv_cohorts, ltv_models, ltv_of_channels, ltv_of_person

MARTS = "marts_db.marts"


def test_curves_channels_and_a_person_come_from_the_same_money(brand: duckdb.DuckDBPyConnection) -> None:
    build_ltv(brand, MetricsConfig(), as_of=AS_OF, timezone=ZONE)
    cohorts = ltv_cohorts(brand, marts=MARTS)
    ends = set()
    for row in cohorts:
        assert list(row["curve"]) == list(range(len(row["curve"]))), "a month without purchases keeps its value"
        ends.add(int(row["cohort"][:4]) * 12 + int(row["cohort"][5:]) + len(row["curve"]))
    assert len(ends) == 1, "all curves end with the newest month of any"
    one_id, net = brand.execute(
        f"select one_id, hist_net from {MARTS}.fct_ltv_people order by hist_net desc limit 1"
    ).fetchall()[0]
    person = ltv_of_person(brand, one_id, marts=MARTS)
    assert person["hist_net"] == (net, "hist_gross - hist_refund")
    total = brand.execute(f"select sum(hist_net) from {MARTS}.fct_ltv_people").fetchall()[0][0]
    assert sum((row["hist_net"] for row in ltv_of_channels(brand, marts=MARTS)), Decimal(0)) == total
    buying, spending = ltv_models(brand, marts=MARTS)
    assert (buying["family"], spending["family"]) == ("bg_nbd", "gamma_gamma")
    assert set(buying["parameters"]) == {"r", "alpha", "a", "b"}


def test_a_person_who_never_paid_is_told_from_one_who_is_not_there(brand: duckdb.DuckDBPyConnection) -> None:
    build_ltv(brand, MetricsConfig(), as_of=AS_OF, timezone=ZONE)
    never = brand.execute(
        f"select min(one_id) from {MARTS}.dim_people where one_id not in (select one_id from {MARTS}.fct_ltv_people)"
    ).fetchall()[0][0]
    with pytest.raises(ConfigError, match=f"{never} has never paid"):
        ltv_of_person(brand, never, marts=MARTS)
    with pytest.raises(ConfigError, match="no person is called `nobody`"):
        ltv_of_person(brand, "nobody", marts=MARTS)


def test_every_word_the_verbs_say_has_its_chinese() -> None:
    from app.analytics_words import _ZH

    said: set[str] = set()
    for name in ("ltv_cli", "tags_cli", "funnel_cli", "metric_cli"):
        for node in ast.walk(ast.parse((ROOT / "app" / f"{name}.py").read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("say", "_table"):
                said |= {
                    part.value for part in ast.walk(node) if isinstance(part, ast.Constant) and part.value != "left"
                }
    words = {word for word in said if isinstance(word, str)} - {"right", "people", "buyers"}
    assert words <= set(_ZH)


def test_a_verb_answers_to_singular_and_plural() -> None:
    from app.main import Verbs

    group = Verbs(name="cdp")
    context = typer.Context(group)
    assert group.get_command(context, "tag").name == group.get_command(context, "tags").name
    assert group.get_command(context, "nothing") is None
