"""What the home remembers of people who were forgotten: keyed digests, so that they stay out, and who asked for what.

`data/privacy.sqlite` (mode 600). No identifier stays in it: what an erasure under way still has to look for lies in
`work` and goes with its last step. The digests are copied to `data/forgotten.json` and beside every backup, so that an
older backup brings nobody back.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cdp.errors import FatalError
from cdp.privacy.traces import Traces
from warehouse.home import Home

LIST = "forgotten.json"
RESTORED = "restored"  # a mark: the list must be applied to what a restore brought back
RESTORED_TRACES = "restored traces"  # a mark: whom that work looks for, until it is done
_UNFINISHED = "unfinished "  # marks: why an erasure is not whole
_FORMAT = 1
_SCHEMA = """
create table if not exists digests (
    -- text: of a distinctive value; short: of a value with its type; node: of an identifier of the graph;
    -- person: a one_id as it is
    kind text not null,
    mac text not null,
    forgotten_at text not null,
    expires_at text,
    primary key (kind, mac)
);
create table if not exists requests (
    request_id text primary key, actor text not null, reason text not null, requested_at text not null,
    whole_person integer not null, expires_at text, state text not null, finished_at text, counts text
);
create table if not exists work (request_id text primary key, traces text not null);
create table if not exists marks (name text primary key, value text not null);
create table if not exists retention (
    at text not null, rule text not null, place text not null, cut text not null, rows integer not null
);
"""


@dataclass(frozen=True)
class Request:
    """One erasure. *counts*: what went, by place; None until it is finished."""

    request_id: str
    actor: str
    reason: str
    requested_at: datetime
    whole_person: bool
    expires_at: datetime | None
    state: str
    finished_at: datetime | None
    counts: Mapping[str, Any] | None


class PrivacyLedger:
    """The ledger of *home*; its file is made by the first write."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.path = home.root / "data" / "privacy.sqlite"

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        if not self.path.exists():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
        con = sqlite3.connect(self.path, timeout=60, isolation_level=None)
        try:
            con.execute("pragma synchronous = full")
            con.execute("pragma secure_delete = on")
            con.executescript(_SCHEMA)
            yield con
        finally:
            con.close()

    def _rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        if not self.path.exists():
            return []
        with self._open() as con:
            return con.execute(sql, parameters).fetchall()

    # -- erasures ------------------------------------------------------------------------------------------------------

    def begin(
        self,
        traces: Traces,
        nodes: Iterable[str],
        *,
        secret: bytes,
        actor: str,
        reason: str,
        now: datetime,
        whole_person: bool,
        expires_at: datetime | None,
    ) -> str:
        """Write down what is to be erased and bar it from coming in, in one transaction. *nodes*: digests of the
        identifiers in the graph. Returns the id of the request."""
        request_id = f"{now.astimezone(UTC):%Y%m%dT%H%M%S}-{os.urandom(3).hex()}"
        until = None if expires_at is None else expires_at.isoformat()
        whole, short = traces.keyed_texts()
        digests = [("text", mac_of(secret, text)) for text in sorted(whole)]
        digests += [("short", mac_of(secret, text)) for text in sorted(short)]
        digests += [("node", mac) for mac in sorted(nodes)]
        digests += [("person", one_id) for one_id in sorted(traces.one_ids)] if whole_person else []
        with self._open() as con:
            con.execute("begin immediate")
            con.execute(
                "insert into requests values (?, ?, ?, ?, ?, ?, 'running', null, null)",
                (request_id, actor, reason, now.isoformat(), int(whole_person), until),
            )
            con.execute("insert into work values (?, ?)", (request_id, traces.to_json()))
            con.executemany(
                "insert into digests values (?, ?, ?, ?) on conflict (kind, mac) do update set"
                " forgotten_at = max(forgotten_at, excluded.forgotten_at), expires_at = excluded.expires_at",
                [(kind, mac, now.isoformat(), until) for kind, mac in digests],
            )
            con.execute("commit")
        self.write_list()
        return request_id

    def running(self) -> list[tuple[Request, Traces]]:
        """Erasures that were begun and are not finished, oldest first."""
        rows = self._rows("select request_id, traces from work order by request_id")
        known = {request.request_id: request for request in self.requests()}
        return [(known[name], Traces.from_json(text)) for name, text in rows]

    def finish(self, request_id: str, counts: Mapping[str, Any], *, now: datetime) -> None:
        """The erasure is whole: what it looked for goes too, from the file as well."""
        with self._open() as con:
            con.execute("begin immediate")
            con.execute(
                "update requests set state = 'done', finished_at = ?, counts = ? where request_id = ?",
                (now.isoformat(), json.dumps(dict(counts), ensure_ascii=False), request_id),
            )
            con.execute("delete from work where request_id = ?", (request_id,))
            con.execute("commit")
            con.execute("vacuum")

    def requests(self) -> list[Request]:
        """Every erasure asked for, oldest first."""
        return [
            Request(
                row[0], row[1], row[2], datetime.fromisoformat(row[3]), bool(row[4]), _instant(row[5]), row[6],
                _instant(row[7]), json.loads(row[8]) if row[8] else None,
            )
            for row in self._rows("select * from requests order by requested_at, request_id")
        ]  # fmt: skip

    # -- the list ------------------------------------------------------------------------------------------------------

    def digests(self, kind: str, *, now: datetime) -> dict[str, datetime]:
        """Digest -> when it was forgotten, of those in force."""
        rows = self._rows(
            "select mac, forgotten_at from digests where kind = ? and (expires_at is null or expires_at > ?)",
            (kind, now.isoformat()),
        )
        return {mac: datetime.fromisoformat(at) for mac, at in rows}

    def write_list(self) -> None:
        """Copy the list to `data/forgotten.json`, which every backup takes along, and beside the backups there are."""
        rows = self._rows("select kind, mac, forgotten_at, expires_at from digests order by kind, mac")
        text = json.dumps({"format": _FORMAT, "digests": rows})
        folders = {self.home.root / "data", self.home.root / "backups"}
        record = self.home.logs / "last_backup.json"
        if record.is_file():
            folders.add(Path(json.loads(record.read_text(encoding="utf-8"))["path"]).parent)
        for folder in sorted(folders):
            if folder.is_dir():
                _write(folder / LIST, text)

    def take_list(self, path: Path) -> int:
        """Add the digests of a list written by `write_list`; returns how many were new. No file is no list."""
        if not path.is_file():
            return 0
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            rows = [tuple(row) for row in data["digests"]]
        except (ValueError, KeyError, TypeError) as error:
            raise FatalError(
                f"{path} cannot be read as a list of the forgotten", hint="take an earlier copy"
            ) from error
        if not rows:
            return 0
        with self._open() as con:
            con.execute("begin immediate")
            before = con.total_changes
            con.executemany(
                "insert into digests values (?, ?, ?, ?) on conflict (kind, mac) do update set"
                " forgotten_at = excluded.forgotten_at where excluded.forgotten_at > forgotten_at",
                rows,
            )
            new = con.total_changes - before
            con.execute("commit")
        return new

    def join(self, folder: Path, archive: Path) -> int:
        """Add what a restore brings: the ledger and the list below *folder* (shaped like a home), and the list beside
        *archive*. Nothing of this ledger is lost. Has `warehouse.erasure.finish` apply the list; returns how many
        digests that are."""
        brought = folder / "data" / "privacy.sqlite"
        if brought.is_file() and brought != self.path:
            self._take_ledger(brought)
        for path in (folder / "data" / LIST, archive.parent / LIST):
            self.take_list(path)
        if not self._rows("select 1 from digests limit 1"):
            return 0
        self.set_mark(RESTORED, "yes")
        self.write_list()
        return int(self._rows("select count(*) from digests where kind in ('node', 'text')")[0][0])

    def _take_ledger(self, path: Path) -> None:
        """Requests that are not here come as they were, one under way with what it looks for; what is here stays."""
        with self._open() as con:
            con.execute("attach ? as brought", (str(path),))
            con.execute("begin immediate")
            con.execute(
                "insert into work select * from brought.work where request_id not in (select request_id from requests)"
            )
            con.execute("insert or ignore into requests select * from brought.requests")
            con.execute(
                "insert into digests select * from brought.digests where true on conflict (kind, mac) do update set"
                " forgotten_at = excluded.forgotten_at, expires_at = excluded.expires_at"
                " where excluded.forgotten_at > forgotten_at"
            )
            con.execute("insert into retention select * from brought.retention except select * from retention")
            con.execute("commit")
            con.execute("detach brought")

    # -- small things --------------------------------------------------------------------------------------------------

    def mark(self, name: str) -> str:
        """A value kept between runs; "" where there is none."""
        rows = self._rows("select value from marks where name = ?", (name,))
        return str(rows[0][0]) if rows else ""

    def set_mark(self, name: str, value: str) -> None:
        with self._open() as con:
            con.execute("insert or replace into marks values (?, ?)", (name, value))

    def close_restore(self) -> None:
        """The list is applied to what a restore brought back: what was looked for goes, from the file as well."""
        with self._open() as con:
            con.execute("delete from marks where name in (?, ?)", (RESTORED, RESTORED_TRACES))
            con.execute("vacuum")

    def note_unfinished(self, name: str, why: str) -> None:
        """Keep why the erasure *name* (a request, or `RESTORED`) is not whole; "": it is."""
        with self._open() as con:
            con.execute("delete from marks where name = ?", (_UNFINISHED + name,))
            if why:
                con.execute("insert into marks values (?, ?)", (_UNFINISHED + name, why))

    def unfinished(self) -> dict[str, str]:
        """Erasures that are not whole -> why, as far as known: requests, and `RESTORED`."""
        open_ones = [request.request_id for request, _ in self.running()]
        open_ones += [RESTORED] if self.mark(RESTORED) else []
        return {name: self.mark(_UNFINISHED + name) or "not finished yet" for name in open_ones}

    def note_retention(self, rows: Iterable[tuple[str, str, str, str, int]]) -> None:
        """Keep what retention took: (at, rule, place, cut, rows)."""
        with self._open() as con:
            con.executemany("insert into retention values (?, ?, ?, ?, ?)", list(rows))


def mac_of(secret: bytes, text: str) -> str:
    """HMAC-SHA256 of *text* under the home's key; `warehouse.identity_values.hash_mac` is the same in SQL."""
    return hmac.new(secret, text.encode(), hashlib.sha256).hexdigest()


def _instant(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
