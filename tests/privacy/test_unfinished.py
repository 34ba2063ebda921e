"""An erasure whose proof fails: runs go on and are loud, unless they would publish what is left."""

from __future__ import annotations

import fcntl
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest

from app.home_cli import create_home
from cdp.errors import RetriableError
from cdp.privacy.traces import Traces
from pipelines.defs.upkeep import erasures_are_whole
from pipelines.resources import BrandHome
from pipelines.upkeep import at_work, finish_erasures, scene
from warehouse.erasure import UnprovenError, finish
from warehouse.home import Home, holds_alone, run_lock
from warehouse.privacy_ledger import PrivacyLedger
from warehouse.secrets import identity_secret

NOW = datetime(2026, 11, 20, tzinfo=UTC)
PHONE = "13652817439"


def test_what_no_run_reads_is_told_and_what_a_run_would_publish_stops_it(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    create_home(home)
    config = home.config / "metrics.yaml"
    before = config.read_text(encoding="utf-8")
    config.write_text(f"{before}# ask {PHONE}\n", encoding="utf-8")
    (home.root / "logs").mkdir(exist_ok=True)
    (home.logs / "notes.log").write_text(f"looked at {PHONE}\nlooked at nobody\n", encoding="utf-8")
    ledger = PrivacyLedger(home)
    request = begin(home)

    assert finish_erasures(home, now=NOW) == [], "a run goes on"
    [(name, why)] = ledger.unfinished().items()
    assert name == request
    assert "config/metrics.yaml" in why
    assert PHONE not in why
    assert "nobody" in (home.logs / "notes.log").read_text(encoding="utf-8")
    assert PHONE not in (home.logs / "notes.log").read_text(encoding="utf-8"), "what can be cleaned is"
    red = erasures_are_whole(BrandHome(root=str(home.root)))
    assert not red.passed
    assert "config/metrics.yaml" in str(red.metadata["observed"].value)
    with pytest.raises(UnprovenError, match="metrics"):
        finish(scene(home), now=NOW)

    served = home.published / "stray.bin"  # neither a table nor a text: nothing that could be cleaned
    served.parent.mkdir(parents=True, exist_ok=True)
    served.write_bytes(b"\xff\xfe\xff " + PHONE.encode())
    with pytest.raises(UnprovenError, match="stray") as stopped:
        finish_erasures(home, now=NOW)
    assert stopped.value.is_served

    served.unlink()
    config.write_text(before, encoding="utf-8")
    [report] = finish_erasures(home, now=NOW)
    assert report.found == ()
    assert ledger.unfinished() == {}
    assert erasures_are_whole(BrandHome(root=str(home.root))).passed


def test_a_file_that_the_collector_is_writing_is_cleaned_once_it_is_closed(tmp_path: Path) -> None:
    """Put another file in its place and all that is still written to it would be lost."""
    home = Home(tmp_path / "home")
    create_home(home)
    segment = home.root / "data" / "collected" / "sensors" / "aaaa.open"
    segment.parent.mkdir(parents=True)
    segment.write_text(f'{{"mobile":"{PHONE}"}}\n', encoding="utf-8")
    begin(home)
    with segment.open("ab") as collector:
        fcntl.flock(collector, fcntl.LOCK_EX)
        assert finish_erasures(home, now=NOW) == [], "runs go on"
        collector.write(b'{"mobile":"13700000009"}\n')
    [why] = PrivacyLedger(home).unfinished().values()
    assert "aaaa.open" in why
    [report] = finish_erasures(home, now=NOW)
    assert report.found == ()
    assert segment.read_text(encoding="utf-8") == '{"mobile":"13700000009"}\n'


def test_a_run_of_the_scheduler_finishes_erasures_before_its_first_step(tmp_path: Path) -> None:
    """Schedules, sensors and `dagster job execute` never pass through `cdp run`."""
    home = Home(tmp_path / "home")
    create_home(home)
    (home.root / "logs").mkdir(exist_ok=True)
    (home.logs / "notes.log").write_text(f"looked at {PHONE}\n", encoding="utf-8")
    ledger = PrivacyLedger(home)
    seen = []

    @dg.asset
    def first_step(brand_home: BrandHome) -> None:
        seen.append((ledger.unfinished(), (brand_home.home.logs / "notes.log").read_text(encoding="utf-8")))

    def run() -> bool:
        instance = dg.DagsterInstance.ephemeral()
        resources = {"brand_home": BrandHome(root=str(home.root))}
        return dg.materialize([first_step], resources=resources, instance=instance, raise_on_error=False).success

    begin(home)
    assert run()
    assert seen == [({}, "")]

    begin(home)
    served = home.published / "stray.bin"
    served.parent.mkdir(parents=True, exist_ok=True)
    served.write_bytes(b"\xff\xfe\xff " + PHONE.encode())
    assert not run(), "what it would publish stops it before its first step"
    assert len(seen) == 1
    served.unlink()
    assert run()


def test_a_run_of_the_scheduler_and_one_alone_never_meet(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with at_work(home), at_work(home), pytest.raises(RetriableError, match="another run is"), at_work(home, alone=True):
        pass
    with at_work(home, alone=True), at_work(home), run_lock(home), (home.dagster / "run.lock").open("a") as other:
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
        assert holds_alone(home)
    assert not holds_alone(home)


def begin(home: Home) -> str:
    return PrivacyLedger(home).begin(
        Traces(frozenset({("phone", PHONE)})), [], secret=identity_secret(home), actor="dpo", reason="asked", now=NOW,
        whole_person=True, expires_at=None,
    )  # fmt: skip
