"""Forgetting in a real home: everywhere, provably, through re-imports, restores and stops."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest

from cdp.errors import FatalError
from pipelines.run import run_job
from pipelines.upkeep import finish_erasures, scene
from tests.privacy.homes import (
    ASKED,
    CUT,
    LINES,
    NAME,
    ORDERS,
    PEOPLE,
    PLANTED,
    events,
    make_home,
    plant_copies,
    spelt_in,
)
from warehouse.backup import create_backup, restore_backup
from warehouse.erasure import ErasureReport, erase, note_restore, preview
from warehouse.home import Home
from warehouse.landing_ledger import LandingLedger
from warehouse.privacy_ledger import PrivacyLedger
from warehouse.publish import versions
from warehouse.raw import reconcile
from warehouse.reader import connect

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("privacy"), pytest.mark.timeout(900)]


@dataclass(frozen=True)
class Forgotten:
    """A home after a run, its state before the erasure, what the dry run said, and what the erasure did."""

    home: Home
    before: Path
    one_id: str
    dry: ErasureReport
    digest_before: str
    digest_after_dry: str
    done: ErasureReport
    backup: Path


def digest(home: Home) -> str:
    """Of every file that means something; of databases what their tables hold, for opening one rewrites its header."""
    hasher = hashlib.sha256()
    kinds = (".csv", ".jsonl", ".parquet", ".xlsx", ".html", ".log", ".json", ".duckdb")
    for path in sorted(home.root.rglob("*")):
        if not path.is_file() or path.is_symlink() or path.suffix not in kinds:
            continue
        hasher.update(str(path.relative_to(home.root)).encode())
        if path.suffix != ".duckdb":
            hasher.update(path.read_bytes())
            continue
        with closing(duckdb.connect()) as con:
            con.execute(f"attach '{path}' as held (read_only)")
            for schema, table in con.execute(
                "select schema_name, table_name from duckdb_tables() where database_name = 'held' order by all"
            ).fetchall():
                lines = "sum(md5_number_lower(cast(r as varchar))::hugeint)"
                rows = con.execute(f'select count(*), {lines} from held."{schema}"."{table}" as r').fetchall()
                hasher.update(f"{schema}.{table} {rows}".encode())
    return hasher.hexdigest()


def ask(home: Home, sql: str, *, pii: bool = False) -> list[tuple[Any, ...]]:
    with connect(home, pii=pii) as con:
        rows: list[tuple[Any, ...]] = con.execute(sql).fetchall()
        return rows


@pytest.fixture(scope="module")
def forgotten(tmp_path_factory: pytest.TempPathFactory) -> Forgotten:
    root = tmp_path_factory.mktemp("privacy")
    home = make_home(root / "home")
    outcome = run_job(home, as_of=CUT)
    assert outcome.failed_steps == {}
    plant_copies(home)
    [(one_id,)] = ask(home, "select one_id from marts.dim_people where member_id = '77'")
    backup = create_backup(home, to=root / "elsewhere", now=ASKED, with_secrets=True).path
    shutil.copytree(home.root, root / "before", symlinks=True)
    first = digest(home)
    dry = preview(scene(home), ["member_id:77"], now=ASKED)
    second = digest(home)
    done = erase(scene(home), ["member_id:77"], actor="dpo", reason="a letter of 2026-11-20", now=ASKED)
    return Forgotten(home, root / "before", one_id, dry, first, second, done, backup)


def test_the_dry_run_says_what_would_go_and_changes_nothing(forgotten: Forgotten) -> None:
    assert not forgotten.dry.applied
    assert forgotten.digest_before == forgotten.digest_after_dry
    places = forgotten.dry.counts
    assert places["data/raw/crm/people"] == [1, 2], "her row goes; her son's and her friend's lose the mention"
    assert places["data/raw/crm/orders"] == [1, 2]
    assert places["data/raw/crm/order_lines"] == [1, 0]
    assert places["data/raw/app/records"] == [2, 1]
    assert places["data/rejects/crm/orders"] == [1, 0]
    assert {name for name in places if name.startswith("inbox/")} == {"inbox/people.csv", "inbox/orders.csv"}
    assert places["rejects.xlsx"] == [2, 0], "her row, and her name in another"
    assert places["reports/old.html"] == [2, 0]
    assert places["reports/query.parquet"] == [1, 0]
    assert places["copy.duckdb"] == [1, 0], "a phone kept as a number"
    assert places["mailed.zip"] == places["list.csv"] == [1, 0]
    assert places["meta.checked_stg_people"] == [1, 0]
    assert places["meta.checked_stg_notes"] == [0, 1]
    assert ("names, in every text and in the bytes of every file", 1) in forgotten.dry.sought
    assert forgotten.dry.unsought == ()
    assert {name: rows for name, rows in forgotten.done.counts.items() if "graph" not in name} == {
        name: rows for name, rows in places.items() if "graph" not in name
    }


def test_planted_values_are_in_no_byte_of_the_home(forgotten: Forgotten) -> None:
    """Before: in a dozen places. After: nowhere, neither in bytes nor in any row of any table."""
    assert len(spelt_in(Home(forgotten.before))) >= 10
    assert spelt_in(forgotten.home) == {}
    assert forgotten.done.found == ()
    assert forgotten.done.files > 40
    pattern = "|".join(word.replace("-", "\\-").replace(".", "\\.") for word in PLANTED)
    for path in sorted(forgotten.home.root.rglob("*")):
        with closing(duckdb.connect()) as con:
            tables = []
            if path.suffix == ".parquet":
                tables = [f"read_parquet('{path}')"]
            elif path.suffix == ".duckdb" and not path.is_symlink():
                con.execute(f"attach '{path}' as held (read_only)")
                found = con.execute("select schema_name, table_name from duckdb_tables() where database_name = 'held'")
                tables = [f'held."{schema}"."{table}"' for schema, table in found.fetchall()]
            for table in tables:
                rows = con.execute(f"select * from {table} as r where regexp_matches(cast(r as varchar), ?)", [pattern])
                assert rows.fetchall() == [], (path, table)


def test_others_keep_what_is_theirs(forgotten: Forgotten) -> None:
    people = ask(
        forgotten.home, "select member_id, points from marts.dim_people where member_id is not null order by 1"
    )
    assert people == [("78", 77), ("79", 5), ("80", 6)], "a 77 that is no member id stays"
    orders = ask(forgotten.home, "select order_id, amount::varchar from marts.fct_orders order by 1")
    assert orders == [("77", "60.00"), ("A-2", "50.00")]
    lines = ask(forgotten.home, "select product_id, quantity from marts.fct_order_lines order by 1")
    assert lines == [("P1", 1), ("P77", 77)]
    [(properties,)] = ask(
        forgotten.home, "select properties from marts.fct_events where properties like '%note%' order by 1"
    )
    assert json.loads(properties)["note"] == "call ***"


def test_counts_of_every_batch_still_reconcile(forgotten: Forgotten) -> None:
    rows = reconcile(forgotten.home)
    assert [row for row in rows if not row.ok] == []
    assert sum(row.erased for row in rows) == 1 + 1 + 1 + 2 + 1


def test_published_versions_keep_their_manifests_true(forgotten: Forgotten) -> None:
    for version in versions(forgotten.home):
        counts = ask(forgotten.home, "select count(*) from marts.dim_people")[0][0]
        assert version.tables["dim_people"] == counts
        assert version.size == version.path.stat().st_size
    assert ask(forgotten.home, "select count(*) from marts.dim_people_contacts where name is not null", pii=True)
    with closing(duckdb.connect(str(forgotten.home.warehouse), read_only=True)) as con:
        alias = con.execute("select status from identity.alias where one_id = ?", [forgotten.one_id]).fetchall()
    assert alias == [("forgotten",)], "the id still resolves to what became of it"


def test_the_request_is_kept_and_says_nothing_of_whom(forgotten: Forgotten) -> None:
    [request] = PrivacyLedger(forgotten.home).requests()
    assert (request.actor, request.reason, request.state) == ("dpo", "a letter of 2026-11-20", "done")
    assert PrivacyLedger(forgotten.home).running() == []
    with pytest.raises(FatalError, match="no identifier or one_id"):
        preview(scene(forgotten.home), ["member_id:77"], now=ASKED)
    with pytest.raises(FatalError, match="needs a reason"):
        erase(scene(forgotten.home), ["member_id:78"], actor="dpo", reason=" ", now=ASKED)


def test_what_comes_again_is_suppressed_and_what_is_new_is_not(forgotten: Forgotten, tmp_path: Path) -> None:
    """The same exports and log again: counted as suppressed. A later act: a new person."""
    home = Home(tmp_path / "again")
    shutil.copytree(forgotten.home.root, home.root, symlinks=True)
    new = {"people": "81,周八,13700000008,,,,,2025-07-01T08:00:00Z,,1,S2,1\n",
           "orders": "A-8,80,13700000002,2025-07-02T08:00:00Z,10.00,\n", "lines": "A-8,1,P1,1,10.00\n"}  # fmt: skip
    for name, text in (("people", PEOPLE), ("orders", ORDERS), ("lines", LINES)):
        (home.inbox / f"{name}-again.csv").write_text(text + new[name], encoding="utf-8")
    folder = home.root / "data" / "collected" / "sensors"
    (folder / "20261121T000000.000000Z-bbbbbbbb.jsonl").write_text(events(again=True), encoding="utf-8")
    outcome = run_job(home, as_of=CUT)
    assert outcome.failed_steps == {}
    rows = reconcile(home)
    assert [row for row in rows if not row.ok] == []
    suppressed: dict[str, int] = {}
    for row in rows:
        suppressed[row.stream] = suppressed.get(row.stream, 0) + row.suppressed
    assert suppressed == {"people": 1, "orders": 1, "order_lines": 1, "records": 2}
    assert ask(home, "select member_id from marts.dim_people where member_id is not null order by 1") == [
        ("78",),
        ("79",),
        ("80",),
        ("81",),
    ]
    shutil.rmtree(home.inbox)
    shutil.rmtree(folder)
    assert spelt_in(home) == {}

    folder.mkdir(parents=True)
    (folder / "20261122T000000.000000Z-cccccccc.jsonl").write_text(
        events(later=ASKED + timedelta(days=1)), encoding="utf-8"
    )
    home.inbox.mkdir()
    assert run_job(home, as_of=ASKED + timedelta(days=2)).failed_steps == {}
    back = ask(home, "select one_id, event_name from marts.fct_events where event_name = 'back'")
    assert len(back) == 1
    assert back[0][0] not in (None, forgotten.one_id), "somebody new, whose past stays forgotten"


def test_a_restored_backup_brings_nobody_back(
    forgotten: Forgotten, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does one whose forgetting is stopped halfway, when raw no longer says what she was called."""
    home = Home(tmp_path / "restored")
    PrivacyLedger(forgotten.home).write_list()
    assert (forgotten.backup.parent / "forgotten.json").is_file(), "the list lies beside the backups"
    restore_backup(forgotten.backup, home, now=ASKED + timedelta(days=3))
    assert spelt_in(home) != {}, "the archive itself is from before"
    assert note_restore(home, forgotten.backup) > 0
    plant_copies(home)
    monkeypatch.setattr("warehouse.erasure._published", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        finish_erasures(home, now=ASKED + timedelta(days=3))
    monkeypatch.undo()
    assert spelt_in(home) != {}
    [report] = finish_erasures(home, now=ASKED + timedelta(days=3))
    assert report.applied
    assert spelt_in(home) == {}
    assert [row for row in reconcile(home) if not row.ok] == []
    assert finish_erasures(home, now=ASKED + timedelta(days=3)) == []
    assert run_job(home, as_of=CUT).failed_steps == {}
    assert ("77",) not in ask(home, "select member_id from marts.dim_people")
    assert spelt_in(home) == {}


KILLED = """
import sys
from datetime import datetime, UTC
from pathlib import Path
from pipelines.upkeep import scene
from warehouse.erasure import erase
from warehouse.home import Home
print("begin", flush=True)
report = erase(scene(Home(Path(sys.argv[1]))), ["member_id:77"], actor="dpo", reason="letter",
               now=datetime(2026, 11, 20, 4, tzinfo=UTC))
print("done", report.applied, flush=True)
"""


@pytest.mark.parametrize("stops", [1, 12])
def test_a_killed_erasure_is_finished_by_the_next(forgotten: Forgotten, tmp_path: Path, stops: int) -> None:
    """`kill -9` at growing moments of the work; the same command again ends like an undisturbed one."""
    home = Home(tmp_path / "killed")
    shutil.copytree(forgotten.before, home.root, symlinks=True)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    for stop in range(stops):
        child = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(home.root)], stdout=subprocess.PIPE, text=True, env=environment
        )
        assert child.stdout is not None
        assert child.stdout.readline().strip() == "begin"
        deadline = time.monotonic() + 60
        while not PrivacyLedger(home).running() and child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.15 * (stop + 1))
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
    report = erase(scene(home), ["member_id:77"], actor="dpo", reason="letter", now=ASKED + timedelta(minutes=5))
    assert report.applied
    assert report.found == ()
    assert spelt_in(home) == {}
    assert [row for row in reconcile(home) if not row.ok] == []
    assert PrivacyLedger(home).running() == []
    erased = LandingLedger(home.landing_ledger).erased()
    assert sum(erased.values()) == sum(LandingLedger(forgotten.home.landing_ledger).erased().values())


def test_one_identifier_of_a_person_can_go_alone(forgotten: Forgotten, tmp_path: Path) -> None:
    home = Home(tmp_path / "one")
    shutil.copytree(forgotten.before, home.root, symlinks=True)
    report = erase(
        scene(home), ["phone:13652817439"], actor="dpo", reason="number is not mine", now=ASKED, whole_person=False
    )
    assert report.found == ()
    left = spelt_in(home)
    assert not any("13652817439" in words for words in left.values())
    assert any(NAME in words for words in left.values()), "she herself stays"
    assert ask(home, "select count(*) from marts.dim_people where member_id = '77'") == [(1,)]
