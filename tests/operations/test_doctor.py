"""The doctor finds what is planted, tells what to do, and finds nothing in a sound home."""

from __future__ import annotations

import os
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from cdp.brand import BrandConfig
from connectors.settings import SourcesConfig
from tests.operations.homes import land_batches
from warehouse.backup import create_backup
from warehouse.connection import open_warehouse
from warehouse.doctor import Finding, Machine, examine
from warehouse.home import Home
from warehouse.publish import publish

SOUND = Machine(python=(3, 11), memory=32 * 10**9, free_disk=100 * 10**9)
MODELS = {"cdp.yaml": BrandConfig, "sources.yaml": SourcesConfig}


def look(home: Home, now: datetime, **options: object) -> dict[str, Finding]:
    arguments = {"environment": {}, "models": MODELS, "machine": SOUND, **options}
    return {finding.name: finding for finding in examine(home, now=now, **arguments)}  # type: ignore[arg-type]


def bad(findings: dict[str, Finding]) -> dict[str, str]:
    return {name: finding.status for name, finding in findings.items() if finding.status != "ok"}


def test_a_sound_home_has_no_fault(home: Home, tmp_path: Path, now: datetime) -> None:
    create_backup(home, to=tmp_path / "out", now=now)
    assert bad(look(home, now, deep=True)) == {}


def test_every_fault_has_a_next_step(home: Home, now: datetime) -> None:
    (home.config / "sources.yaml").write_text("sauces: {}\n", encoding="utf-8")
    home.warehouse.write_bytes(b"x" * 5000)
    home.landing_ledger.write_bytes(b"SQLite format 3\0" + b"x" * 5000)
    (home.published / "current.json").write_text("{", encoding="utf-8")
    findings = look(home, now, secrets=["env:WECOM_SECRET", "file:secrets/nothing"])
    assert bad(findings) == {
        "config/sources.yaml": "fail",
        "secrets": "fail",
        "data/warehouse.duckdb": "fail",
        "data/landing.sqlite": "fail",
        "published": "fail",
        "backup": "warn",
    }
    assert all(findings[name].hint for name in bad(findings))
    assert "sources.yaml:1" in findings["config/sources.yaml"].detail


def test_secrets_are_told_by_name_only(home: Home, now: datetime) -> None:
    finding = look(home, now, secrets=["env:A", "env:B"], environment={"A": "the-value"})["secrets"]
    assert finding.detail == "not set: environment variable B"
    assert look(home, now, secrets=["env:A"], environment={"A": "the-value"})["secrets"].status == "ok"


def test_a_folder_that_is_no_home_is_told_first(tmp_path: Path, now: datetime) -> None:
    findings = look(Home(tmp_path / "nothing" / "here"), now)
    assert bad(findings) == {"home": "fail"}
    assert "cdp init" in findings["home"].hint


def test_a_restore_cut_off_is_recognised(home: Home, now: datetime) -> None:
    (home.config / "cdp.yaml").rename(home.config / "cdp.yaml.restoring")
    assert "restore" in look(home, now)["home"].hint


@pytest.mark.parametrize(
    ("machine", "name", "status"),
    [
        (Machine((3, 10), 10**10, 10**11), "python", "fail"),
        (Machine((3, 11), 4 * 10**9, 10**11), "memory", "warn"),
        (Machine((3, 11), 32 * 10**9, 1_500_000_000), "disk", "warn"),
        (Machine((3, 11), 32 * 10**9, 100_000_000), "disk", "fail"),
    ],
)
def test_the_machine_is_measured(home: Home, now: datetime, machine: Machine, name: str, status: str) -> None:
    assert look(home, now, machine=machine)[name].status == status


def test_a_clock_behind_its_own_data_is_told(home: Home, now: datetime) -> None:
    assert look(home, now - timedelta(days=3))["clock"].status == "fail"


def test_a_raw_file_that_is_gone_or_changed_is_found(home: Home, now: datetime) -> None:
    files = sorted(home.raw.rglob("*.parquet"))
    files[0].write_bytes(files[0].read_bytes()[:-40])
    assert look(home, now)["data/raw"].status == "ok"
    assert "differ from the ledger: shop/orders/000000001" in look(home, now, deep=True)["data/raw"].detail
    files[1].unlink()
    assert "1 of 3 batches have no file" in look(home, now)["data/raw"].detail


def test_a_file_the_ledger_does_not_know_is_harmless(home: Home, now: datetime) -> None:
    (home.raw / "shop" / "orders" / "000000099.parquet").write_bytes(b"")
    finding = look(home, now)["data/raw"]
    assert (finding.status, "1 files of cut-off batches" in finding.detail) == ("ok", True)


def test_damage_inside_a_table_is_found_by_reading_it(home: Home, now: datetime) -> None:
    size = home.warehouse.stat().st_size
    with home.warehouse.open("r+b") as file:
        for offset in range(12_288, size, 50_000):  # past the three headers, into every block
            file.seek(offset)
            file.write(b"\xff" * 64)
    finding = look(home, now, deep=True)["data/warehouse.duckdb"]
    assert finding.status == "fail"
    assert "runbook" in finding.hint


def test_a_pointer_to_nothing_is_found(home: Home, now: datetime) -> None:
    with open_warehouse(home, as_of=now, timezone="Asia/Shanghai") as con:
        first = publish(home, con, version="1", checks=[])
        publish(home, con, version="2", checks=[])
    assert look(home, now)["published"].status == "ok"
    (home.published / "marts-2.duckdb").write_bytes(first.path.read_bytes())
    assert "says it is version 1" in look(home, now)["published"].detail
    (home.published / "marts-2.duckdb").write_bytes(b"x" * 5000)
    assert look(home, now)["published"].status == "fail"
    (home.published / "marts-2.duckdb").unlink()
    assert look(home, now)["published"].status == "fail"
    (home.published / "current.json").write_text("{", encoding="utf-8")
    assert look(home, now)["published"].status == "fail"


def test_old_left_over_files_are_named_and_fresh_ones_are_not(home: Home, now: datetime) -> None:
    fresh = home.root / "data" / "x.tmp"
    fresh.write_bytes(b"1")
    os.utime(fresh, (now.timestamp(), now.timestamp()))
    assert look(home, now)["left-over files"].status == "ok"
    os.utime(fresh, (0, 0))
    finding = look(home, now)["left-over files"]
    assert (finding.status, "data/x.tmp" in finding.detail) == ("warn", True)


def test_an_old_backup_is_not_enough(home: Home, tmp_path: Path, now: datetime) -> None:
    path = create_backup(home, to=tmp_path / "out", now=now).path
    assert look(home, now + timedelta(days=8))["backup"].status == "warn"
    path.unlink()
    assert "is not there" in look(home, now)["backup"].detail


def test_keys_that_others_may_read_are_told(home: Home, now: datetime) -> None:
    (home.secrets / "identity.key").chmod(0o644)
    assert look(home, now)["permissions"].status == "warn"


def test_the_doctor_changes_nothing(home: Home, now: datetime) -> None:
    land_batches(home, "wecom", "relations", [3])
    before = _files(home)
    look(home, now, deep=True)
    assert _files(home) == before


def _files(home: Home) -> dict[Path, bytes]:
    """Every file of the home; the side files that any reader of an SQLite file in WAL mode makes are left out."""
    files = [path for path in home.root.rglob("*") if path.is_file() and not path.name.endswith(("-shm", "-wal"))]
    return {path: path.read_bytes() for path in files}
