"""Tracking in staging and evidence: every type of record of every SDK family, and what it says of identifiers."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import duckdb
import pytest

from tests.models.model_worlds import land, setting
from tests.models.test_models_rows import ids, segment, sensors
from warehouse.models import ModelGraph, run_models

NOON = datetime(2026, 2, 10, 4, tzinfo=UTC)  # 12:00 in Shanghai


@pytest.fixture
def stage(graph: ModelGraph, con: duckdb.DuckDBPyConnection) -> Any:
    """Run staging and evidence; ask with SQL."""

    def _stage() -> Any:
        run_models(con, graph, graph.select("staging"))
        run_models(con, graph, ["int_identity__evidence"])
        return lambda sql: con.execute(sql).fetchall()

    return _stage


EVIDENCE = (
    "select kind, identifiers from identity.int_identity__evidence where source_key like 'tracking%' order by all"
)


def test_traits_of_a_group_are_not_those_of_the_person_who_joins_it(con: duckdb.DuckDBPyConnection, stage: Any) -> None:
    setting(con, "web", login_id_type="member_id", anonymous_scope="web")
    con.execute("insert into raw._identity_fields values ('web', 'traits.email', 'email', '')")
    land(con, "segment__messages", [
        segment("1", "group", user_id="M1", group_id="g1", traits={"email": "office@corp.cn", "name": "Corp"}),
        segment("2", "group", user_id="M2", anonymous_id="b", group_id="g1", traits={"email": "office@corp.cn"}),
    ], source="web")  # fmt: skip
    ask = stage()
    assert ask(EVIDENCE) == [
        ("login", ids("member_id//M1", "anonymous_id/web/a")),
        ("login", ids("member_id//M2", "anonymous_id/web/b")),
    ]
    assert ask("select distinct group_id, traits from staging.stg_segment__messages") == [("g1", None)]


def test_rudderstack_carries_traits_in_the_context(con: duckdb.DuckDBPyConnection, stage: Any) -> None:
    setting(con, "web", login_id_type="member_id", anonymous_scope="web")
    con.execute("insert into raw._identity_fields values ('web', 'traits.phone', 'phone', '')")
    context = {"traits": {"phone": "13800138000", "name": "李强", "city": "杭州"}, "device": {"id": "d1"}}
    land(con, "segment__messages", [
        segment("1", "identify", user_id="M1", context=context, traits={"city": "上海"}),
        segment("2", "track", user_id="", event="Pay", context=context),
        segment("3", "screen", event="Home", context=context),
        segment("4", "page", properties={"name": "Cart", "path": None}),
    ], source="web")  # fmt: skip
    ask = stage()
    assert ask("select name, phone, city from staging.stg_segment__people") == [("李强", "13800138000", "上海")]
    assert ("co_occurrence", ids("phone//13800138000", "anonymous_id/web/a")) in ask(EVIDENCE)
    pages = ask("select event_id, event_name, page from staging.stg_segment__events order by 1")
    assert pages == [("2", "Pay", None), ("3", "screen", "Home"), ("4", "page", "Cart")]


def test_a_segment_time_may_be_milliseconds(con: duckdb.DuckDBPyConnection, stage: Any) -> None:
    setting(con, "web", login_id_type="member_id", anonymous_scope="web")
    land(con, "segment__messages", [segment("1", "track", event="E", timestamp="1770696000000")], source="web")
    assert stage()("select event_at from staging.stg_segment__events") == [(NOON,)]


def test_an_alias_of_an_earlier_user_id_joins_two_logins(con: duckdb.DuckDBPyConnection, stage: Any) -> None:
    setting(con, "web", login_id_type="crm_id", anonymous_scope="web")
    land(con, "segment__messages", [
        segment("1", "track", user_id="old", anonymous_id=None, event="E"),
        segment("2", "alias", user_id="new", anonymous_id=None, previous_id="old"),
        segment("3", "alias", user_id="new", anonymous_id=None, previous_id="visitor"),
    ], source="web")  # fmt: skip
    assert stage()(EVIDENCE) == [
        ("login", ids("crm_id//new", "anonymous_id/web/visitor")),
        ("login", ids("crm_id//new", "crm_id//old")),
        ("login", ids("crm_id//old")),
    ]


def test_types_of_sensors_records_are_read_in_either_case(con: duckdb.DuckDBPyConnection, stage: Any) -> None:
    setting(con, "log", login_id_type="member_id", anonymous_scope="h5")
    land(con, "sensors__records", [
        sensors("1", "TRACK", event="view", distinct_id="anon"),
        sensors("2", "Track_Signup", event="$SignUp", distinct_id="M1", original_id="anon"),
        sensors("3", "track", event="buy", distinct_id="M1"),
        sensors("4", "PROFILE_SET", distinct_id="M1", properties={"city": "杭州"}),
    ], source="log")  # fmt: skip
    ask = stage()
    events = ask("select event_name, type from staging.stg_sensors__records where event_name is not null order by 1")
    assert events == [("$SignUp", "track_signup"), ("buy", "track"), ("view", "track")]
    assert ask("select count(*) from staging.stg_sensors__events") == [(3,)]
    assert ask("select city from staging.stg_sensors__people") == [("杭州",)]
    assert ("login", ids("member_id//M1")) in ask(EVIDENCE), "signed up as M1: an id of an account ever since"


def test_sensors_profiles_are_unset_and_deleted(con: duckdb.DuckDBPyConnection, stage: Any) -> None:
    setting(con, "log", login_id_type="member_id", anonymous_scope="h5")
    times = (int((NOON + timedelta(minutes=minute)).timestamp() * 1000) for minute in range(20))

    def profile(kind: str, who: str, **properties: Any) -> dict[str, Any]:
        at = next(times)
        return sensors(f"{at}", kind, time=at, distinct_id=who, properties={"$is_login_id": True} | properties)

    land(con, "sensors__records", [
        profile("profile_set", "M1", name="王芳", city="杭州", phone="13800138000"),
        profile("profile_unset", "M1", phone=None, city=True),
        profile("profile_set", "M1", city="上海"),
        profile("profile_increment", "M1", points=3),
        profile("profile_append", "M1", tags=["a"]),
        profile("profile_set", "M2", name="李强", city="杭州"),
        profile("profile_delete", "M2"),
        profile("profile_set_once", "M2", name="新人"),
        sensors("item", "item_set", distinct_id=None, properties={"price": 1}),
    ], source="log")  # fmt: skip
    ask = stage()
    assert ask("select name, city, phone from staging.stg_sensors__people order by person_key") == [
        ("王芳", "上海", None),
        ("新人", None, None),
    ]
    assert ask("select count(*) from staging.stg_sensors__records where type = 'item_set'") == [(1,)]
    assert ask("select count(*) from staging.stg_sensors__events") == [(0,)], "profiles and items are no events"


def test_items_of_sensors_are_products(con: duckdb.DuckDBPyConnection, stage: Any) -> None:
    setting(con, "log", login_id_type="member_id", anonymous_scope="h5")
    times = (int((NOON + timedelta(minutes=minute)).timestamp() * 1000) for minute in range(20))

    def item(kind: str, item_type: str, item_id: str, **properties: Any) -> dict[str, Any]:
        at, place = next(times), json.dumps({"item_type": item_type, "item_id": item_id})
        return sensors(f"{at}", kind, time=at, distinct_id=None, properties=properties) | {"_extra": place}

    land(con, "sensors__records", [
        item("item_set", "product", "P1", name="奶粉", price=199.5, brand="甲"),
        item("item_set", "product", "P1", price=189),
        item("item_set", "product", "P2", name="旧品"),
        item("ITEM_DELETE", "product", "P2"),
        item("item_set", "product", "P3", name="下架前", brand="乙"),
        item("item_delete", "product", "P3"),
        item("item_set", "product", "P3", name="再上架"),
        item("item_set", "article", "A1", title="喂养指南"),
    ], source="log")  # fmt: skip
    ask = stage()
    assert ask("select item_type, item_id, properties from staging.stg_sensors__items order by all") == [
        ("article", "A1", '{"title":"喂养指南"}'),
        ("product", "P1", '{"brand":"甲","name":"奶粉","price":189}'),
        ("product", "P3", '{"name":"再上架"}'),
    ]
    assert ask("select product_id, source, product_name, brand, price from staging.stg_products order by all") == [
        ("P1", "log", "奶粉", "甲", Decimal("189.00")),
        ("P3", "log", "再上架", None, None),
    ]


def ta(key: str, kind: str, minute: int = 0, **more: Any) -> dict[str, Any]:
    at = (NOON + timedelta(hours=8, minutes=minute)).strftime("%Y-%m-%d %H:%M:%S.000")
    return {"record_key": key, "type": kind, "time": at, "distinct_id": "d", "properties": "{}"} | more


def test_thinkingdata_events_that_are_updated_or_count_once(con: duckdb.DuckDBPyConnection, stage: Any) -> None:
    setting(con, "tga", login_id_type="member_id", anonymous_scope="app", timezone="Asia/Shanghai")
    order = {"event_name": "order", "event_id": "o1"}
    first = {"event_name": "install", "first_check_id": "device-1"}
    land(con, "thinkingdata__records", [
        ta("1", "track_update", **order, properties='{"amount": 10, "channel": "douyin"}'),
        ta("2", "track_update", 5, **order, account_id="M1", properties='{"amount": 8}'),
        ta("3", "track_update", **order | {"event_id": "o2"}, properties='{"amount": 99}'),
        ta("4", "track_overwrite", 3, **order | {"event_id": "o2"}, properties='{"channel": "wx"}'),
        ta("5", "track_first", 9, **first, properties='{"channel": "late"}'),
        ta("6", "track_first", **first, properties='{"channel": "early"}'),
        ta("7", "track", event_name="view", time="1770696000000"),
    ], source="tga")  # fmt: skip
    ask = stage()
    events = "select event_name, event_at, amount, channel, user_id from staging.stg_thinkingdata__events order by 1, 2"
    assert ask(events) == [
        ("install", NOON, None, "early", None),
        ("order", NOON, Decimal("8.00"), "douyin", "M1"),
        ("order", NOON + timedelta(minutes=3), None, "wx", None),
        ("view", NOON, None, None, None),
    ]
    assert ("login", ids("member_id//M1", "anonymous_id/app/d")) in ask(EVIDENCE)


def test_thinkingdata_users_are_unset_and_deleted(con: duckdb.DuckDBPyConnection, stage: Any) -> None:
    setting(con, "tga", login_id_type="member_id", anonymous_scope="app", timezone="Asia/Shanghai")
    land(con, "thinkingdata__records", [
        ta("1", "user_set", 1, account_id="M1", properties='{"name": "王芳", "phone": "13800138000"}'),
        ta("2", "user_unset", 2, account_id="M1", properties='{"phone": 0}'),
        ta("3", "user_add", 3, account_id="M1", properties='{"points": 1}'),
        ta("4", "user_set", 1, account_id="M2", properties='{"name": "李强"}'),
        ta("5", "user_del", 2, account_id="M2"),
    ], source="tga")  # fmt: skip
    assert stage()("select name, phone from staging.stg_thinkingdata__people") == [("王芳", None)]
