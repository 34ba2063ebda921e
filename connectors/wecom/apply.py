"""Sending a plan's ops: each is on disk as `sending` before its call and as done after it.

At most *concurrency* calls are in flight, never two for one customer. There are twice as many workers: while one half
waits for WeCom, the other half has its ops on disk as `sending` and takes over without a pause. A worker's next call
waits until its last answer is on disk, so a crash leaves at most two ops per call in flight whose outcome is not known;
those are read back before anything is sent again.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime

from cdp.sync.config import SyncConfig
from cdp.sync.ledger import Lease, LeaseLostError, Ledger, Moved, Op
from cdp.sync.model import RegisteredTag
from connectors.wecom.client import WeComClient
from connectors.wecom.pace import HourBudget, Pacer
from connectors.wecom.replies import GONE_CODES, WeComError

MARK = "externalcontact/mark_tag"
IDS_PER_CALL = 50
HEARTBEAT_S = 5.0
NO_ANSWER = "no answer"
Stop = Callable[[], str | None]


@dataclass
class SendReport:
    """What one call of `send` did. *stopped*: why it ended early, or None. *mean_ms*, *p50_ms*, *p95_ms*: of
    the last 2,000 calls."""

    sent: int = 0
    calls: int = 0
    acked: int = 0
    gone: int = 0
    failed: int = 0
    stopped: str | None = None
    seconds: float = 0.0
    mean_ms: float = 0.0
    p50_ms: float = 0.0
    p95_ms: float = 0.0
    codes: dict[int, int] = field(default_factory=dict)


class OwnershipError(WeComError):
    """An op names a tag that is not in our register. Nothing of it was sent."""

    def __init__(self, key: str) -> None:
        super().__init__(MARK, 0, "ALERT", detail=f"tag `{key}` is not in the register")


class Sender:
    """Sends the open ops of one run. Use once. *clock* and *sleep* are monotonic seconds, *now* the UTC instant."""

    def __init__(
        self,
        client: WeComClient,
        ledger: Ledger,
        run_id: int,
        lease: Lease,
        config: SyncConfig,
        *,
        now: Callable[[], datetime],
        stop: Stop = lambda: None,
        progress: Callable[[int, int], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._client, self._ledger, self._run, self._lease = client, ledger, run_id, lease
        self._config = config
        self._now, self._stop, self._progress = now, stop, progress
        self._clock, self._sleep = clock, sleep
        limits = config.limits
        self._pacer = Pacer(limits.calls_per_second, clock=clock, sleep=sleep, burst=limits.concurrency)
        self._budget = HourBudget(int(limits.hourly_calls * (1 - limits.reserve)), clock=clock)
        self._queue, self._slots = Queue(), Slots(limits.concurrency)
        self._breaker = Breaker(config)
        self._ids = {tag.key: tag for tag in ledger.register() if tag.state != "retired"}
        self._barred = ledger.barred() | frozenset(config.consent.excluded)
        self._report = SendReport()
        self._times: deque[float] = deque(maxlen=2000)
        self._halt: str | None = None
        self._fault: BaseException | None = None
        self._lock = threading.Lock()
        self._total = self._done = 0
        self._beat = 0.0

    def send(self, *, phase: int | None = None) -> SendReport:
        """Send every op that is planned, unknown or was in flight when a run ended. Raises `WeComError` of kind ALERT
        and `LeaseLostError` after the other calls in flight have ended; everything else is in the report."""
        began = self._clock()
        counts = self._ledger.counts(self._run)
        self._total = sum(counts.values())
        self._done = self._total - sum(counts.get(state, 0) for state in ("planned", "sending", "unknown"))
        self._recover(phase)
        self._queue.fill(self._ledger.ops(self._run, states=("planned", "unknown"), phase=phase))
        count = min(2 * self._config.limits.concurrency, max(self._total - self._done, 1))
        workers = [threading.Thread(target=self._work, daemon=True) for _ in range(count)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        self._heartbeat(force=self._fault is None)
        self._report.stopped = self._halt
        self._report.seconds = round(self._clock() - began, 3)
        if self._fault is not None:
            raise self._fault
        return self._report

    def _recover(self, phase: int | None) -> None:
        """Ops that were in flight when a run died: nobody knows whether they arrived."""
        lost = [
            Moved(op.seq, "unknown", None, "in flight when the run ended", op.attempt)
            for op in self._ledger.ops(self._run, states=("sending",), phase=phase)
        ]
        if lost:
            self._ledger.move(self._run, self._lease, lost, now=self._now())

    # -- one worker ------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        answered: Moved | None = None
        try:
            while (op := self._queue.take()) is not None:
                try:
                    answered = self._one(op, answered)
                finally:
                    self._queue.give_back(op)
        except BaseException as error:  # handed to the caller of `send`
            with self._lock:
                self._fault = self._fault or error
            self._halt = self._halt or "fault"
            self._queue.close()
        finally:
            if answered is not None and not isinstance(self._fault, LeaseLostError):
                self._ledger.move(self._run, self._lease, [answered], now=self._now())

    def _one(self, op: Op, answered: Moved | None) -> Moved | None:
        """Send one op. Returns its answer, which is written together with the next op's `sending`."""
        if self._halted():
            return answered
        delay = max(self._pacer.reserve(), self._budget.reserve())
        if delay > 0.01 and answered is not None:
            self._ledger.move(self._run, self._lease, [answered], now=self._now())
            answered = None
        if not self._rest(delay):
            return answered
        if op.add and op.one_id in self._barred:
            refused = Moved(op.seq, "failed", None, "the person may not be tagged")
            self._ledger.move(self._run, self._lease, [answered] if answered else [], now=self._now())
            self._finish(refused)
            return refused
        moves = [answered] if answered else []
        add, remove = self._owned(op.add), self._owned(op.remove)
        self._ledger.move(self._run, self._lease, [*moves, Moved(op.seq, "sending")], now=self._now())
        result = self._attempts(op, add, remove)
        self._finish(result)
        return result

    def _rest(self, seconds: float) -> bool:
        """Sleep, but no longer than a second past a stop; False when there is one.

        What was slept is counted, not what the clock says: one that jumps back would have us wait for it.
        """
        while seconds > 0:
            if seconds > 1.0 and self._halted():
                return False
            self._sleep(min(seconds, 1.0))
            seconds -= 1.0
        return True

    def _halted(self) -> bool:
        """Whether nothing more may be sent: asked before every call."""
        if self._halt is None and (reason := self._stop()):
            self._halt = reason
        if self._halt is not None:
            self._queue.close()
        return self._halt is not None

    def _owned(self, keys: tuple[str, ...]) -> list[str]:
        """Tag ids of *keys*, every one of them in our register. Raises `OwnershipError` otherwise."""
        ids = []
        for key in keys:
            tag = self._ids.get(key)
            if tag is None:
                raise OwnershipError(key)
            if tag.state != "broken":
                ids.append(tag.tag_id)
        return ids

    def _attempts(self, op: Op, add: list[str], remove: list[str]) -> Moved:
        """Call until it is known what became of the op."""
        limits = self._config.limits
        tries, slow, waits = 0, 0, 0
        doubtful = op.state == "unknown" or op.attempt > 0
        while True:
            try:
                with self._slots.one():
                    if self._halted():
                        return Moved(op.seq, "unknown" if doubtful else "planned", None, "stopped")
                    if doubtful and self._arrived(op, add, remove):
                        return Moved(op.seq, "acked", None, "found by reading back")
                    doubtful = False
                    self._call(op, add, remove)
                return Moved(op.seq, "acked", 0)
            except WeComError as error:
                self._note(error)
                kind = error.kind
                if kind == "SLOW":
                    self._slots.narrow()
                    self._pacer.slow_down()
                    slow += 1
                    if slow <= 20:
                        self._sleep(min(0.05 * 2**slow, 2.0))
                        continue
                elif kind == "WAIT":
                    self._pacer.slow_down()
                    self._pacer.block(limits.quota_window_s)
                    waits += 1
                    if waits <= 20 and self._rest(self._pacer.reserve()):
                        continue
                    return Moved(op.seq, "planned", error.errcode, "waiting for the quota window")
                elif kind == "RETRY":
                    tries += 1
                    doubtful = error.errcode == 0 and not error.never_sent
                    if tries < limits.attempts:
                        self._sleep(min(0.2 * 2**tries, 4.0))
                        continue
                    if error.errcode == 0:
                        return Moved(op.seq, "unknown" if doubtful else "planned", None, NO_ANSWER)
                elif kind == "MAP":
                    live = self._without_broken(add, remove)
                    if live != (add, remove):
                        add, remove = live
                        if add or remove:
                            continue
                        return Moved(op.seq, "failed", error.errcode, "its tags are no longer in the library")
                elif kind == "ALERT":
                    self._ledger.move(
                        self._run, self._lease, [Moved(op.seq, "planned", error.errcode, "stopped")], now=self._now()
                    )
                    raise
                elif kind == "UNKNOWN":
                    tries += 1
                    if tries <= 2:
                        self._sleep(0.2 * tries)
                        continue
                if error.errcode in GONE_CODES:
                    return Moved(op.seq, "gone", error.errcode, "no such relation any more")
                return Moved(op.seq, "failed", error.errcode or None, f"{kind.lower()} {error.errcode}")

    def _call(self, op: Op, add: list[str], remove: list[str]) -> None:
        """One relation's change: one call, or several when it has more ids than one call may carry."""
        began = self._clock()
        marked = [*((tag, True) for tag in remove), *((tag, False) for tag in add)]
        for start in range(0, len(marked), IDS_PER_CALL):
            part = marked[start : start + IDS_PER_CALL]
            self._client.mark(
                op.userid,
                op.external_userid,
                [tag for tag, removing in part if not removing],
                [tag for tag, removing in part if removing],
            )
            with self._lock:
                self._report.calls += 1
        self._times.append(self._clock() - began)
        self._pacer.good()
        self._slots.widen()

    def _arrived(self, op: Op, add: list[str], remove: list[str]) -> bool:
        """Whether the relation already is as the op wants it. A relation that cannot be read is not known to be."""
        try:
            contact = self._client.contact(op.external_userid)
        except WeComError as error:
            if error.kind == "ALERT":
                raise
            return False
        follow = next((item for item in contact["follow_user"] if item.get("userid") == op.userid), None)
        if follow is None:
            return False
        held = {tag.get("tag_id") for tag in follow.get("tags") or ()}
        return set(add) <= held and not held & set(remove)

    def _without_broken(self, add: list[str], remove: list[str]) -> tuple[list[str], list[str]]:
        """*add* and *remove* without tags the library no longer has; those are marked broken and sent no more."""
        there = {tag["id"] for group in self._client.tag_library() for tag in group.get("tag") or ()}
        gone = {tag for tag in [*add, *remove] if tag not in there}
        if gone:
            with self._lock:
                broken = [tag for tag in self._ids.values() if tag.tag_id in gone and tag.state != "broken"]
                self._ledger.save_registered([_broken(tag) for tag in broken], now=self._now())
                self._ids |= {tag.key: _broken(tag) for tag in broken}
        return [tag for tag in add if tag in there], [tag for tag in remove if tag in there]

    # -- bookkeeping -----------------------------------------------------------------------------------------------

    def _note(self, error: WeComError) -> None:
        with self._lock:
            self._report.codes[error.errcode] = self._report.codes.get(error.errcode, 0) + 1
        self._ledger.note_code(self._run, error.path, error.errcode, error.kind, now=self._now())

    def _finish(self, result: Moved) -> None:
        """Count an op's end, ask the breaker, show progress."""
        with self._lock:
            self._report.sent += 1
            if result.state in ("acked", "gone", "failed"):
                setattr(self._report, result.state, getattr(self._report, result.state) + 1)
            self._done += result.state not in ("planned", "unknown")
            tripped = self._breaker.record(result)
        if tripped:
            self._halt = self._halt or tripped
            self._queue.close()
        self._heartbeat()

    def _heartbeat(self, *, force: bool = False) -> None:
        with self._lock:
            due = force or self._clock() - self._beat >= HEARTBEAT_S
            if due:
                self._beat = self._clock()
                times = sorted(self._times)
            done, total = self._done, self._total
        if self._progress is not None:
            self._progress(done, total)
        if not due:
            return
        if times:
            self._report.mean_ms = round(statistics.fmean(times) * 1000, 2)
            self._report.p50_ms = round(statistics.median(times) * 1000, 2)
            self._report.p95_ms = round(times[int(len(times) * 0.95)] * 1000, 2)
        state = {
            "run_id": self._run,
            "done": done,
            "total": total,
            "calls": self._report.calls,
            "mean_ms": self._report.mean_ms,
            "p50_ms": self._report.p50_ms,
            "p95_ms": self._report.p95_ms,
            "per_second": round(self._pacer.per_second, 2),
            "codes": {str(code): times for code, times in sorted(self._report.codes.items())},
        }
        self._ledger.heartbeat(self._lease, now=self._now(), progress=state)


def _broken(tag: RegisteredTag) -> RegisteredTag:
    return replace(tag, state="broken", since="")


class Slots:
    """Calls that may be in flight at once: *width* of them, fewer after a refusal for it."""

    def __init__(self, width: int) -> None:
        self._full = self._width = width
        self._taken = self._good = 0
        self._turn = threading.Condition()

    @contextmanager
    def one(self) -> Iterator[None]:
        """Hold one slot; waits for a free one."""
        with self._turn:
            while self._taken >= self._width:
                self._turn.wait()
            self._taken += 1
        try:
            yield
        finally:
            with self._turn:
                self._taken -= 1
                self._turn.notify()

    def narrow(self) -> None:
        """One call fewer at a time, down to one."""
        with self._turn:
            self._good = 0
            self._width = max(1, self._width - 1)

    def widen(self) -> None:
        """After two hundred good calls, one more at a time."""
        with self._turn:
            self._good += 1
            if self._good >= 200 and self._width < self._full:
                self._good = 0
                self._width += 1
                self._turn.notify()


class Queue:
    """Ops waiting to be sent; gives out none whose customer has an op in hand."""

    def __init__(self) -> None:
        self._waiting: deque[Op] = deque()
        self._source: Iterator[Op] = iter(())
        self._busy: set[str] = set()
        self._behind: dict[str, deque[Op]] = {}
        self._closed = False
        self._turn = threading.Condition()

    def fill(self, ops: Iterator[Op]) -> None:
        """The ops to hand out, in order; read as they are needed."""
        self._source = ops

    def take(self) -> Op | None:
        """The next op, once it may go; None when there is none left or the queue was closed."""
        with self._turn:
            while not self._closed:
                op = self._next()
                if op is not None:
                    self._busy.add(op.external_userid)
                    return op
                if not self._busy:
                    return None
                self._turn.wait()
            return None

    def _next(self) -> Op | None:
        if self._waiting:
            return self._waiting.popleft()
        for op in self._source:
            if op.external_userid not in self._busy:
                return op
            self._behind.setdefault(op.external_userid, deque()).append(op)
        return None

    def give_back(self, op: Op) -> None:
        """*op*'s call has ended; the next op of its customer may go."""
        with self._turn:
            self._busy.discard(op.external_userid)
            behind = self._behind.get(op.external_userid)
            if behind:
                self._waiting.append(behind.popleft())
            elif behind is not None:
                del self._behind[op.external_userid]
            self._turn.notify_all()

    def close(self) -> None:
        """Hand out nothing more."""
        with self._turn:
            self._closed = True
            self._turn.notify_all()


class Breaker:
    """Stops a run whose calls fail too often, that meets one unknown code after another, or that gets no answers."""

    def __init__(self, config: SyncConfig) -> None:
        self._limits = config.breaker
        self._last: deque[bool] = deque(maxlen=config.breaker.window)
        self._strange = self._silent = 0

    def record(self, result: Moved) -> str | None:
        """Take one result in; returns why to stop, or None."""
        self._silent = self._silent + 1 if result.reason == NO_ANSWER else 0
        if self._silent >= self._limits.unclassified_in_a_row:
            return "breaker: WeCom cannot be reached"
        if result.state in ("planned", "unknown"):
            return None
        failed = result.state == "failed"
        self._last.append(failed)
        self._strange = self._strange + 1 if failed and (result.reason or "").startswith("unknown") else 0
        if self._strange >= self._limits.unclassified_in_a_row:
            return f"breaker: {self._strange} unclassified replies in a row, the last with code {result.code}"
        failures = sum(self._last)
        if failures > self._limits.failure_share * self._limits.window:
            return f"breaker: {failures} of the last {len(self._last)} relations failed"
        return None
