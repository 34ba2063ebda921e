"""What a resolution must pass before it is published: limits per person, and the churn budget (identity.md § 1, 3 and
6)."""

from __future__ import annotations

import duckdb
import numpy as np

from cdp.errors import CheckFailedError
from cdp.identity.graph import Ints, Resolution
from cdp.identity.rules import IdentityRules
from warehouse.identity_persons import Persons


def check_limits(con: duckdb.DuckDBPyConnection, rules: IdentityRules, *, scoped: bool) -> None:
    """Raise `CheckFailedError` when a person holds more values of a type and scope than its limit, override apart."""
    windowed = [name for name, item in rules.types.items() if item.limit_window_days or not item.limit]
    names = ", ".join(f"'{name}'" for name in windowed) or "''"
    only = "and map.node_id in (select node_id from replaced)" if scoped else ""
    broken = con.execute(f"""
        select map.number, node.type, count(*) as held, any_value(registry.limit_per_person) as most
        from identity.identity_map as map
        inner join identity.node as node on map.node_id = node.node_id
        inner join identity.type_registry as registry on node.type = registry.type
        where map.run_to is null and registry.limit_per_person is not null and node.type not in ({names}) {only}
        group by map.number, node.type, node.scope
        having count(*) > any_value(registry.limit_per_person)
    """).fetchall()
    if not broken:
        return
    overridden = con.execute("""
        select distinct map.number from identity.edge_decision as decision
        inner join identity.identity_map as map on decision.a_node = map.node_id and map.run_to is null
        where decision.decision = 'overridden'
    """).fetchall()
    broken = [row for row in broken if (row[0],) not in set(overridden)]
    if broken:
        _, kind, held, most = broken[0]
        raise CheckFailedError(
            f"{len(broken)} persons break a limit; the first holds {held} values of `{kind}` where {most} are allowed",
            hint="the resolution is wrong and was not stored; report it with the run id",
        )


def gate_faults(
    con: duckdb.DuckDBPyConnection, rules: IdentityRules, persons: Persons, outcome: Resolution, ids: Ints
) -> list[str]:
    """Where the run changes more than `gates` of the rules allow: one sentence each, empty when it may be published."""
    return [*_absolute_gates(con, rules, persons, outcome, ids), *_share_gates(con, rules, persons)]


def refuse(faults: list[str]) -> None:
    """Raise `CheckFailedError` when there are faults of gates."""
    if faults:
        raise CheckFailedError(
            "identity gates stopped the run, the old map stays live:\n- " + "\n- ".join(faults),
            hint="put default values on a block list in config/identity.yaml, or raise the gate there if this "
            "is wanted; `cdp identity what-if RULES.yaml` shows the effect first",
        )


def _absolute_gates(
    con: duckdb.DuckDBPyConnection, rules: IdentityRules, persons: Persons, outcome: Resolution, ids: Ints
) -> list[str]:
    gates = rules.gates
    faults: list[str] = []
    if not len(persons.cluster):
        return faults
    sizes = np.bincount(persons.cluster)
    if sizes.max() > gates.max_person_identifiers:
        faults.append(
            f"max_person_identifiers: a person would have {int(sizes.max()):,} identifiers, "
            f"allowed {gates.max_person_identifiers:,}"
        )
    raw = np.bincount(outcome.component)
    if len(outcome.refusals.edge):
        contested = raw[np.unique(outcome.component[outcome.edges.a[outcome.refusals.edge]])].max()
        if contested > gates.max_contested_component:
            faults.append(
                f"max_contested_component: {int(contested):,} identifiers hang together against the limits, "
                f"allowed {gates.max_contested_component:,}"
            )
    contacts = np.array([name for name, item in rules.types.items() if item.class_ <= 2])
    worst = np.argsort(-outcome.neighbours)[:50]
    for node in worst[outcome.neighbours[worst] > gates.max_people_per_contact].tolist():
        kind, barred = con.execute(
            "select type, barred from identity.node where node_id = ?", [int(ids[node])]
        ).fetchall()[0]
        if kind in contacts and barred is None:
            faults.append(
                f"max_people_per_contact: one `{kind}` (node {int(ids[node])}) is seen with "
                f"{int(outcome.neighbours[node]):,} people, allowed {gates.max_people_per_contact:,}"
            )
    return faults


def _share_gates(con: duckdb.DuckDBPyConnection, rules: IdentityRules, persons: Persons) -> list[str]:
    """Gates on what was there before this run, whether the run looked at it or not."""
    gates = rules.gates
    faults: list[str] = []
    live, mapped = con.execute("""select
        (select count(*) from identity.one_id_registry where status = 'live'),
        (select count(*) from identity.identity_map where run_to is null)""").fetchall()[0]
    merged, gone = len(persons.merged), len(persons.gone)
    people = live - len(persons.minted) - len(persons.resurrected) + merged + len(persons.retired)
    known = mapped - int((persons.old < 0).sum()) + gone
    if people < gates.min_people_for_shares:
        return faults
    moved = int(((persons.old >= 0) & (persons.old != persons.new)).sum()) + gone
    if moved > gates.max_moved_share * known:
        faults.append(
            f"max_moved_share: {moved / known:.1%} of known identifiers would change person or vanish, "
            f"allowed {gates.max_moved_share:.1%}"
        )
    if merged > gates.max_merged_known_share * people:
        faults.append(
            f"max_merged_known_share: {merged / people:.1%} of known people would merge into another, "
            f"allowed {gates.max_merged_known_share:.1%}"
        )
    return faults
