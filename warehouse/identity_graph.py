"""The stored evidence as arrays for `cdp.identity.resolve`, and its outcome back into tables."""

from __future__ import annotations

from dataclasses import dataclass, replace

import duckdb
import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from cdp.identity.graph import (
    DECISIONS,
    KINDS,
    NEVER,
    OUTSIDE,
    REASONS,
    Assertions,
    Bools,
    Edges,
    Ints,
    Nodes,
    Resolution,
    Rows,
    Small,
    Suppressed,
    TypeTable,
    type_table,
)  # fmt: skip
from cdp.identity.rules import IdentityRules
from warehouse.identity_frames import ROWS_AT_ONCE, columns, handed_over
from warehouse.identity_values import EPOCH_HASH


@dataclass(frozen=True)
class Loaded:
    """Arrays of one resolution. *place*: rank by node_id, -1 where it takes no part. *mine*: to be resolved, by
    rank."""

    nodes: Nodes
    rows: Rows
    assertions: Assertions
    place: Small
    mine: Bools


def write_types(con: duckdb.DuckDBPyConnection, rules: IdentityRules) -> TypeTable:
    """Publish the registry of types as a table and give its compiled form; `type_code` is the position in it."""
    table = type_table(rules)
    wanted = [
        (name, item.class_, item.priority, rules.strength(name), table.names.index(name), item.limit, item.pii)
        for name, item in sorted(rules.types.items())
    ]
    if con.execute("select * from identity.type_registry order by type").fetchall() != wanted:
        con.execute("delete from identity.type_registry")
        con.executemany("insert into identity.type_registry values (?, ?, ?, ?, ?, ?, ?)", wanted)
    return table


_OF_ROWS = "row_id, source, kind, event_time, last_time, day, confidence, observations"


def load(con: duckdb.DuckDBPyConnection, table: TypeTable, *, scoped: bool) -> Loaded:
    """Evidence as arrays: all of it, or with *scoped* what temp table `scope(node_id, quiet)` asks for."""
    if scoped:
        con.execute("""create or replace temp table scope_rows as
            select distinct row_id from identity.evidence_node where node_id in (select node_id from scope)""")
        for name, wanted in (("evidence", _OF_ROWS), ("evidence_node", "row_id, node_id")):  # each looked through once
            con.execute(f"""create or replace temp table scope_{name} as
                select {wanted} from identity.{name} where row_id in (select row_id from scope_rows)""")
    nodes, place, mine = _nodes(con, scoped=scoped)
    rows = _rows(con, table, place, scoped=scoped)
    return Loaded(nodes, rows, _assertions(con, place), place, mine)


def _nodes(con: duckdb.DuckDBPyConnection, *, scoped: bool) -> tuple[Nodes, Small, Bools]:
    """Identifiers by strength; those outside the scope that rows of it name are marked by what they may do."""
    codes = " ".join(f"when '{reason}' then {code}" for code, reason in enumerate(REASONS))
    if scoped:
        con.execute("""create or replace temp table part as
            select node_id, bool_or(mine) as mine, bool_or(quiet) as quiet from (
                select node_id, true as mine, quiet from scope
                union all
                select node_id, false, false from scope_evidence_node
            ) group by node_id""")
        con.execute(f"""create or replace temp table taking_part as
            select node.*, part.mine,
                (case
                    when part.mine and not part.quiet then 0
                    when state.status = '' or state.status is null then {OUTSIDE}
                    else case state.status {codes} end
                end)::tinyint as forced
            from identity.node as node
            inner join part on node.node_id = part.node_id
            left join (
                select node_id, status from identity.raw_component where node_id in (select node_id from part)
            ) as state on node.node_id = state.node_id
            where node.epoch = 1""")
    source = "taking_part" if scoped else "(select *, true as mine, 0::tinyint as forced from identity.node)"
    found = columns(
        con,
        f"""
        with nodes as (select * from {source} where epoch = 1),
        scopes as (
            select type, scope, (row_number() over (order by type, scope) - 1)::integer as number
            from (select distinct type, scope from nodes)
        )
        select nodes.node_id, registry.type_code, scopes.number, nodes.barred is not null as barred, nodes.forced,
            nodes.mine
        from nodes
        inner join identity.type_registry as registry on nodes.type = registry.type
        inner join scopes on nodes.type = scopes.type and nodes.scope = scopes.scope
        order by registry.strength, nodes.type, nodes.scope, nodes.value_norm
    """,
    )
    size = con.execute("select coalesce(max(node_id), 0) + 1 from identity.node").fetchall()[0][0]
    place = np.full(size, -1, dtype=np.int32)
    place[found["node_id"]] = np.arange(len(found["node_id"]), dtype=np.int32)
    nodes = Nodes(found["node_id"], found["type_code"], found["number"], found["barred"], found["forced"])
    return nodes, place, found["mine"]


def _rows(con: duckdb.DuckDBPyConnection, table: TypeTable, place: Small, *, scoped: bool) -> Rows:
    """Evidence in the order of its numbers, part by part: all of it at once would be there twice."""
    stored = "scope_evidence" if scoped else "identity.evidence"
    con.execute(f"""create or replace temp table source_code as
        select source, (row_number() over (order by source nulls first) - 1)::integer as code
        from (select distinct source from {stored})""")
    count, low, high = con.execute(f"select count(*), min(row_id), max(row_id) from {stored}").fetchall()[0]
    kind, tier = np.empty(count, dtype=np.int8), np.empty(count, dtype=np.int8)
    first, last = np.empty(count, dtype=np.int64), np.empty(count, dtype=np.int64)
    day, source, seen = (np.empty(count, dtype=np.int32) for _ in range(3))
    confidence = np.empty(count, dtype=np.float32)
    start, nodes, done = np.zeros(count + 1, dtype=np.int64), [np.empty(0, dtype=np.int32)], 0
    step = max(1, ROWS_AT_ONCE * (high - low + 1) // count) if count else 1
    for begin in range(low, high + 1, step) if count else ():
        found, part_start, part_nodes = _part(con, place, stored, f"row_id between {begin} and {begin + step - 1}")
        here = slice(done, done + len(found["first"]))
        kind[here], tier[here] = found["kind"], _tiers(con, table, found["kind"], found["code"])
        first[here], last[here], day[here] = found["first"], found["last"], found["day"]
        source[here], seen[here], confidence[here] = found["code"], found["observations"], found["confidence"]
        start[done + 1 : here.stop + 1] = part_start[1:] + start[done]
        nodes.append(part_nodes)
        done = here.stop
    return Rows(
        kind=kind, tier=tier, first=first, last=last, day=day, source=source, confidence=confidence, count=seen,
        start=start, node=np.concatenate(nodes),
    )  # fmt: skip


def _part(
    con: duckdb.DuckDBPyConnection, place: Small, stored: str, only: str
) -> tuple[dict[str, np.ndarray], Ints, Small]:
    """Columns of some evidence of table *stored*, and its identifiers as places by row."""
    kinds = " ".join(f"when '{kind}' then {code}" for code, kind in enumerate(KINDS))
    found = columns(con, f"""
        select row_id, (case kind {kinds} end)::tinyint as kind, epoch_us(event_time) as first,
            epoch_us(last_time) as last, (day - date '1970-01-01')::integer as day, confidence,
            least(observations, 2147483647)::integer as observations, code
        from {stored} as evidence
        inner join source_code on evidence.source is not distinct from source_code.source
        where {only} order by row_id""")  # fmt: skip
    links = columns(con, f"select row_id, node_id from {stored}_node where {only}")
    row = np.searchsorted(found["row_id"], links["row_id"])
    return found, *_by_row(row, place[links["node_id"]], len(found["row_id"]))


def _tiers(con: duckdb.DuckDBPyConnection, table: TypeTable, kind: NDArray[np.int8], code: Small) -> NDArray[np.int8]:
    """How far each row is trusted, by its kind and, where the rules say so, its source."""
    tier = table.tiers[""][kind]
    for name, number in con.execute("select source, code from source_code").fetchall():
        if name in table.tiers:
            tier[code == number] = table.tiers[name][kind[code == number]]
    return tier


def _by_row(row: Ints, node: Ints, rows: int) -> tuple[Ints, Small]:
    """Places sorted by row, by counting (what a sparse matrix does on its way from coordinates to rows)."""
    keep = node >= 0
    row, node = row[keep], node[keep]
    matrix = csr_matrix(
        (np.ones(len(row), dtype=np.bool_), (row, node)), shape=(rows, int(node.max()) + 1 if len(node) else 1)
    )
    return matrix.indptr.astype(np.int64), matrix.indices.astype(np.int32)


def _assertions(con: duckdb.DuckDBPyConnection, place: Small) -> Assertions:
    """Decisions in force. They hold for every `as_of`: a run over an older day must not undo what people decided
    since."""
    found = con.execute("""
        select assertion.kind, a.node_id, b.node_id,
            coalesce(epoch_us(assertion.valid_from), -9000000000000000000),
            coalesce(epoch_us(assertion.valid_to), 9000000000000000000)
        from identity.assertion as assertion
        inner join identity.node as a on a.epoch = 1 and a.type = assertion.a_type and a.scope = assertion.a_scope
            and a.value_norm = assertion.a_value
        inner join identity.node as b on b.epoch = 1 and b.type = assertion.b_type and b.scope = assertion.b_scope
            and b.value_norm = assertion.b_value
        where assertion.withdrawn_at is null
        order by all
    """).fetchall()
    parts: dict[str, list[tuple[int, int, int, int]]] = {"must_link": [], "cannot_link": [], "cut_edge": []}
    for kind, a, b, since, until in found:
        x, y = int(place[a]), int(place[b])
        if x >= 0 and y >= 0 and x != y:
            parts[kind].append((x, y, since, until))
    arrays = {kind: np.array(rows, dtype=np.int64).reshape(-1, 4) for kind, rows in parts.items()}
    cut = arrays["cut_edge"]
    return Assertions(arrays["must_link"][:, :2], arrays["cannot_link"][:, :2], cut[:, :2], cut[:, 2], cut[:, 3])


def final_ids(con: duckdb.DuckDBPyConnection, loaded: Loaded, outcome: Resolution, *, run: int) -> Ints:
    """node_id of every final node; epochs after the first get identifiers of their own. Stores the intervals."""
    ids = loaded.nodes.node_id[outcome.origin].copy()
    slices = outcome.slices
    origin_id = loaded.nodes.node_id[slices.origin.astype(np.int64)]
    con.register("found_slices", pl.DataFrame({
        "node_id": origin_id, "epoch": slices.epoch.astype(np.int16),
        "since": np.where(slices.since == -NEVER, 0, slices.since), "no_since": slices.since == -NEVER,
        "until": np.where(slices.until == NEVER, 0, slices.until), "no_until": slices.until == NEVER,
    }).to_arrow())  # fmt: skip
    top = con.execute("select coalesce(max(node_id), 0) from identity.node").fetchall()[0][0]
    con.execute(f"""
        create or replace temp table new_epochs as
        select {top} + row_number() over (order by found.node_id, found.epoch), base.type, base.scope, base.value_norm,
            found.epoch, base.node_id, base.barred, null, {EPOCH_HASH.format(epoch="found.epoch")}
        from found_slices as found inner join identity.node as base on found.node_id = base.node_id
        where found.epoch > 1 and not exists (
            select 1 from identity.node as node where node.epoch_of = found.node_id and node.epoch = found.epoch
        )
    """)
    # Not when there are none: after a large insert into a table, one of no rows in a given order makes DuckDB 2.0 lose
    # sight of all that is inserted there later, until the next checkpoint.
    if con.execute("select count(*) from new_epochs").fetchall()[0][0]:
        con.execute("insert into identity.node from new_epochs")
    con.execute("""create or replace temp table now_sliced as
        select found.node_id, found.epoch, coalesce(node.node_id, found.node_id) as slice_node,
            case when not found.no_since then make_timestamptz(found.since) end as valid_from,
            case when not found.no_until then make_timestamptz(found.until) end as valid_to
        from found_slices as found
        left join identity.node as node on node.epoch_of = found.node_id and node.epoch = found.epoch""")
    con.unregister("found_slices")
    _store_slices(con, loaded, run)
    if len(slices.origin):
        of = columns(con, "select node_id, epoch, slice_node from now_sliced where epoch > 1 order by node_id, epoch")
        place = np.searchsorted(outcome.origin, loaded.place[of["node_id"]]) + of["epoch"] - 1
        ids[place] = of["slice_node"]
    return ids


def _store_slices(con: duckdb.DuckDBPyConnection, loaded: Loaded, run: int) -> None:
    """Intervals as slowly changing rows: those of taken-part nodes that changed are ended at *run* and written anew."""
    same = """node_id = now.node_id and epoch = now.epoch and slice_node = now.slice_node
        and valid_from is not distinct from now.valid_from and valid_to is not distinct from now.valid_to"""
    con.register("mine", pl.DataFrame({"node_id": loaded.nodes.node_id[loaded.mine]}).to_arrow())
    con.execute(f"""update identity.slice set run_to = {run} where run_to is null
        and node_id in (select node_id from mine) and not exists (select 1 from now_sliced as now where {same})""")
    con.execute(f"""insert into identity.slice
        select now.*, {run}, null from now_sliced as now
        where not exists (select 1 from identity.slice where run_to is null and {same})""")
    con.unregister("mine")


def store_graph(
    con: duckdb.DuckDBPyConnection,
    outcome: Resolution,
    ids: Ints,
    loaded: Loaded,
    table: TypeTable,
    *,
    scoped: bool,
) -> None:
    """Edges, decisions and raw components of this resolution; with *scoped*, in place of what the same nodes had."""
    if scoped:
        con.register("resolved_nodes", pl.DataFrame({"node_id": loaded.nodes.node_id[loaded.mine]}).to_arrow())
        con.execute("""create or replace temp table replaced as
            select node_id, epoch = 1 and node_id in (select node_id from scope where quiet) as quiet from identity.node
            where coalesce(epoch_of, node_id) in (select node_id from resolved_nodes)""")
        con.unregister("resolved_nodes")
        loud = "(select node_id from replaced where not quiet)"
        con.execute("delete from identity.raw_component where node_id in (select node_id from replaced)")
        con.execute(f"delete from identity.edge where a_node in {loud} or b_node in {loud}")
        con.execute(f"delete from identity.edge_decision where a_node in {loud} or b_node in {loud}")
    else:
        for name in ("raw_component", "edge", "edge_decision"):
            con.execute(f"delete from identity.{name}")
    _store_components(con, outcome, ids, loaded)
    _store_edges(con, outcome, ids)
    _store_decisions(con, outcome, ids, loaded, table)


def without_evidence(loaded: Loaded) -> Loaded:
    """The same without the arrays as long as the evidence: once resolved, 3 GB at ten million people for nothing."""
    none = np.empty(0, dtype=np.int64)
    small = none.astype(np.int32)
    tiny = none.astype(np.int8)
    rows = Rows(tiny, tiny, none, none, small, small, none.astype(np.float32), small, np.zeros(1, np.int64), small)
    return replace(loaded, rows=rows)


def without_edges(outcome: Resolution) -> Resolution:
    """Once stored, the refused edges alone are still asked for; the others are 2 GB at that size."""
    small = np.empty(0, dtype=np.int32)
    kept_back = Suppressed(small, small, small.astype(np.int8))
    refused = outcome.refusals.edge
    edges = Edges(**{name: column[refused] for name, column in vars(outcome.edges).items()})
    refusals = replace(outcome.refusals, edge=np.arange(len(refused), dtype=np.int64))
    return replace(outcome, suppressed=kept_back, edges=edges, refusals=refusals, decision=outcome.decision[refused])


def _store_components(con: duckdb.DuckDBPyConnection, outcome: Resolution, ids: Ints, loaded: Loaded) -> None:
    here = np.flatnonzero((outcome.first != NEVER) & loaded.mine[outcome.origin])
    component = _smallest(outcome.component, ids)
    extent = _smallest(outcome.extent, loaded.nodes.node_id)

    def part(rows: slice) -> pl.DataFrame:
        node = here[rows]
        return pl.DataFrame({
            "node_id": ids[node], "component": component[outcome.component[node]], "first": outcome.first[node],
            "last": outcome.last[node], "status": outcome.status[node],
            "extent": extent[outcome.extent[outcome.origin[node]]],
        })  # fmt: skip

    words = " ".join(f"when {code} then '{reason}'" for code, reason in enumerate(REASONS))
    with handed_over(con, "found_components", len(here), part):
        con.execute(f"""insert into identity.raw_component
            select found.node_id, component, make_timestamptz(first), make_timestamptz(last),
                case status {words} end, extent, node.barred
            from found_components as found inner join identity.node as node on found.node_id = node.node_id""")


def _smallest(label: Small, ids: Ints) -> Ints:
    """For every label, the smallest of *ids* under it."""
    smallest = np.full(int(label.max()) + 1 if len(label) else 0, NEVER, dtype=np.int64)
    np.minimum.at(smallest, label, ids)
    return smallest


def _store_edges(con: duckdb.DuckDBPyConnection, outcome: Resolution, ids: Ints) -> None:
    edges = outcome.edges

    def part(rows: slice) -> pl.DataFrame:
        seen = edges.first[rows] != NEVER
        return pl.DataFrame({
            "a": ids[edges.a[rows]], "b": ids[edges.b[rows]], "tier": edges.tier[rows],
            "first": np.where(seen, edges.first[rows], 0), "last": np.where(seen, edges.last[rows], 0), "seen": seen,
            "observations": edges.count[rows], "days": edges.days[rows], "sources": edges.sources[rows],
            "confidence": edges.confidence[rows], "decision": outcome.decision[rows],
        })  # fmt: skip

    words = " ".join(f"when {code} then '{word}'" for code, word in enumerate(DECISIONS))
    with handed_over(con, "found_edges", len(edges), part):
        con.execute(f"""insert into identity.edge
            select a, b, tier, case when seen then make_timestamptz(first) end,
                case when seen then make_timestamptz(last) end,
                observations, days, sources, confidence, case decision {words} end
            from found_edges""")


def _store_decisions(
    con: duckdb.DuckDBPyConnection, outcome: Resolution, ids: Ints, loaded: Loaded, table: TypeTable
) -> None:
    refusals, edges = outcome.refusals, outcome.edges
    names = np.array(table.names, dtype=object)
    group_type = np.zeros(int(loaded.nodes.group.max()) + 1 if len(loaded.nodes) else 1, dtype=np.int64)
    group_type[loaded.nodes.group] = loaded.nodes.type
    frame = pl.DataFrame(
        {
            "a": ids[edges.a[refusals.edge]],
            "b": ids[edges.b[refusals.edge]],
            "decision": [DECISIONS[code] for code in outcome.decision[refusals.edge].tolist()],
            "reason": [
                f"limit:{names[group_type[group]]}" if group >= 0 else "cannot_link"
                for group in refusals.group.tolist()
            ],
            "left": [int(ids[node]) if node >= 0 else None for node in refusals.left.tolist()],
            "right": [int(ids[node]) if node >= 0 else None for node in refusals.right.tolist()],
        },
        schema={
            "a": pl.Int64,
            "b": pl.Int64,
            "decision": pl.String,
            "reason": pl.String,
            "left": pl.Int64,
            "right": pl.Int64,
        },
    )
    con.register("found_decisions", frame.to_arrow())
    con.execute("insert into identity.edge_decision from found_decisions")
    con.unregister("found_decisions")
    words = " ".join(f"when {code} then '{reason}'" for code, reason in enumerate(REASONS))
    kept_back = outcome.suppressed

    def part(rows: slice) -> pl.DataFrame:
        return pl.DataFrame({
            "a": ids[kept_back.a[rows]], "b": ids[kept_back.b[rows]], "reason": kept_back.reason[rows],
        })  # fmt: skip

    with handed_over(con, "found_suppressed", len(kept_back.a), part):
        con.execute(f"""insert into identity.edge_decision
            select a, b, 'suppressed', case reason {words} end, null::bigint, null::bigint from found_suppressed""")
