"""The portable SQL gives the identical partition, on DuckDB and on ClickHouse's engine in process."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import duckdb
import numpy as np
import pytest
import sqlglot

from cdp.identity.graph import type_table
from cdp.identity.memory import resolve_items
from cdp.identity.resolve import edge_order
from tests.identity.random_evidence import POOL, RULES, rows
from tests.identity.test_properties import AS_OF, BARRED
from warehouse.identity_sql import DuckEngine, Engine, TranspilingEngine, components_in_sql, persons_in_sql


class Collecting:
    """An engine that runs nothing and keeps every statement."""

    def __init__(self) -> None:
        self.statements: list[str] = []

    def materialise(self, name: str, select: str) -> None:
        self.statements.append(select)

    def rows(self, select: str) -> list[tuple[Any, ...]]:
        self.statements.append(select)
        return [(0,)]


def tables(engine: Engine, seed: int) -> dict[int, int]:
    """Random evidence and decisions as `nodes`, `edges`, `cannot`; returns the person of every node as resolved in
    process."""
    rng = random.Random(seed)
    must, apart = ([tuple(rng.sample(POOL, 2)) for _ in range(3)] for _ in range(2))
    outcome = resolve_items(rows(rng, 40), RULES, as_of=AS_OF, barred=BARRED, must=must, cannot=apart)
    table, found, edges = outcome.table, outcome.outcome, outcome.outcome.edges
    types = np.array([table.names.index(kind) for kind, _, _ in outcome.identifiers], dtype=np.int16)[found.origin]
    scopes = sorted({(kind, scope) for kind, scope, _ in outcome.identifiers})
    order = edge_order(edges, np.arange(len(edges)), types, type_table(RULES))
    place = np.empty(len(edges), dtype=np.int64)
    place[order] = np.arange(len(edges))
    nodes = []
    for node, origin in enumerate(found.origin.tolist()):
        kind, scope, _ = outcome.identifiers[origin]
        item = RULES.types[kind]
        counts = item.limit and not (
            item.limit_window_days and found.last[node] < AS_OF - item.limit_window_days * 86_400_000_000
        )
        nodes.append((node, scopes.index((kind, scope)) if counts else -1, item.limit or 0))
    fill(engine, "nodes", ("node", "grp", "lim"), nodes)
    fill(engine, "edges", ("a", "b", "ord", "forced"), [
        (int(edges.a[i]), int(edges.b[i]), int(place[i]), int(edges.forced[i])) for i in range(len(edges))
    ])  # fmt: skip
    last = {outcome.identifiers[origin]: node for node, origin in enumerate(found.origin.tolist())}
    fill(engine, "cannot", ("a", "b"), [
        (min(last[a], last[b]), max(last[a], last[b])) for a, b in apart if a in last and b in last
    ])  # fmt: skip
    return dict(enumerate(found.person.tolist()))


def fill(engine: Engine, name: str, columns: tuple[str, ...], values: list[tuple[int, ...]]) -> None:
    row = " union all ".join(
        "select "
        + ", ".join(f"cast({cell} as bigint) as {column}" for cell, column in zip(value, columns, strict=True))
        for value in values
    )
    empty = "select " + ", ".join(f"cast(0 as bigint) as {column}" for column in columns)
    engine.materialise(name, row or f"select * from ({empty}) as nothing where 1 = 0")


def same_partition(ours: dict[int, int], theirs: dict[int, int]) -> bool:
    return len({(ours[node], theirs[node]) for node in ours}) == len(set(ours.values())) == len(set(theirs.values()))


@pytest.mark.parametrize("seed", range(12))
def test_sql_on_duckdb_gives_the_partition_of_the_process(seed: int) -> None:
    engine = DuckEngine(duckdb.connect())
    expected = tables(engine, seed)
    persons_in_sql(engine, "nodes", "edges", "cannot", "persons")
    assert same_partition(expected, dict(engine.rows("select node, label from persons")))


def test_cannot_links_hold_in_sql() -> None:
    engine = DuckEngine(duckdb.connect())
    fill(engine, "nodes", ("node", "grp", "lim"), [(i, -1, 0) for i in range(4)])
    fill(engine, "edges", ("a", "b", "ord", "forced"), [(0, 1, 0, 0), (1, 2, 1, 1), (2, 3, 2, 0)])
    fill(engine, "cannot", ("a", "b"), [(0, 3)])
    persons_in_sql(engine, "nodes", "edges", "cannot", "persons")
    assert same_partition({0: 0, 1: 0, 2: 0, 3: 1}, dict(engine.rows("select node, label from persons")))


def test_sorted_chain_takes_one_round_of_hooking() -> None:
    engine = DuckEngine(duckdb.connect())
    engine.materialise("nodes", "select i as node from range(20001) as t(i)")
    engine.materialise("edges", "select i as a, i + 1 as b from range(20000) as t(i)")
    assert components_in_sql(engine, "nodes", "edges", "labels") == 1
    assert engine.rows("select count(distinct label) from labels") == [(1,)]


class Chdb:
    def __init__(self) -> None:
        from chdb.session import Session

        self.session = Session()
        self.session.query("create database if not exists parity")
        self.session.query("use parity")

    def query(self, text: str) -> list[tuple[Any, ...]]:
        answer = str(
            self.session.query(f"{text} settings join_use_nulls = 1" if "select" in text.lower() else text, "CSV")
        )
        return [tuple(int(cell) for cell in line.split(",")) for line in answer.splitlines()]


@pytest.fixture(scope="module")
def clickhouse() -> Iterator[TranspilingEngine]:
    session = Chdb()
    yield TranspilingEngine(session, "clickhouse", "create table {name} engine = Memory as ")
    session.session.close()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_sql_on_clickhouse_gives_the_partition_of_the_process(clickhouse: TranspilingEngine, seed: int) -> None:
    expected = tables(clickhouse, seed)
    persons_in_sql(clickhouse, "nodes", "edges", "cannot", "persons")
    assert same_partition(expected, dict(clickhouse.rows("select node, label from persons")))


@pytest.mark.parametrize("dialect", ["spark", "clickhouse", "starrocks", "trino"])
def test_every_statement_travels_to_other_dialects(dialect: str) -> None:
    engine = Collecting()
    components_in_sql(engine, "nodes", "edges", "labels")
    persons_in_sql(engine, "nodes", "edges", "cannot", "persons")
    assert len(engine.statements) > 8
    for statement in engine.statements:
        carried = sqlglot.transpile(statement, read="duckdb", write=dialect, unsupported_level=sqlglot.ErrorLevel.RAISE)
        sqlglot.parse_one(carried[0], read=dialect)
