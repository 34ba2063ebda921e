"""Bare components and merge protection, in ratios within one run.

`python -m tests.benchmarks.bench_components --people 200000` compares, on the same DuckDB table of string pairs,
strings in and strings
out, our dictionary and components with Splink's clustering and with the portable SQL; then a sorted chain of 100,000, a
star of a million, and one contested component of 600,000 edges.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import duckdb
import numpy as np
import polars as pl
from numba import njit
from numpy.typing import NDArray

from cdp.identity.components import components
from cdp.identity.replay import replay
from tests.benchmarks.bench_identity import PERSON
from warehouse.identity_sql import DuckEngine, components_in_sql

PAIRS = """
create table pairs as
select member(i) as a, phone(i) as b from range({n}) t(i)
union all select union_id(i), open_id(i) from range({n}) t(i)
union all select external(i), union_id(i) from range({n}) t(i) where i % 2 = 0
union all select member(i), open_id(i) from range({n}) t(i) where i % 10 < 7
union all select cookie(i, 0), open_id(i) from range({n}) t(i) where i % 10 < 6
union all select cookie(i, 1), member(i) from range({n}) t(i) where i % 10 < 3
"""


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


def ours(con: duckdb.DuckDBPyConnection) -> None:
    """Each text hashed once, dense numbers, components, texts and labels back as a table."""
    table = con.sql("select a, b, hash(a) as hash_a, hash(b) as hash_b from pairs").to_arrow_table()
    keys = np.concatenate([table["hash_a"].to_numpy(), table["hash_b"].to_numpy()])
    codes, first = encode(keys, int(np.ceil(np.log2(len(keys) * 1.5))))
    labels = components(len(first), codes[: table.num_rows], codes[table.num_rows :])
    texts = pl.concat([pl.Series(table["a"]), pl.Series(table["b"])]).gather(first)
    con.register("labelled", pl.DataFrame({"node": texts, "label": labels}).to_arrow())
    con.execute("create or replace table ours as from labelled")


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
    con.execute(PAIRS.format(n=parser.parse_args().people))
    print(f"{con.execute('select count(*) from pairs').fetchall()[0][0]:,} pairs of texts")
    ours(con)  # compiles
    mine = timed("dictionary and components, texts to texts", lambda: ours(con))
    sql = timed("portable SQL on DuckDB, texts to texts", lambda: portable(con))
    theirs = timed("Splink, texts to texts", lambda: splink(con))
    print(f"ratios: Splink {theirs / mine:.1f}, portable SQL {sql / mine:.1f}")
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
