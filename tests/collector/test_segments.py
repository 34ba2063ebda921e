"""Segment files: durable on return, closed by rename, recovered whole after a crash."""

from __future__ import annotations

import asyncio
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.collector.segments import BusyError, Journal, SegmentLog, recover


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 11, 21, 10, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


def log(folder: Path, clock: Clock | None = None, **limits: float) -> SegmentLog:
    size, seconds = int(limits.get("max_bytes", 1 << 20)), limits.get("max_seconds", 60)
    return SegmentLog(folder, max_bytes=size, max_seconds=seconds, clock=clock or Clock())


def closed(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.glob("*.jsonl")))


def test_a_file_is_named_only_when_it_is_closed(tmp_path: Path) -> None:
    clock = Clock()
    segments = log(tmp_path, clock)
    segments.append(b"1\n")
    assert not list(tmp_path.glob("*.jsonl"))
    clock.now += timedelta(seconds=59)
    segments.roll()
    assert not list(tmp_path.glob("*.jsonl"))
    clock.now += timedelta(seconds=1)
    segments.roll()
    (path,) = tmp_path.iterdir()
    assert path.name.startswith("20261121T100100.000000Z-")
    assert path.read_bytes() == b"1\n"
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_full_file_is_closed_and_an_empty_one_never_made(tmp_path: Path) -> None:
    segments = log(tmp_path, max_bytes=4)
    segments.append(b"123\n")
    segments.append(b"4\n")
    segments.close()
    segments.close()
    assert sorted(path.read_bytes() for path in tmp_path.iterdir()) == [b"123\n", b"4\n"]


def test_a_failed_sync_leaves_only_what_was_acknowledged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    segments = log(tmp_path)
    segments.append(b"acknowledged\n")

    def broken(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", broken)
        with pytest.raises(OSError, match="No space"):
            segments.append(b"refused\n")
    segments.append(b"later\n")
    segments.close()
    assert sorted(path.read_bytes() for path in tmp_path.iterdir()) == [b"acknowledged\n", b"later\n"]


@given(
    lines=st.lists(st.binary(max_size=30).map(lambda raw: raw.replace(b"\n", b"") + b"\n"), max_size=5), cut=st.data()
)
def test_recovery_keeps_whole_lines_wherever_the_write_stopped(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], cut: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("segments")
    written = b"".join(lines)
    written = written[: cut.draw(st.integers(0, len(written)))]
    (folder / "ab.open").write_bytes(written)
    torn: list[bytes] = []
    recover(folder, torn.append)
    recover(folder, torn.append)
    assert closed(folder) == written[: written.rfind(b"\n") + 1]
    assert closed(folder) + b"".join(torn) == written
    assert not list(folder.glob("*.open"))


def test_recovery_finds_the_last_newline_far_back(tmp_path: Path) -> None:
    (tmp_path / "ab.open").write_bytes(b"whole\n" + b"x" * 300_000)
    torn: list[bytes] = []
    recover(tmp_path, torn.append)
    assert (closed(tmp_path), torn) == (b"whole\n", [b"x" * 300_000])


def test_a_file_in_use_is_left_alone(tmp_path: Path) -> None:
    segments = log(tmp_path)
    segments.append(b"1\n")
    assert recover(tmp_path, lambda _: None) == []
    segments.append(b"2\n")
    segments.close()
    assert closed(tmp_path) == b"1\n2\n"


def test_requests_that_wait_together_share_a_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    syncs: list[int] = []
    monkeypatch.setattr(os, "fdatasync", syncs.append)

    async def run() -> None:
        journal = Journal({"a": log(tmp_path / "a"), "b": log(tmp_path / "b")})
        await asyncio.gather(*(journal.append({"a": b"%d\n" % number}) for number in range(500)))
        await journal.append({"a": b"", "b": b"only b\n"})
        await journal.close()

    asyncio.run(run())
    assert closed(tmp_path / "a").splitlines() == [b"%d" % number for number in range(500)]
    assert closed(tmp_path / "b") == b"only b\n"
    assert len(syncs) <= 4


def test_a_refused_write_is_told_to_everyone_who_waits_and_the_next_one_goes_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> list[object]:
        journal = Journal({"a": log(tmp_path)})
        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", lambda _: os.close(-1))
            results = await asyncio.gather(*(journal.append({"a": b"1\n"}) for _ in range(3)), return_exceptions=True)
        assert not journal.healthy
        await journal.append({"a": b"2\n"})
        assert journal.healthy
        await journal.close()
        return list(results)

    assert all(isinstance(result, OSError) for result in asyncio.run(run()))
    assert closed(tmp_path) == b"2\n"


def test_too_much_waiting_is_refused_before_memory_is_gone(tmp_path: Path) -> None:
    async def run() -> list[object]:
        journal = Journal({"a": log(tmp_path)}, max_waiting=10)
        results = await asyncio.gather(
            *(journal.append({"a": b"12345678\n"}) for _ in range(3)), return_exceptions=True
        )
        await journal.close()
        return list(results)

    first, *others = asyncio.run(run())
    assert first is None
    assert all(isinstance(result, BusyError) for result in others)
