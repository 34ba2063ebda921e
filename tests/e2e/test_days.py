"""Runs on input that grows day by day end where a run that makes every table anew ends, in every published table."""

from __future__ import annotations

import json
import shutil
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pipelines.run import run_job
from tests.privacy.homes import COOKIE, CUT, make_home
from warehouse.home import Home
from warehouse.reader import connect

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("privacy"), pytest.mark.timeout(1200)]

# Columns that say when a row was made, and not what is so: of somebody of whom nothing has changed the facts are not
# made again, and keep the cut of the run that made them.
CLOCKS = {"fct_person_facts": {"as_of", "as_of_date"}}
NEW_PEOPLE = {
    1: "id,name,mobile,mail,unionid,openid,appid,since,invited_by,agrees,store_id,points\n"
    "81,周八,13700000008,,,,,2026-11-20T08:00:00Z,80,1,S2,1\n"
    "79,赵桂花,13700000009,,,,,2025-05-01T08:00:00Z,77,1,S2,50\n",  # another phone, another mind about marketing
    2: "id,name,mobile,mail,unionid,openid,appid,since,invited_by,agrees,store_id,points\n"
    "82,吴九,13700000008,,,,,2026-11-21T08:00:00Z,81,1,S1,2\n",  # the phone of somebody known
}
NEW_ORDERS = {
    1: "order_id,buyer,mobile,at,amount,receiver_phone\n"
    "B-1,81,13700000008,2026-11-20T09:00:00Z,300.00,\nB-2,80,13700000002,2025-07-02T08:00:00Z,20.00,\n",  # one is late
    2: "order_id,buyer,mobile,at,amount,receiver_phone\n"
    "B-3,82,13700000008,2026-11-21T09:00:00Z,40.00,\nB-1,81,13700000008,2026-11-20T09:00:00Z,310.00,\n",  # mended
}
NEW_LINES = {
    1: "order_id,line_id,product_id,quantity,amount\nB-1,1,P2,2,300.00\nB-2,1,P1,1,20.00\n",
    2: "order_id,line_id,product_id,quantity,amount\nB-3,1,P2,1,40.00\n",
}


def event(at: datetime, name: str, visitor: str, login: str = "") -> str:
    line: dict[str, Any] = {
        "type": "track", "event": name, "lib": {}, "project": "p", "time": int(at.timestamp() * 1000),
        "distinct_id": login or visitor, "anonymous_id": visitor, "properties": {"page": f"/{name}"},
    }  # fmt: skip
    return json.dumps(line | ({"login_id": login} if login else {})) + "\n"


def arrives(home: Home, day: int) -> None:
    """What comes in on *day* after the first: people, orders, lines, and events, some about days before."""
    for name, texts in (("people", NEW_PEOPLE), ("orders", NEW_ORDERS), ("lines", NEW_LINES)):
        (home.inbox / f"{name}-{day}.csv").write_text(texts[day], encoding="utf-8")
    now = CUT + timedelta(days=day, hours=-3)
    lines = {
        1: [event(now, "view", "visitor-0000000000aa"), event(now - timedelta(days=400), "late", COOKIE)],
        # who looked yesterday is somebody today, and two devices are one person's
        2: [event(now, "login", "visitor-0000000000aa", "81"), event(now, "view", "visitor-0000000000bb", "81"),
            event(now - timedelta(days=1), "late", "visitor-0000000000bb")],
    }  # fmt: skip
    folder = home.root / "data" / "collected" / "sensors"
    (folder / f"2026112{day}T000000.000000Z-{day:08x}.jsonl").write_text("".join(lines[day]), encoding="utf-8")


def published(home: Home) -> dict[str, tuple[Any, ...]]:
    """Table of the published version -> its rows, free of their order."""
    with connect(home) as con:
        names = con.execute("select table_name from information_schema.tables where table_schema = 'marts'").fetchall()
        found = {}
        for (name,) in names:
            columns = [row[0] for row in con.execute(f"describe marts.{name}").fetchall()]
            kept = ", ".join(f'"{column}"' for column in columns if column not in CLOCKS.get(name, ()))
            found[name] = con.execute(
                "select count(*), sum(md5_number_lower(line::varchar)::hugeint)::varchar"
                f" from (select {kept} from marts.{name}) as line"
            ).fetchall()[0]
        return found


def test_three_days_of_runs_give_the_tables_of_a_full_one(tmp_path: Path) -> None:
    home = make_home(tmp_path / "home")
    counts = []
    for day in range(3):
        if day:
            arrives(home, day)
        assert run_job(home, as_of=CUT + timedelta(days=day)).failed_steps == {}
        with connect(home) as con:
            counts += con.execute(
                "select (select count(*) from marts.fct_events), (select count(*) from marts.fct_orders),"
                " (select count(*) from marts.fct_events where one_id = (select one_id from marts.dim_people"
                " where member_id = '81'))"
            ).fetchall()
    assert counts[0] < counts[1] < counts[2]
    assert counts[2][2] >= 4, "what 81 did before a login is 81's"

    full = Home(tmp_path / "full")
    shutil.copytree(home.root, full.root, symlinks=True)
    last = CUT + timedelta(days=2)
    assert run_job(home, as_of=last).failed_steps == {}
    assert run_job(full, as_of=last, full=True).failed_steps == {}
    ours, theirs = published(home), published(full)
    assert len(ours) > 45
    assert {name: (ours[name], theirs.get(name)) for name in ours if ours[name] != theirs.get(name)} == {}
    assert ours.keys() == theirs.keys()
