"""The main job on a generated brand: it ends well, its numbers add up, and its people are the right people."""

from __future__ import annotations

from collections import Counter

import duckdb
import polars as pl
import pytest

from cdp.tags.config import TagsConfig
from pipelines.run import run_job
from tests.e2e.conftest import CUT, WholeWay, content, held_tags
from warehouse.analytics_common import frame
from warehouse.home import load_config
from warehouse.raw import reconcile
from warehouse.reader import connect
from warehouse.sync_ledger import SyncLedger
from warehouse.sync_plan import load

pytestmark = [pytest.mark.xdist_group("e2e"), pytest.mark.timeout(600)]


def test_the_run_ends_well(whole_way: WholeWay) -> None:
    assert whole_way.outcome.failed_steps == {}
    failed = whole_way.outcome.failed_checks
    assert [check for check in failed if check.severity == "ERROR"] == []
    assert [check for check in failed if "could not run" in str(check.facts)] == [], "each finds what it reads"
    assert whole_way.outcome.success


def test_every_row_is_landed_rejected_or_a_duplicate(whole_way: WholeWay) -> None:
    rows = reconcile(whole_way.home)
    assert [row for row in rows if not row.ok] == []
    assert sum(row.received for row in rows) == sum(row.landed + row.duplicates + row.rejected for row in rows)
    assert sum(row.rejected for row in rows) > 0, "the generator plants broken lines"


def pairs(counts: Counter[object]) -> int:
    return sum(count * (count - 1) // 2 for count in counts.values())


def test_people_are_the_right_people(whole_way: WholeWay, capsys: pytest.CaptureFixture[str]) -> None:
    """Pairwise precision against who a person is, recall against what the evidence can connect."""
    phone = pl.when(pl.col("type") == "phone").then(pl.col("value").str.strip_prefix("+86")).otherwise(pl.col("value"))
    truth = pl.read_parquet(whole_way.brand / "truth" / "identifiers.parquet").filter(~pl.col("shared"))
    truth = truth.with_columns(phone.alias("value"))
    with duckdb.connect(str(whole_way.home.warehouse), read_only=True) as con:
        found = frame(
            con,
            "select i.type, i.scope, i.value_norm as value, min(m.one_id) as one_id from identity.identifier as i "
            "join identity.identity_map as m using (node_id) where m.run_to is null group by all",
        )
    both = truth.join(found, on=["type", "scope", "value"], how="left")
    missing = both.filter(pl.col("one_id").is_null())
    known = both.filter(pl.col("one_id").is_not_null())
    together = pairs(Counter(known["one_id"].to_list()))
    right = pairs(Counter(zip(known["one_id"], known["person_id"], strict=True)))
    wanted = pairs(Counter(both["linkable_group"].to_list()))
    got = pairs(Counter(zip(known["one_id"], known["linkable_group"], strict=True)))
    precision, recall = right / together, got / wanted
    with capsys.disabled():
        print(f"\naccuracy: pairwise precision {precision:.5f}, recall {recall:.5f}, unknown ids {missing.height}")
    assert precision >= 0.999
    assert recall >= 0.98


def test_orders_belong_to_the_people_who_made_them(whole_way: WholeWay) -> None:
    truth = pl.read_parquet(whole_way.brand / "truth" / "orders.parquet")
    with connect(whole_way.home) as con:
        orders = frame(con, "select platform, shop, order_id, one_id, is_paid, amount from marts.fct_orders")
    both = truth.join(orders, on=["platform", "shop", "order_id"], how="left", suffix="_found")
    assert both.filter(pl.col("is_paid_found").is_null()).height == 0
    assert both.filter(pl.col("is_paid") != pl.col("is_paid_found")).height == 0
    assert (
        both.filter(pl.col("is_paid") & (pl.col("amount").cast(pl.Decimal(18, 2)) != pl.col("amount_found"))).height
        == 0
    )
    paid = both.filter(pl.col("is_paid") & pl.col("attributable"))
    owners = paid.group_by("one_id").agg(pl.col("person_id").n_unique().alias("people")).drop_nulls("one_id")
    assert paid["one_id"].null_count() <= 0.001 * paid.height
    assert owners.filter(pl.col("people") > 1).height <= 0.002 * owners.height


def test_history_net_equals_the_order_ledger(whole_way: WholeWay) -> None:
    with connect(whole_way.home) as con:
        ledger = con.execute(
            "select sum(net_amount) from marts.fct_orders where is_paid and one_id is not null and paid_at < ?", [CUT]
        ).fetchall()[0][0]
        people = con.execute("select sum(hist_net) from marts.fct_ltv_people").fetchall()[0][0]
    assert people == ledger


def test_wecom_holds_the_tags_of_the_published_version(whole_way: WholeWay) -> None:
    """Read WeCom's own state, not ours: every active relation of a tagged person carries just the tags of the version,
    among those that this app made; people held out as control carry none."""
    held = held_tags(whole_way.brand / "wecom.sqlite")
    with SyncLedger(whole_way.home.sync_ledger) as ledger:
        ours = {tag.tag_id: (tag.group, tag.value) for tag in ledger.register()}
        control = set(load(whole_way.home, ledger).control["one_id"].to_list())
    sent = load_config(whole_way.home, "tags.yaml", TagsConfig).write_back
    with connect(whole_way.home) as con:
        wanted: dict[str, set[tuple[str, str]]] = {}
        for one_id, group, value in con.execute(
            "select one_id, tag_group, value from marts.fct_tags_current"
        ).fetchall():
            if group in sent:
                wanted.setdefault(one_id, set()).add((group, value))
        relations = con.execute(
            "select r.userid, r.external_userid, r.one_id, p.consent_marketing is distinct from false "
            "from marts.fct_relations as r join marts.dim_people as p using (one_id) where r.is_active"
        ).fetchall()
    assert len(relations) > 500
    tagged = 0
    gone = {(row[0], row[1]) for row in relations} - held.keys()
    assert len(gone) < 0.05 * len(relations)
    refused = refused_pairs(whole_way)
    for userid, external_userid, one_id, consents in relations:
        if (userid, external_userid) in gone | refused:
            continue
        mine = {ours[tag] for tag in held[userid, external_userid] if tag in ours}
        expected = wanted.get(one_id, set()) if consents and one_id not in control else set()
        assert mine == expected, (userid, external_userid)
        tagged += bool(mine)
    assert tagged > 300
    assert control


def refused_pairs(whole_way: WholeWay) -> set[tuple[str, str]]:
    """Relations that WeCom answered are over."""
    with SyncLedger(whole_way.home.sync_ledger) as ledger:
        rows = ledger.rows("select userid, external_userid from ops where state = 'gone'")
        return {(row["userid"], row["external_userid"]) for row in rows}


def test_a_second_run_changes_nothing_and_sends_nothing(whole_way: WholeWay) -> None:
    """Only what the first run itself did outside comes back: tags of relations, and outcomes of the sync."""
    before = content(whole_way.home)
    assert len(before) > 30
    writes = len(_marks(whole_way))
    assert writes > 300
    outcome = run_job(whole_way.home, as_of=CUT)
    assert outcome.success
    assert content(whole_way.home) == before
    assert len(_marks(whole_way)) == writes


def _marks(whole_way: WholeWay) -> list[object]:
    log: list[object] = whole_way.server.admin("GET", "log", path="externalcontact/mark_tag")["log"]
    return log
