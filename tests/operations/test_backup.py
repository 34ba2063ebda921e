"""A backup is whole or not there, and a restore gives back just what was backed up or changes nothing."""

from __future__ import annotations

import hashlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pytest

from cdp.errors import ConfigError, FatalError, RetriableError
from cdp.privacy.traces import Traces
from tests.operations.homes import land_batches, registry
from warehouse import backup
from warehouse.backup import create_backup, last_backup, read_manifest, restore_backup, verify_backup
from warehouse.home import Home
from warehouse.landing_ledger import LandingLedger
from warehouse.privacy_ledger import PrivacyLedger


def contents(home: Home) -> dict[str, str]:
    """Path -> checksum of all files of a home that a backup keeps byte for byte."""
    files = [path for path in home.root.rglob("*") if path.is_file()]
    return {
        str(path.relative_to(home.root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.suffix in (".parquet", ".yaml", ".json", ".key") and "backups" not in path.parts
    }


def test_a_lost_machine_comes_back_from_one_file(home: Home, tmp_path: Path, now: datetime) -> None:
    report = create_backup(home, to=tmp_path / "elsewhere", now=now, with_secrets=True)
    assert report.missing == ("inbox", "audit"), "there is no file in them"
    before, people, batches = contents(home), registry(home), LandingLedger(home.landing_ledger).batches()

    fresh = Home(tmp_path / "new machine")
    restored = restore_backup(report.path, fresh, now=now)

    before.pop("logs/last_backup.json", None)
    before.pop("data/forgotten.json", None)  # written with the archive, and beside it
    assert contents(fresh) == before
    assert not fresh.marts.exists()
    assert registry(fresh) == people
    assert LandingLedger(fresh.landing_ledger).batches() == batches
    with closing(sqlite3.connect(fresh.sync_ledger)) as con:
        assert con.execute("select count(*) from ops").fetchone() == (500,)
    assert restored.secrets_to_bring == ()
    assert restored.replaced is None
    assert fresh.secrets.stat().st_mode & 0o777 == 0o700
    assert not list(fresh.root.glob(".cdp-*"))


def test_the_archive_is_private_and_leaves_secrets_out_unless_asked(home: Home, tmp_path: Path, now: datetime) -> None:
    report = create_backup(home, to=tmp_path, now=now)
    assert report.path.stat().st_mode & 0o777 == 0o600
    assert "secrets" not in report.manifest.parts
    assert b"6b" * 32 not in report.path.read_bytes()
    fresh = Home(tmp_path / "fresh")
    assert restore_backup(report.path, fresh, now=now).secrets_to_bring == ("identity.key",)
    fresh.secrets.mkdir()
    (fresh.secrets / "identity.key").write_text("6b" * 32, encoding="ascii")
    assert restore_backup(report.path, fresh, now=now, force=True).secrets_to_bring == ()
    (fresh.secrets / "identity.key").write_bytes(b"another")
    assert restore_backup(report.path, fresh, now=now, force=True).secrets_to_bring == ("identity.key",)


def test_a_backup_is_recorded_for_the_doctor(home: Home, tmp_path: Path, now: datetime) -> None:
    assert last_backup(home) is None
    report = create_backup(home, to=tmp_path, now=now)
    record = last_backup(home)
    assert record is not None
    assert (record.path, record.created_at) == (str(report.path), now)


def test_two_backups_in_one_second_are_two_files(home: Home, tmp_path: Path, now: datetime) -> None:
    first = create_backup(home, to=tmp_path, now=now, parts=["sync"]).path
    second = create_backup(home, to=tmp_path, now=now, parts=["sync"]).path
    assert first != second
    assert verify_backup(first).files == verify_backup(second).files


def test_a_home_with_data_is_not_overwritten_without_force(home: Home, tmp_path: Path, now: datetime) -> None:
    report = create_backup(home, to=tmp_path, now=now)
    before = contents(home)
    with pytest.raises(ConfigError, match=r"is not empty.*config, dagster, data"):
        restore_backup(report.path, home, now=now)
    assert contents(home) == before


def test_force_puts_aside_what_was_there(home: Home, tmp_path: Path, now: datetime) -> None:
    report = create_backup(home, to=tmp_path, now=now)
    land_batches(home, "shop", "orders", [7])
    (home.root / "data" / "landing.sqlite-wal").write_bytes(b"stale")
    restored = restore_backup(report.path, home, now=now, force=True)
    assert restored.replaced is not None
    assert len(LandingLedger(home.landing_ledger).batches()) == 3
    assert not (home.root / "data" / "landing.sqlite-wal").exists(), "a stale side file would spoil the restored one"
    assert len(list((restored.replaced / "data" / "raw").rglob("*.parquet"))) == 4
    assert (restored.replaced / "config" / "cdp.yaml").exists()
    assert (home.config / "cdp.yaml").exists()
    assert not (home.config / "cdp.yaml.restoring").exists()


def test_one_part_comes_back_alone(home: Home, tmp_path: Path, now: datetime) -> None:
    report = create_backup(home, to=tmp_path, now=now)
    people = registry(home)
    land_batches(home, "shop", "orders", [7])
    home.warehouse.write_bytes(b"not a database at all")
    restored = restore_backup(report.path, home, now=now, parts=["warehouse"], force=True)
    assert restored.parts == ("warehouse",)
    assert not home.marts.exists(), "built on other ids: put aside, the next run builds it anew"
    assert registry(home) == people
    assert len(LandingLedger(home.landing_ledger).batches()) == 4, "what landed since the backup stays"
    assert (home.config / "cdp.yaml").exists()


def test_records_of_erasures_and_queries_are_joined_and_never_set_back(
    home: Home, tmp_path: Path, now: datetime
) -> None:
    """A request and a query since the backup stay; on a new machine those of the backup come along."""

    def forget(place: Home, phone: str, at: datetime) -> str:
        ledger = PrivacyLedger(place)
        request = ledger.begin(
            Traces(frozenset({("phone", phone)})), [], secret=b"key", actor="dpo", reason="asked", now=at,
            whole_person=True, expires_at=None,
        )  # fmt: skip
        ledger.finish(request, {"data/raw": [1, 0]}, now=at)
        return request

    log = home.logs / "queries.jsonl"
    log.parent.mkdir(exist_ok=True)
    first = forget(home, "13612345678", now)
    log.write_text('{"at": "1"}\n', encoding="utf-8")
    archive = create_backup(home, to=tmp_path / "elsewhere", now=now).path
    second = forget(home, "13712345678", now + timedelta(days=1))
    with log.open("a", encoding="utf-8") as file:
        file.write('{"at": "2"}\n')

    restore_backup(archive, home, now=now + timedelta(days=2), force=True)
    assert [request.request_id for request in PrivacyLedger(home).requests()] == [first, second]
    assert log.read_text(encoding="utf-8") == '{"at": "1"}\n{"at": "2"}\n'
    assert PrivacyLedger(home).unfinished(), "whom the archive still knows is to be forgotten again"

    fresh = Home(tmp_path / "new machine")
    restore_backup(archive, fresh, now=now + timedelta(days=2))
    assert [request.request_id for request in PrivacyLedger(fresh).requests()] == [first]
    assert len(PrivacyLedger(fresh).digests("text", now=now)) == 2, "the list beside the archive is newer than itself"
    assert (fresh.logs / "queries.jsonl").read_text(encoding="utf-8") == '{"at": "1"}\n'
    assert PrivacyLedger(fresh).path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("place", [0.02, 0.3, 0.6, 0.9])
def test_a_damaged_archive_changes_nothing(home: Home, tmp_path: Path, now: datetime, place: float) -> None:
    path = create_backup(home, to=tmp_path / "out", now=now).path
    data = bytearray(path.read_bytes())
    manifest = read_manifest(path)
    assert manifest.total_bytes < len(data)
    start = int(len(data) * place) // 512 * 512
    for offset in range(start, start + 1024):
        data[offset] ^= 0xFF
    path.write_bytes(data)
    fresh = Home(tmp_path / "fresh")
    with pytest.raises(FatalError, match=r"damaged|ends early|cannot be read"):
        restore_backup(path, fresh, now=now)
    assert not list(fresh.root.iterdir()) if fresh.root.exists() else True


@pytest.mark.parametrize("share", [0.0, 0.2, 0.7, 0.9])
def test_an_archive_cut_off_is_known_as_such(home: Home, tmp_path: Path, now: datetime, share: float) -> None:
    path = create_backup(home, to=tmp_path / "out", now=now).path
    os.truncate(path, int(path.stat().st_size * share))
    with pytest.raises(FatalError, match=r"ends early|damaged"):
        verify_backup(path)


def test_a_file_that_is_no_backup_is_refused(tmp_path: Path, home: Home, now: datetime) -> None:
    path = tmp_path / "x.tar"
    with pytest.raises(ConfigError, match="is not there"):
        read_manifest(path)
    path.write_bytes(b"hello" * 1000)
    with pytest.raises(FatalError, match="not a backup"):
        restore_backup(path, home, now=now, force=True)


def test_collected_events_and_unread_files_are_in_it(home: Home, tmp_path: Path, now: datetime) -> None:
    collected = home.root / "data" / "collected" / "segment" / "0001.jsonl"
    collected.parent.mkdir(parents=True)
    collected.write_text('{"event": "a"}\n', encoding="utf-8")
    (home.inbox / "订单.csv").write_text("订单号\n1\n", encoding="utf-8")
    (home.inbox / "half.csv.tmp").write_text("x", encoding="utf-8")
    fresh = Home(tmp_path / "fresh")
    restore_backup(create_backup(home, to=tmp_path / "out", now=now).path, fresh, now=now)
    assert (fresh.root / "data" / "collected" / "segment" / "0001.jsonl").read_bytes() == collected.read_bytes()
    assert [path.name for path in fresh.inbox.iterdir()] == ["订单.csv"]


def test_a_file_renamed_while_it_is_copied_is_taken_under_its_new_name(
    home: Home, tmp_path: Path, now: datetime
) -> None:
    folder = home.root / "data" / "collected"
    folder.mkdir()
    for name in ("b.open", "c.open"):
        (folder / name).write_bytes(b"{}\n" * 10)

    def close_the_segment(done: int, total: int) -> None:
        if (folder / "c.open").exists() and done:
            (folder / "c.open").rename(folder / "a.jsonl")

    report = create_backup(home, to=tmp_path, now=now, parts=["landing"], progress=close_the_segment)
    names = {Path(item.path).name for item in report.manifest.files if "collected" in item.path}
    assert names == {"a.jsonl", "b.open"}


def test_a_manifest_cannot_point_outside_the_home() -> None:
    for path in ("/etc/passwd", "../x", "data/raw/../../../x", "data/other", "data/rawest/x"):
        with pytest.raises(ValueError, match="outside"):
            backup.BackupFile(path=path, part="landing", bytes=1, sha256="0")


def test_a_running_writer_is_waited_for_not_copied(home: Home, tmp_path: Path, now: datetime) -> None:
    code = f"import duckdb; c = duckdb.connect({str(home.warehouse)!r}); print('open', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        with pytest.raises(RetriableError, match="in use by process"):
            create_backup(home, to=tmp_path / "out", now=now)
        assert not list((tmp_path / "out").glob("*.tar"))
        with pytest.raises(RetriableError, match="in use by process"):
            restore_backup(
                create_backup(home, to=tmp_path / "out", now=now, parts=["sync"]).path, home, now=now, force=True
            )
        writer.communicate(b"\n")


def test_the_warehouse_stays_locked_while_it_is_copied(
    home: Home, tmp_path: Path, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """POSIX drops a process's locks on a file when it closes any descriptor of it; the backup must not."""
    seen = []

    def try_to_open(done: int, total: int) -> None:
        if not seen:
            code = f"import duckdb; duckdb.connect({str(home.warehouse)!r})"
            seen.append(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr)

    create_backup(home, to=tmp_path, now=now, parts=["warehouse"], progress=try_to_open)
    assert "Conflicting lock" in seen[0]


def test_a_ledger_written_meanwhile_is_copied_consistently(home: Home, tmp_path: Path, now: datetime) -> None:
    with closing(sqlite3.connect(home.sync_ledger)) as con:
        con.execute("pragma journal_mode = wal")
        con.execute("delete from ops where seq >= 100")
        con.commit()
        con.execute("begin")
        con.execute("delete from ops")
        path = create_backup(home, to=tmp_path, now=now, parts=["sync"]).path
        con.rollback()
    fresh = Home(tmp_path / "fresh")
    restore_backup(path, fresh, now=now)
    with closing(sqlite3.connect(fresh.sync_ledger)) as con:
        assert con.execute("select count(*) from ops").fetchone() == (100,)


def test_the_warehouse_keeps_its_storage_version(home: Home, tmp_path: Path, now: datetime) -> None:
    create_backup(home, to=tmp_path, now=now, parts=["warehouse"])
    with duckdb.connect() as con:
        con.execute(f"attach '{home.warehouse}' as m (read_only)")
        tags = con.execute("select tags from duckdb_databases() where database_name = 'm'").fetchall()
    assert "v1.4" in str(tags)


def test_kill_during_backup_leaves_the_last_good_one_and_no_false_one(
    home: Home, tmp_path: Path, now: datetime
) -> None:
    out = tmp_path / "out"
    good = create_backup(home, to=out, now=now).path
    (home.raw / "shop" / "orders" / "big.parquet").write_bytes(os.urandom(40_000_000))
    for wait in (0.0, 0.02, 0.1, 0.2):
        _kill_during(_backup_code(home, out), wait)
        assert list(out.glob("*.tar")) == [good]
        verify_backup(good)
    assert list(out.glob(f"{backup.WORK_PREFIX}*")), "a kill leaves its hidden folder"
    verify_backup(create_backup(home, to=out, now=datetime(2026, 11, 21, tzinfo=UTC)).path)
    assert not list(out.glob(f"{backup.WORK_PREFIX}*")), "the next backup removes it"


def test_kill_during_restore_is_finished_by_running_it_again(home: Home, tmp_path: Path, now: datetime) -> None:
    path = create_backup(home, to=tmp_path / "out", now=now, with_secrets=True).path
    expected = contents(home)
    expected.pop("logs/last_backup.json", None)
    expected.pop("data/forgotten.json", None)
    for number, wait in enumerate((0.0, 0.01, 0.02, 0.04, 0.08)):
        fresh = Home(tmp_path / f"fresh{number}")
        code = (
            "from datetime import UTC, datetime; from pathlib import Path; from warehouse.backup import restore_backup;"
            "from warehouse.home import Home; print('go', flush=True);"
            f"restore_backup(Path({str(path)!r}), Home(Path({str(fresh.root)!r})), now=datetime.now(UTC)); input()"
        )
        _kill_during(code, wait)
        if (fresh.config / "cdp.yaml").exists():
            assert contents(fresh) == expected, "a home that other verbs accept is whole"
        restore_backup(path, fresh, now=now, force=True)
        assert {name: digest for name, digest in contents(fresh).items() if "replaced-" not in name} == expected
        assert registry(fresh) == registry(home)


def test_a_restore_cut_off_at_any_step_of_the_swap_is_not_taken_for_a_home(
    home: Home, tmp_path: Path, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = create_backup(home, to=tmp_path / "out", now=now).path
    finished_after = 0
    while not _cut_off_swap(path, home, now, monkeypatch, after=finished_after):
        if (home.config / "cdp.yaml").exists():
            assert registry(home)
            assert len(LandingLedger(home.landing_ledger).batches()) == 3
        restore_backup(path, home, now=now, force=True)
        assert home.require() == home
        finished_after += 1
    assert finished_after >= 8


def _cut_off_swap(path: Path, home: Home, now: datetime, monkeypatch: pytest.MonkeyPatch, *, after: int) -> bool:
    """Restore, interrupted at the rename number *after*; True when it came to its end before that."""
    real, calls = os.replace, 0

    def replace(source: Path, target: Path) -> None:
        nonlocal calls
        calls += 1
        if calls > after:
            raise KeyboardInterrupt
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(backup.os, "replace", replace)
        try:
            restore_backup(path, home, now=now, force=True)
        except KeyboardInterrupt:
            return False
    return True


def _backup_code(home: Home, out: Path) -> str:
    return (
        "from datetime import UTC, datetime; from pathlib import Path; from warehouse.backup import create_backup;"
        "from warehouse.home import Home; import time; print('go', flush=True);"
        f"create_backup(Home(Path({str(home.root)!r})), to=Path({str(out)!r}), now=datetime.now(UTC),"
        " progress=lambda done, total: time.sleep(0.05))"
    )


def _kill_during(code: str, wait: float) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"go\n"
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        process.wait()
