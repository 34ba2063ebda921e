"""The resolution of edges as portable SQL, for engines other than the process itself (identity.md § 3.2, 3.3).

The statements are plain `select`s that sqlglot carries to Spark, ClickHouse, StarRocks and Trino; an *engine*
materialises each under a name, because lazily chained views would make the loops exponential. Same partition as
`cdp.identity.resolve`, by other means: components by hooking to the smallest neighbour, limits by taking in parallel
all edges that are first in the order for both their clusters.
"""

from __future__ import annotations

from typing import Any, Protocol

import duckdb
import sqlglot

from cdp.errors import FatalError


class Engine(Protocol):
    """Where the SQL runs. *materialise* replaces a table by the result of a `select` in DuckDB's dialect."""

    def materialise(self, name: str, select: str) -> None: ...

    def rows(self, select: str) -> list[tuple[Any, ...]]: ...


class DuckEngine:
    """DuckDB; temp tables."""

    def __init__(self, con: duckdb.DuckDBPyConnection) -> None:
        self.con = con

    def materialise(self, name: str, select: str) -> None:
        self.con.execute(f"create or replace temp table {name} as {select}")

    def rows(self, select: str) -> list[tuple[Any, ...]]:
        return self.con.execute(select).fetchall()


class TranspilingEngine:
    """Any engine with a session object that runs SQL text: statements are carried over by sqlglot.

    *session.query(text)* returns rows as tuples. ClickHouse needs `join_use_nulls = 1`, else an unmatched left join
    gives 0.
    """

    def __init__(self, session: Any, dialect: str, create: str) -> None:
        self.session, self.dialect, self.create = session, dialect, create

    def materialise(self, name: str, select: str) -> None:
        fresh = f"{name}__new"  # the select may read the table it replaces
        self.session.query(f"drop table if exists {fresh}")
        self.session.query(self.create.format(name=fresh) + self._carried(select))
        self.session.query(f"drop table if exists {name}")
        self.session.query(f"rename table {fresh} to {name}")

    def rows(self, select: str) -> list[tuple[Any, ...]]:
        return list(self.session.query(self._carried(select)))

    def _carried(self, select: str) -> str:
        return str(sqlglot.transpile(select, read="duckdb", write=self.dialect)[0])


def components_in_sql(engine: Engine, nodes: str, edges: str, into: str) -> int:
    """Connected components of `edges(a, b)` over `nodes(node)` into `into(node, label)`; returns the number of
    rounds."""
    engine.materialise("cc_cross", f"select distinct a, b from {edges} where a < b")
    maps: list[str] = []
    while engine.rows("select count(*) from cc_cross")[0][0]:
        parent = f"cc_parent_{len(maps)}"
        engine.materialise(parent, "select b as r, min(a) as p from cc_cross group by b")
        while engine.rows(f"select count(*) from {parent} as x inner join {parent} as y on x.p = y.r")[0][0]:
            engine.materialise(
                parent,
                f"select x.r as r, coalesce(y.p, x.p) as p from {parent} as x left join {parent} as y on x.p = y.r",
            )
        maps.append(parent)
        engine.materialise(
            "cc_cross",
            f"""
            select distinct least(z.x, z.y) as a, greatest(z.x, z.y) as b
            from (
                select coalesce(p1.p, e.a) as x, coalesce(p2.p, e.b) as y
                from cc_cross as e left join {parent} as p1 on e.a = p1.r left join {parent} as p2 on e.b = p2.r
            ) as z
            where z.x <> z.y""",
        )
    engine.materialise(into, f"select node, node as label from {nodes}")
    for parent in maps:
        engine.materialise(
            into,
            f"""select x.node as node, coalesce(y.p, x.label) as label
                from {into} as x left join {parent} as y on x.label = y.r""",
        )
    return len(maps)


def persons_in_sql(engine: Engine, nodes: str, edges: str, cannot: str, into: str, *, max_rounds: int = 2_000) -> int:
    """Persons of `nodes(node, grp, lim)` and `edges(a, b, ord, forced)` into `into(node, label)`.

    *grp*: limit group, -1 for none; *ord*: place in the total order, unique; *forced*: 1 where an edge may break
    limits; `cannot(a, b)`: pairs to keep apart. Returns the rounds of the replay; raises `FatalError` past *max_rounds*
    (an order that rises along a chain needs as many rounds as edges: resolve such data in process).
    """
    components_in_sql(engine, nodes, edges, "pr_raw")
    engine.materialise(
        "pr_contested",
        f"""
        select distinct bad.label as label from (
            select raw.label as label from pr_raw as raw inner join {nodes} as n on raw.node = n.node
            where n.grp >= 0 group by raw.label, n.grp having count(*) > max(n.lim)
            union all
            select x.label as label from {cannot} as c inner join pr_raw as x on c.a = x.node
            inner join pr_raw as y on c.b = y.node where x.label = y.label
        ) as bad""",
    )
    engine.materialise(
        "pr_cluster",
        "select raw.node as node, raw.node as c from pr_raw as raw inner join pr_contested as t on raw.label = t.label",
    )
    engine.materialise(
        "pr_left",
        f"""
        select e.a as a, e.b as b, e.ord as ord, e.forced as forced, e.a as x, e.b as y
        from {edges} as e inner join pr_cluster as k on e.a = k.node where e.a <> e.b""",
    )
    rounds = 0
    while engine.rows("select count(*) from pr_left")[0][0]:
        rounds += 1
        if rounds > max_rounds:
            raise FatalError(f"the SQL replay took more than {max_rounds} rounds", hint="resolve this data in process")
        _round(engine, nodes, cannot)
    engine.materialise(
        into,
        """
        select raw.node as node, coalesce(k.c, raw.label) as label from pr_raw as raw left join pr_cluster as k on
        raw.node = k.node""",
    )
    return rounds


def _round(engine: Engine, nodes: str, cannot: str) -> None:
    """Decide all edges that are first for both their clusters, and contract."""
    engine.materialise(
        "pr_first",
        """
        select f.c as c, min(f.ord) as ord from (
            select x as c, ord from pr_left union all select y as c, ord from pr_left
        ) as f group by f.c""",
    )
    engine.materialise(
        "pr_chosen",
        """
        select e.x as x, e.y as y, e.forced as forced from pr_left as e
        inner join pr_first as f on e.x = f.c and e.ord = f.ord
        inner join pr_first as g on e.y = g.c and e.ord = g.ord""",
    )
    engine.materialise(
        "pr_held",
        f"""
        select k.c as c, n.grp as grp, count(*) as held, max(n.lim) as lim
        from pr_cluster as k inner join {nodes} as n on k.node = n.node where n.grp >= 0 group by k.c, n.grp""",
    )
    engine.materialise(
        "pr_apart",
        f"""
        select distinct least(p.c, q.c) as x, greatest(p.c, q.c) as y from {cannot} as d
        inner join pr_cluster as p on d.a = p.node inner join pr_cluster as q on d.b = q.node where p.c <> q.c""",
    )
    engine.materialise(
        "pr_refused",
        """
        select distinct bad.x as x, bad.y as y, bad.hard as hard from (
            select e.x as x, e.y as y, 0 as hard from pr_chosen as e
            inner join pr_held as p on e.x = p.c inner join pr_held as q on e.y = q.c and p.grp = q.grp
            where e.forced = 0 and p.held + q.held > p.lim
            union all
            select e.x as x, e.y as y, 1 as hard from pr_chosen as e
            inner join pr_apart as d on least(e.x, e.y) = d.x and greatest(e.x, e.y) = d.y
        ) as bad""",
    )
    engine.materialise(
        "pr_taken",
        """
        select e.x as x, e.y as y from pr_chosen as e left join pr_refused as r on e.x = r.x and e.y = r.y where r.x
        is null""",
    )
    engine.materialise(
        "pr_cluster",
        """
        select k.node as node, coalesce(t.x, k.c) as c from pr_cluster as k left join pr_taken as t on k.c = t.y""",
    )
    engine.materialise(
        "pr_no",
        """
        select w.lo as lo, w.hi as hi, max(w.hard) as hard from (
            select least(r.x, r.y) as lo, greatest(r.x, r.y) as hi, r.hard as hard from pr_refused as r
        ) as w group by w.lo, w.hi""",
    )
    engine.materialise(
        "pr_left",
        """
        select s.a as a, s.b as b, s.ord as ord, s.forced as forced, s.x as x, s.y as y from (
            select e.a as a, e.b as b, e.ord as ord, e.forced as forced, p.c as x, q.c as y, n.hard as hard
            from pr_left as e inner join pr_cluster as p on e.a = p.node inner join pr_cluster as q on e.b = q.node
            left join pr_no as n on least(e.x, e.y) = n.lo and greatest(e.x, e.y) = n.hi
        ) as s where s.x <> s.y and (s.hard is null or (s.hard = 0 and s.forced = 1))""",
    )
