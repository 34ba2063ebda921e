"""Publishing, pointing, rolling back, pruning; readers never notice, crashes leave the last good version."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pytest

from cdp.errors import CheckFailedError, ConfigError, FatalError, RetriableError
from warehouse.connection import open_warehouse
from warehouse.expectations import CheckResult
from warehouse.home import Home
from warehouse.publish import current, publish, rollback, versions
from warehouse.reader import connect

AS_OF = datetime(2026, 3, 1, tzinfo=UTC)
FAILED = CheckResult("a__unique", "marts.things", False, "error", "1 of 2 rows fail", (), "每行一个 / one each")


def make(home: Home, number: int, *, rows: int = 10, **options: object) -> None:
    """Build marts whose every table says *number*, and publish them as `v<number>`."""
    with open_warehouse(home, as_of=AS_OF, timezone="Asia/Shanghai") as con:
        for table in ("things", "others"):
            con.execute(
                f"create or replace table marts_db.marts.{table} as select {number} as number from range({rows})"
            )
        con.execute("create or replace view marts_db.marts.both as select * from marts_db.marts.things")
        options = {"checks": [], "now": AS_OF + timedelta(hours=number)} | options
        publish(home, con, version=f"v{number}", **options)  # type: ignore[arg-type]


def read(home: Home, **options: object) -> int:
    with connect(home, **options) as con:  # type: ignore[arg-type]
        return con.execute("select max(number) from marts.both").fetchall()[0][0]


def test_a_version_says_what_it_is(tmp_path: Path) -> None:
    home = Home(tmp_path)
    warn = CheckResult("b__not_null", "marts.things", False, "warn", "2 of 10", (), "b is known")
    make(home, 1, checks=[warn], lineage={"marts.things": {"number": ["staging.x.number"]}})
    found = current(home)
    assert (found.version, found.as_of, found.tables) == ("v1", AS_OF, {"things": 10, "others": 10})
    assert found.warnings == ["marts.things: b is known"]
    with connect(home) as con:
        assert con.execute("select version, edition, timezone from _meta.version").fetchall() == [
            ("v1", "marts", "Asia/Shanghai")
        ]
        assert con.execute("select name, severity, passed from _meta.checks").fetchall() == [
            ("b__not_null", "warn", False)
        ]
        assert con.execute("select made_from from _meta.lineage").fetchall() == [(["staging.x.number"],)]
    assert (home.published / "current.duckdb").resolve() == found.path


def test_a_version_holds_nothing_but_marts(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with open_warehouse(home, as_of=AS_OF, timezone="Asia/Shanghai") as con:
        con.execute("create schema marts_db.meta")
        con.execute("create table marts_db.meta.touched_people as select 'p1' as one_id")
    make(home, 1)
    make(home, 2)
    with duckdb.connect(str(current(home).path), read_only=True) as con:
        schemas = con.execute(
            "select schema_name from duckdb_schemas() where not internal and database_name like 'marts%'"
        )
        assert sorted(schemas.fetchall()) == [("_meta",), ("marts",)]
    with open_warehouse(home, as_of=AS_OF, timezone="Asia/Shanghai") as con:
        assert con.execute("select * from marts_db.meta.touched_people").fetchall() == [("p1",)]


def test_a_failed_blocking_check_changes_nothing_for_readers(tmp_path: Path) -> None:
    home = Home(tmp_path)
    make(home, 1)
    with pytest.raises(CheckFailedError, match="1 blocking check"):
        make(home, 2, checks=[FAILED])
    assert read(home) == 1
    assert [item.version for item in versions(home)] == ["v1"]


def test_old_versions_go_and_an_open_reader_keeps_its_own(tmp_path: Path) -> None:
    home = Home(tmp_path)
    make(home, 1)
    with connect(home) as reader:
        for number in range(2, 6):
            make(home, number, keep=2)
        assert [item.version for item in versions(home)] == ["v5", "v4"]
        assert reader.execute("select max(number) from marts.things").fetchall() == [(1,)]
    assert read(home) == 5
    assert {path.name for path in home.published.glob("*.duckdb")} == {
        "marts-v4.duckdb",
        "marts-v5.duckdb",
        "current.duckdb",
    }


def test_rollback_and_forward_again(tmp_path: Path) -> None:
    home = Home(tmp_path)
    for number in (1, 2, 3):
        make(home, number)
    started = time.perf_counter()
    assert rollback(home).version == "v2"
    assert time.perf_counter() - started < 1
    assert (read(home), read(home, version="v3")) == (2, 3)
    assert rollback(home, "v1").version == "v1"
    with pytest.raises(ConfigError, match="no version before `v1`"):
        rollback(home)
    with pytest.raises(ConfigError, match=r"no published version is called `v33`; did you mean `v3`"):
        rollback(home, "v33")
    make(home, 4)
    assert read(home) == 4


def test_the_edition_with_personal_data_replaces_masked_tables_only(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with open_warehouse(home, as_of=AS_OF, timezone="Asia/Shanghai") as con:
        con.execute("create table marts_db.marts.contacts as select '138****8000' as phone")
        con.execute("create table marts_db.marts.things as select 1 as number")
        con.execute("create schema marts_pii")
        con.execute("create table marts_pii.contacts as select '13800138000' as phone")
        con.execute("create table identity.identifier as select '13900139000' as value_norm")
        publish(home, con, version="v1", checks=[], pii=True)
        publish(home, con, version="v2", checks=[])
    with connect(home, version="v1", pii=True) as con:
        assert con.execute("select phone, number from contacts, things").fetchall() == [("13800138000", 1)]
        assert con.execute("select edition from _meta.version").fetchall() == [("marts_pii",)]
    assert (home.published / "marts_pii-v1.duckdb").stat().st_mode & 0o777 == 0o600
    for path in home.published.glob("marts-*.duckdb"):
        assert b"13800138000" not in path.read_bytes()
    for path in home.published.glob("marts*.duckdb"):
        assert b"13900139000" not in path.read_bytes()
    with pytest.raises(ConfigError, match="without its edition for personal data"):
        connect(home, pii=True)


def test_a_view_that_reads_outside_is_not_published(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with open_warehouse(home, as_of=AS_OF, timezone="Asia/Shanghai") as con:
        con.execute("create table staging.secret as select 1 as x")
        con.execute("create view marts_db.marts.leak as select * from warehouse.staging.secret")
        with pytest.raises(FatalError, match=r"`marts.leak` cannot be read from a copy"):
            publish(home, con, version="v1", checks=[])
    with pytest.raises(ConfigError, match="nothing has been published yet"):
        current(home)


@pytest.mark.parametrize("name", ["", "../v1", "v 1", "v1;", "-v", "版本"])
def test_a_version_name_is_a_plain_word(tmp_path: Path, name: str) -> None:
    with open_warehouse(Home(tmp_path), as_of=AS_OF, timezone="UTC") as con, pytest.raises(ConfigError):
        publish(Home(tmp_path), con, version=name, checks=[])


def test_files_open_in_the_format_of_older_versions(tmp_path: Path) -> None:
    home = Home(tmp_path)
    make(home, 1)
    with duckdb.connect(str(current(home).path), read_only=True) as con:
        tags = con.execute("select tags from duckdb_databases() where not internal").fetchall()[0][0]
    assert tags["storage_version"].startswith("v1.4")


def test_a_held_warehouse_is_told_with_its_holder(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with open_warehouse(home, as_of=AS_OF, timezone="UTC"):
        code = (
            "import sys; from datetime import datetime, UTC; from pathlib import Path\n"
            "from warehouse.connection import open_warehouse; from warehouse.home import Home\n"
            "from cdp.errors import RetriableError\n"
            "try:\n    open_warehouse(Home(Path(sys.argv[1])), as_of=datetime.now(UTC), timezone='UTC').__enter__()\n"
            "except RetriableError as error: print(error)\n"
        )
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert f"warehouse.duckdb is in use by process {os.getpid()}" in done.stdout
    assert RetriableError.code == "retriable"


def test_a_damaged_file_and_a_wrong_zone_are_told(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with pytest.raises(ConfigError, match="`Asia/Peking` is not a time zone"):
        open_warehouse(home, as_of=AS_OF, timezone="Asia/Peking").__enter__()
    with pytest.raises(ConfigError, match="no time zone"):
        open_warehouse(home, as_of=datetime(2026, 3, 1), timezone="UTC").__enter__()
    home.marts.write_bytes(b"junk" * 10_000)
    with pytest.raises(FatalError, match="cannot be opened as a DuckDB file"):
        open_warehouse(home, as_of=AS_OF, timezone="UTC").__enter__()
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="is not there"):
        open_warehouse(Home(tmp_path / "empty"), as_of=AS_OF, timezone="UTC", read_only=True).__enter__()


READER = """
import sys, time
from pathlib import Path
from warehouse.home import Home
from warehouse.reader import connect
home, until, seen, reads = Home(Path(sys.argv[1])), Path(sys.argv[2]), [], 0
while not until.exists():
    with connect(home, threads=1) as con:
        version = con.execute("select version from _meta.version").fetchall()[0][0]
        numbers = con.execute(
            "select distinct number from (select number from things union all select number from others)").fetchall()
    assert numbers == [(int(version[1:]),)], (version, numbers)
    if seen: assert int(version[1:]) >= seen[-1], (version, seen[-1])
    seen.append(int(version[1:])); reads += 1
    time.sleep(0.05)
print(reads, len(set(seen)))
"""


@pytest.mark.slow
def test_a_reader_every_50_ms_never_notices_100_publishes(tmp_path: Path) -> None:
    """Row 23 of the sync page: no lock error, no torn version, versions only grow; readers in two other processes."""
    home, done = Home(tmp_path / "home"), tmp_path / "done"
    make(home, 0, rows=20_000)
    readers = [
        subprocess.Popen([sys.executable, "-c", READER, str(home.root), str(done)], stdout=-1, stderr=-1, text=True)
        for _ in range(2)
    ]
    for number in range(1, 101):
        make(home, number, rows=20_000)
    done.touch()
    for reader in readers:
        out, err = reader.communicate(timeout=60)
        assert reader.returncode == 0, err[-2000:]
        reads, distinct = map(int, out.split())
        assert reads > 50
        assert distinct > 20


def test_a_reader_of_this_process_sees_each_new_version(tmp_path: Path) -> None:
    """The instance cache goes by path: an old connection that stays open must not hide the new version."""
    home = Home(tmp_path)
    make(home, 1)
    old = connect(home)
    assert read(home) == 1  # a second connection to one file, settings of the first being locked
    stop, seen = threading.Event(), []

    def follow() -> None:
        while not stop.is_set():
            seen.append(read(home))

    thread = threading.Thread(target=follow)
    thread.start()
    for number in range(2, 8):
        make(home, number, keep=1)
    stop.set()
    thread.join()
    assert seen == sorted(seen)
    assert old.execute("select max(number) from things").fetchall() == [(1,)]
    assert read(home) == 7
    old.close()


WRITER = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from tests.warehouse.test_publication import make
from warehouse.home import Home
print("ready", flush=True)
for number in range(2, 10_000):
    make(Home(Path(sys.argv[1])), number, rows=200_000)
    print(number, flush=True)
"""


@pytest.mark.parametrize("delay", [0.05, 0.15, 0.3])
def test_kill_during_publish_keeps_the_last_good_version(tmp_path: Path, delay: float) -> None:
    home = Home(tmp_path)
    make(home, 1, rows=200_000)
    root = Path(__file__).parents[2]
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=-1, text=True, cwd=root)
    assert writer.stdout is not None
    writer.stdout.readline()
    writer.stdout.readline()
    time.sleep(delay)
    writer.send_signal(signal.SIGKILL)
    told = [int(line) for line in writer.communicate()[0].split()]
    number = read(home)
    assert number >= max([2, *told])
    make(home, number + 1)
    assert read(home) == number + 1
    pointer = json.loads((home.published / "current.json").read_text())
    assert pointer["version"] == f"v{number + 1}"
    assert not list(home.published.glob("*.tmp"))
    complete = {item.version for item in versions(home)}
    assert {path.stem.removeprefix("marts-") for path in home.published.glob("marts-*.duckdb")} == complete
