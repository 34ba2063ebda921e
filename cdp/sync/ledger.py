"""What the sender needs from the ledger, so that it can be kept in any small transactional store."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

import polars as pl

from cdp.errors import FatalError, RetriableError
from cdp.sync.model import OpState, RegisteredTag


class LeaseHeldError(RetriableError):
    """Another apply holds this app."""

    code = "lease"


class LeaseLostError(FatalError):
    """Our lease ran out and somebody else took it: nothing more may be written."""

    code = "lease"


@dataclass(frozen=True)
class Lease:
    """The right to write with one app. *fence* grows with each holder; a writer with an old one is refused."""

    app: str
    holder: str
    fence: int


@dataclass(frozen=True)
class Op:
    """One relation's change in a run. *add*, *remove*: tag keys."""

    seq: int
    phase: int
    userid: str
    external_userid: str
    one_id: str | None
    add: tuple[str, ...]
    remove: tuple[str, ...]
    state: OpState = "planned"
    attempt: int = 0


@dataclass(frozen=True)
class Moved:
    """One op reached a state. *code*: WeCom's return code (0 good, None when there was no reply)."""

    seq: int
    state: OpState
    code: int | None = None
    reason: str | None = None
    attempt: int = 0


@dataclass(frozen=True)
class Read:
    """One relation as read back: all its tag ids."""

    userid: str
    external_userid: str
    tag_ids: tuple[str, ...]


class Ledger(Protocol):
    """All writes are durable when the call returns. Times are UTC instants given by the caller."""

    def register(self) -> tuple[RegisteredTag, ...]: ...

    def save_registered(self, tags: Sequence[RegisteredTag], *, now: datetime) -> None: ...

    def intend(self, creations: Sequence[tuple[str, str, str]], *, now: datetime) -> None: ...

    def intents(self) -> frozenset[str]: ...

    def acquire(self, app: str, holder: str, *, now: datetime) -> Lease: ...

    def release(self, lease: Lease, *, now: datetime) -> None: ...

    def start_run(self, plan_id: str, ops: pl.DataFrame, lease: Lease, *, now: datetime) -> int: ...

    def run_of(self, plan_id: str) -> tuple[int, datetime]: ...

    def finish_run(self, run_id: int, state: str, reason: str | None, *, now: datetime) -> None: ...

    def settle(self, run_id: int, moves: Sequence[Moved], *, now: datetime) -> None: ...

    def hold_control(self, control: pl.DataFrame, *, now: datetime) -> None: ...

    def crossed(self, ops: pl.DataFrame) -> int: ...

    def set_pending(self, pending: pl.DataFrame, *, expires: str, now: datetime) -> None: ...

    def heartbeat(self, lease: Lease, *, now: datetime, progress: Mapping[str, Any] | None = None) -> None: ...

    def ops(self, run_id: int, *, states: Sequence[OpState], phase: int | None = None) -> Iterator[Op]: ...

    def move(self, run_id: int, lease: Lease, moves: Iterable[Moved], *, now: datetime) -> None: ...

    def counts(self, run_id: int) -> dict[str, int]: ...

    def save_reads(self, reads: Sequence[Read], *, now: datetime) -> None: ...

    def hinted(self, since: datetime) -> frozenset[tuple[str, str]]: ...

    def barred(self) -> frozenset[str]: ...

    def note_code(self, run_id: int, path: str, code: int, kind: str, *, now: datetime) -> None: ...

    def audit(
        self, who: str, action: str, *, now: datetime, plan_id: str = "", plan_hash: str = "", **detail: Any
    ) -> None: ...
