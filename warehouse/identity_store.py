"""Resolving identities in the warehouse: evidence to persons, in one transaction (identity.md § 2).

Take the evidence in, resolve, give the persons their lasting ids, check, pass the gates, write map, registry, feed and
manifest: all of a run or none of it. A failed or killed run leaves everything as it was, and repeated gives the same
ids.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime

import duckdb
import numpy as np
import polars as pl

from cdp.errors import CheckFailedError, FatalError, RetriableError
from cdp.identity.graph import NEVER, REJECTED, REJECTED_CANNOT, Resolution, TypeTable
from cdp.identity.memory import micros
from cdp.identity.resolve import decide, link, resolve
from cdp.identity.rules import IdentityRules
from warehouse.identity_gates import check_limits, gate_faults, refuse
from warehouse.identity_graph import final_ids, load, store_graph, without_edges, without_evidence, write_types
from warehouse.identity_persons import Persons, give_ids, store_households, store_persons
from warehouse.identity_scope import find_scope, sample_scope
from warehouse.identity_tables import ensure_tables
from warehouse.identity_values import EPOCH_HASH, NODE_HASH, RECIPE, Delta, nothing_new, sixty_four_bits, take_in

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

    *secret* keys the one_ids (at least 16 bytes; keep it: without it ids cannot be made again). Everything happens in
    one transaction. Raises `CheckFailedError` when a check or gate fails: then nothing is stored and the old map stays
    live.
    """
    with transaction(con, secret):
        return _run(con, rules, run_id=run_id, as_of=as_of, secret=secret, clock=_Clock(progress))


def rebuild_identities(
    con: duckdb.DuckDBPyConnection,
    rules: IdentityRules,
    *,
    run_id: str,
    as_of: datetime,
    secret: bytes,
    progress: Progress | None = None,
) -> IdentityReport:
    """Throw away all that can be derived and resolve from evidence and registry; a sound warehouse shows no change."""
    with transaction(con, secret):
        for table in DERIVED:
            con.execute(f"delete from identity.{table}")
        return _run(con, rules, run_id=run_id, as_of=as_of, secret=secret, clock=_Clock(progress), full=True)


def reresolve(
    con: duckdb.DuckDBPyConnection, rules: IdentityRules, *, run_id: str, as_of: datetime, secret: bytes
) -> IdentityReport:
    """Resolve what assertions or `touched` ask for, without a look at the evidence model, in the caller's
    transaction."""
    return _run(con, rules, run_id=run_id, as_of=as_of, secret=secret, clock=_Clock(None), take=False)


def try_rules(
    con: duckdb.DuckDBPyConnection, rules: IdentityRules, *, as_of: datetime, secret: bytes
) -> tuple[IdentityReport, list[str]]:
    """A run under other rules in the caller's transaction, past all gates; also says which gates it would break."""
    broken: list[str] = []
    report = _run(con, rules, run_id="what-if", as_of=as_of, secret=secret, clock=_Clock(None), collect=broken)
    return report, broken


# What a rebuild throws away. `node` stays: its numbers are what map, registry and history speak of.
DERIVED = (
    "evidence",
    "evidence_node",
    "identifier_value",
    "rejects",
    "edge",
    "edge_decision",
    "raw_component",
    "person",
)


def _take_turn(con: duckdb.DuckDBPyConnection) -> None:
    """One at a time: raise `RetriableError` while another transaction of this process changes identities."""
    try:
        ensure_tables(con)
        con.execute("update identity.writer set beat = beat + 1")
    except duckdb.TransactionException as error:
        raise RetriableError("another step is changing identities", hint="wait for it to end and try again") from error


@contextmanager
def transaction(con: duckdb.DuckDBPyConnection, secret: bytes) -> Iterator[None]:
    """All or nothing: commit at the end, roll back whatever stops the body."""
    if len(secret) < 16:
        raise FatalError("the identity secret is shorter than 16 bytes", hint="`cdp init` makes one in secrets/")
    collation = con.execute("select current_setting('default_collation')").fetchall()[0][0]
    con.execute("set default_collation = ''")  # identifiers compare byte by byte, whatever the session prefers
    con.execute("begin transaction")
    try:
        _take_turn(con)
        yield
        con.execute("commit")
    except BaseException:
        con.execute("rollback")
        raise
    finally:
        con.execute(f"set default_collation = '{collation}'")


def _run(
    con: duckdb.DuckDBPyConnection,
    rules: IdentityRules,
    *,
    run_id: str,
    as_of: datetime,
    secret: bytes,
    clock: _Clock,
    full: bool = False,
    take: bool = True,
    collect: list[str] | None = None,
) -> IdentityReport:
    """One run inside the caller's transaction.

    *full*: resolve everything anew. *take*: look at the evidence model. *collect*: note broken gates there and go on.
    """
    before = last_run(con)
    run = before.run + 1 if before else 1
    with clock.stage("take in evidence"):
        if before and take:
            check_map_untouched(con, before.state_hash)
        refreshed = take and _refresh_dictionary(con, rules, before, as_of=as_of)
        delta = (
            take_in(con, rules, run=run, as_of=as_of, secret=secret, bars_changed=refreshed)
            if take
            else nothing_new(con)
        )
    cause = _cause(con, rules, before, delta.new_rows + delta.gone_rows)
    scoped = before is not None and not refreshed and not full and cause != "rule"
    table = write_types(con, rules)
    if scoped and before:
        with clock.stage("find scope"):
            changed = before.assertion_hash != _assertion_hash(con)
            in_scope = find_scope(con, rules, as_of=as_of, previous=before.as_of, assertions_changed=changed)
        if not in_scope:
            return _unchanged(con, rules, before, run=run, run_id=run_id, as_of=as_of, delta=delta, clock=clock)
    with clock.stage("load graph"):
        loaded = load(con, table, scoped=scoped)
    with clock.stage("resolve"):
        linked = link(loaded.nodes, loaded.rows, table, loaded.assertions, as_of=micros(as_of))
        loaded = without_evidence(loaded)
        outcome = decide(linked, table, as_of=micros(as_of))
        del linked
    with clock.stage("store graph"):
        ids = final_ids(con, loaded, outcome, run=run)
        store_graph(con, outcome, ids, loaded, table, scoped=scoped)
        outcome = without_edges(outcome)
    with clock.stage("give ids"):
        persons = give_ids(con, outcome, ids, loaded, table, run=run, as_of=as_of, secret=secret, scoped=scoped)
        store_persons(con, persons, outcome, run=run, as_of=as_of, cause=cause, scoped=scoped)
        store_households(con, [name for name, item in sorted(rules.types.items()) if item.household])
    with clock.stage("check"):
        check_limits(con, rules, scoped=scoped)
        faults = gate_faults(con, rules, persons, outcome, ids)
        if collect is None:
            refuse(faults)
        else:
            collect += faults
        if scoped:
            _check_sample(con, rules, table, run=run, as_of=as_of)
        con.execute("delete from identity.touched")
    report = _report(
        con,
        run=run,
        run_id=run_id,
        mode="incremental" if scoped else "full",
        persons=persons,
        rules=rules,
        delta=delta,
        outcome=outcome,
        stages=clock.stages,
        before=before if scoped else None,
    )
    _write_manifest(con, rules, report, as_of)
    return report


def _unchanged(
    con: duckdb.DuckDBPyConnection,
    rules: IdentityRules,
    before: LastRun,
    *,
    run: int,
    run_id: str,
    as_of: datetime,
    delta: Delta,
    clock: _Clock,
) -> IdentityReport:
    """Nothing to resolve: the manifest says so, and that is all that is written."""
    report = replace(
        IdentityReport(**json.loads(before.report)),
        **dict.fromkeys(("minted", "merges", "splits", "resurrected", "retired", "moved", "changes"), 0),
        run=run,
        run_id=run_id,
        mode="unchanged",
        rules_hash=rules.rules_hash(),
        new_evidence=delta.new_rows,
        gone_evidence=delta.gone_rows,
        rejected_values=delta.rejected_values,
        evidence_hash=_evidence_hash(con),
        stages=clock.stages,
    )
    _write_manifest(con, rules, report, as_of)
    return report


def _check_sample(
    con: duckdb.DuckDBPyConnection, rules: IdentityRules, table: TypeTable, *, run: int, as_of: datetime
) -> None:
    """Resolve some extents that the run left alone from scratch; raise `CheckFailedError` unless the map says the
    same."""
    if not rules.sample_components or not sample_scope(con, count=rules.sample_components, run=run):
        return
    loaded = load(con, table, scoped=True)
    outcome = resolve(loaded.nodes, loaded.rows, table, loaded.assertions, as_of=micros(as_of))
    chosen = np.flatnonzero(loaded.mine[outcome.origin] & (outcome.first != NEVER) & (outcome.epoch == 1))
    found = pl.DataFrame({"node_id": loaded.nodes.node_id[outcome.origin[chosen]], "person": outcome.person[chosen]})
    con.register("sampled", found.to_arrow())
    wrong = con.execute("""
        with paired as (
            select person, number from sampled
            inner join identity.identity_map as map on sampled.node_id = map.node_id and map.run_to is null
        )
        select (select count(*) from (select person from paired group by person having count(distinct number) > 1))
            + (select count(*) from (select number from paired group by number having count(distinct person) > 1))
            + (select count(*) from sampled) - (select count(*) from paired)
    """).fetchall()[0][0]
    con.unregister("sampled")
    if wrong:
        raise CheckFailedError(
            f"{wrong} of the sampled persons differ from a resolution from scratch",
            hint="the stored graph is damaged; nothing was stored. `cdp identity rebuild` resolves everything anew",
        )


@dataclass(frozen=True)
class LastRun:
    """What the newest row of the manifest says."""

    run: int
    as_of: datetime
    rules_hash: str
    values_hash: str
    assertion_hash: str
    same_engine: bool
    map_hash: int
    state_hash: int
    report: str


def last_run(con: duckdb.DuckDBPyConnection) -> LastRun | None:
    found = con.execute(f"""select run, as_of, rules_hash, values_hash, assertion_hash, engine_hash = {RECIPE},
        map_hash, state_hash, report::text from identity.run_manifest order by run desc limit 1""").fetchall()
    return LastRun(*found[0]) if found else None


# Of one integer each: DuckDB's hash of two values would not notice two people changing places.
STATE_HASH = (
    "select coalesce(bit_xor(hash((node_id::ubigint << 32) | number::ubigint)), 0)"
    " from identity.identity_map where run_to is null"
)


def check_map_untouched(con: duckdb.DuckDBPyConnection, state_hash: int) -> None:
    """Raise `CheckFailedError` when the map is not what the last run left."""
    if con.execute(STATE_HASH).fetchall()[0][0] != state_hash:
        raise CheckFailedError(
            "the identity map was changed by other hands since the last run",
            hint="bring `identity.identity_map` back from a backup: its history cannot be made again",
        )


def _refresh_dictionary(
    con: duckdb.DuckDBPyConnection, rules: IdentityRules, before: LastRun | None, *, as_of: datetime
) -> bool:
    """When the reading of values changed (rules, block list, DuckDB's hash), forget how they were read; True if so.

    All evidence then counts as new. Nodes stay, and with them map and registry.
    """
    if before is None or (before.values_hash == rules.values_hash(as_of.date()) and before.same_engine):
        return False
    for table in ("evidence", "evidence_node", "identifier_value", "rejects"):
        con.execute(f"delete from identity.{table}")
    con.execute("update identity.node set alias_of = null where alias_of is not null")
    if not before.same_engine:
        con.execute(f"update identity.node set node_hash = {NODE_HASH} where epoch = 1")
        con.execute(f"""update identity.node as node set node_hash = {EPOCH_HASH.format(epoch="node.epoch")}
            from identity.node as base where node.epoch_of = base.node_id""")
    return True


def _cause(con: duckdb.DuckDBPyConnection, rules: IdentityRules, before: LastRun | None, evidence_rows: int) -> str:
    """What this run's changes come from; with several causes at once, the one that reaches furthest."""
    if before and before.rules_hash != rules.rules_hash():
        return "rule"
    if before and before.assertion_hash != _assertion_hash(con):
        return "assertion"
    return "evidence" if evidence_rows or not before else "clock"


def _assertion_hash(con: duckdb.DuckDBPyConnection) -> str:
    found = con.execute("""
        select coalesce(bit_xor(md5_number_lower(assertion_id || coalesce(withdrawn_at::text, ''))), 0)::text
            || '/' || count(*)
        from identity.assertion""").fetchall()
    return str(found[0][0])


def _report(
    con: duckdb.DuckDBPyConnection,
    *,
    persons: Persons,
    run: int,
    run_id: str,
    mode: str,
    rules: IdentityRules,
    delta: Delta,
    outcome: Resolution,
    stages: dict[str, float],
    before: LastRun | None,
) -> IdentityReport:
    changes = con.execute(
        "select count(*) filter (op = 'split'), count(*) from identity.identity_change where run = ?", [run]
    )
    splits, count = changes.fetchall()[0]
    kinds = dict(con.execute("select kind, count(*) from identity.person group by kind").fetchall())
    anonymous, largest = con.execute("""select count(*) filter (anonymous and kind = 'person'),
        coalesce(max(identifier_count), 0) from identity.person""").fetchall()[0]
    if before:  # xor takes out what went and puts in what came
        map_hash = before.map_hash ^ _map_hash(con, f"run_from = {run}") ^ _map_hash(con, f"run_to = {run}")
    else:
        map_hash = _map_hash(con, "run_to is null")
    return IdentityReport(
        run=run,
        run_id=run_id,
        mode=mode,
        identifiers=_count(con, "identity.raw_component"),
        people=kinds.get("person", 0),
        anonymous=anonymous,
        shared=kinds.get("shared", 0),
        new_evidence=delta.new_rows,
        gone_evidence=delta.gone_rows,
        rejected_values=delta.rejected_values,
        minted=len(persons.minted),
        merges=len(persons.merged),
        splits=splits,
        resurrected=len(persons.resurrected),
        retired=len(persons.retired),
        moved=int(np.sum((persons.old >= 0) & (persons.old != persons.new))),
        refusals=_refused(outcome),
        contested_edges=outcome.contested_edges,
        data_errors=len(outcome.data_errors),
        largest_person=largest,
        changes=count,
        rules_hash=rules.rules_hash(),
        evidence_hash=_evidence_hash(con),
        map_hash=map_hash,
        stages=stages,
    )


def _count(con: duckdb.DuckDBPyConnection, table: str) -> int:
    return int(con.execute(f"select count(*) from {table}").fetchall()[0][0])


def _evidence_hash(con: duckdb.DuckDBPyConnection) -> int:
    return int(con.execute("select coalesce(bit_xor(evidence_id), 0) from identity.evidence").fetchall()[0][0])


def _map_hash(con: duckdb.DuckDBPyConnection, which: str) -> int:
    """Order-free hash of map rows: equal for equal maps of different warehouses, whatever their node numbers."""
    con.execute(
        f"create or replace temp table hashed as select node_id, one_id from identity.identity_map where {which}"
    )
    if not _count(con, "hashed"):
        return 0
    found = con.execute(f"""select bit_xor({sixty_four_bits("node.node_hash::text", "hashed.one_id")})
        from hashed inner join identity.node as node on hashed.node_id = node.node_id""")
    return int(found.fetchall()[0][0])


def _refused(outcome: Resolution) -> int:
    return int(np.sum((outcome.decision == REJECTED) | (outcome.decision == REJECTED_CANNOT)))


def _write_manifest(
    con: duckdb.DuckDBPyConnection, rules: IdentityRules, report: IdentityReport, as_of: datetime
) -> None:
    con.execute(
        f"""insert into identity.run_manifest
        select ?, ?, ?, ?, ?, ?, ?, {RECIPE}, ?, ?, ({STATE_HASH}), ?, ?, ?, ?""",
        [
            report.run,
            report.run_id,
            as_of,
            report.mode,
            report.rules_hash,
            rules.values_hash(as_of.date()),
            _assertion_hash(con),
            report.evidence_hash,
            report.map_hash,
            report.identifiers,
            report.people,
            report.changes,
            json.dumps(asdict(report)),
        ],
    )
    if not con.execute("select 1 from identity.rules_version where rules_hash = ?", [report.rules_hash]).fetchall():
        con.execute(
            "insert into identity.rules_version values (?, ?, ?, ?)",
            [report.rules_hash, rules.values_hash(as_of.date()), rules.model_dump_json(by_alias=True), report.run],
        )
