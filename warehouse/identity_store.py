"""Resolving identities in the warehouse: evidence to persons, in one transaction (identity.md § 2).

Take the evidence in, resolve, give the persons their lasting ids, check, pass the gates, write map, registry, feed and
manifest: all of a run or none of it. A failed or killed run leaves everything as it was, and repeated gives the same ids.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime

import duckdb
import numpy as np

from cdp.errors import FatalError
from cdp.identity.graph import REJECTED, REJECTED_CANNOT, Resolution
from cdp.identity.resolve import resolve
from cdp.identity.rules import IdentityRules
from warehouse.identity_gates import check_gates, check_limits
from warehouse.identity_graph import final_ids, load, store_graph, write_types
from warehouse.identity_persons import Persons, give_ids, store_persons
from warehouse.identity_tables import ensure_tables
from warehouse.identity_values import Delta, take_in

Progress = Callable[[str], None]


@dataclass(frozen=True)
class IdentityReport:
    """What a run did. *stages*: seconds by stage. *mode*: full, incremental or unchanged."""

    run: int
    run_id: str
    mode: str
    identifiers: int = 0
    people: int = 0
    anonymous: int = 0
    shared: int = 0
    new_evidence: int = 0
    gone_evidence: int = 0
    rejected_values: int = 0
    minted: int = 0
    merges: int = 0
    splits: int = 0
    resurrected: int = 0
    retired: int = 0
    moved: int = 0
    refusals: int = 0
    contested_edges: int = 0
    data_errors: int = 0
    largest_person: int = 0
    changes: int = 0
    rules_hash: str = ""
    evidence_hash: int = 0
    map_hash: int = 0
    stages: dict[str, float] = field(default_factory=dict)


class _Clock:
    """Seconds by stage; tells *progress* when a stage begins."""

    def __init__(self, progress: Progress | None) -> None:
        self.stages: dict[str, float] = {}
        self.progress = progress

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        if self.progress:
            self.progress(name)
        begin = time.perf_counter()
        yield
        self.stages[name] = round(self.stages.get(name, 0) + time.perf_counter() - begin, 3)


def resolve_identities(
    con: duckdb.DuckDBPyConnection,
    rules: IdentityRules,
    *,
    run_id: str,
    as_of: datetime,
    secret: bytes,
    progress: Progress | None = None,
) -> IdentityReport:
    """Bring schema `identity` up to the evidence model `identity.int_identity__evidence`, as of *as_of* (UTC).

    *secret* keys the one_ids (at least 16 bytes; keep it: without it ids cannot be made again). Everything happens in one
    transaction. Raises `CheckFailedError` when a check or gate fails: then nothing is stored and the old map stays live.
    """
    if len(secret) < 16:
        raise FatalError("the identity secret is shorter than 16 bytes", hint="`cdp init` makes one in secrets/")
    con.execute("begin transaction")
    try:
        report = _run(con, rules, run_id=run_id, as_of=as_of, secret=secret, clock=_Clock(progress))
        con.execute("commit")
    except BaseException:
        con.execute("rollback")
        raise
    return report


def _run(
    con: duckdb.DuckDBPyConnection, rules: IdentityRules, *, run_id: str, as_of: datetime, secret: bytes, clock: _Clock
) -> IdentityReport:
    ensure_tables(con)
    run = int(con.execute("select coalesce(max(run), 0) + 1 from identity.run_manifest").fetchall()[0][0])
    with clock.stage("take in evidence"):
        refreshed = _refresh_dictionary(con, rules, as_of=as_of)
        delta = take_in(con, rules, run=run, as_of=as_of, secret=secret, bars_changed=refreshed)
        table = write_types(con, rules)
    with clock.stage("load graph"):
        loaded = load(con, table, as_of=as_of)
    with clock.stage("resolve"):
        outcome = resolve(loaded.nodes, loaded.rows, table, loaded.assertions, as_of=int(as_of.timestamp() * 1_000_000))
    with clock.stage("store graph"):
        ids = final_ids(con, loaded, outcome, run=run, as_of=as_of)
        group_type = np.full(int(loaded.nodes.group.max()) + 1 if len(loaded.nodes) else 0, 0, dtype=np.int64)
        group_type[loaded.nodes.group] = loaded.nodes.type
        store_graph(con, outcome, ids, loaded, table.names, group_type, scoped=False)
    with clock.stage("give ids"):
        persons = give_ids(con, outcome, ids, table, loaded.nodes.type, run=run, as_of=as_of, secret=secret)
        store_persons(
            con, persons, outcome, ids, run=run, as_of=as_of, cause=_cause(con, rules, delta.new_rows + delta.gone_rows)
        )
    with clock.stage("check"):
        check_limits(con, rules)
        check_gates(con, rules, persons, outcome, ids)
    report = _report(
        con, persons=persons, run=run, run_id=run_id, mode="full", rules=rules, delta=delta, outcome=outcome,
        stages=clock.stages,
    )  # fmt: skip
    _write_manifest(con, rules, report, as_of)
    return report


def _refresh_dictionary(con: duckdb.DuckDBPyConnection, rules: IdentityRules, *, as_of: datetime) -> bool:
    """When the reading of values changed (rules, block list, DuckDB's hash), forget how they were read; True if so.

    All evidence then counts as new. Nodes stay, and with them map and registry.
    """
    last = con.execute("""select values_hash, engine_hash = hash('siyu-cdp') from identity.run_manifest
        order by run desc limit 1""").fetchall()
    if not last or last[0] == (rules.values_hash(as_of.date()), True):
        return False
    for table in ("evidence", "evidence_node", "identifier_value", "rejects"):
        con.execute(f"delete from identity.{table}")
    return True


def _cause(con: duckdb.DuckDBPyConnection, rules: IdentityRules, evidence_rows: int) -> str:
    """What this run's changes come from; with several causes at once, the one that reaches furthest."""
    last = con.execute(
        "select rules_hash, assertion_hash from identity.run_manifest order by run desc limit 1"
    ).fetchall()
    if last and last[0][0] != rules.rules_hash():
        return "rule"
    if last and last[0][1] != _assertion_hash(con):
        return "assertion"
    return "evidence" if evidence_rows or not last else "clock"


def _assertion_hash(con: duckdb.DuckDBPyConnection) -> str:
    found = con.execute("""select coalesce(bit_xor(hash(assertion_id, withdrawn_at)), 0)::text || '/' || count(*)
        from identity.assertion""").fetchall()
    return str(found[0][0])


def _report(
    con: duckdb.DuckDBPyConnection, *, persons: Persons, run: int, run_id: str, mode: str, rules: IdentityRules,
    delta: Delta, outcome: Resolution, stages: dict[str, float],
) -> IdentityReport:  # fmt: skip
    changes = con.execute(
        "select count(*) filter (op = 'split'), count(*) from identity.identity_change where run = ?", [run]
    )
    splits, count = changes.fetchall()[0]
    kinds = dict(con.execute("select kind, count(*) from identity.person group by kind").fetchall())
    anonymous, largest = con.execute("""select count(*) filter (anonymous and kind = 'person'),
        coalesce(max(identifier_count), 0) from identity.person""").fetchall()[0]
    hashes = con.execute("""select
        (select coalesce(bit_xor(evidence_id), 0) from identity.evidence),
        (select coalesce(bit_xor(hash(node.type, node.scope, node.value_norm, node.epoch, map.one_id)), 0)
            from identity.identity_map as map inner join identity.node as node on map.node_id = node.node_id
            where map.run_to is null)""").fetchall()[0]
    return IdentityReport(
        run=run, run_id=run_id, mode=mode, identifiers=len(persons.node_id), people=kinds.get("person", 0),
        anonymous=anonymous, shared=kinds.get("shared", 0), new_evidence=delta.new_rows, gone_evidence=delta.gone_rows,
        rejected_values=delta.rejected_values, minted=len(persons.minted), merges=len(persons.merged), splits=splits,
        resurrected=len(persons.resurrected), retired=len(persons.retired),
        moved=int(np.sum((persons.old >= 0) & (persons.old != persons.new))), refusals=_refused(outcome),
        contested_edges=outcome.contested_edges, data_errors=len(outcome.data_errors), largest_person=largest,
        changes=count, rules_hash=rules.rules_hash(), evidence_hash=hashes[0], map_hash=hashes[1], stages=stages,
    )  # fmt: skip


def _refused(outcome: Resolution) -> int:
    return int(np.sum((outcome.decision == REJECTED) | (outcome.decision == REJECTED_CANNOT)))


def _write_manifest(
    con: duckdb.DuckDBPyConnection, rules: IdentityRules, report: IdentityReport, as_of: datetime
) -> None:
    con.execute(
        "insert into identity.run_manifest select ?, ?, ?, ?, ?, ?, ?, hash('siyu-cdp'), ?, ?, ?, ?, ?, ?",
        [report.run, report.run_id, as_of, report.mode, report.rules_hash, rules.values_hash(as_of.date()),
         _assertion_hash(con), report.evidence_hash, report.map_hash, report.identifiers, report.people, report.changes,
         json.dumps(asdict(report))],
    )  # fmt: skip
    if not con.execute("select 1 from identity.rules_version where rules_hash = ?", [report.rules_hash]).fetchall():
        con.execute(
            "insert into identity.rules_version values (?, ?, ?, ?)",
            [report.rules_hash, rules.values_hash(as_of.date()), rules.model_dump_json(by_alias=True), report.run],
        )
