"""Plans made from ops alone: the way back from a run, and tags that waited for a person to arrive."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import polars as pl

from cdp.sync.forecast import calls_to_read, forecast
from cdp.sync.gates import ownership_gates, plan_gates
from cdp.sync.ledger import Op
from cdp.sync.model import OPS_SCHEMA, Plan
from cdp.sync.outcome import Pair
from cdp.sync.pending import only_ops
from cdp.sync.plan import Inputs, assemble, ops_tag_table, unit_table


@dataclass(frozen=True)
class Undone:
    """*plan*: the inverse ops. *left*: relations somebody changed since; *gone*: relations that are no more."""

    plan: Plan
    left: int
    gone: int


def undo_plan(
    inputs: Inputs, run_of: str, ops: Iterable[Op], found: Mapping[Pair, frozenset[str]], ids: Mapping[str, str]
) -> Undone:
    """The plan that takes back *ops* (those of plan *run_of* that were acknowledged). *found*: tag ids per relation as
    just read; *ids*: tag key -> id of the tags WeCom still has (others cannot come back). A relation is restored only
    if it is exactly as the op left it."""
    rows: list[tuple[object, ...]] = []
    left = gone = 0
    for op in ops:
        held = found.get((op.userid, op.external_userid))
        add, remove = [key for key in op.add if key in ids], [key for key in op.remove if key in ids]
        if held is None:
            gone += 1
        elif not (add or remove):
            left += 1
        elif all(ids[key] in held for key in add) and not any(ids[key] in held for key in remove):
            rows.append((0, 1, op.userid, op.external_userid, op.one_id, None, remove, add))
        else:
            left += 1
    frame = pl.DataFrame(rows, schema=OPS_SCHEMA, orient="row").sort("userid", "external_userid")
    frame = frame.with_columns(pl.int_range(pl.len(), dtype=pl.Int64).alias("seq"))
    holders: dict[str, int] = {}
    for held_tags in found.values():
        for tag in held_tags:
            holders[tag] = holders.get(tag, 0) + 1
    plan = _ops_plan(
        inputs, frame, holders, relations=Counter(userid for userid, _ in found), kind="undo", undoes=run_of
    )
    return Undone(plan, left, gone)


def pending_plan(inputs: Inputs, ops: pl.DataFrame) -> Plan:
    """The plan that puts waiting tags on new relations (`OPS_SCHEMA`)."""
    return _ops_plan(inputs, ops, {}, relations=dict(ops.group_by("userid").len().iter_rows()), kind="pending")


def _ops_plan(
    inputs: Inputs,
    ops: pl.DataFrame,
    holders: Mapping[str, int],
    *,
    relations: Mapping[str, int],
    kind: str,
    undoes: str | None = None,
) -> Plan:
    """A plan of *ops* with the gates that need no segments. *relations*: employee -> how many a
    verification would read."""
    tags, units = ops_tag_table(ops, inputs.register, holders), unit_table(ops)
    cost = forecast(
        inputs.config.limits,
        ops=ops.height,
        read_calls=calls_to_read(relations),
        library_calls=0,
        call_ms=inputs.call_ms or inputs.config.limits.assumed_call_ms,
        now=inputs.now,
        timezone=inputs.timezone,
    )
    gates = [*ownership_gates(inputs.register, inputs.remote), *plan_gates(inputs.config, tags, units, cost)]
    return assemble(inputs, only_ops(ops, tags), (), gates, cost, units, kind=kind, undoes=undoes)
