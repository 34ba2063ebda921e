"""A whole run writes secrets, phones, names, unionids and addresses nowhere but where they are kept: raw, rejects and
the internal warehouse. Everything else is searched byte by byte."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from pipelines.run import run_job
from tests.e2e.conftest import CUT, WholeWay

pytestmark = [pytest.mark.xdist_group("e2e"), pytest.mark.timeout(600)]
# Where personal data is at home, besides the world outside and the keys.
AT_HOME = ("brand", "secrets", "data/raw", "data/rejects", "data/warehouse.duckdb", "data/tmp")
PHONE = re.compile(rb"(?<![0-9A-Za-z])1[3-9][0-9]{9}(?![0-9A-Za-z])")
UNIONID = re.compile(rb"(?<![0-9A-Za-z_-])o[0-9A-Za-z_-]{27}(?![0-9A-Za-z_-])")
HAN = re.compile(rb"(?:[\xe4-\xe9][\x80-\xbf][\x80-\xbf])+")
ESCAPED = re.compile(rb"(?:\\u[4-9][0-9a-f]{3})+")
# From the beginning of a word: else long runs of letters, as fonts in a page have, are read once for each of them.
EMAIL = re.compile(rb"(?<![0-9A-Za-z._%+-])[0-9A-Za-z._%+-]{2,64}@[0-9A-Za-z.-]+\.[A-Za-z]{2,}")


@pytest.fixture(scope="module")
def known(whole_way: WholeWay) -> dict[str, set[bytes]]:
    """What the brand knows of its people, and the secrets of its apps."""
    with sqlite3.connect(whole_way.brand / "brand.sqlite") as con:
        rows = con.execute("select mobile, unionid, email, name from members").fetchall()
    with sqlite3.connect(whole_way.brand / "wecom.sqlite") as con:
        rows += [(None, *row, None) for row in con.execute("select unionid, null from contacts").fetchall()]
    digits = {re.sub(r"\D", "", row[0])[-11:].encode() for row in rows if row[0]}
    names = {row[3] for row in rows if row[3] and len(row[3]) >= 3}
    return {
        "phone": digits,
        "unionid": {row[1].encode() for row in rows if row[1]},
        "email": {row[2].lower().encode() for row in rows if row[2]},
        "name": {name.encode() for name in names},
        "secret": {value.encode() for key, value in whole_way.names.items() if "secret" in key},
    }


def written(root: Path) -> Iterator[tuple[str, bytes]]:
    """Every file of the home that is not where personal data lives; tables of DuckDB files also as text."""
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if not path.is_file() or path.is_symlink() or name.startswith(AT_HOME):
            continue
        yield name, path.read_bytes()
        if path.suffix == ".duckdb":
            with duckdb.connect() as con:
                con.execute(f"attach '{path}' as held (read_only)")
                tables = con.execute(
                    "select schema_name, table_name from duckdb_tables() where database_name = 'held'"
                ).fetchall()
                for schema, table in tables:
                    rows = con.execute(
                        f'select distinct cast(r as varchar) from held."{schema}"."{table}" as r'
                    ).fetchall()
                    yield f"{name}:{table}", "\n".join(row[0] for row in rows).encode()


def names_in(data: bytes, names: set[bytes]) -> set[bytes]:
    """Which of *names* stand in *data*, also as JSON escapes them. Runs of Chinese characters are cut into all pieces
    as long as a name, which is a hundred times faster than to look for each name; names of other letters are few."""
    wanted = {name.decode() for name in names}
    chinese = {name for name in wanted if re.fullmatch("[\u4e00-\u9fff]+", name)}
    runs = {run.decode() for run in HAN.findall(data)} | {
        json.loads(b'"' + run + b'"') for run in ESCAPED.findall(data)
    }
    lengths = {len(name) for name in chinese}
    pieces = {run[at : at + size] for run in runs for size in lengths for at in range(len(run) - size + 1)}
    others = {name for name in wanted - chinese if name.encode() in data or json.dumps(name)[1:-1].encode() in data}
    return {name.encode() for name in (chinese & pieces) | others}


def leaks(root: Path, known: dict[str, set[bytes]]) -> list[tuple[str, str, int]]:
    found = []
    for path, data in written(root):
        hits = {
            "phone": set(PHONE.findall(data)) & known["phone"],
            "unionid": set(UNIONID.findall(data)) & known["unionid"],
            "email": {match.lower() for match in EMAIL.findall(data)} & known["email"],
            "name": names_in(data, known["name"]) if not path.startswith("config/") else set(),
            "secret": {secret for secret in known["secret"] if secret in data},
        }
        found += [(path, kind, len(values)) for kind, values in hits.items() if values]
    return found


def test_the_search_finds_what_is_there(whole_way: WholeWay, known: dict[str, set[bytes]]) -> None:
    with duckdb.connect(str(whole_way.home.warehouse), read_only=True) as con:
        held = con.execute("select string_agg(value_norm, ' ') from identity.node").fetchall()[0][0].encode()
    assert len(set(PHONE.findall(held)) & known["phone"]) > 100
    assert len(set(UNIONID.findall(held)) & known["unionid"]) > 100
    some = sorted(known["name"])[:50]
    text = "，".join(name.decode() for name in some)
    assert names_in(f"客户{text}等".encode(), known["name"]) >= set(some)
    assert names_in(json.dumps({"who": text}).encode(), known["name"]) >= set(some)
    assert names_in("一只老虎过马路".encode(), known["name"]) == set()
    assert all(len(values) > 0 for values in known.values())


def test_a_whole_run_leaks_nothing(whole_way: WholeWay, known: dict[str, set[bytes]]) -> None:
    assert leaks(whole_way.home.root, known) == []


@pytest.mark.slow
def test_nor_does_a_run_that_fails(whole_way: WholeWay, known: dict[str, set[bytes]], tmp_path: Path) -> None:
    """Rows that cannot be read, a source that refuses: what is told of them, in outcome and logs, names nobody."""
    phone = min(known["phone"]).decode()
    inbox = whole_way.home.inbox / "bad.csv"
    sources = whole_way.home.config / "sources.yaml"
    before = sources.read_text(encoding="utf-8")
    inbox.write_text(f"id,phone,points\n1,{phone},many\n2,{phone},a lot\n3,{phone},no\n", encoding="utf-8")
    sources.write_text(
        before + "\n  bad:\n    connector: file\n    streams:\n      people:\n        path: inbox/bad.csv\n"
        "        columns: {person_key: id}\n",
        encoding="utf-8",
    )
    try:
        outcome = run_job(whole_way.home, as_of=CUT)
        assert any("bad" in check.asset for check in outcome.failed_checks), "it did fail"
        assert phone not in repr(outcome)
        inbox.unlink()
        sources.write_text(before, encoding="utf-8")
        assert leaks(whole_way.home.root, known) == []
    finally:
        sources.write_text(before, encoding="utf-8")
        inbox.unlink(missing_ok=True)
