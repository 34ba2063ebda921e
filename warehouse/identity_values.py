"""Raw evidence into the dictionary: new rows found, their values normalised once, everything after is dense
integers."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime

import duckdb
import polars as pl

from cdp.errors import FatalError
from cdp.identity.graph import KINDS
from cdp.identity.normalise import normalise, sm3
from cdp.identity.rules import HashOf, IdentityRules
from warehouse.identity_frames import handed_over


def sixty_four_bits(*parts: str) -> str:
    """SQL for 64 bits of the MD5 of *parts*: any two of ten million share it by a chance of 3 in a million.

    Not DuckDB's `hash`: texts of the same shape collide there (14 of 157,161 source keys of a generated brand did).
    The same number as `md5_number_lower`, which goes through a text of bits and takes four times as long.
    """
    return f"(md5_number(concat_ws(chr(31), {', '.join(parts)})) >> 64)::ubigint"


ELEMENT_HASH = sixty_four_bits("item.type", "coalesce(item.scope, '')", "item.value")
NODE_HASH = sixty_four_bits("type", "scope", "value_norm")
EPOCH_HASH = sixty_four_bits("base.node_hash::text", "{epoch}::text")
# Differs when stored hashes are of another recipe, or of a DuckDB that hashes otherwise: then all is read anew.
RECIPE = "xor(hash('siyu-cdp 4'), hash(20261122))"


@dataclass(frozen=True)
class Delta:
    """How the evidence differs from the run before: rows that came and rows that went."""

    new_rows: int
    gone_rows: int
    new_identifiers: int
    rejected_values: int


def hash_mac(secret: bytes, column: str) -> str:
    """SQL for HMAC-SHA256 (RFC 2104) of a text expression under *secret*, as 64 hex digits."""
    key = secret if len(secret) <= 64 else hashlib.sha256(secret).digest()
    key = key.ljust(64, b"\0")
    inner, outer = (bytes(byte ^ pad for byte in key).hex() for pad in (0x36, 0x5C))
    return f"sha256(unhex('{outer}') || unhex(sha256(unhex('{inner}') || encode({column}))))"


def take_in(
    con: duckdb.DuckDBPyConnection,
    rules: IdentityRules,
    *,
    run: int,
    as_of: datetime,
    secret: bytes,
    bars_changed: bool,
) -> Delta:
    """Bring `evidence`, `evidence_node`, `node` and `identifier_value` up to the evidence model.

    Leaves temp tables `new_rows(row_id)` and `gone_nodes(node_id)`. Raises `FatalError` on a kind of evidence nobody
    knows.
    """
    in_place = _is_table(con) and not _count(con, "identity.evidence")
    gone = _all_new(con) if in_place else _compared(con)
    _check_kinds(con)
    new = _new_rows(con)
    _new_texts(con)
    con.execute(f"drop {'view' if in_place else 'table'} arrived")
    if new or gone:
        con.execute("delete from identity.taken_in")
        con.execute(f"insert into identity.taken_in select max(made_at) from {SOURCE}")
    known = int(con.execute("select coalesce(max(node_id), 0) from identity.node").fetchall()[0][0])
    identifiers, rejected = _read_values(con, rules, run=run, as_of=as_of, bars_changed=bars_changed)
    con.execute("""
        insert into identity.evidence_node
        select element.row_id, value.node_id
        from element inner join identity.identifier_value as value on element.value_hash = value.value_hash
    """)
    _bury(con, secret, as_of)
    link_digests(con, rules, known=0 if bars_changed else known)
    con.execute("drop table element")
    return Delta(new, gone, identifiers, rejected)


def _all_new(con: duckdb.DuckDBPyConnection) -> int:
    """Nothing is stored yet: every row of the evidence table arrives, read in place rather than copied."""
    con.execute("create or replace temp table gone_nodes (node_id bigint)")
    con.execute(
        f"create or replace temp view arrived as select {_next_row(con)} + rowid as row_id, {_EVIDENCE} from {SOURCE}"
    )
    return 0


def _compared(con: duckdb.DuckDBPyConnection) -> int:
    """Rows that are not stored yet arrive, rows that are stored and no longer there go; returns how many went.

    The digests of all rows, counted and summed up two ways, prove it. New rows are looked for among those made since
    the last time, gone ones among those that bear the name of a new one. Only where that does not add up is every
    digest compared with every other.
    """
    for table in ("fresh_ids (evidence_id ubigint)", "gone_rows (evidence_id ubigint, row_id bigint)"):
        con.execute(f"create or replace temp table {table}")
    since = int(con.execute("select coalesce(max(made_at), 0) from identity.taken_in").fetchall()[0][0])
    given, held = _sums(con, SOURCE), _sums(con, "identity.evidence")
    for find in () if given == held else (_find_made, _find_replaced, _compare_all):
        find(con, since)
        fresh, gone = _sums(con, "fresh_ids"), _sums(con, "gone_rows")
        if _less(given, fresh) == _less(held, gone):
            break
        if find is _find_replaced:
            since = -1  # what is new may be of any time
    _drop_gone(con)
    con.execute(f"""create or replace temp table arrived as
        select {_next_row(con)} + row_number() over () - 1 as row_id, {_EVIDENCE} from {SOURCE}
        where made_at > {since} and evidence_id in (select evidence_id from fresh_ids)""")
    return _count(con, "gone_rows")


def _next_row(con: duckdb.DuckDBPyConnection) -> int:
    return int(con.execute("select coalesce(max(row_id), 0) + 1 from identity.evidence").fetchall()[0][0])


def _sums(con: duckdb.DuckDBPyConnection, table: str) -> tuple[int, int, int]:
    found = con.execute(
        f"select count(*), coalesce(bit_xor(evidence_id), 0), coalesce(sum(evidence_id), 0) from {table}"
    )
    count, mixed, total = found.fetchall()[0]
    return int(count), int(mixed), int(total)


def _less(these: tuple[int, int, int], those: tuple[int, int, int]) -> tuple[int, int, int]:
    return these[0] - those[0], these[1] ^ those[1], these[2] - those[2]


def _find_made(con: duckdb.DuckDBPyConnection, since: int) -> None:
    """New is what was made after *since* and is not stored."""
    con.execute(f"""create or replace temp table made as
        select evidence_id, source, source_key from {SOURCE} where made_at > {since}""")
    con.execute("""create or replace temp table known as
        select evidence_id from identity.evidence where evidence_id in (select evidence_id from made)""")
    con.execute("delete from made where evidence_id in (select evidence_id from known)")
    con.execute("insert into fresh_ids select evidence_id from made")


def _find_replaced(con: duckdb.DuckDBPyConnection, _since: int) -> None:
    """Gone is what is stored under the name of something new."""
    con.execute("""insert into gone_rows select evidence.evidence_id, evidence.row_id from identity.evidence as evidence
        inner join (select distinct source, source_key from made) as made
            on evidence.source_key = made.source_key and evidence.source is not distinct from made.source""")


def _compare_all(con: duckdb.DuckDBPyConnection, _since: int) -> None:
    """Every digest against every other."""
    for table in ("fresh_ids", "gone_rows"):
        con.execute(f"delete from {table}")
    con.execute(f"""insert into fresh_ids
        select given.evidence_id from {SOURCE} as given anti join identity.evidence using (evidence_id)""")
    con.execute(f"""insert into gone_rows
        select evidence_id, row_id from identity.evidence anti join {SOURCE} using (evidence_id)""")


def _drop_gone(con: duckdb.DuckDBPyConnection) -> None:
    """Delete evidence that the model no longer has; leaves temp table `gone_nodes`."""
    con.execute("""create or replace temp table gone_nodes as
        select distinct node_id from identity.evidence_node where row_id in (select row_id from gone_rows)""")
    for table in ("evidence", "evidence_node"):
        con.execute(f"delete from identity.{table} where row_id in (select row_id from gone_rows)")


# What an identifier is to HMACs: tombstones and one_ids.
NODE_TEXT = "concat_ws(chr(31), node.type, node.scope, node.value_norm)"
SOURCE = "identity.int_identity__evidence"
_EVIDENCE = (
    "evidence_id, source, source_key, kind, event_time, last_time, recorded_at, confidence, observations, identifiers"
)


def nothing_new(con: duckdb.DuckDBPyConnection) -> Delta:
    """In place of `take_in` when only assertions changed: the temp tables it leaves, empty."""
    con.execute("create or replace temp table new_rows (row_id bigint)")
    con.execute("create or replace temp table gone_nodes (node_id bigint)")
    return Delta(0, 0, 0, 0)


def _count(con: duckdb.DuckDBPyConnection, table: str) -> int:
    return int(con.execute(f"select count(*) from {table}").fetchall()[0][0])


def _is_table(con: duckdb.DuckDBPyConnection) -> bool:
    """Whether the evidence model is a table (its rows then have places to come back to) or a view."""
    schema, name = SOURCE.split(".")
    found = con.execute(
        """select count(*) from duckdb_tables()
        where database_name = current_database() and schema_name = ? and table_name = ?""",
        [schema, name],
    )
    return bool(found.fetchall()[0][0])


def _check_kinds(con: duckdb.DuckDBPyConnection) -> None:
    names = ", ".join(f"'{kind}'" for kind in KINDS)
    wrong = con.execute(f"select distinct kind from arrived where kind is null or kind not in ({names})").fetchall()
    if wrong:
        raise FatalError(
            f"evidence of unknown kind {', '.join(f'`{row[0]}`' for row in wrong)}; expected one of {', '.join(KINDS)}",
            hint="mend the model int_identity__evidence",
        )


def _new_rows(con: duckdb.DuckDBPyConnection) -> int:
    """Store the rows of `arrived`; leaves temp tables `new_rows` and `element(row_id, value_hash)`."""
    con.execute("create or replace temp table new_rows as select row_id from arrived")
    con.execute("""
        insert into identity.evidence
        select row_id, evidence_id, source, source_key, kind, event_at,
            greatest(event_at, least(coalesce(last_time, event_at), latest)),
            cast(timezone(coalesce(getvariable('timezone')::text, 'UTC'), event_at) as date),
            recorded_at, coalesce(confidence, 1), coalesce(observations, 1), coalesce(event_time > latest, false)
        from (
            select *, recorded_at + interval 1 day as latest,
                least(coalesce(event_time, recorded_at), recorded_at + interval 1 day) as event_at
            from arrived
        )
    """)
    con.execute(f"""
        create or replace temp table element as
        select row_id, {ELEMENT_HASH} as value_hash
        from (select row_id, unnest(identifiers) as item from arrived) where item.value is not null
    """)
    return _count(con, "new_rows")


def _new_texts(con: duckdb.DuckDBPyConnection) -> None:
    """Raw values of `arrived` that were never seen before, once each, into temp table `fresh`."""
    con.execute(f"""
        create or replace temp table fresh as
        select value_hash, type, scope, value, row_number() over () as place from (
            select distinct value_hash, type, scope, value from (
                select {ELEMENT_HASH} as value_hash, item.type as type, coalesce(item.scope, '') as scope,
                    item.value as value
                from (select unnest(identifiers) as item from arrived) where item.value is not null
            )
            anti join identity.identifier_value using (value_hash)
            anti join identity.rejects using (value_hash)
        )
    """)
    _no_collision(con.execute("select count(*) - count(distinct value_hash) from fresh").fetchall()[0][0])


def _read_values(
    con: duckdb.DuckDBPyConnection, rules: IdentityRules, *, run: int, as_of: datetime, bars_changed: bool
) -> tuple[int, int]:
    """Temp table `fresh(value_hash, type, scope, value)` into dictionary and rejects."""
    rejected = _normalised(con, rules, run=run, as_of=as_of)
    before = con.execute("select coalesce(max(node_id), 0), count(*) from identity.node").fetchall()[0]
    con.execute(f"""
        insert into identity.node
        select {before[0]} + row_number() over (), type, scope, value_norm, 1, null, barred, null, node_hash from (
            -- grouped by the texts, not `min` of them: what an aggregate keeps of texts can never go to disk
            select node_hash, out_type as type, out_scope as scope, value_norm, max(barred) as barred
            from reading anti join (select node_hash from identity.node where epoch = 1) using (node_hash)
            group by node_hash, out_type, out_scope, value_norm
        )
    """)
    meaning = """reading inner join identity.node as node
        on node.epoch = 1 and reading.node_hash = node.node_hash"""
    con.execute(f"""insert into identity.identifier_value
        select reading.value_hash, reading.type, reading.scope, reading.value,
            -- null where two identifiers share a hash
            case when reading.out_type = node.type and reading.out_scope = node.scope
                and reading.value_norm = node.value_norm then coalesce(node.alias_of, node.node_id) end
        from {meaning}""")
    _no_collision(_count(con, "identity.identifier_value where node_id is null"))
    if bars_changed:
        con.execute(f"""update identity.node as node set barred = read.barred
            from (select node.node_id, max(reading.barred) as barred from {meaning} group by node.node_id) as read
            where node.node_id = read.node_id and node.barred is distinct from read.barred""")
    con.execute("drop table reading")
    return _count(con, "identity.node") - int(before[1]), rejected


VALUES_AT_ONCE = 500_000  # texts in Python at one time: about 300 MB


def _normalised(con: duckdb.DuckDBPyConnection, rules: IdentityRules, *, run: int, as_of: datetime) -> int:
    """Read `fresh` part by part into temp table `reading`, the rest into rejects; returns how many were rejected."""
    con.execute("""create or replace temp table reading (value_hash ubigint, type text, scope text, value text,
        out_type text, out_scope text, value_norm text, barred text, node_hash ubigint)""")
    rejected = 0
    for begin in range(0, _count(con, "fresh"), VALUES_AT_ONCE):
        part = f"from fresh where place > {begin} and place <= {begin + VALUES_AT_ONCE}"
        frame = pl.DataFrame(con.sql(part).to_arrow_table())
        read = normalise(frame, rules, today=as_of.date())
        good, bad = read.filter(pl.col("reason").is_null()), read.filter(pl.col("reason").is_not_null())
        with handed_over(con, "values_read", len(good), good.__getitem__):
            con.execute(f"""insert into reading
                select value_hash, type, scope, value, out_type, out_scope, value_norm, barred,
                    {sixty_four_bits("out_type", "out_scope", "value_norm")}
                from values_read""")
        with handed_over(con, "values_read", len(bad), bad.__getitem__):
            con.execute(f"""insert into identity.rejects
                select value_hash, type, scope, value, reason, {run} from values_read""")
        rejected += len(bad)
    con.execute("drop table fresh")
    return rejected


def _no_collision(count: int) -> None:
    """Raise `FatalError` when different values share a 64-bit hash (chance 3 in a million at ten million values)."""
    if count:
        raise FatalError(
            f"{count} identifier values share a 64-bit hash", hint="report it with the run id; nothing was stored"
        )


def _bury(con: duckdb.DuckDBPyConnection, secret: bytes, as_of: datetime) -> None:
    """Take forgotten identifiers out of evidence as old as their tombstone; later evidence may start a new person."""
    if not _count(con, "identity.tombstone"):
        return
    con.execute(f"""
        create or replace temp table buried as
        select node.node_id, max(stone.forgotten_at) as forgotten_at
        from identity.node as node
        inner join identity.tombstone as stone on stone.value_mac = {hash_mac(secret, NODE_TEXT)}
        where node.node_id in (
            select node_id from identity.evidence_node where row_id in (select row_id from new_rows)
        ) and (stone.expires_at is null or stone.expires_at > ?)
        group by node.node_id
    """, [as_of])  # fmt: skip
    con.execute("""
        update identity.evidence as evidence set source_key = null where exists (
            select 1 from buried inner join identity.evidence_node as named on buried.node_id = named.node_id
            where named.row_id = evidence.row_id and evidence.last_time <= buried.forgotten_at
        )
    """)
    con.execute("""
        delete from identity.evidence_node where exists (
            select 1 from buried inner join identity.evidence as evidence on evidence.row_id = evidence_node.row_id
            where buried.node_id = evidence_node.node_id and evidence.last_time <= buried.forgotten_at
        )
    """)
    con.execute("delete from buried where node_id in (select node_id from identity.evidence_node)")
    for table in ("identifier_value", "node"):
        con.execute(f"delete from identity.{table} where node_id in (select node_id from buried)")


def link_digests(con: duckdb.DuckDBPyConnection, rules: IdentityRules, *, known: int) -> None:
    """A digest whose plain value is known becomes that value: one identifier, however a source wrote it.

    Identifiers up to number *known* were compared with each other before.
    """
    held = dict(con.execute("""select type, max(node_id) > ? from identity.node
        where alias_of is null and epoch = 1 group by type""", [known]).fetchall())  # fmt: skip
    for name, item in sorted(rules.types.items()):
        if item.hash_of is None or name not in held or item.hash_of.type not in held:
            continue
        if not held[name] and not held[item.hash_of.type]:
            continue
        since = -1 if held[name] else known  # with no new digest, only new plain values can be unveiled
        con.execute("create or replace temp table digest (digest text, node_id bigint)")
        for salt in item.hash_of.salts:
            _digest(con, item.hash_of, salt, since)
        con.execute("""create or replace temp table unveiled as
            select node.node_id, min(digest.node_id) as plain_id from identity.node as node
            inner join digest on node.value_norm = digest.digest
            where node.type = ? and node.alias_of is null group by node.node_id""", [name])  # fmt: skip
        con.execute("insert into identity.touched select node_id from unveiled union select plain_id from unveiled")
        con.execute(
            "update identity.node as node set alias_of = plain_id from unveiled where node.node_id = unveiled.node_id"
        )
        for table in ("identifier_value", "evidence_node"):
            con.execute(
                f"""update identity.{table} as item set node_id = plain_id from unveiled
                where item.node_id = unveiled.node_id"""
            )


def _digest(con: duckdb.DuckDBPyConnection, rule: HashOf, salt: str, since: int) -> None:
    """Digests of the rule's plain values numbered above *since*, salted, into temp table `digest`."""
    before, _, after = salt.partition("{value}")
    plain = f"from identity.node where type = ? and epoch = 1 and alias_of is null and node_id > {since}"
    if rule.form != "sm3":
        con.execute(
            f"insert into digest select {rule.form}(? || value_norm || ?), node_id {plain}", [before, after, rule.type]
        )
        return
    frame = con.execute(f"select node_id, value_norm {plain}", [rule.type]).fetchall()
    found = pl.DataFrame(
        {"digest": [sm3(f"{before}{value}{after}") for _, value in frame], "node_id": [node for node, _ in frame]},
        schema={"digest": pl.String, "node_id": pl.Int64},
    )
    con.register("sm3_digests", found.to_arrow())
    con.execute("insert into digest from sm3_digests")
    con.unregister("sm3_digests")
