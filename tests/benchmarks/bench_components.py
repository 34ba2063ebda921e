"""Bare components and merge protection, in ratios within one run.

`python -m tests.benchmarks.bench_components --people 1146000` compares, on the same DuckDB table of 4.7 million pairs,
texts in and texts out: our dictionary and bare components, the same with eligibility, limits, replay and checks,
Splink's clustering, and the portable SQL; then a sorted chain of 100,000, a star of a million, and one contested
component of 600,000 edges.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
from numba import njit
from numpy.typing import NDArray

from cdp.identity import resolve as resolution
from cdp.identity.components import components
from cdp.identity.graph import DAY, Nodes, Rows, no_assertions, type_table
from cdp.identity.replay import replay
from cdp.identity.rules import IdentityRules
from tests.benchmarks.bench_identity import PERSON
from warehouse.identity_sql import DuckEngine, components_in_sql
from warehouse.identity_values import sixty_four_bits

# (a, b, of whom) over people i; one cookie in fifty was used by two members, so that limits have something to refuse.
PAIRS = (
    ("member(i)", "phone(i)", "true"),
    ("union_id(i)", "open_id(i)", "true"),
    ("external(i)", "union_id(i)", "i % 2 = 0"),
    ("member(i)", "open_id(i)", "i % 10 < 7"),
    ("cookie(i, 0)", "open_id(i)", "i % 10 < 6"),
    ("cookie(i, 1)", "member(i)", "i % 10 < 3"),
    ("cookie(i, 1)", "member(i + 1)", "i % 50 = 0"),
)
TYPES = {"member": "member_id", "phone": "phone", "union_id": "unionid", "open_id": "openid",
         "external": "external_userid", "cookie": "anonymous_id"}  # fmt: skip
TABLE = type_table(IdentityRules())
T = TypeVar("T")


def make_pairs(con: duckdb.DuckDBPyConnection, people: int) -> None:
    """Table `pairs(a, b, type_a, type_b, at)`: texts, positions of their types, seconds."""
    code = {name: TABLE.names.index(kind) for name, kind in TYPES.items()}
    parts = [
        f"select {a} as a, {b} as b, {code[a.partition('(')[0]]} as type_a, {code[b.partition('(')[0]]} as type_b,"
        f" hash(i, {place}) % 31536000 as at from range({people}) t(i) where {which}"
        for place, (a, b, which) in enumerate(PAIRS)
    ]
    con.execute(f"create table pairs as {' union all '.join(parts)}")


@contextmanager
def part(spent: dict[str, float], name: str) -> Iterator[None]:
    begin = time.process_time()
    yield
    spent[name] = spent.get(name, 0) + time.process_time() - begin


def counted(spent: dict[str, float], name: str, work: Callable[..., T]) -> Callable[..., T]:
    """*work*, its processor time added up under *name*."""

    def run(*arguments: object, **more: object) -> T:
        with part(spent, name):
            return work(*arguments, **more)

    return run


def timed(name: str, work: Callable[[], object]) -> float:
    begin, cpu = time.perf_counter(), time.process_time()
    work()
    seconds = time.perf_counter() - begin
    print(f"{name:44} {seconds:7.2f} s  ({time.process_time() - cpu:.2f} s of processor time)", flush=True)
    return seconds


@njit(cache=True)
def encode(keys: NDArray[np.uint64], bits: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Dense numbers for 64-bit hashes in a table of 2^bits slots, and where each number was first seen."""
    mask = (1 << bits) - 1
    slot_key, slot_code = np.zeros(mask + 1, dtype=np.uint64), np.full(mask + 1, -1, dtype=np.int32)
    codes, first, count = np.empty(len(keys), dtype=np.int32), np.empty(len(keys), dtype=np.int64), 0
    for i in range(len(keys)):
        key = keys[i]
        slot = np.int64((key >> np.uint64(20)) & np.uint64(mask))
        while slot_code[slot] >= 0 and slot_key[slot] != key:
            slot = (slot + 1) & mask
        if slot_code[slot] < 0:
            slot_code[slot], slot_key[slot], first[count] = count, key, i
            count += 1
        codes[i] = slot_code[slot]
    return codes, first[:count]


def dictionary(con: duckdb.DuckDBPyConnection) -> tuple[pa.Table, pl.Series, NDArray[np.int32], NDArray[np.int64]]:
    """Each text hashed once and numbered: the pairs, the distinct texts, both ends as numbers, where each was first."""
    hashes = f"{sixty_four_bits('a')} as hash_a, {sixty_four_bits('b')} as hash_b"
    table = con.sql(f"select *, {hashes} from pairs").to_arrow_table()
    keys = np.concatenate([table["hash_a"].to_numpy(), table["hash_b"].to_numpy()])
    codes, first = encode(keys, int(np.ceil(np.log2(len(keys) * 1.5))))
    texts = pl.concat([pl.Series(table["a"]), pl.Series(table["b"])]).gather(first)
    return table, texts, codes, first


def bare(con: duckdb.DuckDBPyConnection) -> None:
    """Components alone; texts and labels back as a table."""
    table, texts, codes, first = dictionary(con)
    labels = components(len(first), codes[: table.num_rows], codes[table.num_rows :])
    con.register("labelled", pl.DataFrame({"node": texts, "label": labels}).to_arrow())
    con.execute("create or replace table ours as from labelled")


def protected(con: duckdb.DuckDBPyConnection, spent: dict[str, float]) -> None:
    """The whole resolution: identifiers by strength, eligibility, sharing, limits, replay, checks."""
    with part(spent, "dictionary"):
        table, texts, codes, first = dictionary(con)
    count, pairs = len(first), table.num_rows
    with part(spent, "identifiers by strength"):
        types = np.concatenate([table["type_a"].to_numpy(), table["type_b"].to_numpy()])[first].astype(np.int16)
        named = pl.DataFrame({"strength": TABLE.strength[types], "text": texts})
        order = named.select(pl.arg_sort_by("strength", "text")).to_series().to_numpy().astype(np.int64)
        rank = np.empty(count, dtype=np.int32)
        rank[order] = np.arange(count, dtype=np.int32)
        ends = np.sort(rank[codes].reshape(2, pairs), axis=0)
        at = table["at"].to_numpy().astype(np.int64) * 1_000_000
    kinds, nothing = types[order], np.zeros(pairs, dtype=np.int8)
    nodes = Nodes(np.arange(count), kinds, kinds.astype(np.int32), np.zeros(count, bool), np.zeros(count, np.int8))
    rows = Rows(
        kind=nothing, tier=nothing + 1, first=at, last=at, day=(at // DAY).astype(np.int32),
        source=nothing.astype(np.int32), confidence=np.ones(pairs, np.float32), count=np.ones(pairs, np.int32),
        start=np.arange(0, 2 * pairs + 1, 2), node=ends.T.reshape(-1),
    )  # fmt: skip
    outcome = resolution.resolve(nodes, rows, TABLE, no_assertions(), as_of=400 * DAY)
    print(f"  {len(outcome.refusals.edge):,} edges refused, {outcome.contested_edges:,} replayed")
    with part(spent, "texts and persons out"):
        con.register("labelled", pl.DataFrame({"node": texts.gather(order), "label": outcome.person}).to_arrow())
        con.execute("create or replace table guarded as from labelled")


# What `resolve` calls, by what it is for.
PARTS = {"find_eligible": "eligibility and sharing", "_arms": "edges", "build_edges": "edges",
         "components": "components", "_contested": "limits, replay and checks", "_decide": "limits, replay and checks",
         "verify": "limits, replay and checks", "_extents": "extents for later deltas"}  # fmt: skip


def protected_by_parts(con: duckdb.DuckDBPyConnection) -> dict[str, float]:
    """Processor time of the whole resolution by part."""
    spent: dict[str, float] = {}
    originals = {name: getattr(resolution, name) for name in PARTS}
    for name, what in PARTS.items():
        setattr(resolution, name, counted(spent, what, originals[name]))
    try:
        protected(con, spent)
    finally:
        for name, original in originals.items():
            setattr(resolution, name, original)
    return spent


def splink(con: duckdb.DuckDBPyConnection) -> None:
    from splink.backends.duckdb import DuckDBAPI
    from splink.clustering import cluster_pairwise_predictions_at_threshold

    con.execute(
        """create or replace table nodes as
        select distinct a as unique_id from (select a from pairs union all select b from pairs)"""
    )
    con.execute("create or replace view edges as select a as unique_id_l, b as unique_id_r from pairs")
    api = DuckDBAPI(connection=con)
    nodes, edges = (api.register(name) for name in ("nodes", "edges"))
    done = cluster_pairwise_predictions_at_threshold(
        nodes, edges, node_id_column_name="unique_id", edge_id_column_name_left="unique_id_l",
        edge_id_column_name_right="unique_id_r", db_api=api,
    )  # fmt: skip
    con.execute(
        f"create or replace table theirs as select unique_id as node, cluster_id as label from {done.physical_name}"
    )


def portable(con: duckdb.DuckDBPyConnection) -> None:
    con.execute(
        """create or replace temp table text_nodes as
        select distinct node from (select a as node from pairs union all select b from pairs)"""
    )
    con.execute("create or replace temp table text_edges as select least(a, b) as a, greatest(a, b) as b from pairs")
    components_in_sql(DuckEngine(con), "text_nodes", "text_edges", "by_sql")


def contested(edges: int) -> None:
    """One component: members with limit 1 joined at random through sessions."""
    rng = np.random.default_rng(3)
    nodes = edges // 2
    group = np.where(np.arange(nodes) < nodes // 4, 0, -1).astype(np.int32)
    a, b = rng.integers(0, nodes, edges).astype(np.int32), rng.integers(0, nodes, edges).astype(np.int32)
    replay(
        nodes,
        a,
        b,
        forced=np.zeros(edges, bool),
        group=group,
        limit=np.array([1], np.int32),
        cannot=np.empty((0, 2), int),
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--people", type=int, default=200_000)
    con = duckdb.connect()
    con.execute(PERSON)
    make_pairs(con, parser.parse_args().people)
    print(f"{con.execute('select count(*) from pairs').fetchall()[0][0]:,} pairs of texts")
    bare(con)  # compiles
    mine = timed("dictionary and components, texts to texts", lambda: bare(con))
    spent: dict[str, float] = {}
    whole = timed("the whole resolution", lambda: spent.update(protected_by_parts(con)))
    print("  " + "  ".join(f"{name} {seconds:.2f}" for name, seconds in spent.items()))
    protection = spent["limits, replay and checks"]
    bare_parts = spent["dictionary"] + spent["components"] + spent["texts and persons out"]
    print(f"  limits, replay and checks on top of dictionary, components, texts out: {protection / bare_parts:.0%}")
    sql = timed("portable SQL on DuckDB, texts to texts", lambda: portable(con))
    theirs = timed("Splink, texts to texts", lambda: splink(con))
    print(f"ratios: Splink {theirs / mine:.1f}, portable SQL {sql / mine:.1f}, whole resolution {whole / mine:.2f};")
    print(f"Splink against the whole resolution {theirs / whole:.1f}")
    differ = con.execute("""select count(*) from (
        select ours.label, count(distinct theirs.label) as n from ours inner join theirs using (node) group by 1)
        where n > 1""")
    print(f"clusters that differ: {differ.fetchall()[0][0]}")
    chain = np.arange(100_000, dtype=np.int32)
    timed("sorted chain of 100,000", lambda: components(100_001, chain, chain + 1))
    leaves = np.arange(1, 1_000_001, dtype=np.int32)
    timed("star of 1,000,000", lambda: components(1_000_001, np.zeros_like(leaves), leaves))
    contested(100_000)
    timed("contested component of 600,000 edges", lambda: contested(600_000))


if __name__ == "__main__":
    main()
