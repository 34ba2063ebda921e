"""Rows in, rows out: what each family of models makes of a small world stated by hand."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import duckdb
import pytest

from tests.models.model_worlds import LOADED, land, resolve_by_components, setting
from warehouse.models import ModelGraph, run_models

CORP = "ww1"
NOON = datetime(2026, 2, 10, 4, tzinfo=UTC)  # 12:00 in Shanghai


@pytest.fixture
def build(graph: ModelGraph, con: duckdb.DuckDBPyConnection):
    """Run everything: staging, evidence, a stand-in resolution, marts. Returns a function that asks with SQL."""

    def _build() -> Any:
        run_models(con, graph, graph.select("staging"))
        run_models(con, graph, ["int_identity__evidence"])
        resolve_by_components(con)
        run_models(con, graph, [name for name in graph.order if graph.models[name].layer == "marts"])
        return lambda sql: con.execute(sql.replace("marts.", "marts_db.marts.")).fetchall()

    return _build


def relation(userid: str, external_userid: str, **more: Any) -> dict[str, Any]:
    return {"userid": userid, "external_userid": external_userid, "corpid": CORP, "added_at": NOON, "type": 1} | more


def ids(*parts: str) -> list[dict[str, str]]:
    return [dict(zip(("type", "scope", "value"), part.split("/"), strict=True)) for part in parts]


def test_the_latest_version_counts_and_vanished_rows_do_not(con: duckdb.DuckDBPyConnection, build) -> None:
    land(con, "canonical__products", [{"product_id": "a", "price": 1}, {"product_id": "b", "price": 1}])
    land(con, "canonical__products", [{"product_id": "a", "price": 2}])
    land(con, "canonical__products", [{"product_id": "b", "_deleted": True}])
    assert build()("select product_id, price from marts.dim_products") == [("a", Decimal(2))]


def test_a_deleted_row_that_comes_back_is_there_again(con: duckdb.DuckDBPyConnection, build) -> None:
    land(con, "canonical__products", [{"product_id": "a", "price": 1}])
    land(con, "canonical__products", [{"product_id": "a", "_deleted": True}])
    land(con, "canonical__products", [{"product_id": "a", "price": 3}])
    assert build()("select price from marts.dim_products") == [(Decimal(3),)]


def test_one_order_of_two_sources_is_one_row_with_the_ids_of_both(con: duckdb.DuckDBPyConnection, build) -> None:
    order = {"order_id": "1", "platform": "taobao", "shop": "s", "status": "paid", "paid_at": NOON, "amount": 10}
    land(con, "canonical__orders", [order | {"buyer_id": "b", "updated_at": NOON}], source="export")
    land(con, "canonical__orders", [order | {"member_id": "M1", "amount": 12, "updated_at": NOON + timedelta(1)}])
    ask = build()
    assert ask("select order_key, amount, source from marts.fct_orders") == [("taobao|s|1", Decimal(12), "shop")]
    assert con.execute("select identifiers from staging.stg_orders").fetchall()[0][0] == ids(
        "member_id//M1", "buyer_id/taobao:s/b"
    )
    assert ask("select count(*), max(identifier_count) from marts.dim_people") == [(1, 2)]


def test_a_receiver_is_the_buyer_only_where_nobody_else_is_named(con: duckdb.DuckDBPyConnection, build) -> None:
    land(con, "canonical__orders", [
        {"order_id": "gift", "member_id": "M1", "receiver_phone": "13900000001"},
        {"order_id": "export", "platform": "taobao", "buyer_id": "b", "receiver_phone": "13900000001"},
    ])  # fmt: skip
    build()
    found = dict(
        con.execute("select order_id, list_transform(identifiers, lambda i: i.type) from staging.stg_orders").fetchall()
    )
    assert found == {"gift": ["member_id"], "export": ["buyer_id", "phone"]}


def test_orders_are_numbered_by_payment_and_refunds_counted_once(con: duckdb.DuckDBPyConnection, build) -> None:
    late = datetime(2026, 2, 11, 17, tzinfo=UTC)  # 01:00 of the 12th in Shanghai
    land(con, "canonical__orders", [
        {"order_id": "2", "member_id": "M1", "status": "done", "ordered_at": NOON, "paid_at": late, "amount": 20,
         "refund_amount": 5, "refunded_at": late},
        {"order_id": "1", "member_id": "M1", "status": "refunded", "ordered_at": NOON, "paid_at": NOON, "amount": 10,
         "refund_amount": 10, "refunded_at": late},
        {"order_id": "3", "member_id": "M1", "status": "closed", "ordered_at": NOON, "amount": 0},
        {"order_id": "4", "status": "paid", "paid_at": NOON, "amount": 7},
    ])  # fmt: skip
    land(con, "canonical__refunds", [{"refund_id": "r", "order_id": "2", "amount": 5, "refunded_at": late}])
    ask = build()
    assert ask(
        "select order_id, is_paid, order_no, is_first_order, net_amount, paid_date from marts.fct_orders order by 1"
    ) == [
        ("1", True, 1, True, Decimal(0), date(2026, 2, 10)),
        ("2", True, 2, False, Decimal(15), date(2026, 2, 12)),
        ("3", False, None, False, Decimal(0), None),
        ("4", True, None, False, Decimal(7), date(2026, 2, 10)),
    ]
    assert ask("select refund_key, amount, refunded_date from marts.fct_refunds order by 1") == [
        ("order|||1", Decimal(10), date(2026, 2, 12)),
        ("||r", Decimal(5), date(2026, 2, 12)),
    ]
    assert ask("select count(*) from marts.fct_person_events where event_name = 'refund_done'") == [(2,)]


def test_order_lines_take_person_and_category_from_order_and_product(con: duckdb.DuckDBPyConnection, build) -> None:
    setting(con, "shop", platform="pos", shop="s1")
    land(con, "canonical__orders", [{"order_id": "1", "member_id": "M1", "paid_at": NOON, "amount": 3}])
    land(
        con,
        "canonical__order_lines",
        [{"order_id": "1", "line_id": "1", "product_id": "p", "quantity": 1, "amount": 3}],
    )
    land(con, "canonical__products", [{"product_id": "p", "category": "茶", "product_name": "龙井"}])
    assert build()("select order_line_key, category, product_name, one_id is not null from marts.fct_order_lines") == [
        ("pos|s1|1|1", "茶", "龙井", True)
    ]


def test_relations_join_customers_by_unionid_and_end_when_they_vanish(con: duckdb.DuckDBPyConnection, build) -> None:
    land(con, "wecom__relations", [
        relation("zhang", "wm1", unionid="u1", state="poster", tag_ids=["t1"], name="小明", gender=1),
        relation("li", "wm1", unionid="u1", added_at=NOON + timedelta(days=2)),
    ], source="wecom")  # fmt: skip
    land(con, "wecom__relations", [{"userid": "li", "external_userid": "wm1", "corpid": CORP, "_deleted": True,
                                    "_loaded_at": LOADED + timedelta(days=1)}], source="wecom")  # fmt: skip
    land(con, "canonical__people", [{"person_key": "1", "member_id": "M1", "unionid": "u1", "name": "王小明",
                                     "phone": "+86 138-0013-8000", "gender": "男", "registered_at": NOON}])  # fmt: skip
    land(con, "wecom__staff", [{"userid": "zhang", "corpid": CORP, "name": "张三", "status": 1}], source="wecom")
    ask = build()
    assert ask(
        "select userid, is_active, removed_at is not null, channel_id, tag_ids from marts.fct_relations order by 1"
    ) == [
        ("li", False, True, None, []),
        ("zhang", True, False, "poster", ["t1"]),
    ]
    columns = (
        "name_masked, phone_masked, gender, origin_channel_id, friend_added_at, is_friend, relation_count, staff_count"
    )
    assert ask(f"select {columns} from marts.dim_people") == [
        ("王*明", "138****8000", "male", "poster", NOON, True, 1, 1)
    ]
    assert ask("select staff_key, name, is_active, active_relation_count from marts.dim_staff order by 1") == [
        ("ww1|li", None, False, 0),
        ("ww1|zhang", "张三", True, 1),
    ]
    assert ask("select channel_id, channel_kind from marts.dim_channels") == [("poster", "undeclared")]
    assert ask("select event_name, channel from marts.fct_person_events order by event_at, event_name") == [
        ("friend_added", "poster"), ("registered", None), ("friend_added", None), ("friend_removed", None)
    ]  # fmt: skip


def test_a_remarked_mobile_is_weak_evidence_of_its_own(con: duckdb.DuckDBPyConnection, build) -> None:
    land(con, "wecom__relations", [relation("zhang", "wm1", remark_mobiles=["13800138000", " "])], source="wecom")
    build()
    assert con.execute(
        "select kind, confidence, len(identifiers) from identity.int_identity__evidence order by kind"
    ).fetchall() == [("bind", 1.0, 1), ("co_occurrence", 0.5, 2)]


def test_a_crm_customer_id_gets_the_only_corp_there_is(con: duckdb.DuckDBPyConnection, build) -> None:
    setting(con, "wecom", corpid=CORP)
    setting(con, "crm", timezone="Asia/Shanghai")
    land(con, "canonical__people", [{"person_key": "1", "crm_id": "C1", "external_userid": "wm1"}], source="crm")
    land(con, "wecom__relations", [relation("zhang", "wm1")], source="wecom")
    assert build()("select count(*) from marts.dim_people") == [(1,)]


def test_group_members_followers_and_referrals_lead_to_people(con: duckdb.DuckDBPyConnection, build) -> None:
    member = {"chat_id": "g", "corpid": CORP, "join_at": NOON, "join_scene": 3}
    land(con, "wecom__group_members", [
        member | {"member_id": "wm1", "member_type": 2, "unionid": "u1"},
        member | {"member_id": "zhang", "member_type": 1},
    ], source="wecom")  # fmt: skip
    land(con, "wecom__group_chats", [
        {"chat_id": "g", "corpid": CORP, "owner": "zhang", "admins": ["wm1", "zhang"]},
    ], source="wecom")  # fmt: skip
    land(con, "official_account__followers", [
        {"openid": "o1", "appid": "wx1", "unionid": "u1", "subscribe": True, "subscribed_at": NOON},
    ], source="oa")  # fmt: skip
    land(con, "canonical__people", [{"person_key": "1", "member_id": "M1", "unionid": "u2"}])
    land(con, "canonical__referrals", [{
        "referral_id": "1", "inviter_type": "member_id", "inviter_value": "M1", "invitee_type": "unionid",
        "invitee_value": "u1", "invited_at": NOON,
    }])  # fmt: skip
    ask = build()
    assert ask("select member_id, one_id is not null, group_role from marts.fct_group_memberships order by 1") == [
        ("wm1", True, "admin"), ("zhang", False, "owner")
    ]  # fmt: skip
    assert ask(
        "select p.group_count, p.is_follower, p.followed_at, inviter.member_id from marts.dim_people as p "
        "join marts.dim_people as inviter on inviter.one_id = p.referred_by_one_id"
    ) == [(1, True, NOON, "M1")]
    assert ask("select source_kind from marts.fct_touches order by 1") == [
        ("followed",),
        ("group_joined",),
        ("invited",),
    ]


def sensors(key: str, kind: str, **more: Any) -> dict[str, Any]:
    row = {"record_key": key, "type": kind, "time": int(NOON.timestamp() * 1000), "recv_time": None} | more
    return {name: json.dumps(value) if isinstance(value, dict) else value for name, value in row.items()}


def test_sensors_without_identities_reads_distinct_id_by_its_kind(con: duckdb.DuckDBPyConnection, build) -> None:
    setting(con, "log", login_id_type="member_id", anonymous_scope="h5")
    land(con, "sensors__records", [
        sensors("1", "track", event="view", distinct_id="anon", properties={"page": "/a", "$utm_source": "wx"}),
        sensors("2", "track_signup", event="$SignUp", distinct_id="M1", original_id="anon"),
        sensors("3", "track", event="buy", distinct_id="M1", properties={"$is_login_id": True, "amount": 9.9}),
        sensors("4", "track", event="old_sdk", distinct_id="M1", properties={}),
        sensors("5", "profile_set", distinct_id="M1",
                properties={"$is_login_id": True, "name": "王芳", "gender": "女"}),
    ], source="log")  # fmt: skip
    ask = build()
    assert ask("select event_name, page, utm_source, amount, event_date from marts.fct_events order by event_key") == [
        ("view", "/a", "wx", None, date(2026, 2, 10)),
        ("$SignUp", None, None, None, date(2026, 2, 10)),
        ("buy", None, None, Decimal("9.90"), date(2026, 2, 10)),
        ("old_sdk", None, None, None, date(2026, 2, 10)),
    ]
    assert ask("select count(distinct one_id), count(one_id) from marts.fct_events") == [(1, 4)]
    assert ask("select name_masked, gender, identifier_count from marts.dim_people") == [("王*", "female", 2)]
    assert con.execute(
        "select kind, observations, len(identifiers) from identity.int_identity__evidence order by all"
    ).fetchall() == [("bind", 1, 1), ("co_occurrence", 1, 1), ("login", 1, 2), ("login", 3, 1)]


def test_sensors_identities_are_mapped_and_distinct_id_left_alone(con: duckdb.DuckDBPyConnection, build) -> None:
    setting(con, "log", login_id_type="member_id", anonymous_scope="mp")
    con.execute("""insert into raw._identity_fields values ('log', '$identity_login_id', 'member_id', ''),
        ('log', '$identity_mp_id', 'anonymous_id', 'mp'), ('log', '$identity_mp_openid', 'openid', 'wx1'),
        ('log', 'properties.$device_id', 'device_id', 'app')""")
    land(con, "sensors__records", [
        sensors("1", "track", event="view", distinct_id="$identity_mp_id+a", anonymous_id="a",
                identities={"$identity_mp_id": "a", "$identity_mp_openid": "o1", "$identity_new": "x"},
                properties={"$device_id": "d1"}),
        sensors("2", "track", event="view", distinct_id="M1", login_id="M1", anonymous_id="a",
                identities={"$identity_mp_id": "a", "$identity_login_id": "M1"}),
        sensors("3", "track_id_unbind", event="$UnbindID", distinct_id="M1",
                identities={"$identity_mp_id": "a", "$identity_login_id": "M1"}),
    ], source="log")  # fmt: skip
    build()
    assert con.execute("select kind, identifiers from identity.int_identity__evidence order by kind").fetchall() == [
        ("co_occurrence", ids("openid/wx1/o1", "device_id/app/d1", "anonymous_id/mp/a")),
        ("login", ids("member_id//M1", "anonymous_id/mp/a")),
        ("unbind", ids("member_id//M1", "anonymous_id/mp/a")),
    ]


def segment(key: str, kind: str, **more: Any) -> dict[str, Any]:
    row = {"message_id": key, "type": kind, "timestamp": "2026-02-10T04:00:00Z", "anonymous_id": "a"} | more
    return {name: json.dumps(value) if isinstance(value, dict) else value for name, value in row.items()}


def test_segment_clocks_are_corrected_and_kinds_told_apart(con: duckdb.DuckDBPyConnection, build) -> None:
    setting(con, "web", login_id_type="member_id", anonymous_scope="web")
    con.execute("insert into raw._identity_fields values ('web', 'traits.phone', 'phone', '')")
    land(con, "segment__messages", [
        segment("1", "page", name="Home", context={"page": {"path": "/"}, "campaign": {"source": "red"}}),
        segment("2", "track", event="Order Completed", user_id="M1", properties={"order_id": "1", "revenue": "12.5"},
                original_timestamp="2026-02-10T04:10:00Z", sent_at="2026-02-10T04:10:05Z",
                received_at="2026-02-10T04:00:05Z"),
        segment("3", "identify", user_id="M1", traits={"phone": "13800138000", "name": "Li"}),
        segment("4", "alias", user_id="M1", previous_id="old"),
        segment("5", "screen", name="Cart", timestamp="not a time", received_at="2026-02-10T04:00:00+00:00"),
    ], source="web")  # fmt: skip
    land(con, "canonical__orders", [{"order_id": "1", "member_id": "M1", "paid_at": NOON, "amount": 12.5}])
    ask = build()
    assert ask(
        "select event_name, event_at, page, utm_source, order_key, amount from marts.fct_events order by event_key"
    ) == [
        ("page", NOON, "/", "red", None, None),
        ("Order Completed", NOON, None, None, "||1", Decimal("12.50")),
        ("screen", NOON, "Cart", None, None, None),
    ]
    assert ask("select count(*), max(identifier_count) from marts.dim_people") == [(1, 4)]
    assert con.execute(
        "select kind, len(identifiers) from identity.int_identity__evidence where source = 'web' order by all"
    ).fetchall() == [("bind", 3), ("co_occurrence", 1), ("login", 2), ("login", 3), ("login", 3)]


def test_thinkingdata_wall_time_is_of_its_zone(con: duckdb.DuckDBPyConnection, build) -> None:
    setting(con, "tga", login_id_type="member_id", anonymous_scope="game", timezone="Asia/Shanghai")
    con.execute("insert into raw._identity_fields values ('tga', 'properties.#device_id', 'device_id', 'game')")
    row = {"distinct_id": "d", "time": "2026-02-10 12:00:00.000"}
    land(con, "thinkingdata__records", [
        row | {"record_key": "1", "type": "track", "event_name": "login",
               "properties": '{"#device_id": "x", "amount": 3}'},
        row | {"record_key": "2", "type": "track", "event_name": "pay", "account_id": "M1",
               "time": "2026-02-10 04:00:00", "properties": '{"#zone_offset": 0}'},
        row | {"record_key": "3", "type": "user_set", "account_id": "M1", "properties": '{"gender": "male"}'},
    ], source="tga")  # fmt: skip
    ask = build()
    assert ask("select event_name, event_at, amount from marts.fct_events order by event_key") == [
        ("login", NOON, Decimal("3.00")), ("pay", NOON, None)
    ]  # fmt: skip
    assert ask("select gender, identifier_count from marts.dim_people") == [("male", 3)]


def test_a_contact_way_names_its_channel_unless_a_list_does(con: duckdb.DuckDBPyConnection, build) -> None:
    land(con, "wecom__contact_ways", [
        {"config_id": "1", "corpid": CORP, "state": "poster", "remark": "地铁海报"},
        {"config_id": "2", "corpid": CORP, "state": "store", "remark": "门店"},
    ], source="wecom")  # fmt: skip
    land(con, "canonical__channels", [{"channel_id": "store", "channel_name": "南京路店", "channel_kind": "offline"}])
    assert build()("select channel_id, channel_name, channel_kind from marts.dim_channels order by 1") == [
        ("poster", "地铁海报", "contact_way"), ("store", "南京路店", "offline")
    ]  # fmt: skip


def test_tracking_repeats_are_one_piece_of_evidence_a_brand_day(con: duckdb.DuckDBPyConnection, build) -> None:
    day_end = datetime(2026, 2, 10, 15, 59, tzinfo=UTC)  # 23:59 in Shanghai
    land(con, "canonical__events", [
        {"event_id": str(number), "event_name": "e", "event_at": at, "anonymous_id": "a", "user_id": "M1"}
        for number, at in enumerate((NOON, day_end, day_end + timedelta(minutes=1)))
    ] + [{"event_id": "x", "event_name": "e", "event_at": NOON, "anonymous_id": "b"},
         {"event_id": "y", "event_name": "e", "event_at": NOON + timedelta(5), "anonymous_id": "b"}])  # fmt: skip
    build()
    assert con.execute(
        "select kind, event_time, last_time, observations from identity.int_identity__evidence order by 1, 2"
    ).fetchall() == [
        ("co_occurrence", NOON, NOON + timedelta(5), 2),
        ("login", NOON, day_end, 2),
        ("login", day_end + timedelta(minutes=1), day_end + timedelta(minutes=1), 1),
    ]


def test_an_event_belongs_to_the_owner_of_its_time(con: duckdb.DuckDBPyConnection, graph: ModelGraph) -> None:
    """A shared device that identity sliced by time: each event goes to who held it then, and to nobody in between."""
    land(con, "canonical__events", [
        {"event_id": str(day), "event_name": "e", "event_at": NOON + timedelta(days=day), "device_id": "pad"}
        for day in range(3)
    ])  # fmt: skip
    run_models(con, graph, [*graph.select("staging"), "int_identity__evidence"])
    resolve_by_components(con)
    con.execute("delete from identity.resolved")
    con.execute(
        "insert into identity.resolved values ('device_id', '', 'pad', 'A', 'person', null, ?), "
        "('device_id', '', 'pad', 'B', 'person', ?, null)",
        [NOON + timedelta(hours=1), NOON + timedelta(days=1, hours=1)],
    )
    run_models(con, graph, ["int_people__identifier_sets", "fct_events"])
    assert con.execute("select one_id from marts_db.marts.fct_events order by event_at").fetchall() == [
        ("A",), (None,), ("B",)
    ]  # fmt: skip


def test_a_row_is_looked_up_by_its_strongest_id_that_leads_somewhere(
    con: duckdb.DuckDBPyConnection, graph: ModelGraph
) -> None:
    land(con, "canonical__events", [
        {"event_id": "1", "event_name": "e", "event_at": NOON, "user_id": "0", "anonymous_id": "a"},
    ])  # fmt: skip
    run_models(con, graph, [*graph.select("staging"), "int_identity__evidence"])
    resolve_by_components(con)
    con.execute("delete from identity.resolved where type = 'member_id'")
    run_models(con, graph, ["int_people__identifier_sets", "fct_events"])
    assert con.execute("select one_id is not null from marts_db.marts.fct_events").fetchall() == [(True,)]


def test_building_twice_changes_nothing(con: duckdb.DuckDBPyConnection, build) -> None:
    land(
        con,
        "canonical__orders",
        [{"order_id": str(n), "member_id": f"M{n % 3}", "paid_at": NOON, "amount": n} for n in range(9)],
    )
    first = build()("select * from marts.fct_orders order by order_key")
    assert build()("select * from marts.fct_orders order by order_key") == first


def test_a_backfill_makes_its_days_again_and_leaves_the_others(
    con: duckdb.DuckDBPyConnection, build, graph: ModelGraph
) -> None:
    land(con, "canonical__events", [
        {"event_id": str(day), "event_name": "before", "event_at": NOON + timedelta(days=day), "user_id": "M1"}
        for day in range(4)
    ])  # fmt: skip
    ask = build()
    con.execute("update raw.canonical__events set event_name = 'after'")
    for _ in range(2):
        run_models(con, graph, ["fct_events"], days=(date(2026, 2, 11), date(2026, 2, 13)))
        assert ask("select event_name from marts.fct_events order by event_at") == [
            ("before",), ("after",), ("after",), ("before",)
        ]  # fmt: skip
    run_models(con, graph, ["fct_events"], full=True)
    assert ask("select distinct event_name from marts.fct_events") == [("after",)]


def test_tags_changed_by_hand_become_facts_and_ours_are_told_once(con: duckdb.DuckDBPyConnection, build) -> None:
    day = timedelta(days=1)
    first = [relation("zhang", "wm1", tag_ids=["t1", "ours"]), relation("li", "wm1", tag_ids=["t1"])]
    land(con, "wecom__relations", first, source="wecom")
    # A pull sees our own write as well, and a pair that began after the first pull with a tag on it.
    second = [
        relation("zhang", "wm1", tag_ids=["t2", "t1"], _loaded_at=LOADED + day),
        relation("li", "wm2", tag_ids=["t3"], added_at=LOADED + day / 2, _loaded_at=LOADED + day),
        relation("li", "wm1", tag_ids=["t1"], remark="only the remark", _loaded_at=LOADED + day),
    ]
    land(con, "wecom__relations", second, source="wecom")
    land(
        con, "wecom__relations", [relation("zhang", "wm1", tag_ids=["t2"], _loaded_at=LOADED + 2 * day)], source="wecom"
    )
    land(con, "wecom__tags", [{"tag_id": "t2", "corpid": CORP, "tag_name": "爱喝茶", "group_name": "导购手工"}])
    told = {"corpid": CORP, "received_at": LOADED + day / 2, "event": "change_external_contact",
            "change_type": "edit_external_contact", "userid": "zhang", "external_userid": "wm1"}  # fmt: skip
    land(con, "wecom__callbacks", [
        told | {"callback_id": "c1", "happened_at": LOADED + day / 4},
        told | {"callback_id": "c2", "happened_at": LOADED + day / 3},
        told | {"callback_id": "c2", "happened_at": LOADED + day / 3},
        told | {"callback_id": "c3", "happened_at": LOADED + 9 * day},
    ], source="wecom")  # fmt: skip
    con.execute("insert into raw.sync__tags values ('ours', 'life/复购', '老朋友', '生命周期', 'active')")
    con.execute(
        "insert into raw.sync__tag_events values"
        " ('ww1', 'zhang', 'wm1', 'ours', 'added', 'platform', 'plan-1', null, ?),"
        " ('ww1', 'zhang', 'wm1', 'ours', 'removed', 'staff', null, ?, ?)",
        [LOADED - day, LOADED, LOADED + day],
    )
    ask = build()
    rows = ask(
        "select userid, external_userid, tag_id, change, actor, changed_at from marts.fct_tag_events order by 6, 1, 3"
    )
    assert rows == [
        ("zhang", "wm1", "ours", "added", "platform", LOADED - day),
        ("zhang", "wm1", "t2", "added", "staff", LOADED + day / 3),
        ("li", "wm2", "t3", "added", "unknown", LOADED + day),
        ("zhang", "wm1", "ours", "removed", "staff", LOADED + day),
        ("zhang", "wm1", "t1", "removed", "unknown", LOADED + 2 * day),
    ]
    assert ask("select tag, tag_name, group_name, plan_id from marts.fct_tag_events where actor = 'platform'") == [
        ("life/复购", "老朋友", "生命周期", "plan-1")
    ]
    assert ask("select tag, tag_name, group_name from marts.fct_tag_events where tag_id = 't2'") == [
        (None, "爱喝茶", "导购手工")
    ]
    assert ask("select count(*), count(one_id), count(distinct tag_event_key) from marts.fct_tag_events") == [(5, 5, 5)]


def test_the_owner_is_who_the_member_table_names(con: duckdb.DuckDBPyConnection, build) -> None:
    land(con, "canonical__people", [
        {"person_key": "1", "member_id": "M1", "phone": "13800138001", "staff_userid": "zhang", "updated_at": NOON},
        {"person_key": "2", "crm_id": "C1", "phone": "13800138001", "staff_userid": "li",
         "updated_at": NOON + timedelta(days=9)},
    ])  # fmt: skip
    assert build()("select owner_userid from marts.dim_people") == [("zhang",)]


def test_tags_of_every_kind_behaviour_and_contact_ways_are_there(con: duckdb.DuckDBPyConnection, build) -> None:
    land(con, "wecom__relations", [
        relation("zhang", "wm1", state="poster"), relation("li", "wm1", state="poster"), relation("li", "wm2")
    ], source="wecom")  # fmt: skip
    pair = {"corpid": CORP, "userid": "zhang", "external_userid": "wm1"}
    land(con, "wecom__customer_tags", [
        pair | {"type": 1, "tag_id": "t1", "tag_name": "老客", "group_name": "生命周期"},
        pair | {"type": 2, "tag_id": "", "tag_name": "爱喝茶"},
        pair | {"type": 2, "tag_id": "", "tag_name": "老客"},
        pair | {"type": 3, "tag_id": "s1", "tag_name": "区域"},
    ], source="wecom")  # fmt: skip
    land(con, "wecom__customer_tags", [pair | {"type": 2, "tag_id": "", "tag_name": "爱喝茶", "_deleted": True}],
         source="wecom")  # fmt: skip
    midnight = datetime(2026, 2, 9, 16, tzinfo=UTC)  # of 10 February in Beijing
    day = {"corpid": CORP, "userid": "zhang", "stat_at": midnight}
    land(con, "wecom__staff_behavior", [day | {"chat_count": 3, "message_count": 9}], source="wecom")
    land(con, "wecom__staff_behavior", [day | {"chat_count": 4, "message_count": 12}], source="wecom")
    land(con, "wecom__contact_ways", [{"config_id": "1", "corpid": CORP, "state": "poster", "remark": "地铁海报"}],
         source="wecom")  # fmt: skip
    land(con, "wecom__acquisition_links", [{"link_id": "L", "corpid": CORP, "name": "直播间", "url": "https://x/L"}],
         source="wecom")  # fmt: skip
    ask = build()
    told = "kind, tag_id, tag_name, group_name, one_id is not null"
    assert ask(f"select {told} from marts.fct_customer_tags order by 1, 3") == [
        ("corp", "t1", "老客", "生命周期", True),
        ("personal", None, "老客", None, True),
        ("strategy", "s1", "区域", None, True),
    ]  # fmt: skip
    assert ask("select count(distinct customer_tag_key) from marts.fct_customer_tags") == [(3,)]
    assert ask("select staff_key, stat_date, chat_count, message_count from marts.fct_staff_behavior") == [
        (f"{CORP}|zhang", date(2026, 2, 10), 4, 12)
    ]
    assert ask("select kind, way_id, state, way_name, state_relation_count from marts.dim_contact_ways order by 1") == [
        ("acquisition_link", "L", None, "直播间", 0), ("contact_way", "1", "poster", "地铁海报", 2)
    ]  # fmt: skip


def test_messages_and_coupons_are_touches_once_each(con: duckdb.DuckDBPyConnection, build) -> None:
    land(con, "wecom__relations", [relation("zhang", "wm1"), relation("li", "wm1"), relation("li", "wm2")],
         source="wecom")  # fmt: skip
    sent = {"corpid": CORP, "msgid": "m1", "userid": "zhang", "external_userid": "wm1", "chat_id": "",
            "chat_type": "single", "content": "会员日", "created_at": NOON, "status": 0}  # fmt: skip
    land(con, "wecom__messages", [sent], source="wecom")
    later = NOON + timedelta(hours=2)
    land(con, "wecom__messages", [
        sent | {"status": 1, "sent_at": later},  # confirmed since
        sent | {"userid": "gone", "status": 1, "sent_at": NOON + timedelta(hours=1)},  # handed over: a relation no more
        sent | {"userid": "li", "external_userid": "wm2", "status": 2},
        sent | {"msgid": "m2", "external_userid": "", "chat_id": "wr1", "chat_type": "group", "status": 1,
                "sent_at": later},
        sent | {"msgid": "m3", "external_userid": "wm9", "status": 1, "sent_at": later},  # nobody we know
    ], source="wecom")  # fmt: skip
    ask = build()
    told = "msgid, userid, external_userid, chat_id, one_id is not null, outcome, is_sent, sent_at"
    assert ask(f"select {told} from marts.fct_messages order by 1, 2") == [
        ("m1", "gone", "wm1", None, True, "sent", True, NOON + timedelta(hours=1)),
        ("m1", "li", "wm2", None, True, "not_a_friend", False, None),
        ("m1", "zhang", "wm1", None, True, "sent", True, later),
        ("m2", "zhang", None, "wr1", False, "sent", True, later),
        ("m3", "zhang", "wm9", None, False, "sent", True, later),
    ]
    assert ask("select touch_key, touched_at, channel, medium, source_kind from marts.fct_touches") == [
        (f"message|{CORP}|m1|gone|wm1", NOON + timedelta(hours=1), "message", "wecom", "message")
    ]


def test_a_coupon_is_a_touch_unless_an_order_uses_it(con: duckdb.DuckDBPyConnection, build) -> None:
    event = {"event_name": "CouponReceive", "event_at": NOON, "unionid": "u1"}
    land(con, "canonical__events", [
        event | {"event_id": "2", "properties": '{"coupon_id": "CP1"}'},
        event | {"event_id": "1", "event_at": NOON - timedelta(hours=1), "properties": '{"coupon_id": "CP1"}'},
        event | {"event_id": "3", "event_at": NOON + timedelta(days=1), "properties": '{"coupon_id": "CP1"}'},
        event | {"event_id": "4", "properties": '{"coupon_id": "CP2"}'},
        event | {"event_id": "5", "properties": '{"coupon_id": ""}'},
        event | {"event_id": "6", "properties": '{"note": "\\"coupon_id\\""}'},
        event | {"event_id": "7", "order_id": "O1", "properties": '{"coupon_id": "CP1"}'},
        event | {"event_id": "8", "properties": '{"coupon_id": '},
    ])  # fmt: skip
    assert build()("select touch_key, touched_at, channel, source_kind from marts.fct_touches order by 1") == [
        ("coupon|shop|1", NOON - timedelta(hours=1), "coupon", "coupon"),
        ("coupon|shop|3", NOON + timedelta(days=1), "coupon", "coupon"),
        ("coupon|shop|4", NOON, "coupon", "coupon"),
    ]
