"""An erasure whose proof fails: runs go on and are loud, unless they would publish what is left."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from app.home_cli import create_home
from cdp.privacy.traces import Traces
from pipelines.defs.upkeep import erasures_are_whole
from pipelines.resources import BrandHome
from pipelines.upkeep import finish_erasures, scene
from warehouse.erasure import UnprovenError, finish
from warehouse.home import Home
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
    request = ledger.begin(
        Traces(frozenset({("phone", PHONE)})), [], secret=identity_secret(home), actor="dpo", reason="asked", now=NOW,
        whole_person=True, expires_at=None,
    )  # fmt: skip

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

    served = home.raw / "crm" / "people" / "stray.parquet"
    served.parent.mkdir(parents=True)
    pl.DataFrame({"phone": [PHONE]}).write_parquet(served)
    with pytest.raises(UnprovenError, match="stray") as stopped:
        finish_erasures(home, now=NOW)
    assert stopped.value.is_served

    served.unlink()
    config.write_text(before, encoding="utf-8")
    [report] = finish_erasures(home, now=NOW)
    assert report.found == ()
    assert ledger.unfinished() == {}
    assert erasures_are_whole(BrandHome(root=str(home.root))).passed
