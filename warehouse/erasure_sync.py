"""Taking people out of the sync: its ledger and its plans. Their tags in WeCom are taken off by the next plan.

Until then a *farewell* keeps the pair (employee, customer), the customer enciphered under the home's key, and which of
our tags it has; it goes when WeCom has answered. A plan that named a forgotten person loses those rows and can no
longer be applied.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import polars as pl
from cryptography.fernet import Fernet

from cdp.privacy.traces import Traces, canonical
from cdp.sync.changes import FORGOTTEN
from warehouse.erasure_files import compact_sqlite, put_in_place, sync, text, write_over
from warehouse.home import Home
from warehouse.privacy_ledger import PrivacyLedger, mac_of
from warehouse.publish import current
from warehouse.reader import open_version
from warehouse.secrets import identity_secret
from warehouse.sync_ledger import SyncLedger

ERASED = "erased"
_BY_CUSTOMER = ("ops", "reads", "hints", "frozen", "drift")
_BY_PERSON = ("ops", "held_control", "pending", "pending_keys")
FRAMES = ("plan.parquet", "control.parquet", "pending.parquet")


@dataclass
class SyncErasure:
    """Rows by place, and how many relations wait for their tags to be taken off."""

    places: dict[str, int] = field(default_factory=dict)
    farewells: int = 0


def erase_in_sync(home: Home, traces: Traces, *, apply: bool, now: datetime) -> SyncErasure:
    """Rows of these people in ledger and plans; with *apply* they go, and what is still in WeCom becomes a farewell."""
    if not home.sync_ledger.exists():
        return SyncErasure()
    done = SyncErasure()
    customers = sorted({value for kind, value in traces.identifiers if kind in ("external_userid", "")})
    people = sorted(traces.one_ids)
    SyncLedger(home.sync_ledger).close()  # makes the tables of today
    with closing(sqlite3.connect(home.sync_ledger, timeout=30, isolation_level=None)) as con:
        con.execute("pragma secure_delete = on")
        con.execute("begin immediate" if apply else "begin")
        if people:
            leaving = _tagged(home, con, customers)
            done.farewells = len(leaving)
            if apply:
                seal = _Seal(identity_secret(home))
                con.executemany(
                    "insert or ignore into farewells values (?, ?, ?, ?, ?)",
                    [
                        (seal.digest(customer), userid, seal.close(customer), json.dumps(tags), now.isoformat())
                        for (userid, customer), tags in sorted(leaving.items())
                    ],
                )
                con.executemany(
                    "insert or ignore into tombstones values (?, ?, 'forgotten')",
                    [(one_id, now.isoformat()) for one_id in people],
                )
        for table, where, values in _theirs(customers, people):
            count = sum(
                int(con.execute(f"select count(*) from {table} where {where}", row).fetchone()[0]) for row in values
            )
            if count:
                done.places[f"data/sync.sqlite {table}"] = done.places.get(f"data/sync.sqlite {table}", 0) + count
                if apply:
                    con.executemany(f"delete from {table} where {where}", values)
        for folder in sorted(path for path in home.plans.glob("*") if path.is_dir()):
            count = _erase_plan(folder, traces, apply=apply)
            if count:
                done.places[f"data/plans/{folder.name}"] = count
                if apply:
                    _close_plan(con, folder.name, traces)
        con.execute("commit")
    with SyncLedger(home.sync_ledger) as ledger:
        words = replace(traces, one_ids=frozenset())  # tombstones keep those
        gone = () if apply else (*_BY_CUSTOMER, *_BY_PERSON, "plans")  # rows that are counted above
        if cells := ledger.redact(words.without, apply=apply, but=gone):
            done.places["data/sync.sqlite texts"] = cells
            if apply:
                ledger.audit("erasure", "redacted", now=now, cells=cells)
    if apply and done.places:
        with closing(sqlite3.connect(home.sync_ledger, timeout=30, isolation_level=None)) as con:
            compact_sqlite(con)
    return done


def _tagged(home: Home, con: sqlite3.Connection, customers: Iterable[str]) -> dict[tuple[str, str], list[str]]:
    """Relations of these customers with tags of ours on them, as last read by us or in the built marts."""
    ours = {row[0] for row in con.execute("select tag_id from register where state <> 'retired'")}
    found: dict[tuple[str, str], list[str]] = {}
    wanted = list(customers)
    if home.marts.exists():
        with duckdb.connect(":memory:") as marts:
            marts.execute(f"attach {text(str(home.marts))} as built (read_only)")
            there = marts.execute(
                "select 1 from duckdb_tables() where database_name = 'built' and table_name = 'fct_relations'"
            ).fetchall()
            rows = []
            if there:
                rows = marts.execute(
                    "select userid, external_userid, tag_ids from built.marts.fct_relations"
                    " where is_active and external_userid in (select unnest(?::text[]))",
                    [wanted],
                ).fetchall()
            found = {(userid, customer): list(tags or ()) for userid, customer, tags in rows}
    for customer in wanted:
        for row in con.execute("select userid, tag_ids from reads where external_userid = ?", (customer,)):
            found[row[0], customer] = json.loads(row[1])
    return {pair: kept for pair, tags in found.items() if (kept := sorted(ours & set(tags)))}


def _theirs(customers: Sequence[str], people: Sequence[str]) -> Iterator[tuple[str, str, list[tuple[str, ...]]]]:
    """(table, condition, its values) of every row of theirs, once: an op names both a customer and a person."""
    for table in _BY_CUSTOMER:
        yield table, "external_userid = ?", [(value,) for value in customers]
    for table in _BY_PERSON:
        others = f" and external_userid not in ({', '.join('?' for _ in customers)})" if table == "ops" else ""
        yield table, f"one_id = ?{others}", [(value, *(customers if others else ())) for value in people]


def _erase_plan(folder: Path, traces: Traces, *, apply: bool) -> int:
    """Rows of these people in a plan's files; its texts lose their identifiers too."""
    gone = 0
    for name in FRAMES:
        path = folder / name
        if not path.is_file():
            continue
        frame = pl.read_parquet(path)
        tests = [pl.lit(False)]
        if "one_id" in frame.columns:
            tests.append(pl.col("one_id").is_in(sorted(traces.one_ids)))
        if "external_userid" in frame.columns:
            values = [value for _, value in traces.identifiers]
            tests.append(pl.col("external_userid").is_in(sorted(values)))
        ours = frame.filter(pl.any_horizontal(tests)).height
        gone += ours
        if ours and apply:
            temporary = path.with_name(f".{name}.tmp")
            frame.filter(~pl.any_horizontal(tests)).write_parquet(temporary, compression="zstd", statistics=False)
            sync(temporary)
            put_in_place(temporary, path)
    for path in (folder / "plan.json", folder / "plan.html"):
        if path.is_file() and (page := path.read_text(encoding="utf-8")) and traces.in_text(page):
            gone += 1
            if apply:
                write_over(path, traces.without(page).encode())
    return gone


def _close_plan(con: sqlite3.Connection, plan_id: str, traces: Traces) -> None:
    """A plan without some of its rows is no longer the plan that was approved."""
    row = con.execute("select summary from plans where plan_id = ?", (plan_id,)).fetchone()
    if row is not None:
        con.execute(
            "update plans set state = ?, summary = ? where plan_id = ?", (ERASED, traces.without(row[0]), plan_id)
        )


class _Seal:
    """Enciphers customers of farewells under a key made of the home's; the digest tells which is which."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        key = hmac.new(secret, b"farewell", hashlib.sha256).digest()
        self._box = Fernet(base64.urlsafe_b64encode(key))

    def digest(self, customer: str) -> str:
        return mac_of(self._secret, f"farewell\x1f{customer}")[:32]

    def close(self, customer: str) -> str:
        return self._box.encrypt(customer.encode()).decode("ascii")

    def open(self, sealed: str) -> str:
        return self._box.decrypt(sealed.encode("ascii")).decode()


def farewells(home: Home, ledger: SyncLedger) -> list[tuple[str, str, str, list[str]]]:
    """Relations to be freed of our tags: (userid, external_userid, a one_id that stands for nobody, tag ids)."""
    found = ledger.rows("select customer, userid, sealed, tag_ids from farewells order by customer, userid")
    if not found:
        return []
    seal = _Seal(identity_secret(home))
    return [
        (row["userid"], seal.open(row["sealed"]), f"{FORGOTTEN}{row['customer']}", json.loads(row["tag_ids"]))
        for row in found
    ]


def forgotten_customers(home: Home, *, now: datetime) -> Callable[[str], bool]:
    """A test whether a customer was forgotten and has not come back since (then the published relations have them):
    what WeCom still tells of such a customer is not kept."""
    macs = PrivacyLedger(home).digests("text", now=now)
    if not macs:
        return lambda _: False
    secret, back = identity_secret(home), _published_customers(home)
    return lambda customer: customer not in back and mac_of(secret, canonical(customer)) in macs


def _published_customers(home: Home) -> frozenset[str]:
    if not (home.published / "current.json").exists():
        return frozenset()
    with open_version(current(home)) as con:
        return frozenset(row[0] for row in con.execute("select external_userid from marts.fct_relations").fetchall())


def close_farewells(home: Home) -> int:
    """Farewells that WeCom has answered (the tags are off, or the relation is gone) go, with every trace in ops and
    plans; returns how many. Called after an apply and after its verification."""
    with closing(sqlite3.connect(home.sync_ledger, timeout=30, isolation_level=None)) as con:
        answered = con.execute(
            "select farewells.customer, farewells.userid, farewells.sealed from farewells where exists ("
            " select 1 from ops where ops.userid = farewells.userid"
            f" and ops.one_id = '{FORGOTTEN}' || farewells.customer"
            " and ops.state in ('verified', 'gone', 'human_changed'))"
        ).fetchall()
        if not answered:
            return 0
        con.executemany("delete from farewells where customer = ? and userid = ?", [row[:2] for row in answered])
        waiting = {row[0] for row in con.execute("select customer from farewells")}
    seal = _Seal(identity_secret(home))
    left = {seal.open(sealed) for customer, _, sealed in answered if customer not in waiting}
    if left:
        gone = Traces(frozenset(("external_userid", customer) for customer in left))
        erase_in_sync(home, gone, apply=True, now=datetime.now(UTC))
    return len(answered)
