"""The way back: an inverse plan that restores what a run changed, where nobody has changed it since."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import polars as pl

from cdp.sync.changes import Changes
from cdp.sync.forecast import forecast
from cdp.sync.gates import ownership_gates, plan_gates
from cdp.sync.ledger import Op
from cdp.sync.model import OPS_SCHEMA, WATERFALL, Plan
from cdp.sync.outcome import Pair
from cdp.sync.plan import Inputs, assemble, unit_table


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
    just read; *ids*: tag key -> id. A relation is restored only if it is exactly as the op left it."""
    rows: list[tuple[object, ...]] = []
    left = gone = 0
    for op in ops:
        held = found.get((op.userid, op.external_userid))
        if held is None:
            gone += 1
        elif all(ids.get(key) in held for key in op.add) and not any(ids.get(key) in held for key in op.remove):
            rows.append((0, 1, op.userid, op.external_userid, op.one_id, None, list(op.remove), list(op.add)))
        else:
            left += 1
    frame = pl.DataFrame(rows, schema=OPS_SCHEMA, orient="row").sort("userid", "external_userid")
    frame = frame.with_columns(pl.int_range(pl.len(), dtype=pl.Int64).alias("seq"))
    tags = _tag_table(inputs, frame, found, ids)
    nobody = pl.DataFrame(schema={"one_id": pl.String, "experiment": pl.String, "key": pl.String})
    changes = Changes(frame, tags, nobody, nobody.select("one_id", "key"))
    units = unit_table(frame)
    cost = forecast(
        inputs.config.limits,
        ops=frame.height,
        touched_staff=frame["userid"].n_unique(),
        touched_relations=len(found),
        library_calls=0,
        call_ms=inputs.call_ms or inputs.config.limits.assumed_call_ms,
        now=inputs.now,
        timezone=inputs.timezone,
    )
    gates = [*ownership_gates(inputs.register, inputs.remote), *plan_gates(inputs.config, tags, units, cost)]
    return Undone(assemble(inputs, changes, (), gates, cost, units, kind="undo", undoes=run_of), left, gone)


def _tag_table(
    inputs: Inputs, ops: pl.DataFrame, found: Mapping[Pair, frozenset[str]], ids: Mapping[str, str]
) -> pl.DataFrame:
    adds = dict(ops.select(pl.col("add").explode(empty_as_null=True)).drop_nulls().group_by("add").len().iter_rows())
    removes = dict(
        ops.select(pl.col("remove").explode(empty_as_null=True)).drop_nulls().group_by("remove").len().iter_rows()
    )
    holders: dict[str, int] = {}
    for held in found.values():
        for tag in held:
            holders[tag] = holders.get(tag, 0) + 1
    names = {tag.key: tag.name for tag in inputs.register}
    rows = []
    for key in sorted(adds.keys() | removes.keys()):
        now, add, remove = holders.get(ids.get(key, ""), 0), adds.get(key, 0), removes.get(key, 0)
        after = now + add - remove
        rows.append((key, key.split("/", 1)[0], names.get(key, key), now, add, remove, after, 0, *[0] * len(WATERFALL)))
    columns = ("key", "group", "name", "now", "add", "remove", "after", "segment", *WATERFALL)
    schema = {name: pl.String() if name in ("key", "group", "name") else pl.Int64() for name in columns}
    return pl.DataFrame(rows, schema=schema, orient="row")
