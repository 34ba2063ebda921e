"""Evidence for tests: a connection with an evidence table, filled by hand or by a generated brand with known truth."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import duckdb

from cdp.identity.rules import IdentityRules
from warehouse.identity_store import IdentityReport, resolve_identities

SECRET = b"a secret of tests, 32 bytes long"
T0 = datetime(2025, 1, 1, tzinfo=UTC)
AS_OF = datetime(2025, 6, 1, tzinfo=UTC)
Ids = Mapping[str, str | Sequence[str]]

EVIDENCE = """create table if not exists identity.int_identity__evidence (
    source text, source_key text, kind text, event_time timestamptz, last_time timestamptz, recorded_at timestamptz,
 confidence double, observations bigint, identifiers struct(type text, scope text, value text)[],
    made_at bigint {made_at}, evidence_id ubigint {evidence_id})"""
COLUMNS = "source, source_key, kind, event_time, last_time, recorded_at, confidence, observations, identifiers"
TIMES = ", ".join(f"coalesce(epoch_us({name}), -1)" for name in ("event_time", "last_time", "recorded_at"))
DIGEST = f"""md5_number_lower(concat_ws('|', source, source_key, kind, {TIMES}, confidence, observations,
    identifiers::text))"""


def day(number: float) -> datetime:
    """*number* days after the first of January 2025."""
    return T0 + timedelta(days=number)


@dataclass(frozen=True)
class Seen:
    """One row of evidence; ids as `{"phone": "138…", "openid@wx1": ["o1", "o2"]}`."""

    ids: Ids
    kind: str = "bind"
    at: datetime = T0
    until: datetime | None = None
    source: str = "crm"
    confidence: float = 1.0
    recorded: datetime | None = None


def seen(kind: str = "bind", at: float | datetime = 0, source: str = "crm", **ids: str | Sequence[str]) -> Seen:
    """Evidence in one line: `seen("login", 3, member_id="m1", openid_wx1="o1")` (`_scope` after openid and the
    like)."""
    named: dict[str, str | Sequence[str]] = {}
    for name, value in ids.items():
        scoped = name.startswith(("openid_", "external_userid_"))
        named["@".join(name.rsplit("_", 1)) if scoped else name] = value
    return Seen(named, kind, at if isinstance(at, datetime) else day(at), source=source)


def elements(ids: Ids) -> list[dict[str, str]]:
    found = []
    for name, values in ids.items():
        kind, _, scope = name.partition("@")
        listed = [values] if isinstance(values, str) or values is None else values
        found += [{"type": kind, "scope": scope, "value": value} for value in listed]
    return found


class Brand:
    """An in-memory warehouse that evidence is added to or taken from, and resolved."""

    def __init__(
        self,
        rules: IdentityRules | None = None,
        con: duckdb.DuckDBPyConnection | None = None,
        *,
        stale: bool = False,
    ) -> None:
        """*stale*: the evidence does not tell which of its rows are newer."""
        self.con = con or duckdb.connect()
        self.con.execute("set TimeZone = 'UTC'")
        self.con.execute("create schema if not exists identity")
        self.con.execute("create sequence if not exists identity.made")
        made_at = "default 0" if stale else "default nextval('identity.made')"
        self.con.execute(EVIDENCE.format(made_at=made_at, evidence_id=f"generated always as ({DIGEST})"))
        self.rules = rules or IdentityRules()
        self.keys = 0
        self.runs = 0

    def add(self, *rows: Seen) -> list[str]:
        """Add evidence; returns the source keys."""
        return self.add_to("identity.int_identity__evidence", *rows)

    def add_to(self, table: str, *rows: Seen) -> list[str]:
        """Add evidence to the table behind the model."""
        keys = []
        for row in rows:
            self.keys += 1
            key = f"k{self.keys}"
            self.con.execute(
                f"insert into {table} ({COLUMNS}) values (?, ?, ?, ?, ?, ?, ?, 1, ?)",
                [
                    row.source,
                    key,
                    row.kind,
                    row.at,
                    row.until or row.at,
                    row.recorded or max(row.at, T0),
                    row.confidence,
                    elements(row.ids),
                ],
            )
            keys.append(key)
        return keys

    def remove(self, keys: Iterable[str]) -> None:
        for key in keys:
            self.con.execute("delete from identity.int_identity__evidence where source_key = ?", [key])

    def run(self, *rows: Seen, as_of: datetime = AS_OF, rules: IdentityRules | None = None) -> IdentityReport:
        self.add(*rows)
        self.runs += 1
        return resolve_identities(self.con, rules or self.rules, run_id=f"run-{self.runs}", as_of=as_of, secret=SECRET)

    def id(self, kind: str, value: str, scope: str | None = None, at: datetime | None = None) -> str | None:
        """one_id of a raw value, at an instant if it was cut into epochs."""
        found = self.con.execute(
            """select one_id from identity.resolved where type = ? and value = ? and (? is null or scope = ?)
            and (? is null or (coalesce(valid_from <= ?, true) and coalesce(valid_to > ?, true)))""",
            [kind, value, scope, scope, at, at, at],
        ).fetchall()
        assert len({row[0] for row in found}) <= 1, f"{kind} {value} has several ids: {found}"
        return found[0][0] if found else None

    def partition(self) -> set[frozenset[tuple[str, str, str, int]]]:
        """Persons as sets of identifiers."""
        groups: dict[int, set[tuple[str, str, str, int]]] = {}
        for number, *node in self.con.execute("""
            select map.number, node.type, node.scope, node.value_norm, node.epoch from identity.identity_map as map
            inner join identity.node as node on map.node_id = node.node_id where map.run_to is null""").fetchall():
            groups.setdefault(number, set()).add(tuple(node))
        return {frozenset(group) for group in groups.values()}

    def mapping(self) -> dict[tuple[str, str, str, int], str]:
        """Identifier -> one_id."""
        return {
            (kind, scope, value, epoch): one
            for one, kind, scope, value, epoch in self.con.execute("""
                select map.one_id, node.type, node.scope, node.value_norm, node.epoch from identity.identity_map as map
                inner join identity.node as node on map.node_id = node.node_id where map.run_to is null""").fetchall()
        }

    def feed(self, run: int | None = None) -> list[tuple[str, str | None, str | None]]:
        """Person-level rows of the change feed."""
        return self.con.execute(
            """select op, one_id, other_id from identity.identity_change
            where (? is null or run = ?) and node_id is null order by run, seq""",
            [run, run],
        ).fetchall()
