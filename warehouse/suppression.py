"""Keeping the forgotten out: rows that come again are known by keyed digests and do not land.

Only digests are stored, so landing digests what arrives: every word of every text that could be an identifier, and
short ids where their fields stand. A row that tells of an act after its person was forgotten is news and lands.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import polars as pl

from cdp.privacy.traces import (
    FIELDS,
    GONE,
    OWNERS,
    PARTS_OF_ORDERS,
    Traces,
    canonical,
    happened_at,
    is_distinctive,
)
from cdp.streams import Reject, Stream
from warehouse.erasure_files import Hits, fetch, put_in_place, quoted, rewrite_parquet, text
from warehouse.home import Home
from warehouse.identity_values import hash_mac
from warehouse.privacy_ledger import PrivacyLedger, mac_of
from warehouse.secrets import identity_secret

_WORD = "[0-9A-Za-z][0-9A-Za-z_@.+-]{7,127}"
_MOBILE = "1[3-9][0-9][ -]?[0-9]{4}[ -]?[0-9]{4}"
_WIDE, _NARROW = "０１２３４５６７８９", "0123456789"
_TYPES = tuple(kind for kind in OWNERS if kind not in FIELDS or FIELDS[kind])
_CELL = 128  # a longer cell is no identifier as a whole


@dataclass(frozen=True)
class Found:
    """One value of the list in one row. *token*: as it stands there."""

    place: int
    kind: str
    token: str
    forgotten_at: datetime


class Barrier:
    """The list of the forgotten, as one landing of *stream* of *source* asks for it."""

    def __init__(self, home: Home, source: str, stream: Stream, now: datetime) -> None:
        ledger = PrivacyLedger(home)
        self.source, self.stream = source, stream
        self.relation = f"{stream.family}__{stream.name}"
        self.texts, self.short = (ledger.digests(kind, now=now) for kind in ("text", "short"))
        self.secret = identity_secret(home) if self.texts or self.short else b""

    def __bool__(self) -> bool:
        return bool(self.texts or self.short)

    def sift(self, con: duckdb.DuckDBPyConnection, frame: pl.DataFrame) -> tuple[pl.DataFrame, int]:
        """*frame* (with its place `_ord`) without rows of the forgotten, and how many those were; a row that only
        mentions one loses the mention."""
        if not self or not frame.height:
            return frame, 0
        con.register("arriving", frame.to_arrow())
        try:
            hits = self.hits(con, "arriving", "_ord")
        finally:
            con.unregister("arriving")
        if not hits.count:
            return frame, 0
        kept = frame.filter(~pl.col("_ord").is_in(pl.Series(sorted(hits.whole), dtype=pl.Int64).implode()))
        if hits.cells:
            rows = [{**row, **hits.cells.get(row["_ord"], {})} for row in _named(kept, hits.cells)]
            changed = pl.DataFrame(rows, schema=frame.schema)
            others = kept.filter(~pl.col("_ord").is_in(changed["_ord"].implode()))
            kept = pl.concat([others, changed]).sort("_ord")
        return kept, len(hits.whole)

    def sift_file(self, con: duckdb.DuckDBPyConnection, path: Path) -> int:
        """The same for a Parquet file, in place; returns how many rows went."""
        if not self:
            return 0
        hits = self.hits(con, f"read_parquet({text(str(path))}, file_row_number = true)", "file_row_number")
        if hits.count:
            put_in_place(rewrite_parquet(con, path, hits), path)
        return len(hits.whole)

    def hits(self, con: duckdb.DuckDBPyConnection, relation: str, place: str) -> Hits:
        """What a relation holds of the forgotten, judged row by row. *place*: the column that numbers its rows."""
        found = self._found(con, relation, place)
        if not found:
            return Hits()
        by_place: dict[int, list[Found]] = {}
        for item in found:
            by_place.setdefault(item.place, []).append(item)
        listed = ", ".join(map(str, sorted(by_place)))
        whole: set[int] = set()
        cells: dict[int, dict[str, object]] = {}
        rows = fetch(con, f"select * from {relation} where {place} in ({listed})")
        for row in rows:
            number = int(row[place])
            items = by_place[number]
            happened = happened_at(row, self.relation)
            if happened is not None and happened > max(item.forgotten_at for item in items):
                continue
            traces = Traces(frozenset((item.kind, item.token) for item in items))
            if traces.judge(row, relation=self.relation, key=self.stream.key) == "whole":
                whole.add(number)
            elif changed := traces.emptied(row, relation=self.relation):
                cells[number] = changed
        return Hits(len(rows), frozenset(whole), cells)

    def reject(self, reject: Reject) -> Reject:
        """A rejected row of somebody forgotten keeps its place and reason, and nothing of what it said."""
        if not self:
            return reject
        words = _words(f"{reject.raw} {reject.value or ''}")
        if not any(mac_of(self.secret, canonical(word)) in self.texts for word in words):
            return reject
        return replace(reject, raw=GONE, value=None, reason="a row of somebody who was forgotten")

    def _found(self, con: duckdb.DuckDBPyConnection, relation: str, place: str) -> list[Found]:
        columns = [
            (row[0], row[1])
            for row in con.execute(f"describe select * from {relation}").fetchall()
            if "VARCHAR" in row[1] and (row[0] == "_extra" or not row[0].startswith("_"))
        ]
        parts = [f"select {place} as place, '' as kind, unnest({_words_sql(quoted(name), kind)}) as token"
                 f" from {relation} where {quoted(name)} is not null" for name, kind in columns]  # fmt: skip
        if self.short:
            parts += self._short_parts([name for name, _ in columns], relation, place)
        if not parts:
            return []
        con.register("barred", self._list().to_arrow())
        try:
            con.execute(f"create or replace temp table arrived_words as {' union all '.join(parts)}")
            rows = con.execute(f"""
                with words as (select distinct kind, token from arrived_words where token is not null),
                known as (
                    select words.kind, words.token, barred.forgotten_at
                    from words inner join barred
                        on barred.mac = {hash_mac(self.secret, _CANONICAL)}
                )
                select place, known.kind, known.token, known.forgotten_at
                from arrived_words inner join known using (kind, token)
            """).fetchall()
            con.execute("drop table arrived_words")
        finally:
            con.unregister("barred")
        return [
            Found(place, kind.partition("\x1f")[0], token.rpartition("\x1f")[2], datetime.fromisoformat(at))
            for place, kind, token, at in rows
        ]

    def _short_parts(self, columns: Sequence[str], relation: str, place: str) -> list[str]:
        parts = []
        for name in columns:
            kinds = FIELDS.get(name, () if name == "identifiers" else None)
            if name == "member_id" and self.relation.endswith("group_members"):
                kinds = ("external_userid",)
            if name == "identifiers":
                parts.append(
                    f"select {place} as place, item.type as kind, item.type || chr(31) || trim(item.value) as token"
                    f" from (select {place}, unnest(identifiers) as item from {relation})"
                )
            elif kinds is not None:
                parts += [
                    f"select {place} as place, {text(kind)} as kind,"
                    f" {text(kind)} || chr(31) || trim({quoted(name)}) as token"
                    f" from {relation} where {quoted(name)} is not null"
                    for kind in kinds or _TYPES
                ]
        if self.relation.endswith((*PARTS_OF_ORDERS, "orders")) and "order_id" in columns:
            prefix = text(f"order\x1f{self.source}\x1f")
            parts.append(f"select {place} as place, 'order' as kind, {prefix} || order_id as token from {relation}")
        return parts

    def _list(self) -> pl.DataFrame:
        both = {**self.texts, **self.short}
        return pl.DataFrame(
            {"mac": list(both), "forgotten_at": [at.isoformat() for at in both.values()]},
            schema={"mac": pl.String, "forgotten_at": pl.String},
        )


# `cdp.privacy.traces.canonical` in SQL.
_CANONICAL = r"""case
    when contains(token, chr(31)) then token
    when contains(token, '@') or regexp_full_match(token, '[0-9a-fA-F]{32}|[0-9a-fA-F]{64}') then lower(trim(token))
    when regexp_full_match(regexp_replace(token, '[ +-]', '', 'g'), '(?:(?:00)?86)?1[3-9]\d{9}')
        then right(regexp_replace(token, '[ +-]', '', 'g'), 11)
    else trim(token) end"""


def _words_sql(column: str, kind: str) -> str:
    """A list of the words of a cell that could be identifiers: the whole of a short one, words, mobiles however
    spelt."""
    cell = column if kind == "VARCHAR" else f"cast({column} as varchar)"
    narrow = f"translate({cell}, '{_WIDE}', '{_NARROW}')"
    mobiles = f"list_transform(regexp_extract_all({narrow}, '{_MOBILE}'), lambda m: regexp_replace(m, '[ -]', '', 'g'))"
    whole = f"case when len({cell}) <= {_CELL} then [trim({cell})] else [] end"
    return f"list_distinct(list_concat({whole}, regexp_extract_all({cell}, '{_WORD}'), {mobiles}))"


def _words(line: str) -> set[str]:
    """The same of one text in Python."""
    import re

    found = set(re.findall(_WORD, line))
    narrow = line.translate(str.maketrans(_WIDE, _NARROW))
    found |= {re.sub("[ -]", "", mobile) for mobile in re.findall(_MOBILE, narrow)}
    return {word for word in found if is_distinctive(word)}


def _named(frame: pl.DataFrame, places: Iterable[int]) -> list[dict[str, Any]]:
    wanted = pl.Series(sorted(places), dtype=pl.Int64)
    return frame.filter(pl.col("_ord").is_in(wanted.implode())).to_dicts()
