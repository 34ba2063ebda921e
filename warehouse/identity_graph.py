"""The stored evidence as arrays for `cdp.identity.resolve`, and its outcome back into tables."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import duckdb
import numpy as np
import polars as pl
from scipy.sparse import csr_matrix

from cdp.identity.graph import (
    BLOCKED,
    DECISIONS,
    KINDS,
    NEVER,
    REASONS,
    Assertions,
    Ints,
    Nodes,
    Resolution,
    Rows,
    TypeTable,
    type_table,
)  # fmt: skip
from cdp.identity.rules import IdentityRules

LIVING = f"status not in ('{REASONS[BLOCKED]}', 'absent')"


@dataclass(frozen=True)
class Loaded:
    """Arrays of one resolution. *place* finds the rank of a node_id; -1 where it is not part of it."""

    nodes: Nodes
    rows: Rows
    assertions: Assertions
    place: Ints


def columns(con: duckdb.DuckDBPyConnection, sql: str) -> dict[str, np.ndarray]:  # type: ignore[type-arg]
    """The columns of a query without nulls, as arrays."""
    table = con.sql(sql).to_arrow_table()
    return {name: table.column(name).to_numpy() for name in table.column_names}


def write_types(con: duckdb.DuckDBPyConnection, rules: IdentityRules) -> TypeTable:
    """Publish the registry of types as a table and give its compiled form; `type_code` is the position in it."""
    table = type_table(rules)
    con.execute("delete from identity.type_registry")
    con.executemany(
        "insert into identity.type_registry values (?, ?, ?, ?, ?, ?, ?)",
        [
            (name, item.class_, item.priority, rules.strength(name), table.names.index(name), item.limit, item.pii)
            for name, item in sorted(rules.types.items())
        ],
    )
    return table


def load(con: duckdb.DuckDBPyConnection, table: TypeTable, *, as_of: datetime, scope: str | None = None) -> Loaded:
    """Evidence as arrays. *scope*: a temp table of the node_ids to take part; None for all."""
    nodes, place = _nodes(con, scope)
    rows = _rows(con, table, place, scope)
    return Loaded(nodes, rows, _assertions(con, place, as_of), place)


def _nodes(con: duckdb.DuckDBPyConnection, scope: str | None) -> tuple[Nodes, Ints]:
    con.execute("""create or replace temp table scope_number as
        select type, scope, (row_number() over (order by type, scope) - 1)::integer as scope_number
        from (select distinct type, scope from identity.node)""")
    only = f"and node.node_id in (select node_id from {scope})" if scope else ""
    found = columns(
        con,
        f"""
        select node.node_id, registry.type_code, scopes.scope_number, node.barred is not null as barred
        from identity.node as node
        inner join identity.type_registry as registry on node.type = registry.type
        inner join scope_number as scopes on node.type = scopes.type and node.scope = scopes.scope
        where node.epoch = 1 {only}
        order by registry.strength, node.type, node.scope, node.value_norm
    """,
    )
    size = con.execute("select coalesce(max(node_id), 0) + 1 from identity.node").fetchall()[0][0]
    place = np.full(size, -1, dtype=np.int64)
    place[found["node_id"]] = np.arange(len(found["node_id"]))
    nodes = Nodes(
        found["node_id"], found["type_code"].astype(np.int16), found["scope_number"].astype(np.int32),
        found["barred"].astype(np.bool_),
    )  # fmt: skip
    return nodes, place


def _rows(con: duckdb.DuckDBPyConnection, table: TypeTable, place: Ints, scope: str | None) -> Rows:
    only = ""
    if scope:
        con.execute(f"""create or replace temp table scope_rows as
            select distinct row_id from identity.evidence_node where node_id in (select node_id from {scope})""")
        only = "where row_id in (select row_id from scope_rows)"
    kinds = " ".join(f"when '{kind}' then {code}" for code, kind in enumerate(KINDS))
    found = columns(
        con,
        f"""
        select row_id, (case kind {kinds} end)::tinyint as kind, epoch_us(event_time) as first, epoch_us(last_time) as last,
            (day - date '1970-01-01')::integer as day, confidence, observations, hash(source)::ubigint as source
        from identity.evidence {only} order by row_id
    """,
    )
    names = con.execute("select distinct source, hash(source)::ubigint from identity.evidence").fetchall()
    codes = {number: code for code, (_, number) in enumerate(sorted(names, key=lambda item: item[0] or ""))}
    known = np.array(sorted(codes), dtype=np.uint64)
    source = (
        np.array([codes[number] for number in sorted(codes)], dtype=np.int32)[np.searchsorted(known, found["source"])]
        if codes
        else np.empty(0, dtype=np.int32)
    )
    kind = found["kind"].astype(np.int8)
    tier = table.tiers[""][kind]
    for name, number in names:
        if name in table.tiers:
            mine = source == codes[number]
            tier[mine] = table.tiers[name][kind[mine]]
    row_id = found["row_id"]
    links = columns(con, f"select row_id, node_id from identity.evidence_node {only}")
    start, node = _by_row(np.searchsorted(row_id, links["row_id"]), place[links["node_id"]], len(row_id))
    return Rows(
        row_id=row_id, kind=kind, tier=tier.astype(np.int8), first=found["first"], last=found["last"],
        day=found["day"].astype(np.int32), source=source, confidence=found["confidence"].astype(np.float32),
        count=found["observations"], start=start, node=node,
    )  # fmt: skip


def _by_row(row: Ints, node: Ints, rows: int) -> tuple[Ints, np.ndarray]:  # type: ignore[type-arg]
    """Places sorted by row, by counting (what a sparse matrix does on its way from coordinates to rows)."""
    keep = node >= 0
    row, node = row[keep], node[keep]
    matrix = csr_matrix(
        (np.ones(len(row), dtype=np.bool_), (row, node)), shape=(rows, int(node.max()) + 1 if len(node) else 1)
    )
    return matrix.indptr.astype(np.int64), matrix.indices.astype(np.int32)


def _assertions(con: duckdb.DuckDBPyConnection, place: Ints, as_of: datetime) -> Assertions:
    found = con.execute(
        """
        select assertion.kind, a.node_id, b.node_id,
            coalesce(epoch_us(assertion.valid_from), -9000000000000000000),
            coalesce(epoch_us(assertion.valid_to), 9000000000000000000)
        from identity.assertion as assertion
        inner join identity.node as a on a.epoch = 1 and a.type = assertion.a_type and a.scope = assertion.a_scope
            and a.value_norm = assertion.a_value
        inner join identity.node as b on b.epoch = 1 and b.type = assertion.b_type and b.scope = assertion.b_scope
            and b.value_norm = assertion.b_value
        where assertion.withdrawn_at is null and assertion.created_at <= ?
        order by all
    """,
        [as_of],
    ).fetchall()
    parts: dict[str, list[tuple[int, int, int, int]]] = {"must_link": [], "cannot_link": [], "cut_edge": []}
    for kind, a, b, since, until in found:
        x, y = int(place[a]), int(place[b])
        if x >= 0 and y >= 0 and x != y:
            parts[kind].append((x, y, since, until))
    arrays = {kind: np.array(rows, dtype=np.int64).reshape(-1, 4) for kind, rows in parts.items()}
    cut = arrays["cut_edge"]
    return Assertions(arrays["must_link"][:, :2], arrays["cannot_link"][:, :2], cut[:, :2], cut[:, 2], cut[:, 3])


def final_ids(
    con: duckdb.DuckDBPyConnection, loaded: Loaded, outcome: Resolution, *, run: int, as_of: datetime
) -> Ints:
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
        insert into identity.node
        select {top} + row_number() over (order by found.node_id, found.epoch), base.type, base.scope, base.value_norm,
            found.epoch, base.node_id, base.barred
        from found_slices as found inner join identity.node as base on found.node_id = base.node_id
        where found.epoch > 1 and not exists (
            select 1 from identity.node as node where node.epoch_of = found.node_id and node.epoch = found.epoch
        )
    """)
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
    taking_part = pl.DataFrame({"node_id": loaded.nodes.node_id})
    con.register("taking_part", taking_part.to_arrow())
    con.execute(f"""update identity.slice set run_to = {run} where run_to is null
        and node_id in (select node_id from taking_part) and not exists (select 1 from now_sliced as now where {same})""")
    con.execute(f"""insert into identity.slice
        select now.*, {run}, null from now_sliced as now
        where not exists (select 1 from identity.slice where run_to is null and {same})""")
    con.unregister("taking_part")


def store_graph(
    con: duckdb.DuckDBPyConnection,
    outcome: Resolution,
    ids: Ints,
    loaded: Loaded,
    names: tuple[str, ...],
    group_type: Ints,
    *,
    scoped: bool,
) -> None:
    """Edges, decisions and raw components of this resolution; with *scoped*, in place of what the same nodes had."""
    con.register(
        "taking_part", pl.DataFrame({"node_id": np.concatenate([loaded.nodes.node_id, ids])}).unique().to_arrow()
    )
    for table, column in (("edge", "a_node"), ("edge_decision", "a_node"), ("raw_component", "node_id")):
        only = f"where {column} in (select node_id from taking_part)" if scoped else ""
        con.execute(f"delete from identity.{table} {only}")
    con.unregister("taking_part")
    _store_components(con, outcome, ids)
    _store_edges(con, outcome, ids)
    _store_decisions(con, outcome, ids, names, group_type)


def _store_components(con: duckdb.DuckDBPyConnection, outcome: Resolution, ids: Ints) -> None:
    smallest = np.full(int(outcome.component.max()) + 1 if len(ids) else 0, NEVER, dtype=np.int64)
    np.minimum.at(smallest, outcome.component, ids)
    here = outcome.first != NEVER
    frame = pl.DataFrame({
        "node_id": ids[here], "component": smallest[outcome.component[here]], "first": outcome.first[here],
        "last": outcome.last[here], "status": outcome.status[here],
    })  # fmt: skip
    words = " ".join(f"when {code} then '{reason}'" for code, reason in enumerate(REASONS))
    con.register("found_components", frame.to_arrow())
    con.execute(f"""insert into identity.raw_component
        select node_id, component, make_timestamptz(first), make_timestamptz(last), case status {words} end
        from found_components""")
    con.unregister("found_components")


def _store_edges(con: duckdb.DuckDBPyConnection, outcome: Resolution, ids: Ints) -> None:
    edges = outcome.edges
    seen = edges.first != NEVER
    frame = pl.DataFrame({
        "a": ids[edges.a], "b": ids[edges.b], "tier": edges.tier, "first": np.where(seen, edges.first, 0),
        "last": np.where(seen, edges.last, 0), "seen": seen, "observations": edges.count, "days": edges.days,
        "sources": edges.sources, "confidence": edges.confidence, "decision": outcome.decision,
    })  # fmt: skip
    words = " ".join(f"when {code} then '{word}'" for code, word in enumerate(DECISIONS))
    con.register("found_edges", frame.to_arrow())
    con.execute(f"""insert into identity.edge
        select a, b, tier, case when seen then make_timestamptz(first) end, case when seen then make_timestamptz(last) end,
            observations, days, sources, confidence, case decision {words} end
        from found_edges""")
    con.unregister("found_edges")


def _store_decisions(
    con: duckdb.DuckDBPyConnection, outcome: Resolution, ids: Ints, names: tuple[str, ...], group_type: Ints
) -> None:
    refusals, edges = outcome.refusals, outcome.edges
    words = [f"limit:{names[int(kind)]}" for kind in group_type]
    reasons = [words[group] if group >= 0 else "cannot_link" for group in refusals.group.tolist()]
    side = [
        [int(ids[node]) if node >= 0 else None for node in nodes.tolist()] for nodes in (refusals.left, refusals.right)
    ]
    frame = pl.DataFrame(
        {"a": ids[edges.a[refusals.edge]], "b": ids[edges.b[refusals.edge]],
         "decision": [DECISIONS[code] for code in outcome.decision[refusals.edge].tolist()],
         "reason": reasons, "left": side[0], "right": side[1]},
        schema={"a": pl.Int64, "b": pl.Int64, "decision": pl.String, "reason": pl.String, "left": pl.Int64, "right": pl.Int64},
    )  # fmt: skip
    con.register("found_decisions", frame.to_arrow())
    con.execute("insert into identity.edge_decision from found_decisions")
    con.unregister("found_decisions")
    con.register("found_suppressed", _suppressed(outcome, ids).to_arrow())
    words_sql = " ".join(f"when {code} then '{reason}'" for code, reason in enumerate(REASONS))
    con.execute(f"""insert into identity.edge_decision
        select distinct a, b, 'suppressed', case reason {words_sql} end, null::bigint, null::bigint from found_suppressed""")
    con.unregister("found_suppressed")


def _suppressed(outcome: Resolution, ids: Ints) -> pl.DataFrame:
    """Evidence kept back: what was dropped, beside the strongest node that its row still links."""
    links = outcome.links
    best = np.full(int(links.row_of.max()) + 1 if len(links.row_of) else 0, NEVER, dtype=np.int64)
    np.minimum.at(best, links.row_of[links.group], links.node)
    beside = best[links.dropped_row] if len(links.dropped_row) else np.empty(0, dtype=np.int64)
    known = beside != NEVER
    pairs = np.sort(np.stack([beside[known], links.dropped_node[known]], axis=1), axis=1)
    keep = pairs[:, 0] != pairs[:, 1]
    return pl.DataFrame({
        "a": ids[pairs[keep, 0]], "b": ids[pairs[keep, 1]], "reason": links.dropped_reason[known][keep],
    }).unique()  # fmt: skip
