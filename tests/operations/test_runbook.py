"""Every procedure of docs/runbook.md, done on a small home: what breaks, what stays readable, what brings it back."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest
import typer

from app.main import app
from cdp.config import parse
from cdp.errors import FatalError
from cdp.identity.rules import IdentityRules
from connectors import registry
from connectors.settings import SourcesConfig
from tests.operations.homes import land_batches
from tests.operations.published import CHECKS
from warehouse.backup import create_backup, restore_backup, sqlite_fault, verify_backup
from warehouse.connection import open_warehouse
from warehouse.doctor import examine
from warehouse.home import Home
from warehouse.identity_store import resolve_identities
from warehouse.landing import land
from warehouse.landing_ledger import LandingLedger
from warehouse.models import load_models, run_models
from warehouse.publish import current, publish
from warehouse.raw import register_raw
from warehouse.reader import connect
from warehouse.secrets import identity_secret
from warehouse.sync_export import register_sync
from warehouse.sync_ledger import SyncLedger

ROOT = Path(__file__).parents[2]
RUNBOOK = ROOT / "docs" / "runbook.md"
NOW = datetime(2026, 11, 20, 4, 0, tzinfo=UTC)
ZONE = "Asia/Shanghai"


def brand_home(root: Path) -> Home:
    """A home with one file source, made empty."""
    home = Home(root)
    for folder in (home.config, home.inbox, home.secrets):
        folder.mkdir(parents=True)
    (home.config / "cdp.yaml").write_text("name: 山茶集\n", encoding="utf-8")
    (home.config / "sources.yaml").write_text(
        "sources:\n  crm:\n    connector: file\n    streams:\n      people:\n        path: inbox/people*.csv\n"
        "        columns: {person_key: crm_id}\n",
        encoding="utf-8",
    )
    return home


def arrive(home: Home, name: str, rows: list[str]) -> None:
    """An exported file in the inbox: crm_id, phone, unionid."""
    (home.inbox / name).write_text("\n".join(["crm_id,phone,unionid", *rows]) + "\n", encoding="utf-8")


def land_all(home: Home, *, now: datetime) -> SourcesConfig:
    """Land what every source has, as a run does first."""
    sources = parse((home.config / "sources.yaml").read_text(encoding="utf-8"), SourcesConfig, file="sources.yaml")
    for name, settings in sources.enabled().items():
        connector = registry.build(name, settings, root=home.root, environment={}, now=now, timezone=ZONE)
        for stream in connector.streams():
            land(home, name, connector, stream, now=now)
    return sources


def run_the_way(home: Home, *, now: datetime) -> dict[tuple[str, str], str]:
    """Land, stage, resolve, as a run does. Returns identifier -> one_id."""
    sources = land_all(home, now=now)
    rules = parse((ROOT / "config" / "identity.yaml").read_text(encoding="utf-8"), IdentityRules, file="identity.yaml")
    graph = load_models(ROOT / "models")
    with open_warehouse(home, as_of=now, timezone=ZONE) as con:
        register_raw(con, home, registry.raw_sources(sources, timezone=ZONE), registry.all_streams())
        with SyncLedger(home.sync_ledger) as ledger:
            register_sync(con, ledger)
        run_models(con, graph, [*graph.select("staging"), *graph.select("identity")])
        resolve_identities(con, rules, run_id=now.isoformat(), as_of=now, secret=identity_secret(home))
        rows = con.execute("select type, value, one_id from identity.resolved order by all").fetchall()
    return {(kind, value): one_id for kind, value, one_id in rows}


def people(first: int, last: int) -> list[str]:
    return [f"C{number:04d},1380000{number:04d},U{number:04d}" for number in range(first, last)]


# ------------------------------------------------------------------------------------------ a damaged warehouse


def test_a_damaged_warehouse_is_rebuilt_from_raw_and_the_registry(tmp_path: Path) -> None:
    home = brand_home(tmp_path / "home")
    arrive(home, "people-1.csv", people(0, 60))
    run_the_way(home, now=NOW)
    # C0001 turns out to be the person behind C0002's phone: two ids become one, which only the registry remembers
    arrive(home, "people-2.csv", ["C0001,13800000002,U0001"])
    before = run_the_way(home, now=NOW + timedelta(days=1))
    archive = create_backup(home, to=tmp_path / "out", now=NOW + timedelta(days=1)).path
    aliases = registry_of(home)
    arrive(home, "people-3.csv", people(60, 80))
    later = NOW + timedelta(days=2)
    land_all(home, now=later)
    home.warehouse.write_bytes(home.warehouse.read_bytes()[:4096] + os.urandom(50_000))

    assert faults_of(home, later) == ["data/warehouse.duckdb"]
    with pytest.raises(FatalError, match="cannot be opened"):
        run_the_way(home, now=later)

    restored = restore_backup(archive, home, now=later, parts=["warehouse"], force=True)
    after = run_the_way(home, now=later)

    assert {key: after[key] for key in before} == before, "every id published before is the same again"
    assert len([value for kind, value in after if kind == "unionid"]) == 80, "what came since the backup is there too"
    assert len(aliases) >= 60
    assert aliases <= registry_of(home)
    assert restored.replaced is not None
    assert (restored.replaced / "data" / "warehouse.duckdb").exists(), "the damaged file is kept for a look"
    assert faults_of(home, later) == []


def faults_of(home: Home, now: datetime) -> list[str]:
    return [finding.name for finding in examine(home, now=now, environment={}) if finding.status == "fail"]


def registry_of(home: Home) -> set[tuple[str, str]]:
    with closing(duckdb.connect(str(home.warehouse), read_only=True)) as con:
        return {(row[0], row[1]) for row in con.execute("select one_id, status from identity.alias").fetchall()}


# ------------------------------------------------------------------------------------------ a full disk

_WITH_A_FULL_DISK = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # writing past the limit fails as on a full disk
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
from datetime import UTC, datetime
from pathlib import Path
from cdp.errors import CdpError
from warehouse.home import Home
home, now = Home(Path({root!r})), datetime(2026, 11, 20, tzinfo=UTC)
try:
{body}
except CdpError as error:
    print(type(error).__name__, error)
    sys.exit(7)
except Exception as error:
    print(type(error).__name__, error)
    sys.exit(8)
"""


def with_a_full_disk(home: Home, body: str, *, limit: int) -> subprocess.CompletedProcess[str]:
    """Run *body* in a process that can write no file past *limit* bytes."""
    text = "\n".join(f"    {line}" for line in body.strip().splitlines())
    code = _WITH_A_FULL_DISK.format(root=str(home.root), body=text, limit=limit)
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_a_disk_that_fills_during_a_build_leaves_the_last_good_state(home: Home, now: datetime) -> None:
    with open_warehouse(home, as_of=now, timezone=ZONE) as con:
        con.execute("create or replace table marts_db.marts.fct_orders as select range as n from range(1000)")
        publish(home, con, version="1", checks=CHECKS, now=now)
    build = """
from warehouse.connection import open_warehouse
from warehouse.publish import publish
with open_warehouse(home, as_of=now, timezone="Asia/Shanghai") as con:
    con.execute("begin")
    rows = "select range as n, hash(range) as h, md5(range::text) as m from range(900000)"
    con.execute(f"create or replace table marts_db.marts.fct_orders as {rows}")
    con.execute("commit")
    publish(home, con, version="2", checks=[], now=now)
"""
    full = with_a_full_disk(home, build, limit=3_000_000)
    assert full.returncode in (7, 8), full.stdout + full.stderr
    assert current(home).version == "1"
    with closing(connect(home)) as con:
        assert con.execute("select count(*) from marts.fct_orders").fetchall() == [(1000,)]
    roomy = with_a_full_disk(home, build, limit=10**10)
    assert roomy.returncode == 0, roomy.stdout + roomy.stderr
    assert current(home).version == "2"
    assert examine(home, now=now, environment={})[0].status == "ok"


def test_a_disk_that_fills_during_a_backup_keeps_the_earlier_ones(home: Home, tmp_path: Path, now: datetime) -> None:
    out = tmp_path / "out"
    good = create_backup(home, to=out, now=now).path
    body = f"from warehouse.backup import create_backup\ncreate_backup(home, to=Path({str(out)!r}), now=now)"
    full = with_a_full_disk(home, body, limit=200_000)
    assert full.returncode == 7, full.stdout + full.stderr
    assert "was not finished" in full.stdout
    assert "hint:" in full.stdout
    assert list(out.glob("*.tar")) == [good]
    assert not list(out.glob(".cdp-backup-*")), "nothing half written is left"
    verify_backup(good)


def test_a_disk_that_fills_while_landing_loses_and_repeats_nothing(tmp_path: Path) -> None:
    home = brand_home(tmp_path / "home")
    arrive(home, "people-1.csv", people(0, 3000))
    body = """
from connectors import registry
from connectors.settings import SourcesConfig
from cdp.config import parse
from warehouse.landing import land
sources = parse((home.config / "sources.yaml").read_text(), SourcesConfig, file="sources.yaml")
crm = sources.sources["crm"]
connector = registry.build("crm", crm, root=home.root, environment={}, now=now, timezone="Asia/Shanghai")
for stream in connector.streams():
    land(home, "crm", connector, stream, now=now)
"""
    full = with_a_full_disk(home, body, limit=40_000)
    assert full.returncode in (7, 8), full.stdout + full.stderr
    assert LandingLedger(home.landing_ledger).batches() == []
    roomy = with_a_full_disk(home, body, limit=10**10)
    assert roomy.returncode == 0, roomy.stdout + roomy.stderr
    assert sum(batch.landed for batch in LandingLedger(home.landing_ledger).batches()) == 3000


# ------------------------------------------------------------------------------------------ out of memory


def test_out_of_memory_leaves_the_old_table_and_more_memory_or_disk_mends_it(home: Home, now: datetime) -> None:
    heavy = "create or replace table staging.wide as select list(range) as l from range(3000000) group by range % 3"
    with open_warehouse(home, as_of=now, timezone=ZONE) as con:
        con.execute("create or replace table staging.wide as select [1] as l")
    with open_warehouse(home, as_of=now, timezone=ZONE, memory_limit="20MiB", threads=1) as con:
        con.execute("set max_temp_directory_size = '1MiB'")
        with pytest.raises(duckdb.OutOfMemoryException):
            con.execute(heavy)
    with open_warehouse(home, as_of=now, timezone=ZONE) as con:
        assert con.execute("select l from staging.wide").fetchall() == [([1],)]
        con.execute(heavy)
        assert con.execute("select count(*) from staging.wide").fetchall() == [(3,)]


def test_a_run_killed_for_its_memory_is_simply_run_again(tmp_path: Path) -> None:
    home = brand_home(tmp_path / "home")
    arrive(home, "people-1.csv", people(0, 50))
    clean = run_the_way(home, now=NOW)
    code = (
        "import duckdb, sys;"
        f"con = duckdb.connect({str(home.warehouse)!r}); con.execute('begin');"
        "con.execute('delete from identity.identity_map'); con.execute('create table staging.half as select 1');"
        "print('half', flush=True); input()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"half\n"
        process.send_signal(signal.SIGKILL)
    assert run_the_way(home, now=NOW) == clean


# ------------------------------------------------------------------------------------------ ledgers


def test_a_damaged_landing_ledger_comes_back_with_its_raw_files(home: Home, tmp_path: Path, now: datetime) -> None:
    archive = create_backup(home, to=tmp_path / "out", now=now).path
    batches = LandingLedger(home.landing_ledger).batches()
    land_batches(home, "shop", "orders", [9])
    home.landing_ledger.write_bytes(b"SQLite format 3\0" + os.urandom(9000))
    restore_backup(archive, home, now=now, parts=["landing"], force=True)
    assert sqlite_fault(home.landing_ledger) is None
    assert LandingLedger(home.landing_ledger).batches() == batches
    assert {item.status for item in examine(home, now=now, environment={}) if item.name == "data/raw"} == {"ok"}


def test_a_damaged_sync_ledger_comes_back_alone(home: Home, tmp_path: Path, now: datetime) -> None:
    archive = create_backup(home, to=tmp_path / "out", now=now).path
    home.sync_ledger.write_bytes(os.urandom(9000))
    assert sqlite_fault(home.sync_ledger) is not None
    restore_backup(archive, home, now=now, parts=["sync"], force=True)
    assert sqlite_fault(home.sync_ledger) is None


# ------------------------------------------------------------------------------------------ the text itself


def sections() -> dict[str, str]:
    parts = re.split(r"^## ", RUNBOOK.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    return {part.splitlines()[0]: part for part in parts}


def test_every_procedure_names_the_tests_that_do_it() -> None:
    known = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")}
    for title, text in sections().items():
        named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", text)
        assert named, f"`{title}` names no test"
        for file, test in named:
            assert f"def {test}(" in known[file], f"`{title}` names {file}::{test}, which is not there"


def test_every_command_in_it_is_one() -> None:
    """Verbs and options of every `cdp …` line exist (their effects are tested above and elsewhere)."""
    text = RUNBOOK.read_text(encoding="utf-8")
    lines = re.findall(r"^(cdp .+?)(?:  +#.*)?$", text, flags=re.MULTILINE) + re.findall(r"`(cdp [^`]+)`", text)
    assert len(lines) > 15
    for line in lines:
        words = shlex.split(line)[1:]
        command: Any = typer.main.get_command(app)
        if words[0] == "--home":
            words = words[2:]
        while words and hasattr(command, "get_command"):
            found = command.get_command(None, words[0])
            assert found is not None, f"`{line}`: no verb `{words[0]}`"
            command, words = found, words[1:]
        options = {name for parameter in command.params for name in parameter.opts}
        unknown = [word for word in words if word.startswith("--") and word not in options]
        assert not unknown, f"`{line}`: no option {unknown}"
