"""The steps on a whole home, through the command line: published version, secrets, callbacks, alerts, pending tags."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

from app import context
from app.main import app
from cdp.errors import CdpError, CheckFailedError
from cdp.sync.pending import match_key
from connectors.wecom.callbacks import CallbackReceiver
from pipelines import sync_steps
from pipelines.build import build_definitions
from sandbox.callbacks import envelope, event_xml, new_aes_key
from sandbox.server import RunningServer, start
from tests.sync.world import CORPID, FAST, SECRET, TAGS, Brand, people, seed_corp
from warehouse.connection import open_warehouse
from warehouse.expectations import CheckResult
from warehouse.home import Home
from warehouse.publish import current, publish
from warehouse.query import run_query
from warehouse.secrets import identity_secret
from warehouse.sync_export import export_activation
from warehouse.sync_ledger import SyncLedger

NOW = datetime.now(UTC)
SYNC: dict[str, Any] = {
    "source": "wecom",
    "limits": FAST,
    "control": {"holdout": 0},
    "approval": {"self_approve": True},
    "alerts": {"webhook": "env:BOT_URL"},
}


def write(path: Path, data: Any) -> None:
    with path.open("w", encoding="utf-8") as file:
        YAML().dump(data, file)


class Place:
    """A home with a published version, and the corp it writes to."""

    def __init__(self, root: Path, brand: Brand) -> None:
        self.brand = brand
        self.home = Home(root / "home")
        for folder in (self.home.config, self.home.root / "data"):
            folder.mkdir(parents=True)
        seed_corp(root / "wecom.sqlite", list(brand.relations))
        self.server: RunningServer = start(root / "wecom.sqlite", limits=False)
        write(self.home.config / "cdp.yaml", {"name": "测试", "locale": "en"})
        write(self.home.config / "tags.yaml", TAGS)
        source = {
            "connector": "wecom",
            "corpid": CORPID,
            "secret": "env:WECOM_SECRET",
            "base_url": self.server.root_url,
        }
        write(self.home.config / "sources.yaml", {"sources": {"wecom": source}})
        write(self.home.config / "sync.yaml", SYNC)
        self.publish("v1")

    def publish(self, version: str, checks: Sequence[CheckResult] = ()) -> None:
        self.brand.read_at = NOW - timedelta(hours=1)
        with open_warehouse(self.home, as_of=NOW, timezone="Asia/Shanghai") as con, self.brand.marts() as source:
            for (table,) in source.execute(
                "select table_name from information_schema.tables where table_schema = 'marts'"
            ).fetchall():
                rows = source.sql(f"select * from marts.{table}").to_arrow_table()
                con.register("rows", rows)
                con.execute(f"create or replace table marts_db.marts.{table} as select * from rows")
                con.unregister("rows")
            publish(self.home, con, version=version, checks=checks)

    def run(self, *arguments: str, verb: str = "sync") -> tuple[int, Any]:
        result = CliRunner().invoke(app, ["--home", str(self.home.root), verb, *arguments])
        if isinstance(result.exception, CdpError):
            return result.exception.exit_code, str(result.exception)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        try:
            return result.exit_code, json.loads(result.output)
        except ValueError:
            return result.exit_code, result.output

    def bot(self) -> list[str]:
        messages = self.server.admin("GET", "webhook")["messages"]
        return [message["body"]["markdown"]["content"] for message in messages]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    place = Place(tmp_path, people(60, 4))
    monkeypatch.setenv("WECOM_SECRET", SECRET)
    monkeypatch.setenv("CDP_USER", "ops")
    monkeypatch.setenv("BOT_URL", f"{place.server.root_url}/cgi-bin/webhook/send?key=planted-bot-key")
    monkeypatch.setattr(context.console, "_width", 300)
    yield place
    place.server.stop()


def test_the_verbs_in_order(place: Place) -> None:
    code, plan = place.run("plan", "--json")
    assert (code, plan["verdict"], plan["relations"]) == (0, "READY", 60)
    code, shown = place.run("show")
    assert code == 0
    assert "cdp sync apply" in shown
    assert "life/首购" in shown
    code, facts = place.run("p000000", "life/首购", "--json", verb="explain")
    assert [(op["add"], op["verdict"]) for op in facts["planned"]] == [(["life/首购", "pref/茶"], "READY")]
    code, report = place.run("apply", "--json")
    assert (code, report["outcome"], report["counts"]) == (0, "DONE", {"acked": 60})
    code, seen = place.run("verify", "--json")
    assert (code, seen["outcome"], seen["verified"]) == (0, "VERIFIED", 60)
    assert place.run("plan", "--json")[1]["verdict"] == "EMPTY"
    assert place.run("plan", "--library")[0] == 0
    code, status = place.run("status", "--json")
    assert [row["state"] for row in status] == ["planned", "planned", "applied"]
    code, rows = place.run("log", "--json")
    assert [row["action"] for row in rows] == ["plan", "apply", "done", "verified", "plan", "plan"]
    assert "chain intact" in place.run("log")[1]
    assert place.run("status")[0] == 0
    code, facts = place.run("explain", "wm000000", "life/首购", "--json")
    assert code == 0
    assert facts["one_id"] == "p000000"
    assert facts["wanted"] == ["life/首购"]
    assert facts["rules"]["life"]["rules"]["首购"] == "true"
    assert [(op["state"], op["code"], op["attempt"]) for op in facts["ops"]] == [("verified", 0, 1)]
    assert facts["reads"][0]["has_it"] is True
    assert facts["planned"] == []
    assert facts["identity"] == {"known": True, "links": "cdp identity explain p000000"}
    assert place.run("explain", "p000000")[0] == 0
    code, found = place.run("drift", "--all", "--json")
    assert (code, found["found"]) == (0, 0)


def test_the_tag_library_by_itself(place: Place) -> None:
    code, shown = place.run("plan", "--library", "--json", verb="tags")
    assert (code, {step["action"] for step in shown["steps"]}) == (0, {"create"})
    assert place.run("apply", verb="tags")[0] == 0
    marks = place.server.admin("GET", "stats")["calls"]
    assert "externalcontact/add_corp_tag" not in marks
    assert place.run("apply", "--yes", "--json", verb="tags") == (0, {"calls": 4})
    assert "nothing to do" in place.run("plan", "--library", verb="tags")[1]
    # The library alone writes no customer: the whole plan is still to be sent.
    assert place.run("plan", "--json")[1]["relations"] == 60
    assert place.run("apply")[0] == 0
    code, told = place.run("retire", "pref/茶", verb="tags")
    assert (code, "still declared" in told) == (5, True)
    assert "did you mean" in place.run("retire", "pref/茶叶", verb="tags")[1]
    write(place.home.config / "tags.yaml", {"tag_groups": TAGS["tag_groups"][:1]})
    assert place.run("retire", "pref/茶", "--json", verb="tags")[1] == {
        "key": "pref/茶", "holders": 60, "done": "drain", "deleted_from": "", "written": False
    }  # fmt: skip
    place.run("retire", "pref/茶", "--yes", verb="tags")
    code, text = place.run("retire", "pref/茶", verb="tags")
    assert "60 relations" in text
    assert "nothing to do yet" in text
    assert place.run("plan", "--json")[1]["removes"] == 60
    place.run("approve", "--reason", "end of the tea")
    assert place.run("apply")[0] == 0
    assert place.run("retire", "pref/茶", "--yes", "--json", verb="tags")[1]["done"] == "empty"
    waits = place.run("retire", "pref/茶", "--json", verb="tags")[1]
    assert (waits["done"], waits["holders"]) == (None, 0)
    assert datetime.fromisoformat(waits["deleted_from"]).date() == (datetime.now(UTC) + timedelta(days=7)).date()
    actions = [row["action"] for row in place.run("log", "--json")[1]]
    assert actions.count("retire") == 2
    assert actions.count("library") == 1


def test_a_tag_that_somebody_deleted_is_struck_and_made_anew(place: Place) -> None:
    place.run("plan")
    place.run("apply")
    with sync_steps.desk(place.home) as desk:
        old = {tag.key: tag.tag_id for tag in desk.ledger.register()}
        desk.client.delete_tags([old["life/首购"]])
    code, plan = place.run("plan", "--json")
    assert (code, plan["verdict"]) == (3, "STOPPED")
    assert any("cdp tags retire life/首购" in gate["en"] for gate in plan["gates"])
    assert place.run("apply", "--yes", verb="tags")[0] == 3
    assert place.run("retire", "life/首购", "--yes", "--json", verb="tags")[1]["holders"] is None
    place.publish("v2")
    place.run("drift", "--all")
    code, plan = place.run("plan", "--json")
    assert [(step["action"], step["key"]) for step in plan["library"]] == [("create", "life/首购")]
    place.run("approve", "--reason", "made anew")
    assert place.run("apply", "--json")[1]["outcome"] == "DONE"
    with sync_steps.desk(place.home) as desk:
        new = {tag.key: tag.tag_id for tag in desk.ledger.register() if tag.state != "retired"}
    assert new["life/首购"] != old["life/首购"]
    assert new["life/初识"] == old["life/初识"]


def test_held_rejected_and_approved(place: Place) -> None:
    write(place.home.config / "sync.yaml", SYNC | {"gates": {"new_tag_people": 10}})
    code, plan = place.run("plan", "--json")
    assert (code, plan["verdict"]) == (2, "HELD")
    code, text = place.run("apply")
    assert code == 2
    assert "cdp sync approve" in text
    assert place.run("reject", "--reason", "not today")[0] == 0
    assert place.run("apply")[0] == 3
    place.run("plan", "--json")
    assert place.run("approve", "--reason", "fine")[0] == 0
    assert place.run("apply", "--json")[1]["outcome"] == "DONE"
    assert place.bot()[0].startswith("**Tag sync waits for approval**")
    decisions = [row["detail"]["by_author"] for row in place.run("log", "--json")[1] if row["action"] == "approved"]
    assert decisions == [True]


def test_stopped_partial_and_recovered_are_told_to_the_group_bot(place: Place) -> None:
    place.run("plan", "--json")
    place.server.admin(
        "POST", "faults", {"kind": "code", "path": "externalcontact/mark_tag", "code": 48002, "count": 1}
    )
    code, text = place.run("apply")
    assert "48002" in text
    assert place.run("stop")[0] == 0
    code, report = place.run("resume", "--json")
    assert (code, report["reason"]) == (3, "kill switch: data/sync.stop is there")
    place.run("stop", "--clear")
    code, report = place.run("resume", "--json")
    assert (code, report["outcome"]) == (0, "DONE")
    titles = [message.splitlines()[0] for message in place.bot()]
    assert titles == ["**Tag sync stopped**", "**Tag sync stopped**", "**Tag sync recovered**"]
    with SyncLedger(place.home.sync_ledger) as ledger:
        assert "planted-bot-key" not in str([tuple(row) for row in ledger.rows("select * from audit")])


def test_a_bot_that_fails_fails_nothing(place: Place) -> None:
    place.server.admin("POST", "faults", {"kind": "http", "path": "webhook/send", "status": 500})
    write(place.home.config / "sync.yaml", SYNC | {"gates": {"new_tag_people": 10}})
    assert place.run("plan", "--json")[0] == 2
    rows = place.run("log", "--json")[1]
    assert [row["detail"]["fault"] for row in rows if row["action"] == "alert"] == ["sync.alerts.webhook: answered 500"]


def test_undo_from_the_command_line(place: Place) -> None:
    place.run("plan", "--json")
    place.run("apply", "--json")
    place.run("verify", "--json")
    assert place.run("plan", "--json")[1]["verdict"] == "EMPTY"  # undo is of what changed something
    _, undone = place.run("undo", "--json")
    assert (undone["kind"], undone["relations"], undone["removes"]) == ("undo", 60, 120)
    assert place.run("apply", "--json")[1]["outcome"] == "DONE"
    tagged = [row for row in place.server.admin("GET", "relations")["relations"] if row[3]]
    assert tagged == []


def test_a_missing_secret_or_source_is_a_configuration_error(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WECOM_SECRET")
    code, text = place.run("plan")
    assert code == 5
    assert "WECOM_SECRET" in text
    assert place.run("status")[0] == 0  # looking and deciding need no secret
    write(place.home.config / "sync.yaml", SYNC | {"source": "other"})
    assert "no WeCom source" in place.run("plan")[1]


def collect(place: Place, event: dict[str, str], number: int) -> None:
    """Store a callback as the collector does: encrypted, received, one closed file."""
    key = new_aes_key()
    callback = {"token": "t", "aes_key": key}
    query, body = envelope(CORPID, event_xml(CORPID, event, int(NOW.timestamp())), callback, str(int(NOW.timestamp())))
    line = CallbackReceiver.of("t", key, CORPID).receive(query, body.encode(), now=datetime.now(UTC))
    folder = place.home.root / "data" / "collected" / "wecom_callbacks"
    folder.mkdir(parents=True, exist_ok=True)
    stamp = (NOW + timedelta(seconds=number)).strftime("%Y%m%dT%H%M%S.%fZ")
    (folder / f"{stamp}-a.jsonl").write_bytes(line)


def added(place: Place, customer: str, unionid: str, number: int) -> None:
    place.server.admin(
        "POST", "hand", {"do": "add_relation", "userid": "s000", "external_userid": customer, "unionid": unionid}
    )
    event = {"Event": "change_external_contact", "ChangeType": "add_external_contact"}
    collect(place, event | {"UserID": "s000", "ExternalUserID": customer}, number)


def test_row_19_a_new_customer_gets_the_tags_that_waited(place: Place) -> None:
    for person in ("early", "late", "gone"):
        place.brand.wanted[person] = ["pref/茶"]
    place.publish("v2")
    place.run("plan", "--json")
    place.run("apply", "--json")
    secret = identity_secret(place.home)
    with SyncLedger(place.home.sync_ledger) as ledger:
        assert ledger.waiting(now=datetime.now(UTC)) == ["early", "gone", "late"]
        ledger.save_pending_keys((match_key("unionid", f"u-{one}", secret), one) for one in ("early", "late", "gone"))
        ledger.forget("gone", reason="deletion request", now=datetime.now(UTC))
    added(place, "wm_early", "u-early", 1)
    added(place, "wm_gone", "u-gone", 2)
    added(place, "wm_nobody", "u-nobody", 3)
    code, report = place.run("pending", "--json")
    assert (code, report["counts"]) == (0, {"acked": 1})
    held = {row[1]: row[3] for row in place.server.admin("GET", "relations")["relations"]}
    assert (len(held["wm_early"]), held["wm_gone"], held["wm_nobody"]) == (1, [], [])
    assert place.run("pending", "--json")[1] == {"outcome": "nothing waits"}
    del place.brand.wanted["late"]
    place.publish("v3")
    place.run("plan", "--json")
    place.run("apply", "--json")
    added(place, "wm_late", "u-late", 4)
    assert place.run("pending", "--json")[1] == {"outcome": "nothing waits"}


@pytest.mark.filterwarnings("ignore::dagster.BetaWarning")  # Dagster's own parameters of sensors
def test_new_customers_start_a_run_within_the_minute_and_the_rota_runs_daily(place: Place) -> None:
    definitions = build_definitions(place.home)
    rota = definitions.resolve_schedule_def("read_drift_daily")
    assert isinstance(rota, dg.ScheduleDefinition)
    assert (rota.cron_schedule, rota.execution_timezone) == ("0 3 * * *", "Asia/Shanghai")
    sensor = definitions.resolve_sensor_def("on_customers_added")
    assert sensor.minimum_interval_seconds == 60

    def asked() -> bool:
        return bool(sensor.evaluate_tick(dg.build_sensor_context()).run_requests)

    place.brand.wanted["early"] = ["pref/茶"]
    place.publish("v2")
    place.run("plan")
    place.run("apply")
    added(place, "wm_before", "u-other", 1)
    with SyncLedger(place.home.sync_ledger) as ledger:
        ledger.save_pending_keys([(match_key("unionid", "u-early", identity_secret(place.home)), "early")])
    assert asked()
    assert definitions.resolve_job_def("tag_new_customers").execute_in_process().success
    assert not asked()
    added(place, "wm_early", "u-early", 2)
    assert asked()
    assert definitions.resolve_job_def("tag_new_customers").execute_in_process().success
    held = {row[1]: row[3] for row in place.server.admin("GET", "relations")["relations"]}
    assert len(held["wm_early"]) == 1
    assert not asked()
    # Another app takes a tag off without a callback: the rota finds it.
    with sync_steps.desk(place.home) as desk:
        tag = next(tag.tag_id for tag in desk.ledger.register() if tag.key == "pref/茶")
    place.run("drift", "--all")
    place.server.admin(
        "POST", "hand",
        {"do": "mark", "userid": "s000", "external_userid": "wm_early", "remove": [tag], "silent": True},
    )  # fmt: skip
    with SyncLedger(place.home.sync_ledger) as ledger:
        ledger.mark_rota(["s000"], now=datetime.now(UTC) - timedelta(days=8))
    assert definitions.resolve_job_def("read_drift").execute_in_process().success
    assert [row["by"] for row in place.run("drift", "--json")[1]["drift"]] == ["not by us"]


def test_match_keys_come_from_the_graph_and_hold_no_value(place: Place) -> None:
    place.brand.wanted["early"] = ["pref/茶"]
    place.publish("v2")
    with open_warehouse(place.home, as_of=NOW, timezone="Asia/Shanghai") as con:
        con.execute("create table identity.node (node_id bigint, type text, value_norm text, barred text)")
        con.execute("create table identity.identity_map (node_id bigint, one_id text, run_to integer)")
        con.execute("insert into identity.node values (1, 'phone', '13800000000', null), (2, 'phone', '139', 'family')")
        con.execute("insert into identity.identity_map values (1, 'early', null), (2, 'early', null)")
    place.run("plan", "--json")
    place.run("apply", "--json")
    with sync_steps.desk(place.home) as desk:
        keys = [match_key("phone", "13800000000", identity_secret(place.home))]
        assert desk.ledger.waiting_for(keys, now=datetime.now(UTC)) == ("early", ["pref/茶"])
    assert b"13800000000" not in place.home.sync_ledger.read_bytes()


def test_row_6_a_callback_says_that_staff_did_it(place: Place) -> None:
    write(place.home.config / "sync.yaml", SYNC | {"groups": {"pref": {"drift": "human_wins"}}})
    for verb in ("plan", "apply", "verify"):
        assert place.run(verb, "--json")[0] == 0
    with SyncLedger(place.home.sync_ledger) as ledger:
        tag = {tag.key: tag.tag_id for tag in ledger.register()}["pref/茶"]
    action = {"do": "mark", "userid": "s001", "external_userid": "wm000001", "remove": [tag]}
    place.server.admin("POST", "hand", action)
    event = {"Event": "change_external_contact", "ChangeType": "edit_external_contact"}
    collect(place, event | {"UserID": "s001", "ExternalUserID": "wm000001"}, 1)
    _, found = place.run("drift", "--json")
    assert (found["found"], found["drift"][0]["by"], found["drift"][0]["direction"]) == (1, "staff", "removed")
    plan = place.run("plan", "--json")[1]
    assert plan["relations"] == 0
    assert next(row for row in plan["tags"] if row["key"] == "pref/茶")["frozen"] == 1


def test_row_21_the_ledger_as_marts_gives_lift(place: Place) -> None:
    write(place.home.config / "sync.yaml", SYNC | {"control": {"holdout": 0.3}})
    for verb in ("plan", "apply", "verify"):
        place.run(verb, "--json")
    guide = (Path(__file__).parents[2] / "docs" / "guides" / "sync.md").read_text(encoding="utf-8")
    sql = next(part.split("```")[0] for part in guide.split("```sql\n")[1:] if "as lift" in part)
    with SyncLedger(place.home.sync_ledger) as ledger, duckdb.connect(":memory:") as con:
        con.execute("create schema marts")
        assert export_activation(con, ledger, schema="marts") > 60
        con.execute("create table marts.fct_orders (one_id text, paid_at timestamptz, is_paid boolean)")
        con.execute(
            "insert into marts.fct_orders select distinct one_id, now() + interval 1 hour, true from marts.fct_tag_sync"
            " where hash(one_id) % 2 = 0"
        )
        rows = con.sql(sql).fetchall()
        columns = list(con.sql(sql).columns)
    facts = [dict(zip(columns, row, strict=True)) for row in rows]
    assert {row["tag"] for row in facts} == {"life/初识", "life/首购", "pref/茶"}
    for row in facts:
        assert row["low"] <= row["lift"] <= row["high"]
        assert row["treated"] > row["control"] > 0


def test_no_secret_phone_or_name_is_written_anywhere(place: Place) -> None:
    said = [place.run(verb) for verb in ("plan", "show", "apply", "verify", "undo", "drift", "status", "log")]
    said += [place.run("explain", "p000000"), place.run("plan", "--library", verb="tags")]
    place.server.admin("POST", "faults", {"kind": "code", "path": "externalcontact/*", "code": 60020})
    said.append(place.run("plan"))
    assert "60020" in said[-1][1]
    planted = [b"planted-bot-key", SECRET.encode(), "赵桂花".encode(), "王小明".encode(), b"union_wm", b"13912345678"]
    written = [path for path in place.home.root.rglob("*") if path.is_file() and "secrets" not in path.parts]
    assert len(written) > 10
    for path in written:
        data = path.read_bytes()
        assert not [word for word in planted if word in data], path
    for _, text in said:
        assert not [word for word in planted if word in text.encode()]


def test_row_22_results_and_plans_say_what_they_stand_on(place: Place) -> None:
    table, about = "marts.fct_tags_current", "每人一个 / one each"
    place.publish("v2", [CheckResult("tags__unique", table, False, "warn", "2 of 60", (), about)])
    published = current(place.home).published_at
    answer = run_query(place.home, "select count(*) from fct_tags_current", now=published + timedelta(hours=1))
    assert (answer.version, answer.age, answer.warnings) == ("v2", timedelta(hours=1), (f"{table}: {about}",))
    code, plan = place.run("plan", "--json")
    assert (code, plan["verdict"], plan["pins"]["version"]) == (2, "HELD", "v2")
    assert datetime.fromisoformat(plan["pins"]["published_at"]) == published
    assert [gate["subject"] for gate in plan["gates"] if gate["gate"] == "warning"] == [f"{table}: {about}"]
    page = (place.home.plans / plan["plan_id"] / "plan.html").read_text()
    assert f"v2 (published {published:%Y-%m-%d %H:%M} UTC)" in page
    assert about in page
    # Failed where it blocks: never published, so neither a query nor a plan can stand on it.
    with pytest.raises(CheckFailedError):
        place.publish("v3", [CheckResult("tags__unique", table, False, "error", "2 of 60", (), about)])
    assert run_query(place.home, "select 1").version == "v2"
    assert place.run("plan", "--json")[1]["pins"]["version"] == "v2"


def test_two_processes_see_one_ledger(place: Place) -> None:
    place.run("plan", "--json")
    con = sqlite3.connect(place.home.sync_ledger)
    assert con.execute("select count(*) from plans").fetchone() == (1,)
    con.close()
    assert os.access(place.home.sync_ledger, os.R_OK)
