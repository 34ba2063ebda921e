"""A person who takes consent back loses the tags of that purpose: in the marts, and in WeCom with the next plan."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import duckdb
import pytest

from cdp.config import parse
from cdp.errors import ConfigError
from cdp.funnels.config import FunnelsConfig
from cdp.tags.compile import lineage
from cdp.tags.config import TagsConfig
from tests.analytics.brand import AS_OF, ZONE, insert, open_memory
from tests.sync.world import Brand, World
from warehouse.analytics import build_funnels, build_tags, set_manual_tag

MARTS = "marts_db.marts"
TAGS = """
purposes: {marketing: consent_marketing is not false, profiling: "coalesce(consent_marketing, false)"}
tag_groups:
  - {id: life, kind: stage, consent_purpose: marketing, overrides: [manual], values: [初识, 首购, 复购],
     rules: {初识: "true", 首购: "orders_paid >= 1", 复购: "orders_paid >= 2"},
     write_back: {wecom: {group: 生命周期}}}
  - {id: pref, kind: fact, consent_purpose: profiling, on_empty: keep_last, ttl: 90d, value: member_level,
     write_back: {wecom: {group: 品类偏好}}}
  - {id: ops, kind: fact, value: member_level}
"""


@pytest.fixture
def con() -> Iterator[duckdb.DuckDBPyConnection]:
    with open_memory(AS_OF, ZONE) as opened:
        opened.execute(
            f"create table {MARTS}.fct_person_features (one_id text, orders_paid bigint, member_level text,"
            " consent_marketing boolean)"
        )
        rows = [("yes", True), ("no", False), ("unasked", None)]
        for one_id, said in rows:
            opened.execute(f"insert into {MARTS}.fct_person_features values (?, 2, '金卡', ?)", [one_id, said])
            insert(opened, "dim_people", [{"one_id": one_id, "consent_marketing": said}])
        yield opened


def held(con: duckdb.DuckDBPyConnection, group: str) -> dict[str, str]:
    return dict(
        con.execute(f"select one_id, value from {MARTS}.fct_tags_current where tag_group = ?", [group]).fetchall()
    )


def config(text: str = TAGS) -> TagsConfig:
    return parse(text, TagsConfig, file="tags.yaml")


def test_a_group_tags_only_people_who_agree_to_its_purpose(con: duckdb.DuckDBPyConnection) -> None:
    set_manual_tag(con, config(), one_id="no", group="life", value="首购", by="ops", at=AS_OF - timedelta(days=9))
    build_tags(con, config(), as_of=AS_OF, timezone=ZONE)
    assert held(con, "life") == {"yes": "复购", "unasked": "复购"}, "not even a value set by hand"
    assert held(con, "pref") == {"yes": "金卡"}, "this purpose needs a yes"
    assert held(con, "ops") == {"yes": "金卡", "no": "金卡", "unasked": "金卡"}, "no purpose, no consent needed"


def test_a_withdrawal_ends_the_tag_even_where_values_are_kept(con: duckdb.DuckDBPyConnection) -> None:
    build_tags(con, config(), as_of=AS_OF, timezone=ZONE)
    con.execute(f"update {MARTS}.fct_person_features set consent_marketing = false where one_id = 'yes'")
    build_tags(con, config(), as_of=AS_OF + timedelta(days=1), timezone=ZONE)
    assert held(con, "life") == {"unasked": "复购"}
    assert held(con, "pref") == {}
    causes = con.execute(
        "select distinct closed_cause from activation.tag_history where one_id = 'yes' and valid_to is not null"
    ).fetchall()
    assert causes == [("consent",)], "the history says why"


def test_a_withdrawal_does_not_wait_for_a_group_kept_back_by_its_health(con: duckdb.DuckDBPyConnection) -> None:
    build_tags(con, config(), as_of=AS_OF, timezone=ZONE)
    con.execute(f"update {MARTS}.fct_person_features set consent_marketing = false where one_id = 'yes'")
    con.execute(f"update {MARTS}.fct_person_features set orders_paid = 0 where one_id = 'unasked'")
    bound = config(TAGS.replace("{id: life,", "{id: life, health: {coverage: [0.9, 1.0], severity: error},"))
    for _ in range(2):
        report = build_tags(con, bound, as_of=AS_OF + timedelta(days=1), timezone=ZONE)
        assert report.groups[0].status == "kept"
        assert held(con, "life") == {"unasked": "复购"}, "the last good version, without who said no"
    assert report.history_added == 0, "again, it changes nothing"
    history = con.execute(
        "select one_id, value, closed_cause from activation.tag_history where tag_group = 'life' order by all"
    ).fetchall()
    assert history == [("unasked", "复购", None), ("yes", "复购", "consent")]
    build_tags(con, config(), as_of=AS_OF + timedelta(days=2), timezone=ZONE)
    assert held(con, "life") == {"unasked": "初识"}, "well again, the group goes on from what people hold"


FUNNEL = "funnels: [{id: f, consent_purpose: %s, steps: [{id: a, event: a}]}]"


def test_a_funnel_counts_only_people_who_agree_to_its_purpose(con: duckdb.DuckDBPyConnection) -> None:
    for one_id in ("yes", "no", "unasked"):
        event = {"event_key": one_id, "one_id": one_id, "event_name": "a", "event_at": AS_OF - timedelta(days=9)}
        insert(con, "fct_journey", [event])
    for purpose, people in (("marketing", ["unasked", "yes"]), ("profiling", ["yes"])):
        funnels = parse(FUNNEL % purpose, FunnelsConfig, file="funnels.yaml")
        build_funnels(con, funnels, as_of=AS_OF, timezone=ZONE, purposes=config().purposes)
        found = con.execute(f"select one_id from {MARTS}.fct_funnel_people order by 1").fetchall()
        assert [row[0] for row in found] == people


def test_a_funnel_whose_purpose_is_not_declared_is_refused(con: duckdb.DuckDBPyConnection) -> None:
    funnels = parse(FUNNEL % "research", FunnelsConfig, file="funnels.yaml")
    with pytest.raises(ConfigError, match="no consent for `research`, which funnel:f need"):
        build_funnels(con, funnels, as_of=AS_OF, timezone=ZONE, purposes=config().purposes)
    with pytest.raises(ConfigError, match="no consent for `research`"):
        build_funnels(con, funnels, as_of=AS_OF, timezone=ZONE)


def test_purposes_are_in_the_lineage_and_checked() -> None:
    assert "marts.fct_person_features.consent_marketing" in lineage(config())["pref"]
    with pytest.raises(ConfigError, match="no purpose is called `marketting`; did you mean `marketing`"):
        config(TAGS.replace("consent_purpose: marketing", "consent_purpose: marketting"))


def test_withdrawal_takes_the_tags_off_in_wecom_with_the_next_plan(tmp_path: Path) -> None:
    brand = Brand(
        {("s1", "wm1"): "p1", ("s1", "wm2"): "p2"}, {"p1": ["life/首购"], "p2": ["life/首购"]}, consent={"p1": True}
    )
    world = World(tmp_path, brand)
    try:
        assert world.run().outcome == "VERIFIED"
        assert world.remote()["s1", "wm1"] == {"生命周期/首购"}
        brand.consent["p1"] = False
        plan = world.plan()
        assert [(row["external_userid"], row["remove"]) for row in plan.ops.iter_rows(named=True)] == [
            ("wm1", ["life/首购"])
        ]
        [tag] = [item for item in plan.summary["tags"] if item["key"] == "life/首购"]
        assert tag["no_consent"] == 1
        world.apply(plan)
        assert world.remote() == {("s1", "wm1"): set(), ("s1", "wm2"): {"生命周期/首购"}}
    finally:
        world.close()
