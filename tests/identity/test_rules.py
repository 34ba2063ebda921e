"""The rule file: shipped defaults, scenarios, faults."""

from __future__ import annotations

from pathlib import Path

import pytest

from cdp.config import parse
from cdp.errors import ConfigError
from cdp.identity.memory import run_scenario
from cdp.identity.rules import IdentityRules
from cdp.identity.scenario_page import scenario_page

FILE = Path(__file__).parents[2] / "config" / "identity.yaml"
SHIPPED = parse(FILE.read_text(encoding="utf-8"), IdentityRules, file="identity.yaml")


def test_the_shipped_file_spells_out_the_defaults() -> None:
    defaults = IdentityRules()
    for name in defaults.types:
        assert SHIPPED.types[name] == defaults.types[name], name
    assert SHIPPED.model_copy(update={"scenarios": ()}) == defaults


@pytest.mark.parametrize("scenario", SHIPPED.scenarios, ids=lambda item: item.name)
def test_scenario(scenario) -> None:  # type: ignore[no-untyped-def]
    assert run_scenario(scenario, SHIPPED) == []


def test_breaking_a_rule_turns_a_scenario_red() -> None:
    worse = parse("types: {phone: {max_links: {}}, member_id: {limit: 2}}", IdentityRules, file="identity.yaml")
    faults = [fault for scenario in SHIPPED.scenarios for fault in run_scenario(scenario, worse)]
    assert faults == ["a family shares a phone and stays several people: expected different persons for mother, son"]


def test_the_page_of_scenarios_is_fresh() -> None:
    """Write it anew with `cdp identity scenarios --page docs/reference/identity-scenarios.md`."""
    page = FILE.parents[1] / "docs" / "reference" / "identity-scenarios.md"
    assert page.read_text(encoding="utf-8") == scenario_page(SHIPPED)
    assert "**Broken**" not in scenario_page(SHIPPED)
    free = {"types": {"phone": {"max_links": {}}, "member_id": {"limit": 2}}, "scenarios": SHIPPED.scenarios}
    worse = IdentityRules.model_validate(free)
    assert "**Broken**: a family shares a phone" in scenario_page(worse)


def test_a_type_of_one_s_own_lies_over_the_shipped_ones() -> None:
    rules = parse("types: {loyalty_card: {class: 1, limit: 1}, phone: {limit: 2}}", IdentityRules, file="identity.yaml")
    assert rules.types["loyalty_card"].limit == 1
    assert rules.types["phone"].limit == 2
    assert rules.types["phone"].normalise == ("phone",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("types: {phone: {limt: 3}}", "identity.yaml:1: types.phone.limt: unknown key `limt`; did you mean `limit`"),
        ("types:\n  phone: {max_links: {memberid: 1}}", "names `memberid`; did you mean `member_id`"),
        ("types: {phone: {block: [{value: a, prefix: b, reason: c}]}}", "exactly one of"),
        ("tiers: {bnd: 1}", "bnd"),
    ],
)
def test_faults_name_the_place_and_the_nearest_name(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse(text, IdentityRules, file="identity.yaml")
    assert message in str(error.value)
