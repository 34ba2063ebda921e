"""A brand of five people in files, one of whom will ask to be forgotten; what they left is planted everywhere."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import polars as pl
import xlsxwriter

from app.home_cli import create_home
from warehouse.home import Home

ASKED = datetime(2026, 11, 20, 4, 0, tzinfo=UTC)
CUT = datetime(2026, 11, 20, 2, 0, tzinfo=UTC)
PHONE, OPENID, UNIONID = "13652817439", "oPlanted-Openid_0123456789AB", "oPlantedUnion_0123456789abcd"
EMAIL, NAME, COOKIE = "TieZhu.Ouyang@example.com", "欧阳铁柱", "cookie-7f3a9be2c4d1"
PLANTED = (PHONE, "136-5281-7439", "１３６５２８１７４３９", OPENID, UNIONID, EMAIL, EMAIL.lower(), NAME, COOKIE)

SOURCES = """
sources:
  crm:
    connector: file
    streams:
      people:
        path: inbox/people*.csv
        columns: {person_key: id, member_id: id, phone: mobile, email: mail, registered_at: since,
                  inviter_member_id: invited_by, consent_marketing: agrees}
      orders:
        path: inbox/orders*.csv
        reject_budget: 0.9
        columns: {member_id: buyer, phone: mobile, platform: {value: shop}, status: {value: done}, paid_at: at,
                  ordered_at: at}
      order_lines:
        path: inbox/lines*.csv
  app:
    connector: sensors
    path: data/collected/sensors/*.jsonl
    anonymous_scope: app
    appid: wx1
"""
PEOPLE = f"""id,name,mobile,mail,unionid,openid,appid,since,invited_by,agrees,store_id,points
77,{NAME},+86 136-5281-7439,{EMAIL},{UNIONID},{OPENID},wx1,2025-03-01T08:00:00Z,,1,77,10
78,欧阳小宝,{PHONE},,,,,2025-04-01T08:00:00Z,,1,77,77
79,赵桂花,13700000001,,,,,2025-05-01T08:00:00Z,77,0,S2,5
80,钱多多,13700000002,,,,,2025-06-01T08:00:00Z,,,S2,6
"""
ORDERS = f"""order_id,buyer,mobile,at,amount,receiver_phone
A-1,77,{PHONE},2025-03-02T08:00:00Z,100.00,{PHONE}
A-2,78,{PHONE},2025-04-02T08:00:00Z,50.00,
77,79,13700000001,2025-05-02T08:00:00Z,60.00,１３６５２８１７４３９
A-4,77,{PHONE},2025-06-02T08:00:00Z,not money,
"""
LINES = "order_id,line_id,product_id,quantity,amount\nA-1,1,P1,1,100.00\nA-2,1,P1,1,50.00\n77,1,P77,77,60.00\n"


def events(*, later: datetime | None = None, again: bool = False) -> str:
    """Sensors lines: before the login, the login, a stranger; with *later*, one act after the person was forgotten;
    with *again*, one line more, so that the file is not the one that landed."""
    base = {"type": "track", "event": "view", "lib": {}, "project": "p"}
    lines = [
        {**base, "time": 1740902400000, "distinct_id": COOKIE, "anonymous_id": COOKIE, "properties": {"page": "/a"}},
        {
            **base,
            "time": 1740902500000,
            "distinct_id": "77",
            "login_id": "77",
            "anonymous_id": COOKIE,
            "identities": {"$identity_login_id": "77", "$identity_mp_openid": OPENID},
            "properties": {"mobile": PHONE, "quantity": 77},
        },
        {**base, "time": 1740902600000, "distinct_id": "80", "login_id": "80", "properties": {"note": f"call {PHONE}"}},
        {**base, "time": 1740902700000, "distinct_id": "80", "login_id": "80", "properties": {"quantity": 77}},
    ]
    if later:
        lines = [{**lines[1], "time": int(later.timestamp() * 1000), "event": "back"}]
    if again:
        lines.append({**base, "time": 1740902800000, "distinct_id": "81", "login_id": "81", "properties": {}})
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def make_home(root: Path) -> Home:
    """The home before its first run."""
    home = Home(root)
    create_home(home)
    (home.config / "sources.yaml").write_text(SOURCES, encoding="utf-8")
    (home.config / "cdp.yaml").write_text("name: 山茶集\npersonal_edition: true\n", encoding="utf-8")
    (home.config / "sync.yaml").write_text("enabled: false\n", encoding="utf-8")
    for name, text in (("people", PEOPLE), ("orders", ORDERS), ("lines", LINES)):
        (home.inbox / f"{name}.csv").write_text(text, encoding="utf-8")
    folder = home.root / "data" / "collected" / "sensors"
    folder.mkdir(parents=True)
    (folder / "20250301T000000.000000Z-aaaaaaaa.jsonl").write_text(events(), encoding="utf-8")
    return home


def plant_copies(home: Home) -> None:
    """What people do with data: a log line, a page, a workbook of rejects, all in the home."""
    home.logs.mkdir(exist_ok=True)
    (home.logs / "notes.log").write_text(f"looked at {PHONE}\nlooked at nobody\n", encoding="utf-8")
    pages = home.root / "reports"
    pages.mkdir(exist_ok=True)
    (pages / "old.html").write_text(f"<p>{NAME} {PHONE}</p>\n<p>rest of {NAME}'s page</p>\n", encoding="utf-8")
    (home.root / "list.csv").write_bytes(f"序号,姓名\r\n1,{NAME}\r\n2,钱多多\r\n".encode("gb18030"))
    with zipfile.ZipFile(home.root / "mailed.zip", "w") as archive:
        archive.writestr("people.csv", f"id,mobile\n1,{PHONE}\n2,13700000002\n")
    pl.DataFrame({"mobile": [PHONE, "13700000002"], "named": [NAME, "钱多多"]}).write_parquet(pages / "query.parquet")
    with duckdb.connect(str(home.root / "copy.duckdb")) as con:
        con.execute("create or replace table people as from (values (1, ?::bigint), (2, 13700000002)) as p(id, mobile)",
                    [int(PHONE)])  # fmt: skip
    with duckdb.connect(str(home.warehouse)) as con:  # what a killed check leaves
        con.execute(
            "create or replace table meta.checked_stg_people as select ?::varchar as phone, '77' as member_id", [PHONE]
        )
        con.execute("create or replace table meta.checked_stg_notes as select 'a note on ' || ? as note", [NAME])
    orphan = home.raw / "crm" / "people" / "b0000009999.parquet"  # of a batch that was never committed
    pl.DataFrame({"phone": [PHONE]}).write_parquet(orphan)
    with xlsxwriter.Workbook(str(home.root / "rejects.xlsx"), {"strings_to_numbers": False}) as book:
        sheet = book.add_worksheet("orders")
        for place, row in enumerate(
            (
                ("buyer", "mobile", "name"),
                ("77", PHONE, NAME),
                ("80", "13700000002", "钱多多"),
                ("79", "13700000001", f"{NAME}的朋友"),
            )
        ):
            sheet.write_row(place, 0, row)


def spelt_in(home: Home, words: tuple[str, ...] = PLANTED) -> dict[str, list[str]]:
    """File -> words of *words* in its bytes, inside zip files too, in either encoding, and as JSON escapes them."""
    found: dict[str, list[str]] = {}
    for path, data in _contents(home):
        forms = {word: (word.encode(), json.dumps(word)[1:-1].encode(), word.encode("gb18030")) for word in words}
        hits = [word for word, spellings in forms.items() if any(form in data for form in spellings)]
        if hits:
            found.setdefault(path, []).extend(hits)
    return found


def _contents(home: Home) -> Iterator[tuple[str, bytes]]:
    for path in sorted(home.root.rglob("*")):
        if not path.is_file():
            continue
        name = str(path.relative_to(home.root))
        yield name, path.read_bytes()
        if re.search(r"\.(xlsx|zip)$", name):
            with zipfile.ZipFile(path) as book:
                for item in book.infolist():
                    yield f"{name}!{item.filename}", book.read(item)
