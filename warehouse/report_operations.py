"""Sections of the daily report about the platform itself: sources, sync to WeCom, checks."""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from collections.abc import Sequence
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

from cdp.quality.anomalies import AnomalyRules, judge_freshness
from warehouse.expectations import CheckResult
from warehouse.home import Home
from warehouse.landing_ledger import BatchRecord, LandingLedger
from warehouse.report_parts import Context, Fact, Grid, Section, count, moved, ratio, share

_STATES = {
    "verified": ("已核对一致", "verified"),
    "acked": ("已接受，未核对", "accepted, not verified"),
    "planned": ("待发送", "to be sent"),
    "sending": ("发送中", "being sent"),
    "unknown": ("结果未知", "unknown"),
    "gap": ("接受但未生效", "accepted but absent"),
    "gone": ("关系已不在", "relation gone"),
    "failed": ("被拒绝", "refused"),
    "human_changed": ("被人工改动", "changed by people"),
    "held": ("暂缓", "held"),
}
_VERDICTS = {"READY": "可以执行", "HELD": "等待审批", "STOPPED": "禁止执行", "EMPTY": "无需变更"}
_RUNS = {"done": "已完成", "partial": "部分失败", "stopped": "已停止", "running": "执行中"}
_GOOD_STATES = ("verified", "acked")
_SHOWN_CHECKS, _SHOWN_ROWS = 40, 3


def sources(page: Context, home: Home, rules: AnomalyRules) -> Section:
    """Every stream of every source: its age, and what became of what came. Totals are over all time."""
    t, name, title = page.t, "sources", page.t("数据源与新鲜度", "Sources and freshness")
    ledger = LandingLedger(home.landing_ledger)
    batches, attempts = ledger.batches(), ledger.attempts()
    if not batches and not attempts:
        return Section(name, title, empty=t("还没有接入任何数据。", "Nothing has been landed yet."))
    streams: dict[tuple[str, str], list[BatchRecord]] = {key: [] for key in attempts}
    for batch in batches:
        streams.setdefault((batch.source, batch.stream), []).append(batch)
    body, late, failed = [], 0, 0
    for (source, stream), records in sorted(streams.items()):
        arrived = [datetime.fromisoformat(batch.loaded_at) for batch in records if batch.received]
        fresh = judge_freshness(arrived, page.now, rules)
        error = attempts.get((source, stream), ("", None, None))[2]
        late += not fresh.passed
        failed += error is not None
        state = t("✗ 拉取失败", "✗ pull failed") if error else t("✓", "✓") if fresh.passed else t("⚠ 迟到", "⚠ late")
        body.append(
            [
                f"{source} · {stream}",
                page.age(page.now - max(arrived)) if arrived else "–",
                *(count(sum(getattr(batch, field) for batch in records)) for field in _COUNTS),
                state,
            ]
        )
    total = [sum(getattr(batch, field) for batch in batches) for field in _COUNTS]
    heads = [t("来源 · 流", "source · stream"), t("最新数据距今", "age"), t("收到", "received"), t("入库", "landed")]
    grid = Grid(
        t("逐流", "By stream"), [*heads, t("重复", "repeated"), t("拒收", "rejected"), t("状态", "state")], body
    )
    return Section(
        name,
        title,
        lead=t(
            f"{len(streams)} 条流，收到 {count(total[0])} 行：入库 {count(total[1])}、重复 {count(total[2])}、"
            f"拒收 {count(total[3])}。{failed} 条拉取失败，{late} 条迟到。",
            f"{len(streams)} streams, {count(total[0])} rows received: {count(total[1])} landed, {count(total[2])} "
            f"repeated, {count(total[3])} rejected. {failed} pulls failed, {late} are late.",
        ),
        facts=[
            Fact(t("收到", "Received"), count(total[0])),
            Fact(t("拒收率", "Rejected"), share(ratio(total[3], total[0]), 2), tone="warn" if total[3] else ""),
            Fact(t("拉取失败", "Pulls failed"), count(failed), tone="bad" if failed else "good"),
            Fact(t("迟到", "Late"), count(late), tone="warn" if late else "good"),
        ],
        grids=[grid],
        tone="bad" if failed else "warn" if late else "",
        top=Fact(
            t("数据流", "Streams"),
            count(len(streams)),
            t(f"{failed} 失败 · {late} 迟到", f"{failed} failed · {late} late"),
            "bad" if failed else "warn" if late else "good",
        ),
    )


_COUNTS = ("received", "landed", "duplicates", "rejected")


def sync(page: Context, path: Path) -> Section:
    """The newest plan, and what became of every relation it changed."""
    t, name, title = page.t, "sync", page.t("企业微信标签同步", "Tags to WeCom")
    nothing = Section(name, title, empty=t("还没有同步计划。", "There is no sync plan yet."))
    if not path.exists():
        return nothing
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as con:
        con.row_factory = sqlite3.Row
        plan = _first(con, "select * from plans order by planned_at desc, rowid desc limit 1")
        if plan is None:
            return nothing
        run = _first(con, "select * from runs where plan_id = ?", plan["plan_id"])
        number = (run["run_id"] if run else None,)
        states = con.execute(
            "select state, count(*) as n from ops where run_id = ? group by 1 order by 2 desc, 1", number
        ).fetchall()
        codes = con.execute(
            "select path, code, kind, times from codes where run_id = ? order by 4 desc, 1, 2", number
        ).fetchall()
    return _sync_section(page, name, title, plan, run, states, codes)


def _sync_section(
    page: Context, name: str, title: str, plan: Any, run: Any, states: Sequence[Any], codes: Sequence[Any]
) -> Section:
    t = page.t
    summary = json.loads(plan["summary"])
    done = sum(row["n"] for row in states if row["state"] in _GOOD_STATES)
    total = sum(row["n"] for row in states)
    at = page.local(datetime.fromisoformat(plan["planned_at"]))
    outcome = (
        t(
            f"{count(done)} / {count(total)} 条关系已接受或核对一致",
            f"{count(done)} of {count(total)} relations accepted",
        )
        if run
        else t("尚未执行", "not applied yet")
    )
    tag_rows = sorted(summary.get("tags", []), key=lambda tag: -(tag.get("adds", 0) + tag.get("removes", 0)))
    grids = [_states_grid(page, states, total)] if states else []
    if codes:
        heads = [t("接口", "call"), t("返回码", "code"), t("类别", "kind"), t("次数", "times")]
        body = [[row["path"], str(row["code"]), row["kind"], count(row["times"])] for row in codes]
        grids.append(Grid(t("错误返回", "Error codes"), heads, body))
    gates = [gate for gate in summary.get("gates", []) if gate.get("verdict") != "pass"]
    if gates:
        body = [[gate["gate"], gate["subject"] or "–", gate["verdict"], gate[page.locale]] for gate in gates[:20]]
        heads = [t("闸门", "gate"), t("对象", "subject"), t("结论", "verdict"), t("说明", "what")]
        grids.append(Grid(t("未通过的闸门", "Gates that did not pass"), heads, body, numeric=False))
    changed = [tag["key"] for tag in tag_rows if tag.get("adds") or tag.get("removes")]
    bad = sum(row["n"] for row in states if row["state"] in ("failed", "gap", "unknown"))
    return Section(
        name,
        title,
        lead=t(f"计划 {plan['plan_id']}（{at}）：{outcome}。", f"Plan {plan['plan_id']} ({at}): {outcome}."),
        facts=[
            Fact(t("关系", "Relations"), count(summary.get("relations"))),
            Fact(t("加标签", "Adds"), moved(summary.get("adds"), "+")),
            Fact(t("去标签", "Removes"), moved(summary.get("removes"), "-")),
            Fact(
                t("计划结论", "Verdict"),
                t(_VERDICTS.get(plan["verdict"], plan["verdict"]), plan["verdict"]),
                tone="good" if plan["verdict"] == "READY" else "warn",
            ),
            Fact(
                t("执行", "Run"),
                t(_RUNS.get(run["state"], run["state"]), run["state"]) if run else "–",
                tone="good" if run and run["state"] == "done" else "",
            ),
            *([Fact(t("变化的标签", "Tags changed"), count(len(changed)))] if changed else []),
        ],
        grids=grids,
        tone="warn" if bad else "",
        top=Fact(t("标签同步", "Tag sync"), f"{count(done)} / {count(total)}", at) if run else None,
    )


def _states_grid(page: Context, states: Sequence[Any], total: int) -> Grid:
    t = page.t
    body = [
        [t(*_STATES.get(row["state"], (row["state"], row["state"]))), count(row["n"]), share(ratio(row["n"], total))]
        for row in states
    ]
    return Grid(t("逐状态", "By outcome"), [t("状态", "outcome"), t("关系", "relations"), t("占比", "share")], body)


def quality(page: Context, found: Sequence[CheckResult]) -> Section:
    """Checks of the published version and the anomaly checks made with the report; those that failed by name."""
    t, name, title = page.t, "quality", page.t("质量检查", "Quality")
    stored = page.rows("select * from _meta.checks order by name, table_name, severity, observed")
    made = [
        {
            "name": item.name,
            "table_name": item.table,
            "severity": item.severity,
            "passed": item.passed,
            "observed": item.observed,
            "description": item.description,
            "failing_rows": item.failing_rows_sample,
        }
        for item in found
    ]
    # A run may have stored its anomaly checks with the version; those made now take their place.
    fresh = {(row["table_name"], row["name"]) for row in made}
    rows = [*(row for row in stored if (row["table_name"], row["name"]) not in fresh), *made]
    if not rows:
        return Section(name, title, empty=t("这个版本没有检查记录。", "This version has no record of checks."))
    failed = sorted((row for row in rows if not row["passed"]), key=lambda row: (row["severity"], row["table_name"]))
    errors = sum(row["severity"] == "error" for row in failed)
    by_layer: dict[str, list[bool]] = defaultdict(list)
    for row in rows:
        by_layer[row["table_name"].split(".")[0]].append(bool(row["passed"]))
    heads = [
        *(t("表", "table"), t("检查", "check"), t("级别", "severity"), t("实际", "observed")),
        t("样例（已遮盖）", "for example (masked)"),
    ]
    level = {"error": t("错误", "error"), "warn": t("提醒", "warning")}
    body = [
        [
            *(row["table_name"], row["description"] or row["name"], level[row["severity"]], row["observed"] or "–"),
            ", ".join(row.get("failing_rows", ())[:_SHOWN_ROWS]) or "–",  # versions of before 0.2 have none
        ]
        for row in failed[:_SHOWN_CHECKS]
    ]
    more = len(failed) - len(body)
    note = t(f"另有 {more} 项。", f"{more} more.") if more else ""
    grids = [Grid(t("未通过", "Not passed"), heads, body, numeric=False, note=note)] if body else []
    layers = [[layer, count(len(passed)), count(sum(passed))] for layer, passed in sorted(by_layer.items())]
    grids.append(Grid(t("逐层", "By layer"), [t("层", "layer"), t("检查", "checks"), t("通过", "passed")], layers))
    return Section(
        name,
        title,
        lead=t(
            f"{len(rows)} 项检查，{len(rows) - len(failed)} 项通过，{errors} 项错误，{len(failed) - errors} 项提醒。",
            f"{len(rows)} checks: {len(rows) - len(failed)} passed, {errors} errors, {len(failed) - errors} warnings.",
        ),
        grids=grids,
        tone="bad" if errors else "warn" if failed else "good",
        top=Fact(
            t("检查通过", "Checks passed"),
            f"{len(rows) - len(failed)} / {len(rows)}",
            t(f"{errors} 错误 · {len(failed) - errors} 提醒", f"{errors} errors · {len(failed) - errors} warnings"),
            "bad" if errors else "warn" if failed else "good",
        ),
    )


def _first(con: sqlite3.Connection, sql: str, *parameters: Any) -> Any:
    return con.execute(sql, parameters).fetchone()
