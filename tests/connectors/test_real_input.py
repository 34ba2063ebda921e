"""Data that nobody here wrote, landed by configuration alone."""

from __future__ import annotations

import gzip
import importlib.util
import json
from pathlib import Path

import pytest
import segment.analytics as segment_analytics
import sensorsanalytics

from tests.source_support import Brand

DATA = Path(__file__).parent.parent / "data"


@pytest.fixture
def sensors_log(tmp_path: Path) -> Path:
    """Anonymous, then login, then identified, as the official SDK's logging consumer writes it."""
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    consumer = sensorsanalytics.LoggingConsumer(str(inbox / "sa.log"))
    tracker = sensorsanalytics.SensorsAnalytics(consumer, project_name="default")
    tracker.track("anon-1", "ViewProduct", {"product_id": "P1", "title": "奶粉"}, is_login_id=False)
    tracker.track_signup("M001", "anon-1")
    tracker.track("M001", "PayOrder", {"amount": 12.5}, is_login_id=True)
    tracker.profile_set("M001", {"phone": "13800138000"}, is_login_id=True)
    login = sensorsanalytics.SensorsAnalyticsIdentity("$identity_login_id", "M001")
    mobile = sensorsanalytics.SensorsAnalyticsIdentity("$identity_mobile", "13800138000")
    tracker.bind(login, mobile)
    tracker.track_by_id("AddToCart", {"product_id": "P2"}, login)
    tracker.item_set("book", "B1", {"name": "x"})
    tracker.close()
    return next(inbox.iterdir())


def test_sensors_sdk_lines_land_whole(tmp_path: Path, sensors_log: Path) -> None:
    brand = Brand(tmp_path, "sources: {log: {connector: sensors, path: inbox/*, anonymous_scope: mall}}")
    written = [json.loads(line) for line in sensors_log.read_text(encoding="utf-8").splitlines()]
    report = brand.land("log")["records"]
    assert (report.landed, report.rejected) == (len(written), 0)
    rows = brand.sql(
        "select type, event, time, distinct_id, original_id, identities, properties from raw.sensors__records"
    )
    assert [row[:5] for row in rows] == [
        (item["type"], item.get("event"), item["time"], item.get("distinct_id"), item.get("original_id"))
        for item in written
    ]
    assert [json.loads(row[6]) for row in rows] == [item["properties"] for item in written]
    assert [json.loads(row[5]) if row[5] else None for row in rows] == [item.get("identities") for item in written]
    rows = brand.sql("select field, type, scope from raw._identity_fields")
    fields = {field: (kind, scope) for field, kind, scope in rows}
    assert fields["$identity_mobile"] == ("phone", "")
    assert fields["anonymous_id"] == ("anonymous_id", "mall")
    assert fields["login_id"] == ("member_id", "")


def test_the_same_sensors_lines_under_another_name_or_twice_in_a_file_land_once(
    tmp_path: Path, sensors_log: Path
) -> None:
    brand = Brand(tmp_path, "sources: {log: {connector: sensors, path: inbox/*}}")
    first = brand.land("log")["records"]
    lines = sensors_log.read_bytes()
    (tmp_path / "inbox" / "copy.log").write_bytes(lines)
    assert brand.land("log")["records"].received == 0, "the same content is known whatever its name"
    (tmp_path / "inbox" / "again.log").write_bytes(
        lines + b'{"type":"track","event":"New","time":1,"distinct_id":"x"}\n'
    )
    again = brand.land("log")["records"]
    assert (again.duplicates, again.landed) == (first.landed, 1)


def test_segment_sdk_messages_land_whole(tmp_path: Path) -> None:
    client = segment_analytics.Client("key", send=False)
    calls = [
        client.track(None, "Product Viewed", {"price": 9.9}, anonymous_id="a-1"),
        client.identify("M001", {"phone": "13800138000"}, anonymous_id="a-1"),
        client.page("M001", "shop", "home", {"url": "https://shop.example/"}),
        client.screen("M001", "app", "home"),
        client.group("M001", "G1", {"name": "团购群"}),
        client.alias("a-1", "M001"),
    ]
    messages = [message for ok, message in calls if ok]
    assert len(messages) == 6
    (tmp_path / "one.jsonl").write_text("".join(json.dumps(message) + "\n" for message in messages), encoding="utf-8")
    batch = {"batch": messages, "sentAt": "2026-11-21T12:00:00Z"}
    (tmp_path / "two.jsonl").write_text(json.dumps(batch) + "\n", encoding="utf-8")
    brand = Brand(tmp_path, 'sources: {web: {connector: segment, path: "*.jsonl"}}')
    report = brand.land("web")["messages"]
    assert (report.landed, report.duplicates) == (6, 6), "posted batches are split, and message ids are known"
    rows = brand.sql("select type, message_id, anonymous_id, user_id, previous_id, group_id from raw.segment__messages")
    assert [row[0] for row in rows] == ["track", "identify", "page", "screen", "group", "alias"]
    assert [row[1] for row in rows] == [message["messageId"] for message in messages]
    assert rows[5][4] == "a-1"


CDNOW = """
sources:
  cdnow:
    connector: file
    streams:
      orders:
        path: {path}
        delimiter: whitespace
        columns:
          order_id: {{hash: [customer_id, date, number_of_cds, dollar_value, _occurrence]}}
          member_id: customer_id
          paid_at: {{from: date, format: "%Y%m%d", timezone: America/New_York}}
          ordered_at: {{from: date, format: "%Y%m%d", timezone: America/New_York}}
          amount: dollar_value
          status: {{value: done}}
          currency: {{value: USD}}
"""


def test_cdnow_lands_by_configuration_alone(tmp_path: Path) -> None:
    package = importlib.util.find_spec("lifetimes")
    assert package is not None
    assert package.origin is not None
    path = Path(package.origin).parent / "datasets" / "CDNOW_master.txt"
    brand = Brand(tmp_path, CDNOW.format(path=path))
    truth = [line.split() for line in path.read_text(encoding="utf-8").splitlines()[1:]]
    report = brand.land("cdnow")["orders"]
    assert (report.received, report.landed, report.rejected) == (len(truth), len(truth), 0)
    [(rows, people, amount, first, keys)] = brand.sql(
        "select count(*), count(distinct member_id), sum(amount), min(paid_at)::text, count(distinct order_id)"
        " from raw.canonical__orders"
    )
    assert (rows, people, keys) == (len(truth), len({row[0] for row in truth}), len(truth))
    assert round(float(amount), 2) == round(sum(float(row[3]) for row in truth), 2)
    assert first == "1997-01-01 05:00:00+00"


ECOM = """
sources:
  ecom:
    connector: file
    streams:
      events:
        path: ecom.csv.gz
        columns:
          event_id: {hash: [user_id, session_id, event, timestamp, _occurrence]}
          event_name: event
          event_at: {from: timestamp, timezone: UTC}
          user_id: user_id
          channel: acquisition_channel
"""


def test_the_event_file_of_retentioneering_lands_by_configuration_alone(tmp_path: Path) -> None:
    source = DATA / "retentioneering" / "ecom.csv.gz"
    (tmp_path / "ecom.csv.gz").write_bytes(source.read_bytes())
    lines = len(gzip.decompress(source.read_bytes()).splitlines()) - 1
    brand = Brand(tmp_path, ECOM)
    report = brand.land("ecom")["events"]
    assert (report.received, report.landed, report.rejected) == (lines, lines, 0)
    [(name, at, session, extra)] = brand.sql(
        "select event_name, event_at::text, session_id, _extra from raw.canonical__events where _row_number = 2"
    )
    assert (name, at, session) == ("home", "2024-03-13 10:21:14+00", "sess_000001")
    assert json.loads(extra)["platform"] == "desktop"
