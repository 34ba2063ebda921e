"""Durable micro-batches: append-only files of one JSON object a line, shared by all requests of a process.

A file being written is called `<random>.open` and held by an advisory lock; once full or old it is renamed to
`<UTC time of closing>-<random>.jsonl` and never changes again, so that a reader who globs `*.jsonl` sees whole files
only, in the order in which they were closed. Several processes may collect into one folder, each into its own file.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

OPEN, CLOSED = ".open", ".jsonl"
STAMP = "%Y%m%dT%H%M%S.%fZ"  # begins the name of a closed file
_TAIL_BLOCK = 1 << 16

Clock = Callable[[], datetime]


class BusyError(Exception):
    """More is waiting to be written than memory should hold; the caller may try again shortly."""


def utc_now() -> datetime:
    return datetime.now(UTC)


class SegmentLog:
    """One folder of segments, written by one thread. *max_bytes* and *max_seconds*: when the open file is closed."""

    def __init__(self, directory: Path, *, max_bytes: int, max_seconds: float, clock: Clock = utc_now) -> None:
        self.directory = directory
        self._max_bytes, self._max_seconds, self._clock = max_bytes, max_seconds, clock
        self._file: int | None = None
        self._path = directory
        self._size = 0
        self._opened = clock()

    def append(self, data: bytes) -> None:
        """Write whole lines and return once they are on disk. On `OSError` none of *data* is kept in the file."""
        file = self._open() if self._file is None else self._file
        try:
            _write_all(file, data)
            _sync(file)
        except OSError:
            self._abandon()
            raise
        self._size += len(data)
        if self._size >= self._max_bytes:
            self.close()

    def roll(self) -> None:
        """Close the open file if it is old enough."""
        if self._file is not None and (self._clock() - self._opened).total_seconds() >= self._max_seconds:
            self.close()

    def close(self) -> None:
        """Hand the open file over to readers; an empty one vanishes."""
        if self._file is None:
            return
        file, self._file = self._file, None
        try:
            hand_over(self._path, self._size, self._clock())
        finally:
            os.close(file)  # gives the lock up, after the rename

    def _open(self) -> int:
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self.directory / f"{secrets.token_hex(8)}{OPEN}"
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        sync_folder(self.directory)
        self._file, self._path, self._size, self._opened = file, path, 0, self._clock()
        return file

    def _abandon(self) -> None:
        """After a failed write: cut the file back to what was acknowledged and hand it over; the next write opens anew.

        Where even that fails, the file stays `.open` and the next start recovers it.
        """
        if self._file is None:
            return
        try:
            os.ftruncate(self._file, self._size)
            os.fsync(self._file)
            self.close()
        except OSError:
            if self._file is not None:
                os.close(self._file)
            self._file = None


def _write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


def _sync(file: int) -> None:
    """Content and length to disk; macOS has no `fdatasync`."""
    if hasattr(os, "fdatasync"):
        os.fdatasync(file)
    else:
        os.fsync(file)


def hand_over(path: Path, size: int, now: datetime) -> Path | None:
    """Rename an open segment of *size* bytes to its closed name, durably. None, and no file, when it is empty."""
    if size == 0:
        path.unlink()
        return None
    stamp = now.astimezone(UTC).strftime(STAMP)
    target = path.with_name(f"{stamp}-{path.name[:8]}{CLOSED}")
    path.rename(target)
    sync_folder(path.parent)
    return target


def sync_folder(directory: Path) -> None:
    """Make creations and renames in *directory* survive a loss of power."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class Recovered:
    """One segment a stopped process left behind. *torn*: bytes after its last whole line, never acknowledged."""

    path: Path | None
    torn: bytes


def recover(directory: Path, keep_torn: Callable[[bytes], None], *, clock: Clock = utc_now) -> list[Recovered]:
    """Close what earlier processes left open in *directory*; files of living processes are left alone.

    Whole lines stay. A torn last line goes to *keep_torn*, which returns once it is durable, and is cut off. May be
    interrupted anywhere and run again.
    """
    found = []
    for path in sorted(directory.glob(f"*{OPEN}")):
        with _locked(path) as file:
            if file is None:
                continue
            size, torn = _torn_tail(file)
            if torn:
                keep_torn(torn)
                os.ftruncate(file, size)
            os.fsync(file)
            found.append(Recovered(hand_over(path, size, clock()), torn))
    return found


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[int | None]:
    """The file, held; None when a living process holds it or has just renamed it."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        yield None
        return
    try:
        yield file if _lock(file) and path.exists() else None
    finally:
        os.close(file)


def _lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _torn_tail(file: int) -> tuple[int, bytes]:
    """(bytes up to and with the last newline, what follows it)."""
    end = os.fstat(file).st_size
    tail = b""
    while end:
        start = max(0, end - _TAIL_BLOCK)
        block = os.pread(file, end - start, start)
        cut = block.rfind(b"\n")
        if cut >= 0:
            return start + cut + 1, block[cut + 1 :] + tail
        tail, end = block + tail, start
    return 0, tail


class Journal:
    """Group commit for one event loop: requests that wait together share one write and one fsync per log.

    While a group is being synced, the next one gathers; nothing waits for a timer. *max_waiting*: bytes that may wait.
    """

    def __init__(self, logs: Mapping[str, SegmentLog], *, max_waiting: int = 64 << 20) -> None:
        self._logs = dict(logs)
        self._max_waiting = max_waiting
        self._waiting: list[tuple[Mapping[str, bytes], asyncio.Future[None]]] = []
        self._waiting_bytes = 0
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="journal")
        self._commits: asyncio.Task[None] | None = None
        self.healthy = True

    async def append(self, writes: Mapping[str, bytes]) -> None:
        """Return once every entry of *writes* (log name -> whole lines) is on disk.

        Raises `BusyError` when too much is waiting and `OSError` when the disk refuses; then the caller must not
        acknowledge, and lines may still be found later: readers drop repeats.
        """
        size = sum(len(data) for data in writes.values())
        if self._waiting and self._waiting_bytes + size > self._max_waiting:
            raise BusyError
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((writes, done))
        self._waiting_bytes += size
        if self._commits is None or self._commits.done():
            self._commits = asyncio.create_task(self._commit_all())
        await done

    async def roll(self) -> None:
        """Close the segments that are old enough."""
        await self._in_thread(self._roll_all)

    async def close(self) -> None:
        """Finish what waits and close every segment."""
        if self._commits is not None:
            await self._commits
        await self._in_thread(self._close_all)
        self._thread.shutdown()

    async def _in_thread(self, work: Callable[[], object]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def _commit_all(self) -> None:
        while self._waiting:
            group, self._waiting, self._waiting_bytes = self._waiting, [], 0
            merged = _merged([writes for writes, _ in group])
            try:
                await self._in_thread(partial(self._commit, merged))
            except Exception as error:  # whoever waits must hear of any failure
                self.healthy = False
                _resolve([done for _, done in group], error)
            else:
                self.healthy = True
                _resolve([done for _, done in group], None)

    def _roll_all(self) -> None:
        for log in self._logs.values():
            log.roll()

    def _close_all(self) -> None:
        for log in self._logs.values():
            log.close()

    def _commit(self, merged: Mapping[str, bytes]) -> None:
        for name, data in merged.items():
            self._logs[name].append(data)


def _merged(writes: Sequence[Mapping[str, bytes]]) -> dict[str, bytes]:
    parts: dict[str, list[bytes]] = {}
    for entry in writes:
        for name, data in entry.items():
            if data:
                parts.setdefault(name, []).append(data)
    return {name: b"".join(pieces) for name, pieces in parts.items()}


def _resolve(futures: Sequence[asyncio.Future[None]], error: Exception | None) -> None:
    for future in futures:
        if future.done():  # its request was cancelled
            continue
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)
