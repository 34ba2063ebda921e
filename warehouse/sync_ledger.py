"""The sync's memory: register, plans, decisions, runs, ops, reads, audit, in one small SQLite file.

Kept apart from the warehouse so that a running apply and the analysts never wait for each other. WAL with
`synchronous=FULL`: what a method wrote is on disk when it returns. One object may be shared by threads.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from cdp.errors import ConfigError, FatalError
from cdp.sync.config import parse_duration
from cdp.sync.ledger import Lease, LeaseHeldError, LeaseLostError, Moved, Op, Read
from cdp.sync.model import OpState, Plan, RegisteredTag
from cdp.sync.outcome import Drift
from warehouse.sync_schema import AUDIT_ONLY_GROWS, LATER, TABLES, VERSION

LEASE_SECONDS = 60
_GENESIS = "0" * 64


def iso(moment: datetime) -> str:
    """A UTC instant as text that sorts by time."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


class SyncLedger:
    """Open or make the ledger at *path*. Raises `ConfigError` when a newer program wrote it."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.forgotten: Callable[[str], bool] = lambda _: False  # customers of whom nothing is kept
        self._lock = threading.RLock()
        self._con = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
        self._con.row_factory = sqlite3.Row
        self._con.execute("pragma journal_mode = wal")
        self._con.execute("pragma synchronous = full")
        self._con.executescript(TABLES + AUDIT_ONLY_GROWS)
        self._con.execute("insert or ignore into meta values ('version', ?)", (str(VERSION),))
        found = int(self._one("select value from meta where key = 'version'")["value"])
        if found > VERSION:
            raise ConfigError(f"{path} was written by a newer version ({found} > {VERSION})", hint="upgrade siyu-cdp")
        self._upgrade()

    def __enter__(self) -> SyncLedger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        with self._lock:
            self._con.close()

    def _upgrade(self) -> None:
        """Add the columns an older ledger lacks."""
        with self._write() as con:
            for table, columns in LATER.items():
                there = {row["name"] for row in con.execute(f"pragma table_info({table})")}
                for name, kind in columns.items():
                    if name not in there:
                        con.execute(f"alter table {table} add column {name} {kind}")
            con.execute("update meta set value = ? where key = 'version'", (str(VERSION),))

    # -- the store -------------------------------------------------------------------------------------------------

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._con.execute("begin immediate")
            try:
                yield self._con
            except BaseException:
                self._con.execute("rollback")
                raise
            self._con.execute("commit")

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[sqlite3.Row]:
        """Rows of a read-only query, for reports."""
        with self._lock:
            return self._con.execute(sql, parameters).fetchall()

    def _one(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        with self._lock:
            return self._con.execute(sql, parameters).fetchone()

    def frame(self, sql: str, schema: Mapping[str, Any], parameters: Sequence[Any] = ()) -> pl.DataFrame:
        """Rows as a frame of *schema* (names and types in the query's order)."""
        rows = [tuple(row) for row in self.rows(sql, parameters)]
        return pl.DataFrame(rows, schema=dict(schema), orient="row")

    # -- lease -----------------------------------------------------------------------------------------------------

    def acquire(self, app: str, holder: str, *, now: datetime) -> Lease:
        """The lease of *app*. Raises `LeaseHeldError` while another holder's heartbeat is younger than a minute."""
        with self._write() as con:
            row = con.execute("select * from lease where app = ?", (app,)).fetchone()
            if row and row["holder"] and row["holder"] != holder and row["expires_at"] > iso(now):
                raise LeaseHeldError(
                    f"another apply is running for `{app}` (last sign of life {row['heartbeat_at']})",
                    hint="`cdp sync status` shows it, `cdp sync stop` ends it after the calls in flight",
                )
            fence = (row["fence"] if row else 0) + 1
            con.execute(
                "insert or replace into lease values (?, ?, ?, ?, ?)",
                (app, holder, fence, iso(now), iso(now + timedelta(seconds=LEASE_SECONDS))),
            )
        return Lease(app, holder, fence)

    def release(self, lease: Lease, *, now: datetime) -> None:
        """Give the lease back; without effect when somebody else holds it."""
        with self._write() as con:
            con.execute(
                "update lease set holder = '', expires_at = ? where app = ? and fence = ?",
                (iso(now), lease.app, lease.fence),
            )

    def heartbeat(self, lease: Lease, *, now: datetime, progress: Mapping[str, Any] | None = None) -> None:
        """Keep the lease and show progress. Raises `LeaseLostError`."""
        with self._write() as con:
            self._fenced(con, lease)
            con.execute(
                "update lease set heartbeat_at = ?, expires_at = ? where app = ?",
                (iso(now), iso(now + timedelta(seconds=LEASE_SECONDS)), lease.app),
            )
            if progress and "run_id" in progress:
                con.execute(
                    "update runs set progress = ?, progress_at = ? where run_id = ?",
                    (json.dumps(dict(progress), sort_keys=True), iso(now), progress["run_id"]),
                )

    @staticmethod
    def _fenced(con: sqlite3.Connection, lease: Lease) -> None:
        row = con.execute("select fence from lease where app = ?", (lease.app,)).fetchone()
        if row is None or row["fence"] != lease.fence:
            raise LeaseLostError(
                f"the lease of `{lease.app}` went to another apply; this one has stopped",
                hint="see `cdp sync status`; what was sent is in the ledger",
            )

    # -- register --------------------------------------------------------------------------------------------------

    def register(self) -> tuple[RegisteredTag, ...]:
        """Every tag our app created, retired ones too, by key."""
        return tuple(
            RegisteredTag(
                tag_id=row["tag_id"],
                group_id=row["group_id"],
                key=row["key"],
                group=row["tag_group"],
                value=row["value"],
                name=row["name"],
                group_name=row["group_name"],
                order=row["ord"],
                group_order=row["group_ord"],
                state=row["state"],
                since=row["since"],
                synced=bool(row["synced"]),
            )
            for row in self.rows("select * from register order by key, tag_id")
        )

    def save_registered(self, tags: Sequence[RegisteredTag], *, now: datetime) -> None:
        """Insert or replace register rows; their creation intents are settled with them."""
        with self._write() as con:
            con.executemany(
                "insert or replace into register (tag_id, group_id, key, tag_group, value, name, group_name, ord,"
                " state, since, synced, group_ord) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (
                        *(tag.tag_id, tag.group_id, tag.key, tag.group, tag.value, tag.name, tag.group_name, tag.order),
                        *(tag.state, tag.since or iso(now), int(tag.synced), tag.group_order),
                    )
                    for tag in tags
                ],
            )
            con.executemany("delete from intents where key = ?", [(tag.key,) for tag in tags])

    def intend(self, creations: Sequence[tuple[str, str, str]], *, now: datetime) -> None:
        """Write down `(key, group name, tag name)` before they are created."""
        with self._write() as con:
            rows = [(*creation, iso(now)) for creation in creations]
            con.executemany("insert or replace into intents values (?, ?, ?, ?)", rows)

    def intents(self) -> frozenset[str]:
        """Keys of tags whose creation was begun and is not known to have ended."""
        return frozenset(row["key"] for row in self.rows("select key from intents"))

    def intended_groups(self) -> frozenset[str]:
        """Names of groups whose creation was begun."""
        return frozenset(row["group_name"] for row in self.rows("select group_name from intents"))

    # -- plans -----------------------------------------------------------------------------------------------------

    def save_plan(self, plan: Plan, *, now: datetime) -> None:
        """Record a plan and the sizes of its segments. The same plan twice is one row."""
        summary = plan.summary
        text = json.dumps(dict(summary), ensure_ascii=False, sort_keys=True)
        with self._write() as con:
            known = con.execute("select 1 from plans where plan_id = ?", (plan.plan_id,)).fetchone()
            if known:
                return
            con.execute(
                "insert into plans values (?, ?, ?, ?, ?, ?, ?, 'planned', ?)",
                (
                    *(plan.plan_id, plan.plan_hash, summary["kind"], summary["planned_at"], summary["expires_at"]),
                    *(summary["author"], plan.verdict, text),
                ),
            )
        self.audit(
            str(summary["author"]),
            "plan",
            now=now,
            plan_id=plan.plan_id,
            plan_hash=plan.plan_hash,
            verdict=plan.verdict,
            relations=summary["relations"],
        )

    def plan_row(self, plan_id: str | None = None, *, applied: bool = False) -> sqlite3.Row:
        """A plan's row; the newest when *plan_id* is None (with *applied*, the newest that changed something); a unique
        start of an id is enough."""
        if plan_id is None and applied:
            row = self._one(
                "select plans.* from plans join runs using (plan_id)"
                " where exists (select 1 from ops where ops.run_id = runs.run_id) order by runs.run_id desc limit 1"
            )
            if row is None:
                raise ConfigError("no plan has been applied yet", hint="`cdp sync plan`, then `cdp sync apply`")
            return row
        if plan_id is None:
            row = self._one("select * from plans order by planned_at desc, rowid desc limit 1")
            if row is None:
                raise ConfigError("there is no plan yet", hint="`cdp sync plan` makes one")
            return row
        found = self.rows("select * from plans where plan_id = ? or plan_id glob ?", (plan_id, f"{plan_id}*"))
        if len(found) != 1:
            what = "no plan" if not found else f"{len(found)} plans"
            raise ConfigError(f"{what} named `{plan_id}`", hint="`cdp sync log` lists them")
        return found[0]

    def decide(
        self, plan_id: str, plan_hash: str, decision: str, *, who: str, reason: str, by_author: bool, now: datetime
    ) -> None:
        """Record an approval or rejection; it is bound to *plan_hash*."""
        with self._write() as con:
            con.execute(
                "insert into decisions values (?, ?, ?, ?, ?, ?, ?)",
                (plan_id, plan_hash, decision, who, iso(now), reason, int(by_author)),
            )
            con.execute("update plans set state = ? where plan_id = ?", (decision, plan_id))
        self.audit(who, decision, now=now, plan_id=plan_id, plan_hash=plan_hash, reason=reason, by_author=by_author)

    def decision(self, plan_id: str) -> sqlite3.Row | None:
        """The last decision on a plan."""
        row: sqlite3.Row | None = self._one(
            "select * from decisions where plan_id = ? order by at desc, rowid desc limit 1", (plan_id,)
        )
        return row

    def sizes(self) -> dict[str, list[int]]:
        """Tag key -> people in applied plans, oldest first."""
        found: dict[str, list[int]] = {}
        for row in self.rows("select key, people from sizes order by key, at, plan_id"):
            found.setdefault(row["key"], []).append(row["people"])
        return found

    # -- runs and ops ----------------------------------------------------------------------------------------------

    def start_run(self, plan_id: str, ops: pl.DataFrame, lease: Lease, *, now: datetime) -> int:
        """The run of a plan, made with all its ops on first start, taken over under *lease* on every other."""
        with self._write() as con:
            self._fenced(con, lease)
            row = con.execute("select run_id from runs where plan_id = ?", (plan_id,)).fetchone()
            if row:
                con.execute(
                    "update runs set fence = ?, state = 'running', reason = null where run_id = ?",
                    (lease.fence, row["run_id"]),
                )
                return int(row["run_id"])
            cursor = con.execute(
                "insert into runs (plan_id, app, fence, state, started_at) values (?, ?, ?, 'running', ?)",
                (plan_id, lease.app, lease.fence, iso(now)),
            )
            run_id = int(cursor.lastrowid or 0)
            con.executemany(
                "insert into ops (run_id, seq, phase, userid, external_userid, one_id, add_keys, remove_keys, state)"
                " values (?, ?, ?, ?, ?, ?, ?, ?, 'planned')",
                (
                    (run_id, seq, phase, userid, customer, one_id, json.dumps(add), json.dumps(remove))
                    for seq, phase, userid, customer, one_id, _, add, remove in ops.iter_rows()
                ),
            )
            con.execute("update plans set state = 'applying' where plan_id = ?", (plan_id,))
        return run_id

    def run_row(self, plan_id: str) -> sqlite3.Row | None:
        row: sqlite3.Row | None = self._one("select * from runs where plan_id = ?", (plan_id,))
        return row

    def run_of(self, plan_id: str) -> tuple[int, datetime]:
        """The run of a plan and when it began. Raises `ConfigError` when it was never applied."""
        row = self.run_row(plan_id)
        if row is None:
            raise ConfigError(f"plan {plan_id} was never applied", hint=f"`cdp sync apply {plan_id}`")
        return int(row["run_id"]), datetime.fromisoformat(row["started_at"])

    def hold_control(self, control: pl.DataFrame, *, now: datetime) -> None:
        """Remember what control people would have got, and since when (ghost exposure)."""
        stamp = iso(now)
        with self._write() as con:
            con.executemany(
                "insert into held_control values (?, ?, ?, ?, ?)"
                " on conflict (one_id, experiment, key) do update set last_at = excluded.last_at",
                [(*row, stamp, stamp) for row in control.select("one_id", "experiment", "key").iter_rows()],
            )

    def crossed(self, ops: pl.DataFrame) -> int:
        """How many people get a tag by *ops* that was once held back from them as control: a ramp, or a merge of two
        people with different arms (the older one's stands)."""
        held = self.frame("select distinct one_id, key from held_control", {"one_id": pl.String, "add": pl.String})
        added = ops.select("one_id", "add").explode("add", empty_as_null=True)
        return added.join(held, on=["one_id", "add"], how="semi")["one_id"].n_unique()

    def set_pending(self, pending: pl.DataFrame, *, expires: str, now: datetime) -> None:
        """Replace what waits: new (person, tag) begin to wait, those no longer wanted are cancelled."""
        stamp, until = iso(now), iso(now + parse_duration(expires))
        with self._write() as con:
            con.execute("create temp table if not exists wanted (one_id text, key text, primary key (one_id, key))")
            con.execute("delete from wanted")
            con.executemany("insert or ignore into wanted values (?, ?)", pending.select("one_id", "key").iter_rows())
            con.execute(
                "update pending set state = 'cancelled', changed_at = ? where state = 'waiting'"
                " and (one_id, key) not in (select one_id, key from wanted)",
                (stamp,),
            )
            con.execute(
                "insert into pending select one_id, key, ?, ?, 'waiting', ? from wanted where true"
                " on conflict (one_id, key) do update set state = 'waiting', expires_at = excluded.expires_at,"
                " changed_at = excluded.changed_at where state != 'waiting'",
                (stamp, until, stamp),
            )

    def finish_run(self, run_id: int, state: str, reason: str | None, *, now: datetime) -> None:
        """End a run. A plan whose run is done is applied; its tags count as synced once and their sizes as history."""
        with self._write() as con:
            con.execute(
                "update runs set state = ?, reason = ?, finished_at = ? where run_id = ?",
                (state, reason, iso(now), run_id),
            )
            plan = con.execute(
                "select plans.* from plans join runs using (plan_id) where run_id = ?", (run_id,)
            ).fetchone()
            con.execute("update plans set state = ? where plan_id = ?", (_PLAN_STATES[state], plan["plan_id"]))
            if state in ("done", "partial") and plan["kind"] == "sync":
                tags = json.loads(plan["summary"])["tags"]
                con.executemany(
                    "insert or replace into sizes values (?, ?, ?, ?)",
                    [(plan["plan_id"], tag["key"], tag["segment"], plan["planned_at"]) for tag in tags],
                )
                con.executemany(
                    "update register set synced = 1 where key = ?", [(tag["key"],) for tag in tags if tag["segment"]]
                )

    def ops(self, run_id: int, *, states: Sequence[OpState], phase: int | None = None) -> Iterator[Op]:
        """Ops of a run in those states, in order, read in slices so that a large run needs little memory."""
        marks = ", ".join("?" for _ in states)
        last = -1
        while True:
            rows = self.rows(
                f"select * from ops where run_id = ? and seq > ? and state in ({marks})"
                " and (? is null or phase = ?) order by seq limit 5000",
                (run_id, last, *states, phase, phase),
            )
            if not rows:
                return
            for row in rows:
                yield _op(row)
            last = rows[-1]["seq"]

    def move(self, run_id: int, lease: Lease, moves: Iterable[Moved], *, now: datetime) -> None:
        """Record state changes in one durable commit, refused when the lease is gone (`LeaseLostError`)."""
        stamp = iso(now)
        with self._write() as con:
            self._fenced(con, lease)
            for move in moves:
                if move.state == "sending":
                    con.execute(
                        "update ops set state = 'sending', attempt = attempt + 1, started_at = ?"
                        " where run_id = ? and seq = ?",
                        (stamp, run_id, move.seq),
                    )
                else:
                    con.execute(
                        "update ops set state = ?, code = ?, reason = ?, at = ? where run_id = ? and seq = ?",
                        (move.state, move.code, move.reason, stamp, run_id, move.seq),
                    )

    def settle(self, run_id: int, moves: Sequence[Moved], *, now: datetime) -> None:
        """Record outcomes found by reading back; needs no lease because nothing is sent."""
        with self._write() as con:
            con.executemany(
                "update ops set state = ?, reason = ?, at = ? where run_id = ? and seq = ?",
                [(move.state, move.reason, iso(now), run_id, move.seq) for move in moves],
            )

    def last_outcome(self) -> str | None:
        """How the last apply ended: `done`, `partial` or `stopped`; None before the first."""
        row = self._one(
            "select action from audit where action in ('done', 'partial', 'stopped') order by seq desc limit 1"
        )
        return row["action"] if row else None

    def counts(self, run_id: int) -> dict[str, int]:
        """Ops by state."""
        rows = self.rows(
            "select state, count(*) as n from ops where run_id = ? group by state order by state", (run_id,)
        )
        return {row["state"]: row["n"] for row in rows}

    def call_ms(self) -> float | None:
        """Mean milliseconds of a call in the last run of at least 20 calls, for the forecast; None before the first."""
        row = self._one(
            "select json_extract(progress, '$.mean_ms') as mean_ms from runs"
            " where json_extract(progress, '$.calls') >= 20 order by run_id desc limit 1"
        )
        return row["mean_ms"] if row else None

    def note_code(self, run_id: int, path: str, code: int, kind: str, *, now: datetime) -> None:
        """Count a return code other than 0."""
        with self._write() as con:
            con.execute(
                "insert into codes values (?, ?, ?, ?, ?, 1)"
                " on conflict (run_id, path, code) do update set times = times + 1",
                (run_id, path, code, kind, iso(now)),
            )

    # -- what was read ---------------------------------------------------------------------------------------------

    def save_reads(self, reads: Sequence[Read], *, now: datetime) -> None:
        """Remember relations as read now; older reads are replaced."""
        stamp = iso(now)
        reads = [read for read in reads if not self.forgotten(read.external_userid)]
        with self._write() as con:
            con.executemany(
                "insert or replace into reads values (?, ?, ?, ?)",
                [(read.userid, read.external_userid, json.dumps(sorted(read.tag_ids)), stamp) for read in reads],
            )

    def lost(self, *, since: datetime) -> pl.DataFrame:
        """Relations that a call found gone since then, with nothing since to say that they are back (a later write, a
        callback): `userid, external_userid, lost_at`."""
        schema = {"userid": pl.String, "external_userid": pl.String, "lost_at": pl.String}
        sql = """
            select userid, external_userid, max(at) from ops as gone
            where state = 'gone' and at > ?
                and not exists (
                    select 1 from ops as later
                    where later.external_userid = gone.external_userid and later.userid = gone.userid
                        and later.run_id > gone.run_id and later.state in ('acked', 'verified', 'gap', 'human_changed')
                )
                and not exists (
                    select 1 from hints
                    where hints.external_userid = gone.external_userid and hints.userid = gone.userid
                        and hints.change = 'add_external_contact' and hints.at > gone.at
                )
            group by userid, external_userid
        """
        found = self.frame(sql, schema, (iso(since),))
        return found.with_columns(pl.col("lost_at").str.to_datetime(time_unit="us", time_zone="UTC"))

    def reads(self) -> pl.DataFrame:
        """`userid, external_userid, tag_ids (list), read_at`, one row per relation ever read back."""
        schema = {"userid": pl.String, "external_userid": pl.String, "tag_ids": pl.String, "read_at": pl.String}
        raw = self.frame("select userid, external_userid, tag_ids, read_at from reads", schema)
        return raw.with_columns(
            pl.col("tag_ids").str.json_decode(pl.List(pl.String)),
            pl.col("read_at").str.to_datetime(time_unit="us", time_zone="UTC"),
        )

    def reads_of(self, userids: Sequence[str]) -> dict[tuple[str, str], frozenset[str]]:
        """Tag ids of every relation of *userids* as last read back."""
        found: dict[tuple[str, str], frozenset[str]] = {}
        for begin in range(0, len(userids), 500):
            part = userids[begin : begin + 500]
            marks = ", ".join("?" for _ in part)
            for row in self.rows(f"select * from reads where userid in ({marks})", part):
                found[row["userid"], row["external_userid"]] = frozenset(json.loads(row["tag_ids"]))
        return found

    def unsettled(self) -> frozenset[tuple[str, str]]:
        """Relations with an op later than our last read of them."""
        rows = self.rows(
            "select userid, external_userid from ops join reads using (userid, external_userid)"
            " where state in ('sending', 'acked', 'unknown') and coalesce(at, started_at) > read_at"
        )
        return frozenset((row["userid"], row["external_userid"]) for row in rows)

    def hinted_after_reads(self) -> frozenset[tuple[str, str]]:
        """Relations with a callback later than our last read of them."""
        rows = self.rows(
            "select distinct userid, external_userid from hints join reads using (userid, external_userid)"
            " where change = 'edit_external_contact' and hints.at >= reads.read_at"
        )
        return frozenset((row["userid"], row["external_userid"]) for row in rows)

    def save_hints(self, hints: Iterable[tuple[str, str, str, str, datetime]]) -> int:
        """Keep callbacks `(digest, userid, external_userid, change, at)`; returns how many were new."""
        with self._write() as con:
            before = con.total_changes
            con.executemany(
                "insert or ignore into hints values (?, ?, ?, ?, ?)",
                [
                    (digest, userid, customer, change, iso(at))
                    for digest, userid, customer, change, at in hints
                    if not self.forgotten(customer)
                ],
            )
            return con.total_changes - before

    def save_drift(
        self, rows: Sequence[tuple[Drift, str]], rests: Sequence[tuple[Drift, datetime]], *, now: datetime
    ) -> int:
        """Record drift `(what, policy)` once per read it differs from, and pairs at rest `(what, until)`; returns how
        much was new. A pair already known to differ is not put to rest again."""
        stamp = iso(now)
        until = {(item.userid, item.external_userid, item.key): end for item, end in rests}
        new = 0
        with self._write() as con:
            for item, policy in rows:
                pair = (item.userid, item.external_userid, item.key)
                added = con.execute(
                    "insert or ignore into drift select ?, ?, ?, ?, ?, coalesce((select read_at from reads"
                    " where userid = ? and external_userid = ?), ''), ?, ?",
                    (*pair, item.direction, stamp, *pair[:2], item.by, policy),
                ).rowcount
                if added and pair in until:
                    con.execute(
                        "insert or replace into frozen values (?, ?, ?, ?, ?, ?)",
                        (*pair, stamp, iso(until[pair]), f"{item.direction} by {item.by}"),
                    )
                new += added
        return new

    def release_frozen(self, userid: str, external_userid: str, *, now: datetime) -> int:
        """End the rest of a relation's pairs; returns how many there were."""
        with self._write() as con:
            return con.execute(
                "update frozen set until = ? where userid = ? and external_userid = ? and until > ?",
                (iso(now), userid, external_userid, iso(now)),
            ).rowcount

    def mark_rota(self, userids: Sequence[str], *, now: datetime) -> None:
        """These employees have been read whole."""
        with self._write() as con:
            con.executemany("insert or replace into rota values (?, ?)", [(userid, iso(now)) for userid in userids])

    def due(self, userids: Sequence[str], *, before: datetime) -> list[str]:
        """Employees to read: first those with callbacks since their last read, then those read before *before* or
        never, the longest unread first."""
        read = {row["userid"]: row["read_at"] for row in self.rows("select * from rota")}
        hot = {row["userid"]: row["at"] for row in self.rows("select userid, max(at) as at from hints group by userid")}
        hinted = [user for user in userids if user in hot and hot[user] > read.get(user, "")]
        late = [user for user in userids if read.get(user, "") < iso(before) and user not in hinted]
        return sorted(hinted) + sorted(late, key=lambda user: (read.get(user, ""), user))

    def hinted(self, since: datetime) -> frozenset[tuple[str, str]]:
        """Relations somebody changed by hand since then, by callbacks."""
        rows = self.rows(
            "select distinct userid, external_userid from hints where change = 'edit_external_contact' and at >= ?",
            (iso(since),),
        )
        return frozenset((row["userid"], row["external_userid"]) for row in rows)

    def forget(self, one_id: str, *, reason: str, now: datetime) -> None:
        """Never tag this person again: planner, sender and pending tags all ask for it. What waited is cancelled."""
        with self._write() as con:
            con.execute("insert or ignore into tombstones values (?, ?, ?)", (one_id, iso(now), reason))
            con.execute(
                "update pending set state = 'cancelled', changed_at = ? where one_id = ? and state = 'waiting'",
                (iso(now), one_id),
            )

    def barred(self) -> frozenset[str]:
        """People who may never be tagged (deletion requests)."""
        return frozenset(row["one_id"] for row in self.rows("select one_id from tombstones"))

    def waiting(self, *, now: datetime) -> list[str]:
        """People who have a tag waiting."""
        rows = self.rows(
            "select distinct one_id from pending where state = 'waiting' and expires_at > ? order by one_id",
            (iso(now),),
        )
        return [row["one_id"] for row in rows]

    def save_pending_keys(self, keys: Iterable[tuple[str, str]]) -> None:
        """Replace the match keys `(key, one_id)` of people who wait."""
        with self._write() as con:
            con.execute("delete from pending_keys")
            con.executemany("insert or ignore into pending_keys values (?, ?)", keys)

    def waiting_for(self, keys: Sequence[str], *, now: datetime) -> tuple[str, list[str]] | None:
        """The one person that the first telling key leads to, with the tags that wait; a key that leads to several
        people tells nothing. None when nobody waits, or may not be tagged any more."""
        for key in keys:
            people = self.rows("select one_id from pending_keys where match = ?", (key,))
            if len(people) != 1:
                continue
            one_id = people[0]["one_id"]
            tags = self.rows(
                "select key from pending where one_id = ? and state = 'waiting' and expires_at > ?"
                " and one_id not in (select one_id from tombstones) order by key",
                (one_id, iso(now)),
            )
            return (one_id, [row["key"] for row in tags]) if tags else None
        return None

    def fill_pending(self, run_id: int, *, now: datetime) -> int:
        """Tags that a run has put on no longer wait; returns how many."""
        with self._write() as con:
            return con.execute(
                "update pending set state = 'filled', changed_at = ? where state = 'waiting' and one_id in"
                " (select one_id from ops where run_id = ? and state in ('acked', 'verified'))",
                (iso(now), run_id),
            ).rowcount

    def added_since(self, since: str) -> list[tuple[str, str, str]]:
        """Relations that callbacks say were added since *since* (ISO): `(userid, external_userid, at)`, in order."""
        rows = self.rows(
            "select userid, external_userid, at from hints where change = 'add_external_contact' and at > ?"
            " order by at, userid, external_userid",
            (since,),
        )
        return [(row["userid"], row["external_userid"], row["at"]) for row in rows]

    def mark(self, name: str) -> str:
        """A place kept between runs; "" before the first."""
        row = self._one("select value from meta where key = ?", (name,))
        return row["value"] if row else ""

    def set_mark(self, name: str, value: str) -> None:
        with self._write() as con:
            con.execute("insert or replace into meta values (?, ?)", (name, value))

    def frozen(self, *, now: datetime) -> pl.DataFrame:
        """Pairs at rest now: `userid, external_userid, key`."""
        schema = {"userid": pl.String, "external_userid": pl.String, "key": pl.String}
        return self.frame(
            "select userid, external_userid, key from frozen where until > ? order by 1, 2, 3", schema, (iso(now),)
        )

    # -- audit -----------------------------------------------------------------------------------------------------

    def audit(
        self, who: str, action: str, *, now: datetime, plan_id: str = "", plan_hash: str = "", **detail: Any
    ) -> None:
        """Append one row to the hash chain."""
        text = json.dumps(detail, ensure_ascii=False, sort_keys=True, default=str)
        with self._write() as con:
            last = con.execute("select seq, hash from audit order by seq desc limit 1").fetchone()
            previous, seq = (last["hash"], last["seq"] + 1) if last else (_GENESIS, 1)
            end = con.execute("select value from meta where key = ?", (_AUDIT_END,)).fetchone()
            if end:  # goes on from what was written last, so that rows cut off leave a hole
                number, previous = end["value"].split()
                seq = int(number) + 1
            row = (seq, iso(now), who, action, plan_id, plan_hash, text, previous)
            con.execute("insert into audit values (?, ?, ?, ?, ?, ?, ?, ?, ?)", (*row, _chain(row)))
            con.execute("insert or replace into meta values (?, ?)", (_AUDIT_END, f"{seq} {_chain(row)}"))

    def redact(self, clean: Callable[[str], str], *, apply: bool, but: Collection[str] = ()) -> int:
        """Take out of every text of every table *but* these what *clean* takes out; returns how many cells that are.
        Reasons are people's words, and may name a customer who asks to be forgotten. The audit log's chain is made anew
        over what is left."""
        cells = 0
        with self._write() as con:
            con.create_function("clean", 1, clean, deterministic=True)
            con.execute("drop trigger audit_no_update")
            tables = con.execute("select name from sqlite_master where type = 'table' and name not like 'sqlite_%'")
            for table in sorted({row[0] for row in tables.fetchall()} - set(but)):
                for (column,) in con.execute("select name from pragma_table_info(?)", [table]).fetchall():
                    where = f"typeof({column}) = 'text' and clean({column}) <> {column}"
                    cells += int(con.execute(f"select count(*) from {table} where {where}").fetchone()[0])
                    if apply:
                        con.execute(f"update or ignore {table} set {column} = clean({column}) where {where}")
            if apply and cells:
                self._chain_anew(con)
            con.execute(AUDIT_ONLY_GROWS)
        return cells

    @staticmethod
    def _chain_anew(con: sqlite3.Connection) -> None:
        previous = _GENESIS
        for row in con.execute("select * from audit order by seq").fetchall():
            fields = (*tuple(row)[:-2], previous)
            previous = _chain(fields)
            con.execute("update audit set previous = ?, hash = ? where seq = ?", (fields[-1], previous, row["seq"]))
            con.execute("insert or replace into meta values (?, ?)", (_AUDIT_END, f"{row['seq']} {previous}"))

    def check_audit(self) -> int:
        """Walk the chain; returns its length. Raises `FatalError` naming the first row that does not fit."""
        previous = _GENESIS
        rows = self.rows("select * from audit order by seq")
        for number, row in enumerate(rows, start=1):
            fields = tuple(row)[:-1]
            if row["seq"] != number or row["previous"] != previous or _chain(fields) != row["hash"]:
                raise FatalError(
                    f"the audit log does not fit together at row {number}: it was changed outside the program",
                    hint=f"compare {self.path.name} with a backup",
                )
            previous = row["hash"]
        end = self.mark(_AUDIT_END)
        if end and end != f"{len(rows)} {previous}":
            raise FatalError(
                f"the audit log ends at row {len(rows)}, the program wrote row {end.split()[0]}: its end was cut off",
                hint=f"compare {self.path.name} with a backup",
            )
        return len(rows)


_AUDIT_END = "audit_end"  # number and hash of the last row, so that a log cut off at its end shows
_PLAN_STATES = {"done": "applied", "partial": "partial", "stopped": "stopped", "running": "applying"}


def _chain(row: Sequence[Any]) -> str:
    return hashlib.sha256(json.dumps(list(row), ensure_ascii=False).encode()).hexdigest()


def _op(row: sqlite3.Row) -> Op:
    return Op(
        seq=row["seq"],
        phase=row["phase"],
        userid=row["userid"],
        external_userid=row["external_userid"],
        one_id=row["one_id"],
        add=tuple(json.loads(row["add_keys"])),
        remove=tuple(json.loads(row["remove_keys"])),
        state=row["state"],
        attempt=row["attempt"],
    )
