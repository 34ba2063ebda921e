"""Which evidence is new and which is gone: found by the newest rows, proved by the digests of all."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import duckdb
import polars as pl
import pytest

from cdp.identity.memory import Item, micros, resolve_items
from cdp.identity.rules import IdentityRules
from tests.identity.brands import AS_OF, COLUMNS, SECRET, Brand, Seen, elements, seen
from tests.identity.random_evidence import POOL, RULES, as_seen, blocked, rows
from warehouse.identity_frames import handed_over
from warehouse.identity_store import rebuild_identities

EVIDENCE = "identity.int_identity__evidence"


def replaced(brand: Brand, key: str, row: Seen) -> None:
    """The row of *key* made again with other identifiers, as the model does it."""
    brand.remove([key])
    (other,) = brand.add(row)
    brand.con.execute(f"update {EVIDENCE} set source_key = ? where source_key = ?", [key, other])


def rebuilt(brand: Brand) -> dict[tuple[str, str, str, int], str]:
    report = rebuild_identities(brand.con, IdentityRules(), run_id="rebuild", as_of=AS_OF, secret=SECRET)
    assert report.changes == 0
    return brand.mapping()


@pytest.fixture(params=[False, True], ids=["newest rows known", "newest rows unknown"])
def brand(request: pytest.FixtureRequest) -> Brand:
    brand = Brand(stale=request.param)
    brand.keyed = brand.add(  # type: ignore[attr-defined]
        seen(member_id="M1", phone="13800138001"), seen("login", 1, openid_wx1="o1", phone="13800138001"),
        seen("login", 2, openid_wx1="o2", phone="13800138003"),
    )  # fmt: skip
    brand.run()
    assert brand.id("member_id", "M1") == brand.id("openid", "o1")
    return brand


def test_a_row_made_again_otherwise_takes_the_place_of_the_one_before(brand: Brand) -> None:
    replaced(brand, brand.keyed[1], seen("login", 1, openid_wx1="o1", phone="13800138002"))  # type: ignore[attr-defined]
    report = brand.run()
    assert (report.mode, report.new_evidence, report.gone_evidence) == ("incremental", 1, 1)
    assert brand.id("member_id", "M1") != brand.id("openid", "o1")
    assert brand.run().mode == "unchanged"
    mapped = brand.mapping()
    assert rebuilt(brand) == mapped


def test_a_row_made_again_as_it_was_is_no_news(brand: Brand) -> None:
    replaced(brand, brand.keyed[1], seen("login", 1, openid_wx1="o1", phone="13800138001"))  # type: ignore[attr-defined]
    report = brand.run()
    assert (report.mode, report.new_evidence, report.gone_evidence) == ("unchanged", 0, 0)


def test_rows_that_go_while_others_come_and_others_change(brand: Brand) -> None:
    first, second, third = brand.keyed  # type: ignore[attr-defined]
    replaced(brand, second, seen("login", 1, openid_wx1="o1", phone="13800138003"))
    brand.remove([first])
    report = brand.run(seen("login", 3, openid_wx1="o3", phone="13800138003"))
    assert (report.new_evidence, report.gone_evidence) == (2, 2)
    assert brand.id("member_id", "M1") is None
    assert brand.id("openid", "o1") == brand.id("openid", "o2") == brand.id("openid", "o3")
    mapped = brand.mapping()
    assert rebuilt(brand) == mapped
    assert third in {row[0] for row in brand.con.execute(f"select source_key from {EVIDENCE}").fetchall()}


def test_a_row_that_changed_where_it_stands_is_found_by_the_proof(brand: Brand) -> None:
    brand.con.execute(
        f"update {EVIDENCE} set identifiers = ? where source_key = ?",
        [elements({"openid@wx1": "o1", "phone": "13800138002"}), brand.keyed[1]],  # type: ignore[attr-defined]
    )
    report = brand.run()
    assert (report.mode, report.new_evidence, report.gone_evidence) == ("incremental", 1, 1)
    assert brand.id("member_id", "M1") != brand.id("openid", "o1")


def test_a_row_older_than_the_newest_that_was_read_is_found_by_the_proof(brand: Brand) -> None:
    (late,) = brand.add(seen("login", 2, member_id="M1", openid_wx1="o2"))
    brand.con.execute(f"update {EVIDENCE} set made_at = 0 where source_key = ?", [late])
    report = brand.run()
    assert (report.mode, report.new_evidence) == ("incremental", 1)
    assert brand.id("member_id", "M1") == brand.id("openid", "o2")


@pytest.mark.parametrize("seed", range(4))
def test_what_is_stored_is_what_the_model_has_whatever_happened_to_its_rows(seed: int) -> None:
    rng = random.Random(seed)
    brand = Brand(RULES)
    kept: dict[str, Item] = {}
    for step in range(8):
        for item in rows(rng, rng.randrange(4)):
            kept[brand.add(as_seen(item))[0]] = item
        for key in rng.sample(sorted(kept), min(len(kept), rng.randrange(4))):
            what = rng.choice(("goes", "is made again as it was", "is made again", "changes where it stands"))
            if what == "goes":
                brand.remove([key])
                del kept[key]
                continue
            if what != "is made again as it was":
                kept[key] = rows(rng, 1)[0]
            if what == "changes where it stands":
                made_at = brand.con.execute(f"select made_at from {EVIDENCE} where source_key = ?", [key]).fetchall()[0]
            replaced(brand, key, as_seen(kept[key]))
            if what == "changes where it stands":
                brand.con.execute(f"update {EVIDENCE} set made_at = ? where source_key = ?", [*made_at, key])
        brand.run()
        stored, given = (
            brand.con.execute(f"select evidence_id, source_key from {table} order by all").fetchall()
            for table in ("identity.evidence", EVIDENCE)
        )
        assert stored == given, f"seed {seed}, step {step}"
    expected = resolve_items(list(kept.values()), RULES, as_of=micros(AS_OF), barred=filter(blocked, POOL))
    assert brand.partition() == expected.partition()


def test_what_a_later_run_adds_is_seen_before_any_checkpoint(tmp_path: Path) -> None:
    """Many identifiers at once fill whole row groups; the next run of the same process numbers after them."""
    con = duckdb.connect(str(tmp_path / "warehouse.duckdb"), config={"checkpoint_threshold": "10GB"})
    brand = Brand(con=con)
    many = 130_000
    con.execute(f"""insert into {EVIDENCE} ({COLUMNS})
        select 'crm', 'm' || i, 'bind', moment, moment, moment, 1, 1,
            [{{'type': 'member_id', 'scope': '', 'value': 'M' || i}}]
        from (select i, timestamptz '2025-01-01 00:00:00+00' as moment from range({many}) as t(i))""")
    brand.run()
    for place in range(2):
        brand.run(seen(member_id=f"N{place}"))
        table = "select count(*), max(node_id), count(distinct node_id) from (select node_id from identity.node)"
        assert con.execute(table).fetchall() == [(many + place + 1,) * 3]
    con.close()


def words(*given: str) -> Callable[[slice], pl.DataFrame]:
    return lambda rows: pl.DataFrame({"word": list(given)[rows]}, schema={"word": pl.String})


def test_what_broke_a_statement_is_what_is_told() -> None:
    con = duckdb.connect()
    con.execute("begin")
    with (
        pytest.raises(duckdb.ConversionException, match="no number"),
        handed_over(con, "handed", 1, words("no number")),
    ):
        con.execute("create table numbers as select word::integer from handed")
    con.execute("rollback")
    with handed_over(con, "handed", 1, words("12")):
        assert con.execute("select word::integer from handed").fetchall() == [(12,)]
    with pytest.raises(duckdb.CatalogException, match="handed"):
        con.execute("select * from handed")
