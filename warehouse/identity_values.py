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


def _of_numbers(*numbers: str) -> str:
    """SQL for 64 bits of *numbers*, one after the other. Of single numbers DuckDB's `hash` is one-to-one and well
    mixed, and far cheaper than writing them out as text."""
    found = f"hash({numbers[0]})"
    for number in numbers[1:]:
        found = f"hash(xor({found}, hash({number})))"
    return found


# The identifiers of a row as text: most rows have two, and writing a whole list as text takes twice as long.
_IDENTIFIERS = (
    *(
        part.format(f"identifiers[{place}]")
        for place in (1, 2)
        for part in ("{}.type", "coalesce({}.scope, '')", "coalesce({}.value, chr(30))")
    ),
    "case when len(identifiers) > 2 then identifiers[3:]::text end",
)


def _row_hash(con: duckdb.DuckDBPyConnection) -> str:
    """SQL for one number of the whole row as it came: what tells new from known evidence.

    The model's own digest of the identifiers stands for them where it has one: it was made once, when the row was.
    """
    found = con.execute(
        """select count(*) from duckdb_columns() where database_name = current_database()
        and schema_name = ? and table_name = ? and column_name = 'identifier_set'""",
        SOURCE.split("."),
    )
    kept = bool(found.fetchall()[0][0])
    text = sixty_four_bits("source", "source_key", "kind", *(() if kept else _IDENTIFIERS))
    times = (f"epoch_us({name})" for name in ("event_time", "last_time", "recorded_at"))
    return f"xor({text}, {_of_numbers(*times, 'confidence', 'observations', *(('identifier_set',) if kept else ()))})"


ELEMENT_HASH = sixty_four_bits("item.type", "coalesce(item.scope, '')", "item.value")
NODE_HASH = sixty_four_bits("type", "scope", "value_norm")
EPOCH_HASH = sixty_four_bits("base.node_hash::text", "{epoch}::text")
# Differs when stored hashes are of another recipe, or of a DuckDB that hashes otherwise: then all is read anew.
RECIPE = "xor(hash('siyu-cdp 3'), hash(20261122))"


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
    _check_kinds(con)
    in_place = _is_table(con) and not _count(con, "identity.evidence")
    gone = _all_new(con) if in_place else _compared(con)
    new = _new_rows(con)
    _new_texts(con)
    con.execute(f"drop {'view' if in_place else 'table'} arrived")
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
    con.execute(f"""create or replace temp view arrived as
        select {_next_row(con)} + rowid as row_id, {_row_hash(con)} as evidence_id, * from {SOURCE}""")
    return 0


def _compared(con: duckdb.DuckDBPyConnection) -> int:
    """Rows that are not stored yet arrive, rows that are stored and no longer there go; returns how many went."""
    row_hash = _row_hash(con)
    place = "rowid" if _is_table(con) else "0"
    con.execute(
        f"create or replace temp table given as select {row_hash} as evidence_id, {place} as place from {SOURCE}"
    )
    gone = _drop_gone(con)
    only = "rowid in (select place from fresh_ids)"
    if not _is_table(con):
        only = f"{row_hash} in (select evidence_id from fresh_ids)"
    con.execute(f"""create or replace temp table arrived as
        select {_next_row(con)} + row_number() over () - 1 as row_id, {row_hash} as evidence_id, * from {SOURCE}
        where {only}""")
    return gone


def _next_row(con: duckdb.DuckDBPyConnection) -> int:
    return int(con.execute("select coalesce(max(row_id), 0) + 1 from identity.evidence").fetchall()[0][0])


SUMS = "select count(*), coalesce(bit_xor(evidence_id), 0), coalesce(sum(evidence_id % 4294967291), 0) from"


def _drop_gone(con: duckdb.DuckDBPyConnection) -> int:
    """Delete evidence that the model no longer has; leaves temp tables `fresh_ids(evidence_id, place)`, `gone_nodes`.

    Rows that came before and come again are counted and summed up two ways; only when the sums differ from those of
    what is stored is there anything to look for.
    """
    con.execute("create or replace temp table gone_nodes (node_id bigint)")
    con.execute("create or replace temp table fresh_ids (evidence_id ubigint, place bigint)")
    given, held = (con.execute(f"{SUMS} {name}").fetchall()[0] for name in ("given", "identity.evidence"))
    if given == held:
        return 0
    con.execute("insert into fresh_ids select given.* from given anti join identity.evidence using (evidence_id)")
    fresh = con.execute(f"{SUMS} fresh_ids").fetchall()[0]
    if (given[0] - fresh[0], given[1] ^ fresh[1], given[2] - fresh[2]) == held:
        return 0
    con.execute("""create or replace temp table gone_rows as
        select evidence.row_id from identity.evidence as evidence anti join given using (evidence_id)""")
    con.execute("""insert into gone_nodes
        select distinct node_id from identity.evidence_node where row_id in (select row_id from gone_rows)""")
    for table in ("evidence", "evidence_node"):
        con.execute(f"delete from identity.{table} where row_id in (select row_id from gone_rows)")
    return _count(con, "gone_rows")


# What an identifier is to HMACs: tombstones and one_ids.
NODE_TEXT = "concat_ws(chr(31), node.type, node.scope, node.value_norm)"
SOURCE = "identity.int_identity__evidence"


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
    wrong = con.execute(f"select distinct kind from {SOURCE} where kind is null or kind not in ({names})").fetchall()
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
