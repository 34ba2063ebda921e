"""Clusters to persons: lasting ids, the map's history, the registry and the change feed (identity.md § 2.5, 2.8)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import duckdb
import numpy as np
import polars as pl
from numpy.typing import NDArray

from cdp.errors import CheckFailedError
from cdp.identity.components import components
from cdp.identity.graph import (
    ABSENT,
    BLOCKED,
    EXPIRED,
    NEVER,
    RELAY,
    SHARED,
    Ints,
    Resolution,
    Small,
    TypeTable,
)
from cdp.identity.lasting import Frozen, Holdings, assign
from warehouse.identity_frames import columns, handed_over
from warehouse.identity_graph import Loaded
from warehouse.identity_values import hash_mac

PERSON, SHARED_KIND, RELAY_KIND, EXPIRED_KIND = range(4)
KIND_WORDS = ("person", "shared", "relay", "expired")


@dataclass(frozen=True)
class Persons:
    """Persons of a run: one entry per living identifier, or per cluster where said so.

    *old*, *new*: number of the id each has had and has (-1 none). *gone*: identifiers that had an id, *gone_old*, and
    are
    no more.
    """

    alive: Ints  # positions of living nodes among the final nodes
    node_id: Ints
    cluster: Small
    old: Ints
    new: Ints
    home: Ints  # number of the first id it ever had
    gone: Ints
    gone_old: Ints
    number: Ints  # per cluster
    minted: Ints
    resurrected: Ints
    merged: Ints  # ids that died and where they went, in step
    merged_into: Ints
    retired: Ints
    kind: Ints
    class_: Ints  # best class per cluster


def give_ids(
    con: duckdb.DuckDBPyConnection,
    outcome: Resolution,
    ids: Ints,
    loaded: Loaded,
    table: TypeTable,
    *,
    run: int,
    as_of: datetime,
    secret: bytes,
    scoped: bool,
) -> Persons:
    """Give every cluster its one_id: kept, woken or minted; deaths are told apart into merged and retired."""
    alive = np.flatnonzero(~np.isin(outcome.status, (BLOCKED, ABSENT)) & loaded.mine[outcome.origin])
    node_id = ids[alive]
    cluster, clusters = _dense(outcome.person[alive])
    kinds = loaded.nodes.type[outcome.origin[alive]]
    class_: Ints = table.class_[kinds].astype(np.int64)
    standing: Ints = np.empty(len(alive), dtype=np.int64)
    standing[np.lexsort((np.arange(len(alive)), outcome.first[alive], table.strength[kinds]))] = np.arange(len(alive))
    size = int(con.execute("select coalesce(max(node_id), 0) + 1 from identity.node").fetchall()[0][0])
    only = "and node_id in (select node_id from replaced)" if scoped else ""
    current = _lookup(con, f"identity.identity_map where run_to is null {only}", size)
    homes = _lookup(con, f"identity.node_home where true {only}", size)
    holdings = Holdings(cluster, class_, standing, current[node_id], homes[node_id])
    given = assign(holdings, _frozen(con, node_id, size), clusters)
    number, minted = given.number.copy(), np.flatnonzero(given.number < 0)
    top = int(con.execute("select coalesce(max(number), -1) + 1 from identity.one_id_registry").fetchall()[0][0])
    order = np.lexsort((given.anchor[minted], outcome.first[alive][given.anchor[minted]]))
    number[minted[order]] = top + np.arange(len(minted))
    _mint(con, number[minted], node_id[given.anchor[minted]], run=run, as_of=as_of, secret=secret)
    here = np.zeros(size, dtype=np.bool_)
    here[node_id] = True
    gone = np.flatnonzero((current >= 0) & ~here)
    new = number[cluster]
    dead = np.setdiff1d(current[current >= 0], number)
    merged, into = _where_they_went(dead, current[node_id], new, standing)
    return Persons(
        alive=alive,
        node_id=node_id,
        cluster=cluster,
        old=current[node_id],
        new=new,
        home=homes[node_id],
        gone=gone,
        gone_old=current[gone],
        number=number,
        minted=np.sort(number[minted]),
        resurrected=given.resurrected,
        merged=merged,
        merged_into=into,
        retired=np.setdiff1d(dead, merged),
        kind=_kinds(outcome.status[alive], cluster, clusters),
        class_=_least(class_, cluster, clusters),
    )


def _dense(labels: Small) -> tuple[Small, int]:
    """Labels renumbered without gaps, and how many there are."""
    used = np.zeros(int(labels.max()) + 1 if len(labels) else 0, dtype=np.bool_)
    used[labels] = True
    return (np.cumsum(used, dtype=np.int32) - 1)[labels], int(used.sum())


def _lookup(con: duckdb.DuckDBPyConnection, source: str, size: int) -> Ints:
    """number by node_id; -1 where there is none."""
    found = columns(con, f"select node_id, number from {source}")
    numbers = np.full(size, -1, dtype=np.int64)
    numbers[found["node_id"]] = found["number"]
    return numbers


def _frozen(con: duckdb.DuckDBPyConnection, node_id: Ints, size: int) -> Frozen:
    found = columns(con, "select number, node_id from identity.frozen_member")
    position = np.full(size, -1, dtype=np.int64)
    position[node_id] = np.arange(len(node_id))
    place = position[found["node_id"]]
    return Frozen(found["number"][place >= 0], place[place >= 0])


def _where_they_went(dead: Ints, old: Ints, new: Ints, standing: Ints) -> tuple[Ints, Ints]:
    """Of *dead* ids, those whose identifiers live on, and the id that got the best of them."""
    held = np.flatnonzero(np.isin(old, dead))
    order = held[np.lexsort((standing[held], old[held]))]
    numbers, first = np.unique(old[order], return_index=True)
    return numbers, new[order[first]]


def _least(values: Ints, cluster: Small, clusters: int) -> Ints:
    least = np.full(clusters, np.iinfo(np.int64).max, dtype=np.int64)
    np.minimum.at(least, cluster, values)
    return least


def _kinds(status: NDArray[np.int8], cluster: Small, clusters: int) -> Ints:
    kinds = np.full(clusters, PERSON, dtype=np.int64)
    for code, kind in ((SHARED, SHARED_KIND), (RELAY, RELAY_KIND), (EXPIRED, EXPIRED_KIND)):
        kinds[cluster[status == code]] = kind
    return kinds


def _mint(
    con: duckdb.DuckDBPyConnection, number: Ints, anchor: Ints, *, run: int, as_of: datetime, secret: bytes
) -> None:
    """Register new ids: HMAC of the anchor identifier and a generation, the first one never used before."""
    mac = hash_mac(secret, "concat_ws(chr(31), node.type, node.scope, node.value_norm, node.epoch, minting.generation)")
    with handed_over(
        con, "to_mint", len(number), lambda rows: pl.DataFrame({"number": number[rows], "node_id": anchor[rows]})
    ):
        con.execute("create or replace temp table minting as select number, node_id, 1 as generation from to_mint")
    con.execute("create or replace temp table minted (number bigint, one_id text, generation integer)")
    while con.execute("select count(*) from minting").fetchall()[0][0]:
        con.execute(f"""create or replace temp table tried as
            select minting.number, minting.node_id, 'p' || substr({mac}, 1, 23) as one_id, minting.generation
            from minting inner join identity.node as node on minting.node_id = node.node_id""")
        con.execute("""create or replace temp table used as
            select one_id from identity.one_id_registry where one_id in (select one_id from tried)""")
        con.execute("insert into minted select number, one_id, generation from tried anti join used using (one_id)")
        con.execute("""create or replace temp table minting as
            select number, node_id, generation + 1 as generation from tried semi join used using (one_id)""")
    twice = con.execute("select count(*) - count(distinct one_id) from minted").fetchall()[0][0]
    if twice:
        raise CheckFailedError(f"{twice} new one_ids are equal", hint="report it with the run id; nothing was stored")
    con.execute(
        """insert into identity.one_id_registry
        select number, one_id, 'live', ?, ?, generation, null, null, number from minted""",
        [run, as_of],
    )
    con.execute("drop table minted")


def store_persons(
    con: duckdb.DuckDBPyConnection,
    persons: Persons,
    outcome: Resolution,
    *,
    run: int,
    as_of: datetime,
    cause: str,
    scoped: bool,
) -> None:
    """Write feed, map, registry, frozen members, homes and persons of this run."""
    _freeze(con, persons)
    _feed(con, persons, run=run, cause=cause)
    _registry(con, persons, run)
    _map(con, persons, run=run, as_of=as_of)
    _persons(con, persons, outcome, scoped=scoped)


def store_households(con: duckdb.DuckDBPyConnection, types: list[str]) -> None:
    """People who gave the same contact (of *types*) but stay several are one household, named by its oldest person."""
    found = columns(
        con,
        f"""
        with given as (
            select decision.a_node, decision.b_node from identity.edge_decision as decision
            inner join identity.node as a on decision.a_node = a.node_id
            inner join identity.node as b on decision.b_node = b.node_id
            where decision.reason <> 'cut' and decision.reason <> 'closed'
                and (a.type in ({_listed(types)}) or b.type in ({_listed(types)}))
        )
        select distinct x.number as one, y.number as other from given
        inner join identity.identity_map as x on given.a_node = x.node_id and x.run_to is null
        inner join identity.identity_map as y on given.b_node = y.node_id and y.run_to is null
        where x.number <> y.number""",
    )
    numbers, ends = np.unique(np.concatenate([found["one"], found["other"]]), return_inverse=True)
    half = len(found["one"])
    label = components(len(numbers), ends[:half].astype(np.int32), ends[half:].astype(np.int32))
    oldest = numbers[_least(np.arange(len(numbers)), label, int(label.max()) + 1 if len(label) else 0)]
    con.register("homes", pl.DataFrame({"number": numbers, "household": oldest[label]}).to_arrow())
    con.execute("""update identity.person set household = null
        where household is not null and number not in (select number from homes)""")
    con.execute("""update identity.person as person set household = homes.household from homes
        where person.number = homes.number and person.household is distinct from homes.household""")
    con.unregister("homes")


def _listed(types: list[str]) -> str:
    return ", ".join("'" + name.replace("'", "''") + "'" for name in types) or "''"


def _freeze(con: duckdb.DuckDBPyConnection, persons: Persons) -> None:
    """Members that dying ids have had until now; woken ids need theirs no longer."""
    dead = np.concatenate([persons.merged, persons.retired])
    _numbers(con, "dying", dead)
    _numbers(con, "woken", persons.resurrected)
    con.execute("delete from identity.frozen_member where number in (select number from woken)")
    con.execute("""insert into identity.frozen_member
        select number, node_id from identity.identity_map where run_to is null and number in (select number from
        dying)""")
    con.unregister("dying")
    con.unregister("woken")


def _numbers(con: duckdb.DuckDBPyConnection, name: str, numbers: Ints) -> None:
    con.register(name, pl.DataFrame({"number": numbers}, schema={"number": pl.Int64}).to_arrow())


OPS = ("mint", "resurrect", "split", "merge", "retire", "attach", "move", "detach")


def _feed(con: duckdb.DuckDBPyConnection, persons: Persons, *, run: int, cause: str) -> None:
    """Person-level rows first, then one row per identifier that came, moved or went: old map + feed = new map."""
    changed = persons.old != persons.new
    fresh = changed & (persons.old < 0)
    moved = changed & (persons.old >= 0)
    parts = np.unique(np.stack([persons.old[moved], persons.new[moved]], axis=1), axis=0)
    split = parts[~np.isin(parts[:, 0], persons.merged)]
    people = [
        _changes(0, persons.minted),
        _changes(1, persons.resurrected),
        _changes(2, split[:, 0], split[:, 1]),
        _changes(3, persons.merged, persons.merged_into),
        _changes(4, persons.retired),
    ]
    nodes = [
        _changes(5, persons.new[fresh], node=persons.node_id[fresh]),
        _changes(6, persons.new[moved], persons.old[moved], persons.node_id[moved]),
        _changes(7, None, persons.gone_old, persons.gone),
    ]
    words = " ".join(f"when {code} then '{word}'" for code, word in enumerate(OPS))
    first = 1
    for part in (*people, *nodes):
        if not part.count:
            continue
        # only the names asked for: both at once are more than 2 GB at ten million people
        joins = [side for side, numbers in (("one", part.one), ("other", part.other)) if numbers is not None]
        ids = ", ".join(f"{side}.one_id" if side in joins else "null" for side in ("one", "other"))
        named = " ".join(
            f"left join identity.one_id_registry as {side} on feed.{side} = {side}.number" for side in joins
        )
        with handed_over(con, "feed", part.count, part.frame):
            con.execute(f"""
                insert into identity.identity_change
                select {run}, {first} + feed.place, case feed.op {words} end, {ids},
                    case when feed.node_id >= 0 then feed.node_id end, '{cause}'
                from feed {named}
            """)
        first += part.count


@dataclass(frozen=True)
class _Changes:
    """Rows of the feed with one *op*: ids by number and the identifier, -1 for none."""

    op: int
    one: Ints | None
    other: Ints | None
    node: Ints | None

    @property
    def count(self) -> int:
        return len(next(column for column in (self.one, self.other) if column is not None))

    def frame(self, rows: slice) -> pl.DataFrame:
        place = np.arange(rows.start, min(rows.stop, self.count), dtype=np.int64)
        none = np.full(len(place), -1, dtype=np.int64)
        one, other, node = (none if item is None else item[rows] for item in (self.one, self.other, self.node))
        op = np.full(len(place), self.op, dtype=np.int8)
        return pl.DataFrame({"place": place, "op": op, "one": one, "other": other, "node_id": node})


def _changes(op: int, one: Ints | None, other: Ints | None = None, node: Ints | None = None) -> _Changes:
    return _Changes(op, one, other, node)


def _registry(con: duckdb.DuckDBPyConnection, persons: Persons, run: int) -> None:
    con.register("merged", pl.DataFrame({"number": persons.merged, "into": persons.merged_into}).to_arrow())
    _numbers(con, "retired", persons.retired)
    _numbers(con, "woken", persons.resurrected)
    con.execute(f"""update identity.one_id_registry as registry set status = 'merged', died_run = {run},
        merged_into = merged."into" from merged where registry.number = merged.number""")
    con.execute(f"""update identity.one_id_registry set status = 'retired', died_run = {run}, merged_into = null
        where number in (select number from retired)""")
    con.execute("""update identity.one_id_registry set status = 'live', died_run = null, merged_into = null
        where number in (select number from woken)""")
    for name in ("merged", "retired", "woken"):
        con.unregister(name)
    if len(persons.merged) + len(persons.retired) + len(persons.resurrected):
        flatten_aliases(con)


def flatten_aliases(con: duckdb.DuckDBPyConnection) -> None:
    """Point every dead id at the id it leads to today, through any number of merges; retired ones at themselves."""
    found = columns(
        con, "select number, coalesce(merged_into, number) as leads from identity.one_id_registry order by number"
    )
    leads = np.searchsorted(found["number"], found["leads"])
    while not np.array_equal(further := leads[leads], leads):
        leads = further
    con.register("flat", pl.DataFrame({"number": found["number"], "leads": found["number"][leads]}).to_arrow())
    con.execute("""update identity.one_id_registry as registry set current_number = flat.leads from flat
        where registry.number = flat.number and registry.current_number is distinct from flat.leads""")
    con.unregister("flat")


def _map(con: duckdb.DuckDBPyConnection, persons: Persons, *, run: int, as_of: datetime) -> None:
    changed = persons.old != persons.new
    ended = np.concatenate([persons.node_id[changed & (persons.old >= 0)], persons.gone])
    if len(ended):
        con.register("ended", pl.DataFrame({"node_id": ended}).to_arrow())
        con.execute(
            """update identity.identity_map set run_to = ?, tx_to = ?
            where run_to is null and node_id in (select node_id from ended)""",
            [run, as_of],
        )
        con.unregister("ended")
    where = np.flatnonzero(changed)

    def part(rows: slice) -> pl.DataFrame:
        return pl.DataFrame({"node_id": persons.node_id[where[rows]], "number": persons.new[where[rows]]})

    with handed_over(con, "changed", len(where), part):
        con.execute(
            """insert into identity.identity_map
            select changed.node_id, registry.one_id, changed.number, ?, null, ?, null
            from changed inner join identity.one_id_registry as registry on changed.number = registry.number""",
            [run, as_of],
        )
    where = np.flatnonzero(changed & (persons.home < 0))
    with handed_over(con, "changed", len(where), part):
        con.execute("insert into identity.node_home select node_id, number from changed")


def _persons(con: duckdb.DuckDBPyConnection, persons: Persons, outcome: Resolution, *, scoped: bool) -> None:
    clusters = len(persons.number)
    last = np.full(clusters, -NEVER, dtype=np.int64)
    np.maximum.at(last, persons.cluster, outcome.last[persons.alive])
    least = _least(outcome.first[persons.alive], persons.cluster, clusters)
    sizes = np.bincount(persons.cluster, minlength=clusters)

    def part(rows: slice) -> pl.DataFrame:
        return pl.DataFrame({
            "number": persons.number[rows], "kind": persons.kind[rows], "first": least[rows], "last": last[rows],
            "identifiers": sizes[rows], "class": persons.class_[rows],
        })  # fmt: skip

    words = " ".join(f"when {code} then '{word}'" for code, word in enumerate(KIND_WORDS))
    if scoped:
        _numbers(con, "renewed", np.unique(np.concatenate([persons.old, persons.gone_old, persons.number])))
        con.execute("delete from identity.person where number in (select number from renewed)")
        con.unregister("renewed")
    else:
        con.execute("delete from identity.person")
    with handed_over(con, "found_persons", clusters, part):
        con.execute(f"""
            insert into identity.person
            select found.number, registry.one_id, case found.kind {words} end, make_timestamptz(found.first),
                make_timestamptz(found.last), found.identifiers, found.class >= 3, null
            from found_persons as found
            inner join identity.one_id_registry as registry on found.number = registry.number
        """)
