"""Forgetting people in the whole home: every table, file, snapshot, ledger and plan (PIPL § 47).

One request is one row of `data/privacy.sqlite`, written with the keyed digests that keep its rows out before anything
is removed. Each place is then cleaned, whole or not at all; a stop leaves a request that the next run finishes.
At the end every file is read once more, as tables and as bytes, and the report says what was looked for, what could not
be, and what was found: nothing.

What stays: keyed digests, the `one_id` in the registry as `forgotten` (it is made of a secret, not of a person), and
backups, whose restore forgets again (`forget_again`).
"""

from __future__ import annotations

import shutil
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path

import duckdb

from cdp.errors import CheckFailedError, FatalError
from cdp.identity.rules import IdentityRules
from cdp.privacy.traces import UNTELLABLE, Traces, borne, called, word_kind
from cdp.streams import Stream
from warehouse import identity_assertions as decide
from warehouse.connection import open_warehouse
from warehouse.erasure_files import (
    WORKBOOKS,
    archive_without,
    bytes_hits,
    engine,
    is_held,
    is_sqlite,
    parquet_hits,
    put_in_place,
    rewrite_parquet,
    sqlite_scrub,
    text_without,
    workbook_without,
    write_over,
)
from warehouse.erasure_sync import FRAMES, erase_in_sync
from warehouse.erasure_tables import compact, erase_database, erase_tables, erase_version, table_hits
from warehouse.home import Home, run_lock
from warehouse.identity_queries import NODE, Ref, find, rows
from warehouse.identity_tables import ensure_tables
from warehouse.identity_values import NODE_TEXT, hash_mac
from warehouse.landing import remove_orphans, stream_lock
from warehouse.landing_ledger import BatchRecord, LandingLedger, Part
from warehouse.privacy_ledger import LIST, RESTORED, RESTORED_TRACES, PrivacyLedger, Request
from warehouse.publish import versions
from warehouse.secrets import identity_secret
from warehouse.suppression import Barrier

Progress = Callable[[str, int, int], None]  # place, done, total
# Never looked at: what the brand wrote itself, keys, archives (forgotten again when restored), DuckDB's spill.
_NOT_OURS = ("config", "secrets", "backups", "data/tmp")
_ARCHIVES = "backups"
# Streams whose rows are about people; those of all others are the brand's own things.
_OF_PEOPLE = frozenset(
    {"people", "orders", "relations", "group_members", "followers", "events", "records", "messages", "callbacks",
     "referrals", "id_links", "customer_tags"}
)  # fmt: skip
# What a run computes from, publishes or sends: a person found here would be served to somebody.
_SERVED = ("data/raw/", "data/warehouse.duckdb", "data/marts.duckdb", "data/published/", "data/sync.sqlite",
           "data/plans/")  # fmt: skip


class UnprovenError(CheckFailedError):
    """Something of a forgotten person is left. *found*: places of the home, and how often."""

    def __init__(self, message: str, *, hint: str, found: Sequence[tuple[str, int]]) -> None:
        super().__init__(message, hint=hint)
        self.found = tuple(found)

    @property
    def is_served(self) -> bool:
        """Whether a run would publish or send what is left."""
        return any(place.startswith(_SERVED) for place, _ in self.found)


@dataclass(frozen=True)
class Scene:
    """Where people are forgotten. *streams*: every stream there is. *outside*: paths that sources read and that are not
    ours to change, though they lie in the home."""

    home: Home
    rules: IdentityRules
    streams: Sequence[Stream]
    timezone: str
    outside: Sequence[Path] = ()
    progress: Progress | None = None

    @property
    def secret(self) -> bytes:
        return identity_secret(self.home)

    def step(self, place: str, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress(place, done, total)


@dataclass(frozen=True)
class Removal:
    """What one place loses: rows or lines that go as a *whole*, and those of which only *cells* change."""

    place: str
    whole: int
    cells: int = 0


@dataclass(frozen=True)
class ErasureReport:
    """What a request took, or would take. *found*: what the proof found afterwards (place, times); empty proves absence
    in all *files* files. *sought*: (what was looked for, how many). *unsought*: (what cannot be looked for and why, how
    many). *archives*: backups made before, forgotten again when restored. *outside*: what sources will
    send again; it will not land. *farewells*: relations in WeCom whose tags the next plan takes off."""

    applied: bool
    people: tuple[str, ...]
    identifiers: int
    removals: tuple[Removal, ...]
    request_id: str = ""
    found: tuple[tuple[str, int], ...] = ()
    sought: tuple[tuple[str, int], ...] = ()
    unsought: tuple[tuple[str, int], ...] = ()
    files: int = 0
    bytes: int = 0
    archives: tuple[str, ...] = ()
    outside: tuple[str, ...] = ()
    farewells: int = 0
    seconds: float = 0.0

    @property
    def counts(self) -> dict[str, list[int]]:
        return {item.place: [item.whole, item.cells] for item in self.removals}


@dataclass
class _Work:
    """One pass over all places. *apply*: change them; *cause*: the request, as the landing ledger names it."""

    scene: Scene
    traces: Traces
    apply: bool
    now: datetime
    cause: str = ""
    nodes: frozenset[str] = frozenset()
    removals: list[Removal] = field(default_factory=list)
    farewells: int = 0

    def note(self, place: str, whole: int, cells: int = 0) -> None:
        if whole or cells:
            self.removals.append(Removal(place, whole, cells))


# ---------------------------------------------------------------------------------------------------- the verbs


def preview(scene: Scene, names: Sequence[str], *, now: datetime, whole_person: bool = True) -> ErasureReport:
    """What forgetting *names* (identifiers or one_ids) would remove, place by place. Changes nothing."""
    started = time.perf_counter()
    with run_lock(scene.home):
        traces, _ = _look_up(scene, names, now=now, whole_person=whole_person)
        work = _Work(scene, widened(scene, traces), apply=False, now=now)
        _every_place(work)
    return _report(work, started)


def erase(
    scene: Scene,
    names: Sequence[str],
    *,
    actor: str,
    reason: str,
    now: datetime,
    whole_person: bool = True,
    keep_days: int | None = None,
) -> ErasureReport:
    """Forget *names* everywhere, prove it, and keep them out (for *keep_days*; None: for ever).

    What an earlier request left unfinished is finished first; names that it held count as done. Raises
    `UnprovenError` when something is found afterwards: the request then stays open, and running it again goes on.
    """
    if not reason.strip():
        raise FatalError("an erasure needs a reason", hint="say who asked and when: --reason '…'")
    started = time.perf_counter()
    ledger = PrivacyLedger(scene.home)
    with run_lock(scene.home):
        held = [traces for _, traces in ledger.running()]
        done = [_carry_out(scene, request, traces, now=now) for request, traces in ledger.running()]
        left = [name for name in names if not any(_held(name, traces) for traces in held)]
        if done and not left:
            return replace(done[-1], seconds=time.perf_counter() - started)
        traces, nodes = _look_up(scene, left, now=now, whole_person=whole_person)
        traces = widened(scene, traces)
        ledger.begin(
            traces,
            nodes,
            secret=scene.secret,
            actor=actor,
            reason=reason,
            now=now,
            whole_person=whole_person,
            expires_at=now + timedelta(days=keep_days) if keep_days else None,
        )
        request, traces = ledger.running()[-1]
        return replace(_carry_out(scene, request, traces, now=now), seconds=time.perf_counter() - started)


def finish(scene: Scene, *, now: datetime, lenient: bool = False) -> list[ErasureReport]:
    """Finish what a stopped erasure left, and forget again what a restore brought back. Cheap where there is nothing.

    *lenient*: an erasure whose proof fails is noted and stays open,
    and is raised only when a run would publish or send what is left (`UnprovenError.is_served`).
    """
    ledger = PrivacyLedger(scene.home)
    if not ledger.unfinished():
        return []
    with run_lock(scene.home):
        reports: list[ErasureReport] = []
        for request, traces in ledger.running():
            with _noting(ledger, request.request_id, lenient=lenient):
                reports.append(_carry_out(scene, request, traces, now=now))
        if ledger.mark(RESTORED):
            with _noting(ledger, RESTORED, lenient=lenient):
                reports.append(_again(scene, now=now))
                ledger.close_restore()
    return reports


@contextmanager
def _noting(ledger: PrivacyLedger, name: str, *, lenient: bool) -> Iterator[None]:
    """Keep in the ledger why the erasure *name* is not whole, until it is."""
    try:
        yield
    except UnprovenError as error:
        ledger.note_unfinished(name, error.message)
        if error.is_served or not lenient:
            raise
    else:
        ledger.note_unfinished(name, "")


def note_restore(home: Home, archive: Path) -> int:
    """After a restore: how many digests `finish` will apply to what *archive* brought. `restore_backup` has joined the
    lists already; for files that were brought back by other means this does."""
    return PrivacyLedger(home).join(home.root, archive)


# ---------------------------------------------------------------------------------------------------- who it is


def _look_up(scene: Scene, names: Sequence[str], *, now: datetime, whole_person: bool) -> tuple[Traces, frozenset[str]]:
    with open_warehouse(scene.home, as_of=now, timezone=scene.timezone) as con:
        ensure_tables(con)
        refs = [find(con, name) for name in names]
        return traces_of(con, refs, secret=scene.secret, whole_person=whole_person)


def traces_of(
    con: duckdb.DuckDBPyConnection, refs: Sequence[Ref], *, secret: bytes, whole_person: bool
) -> tuple[Traces, frozenset[str]]:
    """What points to the persons of *refs* (or only to these identifiers), and the digests of their identifiers."""
    decide.choose_forgotten(con, refs, whole_person=whole_person)
    ours = "node_id in (select node_id from forgotten)"
    identifiers = rows(
        con,
        f"""select type, value from identity.identifier_value where {ours}
        union select type, value_norm from identity.node where {ours}""",
    )
    people = [ref.one_id for ref in refs if ref.one_id] if whole_person else []
    one_ids = rows(
        con,
        """select one_id from identity.one_id_registry where current_number in (
            select current_number from identity.one_id_registry where one_id in (select unnest(?::text[])))""",
        [people],
    )
    fields = rows(con, "select distinct field, type from raw._identity_fields") if _has_fields(con) else []
    macs = rows(con, f"select {hash_mac(secret, NODE_TEXT)} from identity.node as node where epoch = 1 and {ours}")
    traces = Traces(
        identifiers=frozenset((kind, value) for kind, value in identifiers if value),
        one_ids=frozenset(row[0] for row in one_ids),
        fields=tuple((name, kind) for name, kind in fields),
    )
    return traces, frozenset(row[0] for row in macs)


def _has_fields(con: duckdb.DuckDBPyConnection) -> bool:
    found = rows(con, "select 1 from duckdb_tables() where schema_name = 'raw' and table_name = '_identity_fields'")
    return bool(found)


def _held(name: str, traces: Traces) -> bool:
    """Whether a request already under way holds *name*, which the graph may no longer know."""
    kind, _, value = name.partition(":")
    values = {value for _, value in traces.identifiers}
    return name in traces.one_ids or name in values or (bool(value) and bool(kind) and value in values)


def widened(scene: Scene, traces: Traces) -> Traces:
    """*traces* with the orders of these people, whose lines and refunds name nobody, what they are called, and which of
    these names can be looked for."""
    orders, names = set(traces.orders), set(traces.names)
    with closing(_engine(scene.home)) as con:
        for record in _landed(scene, _OF_PEOPLE):
            relation, key = f"{record.family}__{record.stream}", _key(scene, record)
            hits = parquet_hits(con, _raw_file(scene.home, record), traces, relation=relation, key=key)
            for row in hits.rows:
                if traces.judge(row, relation=relation, key=key) != "whole":
                    continue
                names.update(called(row))
                if record.stream == "orders":
                    orders.add((record.source, str(row["order_id"])))
    traces = replace(traces, orders=frozenset(orders), names=frozenset(names))
    return _with_words(scene, traces)


def _with_words(scene: Scene, traces: Traces) -> Traces:
    """*traces* with the names that nobody else in the home bears, and with why the others cannot be looked for."""
    candidates = {name: word_kind(name) for name in traces.names - traces.words}
    reasons = {name: UNTELLABLE for name, kind in candidates.items() if not kind}
    if open_names := frozenset(candidates) - frozenset(reasons):
        reasons |= _borne_by_others(scene, replace(traces, words=open_names))
    words = traces.words | (open_names - frozenset(reasons))
    told = Counter(reasons.values()) if reasons else Counter(dict(traces.unsought))
    return replace(traces, words=words, unsought=tuple(sorted(told.items())))


def _borne_by_others(scene: Scene, traces: Traces) -> dict[str, str]:
    """Which of the words of *traces* stand where they are not theirs -> why that makes them no proof."""
    reasons: dict[str, str] = {}
    config = "\n".join(path.read_text(encoding="utf-8", errors="replace") for path in scene.home.config.rglob("*.yaml"))
    for word in traces.words:
        if Traces(frozenset(), words=frozenset({word})).in_text(config):
            reasons[word] = "a name that the brand's own configuration uses as well"
    with closing(_engine(scene.home)) as con:
        for record in _landed(scene):
            relation = f"{record.family}__{record.stream}"
            bare = replace(traces, identifiers=frozenset(), one_ids=frozenset(), orders=frozenset())
            hits = parquet_hits(con, _raw_file(scene.home, record), bare, relation=relation)
            of_people = record.stream in _OF_PEOPLE
            for row in hits.rows:
                if traces.mentioned(row, relation):
                    continue
                for word in traces.words - set(reasons):
                    if Traces(frozenset(), words=frozenset({word})).in_text(str(row)) and (
                        why := borne(row, word, of_people=of_people)
                    ):
                        reasons[word] = why
    return reasons


def _landed(scene: Scene, streams: Collection[str] = ()) -> Iterator[BatchRecord]:
    """Batches with rows, of these *streams* or of all."""
    for record in LandingLedger(scene.home.landing_ledger).batches():
        if record.landed and (not streams or record.stream in streams):
            yield record


# ---------------------------------------------------------------------------------------------------- the work


def _carry_out(scene: Scene, request: Request, traces: Traces, *, now: datetime) -> ErasureReport:
    """Clean every place, prove it, close the request. Safe to repeat from any point."""
    started = time.perf_counter()
    ledger = PrivacyLedger(scene.home)
    nodes = frozenset(ledger.digests("node", now=now))
    work = _Work(scene, traces, apply=True, now=request.requested_at, cause=request.request_id, nodes=nodes)
    _every_place(work)
    found, files, size = prove(scene, traces)
    report = replace(_report(work, started), request_id=request.request_id, found=found, files=files, bytes=size)
    if found:
        shown = ", ".join(f"{place} ({times})" for place, times in found[:5])
        raise UnprovenError(
            f"erasure {request.request_id} is not whole: something is left in {shown}",
            hint="what can be cleaned is; mend the rest (a file in use, the brand's own configuration) and repeat",
            found=found,
        )
    ledger.finish(request.request_id, report.counts, now=now)
    return report


def _again(scene: Scene, *, now: datetime) -> ErasureReport:
    """Apply the list to a home that a restore brought back: identifiers are known by their digests."""
    started = time.perf_counter()
    ledger = PrivacyLedger(scene.home)
    macs = ledger.digests("node", now=now)
    with open_warehouse(scene.home, as_of=now, timezone=scene.timezone) as con:
        ensure_tables(con)
        refs = _refs(con, scene.secret, frozenset(macs), None)
        traces, nodes = traces_of(con, refs, secret=scene.secret, whole_person=False)
    traces = replace(traces, one_ids=traces.one_ids | frozenset(ledger.digests("person", now=now)))
    traces = widened(scene, traces)
    if held := ledger.mark(RESTORED_TRACES):  # a stop came between: raw no longer says what they are called
        traces = traces.and_those(Traces.from_json(held))
    ledger.set_mark(RESTORED_TRACES, traces.to_json())
    work = _Work(scene, traces, apply=True, now=now, cause=f"restore-{now.isoformat()}", nodes=nodes)
    for record in LandingLedger(scene.home.landing_ledger).batches():
        _sift_raw(work, record)
    _every_place(work)
    with open_warehouse(scene.home, as_of=now, timezone=scene.timezone) as con:
        # what the graph did not know yet when the backup was made comes with the next run, and stays out
        known = {row[0] for row in rows(con, "select value_mac from identity.tombstone")}
        for mac, at in sorted(macs.items()):
            if mac not in known:
                con.execute("insert into identity.tombstone values (?, ?, null)", [mac, at])
    found, files, size = prove(scene, traces)
    if found:
        raise UnprovenError(
            f"what the restore brought back is not forgotten again: {', '.join(place for place, _ in found[:5])}",
            hint="mend it and repeat: cdp privacy finish",
            found=found,
        )
    return replace(_report(work, started), files=files, bytes=size)


def _report(work: _Work, started: float) -> ErasureReport:
    home = work.scene.home
    archives = sorted(str(path.relative_to(home.root)) for path in (home.root / _ARCHIVES).glob("*.tar"))
    return ErasureReport(
        applied=work.apply,
        people=tuple(sorted(work.traces.one_ids)),
        identifiers=len({(kind, value) for kind, value in work.traces.identifiers}),
        removals=tuple(work.removals),
        sought=_sought(work.traces),
        unsought=work.traces.unsought,
        archives=tuple(archives),
        outside=tuple(sorted(str(path) for path in work.scene.outside)),
        farewells=work.farewells,
        seconds=time.perf_counter() - started,
    )


def _sought(traces: Traces) -> tuple[tuple[str, int], ...]:
    alone = sum(word_kind(word) == "alone" for word in traces.words)
    kinds = {
        "identifiers, in every text and in the bytes of every file": len(traces.identifiers) - len(traces.short),
        "short identifiers, in the fields of their type": len(traces.short),
        "names, in every text and in the bytes of every file": len(traces.words) - alone,
        "names of two characters, where they stand alone": alone,
        "orders, in their lines and refunds": len(traces.orders),
    }
    return tuple((kind, count) for kind, count in kinds.items() if count)


def _every_place(work: _Work) -> None:
    """All places in order. The identity graph comes after raw, so that a stopped run still knows what to look for."""
    places: tuple[tuple[str, Callable[[_Work], None]], ...] = (
        ("sync", _sync),
        ("raw", _raw),
        ("warehouse", _warehouse),
        ("published", _published),
        ("ledgers", _landing_states),
        ("files", _files),
    )
    for number, (name, clean) in enumerate(places, start=1):
        clean(work)
        work.scene.step(name, number, len(places))


def _sync(work: _Work) -> None:
    found = erase_in_sync(work.scene.home, work.traces, apply=work.apply, now=work.now)
    for place, whole in found.places.items():
        work.note(place, whole)
    work.farewells = found.farewells


def _raw(work: _Work) -> None:
    if work.apply:
        _sweep_raw(work.scene.home)
    for record in LandingLedger(work.scene.home.landing_ledger).batches():
        relation, key = f"{record.family}__{record.stream}", _key(work.scene, record)
        if record.landed + record.deleted:
            _parquet(work, record, "raw", relation, key)
        if record.rejected:
            _parquet(work, record, "rejects", "_rejects", ())
    with closing(_engine(work.scene.home)) as con:
        for path in sorted(work.scene.home.rejects.glob("*/*/failed.parquet")):
            hits = parquet_hits(con, path, work.traces, relation="_rejects")
            if hits.count and work.apply:
                put_in_place(rewrite_parquet(con, path, hits), path)
            work.note(_place(work, path), len(hits.whole), len(hits.cells))


def _sweep_raw(home: Home) -> None:
    """Remove files of batches that were cut off before they were committed: nothing reads them, but they hold rows."""
    ledger = LandingLedger(home.landing_ledger)
    for source, stream in {path.relative_to(root).parts[:2] for root in (home.raw, home.rejects)
                           for path in root.glob("*/*/*")}:  # fmt: skip
        with stream_lock(home, source, stream):
            remove_orphans(home.raw / source / stream, home.rejects / source / stream, ledger.batches(source, stream))


def _parquet(work: _Work, record: BatchRecord, part: Part, relation: str, key: Sequence[str]) -> None:
    home = work.scene.home
    folder = home.raw if part == "raw" else home.rejects
    path = folder / record.source / record.stream / f"{record.batch_id}.parquet"
    with closing(_engine(home)) as con:
        hits = parquet_hits(con, path, work.traces, relation=relation, key=key)
        if not hits.count:
            return
        work.note(f"data/{part}/{record.source}/{record.stream}", len(hits.whole), len(hits.cells))
        if work.apply:
            with stream_lock(home, record.source, record.stream):
                temporary = rewrite_parquet(con, path, hits)
                _note_erased(work, record, part, total=hits.total, whole=len(hits.whole))
                put_in_place(temporary, path)


def _note_erased(work: _Work, record: BatchRecord, part: Part, *, total: int, whole: int) -> None:
    """Tell the landing ledger, before the file changes places, how many rows of this batch the request took in all.

    Raises `FatalError` when the file does not hold what the ledger says: then it is damaged, not erased.
    """
    ledger = LandingLedger(work.scene.home.landing_ledger)
    here = (record.batch_id, part)
    committed = record.landed + record.deleted if part == "raw" else record.rejected
    others, everything = ledger.erased(but=work.cause).get(here, 0), ledger.erased().get(here, 0)
    if total not in (committed - others, committed - everything):
        raise FatalError(
            f"{record.source}.{record.stream} {record.batch_id}: {total} rows in the file, the ledger says "
            f"{committed - everything}",
            hint="docs/runbook.md: a damaged raw file; bring it back from a backup, then repeat",
        )
    ledger.note_erased(record.batch_id, part, work.cause, committed - others - total + whole, at=work.now)


def _sift_raw(work: _Work, record: BatchRecord) -> None:
    """Take out of one raw file what the list bars; for what a restore brought back and no graph knows yet."""
    home = work.scene.home
    stream = _stream(work.scene, record)
    if stream is None or not record.landed:
        return
    path = _raw_file(home, record)
    barrier = Barrier(home, record.source, stream, work.now)
    with closing(_engine(home)) as con:
        source = f"read_parquet('{str(path).replace(chr(39), chr(39) * 2)}', file_row_number = true)"
        hits = barrier.hits(con, source, "file_row_number") if barrier else None
        if hits is None or not hits.count:
            return
        total = con.execute("select count(*) from read_parquet(?)", [str(path)]).fetchall()[0][0]
        with stream_lock(home, record.source, record.stream):
            temporary = rewrite_parquet(con, path, hits)
            _note_erased(work, record, "raw", total=total, whole=len(hits.whole))
            put_in_place(temporary, path)
        work.note(f"data/raw/{record.source}/{record.stream}", len(hits.whole), len(hits.cells))


def _warehouse(work: _Work) -> None:
    scene = work.scene
    if not scene.home.warehouse.exists():
        return
    if work.apply:
        _sweep(scene.home)
    with open_warehouse(scene.home, as_of=work.now, timezone=scene.timezone) as con:
        ensure_tables(con)
        if work.apply:
            refs = _refs(con, scene.secret, work.nodes, work.traces)
            if refs:
                done = decide.forget(
                    con, scene.rules, refs, now=work.now, secret=scene.secret, apply=True, whole_person=False
                )
                work.note("identity graph", done.identifiers + done.raw_values + done.map_rows, done.evidence_rows)
        else:
            work.note("identity graph", _in_graph(con, work.traces))
        for catalog in ("warehouse", "marts_db"):
            for table, hits in erase_tables(con, catalog, work.traces, apply=work.apply).items():
                work.note(table, len(hits.whole), len(hits.cells))
    if work.apply:
        for path in (scene.home.warehouse, scene.home.marts):
            compact(path, spare=scene.home.root / "data" / "tmp")


def _sweep(home: Home) -> None:
    """Remove half-written copies of whole databases that a stopped erasure or publish left."""
    for folder, pattern in (
        (home.root / "data" / "tmp", "*.fresh*"),
        (home.published, "*.fresh*"),
        (home.published, "*.tmp*"),
    ):
        for path in folder.glob(pattern):
            if path.is_file():
                path.unlink()


def _refs(con: duckdb.DuckDBPyConnection, secret: bytes, macs: Iterable[str], traces: Traces | None) -> list[Ref]:
    """The identifiers of the graph with one of these digests; *traces* narrows what has to be digested."""
    values = None if traces is None else sorted({value for _, value in traces.identifiers})
    listed = "" if values is None else "and node.value_norm in (select unnest(?::text[]))"
    found = rows(
        con,
        f"""{NODE} where node.epoch = 1 {listed}
            and {hash_mac(secret, NODE_TEXT)} in (select unnest(?::text[]))""",
        [*([] if values is None else [values]), sorted(macs)],
    )
    return [Ref(*row) for row in found]


def _in_graph(con: duckdb.DuckDBPyConnection, traces: Traces) -> int:
    values = sorted({value for _, value in traces.identifiers})
    return int(
        rows(con, "select count(*) from identity.node where value_norm in (select unnest(?::text[]))", [values])[0][0]
    )


def _published(work: _Work) -> None:
    for version in versions(work.scene.home):
        for path in (version.path, version.pii_path):
            if path is None or not path.exists():
                continue
            removed = erase_version(version, path, work.traces, apply=work.apply)
            work.note(_place(work, path), sum(len(hits.whole) for hits in removed.values()),
                      sum(len(hits.cells) for hits in removed.values()))  # fmt: skip


def _landing_states(work: _Work) -> None:
    """The landing ledger's own texts: where a pull goes on, names of files, errors."""
    path = work.scene.home.landing_ledger
    if path.exists():
        work.note("data/landing.sqlite", 0, sqlite_scrub(path, work.traces, apply=work.apply))


def _files(work: _Work) -> None:
    """Everything else in the home: collected events, exports in the inbox, reports, logs, the scheduler's history."""
    home = work.scene.home
    done = {home.landing_ledger, home.sync_ledger, PrivacyLedger(home).path, home.root / "data" / LIST,
            home.warehouse, home.marts}  # fmt: skip
    done |= {path for version in versions(home) for path in (version.path, version.pii_path) if path}
    for folder in sorted(home.root.glob("replaced-*")):
        # what a restore put aside is a second copy of everything: it is of no use but to go
        count = sum(1 for path in folder.rglob("*") if path.is_file())
        work.note(f"{folder.name}/ (put aside by a restore)", count)
        if work.apply:
            shutil.rmtree(folder)
    if work.apply:
        shutil.rmtree(home.root / "data" / "tmp" / "duckdb", ignore_errors=True)
    for path in _all_files(work.scene):
        elsewhere = path.suffix == ".parquet" and (
            path.is_relative_to(home.raw) or path.is_relative_to(home.rejects)
            or (path.name in FRAMES and path.is_relative_to(home.plans))
        )  # fmt: skip
        if path in done or elsewhere or path.suffix == ".wal" or path.name.endswith(("-wal", "-shm")):
            continue
        work.note(_place(work, path), *_one_file(work, path))


def _one_file(work: _Work, path: Path) -> tuple[int, int]:
    """Clean a file by what it is; returns how many of its rows or lines change, and of how many only cells."""
    if is_sqlite(path):
        return sqlite_scrub(path, work.traces, apply=work.apply), 0
    if path.suffix == ".duckdb":
        found = erase_database(path, work.traces, apply=work.apply).values()
        return sum(len(hits.whole) for hits in found), sum(len(hits.cells) for hits in found)
    if path.suffix == ".parquet":
        with closing(_engine(work.scene.home)) as con:
            hits = parquet_hits(con, path, work.traces, relation=path.stem)
            if hits.count and work.apply:
                put_in_place(rewrite_parquet(con, path, hits), path)
        return len(hits.whole), len(hits.cells)
    if not bytes_hits(path, work.traces) and not _short_in(path, work.traces):
        return 0, 0
    clean = text_without
    if zipfile.is_zipfile(path):
        clean = workbook_without if path.suffix.lower() in WORKBOOKS else archive_without
    done = clean(path, work.traces)
    if done is None or (work.apply and is_held(path)):
        return 0, 0  # what somebody is writing to is cleaned once it is closed; until then the proof finds it
    if work.apply:
        write_over(path, done[0])
    return done[1], 0


def _short_in(path: Path, traces: Traces) -> bool:
    return bool(traces.short) and path.suffix.lower() in (".jsonl", ".json", ".log", ".open", ".ndjson")


# ---------------------------------------------------------------------------------------------------- the proof


def prove(scene: Scene, traces: Traces) -> tuple[tuple[tuple[str, int], ...], int, int]:
    """Read every file of the home, tables as tables and all as bytes. Returns what was found (place, times), and how
    many files and bytes were read.

    The registry, the change feed and the sync's list of people never to be tagged keep forgotten `one_id`s by design.
    """
    found: dict[str, int] = {}
    bare = replace(traces, one_ids=frozenset())
    files = [*_all_files(scene, everything=True)]
    size = 0
    for path in files:
        name = str(path.relative_to(scene.home.root))
        size += path.stat().st_size
        times = bytes_hits(path, bare)
        if path.suffix == ".parquet":
            with closing(_engine(scene.home)) as con:
                times += parquet_hits(con, path, traces, relation=_relation(scene, path)).count
        elif path.suffix == ".duckdb":
            times += table_hits(path, traces)
        elif path != PrivacyLedger(scene.home).path and is_sqlite(path):
            times += sqlite_scrub(path, bare, apply=False)
        if path == PrivacyLedger(scene.home).path or path.name.startswith("privacy.sqlite"):
            times = 0  # what a request under way looks for; it goes when the request is closed
        if times:
            found[name] = times
    return tuple(sorted(found.items())), len(files), size


def _relation(scene: Scene, path: Path) -> str:
    if path.is_relative_to(scene.home.rejects):
        return "_rejects"
    return f"raw__{path.parent.name}" if path.is_relative_to(scene.home.raw) else path.stem


def _all_files(scene: Scene, *, everything: bool = False) -> Iterator[Path]:
    """Files of the home that are ours. *everything*: also the brand's configuration, which is read and not changed."""
    home = scene.home
    for path in sorted(home.root.rglob("*")):
        relative = path.relative_to(home.root).as_posix()
        left_out = any(relative == name or relative.startswith(f"{name}/") for name in _NOT_OURS)
        if everything and relative.startswith(("config/", "data/tmp/")):
            left_out = False
        if left_out or path.is_symlink() or not path.is_file():
            continue
        if any(path == other or path.is_relative_to(other) for other in scene.outside):
            continue
        if path.suffix == ".lock" or path.name.endswith(("-shm",)):
            continue
        yield path


# ---------------------------------------------------------------------------------------------------- small things


def _engine(home: Home) -> duckdb.DuckDBPyConnection:
    return engine(home.root / "data" / "tmp" / "duckdb")


def _raw_file(home: Home, record: BatchRecord) -> Path:
    return home.raw / record.source / record.stream / f"{record.batch_id}.parquet"


def _stream(scene: Scene, record: BatchRecord) -> Stream | None:
    return next((item for item in scene.streams if (item.family, item.name) == (record.family, record.stream)), None)


def _key(scene: Scene, record: BatchRecord) -> tuple[str, ...]:
    stream = _stream(scene, record)
    return stream.key if stream else ()


def _place(work: _Work, path: Path) -> str:
    return str(path.relative_to(work.scene.home.root))


__all__ = [
    "ErasureReport",
    "Removal",
    "Scene",
    "UnprovenError",
    "erase",
    "finish",
    "note_restore",
    "preview",
    "prove",
    "widened",
]
