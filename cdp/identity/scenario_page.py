"""The given/when/then cases of the rules as a page to read."""

from __future__ import annotations

from cdp.identity.memory import run_scenario
from cdp.identity.rules import IdentityRules, Observation, Scenario

_HEAD = """# What the identity rules must get right

Written by `cdp identity scenarios --page FILE` from `scenarios` in `config/identity.yaml`; every case runs as a test.
Identifiers in one line were seen together. Where no time is given, lines are an hour apart.
"""


def scenario_page(rules: IdentityRules) -> str:
    """Markdown, one section for every scenario in the order of the file; a case that does not hold says so."""
    return "\n".join([_HEAD, *(_section(item, rules) for item in rules.scenarios)])


def _section(item: Scenario, rules: IdentityRules) -> str:
    lines = [f"## {item.name[:1].upper()}{item.name[1:]}", ""]
    for word, observations in (("Given", item.given), ("When", item.when)):
        lines += [f"{word}:", "", *(f"- {_observation(one)}" for one in observations), ""] if observations else []
    if item.as_of:
        lines += [f"As of {item.as_of:%Y-%m-%d}.", ""]
    lines += ["Then:", "", *(f"- {sentence}" for sentence in _outcome(item)), ""]
    faults = run_scenario(item, rules)
    return "\n".join([*lines, *(f"**Broken**: {fault}\n" for fault in faults)])


def _observation(one: Observation) -> str:
    ids = ", ".join(
        f"{name} `{value}`"
        for name, values in one.ids.items()
        for value in ([values] if isinstance(values, str) else values)
    )
    when = f", {one.at:%Y-%m-%d}" if one.at else ""
    return f"{ids} ({one.kind}{when})"


def _outcome(item: Scenario) -> list[str]:
    return [
        *(f"{_listed(group)} {'are one person' if len(group) > 1 else 'is a person'}" for group in item.same),
        *(f"{_listed(group)} are {len(group)} different persons" for group in item.apart),
        *(f"`{value}` is nobody's" for value in item.nobody),
    ]


def _listed(values: tuple[str, ...]) -> str:
    named = [f"`{value}`" for value in values]
    return named[0] if len(named) == 1 else f"{', '.join(named[:-1])} and {named[-1]}"
