"""A small raw layer and a stand-in for identity resolution, so that models run on rows a test states by hand."""

from __future__ import annotations

import zlib
from datetime import UTC, datetime
from typing import Any

import duckdb

from cdp.streams import Column, Stream
from connectors import canonical
from connectors.wecom import streams as wecom

LOADED = datetime(2026, 3, 1, tzinfo=UTC)
TYPES = {
    "text": "varchar",
    "int": "bigint",
    "float": "double",
    "decimal": "decimal(18, 2)",
    "bool": "boolean",
    "timestamp": "timestamptz",
    "date": "date",
    "json": "varchar",
    "text_list": "varchar[]",
    "identifiers": "struct(type varchar, scope varchar, value varchar)[]",
}
METADATA = {
    "_extra": "varchar",
    "_source": "varchar",
    "_batch_id": "varchar",
    "_batch_seq": "bigint",
    "_loaded_at": "timestamptz",
    "_version_at": "timestamptz",
    "_source_file": "varchar",
    "_row_number": "bigint",
    "_row_hash": "ubigint",
    "_key_hash": "ubigint",
    "_deleted": "boolean",
}


def _stream(family: str, name: str, text: str) -> Stream:
    columns = tuple(Column(*part.split(":")) for part in text.split())  # type: ignore[arg-type]
    return Stream(family, name, ("id",), columns)


STREAMS = (
    *canonical.STREAMS,
    *wecom.STREAMS,
    _stream(
        "official_account",
        "followers",
        "openid appid unionid subscribe:bool subscribed_at:timestamp subscribe_scene qr_scene_str remark "
        "tag_ids:text_list language",
    ),
    _stream(
        "sensors",
        "records",
        "record_key type event time:int distinct_id original_id login_id anonymous_id identities:json properties:json "
        "lib:json project recv_time:int",
    ),
    _stream(
        "thinkingdata",
        "records",
        "record_key type event_name event_id time account_id distinct_id first_check_id ip properties:json app_id",
    ),
    _stream(
        "segment",
        "messages",
        "message_id type event name anonymous_id user_id previous_id group_id timestamp original_timestamp sent_at "
        "received_at properties:json traits:json context:json integrations:json",
    ),
)


def make_raw(con: duckdb.DuckDBPyConnection) -> None:
    """Every raw table, empty, with the declared columns; the settings tables; identity's tables, empty."""
    for stream in STREAMS:
        columns = {column.name: TYPES[column.type] for column in stream.columns} | METADATA
        body = ", ".join(f'"{name}" {kind}' for name, kind in columns.items())
        con.execute(f"create or replace table raw.{stream.family}__{stream.name} ({body})")
    con.execute(
        "create or replace table raw._source_settings "
        "(source varchar, connector varchar, family varchar, key varchar, value varchar)"
    )
    con.execute(
        "create or replace table raw._batches (batch_seq bigint, batch_id varchar, source varchar, stream varchar,"
        " family varchar, file varchar, received bigint, landed bigint, duplicates bigint, rejected bigint,"
        " deleted bigint, loaded_at timestamptz, erased_at timestamptz)"
    )
    con.execute(
        "create or replace table raw.sync__tags "
        "(tag_id varchar, key varchar, name varchar, group_name varchar, state varchar)"
    )
    con.execute(
        "create or replace table raw.sync__tag_events (corpid varchar, userid varchar, external_userid varchar,"
        " tag_id varchar, change varchar, actor varchar, plan_id varchar, after_at timestamptz, seen_at timestamptz)"
    )
    con.execute(
        "create or replace table raw._identity_fields (source varchar, field varchar, type varchar, scope varchar)"
    )


def land(con: duckdb.DuckDBPyConnection, table: str, rows: list[dict[str, Any]], *, source: str = "shop") -> None:
    """Append *rows* to `raw.<table>` as one batch, with metadata filled in where a row gives none."""
    sequence = con.execute(f"select coalesce(max(_batch_seq), 0) + 1 from raw.{table}").fetchall()[0][0]
    for number, row in enumerate(rows, start=1):
        full = {
            "_source": source,
            "_batch_seq": sequence,
            "_loaded_at": LOADED,
            "_row_number": number,
            "_row_hash": zlib.crc32(repr(sorted(row.items())).encode()) + (sequence << 32) + (number << 40),
            "_deleted": False,
        } | row
        names = ", ".join(f'"{name}"' for name in full)
        marks = ", ".join("?" for _ in full)
        con.execute(f"insert into raw.{table} ({names}) values ({marks})", list(full.values()))


def setting(con: duckdb.DuckDBPyConnection, source: str, **values: str) -> None:
    """Settings of one source, as landing registers them."""
    for key, value in values.items():
        con.execute("insert into raw._source_settings values (?, 'test', 'test', ?, ?)", [source, key, value])


def empty_identity(con: duckdb.DuckDBPyConnection) -> None:
    """Identity's tables as they are when nobody has been resolved."""
    con.execute(
        "create or replace table identity.resolved (type varchar, scope varchar, value varchar, one_id varchar, "
        "kind varchar, valid_from timestamptz, valid_to timestamptz)"
    )
    con.execute(
        "create or replace table identity.people (one_id varchar, kind varchar, first_seen timestamptz, "
        "last_seen timestamptz, identifier_count bigint, anonymous boolean)"
    )


def resolve_by_components(con: duckdb.DuckDBPyConnection) -> None:
    """Identity for tests: everything connected by evidence is one person, no rule applied, ids by smallest member.

    Writes `identity.resolved`, `people`, `alias` and `identifier_value` in the shape of the real ones.
    """
    rows = con.execute("select kind, identifiers from identity.int_identity__evidence").fetchall()
    parent: dict[tuple[str, str, str], tuple[str, str, str]] = {}

    def root(item: tuple[str, str, str]) -> tuple[str, str, str]:
        parent.setdefault(item, item)
        while parent[item] != item:
            item = parent[item]
        return item

    for _, identifiers in rows:
        members = [(item["type"], item["scope"], item["value"]) for item in identifiers]
        for member in members:
            first, second = sorted((root(members[0]), root(member)))
            parent[second] = first
    resolved = sorted((*item, "one:" + "|".join(root(item))) for item in parent)
    empty_identity(con)
    if resolved:
        con.executemany("insert into identity.resolved values (?, ?, ?, ?, 'person', null, null)", resolved)
    con.execute(
        "create or replace table identity.people as select one_id, 'person' as kind, "
        "timestamptz '2026-01-01' as first_seen, timestamptz '2026-02-01' as last_seen, count(*) as identifier_count, "
        "bool_and(type in ('anonymous_id', 'device_id')) as anonymous from identity.resolved group by one_id"
    )
