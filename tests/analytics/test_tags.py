"""Tags: eleven kinds, exclusivity proven, plan equals publication, history that survives, health that gates."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import duckdb
import numpy as np
import pytest
from scipy.special import rel_entr

from cdp.config import parse
from cdp.errors import CheckFailedError, ConfigError
from cdp.funnels.config import FunnelsConfig
from cdp.metrics.config import MetricsConfig
from cdp.metrics.lineage import affected, require_consent
from cdp.tags.compile import lineage
from cdp.tags.config import TagsConfig
from tests.analytics.brand import AS_OF, ROOT, ZONE, at, build_marts, insert, open_memory, run_model
from warehouse.analytics import (
    TagReport,
    build_funnels,
    build_ltv,
    build_metrics,
    build_tags,
    explain_tag,
    forget_tags,
    health_rows,
    plan_tags,
    replay_tags,
    set_manual_tag,
)

MARTS = "marts_db.marts"


def config_of(name: str, model: Any) -> Any:
    return parse((ROOT / "config" / name).read_text(encoding="utf-8"), model, file=name)


def tags(text: str) -> TagsConfig:
    return parse(text, TagsConfig, file="tags.yaml")


def features(con: duckdb.DuckDBPyConnection, *, as_of: Any = AS_OF) -> None:
    con.execute("set variable as_of = ?::timestamptz", [as_of])
    build_ltv(con, MetricsConfig(), as_of=as_of, timezone=ZONE)
    run_model(con, "fct_person_features")


def build(con: duckdb.DuckDBPyConnection, config: TagsConfig, *, as_of: Any = AS_OF) -> TagReport:
    return build_tags(con, config, as_of=as_of, timezone=ZONE)


def current(con: duckdb.DuckDBPyConnection, group: str) -> dict[str, list[str]]:
    rows = con.execute(
        f"select one_id, list(value order by rank) from {MARTS}.fct_tags_current where tag_group = ? group by 1",
        [group],
    ).fetchall()
    return dict(rows)


@pytest.fixture
def few(con: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
    """Four people: a bought three times (twice one day), b once, c never, d never and unknown to anyone."""
    for one_id in "abcd":
        person = {
            "one_id": one_id,
            "member_id": one_id if one_id != "d" else None,
            "city": "上海",
            "is_follower": False,
        }
        insert(con, "dim_people", [person | {"origin_channel": "直播间" if one_id == "a" else None}])
    orders = [
        ("a", "2026-01-01", 1, 50),
        ("a", "2026-02-01", 2, 70),
        ("a", "2026-02-01", 3, 80),
        ("b", "2026-02-10", 1, 9),
    ]
    for one_id, day, number, amount in orders:
        order = {"order_key": f"{one_id}{number}", "one_id": one_id, "is_paid": True, "paid_at": at(f"{day} 12:00")}
        order |= {"paid_date": day, "amount": amount, "refund_amount": 0, "order_no": number, "channel": f"ch{number}"}
        insert(con, "fct_orders", [order])
        category = "护肤" if number != 2 else "彩妆"
        line = {"order_line_key": f"l{one_id}{number}", "order_key": f"{one_id}{number}", "one_id": one_id}
        insert(con, "fct_order_lines", [line | {"paid_at": at(f"{day} 12:00"), "category": category, "amount": amount}])
    features(con)
    return con


def test_every_kind_gives_what_it_says(few: duckdb.DuckDBPyConnection) -> None:
    few.execute(
        f"create table {MARTS}.fct_partner_labels as select * from (values ('a', 'gold'), ('b', 'odd')) t (one_id, "
        f"value)"
    )
    config = tags(
        """
scores:
  m: {by: net_amount, bins: 2, thresholds: [100], among: "orders_paid > 0"}
tag_groups:
  - {id: city, kind: fact, value: city, names: {上海: 沪}, only_named: true}
  - {id: orders, kind: statistic, value: orders_paid, bands: [{name: 无, below: 1}, {name: 少, below: 3}, {name: 多}]}
  - {id: spent, kind: statistic, source: fct_orders, value: "sum(amount)", window: 30d,
     bands: [{name: 低, below: 100}, {name: 高}]}
  - {id: first_channel, kind: first_last, source: fct_orders, pick: first, value: channel}
  - {id: last_channel, kind: first_last, source: marts.fct_orders, pick: last, value: channel}
  - {id: likes, kind: preference, source: fct_order_lines, value: category, amount: amount, top: 2}
  - {id: tier, kind: tier, by: net_amount, among: "orders_paid > 0", quantiles: [0.5], values: [下, 上]}
  - {id: flags, kind: rule, exclusive: false, rules: {会员: is_member, 买家: "orders_paid > 0"}}
  - {id: stage, kind: stage, values: [一, 二], rules: {一: is_member, 二: "orders_paid > 0"}}
  - {id: rank, kind: ranking, by: net_amount, among: "orders_paid > 0",
     tops: [{name: 前半, share: 0.5}, {name: 后半, share: 1.0}]}
  - {id: scored, kind: rule, resolve: first_match, rules: {好: "m = 2", 差: "m = 1"}}
  - {id: alive, kind: model, value: p_alive, bands: [{name: 低, below: 0.5}, {name: 高}]}
  - {id: partner, kind: import, source: fct_partner_labels, names: {gold: 金牌}}
  - {id: hand, kind: manual, values: [黑名单, 白名单]}
"""
    )
    set_manual_tag(few, config, one_id="c", group="hand", value="白名单", by="店长", at=AS_OF - timedelta(days=2))
    build(few, config)
    expected = {
        "city": {"a": ["沪"], "b": ["沪"], "c": ["沪"], "d": ["沪"]},
        "orders": {"a": ["多"], "b": ["少"], "c": ["无"], "d": ["无"]},
        "spent": {"a": ["高"], "b": ["低"]},
        "first_channel": {"a": ["ch1"], "b": ["ch1"]},
        "last_channel": {"a": ["ch3"], "b": ["ch1"]},
        "likes": {"a": ["护肤", "彩妆"], "b": ["护肤"]},
        "tier": {"a": ["上"], "b": ["下"]},
        "flags": {"a": ["会员", "买家"], "b": ["会员", "买家"], "c": ["会员"]},
        "stage": {"a": ["二"], "b": ["二"], "c": ["一"]},
        "rank": {"a": ["前半"], "b": ["后半"]},
        "scored": {"a": ["好"], "b": ["差"]},
        "alive": {},
        "partner": {"a": ["金牌"], "b": ["odd"]},
        "hand": {"c": ["白名单"]},
    }
    assert {name: current(few, name) for name in expected} == expected


def test_overlapping_rules_fail_and_name_a_person(few: duckdb.DuckDBPyConnection) -> None:
    """Design row 17: nothing of the run is kept."""
    config = tags('tag_groups: [{id: size, kind: rule, rules: {小: "orders_paid >= 1", 大: "orders_paid >= 3"}}]')
    with pytest.raises(CheckFailedError, match=r"the rules of 小, 大 both hold for person a \(1 people in all\)"):
        build(few, config)
    assert few.execute("select count(*) from activation.tag_history").fetchall() == [(0,)]


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("order_paid >= 1", r"no column `order_paid`; did you mean `orders_paid`\?"),
        ("orders_paid >=", "is not a SQL expression"),
        ("sum(orders_paid) > 1", "an aggregate is not allowed"),
        ("last_paid_at > now()", "another answer each time"),
        ("orders_paid in (select 1)", "is not allowed in a rule"),
        ("f.orders_paid > 1", r"without `f\.`"),
        ("1 = 1; drop table x", "not (a SQL|one SQL)"),
    ],
)
def test_a_wrong_rule_is_told_before_anything_runs(few: duckdb.DuckDBPyConnection, rule: str, message: str) -> None:
    config = tags(f'tag_groups: [{{id: g, kind: rule, rules: {{甲: "{rule}"}}}}]')
    with pytest.raises(ConfigError, match=message):
        build(few, config)


def test_a_wrong_column_comes_with_its_line(few: duckdb.DuckDBPyConnection) -> None:
    config = tags(
        "scores:\n  m: {by: net_amout}\ntag_groups:\n  - {id: a, kind: fact, value: city}\n"
        '  - id: b\n    kind: rule\n    rules:\n      甲: "orders_paid > 0"\n      乙: "order_paid > 1"\n'
    )
    with pytest.raises(ConfigError) as told:
        build(few, config)
    assert [line.split(": ")[:2] for line in told.value.message.splitlines()] == [
        ["tags.yaml:2", "scores.m.by"],
        ["tags.yaml:9", "b.rules.乙"],
    ]


def test_faults_of_the_file_come_with_line_and_nearest_name() -> None:
    with pytest.raises(ConfigError, match=r"tags.yaml:3:.*did you mean `stage`"):
        tags("tag_groups:\n  - id: a\n    kind: stages\n")
    with pytest.raises(ConfigError, match="at most 15 characters"):
        tags('tag_groups: [{id: a, kind: manual, values: ["一二三四五六七八九十一二三四五六"]}]')


LIFECYCLE = """
tag_groups:
  - id: lifecycle
    kind: stage
    values: [初识, 首购, 复购]
    rules: {初识: "friend_added_at is not null", 首购: "orders_paid >= 1", 复购: "purchase_days >= 2"}
"""


def test_plan_counts_are_those_of_the_next_publication(brand: duckdb.DuckDBPyConnection) -> None:
    """Design row 18."""
    features(brand)
    build(brand, tags(LIFECYCLE))
    changed = tags(LIFECYCLE.replace("orders_paid >= 1", "net_amount >= 200"))
    planned = {
        row.value: (row.now, row.entering, row.leaving, row.after) for row in plan_tags(brand, changed, marts=MARTS)
    }
    before = current(brand, "lifecycle")
    build(brand, changed)
    after = current(brand, "lifecycle")
    for value, (now, entering, leaving, total) in planned.items():
        had = {one_id for one_id, values in before.items() if value in values}
        has = {one_id for one_id, values in after.items() if value in values}
        assert (now, entering, leaving, total) == (len(had), len(has - had), len(had - has), len(has))
    assert sum(row[1] for row in planned.values()) > 0


def test_history_moves_with_the_days_and_rerunning_adds_nothing(con: duckdb.DuckDBPyConnection) -> None:
    build_marts(con, people=200, seed=2)
    config = tags(LIFECYCLE)
    snapshots = {}
    for back in (60, 30, 0):
        as_of = AS_OF - timedelta(days=back)
        features(con, as_of=as_of)
        report = build(con, config, as_of=as_of)
        assert build(con, config, as_of=as_of).history_added == 0
        snapshots[report.as_of] = current(con, "lifecycle")
    for moment, expected in snapshots.items():
        rows = con.execute(
            f"select one_id, list(value) from {MARTS}.fct_tag_history where valid_from <= $1"
            " and (valid_to is null or valid_to > $1) group by one_id",
            [moment],
        ).fetchall()
        assert dict(rows) == expected


def test_an_earlier_day_comes_back_bit_for_bit_and_late_events_show(con: duckdb.DuckDBPyConnection) -> None:
    """Design row 16."""
    build_marts(con, people=200, seed=3)
    config = tags((ROOT / "config" / "tags.yaml").read_text(encoding="utf-8"))
    earlier = AS_OF - timedelta(days=20)
    for as_of in (earlier, AS_OF):
        features(con, as_of=as_of)
        build(con, config, as_of=as_of)
    models = {
        name: (ROOT / "models" / "analytics" / f"{name}.sql").read_text(encoding="utf-8")
        for name in ("fct_person_facts", "fct_person_activity", "fct_person_features")
    }
    differences, skipped = replay_tags(con, config, models=models, as_of=earlier, timezone=ZONE)
    assert differences == []
    assert skipped == ("churn_risk",)
    never = con.execute(f"select min(one_id) from {MARTS}.fct_person_features where orders_paid = 0").fetchall()[0][0]
    late = {"order_key": "late", "one_id": never, "is_paid": True, "paid_at": earlier - timedelta(days=9)}
    insert(con, "fct_orders", [late | {"paid_date": "2026-01-31", "amount": 50, "refund_amount": 0}])
    differences, _ = replay_tags(con, config, models=models, as_of=earlier, timezone=ZONE)
    assert {d.one_id for d in differences if d.tag_group == "lifecycle"} == {never}


def test_running_the_same_day_on_changed_data_is_a_labelled_restatement(few: duckdb.DuckDBPyConnection) -> None:
    config = tags(LIFECYCLE)
    build(few, config)
    few.execute(
        f"insert into {MARTS}.fct_orders (order_key, one_id, is_paid, paid_at, paid_date, amount) values"
        " ('c1', 'c', true, timestamptz '2026-02-20 00:00:00+00', '2026-02-20', 5)"
    )
    features(few)
    build(few, config)
    few.execute(f"delete from {MARTS}.fct_orders where one_id = 'b'")
    features(few)
    build(few, config)
    rows = few.execute(
        f"select one_id, value, opened_cause, closed_cause, valid_to = valid_from from {MARTS}.fct_tag_history"
        " where one_id in ('b', 'c') order by opened_run, one_id"
    ).fetchall()
    assert rows == [("b", "首购", "computed", "restated", True), ("c", "首购", "computed", None, None)]


def test_splitting_a_person_and_merging_them_again_returns_the_same_bytes() -> None:
    """Tags, lifetime value, funnels, credit and referrals (design row 10)."""
    config = tags((ROOT / "config" / "tags.yaml").read_text(encoding="utf-8"))

    def run(split: bool) -> dict[str, list[tuple[Any, ...]]]:
        con = open_memory(AS_OF, ZONE)
        build_marts(con, people=150, seed=4)
        whole = "p000003"
        moved = ("fct_orders", "fct_order_lines", "fct_events", "fct_journey", "fct_touches")
        con.execute(
            f"insert into {MARTS}.fct_touches by name select 't' || event_key as touch_key, one_id, event_at as "
            f"touched_at,"
            f" channel from {MARTS}.fct_events"
        )
        if split:
            for table in moved:
                con.execute(
                    f"update {MARTS}.{table} set one_id = 'q' where one_id = ? and hash(rowid) % 2 = 0", [whole]
                )
            con.execute(
                f"update {MARTS}.fct_referrals set inviter_one_id = 'q'"
                " where inviter_one_id = ? and hash(rowid) % 2 = 0",
                [whole],
            )
            con.execute(f"insert into {MARTS}.dim_people (one_id, is_follower) values ('q', false)")
            earlier = AS_OF - timedelta(days=1)
            features(con, as_of=earlier)
            build(con, config, as_of=earlier)
            for table in moved:
                con.execute(f"update {MARTS}.{table} set one_id = ? where one_id = 'q'", [whole])
            con.execute(f"update {MARTS}.fct_referrals set inviter_one_id = ? where inviter_one_id = 'q'", [whole])
            con.execute(f"delete from {MARTS}.dim_people where one_id = 'q'")
            con.execute("create schema identity")
            con.execute(
                "create table identity.alias as select 'q' as one_id, ? as current_one_id, 'merged' as status", [whole]
            )
        features(con)
        build(con, config)
        build_funnels(con, config_of("funnels.yaml", FunnelsConfig), as_of=AS_OF, timezone=ZONE)
        build_metrics(con, MetricsConfig(), as_of=AS_OF, timezone=ZONE)
        tables = (
            "fct_tags_current", "fct_ltv_people", "fct_funnel_people", "fct_funnel_steps", "fct_attribution_credit",
            "fct_referral_edges", "fct_rfm",
        )  # fmt: skip
        found = {name: con.execute(f"select * from {MARTS}.{name} order by all").fetchall() for name in tables}
        if split:
            ended = con.execute(
                f"select distinct one_id, recorded_one_id, closed_cause from {MARTS}.fct_tag_history"
                " where recorded_one_id = 'q'"
            ).fetchall()
            assert ended == [(whole, "q", "identity")]
        con.close()
        return found

    assert run(split=True) == run(split=False)


def test_a_breach_of_health_keeps_the_last_good_version(few: duckdb.DuckDBPyConnection) -> None:
    """Design row 19; the values themselves are checked by the test below."""
    text = (
        LIFECYCLE + "    health: "
        "{coverage: [0.5, 1.0], value_share_max: 0.9, psi_max: 0.5, daily_churn_max: 0.4, severity: error}\n"
    )
    config = tags(text.replace("friend_added_at is not null", "is_member"))
    first = build(few, config)
    assert first.groups[0].status == "published"
    good = current(few, "lifecycle")
    few.execute(f"update {MARTS}.dim_people set member_id = null")
    few.execute(f"delete from {MARTS}.fct_orders")
    features(few)
    report = build(few, config)
    assert report.groups[0].status == "kept"
    assert "coverage 0.0000 outside 0.5..1.0" in (report.groups[0].reason or "")
    assert current(few, "lifecycle") == good
    rows = health_rows(few, marts=MARTS)
    assert {(row[1], row[8], row[12]) for row in rows} >= {("kept", "coverage", False)}


def test_health_is_measured_as_its_definitions_say(brand: duckdb.DuckDBPyConnection) -> None:
    """Coverage, largest share, PSI and churn over five days, against numbers taken from what was published (design
    row 19). People leave and enter the group, and one value is new."""
    first, second = AS_OF - timedelta(days=5), AS_OF
    text = LIFECYCLE.replace("friend_added_at is not null", "is_follower")
    features(brand, as_of=first)
    build(brand, tags(text), as_of=first)
    before = current(brand, "lifecycle")
    brand.execute(f"update {MARTS}.dim_people set is_follower = not is_follower where one_id < 'p000060'")
    changed = text.replace('"purchase_days >= 2"', '"purchase_days >= 2", 常客: "purchase_days >= 4"').replace(
        "首购, 复购]", "首购, 复购, 常客]"
    )
    bounds = "    health: {coverage: [0, 1], value_share_max: 1.0, psi_max: 9, daily_churn_max: 1.0}\n"
    features(brand, as_of=second)
    build(brand, tags(changed + bounds), as_of=second)
    after = current(brand, "lifecycle")
    values = sorted({value for held in (before, after) for [value] in held.values()})
    old, new = (np.array([list(held.values()).count([value]) for value in values]) for held in (before, after))
    shares = [np.maximum(counts / counts.sum(), 1e-4) for counts in (new, old)]
    people = brand.execute(f"select count(*) from {MARTS}.fct_person_features").fetchall()[0][0]
    left = [one_id for one_id, value in before.items() if after.get(one_id) != value]
    entered = [one_id for one_id in after if one_id not in before]
    assert old.min() == 0
    assert len(entered) > 5
    assert any(one_id not in after for one_id in left)
    found = dict(
        brand.execute(
            f"select metric, value from {MARTS}.fct_tag_health"
            f" where run = (select max(run) from {MARTS}.fct_tag_health)"
        ).fetchall()
    )
    assert found == pytest.approx(
        {
            "coverage": len(after) / people,
            "value_share": new.max() / len(after),
            "psi": float(np.sum(rel_entr(*shares) + rel_entr(*shares[::-1]))),
            "daily_churn": len(left) / len(before) / 5,
        },
        rel=1e-9,
    )


def test_keep_last_keeps_a_value_for_its_time(few: duckdb.DuckDBPyConnection) -> None:
    config = tags(
        "tag_groups: [{id: recent, kind: rule, resolve: first_match, on_empty: keep_last, ttl: 10d,"
        ' rules: {近购: "recency_days <= 30"}}]'
    )
    held = {}
    for ahead in (0, 20, 25, 40):
        as_of = AS_OF + timedelta(days=ahead)
        features(few, as_of=as_of)
        build(few, config, as_of=as_of)
        held[ahead] = sorted(current(few, "recent"))
    assert held == {0: ["a", "b"], 20: ["a", "b"], 25: ["a", "b"], 40: []}


def test_manual_values_win_where_the_group_says_so(few: duckdb.DuckDBPyConnection) -> None:
    config = tags(LIFECYCLE + "    overrides: [manual]\n")
    set_manual_tag(few, config, one_id="a", group="lifecycle", value="初识", by="店长", at=AS_OF - timedelta(days=3))
    build(few, config)
    assert current(few, "lifecycle")["a"] == ["初识"]
    set_manual_tag(few, config, one_id="a", group="lifecycle", value=None, by="店长", at=AS_OF)
    build(few, config, as_of=AS_OF + timedelta(days=1))
    assert current(few, "lifecycle")["a"] == ["复购"]
    with pytest.raises(ConfigError, match="has no value `忠诚`"):
        set_manual_tag(few, config, one_id="a", group="lifecycle", value="忠诚", by="店长", at=AS_OF)
    with pytest.raises(ConfigError, match="takes no manual values"):
        set_manual_tag(few, tags(LIFECYCLE), one_id="a", group="lifecycle", value="初识", by="店长", at=AS_OF)


def test_sources_win_in_the_order_they_are_named(few: duckdb.DuckDBPyConnection) -> None:
    few.execute(
        f"create table {MARTS}.fct_partner as select * from (values ('a', '初识'), ('b', '初识')) t (one_id, value)"
    )
    held = {}
    for order in ("manual, import", "import, manual"):
        config = tags(LIFECYCLE + f"    overrides: [{order}]\n    imported_from: marts.fct_partner\n")
        set_manual_tag(
            few, config, one_id="a", group="lifecycle", value="复购", by="店长", at=AS_OF - timedelta(days=3)
        )
        build(few, config)
        held[order] = current(few, "lifecycle")
    assert held["manual, import"] == {"a": ["复购"], "b": ["初识"]}
    assert held["import, manual"] == {"a": ["初识"], "b": ["初识"]}
    with pytest.raises(ConfigError, match="go together"):
        tags(LIFECYCLE + "    overrides: [import]\n")


def test_a_kept_group_lets_go_of_people_who_are_no_longer_there(few: duckdb.DuckDBPyConnection) -> None:
    build(few, tags(LIFECYCLE))
    few.execute(f"delete from {MARTS}.dim_people where one_id = 'a'")
    features(few)
    report = build(few, tags(LIFECYCLE + "    health: {coverage: [0.9, 1.0], severity: error}\n"))
    assert report.groups[0].status == "kept"
    assert current(few, "lifecycle") == {"b": ["首购"]}


def test_imported_values_of_unknown_people_are_left_out(few: duckdb.DuckDBPyConnection) -> None:
    few.execute(
        f"create table {MARTS}.fct_partner as select * from (values ('a', '金'), ('ghost', '金')) t (one_id, value)"
    )
    build(few, tags("tag_groups: [{id: partner, kind: import, source: fct_partner}]"))
    assert current(few, "partner") == {"a": ["金"]}


def test_forgetting_a_person_leaves_no_row(few: duckdb.DuckDBPyConnection) -> None:
    config = tags(LIFECYCLE + "    overrides: [manual]\n")
    set_manual_tag(few, config, one_id="a", group="lifecycle", value="初识", by="店长", at=AS_OF - timedelta(days=3))
    build(few, config)
    assert forget_tags(few, ["a"]) == 2
    few.execute(f"delete from {MARTS}.fct_person_facts where one_id = 'a'")
    build(few, config)
    for table in ("fct_tags_current", "fct_tag_history", "fct_tag_manual"):
        assert few.execute(f"select count(*) from {MARTS}.{table} where one_id = 'a'").fetchall() == [(0,)]


def test_a_group_no_longer_declared_ends(few: duckdb.DuckDBPyConnection) -> None:
    build(few, tags(LIFECYCLE))
    build(few, tags("tag_groups: []"))
    assert few.execute(f"select count(*) from {MARTS}.fct_tags_current").fetchall() == [(0,)]
    causes = few.execute(f"select distinct closed_cause from {MARTS}.fct_tag_history").fetchall()
    assert causes == [("dropped",)]


def test_a_run_of_an_earlier_day_is_refused(few: duckdb.DuckDBPyConnection) -> None:
    build(few, tags(LIFECYCLE))
    with pytest.raises(ConfigError, match="later than this run's"):
        build(few, tags(LIFECYCLE), as_of=AS_OF - timedelta(days=3))


def test_explain_tells_rules_inputs_and_history(few: duckdb.DuckDBPyConnection) -> None:
    config = tags(LIFECYCLE)
    build(few, config)
    found = explain_tag(few, config, "a", "复购", marts=MARTS)
    assert found.held == ("复购",)
    assert {name: holds for name, _, holds in found.rules} == {"初识": False, "首购": True, "复购": True}
    assert dict(found.inputs)["purchase_days"] == 2
    with pytest.raises(ConfigError, match="no tag or group is called `复构`; valid: lifecycle, 初识, 首购, 复购"):
        explain_tag(few, config, "a", "复构", marts=MARTS)


def test_lineage_follows_scores_to_their_columns() -> None:
    config = tags((ROOT / "config" / "tags.yaml").read_text(encoding="utf-8"))
    reads = lineage(config)
    assert "marts.fct_person_features.recency_days" in reads["rfm"]
    assert reads["category_preference"] == (
        "marts.fct_order_lines.amount",
        "marts.fct_order_lines.category",
        "marts.fct_order_lines.paid_at",
    )


def test_nothing_of_the_open_day_is_read(few: duckdb.DuckDBPyConnection) -> None:
    before = few.execute(f"select * exclude (as_of) from {MARTS}.fct_person_features order by 1").fetchall()
    today = {"order_key": "now", "one_id": "c", "is_paid": True, "paid_at": at("2026-03-02 01:00")}
    insert(few, "fct_orders", [today | {"paid_date": "2026-03-02", "amount": 5, "refund_amount": 0}])
    features(few)
    assert few.execute(f"select * exclude (as_of) from {MARTS}.fct_person_features order by 1").fetchall() == before


def test_a_stop_between_history_and_marts_is_mended_by_the_next_run(
    few: duckdb.DuckDBPyConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    from warehouse import analytics_tags

    with monkeypatch.context() as stopped:
        stopped.setattr(analytics_tags, "publish_tags", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            build(few, tags(LIFECYCLE))
    assert build(few, tags(LIFECYCLE)).history_added == 0
    assert current(few, "lifecycle") == {"a": ["复购"], "b": ["首购"]}


def test_weekly_groups_wait_and_stale_inputs_keep_the_last_version(few: duckdb.DuckDBPyConnection) -> None:
    weekly = tags(LIFECYCLE + "    refresh: weekly\n")
    build(few, weekly)
    insert(few, "fct_orders", [{"order_key": "c", "one_id": "c", "is_paid": True, "paid_at": at("2026-03-02 09:00")}])
    few.execute(f"update {MARTS}.fct_orders set amount = 1, paid_date = '2026-03-02' where order_key = 'c'")
    held = {}
    for ahead in (3, 7):
        as_of = AS_OF + timedelta(days=ahead)
        features(few, as_of=as_of)
        held[ahead] = (build(few, weekly, as_of=as_of).groups[0].status, current(few, "lifecycle").get("c"))
    assert held == {3: ("kept", None), 7: ("published", ["首购"])}
    fresh = tags(LIFECYCLE + "    health: {input_age_max: 26h, severity: error}\n")
    report = build(few, fresh, as_of=AS_OF + timedelta(days=7))
    assert (report.groups[0].status, report.groups[0].health[0].metric) == ("kept", "input_age_hours")


def test_removing_a_column_or_a_consent_lists_exactly_its_users() -> None:
    """Design row 25."""
    config = tags(
        (ROOT / "config" / "tags.yaml").read_text(encoding="utf-8")
        + """
  - {id: birthday, kind: rule, consent_purpose: marketing, rules: {有生日: "birthday is not null"}}
"""
    )
    text = (ROOT / "config" / "funnels.yaml").read_text(encoding="utf-8")
    funnels = parse(text, FunnelsConfig, file="funnels.yaml")
    assert affected(config, funnels, columns=["marts.fct_person_features.recency_days"]) == ("tag:rfm",)
    assert affected(config, funnels, columns=["marts.fct_journey.campaign_id"]) == ("funnel:invited_to_first_order",)
    assert affected(config, funnels, purposes=["marketing"]) == ("tag:birthday",)
    require_consent(config, funnels, granted=["marketing"])
    with pytest.raises(ConfigError, match="no consent for `marketing`, which tag:birthday need"):
        require_consent(config, funnels, granted=[])


def test_days_by_difference_equal_days_from_nothing() -> None:
    """A run compares with what people held and appends to the marts; forgetting both must change no row."""
    base = (ROOT / "config" / "tags.yaml").read_text(encoding="utf-8") + (
        "  - {id: kept, kind: rule, resolve: first_match, on_empty: keep_last, ttl: 20d,"
        ' rules: {近购: "recency_days <= 10"}, overrides: [manual]}\n'
        '  - {id: flags, kind: rule, exclusive: false, rules: {会员: is_member, 买家: "orders_paid > 0"}}\n'
        "  - {id: last_seen, kind: first_last, source: fct_events, pick: last, value: event_name, history: none}\n"
        '  - {id: slow, kind: rule, refresh: weekly, rules: {活跃: "interactions_30d > 0"}}\n'
    )
    later = base.replace("      - {name: 沉默, below: 1}\n", "") + (
        "  - {id: fresh, kind: fact, value: \"coalesce(origin_channel, '无')\"}\n"
    )

    def run(by_difference: bool) -> dict[str, list[tuple[Any, ...]]]:
        con = open_memory(AS_OF, ZONE)
        build_marts(con, people=60, seed=8)
        con.execute("create schema identity")
        con.execute("create table identity.alias (one_id text, current_one_id text, status text)")
        build_ltv(con, MetricsConfig(), as_of=AS_OF, timezone=ZONE)
        for day, text in enumerate([base, base, base, later, base]):
            as_of = AS_OF - timedelta(days=3 * (5 - day))
            config = tags(text)
            if day == 1:
                set_manual_tag(con, config, one_id="p000007", group="kept", value="近购", by="店长", at=as_of)
            if day == 2:
                con.execute(f"update {MARTS}.fct_orders set one_id = 'p000010' where one_id = 'p000031'")
                con.execute(f"delete from {MARTS}.dim_people where one_id = 'p000031'")
                con.execute("insert into identity.alias values ('p000031', 'p000010', 'merged')")
            if day == 3:
                forget_tags(con, ["p000012"])
                con.execute(f"delete from {MARTS}.dim_people where one_id = 'p000012'")
            if day == 4:
                con.execute("update identity.alias set current_one_id = 'p000009'")
            if not by_difference:
                con.execute("drop table if exists activation.tag_living")
                con.execute(f"drop table if exists {MARTS}.fct_tag_history cascade")
            con.execute("set variable as_of = ?::timestamptz", [as_of])
            run_model(con, "fct_person_features")
            build(con, config, as_of=as_of)
        names = ("fct_tags_current", "fct_tag_history", "dim_tags", "fct_tag_group_runs", "fct_tag_health")
        kept = "columns(lambda c: c <> 'row_id')"
        found = {name: con.execute(f"select {kept} from {MARTS}.{name} order by all").fetchall() for name in names}
        living = con.execute("select * exclude (person) from activation.tag_living order by 1").fetchall()
        con.close()
        return found | {"tag_living": living}

    assert run(by_difference=True) == run(by_difference=False)
