"""Limits, concurrency and faults on demand: line 9 of the checklist, and what the admin side promises."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from sandbox.server import RunningServer, load_scenario, scenario_path, start
from tests.sandbox.corp import STAFF, Corp, customer, write_corp

MARK = "externalcontact/mark_tag"
LIST = "externalcontact/get_follow_user_list"


def test_rate_window_blocks_until_it_ends(corp: Corp, server: RunningServer) -> None:
    server.admin("POST", "clock", {"advance": 60})
    server.admin("POST", "settings", {"limits": {f"per_minute:{LIST}": 5}})
    codes = [corp.get(LIST)["errcode"] for _ in range(7)]
    assert codes == [0, 0, 0, 0, 0, 45009, 45009]
    assert corp.get("externalcontact/list", userid=STAFF[0])["errcode"] == 0  # a window per path
    server.admin("POST", "clock", {"advance": 60})
    assert corp.get(LIST)["errcode"] == 0
    server.admin("POST", "settings", {"limits": {f"per_minute:{LIST}": 10_000}})
    server.admin("POST", "clock", {"offset": 0})


def test_more_than_five_in_flight_is_45033_and_one_pair_twice_is_45035(corp: Corp, server: RunningServer) -> None:
    server.admin("POST", "settings", {"latency_ms": {MARK: 300}})
    with ThreadPoolExecutor(12) as pool:
        codes = list(pool.map(lambda number: corp.mark(number, add=["etgold"])["errcode"], range(60, 68)))
        assert sorted(codes) == [0] * 5 + [45033] * 3
        same = list(pool.map(lambda _: corp.mark(70, add=["etgold"])["errcode"], range(2)))
        assert sorted(same) == [0, 45035]
        staff = [STAFF[70 % 9], STAFF[(70 + 3) % 9]]
        two = list(pool.map(lambda userid: corp.mark(70, userid, add=["etgold"])["errcode"], staff))
        assert sorted(two) == [0, 45033]
    server.admin("POST", "settings", {"latency_ms": {MARK: 0}})


def test_the_log_tells_times_codes_and_overlaps(fresh: RunningServer) -> None:
    corp = Corp(fresh)
    fresh.admin("POST", "settings", {"latency_ms": {MARK: 100}})
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda number: corp.mark(number, add=["etgold"]), range(3)))
    rows = fresh.admin("GET", "log", path=MARK)["log"]
    assert [row["errcode"] for row in rows] == [0, 0, 0]
    assert all(row["ended"] - row["started"] >= 0.095 for row in rows)
    assert {row["external_userid"] for row in rows} == {customer(number) for number in range(3)}
    assert max(row["in_flight"] for row in rows) == 3
    stats = fresh.admin("GET", "stats")
    assert stats["overlaps"] == 0
    assert stats["calls"][MARK] == {"0": 3}
    assert corp.token not in json.dumps(rows)
    corp.http.close()


@pytest.mark.parametrize("code", [-1, 6000, 45009, 40068])
def test_a_code_on_demand_changes_nothing(corp: Corp, server: RunningServer, code: int) -> None:
    before = corp.tags_on(80)
    server.admin("POST", "faults", {"kind": "code", "code": code, "path": MARK, "count": 1})
    assert corp.mark(80, add=["etgold"])["errcode"] == code
    assert corp.tags_on(80) == before


def test_silent_drop_answers_success_and_keeps_the_old_state(corp: Corp, server: RunningServer) -> None:
    server.admin("POST", "faults", {"kind": "drop", "path": MARK, "match": {"external_userid": customer(81)}})
    assert corp.mark(81, add=["etgold"]) == {"errcode": 0, "errmsg": "ok"}
    assert corp.tags_on(81) == []
    corp.mark(82, add=["etgold"])
    assert corp.tags_on(82) == ["etgold"]


def test_a_share_of_calls_is_hit_and_the_log_names_them(corp: Corp, server: RunningServer) -> None:
    server.admin("DELETE", "log")
    server.admin("POST", "faults", {"kind": "drop", "path": "*/mark_tag", "rate": 0.3})
    for number in range(100, 180):
        corp.mark(number, add=["etgold"])
    dropped = {row["external_userid"] for row in server.admin("GET", "log", path=MARK)["log"] if row["fault"] == "drop"}
    assert 10 < len(dropped) < 40
    lost = {customer(number) for number in range(100, 180) if "etgold" not in corp.tags_on(number)}
    assert lost == dropped


def test_connection_cut_before_and_after_the_effect(corp: Corp, server: RunningServer) -> None:
    server.admin("POST", "faults", {"kind": "cut", "path": MARK, "count": 1})
    with pytest.raises(httpx.TransportError):
        corp.mark(83, add=["etgold"])
    assert corp.tags_on(83) == []
    server.admin("POST", "faults", {"kind": "cut", "path": MARK, "count": 1, "when": "after"})
    with pytest.raises(httpx.TransportError):
        corp.mark(83, add=["etgold"])
    assert corp.tags_on(83) == ["etgold"]


def test_http_errors_delays_and_hangs(corp: Corp, server: RunningServer) -> None:
    server.admin("POST", "faults", {"kind": "http", "status": 503, "path": LIST, "count": 1})
    assert corp.http.get(LIST, params={"access_token": corp.token}).status_code == 503
    server.admin("POST", "faults", {"kind": "delay", "ms": 150, "path": LIST, "count": 1})
    reply = corp.http.get(LIST, params={"access_token": corp.token})
    assert reply.elapsed.total_seconds() >= 0.15
    server.admin("POST", "faults", {"kind": "hang", "path": LIST, "count": 1})
    with pytest.raises(httpx.ReadTimeout):
        corp.http.get(LIST, params={"access_token": corp.token}, timeout=0.3)
    assert corp.get(LIST)["errcode"] == 0


def test_expired_token_once(corp: Corp, server: RunningServer) -> None:
    server.admin("POST", "faults", {"kind": "expire_token", "path": LIST, "after": 1, "count": 1})
    assert [corp.get(LIST)["errcode"] for _ in range(3)] == [0, 42001, 42001]
    corp.renew()
    assert corp.get(LIST)["errcode"] == 0


def test_unknown_faults_settings_and_actions_are_told(server: RunningServer) -> None:
    for name, body in (("faults", {"kind": "explode"}), ("settings", {"tagcap": 1}), ("hand", {"do": "dance"})):
        with pytest.raises(RuntimeError, match="unknown"):
            server.admin("POST", name, body)


def test_a_scenario_file_sets_the_stage(tmp_path: Path) -> None:
    scenario = tmp_path / "bad_day.yaml"
    scenario.write_text(
        f"""
name: 糟糕的一天
settings:
  limits: {{enabled: false}}
faults:
  - {{kind: code, code: -1, path: externalcontact/get_follow_user_list, count: 1}}
hand:
  - {{do: mark, userid: {STAFF[0]}, external_userid: {customer(0)}, add: [etgold]}}
""",
        encoding="utf-8",
    )
    with start(write_corp(tmp_path / "wecom.sqlite"), scenario=scenario) as server:
        corp = Corp(server)
        assert [corp.get(LIST)["errcode"] for _ in range(2)] == [-1, 0]
        assert corp.tags_on(0) == ["etgold"]
        corp.http.close()


def test_group_bot_records_messages_and_limits_them(server: RunningServer) -> None:
    url = f"{server.root_url}/cgi-bin/webhook/send"
    with httpx.Client(trust_env=False) as http:
        text = {"msgtype": "markdown", "markdown": {"content": "计划被拦下"}}
        codes = [http.post(url, params={"key": "k1"}, json=text).json()["errcode"] for _ in range(21)]
        assert codes == [0] * 20 + [45009]
        assert http.post(url, params={"key": "k2"}, json={"msgtype": "dance"}).json()["errcode"] == 40008
        assert http.post(url, json=text).json()["errcode"] == 93000
    kept = server.admin("GET", "webhook")["messages"]
    assert len(kept) == 20
    assert kept[0]["body"] == text


def test_every_shipped_scenario_can_be_taken(fresh: RunningServer) -> None:
    folder = scenario_path("bad_day").parent
    for path in sorted(folder.glob("*.yaml")):
        taken = fresh.admin("POST", "scenario", {"reset": True, **load_scenario(path)})
        assert taken["name"] == path.stem
    with pytest.raises(FileNotFoundError, match="silent_drop"):
        scenario_path("no_such_day")
