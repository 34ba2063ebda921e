"""Gates: what must hold before a plan may be sent. `hold` waits for an approver, `stop` for a change."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import polars as pl

from cdp.sync.config import GateLimits, SyncConfig, parse_duration
from cdp.sync.library import ownership_faults
from cdp.sync.model import Forecast, Gate, GroupSpec, LibraryChange, PlanVerdict, RegisteredTag, Remote, Verdict


@dataclass(frozen=True)
class Evidence:
    """What is known about the data a plan stands on. *checks*: (name, passed, severity). *loaded_at*: newest load per
    stream, UTC. *sizes*: tag key -> people in its last plans, newest last. *base_read_at*: read time per relation."""

    checks: Sequence[tuple[str, bool, str]] = ()
    loaded_at: Mapping[str, datetime] | None = None
    sizes: Mapping[str, Sequence[int]] | None = None


def data_gates(config: SyncConfig, evidence: Evidence, *, now: datetime) -> list[Gate]:
    """Blocking checks failed: stop. Inputs late: as configured. Warnings: hold."""
    gates = []
    for name, passed, severity in evidence.checks:
        if passed:
            continue
        if severity == "error":
            gates.append(Gate("check", name, "stop", 1, 0, f"阻断检查未通过：{name}", f"blocking check failed: {name}"))
        else:
            zh, en = f"检查有警告：{name}", f"check warns: {name}"
            gates.append(Gate("warning", name, config.warning_verdict, 1, 0, zh, en))
    for stream, promise in sorted(config.freshness.items()):
        gates += _freshness(stream, promise, (evidence.loaded_at or {}).get(stream), config.freshness_verdict, now)
    return gates or [Gate("data", "", "pass", 0, 0, "数据检查通过、输入新鲜", "checks passed, inputs fresh")]


def _freshness(stream: str, promise: str, loaded: datetime | None, verdict: Verdict, now: datetime) -> list[Gate]:
    limit = parse_duration(promise).total_seconds() / 3600
    if loaded is None:
        return [
            Gate("freshness", stream, verdict, 0, limit, f"输入从未到达：{stream}", f"input never loaded: {stream}")
        ]
    age = (now - loaded).total_seconds() / 3600
    if age <= limit:
        return []
    text = f"{stream} ({age:.0f} h > {limit:.0f} h)"
    return [Gate("freshness", stream, verdict, age, limit, f"输入过期：{text}", f"stale input {text}")]


def ownership_gates(
    register: Sequence[RegisteredTag], remote: Remote, groups: Sequence[GroupSpec] | None = None
) -> list[Gate]:
    """A registered tag that WeCom no longer shows as ours stops the plan. *groups*: what we want; None for plans that
    stand on the register alone."""
    wanted = None if groups is None else {tag.key: tag.name for group in groups for tag in group.tags}
    faults = ownership_faults(register, remote, wanted)
    if not faults:
        return [Gate("ownership", "", "pass", 0, 0, "标签库与登记一致", "the library is as registered")]
    return [Gate("ownership", key, "stop", 1, 0, f"{key}：{zh}", f"{key}: {en}") for key, zh, en in faults]


def name_gates(
    library: Sequence[LibraryChange], register: Sequence[RegisteredTag], remote: Remote, intended: frozenset[str]
) -> list[Gate]:
    """A group we are about to create whose name somebody else's group has already: stop, or our tags would join theirs.
    *intended*: groups whose creation we began and that may be ours."""
    ours = {tag.group_id for tag in register if tag.state != "retired"}
    mine = {tag.group for tag in register if tag.state != "retired"}
    taken = {tag.group_name for tag in remote.tags if tag.group_id not in ours} - intended
    wanted = sorted({(change.group, change.detail) for change in library if change.action == "create"})
    return [
        Gate(
            "group_name",
            group,
            "stop",
            1,
            0,
            f"企业微信已有标签组「{name}」，不是本应用登记的；请改名，或用 cdp sync adopt 接管",
            f"WeCom has a tag group `{name}` that we did not register: rename ours, or `cdp sync adopt` it",
        )
        for group, name in wanted
        if name in taken and group not in mine
    ]


def tag_gates(
    groups: Sequence[GroupSpec],
    register: Sequence[RegisteredTag],
    tags: pl.DataFrame,
    sizes: Mapping[str, Sequence[int]],
    *,
    canary: bool,
) -> list[Gate]:
    """Per tag: emptied segment, removals, size against its past, first sync."""
    limits = {tag.key: group.tag_gates.get(tag.value, group.gates) for group in groups for tag in group.tags}
    synced = {tag.key for tag in register if tag.synced}
    gates: list[Gate] = []
    for row in tags.iter_rows(named=True):
        if row["key"] in limits:
            gates += _tag_gates(row, limits[row["key"]], sizes.get(row["key"], ()), row["key"] in synced, canary)
    return gates


def _tag_gates(
    row: Mapping[str, int], limits: GateLimits, past: Sequence[int], synced: bool, canary: bool
) -> list[Gate]:
    key, now, remove, segment = str(row["key"]), row["now"], row["remove"], row["segment"]
    gates = []
    if segment == 0 and now > 0:
        zh, en = (
            f"{key}：人群为空，而现有 {now} 条关系带此标签",
            f"{key}: nobody in the segment, {now} relations have it",
        )
        gates.append(Gate("empty_segment", key, "stop", 0, now, zh, en))
    if now and remove > limits.removal_count and remove > limits.removal_share * now:
        share, most = remove / now, limits.removal_share
        zh = f"{key}：将移除 {remove}/{now}（{share:.0%}），超过 {most:.0%}"
        en = f"{key}: removes {remove} of {now} ({share:.0%}), over {most:.0%}"
        gates.append(Gate("removals", key, "hold", share, most, zh, en))
    if len(past) >= limits.size_runs:
        median = statistics.median(past[-7:])
        if median and not limits.size_low <= segment / median <= limits.size_high:
            zh = f"{key}：{segment} 人，近几次中位数 {median:.0f}"
            en = f"{key}: {segment} people against a median of {median:.0f}"
            gates.append(Gate("size", key, "hold", segment / median, limits.size_high, zh, en))
    if not synced and not canary and segment > limits.new_tag_people and row["add"]:
        zh = f"{key}：首次同步 {segment} 人，未走灰度"
        en = f"{key}: first sync, {segment} people, no canary"
        gates.append(Gate("new_tag", key, "hold", segment, limits.new_tag_people, zh, en))
    return gates


def plan_gates(config: SyncConfig, tags: pl.DataFrame, units: pl.DataFrame, forecast: Forecast) -> list[Gate]:
    """Over the whole plan: removals, quota and quiet hours, any unit that changes far more than others."""
    limits = config.gates
    now, remove = int(tags["now"].sum()), int(tags["remove"].sum())
    gates = []
    if now and remove > limits.total_removal_count and remove > limits.total_removal_share * now:
        share, most = remove / now, limits.total_removal_share
        zh = f"全部移除 {remove}/{now}（{share:.0%}），超过 {most:.0%}"
        en = f"{remove} of all {now} memberships removed ({share:.0%}), over {most:.0%}"
        gates.append(Gate("total_removals", "", "hold", share, most, zh, en))
    if forecast.quota_share > limits.quota_share:
        share, most = forecast.quota_share, limits.quota_share
        zh = f"预计用掉每小时额度的 {share:.0%}，超过 {most:.0%}"
        en = f"forecast {share:.0%} of the hourly budget, over {most:.0%}"
        gates.append(Gate("quota", "", "hold", share, most, zh, en))
    if forecast.finishes_in_quiet_hours:
        zh, en = "预计在免打扰时段才能写完", "would still be writing in quiet hours"
        gates.append(Gate("quiet_hours", "", "hold", forecast.seconds, 0, zh, en))
    return gates + _unit_gates(units, limits)


def _unit_gates(units: pl.DataFrame, limits: GateLimits) -> list[Gate]:
    gates = []
    for kind, zh_kind in (("store", "门店"), ("staff", "员工")):
        rows = units.filter(pl.col("kind") == kind).with_columns((pl.col("add") + pl.col("remove")).alias("change"))
        if rows.height < 3:
            continue
        median = float(rows["change"].cast(pl.Float64).median() or 0.0)  # type: ignore[arg-type]
        wide = rows.filter((pl.col("change") > limits.unit_factor * median) & (pl.col("change") > limits.unit_count))
        for unit, change in wide.select("unit", "change").iter_rows():
            zh = f"{zh_kind} {unit}：变更 {change}，中位数 {median:.0f}"
            en = f"{kind} {unit}: {change} changes against a median of {median:.0f}"
            gates.append(Gate("unit", f"{kind}:{unit}", "hold", change, limits.unit_factor * median, zh, en))
    return gates


def verdict(gates: Sequence[Gate], *, anything: bool) -> PlanVerdict:
    """STOPPED over HELD over READY; EMPTY when there is nothing to do and nothing stops."""
    found = {gate.verdict for gate in gates}
    if "stop" in found:
        return "STOPPED"
    if not anything:
        return "EMPTY"
    return "HELD" if "hold" in found else "READY"
