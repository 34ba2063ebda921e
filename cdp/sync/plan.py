"""Making a plan: inputs pinned, changes computed, gates asked, all of it hashed."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

import polars as pl

from cdp.errors import FatalError
from cdp.sync.changes import Changes, State, compute_changes
from cdp.sync.config import SyncConfig, parse_duration
from cdp.sync.forecast import calls_to_read, forecast, sampled
from cdp.sync.gates import Evidence, data_gates, name_gates, ownership_gates, plan_gates, tag_gates, verdict
from cdp.sync.library import diff, lint
from cdp.sync.model import LIVE, WATERFALL, Forecast, Gate, GroupSpec, LibraryChange, Plan, RegisteredTag, Remote

SAMPLE = 10
_NOT_HASHED = ("plan_id", "plan_hash")


@dataclass(frozen=True)
class Inputs:
    """Everything a plan depends on. *pins*: version, config and register digests, shown and hashed. *now*: UTC instant
    of planning. *call_ms*: measured time of a `mark_tag` call, if any. *canary*: share, over the configured one.
    *intended_groups*: names of WeCom groups whose creation was begun by us and may have gone through. *flapping*: tags
    people keep entering and leaving (`key, people, flips, rule`)."""

    config: SyncConfig
    groups: tuple[GroupSpec, ...]
    register: tuple[RegisteredTag, ...]
    remote: Remote
    state: State
    evidence: Evidence
    pins: Mapping[str, str]
    now: datetime
    timezone: str
    author: str = ""
    call_ms: float | None = None
    canary: float | None = None
    intended_groups: frozenset[str] = frozenset()
    flapping: Sequence[Mapping[str, Any]] = ()


def build_plan(inputs: Inputs) -> Plan:
    """The plan for *inputs*: same inputs, same bytes. Raises `ConfigError` when the library cannot be built at all
    (names, budget). Never raises for data: those are gates."""
    config = inputs.config
    library, library_gates, warnings = library_part(inputs)
    changes = compute_changes(
        inputs.groups, inputs.register, inputs.state, consent=config.consent, max_ops=config.limits.max_ops
    )
    canary = inputs.canary if inputs.canary is not None else config.canary
    changes = replace(changes, ops=with_canary(changes.ops, canary))
    units = unit_table(changes.ops)
    cost = _forecast(inputs, changes, library)
    gates = (
        *data_gates(config, inputs.evidence, now=inputs.now),
        *library_gates,
        *tag_gates(inputs.groups, inputs.register, changes.tags, inputs.evidence.sizes or {}, canary=bool(canary)),
        *plan_gates(config, changes.tags, units, cost),
    )
    return assemble(inputs, changes, library, gates, cost, units, warnings=warnings)


def library_part(inputs: Inputs) -> tuple[tuple[LibraryChange, ...], list[Gate], list[str]]:
    """Steps on the tag library, the gates that concern it, and warnings. Raises `ConfigError` as `build_plan` does."""
    own = {tag.tag_id for tag in inputs.register}
    foreign = sum(tag.tag_id not in own for tag in inputs.remote.tags)
    warnings = lint(inputs.groups, inputs.config.library, foreign_tags=foreign)
    library = diff(
        inputs.groups,
        inputs.register,
        inputs.remote,
        inputs.config.library,
        now=inputs.now,
        holders=tag_holders(inputs.state.relations, own),
    )
    gates = [
        *ownership_gates(inputs.register, inputs.remote, inputs.groups),
        *name_gates(library, inputs.register, inputs.remote, inputs.intended_groups),
    ]
    return library, gates, warnings


def tag_holders(relations: pl.DataFrame, tag_ids: set[str]) -> dict[str, int]:
    """How many relations, anyone's, carry each of *tag_ids* by the last read."""
    counts = (
        relations.select(pl.col("tag_ids").alias("tag_id"))
        .explode("tag_id", empty_as_null=True)
        .filter(pl.col("tag_id").is_in(sorted(tag_ids)))
        .group_by("tag_id")
        .len()
    )
    return dict(counts.iter_rows())


def with_canary(ops: pl.DataFrame, share: float | None) -> pl.DataFrame:
    """Mark whole employees as phase 0 until they hold *share* of the ops; the choice depends on ids alone. Canary ops
    come first; inside a phase ops stay in order of employee, so that progress is whole desks."""
    if not share or not ops.height:
        return ops
    counts = ops.group_by("userid").len().sort("userid")
    order = sorted(counts.iter_rows(), key=lambda row: hashlib.blake2b(row[0].encode(), digest_size=8).digest())
    chosen, held = [], 0
    for userid, count in order:
        if held >= share * ops.height:
            break
        chosen.append(userid)
        held += count
    phase = pl.when(pl.col("userid").is_in(chosen)).then(0).otherwise(1).cast(pl.Int8)
    ordered = ops.with_columns(phase.alias("phase")).sort("phase", "userid", "external_userid")
    return ordered.with_columns(pl.int_range(pl.len(), dtype=pl.Int64).alias("seq"))


def unit_table(ops: pl.DataFrame) -> pl.DataFrame:
    """Adds and removes per employee and per store: `kind (staff|store), unit, relations, add, remove`, sorted."""
    counted = ops.select(
        "userid", "store_id", pl.col("add").list.len().alias("add"), pl.col("remove").list.len().alias("remove")
    )
    parts = [
        counted.filter(pl.col(column).is_not_null())
        .group_by(pl.col(column).alias("unit"))
        .agg(pl.len().cast(pl.Int64).alias("relations"), pl.col("add", "remove").sum().cast(pl.Int64))
        .select(pl.lit(kind).alias("kind"), "unit", "relations", "add", "remove")
        for kind, column in (("staff", "userid"), ("store", "store_id"))
    ]
    return pl.concat(parts).sort("kind", "unit")


def ops_tag_table(ops: pl.DataFrame, register: Sequence[RegisteredTag], holders: Mapping[str, int]) -> pl.DataFrame:
    """The table of tags of a plan that has ops but no segments (undo, pending). *holders*: tag id -> relations now."""
    ids = {tag.key: tag for tag in register if tag.state in LIVE}
    counts: dict[str, list[int]] = {}
    for place, side in enumerate(("add", "remove")):
        listed = ops.select(pl.col(side).explode(empty_as_null=True)).drop_nulls()
        for key, count in listed.group_by(side).len().iter_rows():
            counts.setdefault(key, [0, 0])[place] = count
    rows = []
    for key, (add, remove) in sorted(counts.items()):
        tag = ids.get(key)
        now = holders.get(tag.tag_id, 0) if tag else 0
        facts = (key, key.split("/", 1)[0], tag.name if tag else key, now, add, remove, now + add - remove, 0)
        rows.append((*facts, *[0] * len(WATERFALL)))
    columns = ("key", "group", "name", "now", "add", "remove", "after", "segment", *WATERFALL)
    schema = {name: pl.String() if name in ("key", "group", "name") else pl.Int64() for name in columns}
    return pl.DataFrame(rows, schema=schema, orient="row")


def _forecast(inputs: Inputs, changes: Changes, library: Sequence[LibraryChange]) -> Forecast:
    touched = set(changes.ops["userid"].unique())
    others = sorted(inputs.remote.staff - touched)
    read = touched | set(sampled(others, inputs.config.verify.sample_untouched)) if touched else set()
    counts = inputs.state.relations.filter(pl.col("userid").is_in(sorted(read))).group_by("userid").len()
    return forecast(
        inputs.config.limits,
        ops=changes.ops.height,
        read_calls=calls_to_read(dict.fromkeys(read, 0) | dict(counts.iter_rows())),
        library_calls=_library_calls(library),
        call_ms=inputs.call_ms or inputs.config.limits.assumed_call_ms,
        now=inputs.now,
        timezone=inputs.timezone,
    )


def _library_calls(library: Sequence[LibraryChange]) -> int:
    """A look at the library and a creation per group; one call per rename, reorder and deletion."""
    groups = {change.group for change in library if change.action == "create"}
    return 2 * len(groups) + sum(change.action in ("rename", "reorder", "delete") for change in library)


def assemble(
    inputs: Inputs,
    changes: Changes,
    library: Sequence[LibraryChange],
    gates: Sequence[Gate],
    cost: Forecast,
    units: pl.DataFrame,
    *,
    warnings: Sequence[str] = (),
    kind: str = "sync",
    undoes: str | None = None,
) -> Plan:
    """Put the parts together, name the verdict and hash the whole."""
    ops = changes.ops
    ordered = sorted(gates, key=lambda gate: (gate.gate, gate.subject))
    summary: dict[str, Any] = {
        "kind": kind,
        "undoes": undoes,
        "verdict": verdict(ordered, anything=bool(ops.height or any(change.acts for change in library))),
        "planned_at": _iso(inputs.now),
        "expires_at": _iso(inputs.now + parse_duration(inputs.config.approval.expires)),
        "author": inputs.author,
        "pins": dict(sorted(inputs.pins.items())),
        "relations": ops.height,
        "adds": int(ops["add"].list.len().sum()),
        "removes": int(ops["remove"].list.len().sum()),
        "employees": ops["userid"].n_unique(),
        "canary": int((ops["phase"] == 0).sum()),
        "base_oldest_read": _iso(inputs.state.relations["read_at"].min()),
        "base_stale_at": _iso(base_stale_at(ops, inputs.state.relations, inputs.config)),
        "groups": [_group_facts(group) for group in inputs.groups],
        "warnings": list(warnings),
        "gates": [asdict(gate) for gate in ordered],
        "library": [asdict(change) for change in library],
        "forecast": asdict(cost),
        "tags": changes.tags.to_dicts(),
        "units": units.to_dicts(),
        "flapping": [dict(row) for row in inputs.flapping],
        "held_control": changes.control.height,
        "pending": changes.pending.height,
        "samples": samples(ops),
        "ops_sha256": hashlib.sha256(ops_bytes(ops)).hexdigest(),
        "control_sha256": _digest(changes.control),
        "pending_sha256": _digest(changes.pending),
    }
    digest = summary_hash(summary)
    summary["plan_hash"] = digest
    summary["plan_id"] = f"{inputs.now.astimezone(UTC):%Y%m%dT%H%M%S}-{digest[:8]}"
    return Plan(
        plan_id=summary["plan_id"],
        plan_hash=digest,
        summary=summary,
        ops=ops,
        tags=changes.tags,
        units=units,
        control=changes.control,
        pending=changes.pending,
        library=tuple(library),
        gates=tuple(ordered),
        forecast=cost,
    )


def base_stale_at(ops: pl.DataFrame, relations: pl.DataFrame, config: SyncConfig) -> datetime | None:
    """When more than the stale share of the plan's relations will have been read longer ago than promised; None for a
    plan without ops."""
    reads = (
        ops.select("userid", "external_userid")
        .join(relations.select("userid", "external_userid", "read_at"), on=["userid", "external_userid"])
        .get_column("read_at")
        .sort(nulls_last=False)
    )
    if reads.is_empty():
        return None
    oldest: datetime | None = reads[min(int(reads.len() * config.verify.stale_share), reads.len() - 1)]
    return (oldest or datetime(1970, 1, 1, tzinfo=UTC)) + parse_duration(config.verify.read_promise)


def _group_facts(group: GroupSpec) -> dict[str, Any]:
    names = ("key", "name", "order", "mode", "fan_out", "cap", "drift", "freeze_days")
    return {name: getattr(group, name) for name in names}


def samples(ops: pl.DataFrame) -> dict[str, list[str]]:
    """Up to ten relations per kind of change, customers masked to the last four characters."""
    found: dict[str, list[str]] = {}
    for side in ("add", "remove"):
        rows = ops.filter(pl.col(side).list.len() > 0).head(SAMPLE)
        found[side] = [
            f"{row['userid']} → …{row['external_userid'][-4:]}: {', '.join(row[side])}"
            for row in rows.iter_rows(named=True)
        ]
    return found


def summary_hash(summary: Mapping[str, Any]) -> str:
    """SHA-256 of the summary as canonical JSON, without the id and the hash themselves."""
    body = {key: value for key, value in summary.items() if key not in _NOT_HASHED}
    return hashlib.sha256(canonical(body)).hexdigest()


def canonical(value: Any) -> bytes:
    """JSON with sorted keys and no spaces, in UTF-8."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()


def ops_bytes(ops: pl.DataFrame) -> bytes:
    """`plan.parquet`: one row group order, no statistics that differ between machines."""
    buffer = io.BytesIO()
    ops.write_parquet(buffer, compression="zstd", statistics=False)
    return buffer.getvalue()


def _digest(frame: pl.DataFrame) -> str:
    return hashlib.sha256(frame.write_csv().encode()).hexdigest()


def check_hash(
    summary: Mapping[str, Any], ops: bytes, control: pl.DataFrame, pending: pl.DataFrame, expected: str
) -> None:
    """Raises `FatalError` unless *summary*, the bytes of `plan.parquet`, and the people held as control and those who
    wait are the ones hashed as *expected*."""
    intact = (
        summary_hash(summary) == expected
        and hashlib.sha256(ops).hexdigest() == summary["ops_sha256"]
        and _digest(control) == summary["control_sha256"]
        and _digest(pending) == summary["pending_sha256"]
    )
    if not intact:
        raise FatalError(
            "approval is for another plan: the plan's files are not the ones that were planned and approved",
            hint="plan again with `cdp sync plan`; nothing has been sent",
        )


def _iso(moment: Any) -> str | None:
    return moment.astimezone(UTC).isoformat() if isinstance(moment, datetime) else None
