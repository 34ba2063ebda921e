"""From desired tags and the last read state to one op per relation, with every exclusion counted once.

A *pair* is (relation, tag), coded as one integer `relation_index * TAG_SPAN + tag_index`, so that a million relations
are compared by sorting numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl

from cdp.sync.config import Consent
from cdp.sync.model import OPS_SCHEMA, WATERFALL, GroupSpec, RegisteredTag

TAG_SPAN = 1 << 20

RELATIONS_SCHEMA: dict[str, pl.DataType] = {
    "userid": pl.String(),
    "external_userid": pl.String(),
    "one_id": pl.String(),
    "added_at": pl.Datetime("us", "UTC"),
    "is_active": pl.Boolean(),
    "tag_ids": pl.List(pl.String),
    "read_at": pl.Datetime("us", "UTC"),
}
PEOPLE_SCHEMA: dict[str, pl.DataType] = {
    "one_id": pl.String(),
    "consent": pl.Boolean(),
    "store_id": pl.String(),
    "owner_userid": pl.String(),
}
STAFF_SCHEMA: dict[str, pl.DataType] = {"userid": pl.String(), "store_id": pl.String()}
TAGS_SCHEMA: dict[str, pl.DataType] = {"one_id": pl.String(), "key": pl.String()}
FROZEN_SCHEMA: dict[str, pl.DataType] = {"userid": pl.String(), "external_userid": pl.String(), "key": pl.String()}
CONTROL_SCHEMA: dict[str, pl.DataType] = {"one_id": pl.String(), "experiment": pl.String()}


@dataclass(frozen=True)
class State:
    """What is wanted and what is known, as frames of the schemas above; any row order.

    *tags*: wanted (person, tag key). *relations*: one row per (userid, external_userid) as last read. *people*:
    everyone with a current one_id. *staff*: with their store. *frozen*: pairs people changed. *churn_held*:
    `TAGS_SCHEMA`, people who flip. *control*: who is in which control group. *visible*: staff this app may touch.
    """

    tags: pl.DataFrame
    relations: pl.DataFrame
    people: pl.DataFrame
    staff: pl.DataFrame
    frozen: pl.DataFrame
    churn_held: pl.DataFrame
    control: pl.DataFrame
    visible: frozenset[str]
    experiments: Mapping[str, frozenset[str]] = field(default_factory=dict)  # experiment -> its tag groups


@dataclass(frozen=True)
class Changes:
    """*ops*: `OPS_SCHEMA` without phases. *tags*: one row per tag with counts and waterfall. *control*: `one_id,
    experiment, key` held back. *pending*: `one_id, key` of people who are not yet contacts, may be tagged and are in
    no control group."""

    ops: pl.DataFrame
    tags: pl.DataFrame
    control: pl.DataFrame
    pending: pl.DataFrame


def compute_changes(
    groups: Sequence[GroupSpec],
    register: Sequence[RegisteredTag],
    state: State,
    *,
    consent: Consent,
    max_ops: int | None = None,
    blocked: frozenset[str] = frozenset(),
) -> Changes:
    """Ops and counts. *blocked*: tag keys that must not move (broken in the library). Same inputs in any order give the
    same frames. Adds and removes of a relation are merged; a relation that already fits gives no op."""
    index = _tag_index(groups, register, blocked)
    relations = _relations(state)
    segment = _segment(state, index, relations)
    targets = _targets(segment, relations, groups, index)
    base = _base_pairs(relations, index)
    judged = _judge(targets, base, relations, state, index)
    removes = _removes(base, judged, relations, state, index, consent)
    ops, kept = _ops(judged, removes, relations, index, max_ops)
    tags = _tag_table(index, segment, judged, base, kept, ops)
    held = segment.filter(pl.col("why") == "control").join(index.select("tag", "key"), on="tag")
    waiting = segment.filter(
        (pl.col("why") == "not_a_contact") & pl.col("experiment").is_null() & pl.col("consent")
    ).join(index.select("tag", "key"), on="tag")
    return Changes(
        ops=ops,
        tags=tags,
        control=held.select("one_id", "experiment", "key").sort("one_id", "key"),
        pending=waiting.select("one_id", "key").sort("one_id", "key"),
    )


def _tag_index(groups: Sequence[GroupSpec], register: Sequence[RegisteredTag], blocked: frozenset[str]) -> pl.DataFrame:
    """One row per managed tag: number, key, id (null until created), mode, fan-out and cap of its group."""
    ids = {tag.key: tag for tag in register if tag.state in ("active", "draining")}
    rows: list[tuple[object, ...]] = [
        (
            tag.key,
            group.key,
            tag.name,
            group.mode,
            group.fan_out,
            group.cap,
            ids[tag.key].tag_id if tag.key in ids else None,
        )
        for group in groups
        for tag in group.tags
        if tag.key not in blocked
    ]
    known = {row[0] for row in rows}
    rows += [
        (key, tag.group, tag.name, "remove_only", "all", 1, tag.tag_id)
        for key, tag in sorted(ids.items())
        if key not in known and key not in blocked
    ]
    names = ("key", "group", "name", "mode", "fan_out", "cap", "tag_id")
    schema = {name: pl.Int64() if name == "cap" else pl.String() for name in names}
    return (
        pl.DataFrame(rows, schema=schema, orient="row").with_row_index("tag").with_columns(pl.col("tag").cast(pl.Int64))
    )


def _relations(state: State) -> pl.DataFrame:
    """Relations in sending order (by employee, then customer), numbered, with what stands against touching each."""
    visible = pl.Series("visible", sorted(state.visible), dtype=pl.String)
    people = state.people.select("one_id", "consent", "store_id", "owner_userid").unique("one_id", keep="first")
    staff = state.staff.select("userid", pl.col("store_id").alias("staff_store")).unique("userid", keep="first")
    return (
        state.relations.sort("userid", "external_userid")
        .with_row_index("rel")
        .with_columns(pl.col("rel").cast(pl.Int64), pl.col("userid").is_in(visible.implode()).alias("in_scope"))
        .join(people.with_columns(pl.lit(True).alias("known")), on="one_id", how="left", maintain_order="left")
        .join(staff, on="userid", how="left", maintain_order="left")
        .with_columns((pl.col("in_scope") & pl.col("is_active") & pl.col("known").fill_null(False)).alias("usable"))
    )


def _segment(state: State, index: pl.DataFrame, relations: pl.DataFrame) -> pl.DataFrame:
    """Wanted (person, tag), each with the first reason of the fixed order that excludes the person, else null."""
    reach = relations.group_by("one_id").agg(
        pl.col("in_scope").any().alias("any_scope"),
        (pl.col("in_scope") & pl.col("is_active")).any().alias("any_active"),
    )
    people = state.people.select("one_id", "consent").unique("one_id", keep="first").with_columns(known=pl.lit(True))
    segment = (
        state.tags.select("one_id", "key")
        .unique()
        .join(index.filter(pl.col("mode") != "remove_only").select("tag", "key", "group"), on="key")
        .join(people, on="one_id", how="left")
        .join(reach, on="one_id", how="left")
    )
    segment = _with_control(segment, state)
    why = (
        pl.when(pl.col("known").is_null())
        .then(pl.lit("unresolved"))
        .when(pl.col("any_scope").is_null())
        .then(pl.lit("not_a_contact"))
        .when(~pl.col("any_scope"))
        .then(pl.lit("out_of_scope"))
        .when(~pl.col("any_active"))
        .then(pl.lit("lost_relation"))
        .when(~pl.col("consent"))
        .then(pl.lit("no_consent"))
        .when(pl.col("experiment").is_not_null())
        .then(pl.lit("control"))
    )
    return segment.select("one_id", "tag", "experiment", "consent", why.alias("why")).sort("one_id", "tag")


def _with_control(segment: pl.DataFrame, state: State) -> pl.DataFrame:
    """The experiment (or the holdout) that holds each (person, tag) back, if any; the first by name."""
    scopes = [(name, group) for name, groups in state.experiments.items() for group in sorted(groups)]
    scope = pl.DataFrame(scopes, schema={"experiment": pl.String, "group": pl.String}, orient="row")
    every = state.control.join(scope, on="experiment", how="anti").group_by("one_id").agg(pl.col("experiment").min())
    some = state.control.join(scope, on="experiment").group_by("one_id", "group").agg(pl.col("experiment").min())
    return (
        segment.join(every, on="one_id", how="left")
        .join(some, on=["one_id", "group"], how="left", suffix="_of_group")
        .with_columns(pl.coalesce("experiment", "experiment_of_group"))
    )


def _targets(
    segment: pl.DataFrame, relations: pl.DataFrame, groups: Sequence[GroupSpec], index: pl.DataFrame
) -> pl.DataFrame:
    """Wanted pairs (`tag, rel, one_id, pair`) of people nothing excludes, by each group's fan-out policy and cap."""
    open_segment = segment.filter(pl.col("why").is_null()).select("one_id", "tag")
    usable = relations.filter(pl.col("usable")).with_columns(
        pl.struct("added_at", "rel").rank("ordinal", descending=True).over("one_id").alias("newest")
        if relations.height
        else pl.lit(0).alias("newest")
    )
    parts = []
    for fan_out, cap in sorted({(group.fan_out, group.cap) for group in groups}):
        tags = index.filter(
            (pl.col("fan_out") == fan_out) & (pl.col("cap") == cap) & (pl.col("mode") != "remove_only")
        ).select("tag")
        chosen = _chosen(usable, fan_out, cap).select("one_id", "rel")
        parts.append(open_segment.join(tags, on="tag").join(chosen, on="one_id"))
    empty = open_segment.join(usable.select("one_id", "rel").head(0), on="one_id")
    return (
        pl.concat([empty, *parts])
        .with_columns((pl.col("rel") * TAG_SPAN + pl.col("tag")).alias("pair"))
        .select("tag", "rel", "one_id", "pair")
    )


def _chosen(usable: pl.DataFrame, fan_out: str, cap: int) -> pl.DataFrame:
    """Relations that carry the tags under a policy, the newest first up to *cap* per person."""
    if fan_out == "latest_contact":
        return usable.filter(pl.col("newest") == 1)
    if fan_out == "owner":
        usable = usable.filter(pl.col("userid") == pl.col("owner_userid"))
    elif fan_out == "store":
        usable = usable.filter(pl.col("staff_store") == pl.col("store_id"))
    if not usable.height:
        return usable
    order = pl.struct("added_at", "rel").rank("ordinal", descending=True).over("one_id")
    return usable.filter(order <= cap)


def _base_pairs(relations: pl.DataFrame, index: pl.DataFrame) -> pl.DataFrame:
    """Managed pairs as last read (`pair, rel, tag`), on relations we may touch."""
    ids = index.filter(pl.col("tag_id").is_not_null()).select("tag", "tag_id")
    return (
        relations.filter(pl.col("usable"))
        .select("rel", pl.col("tag_ids").alias("tag_id"))
        .explode("tag_id", empty_as_null=True)
        .filter(pl.col("tag_id").is_not_null())
        .join(ids, on="tag_id")
        .select((pl.col("rel") * TAG_SPAN + pl.col("tag")).alias("pair"), "rel", "tag")
        .unique("pair")
    )


def _resting(relations: pl.DataFrame, state: State, index: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Pairs nothing may change: frozen by people, and of people who flip."""
    frozen = (
        state.frozen.join(relations.select("rel", "userid", "external_userid"), on=["userid", "external_userid"])
        .join(index.select("tag", "key"), on="key")
        .select((pl.col("rel") * TAG_SPAN + pl.col("tag")).alias("pair"))
        .unique()
    )
    churned = (
        state.churn_held.join(relations.select("rel", "one_id"), on="one_id")
        .join(index.select("tag", "key"), on="key")
        .select((pl.col("rel") * TAG_SPAN + pl.col("tag")).alias("pair"))
        .unique()
    )
    return frozen, churned


def _judge(
    targets: pl.DataFrame, base: pl.DataFrame, relations: pl.DataFrame, state: State, index: pl.DataFrame
) -> pl.DataFrame:
    """Each wanted pair with its fate: `present`, `frozen`, `churn_held`, `not_enriched` or `add`."""
    frozen, churned = _resting(relations, state, index)
    groups = index.select("tag", "group", "mode")
    enriched = base.join(groups, on="tag").select("rel", "group").unique().with_columns(has=pl.lit(True))
    return (
        targets.join(base.select("pair", present=pl.lit(True)), on="pair", how="left")
        .join(frozen.with_columns(frozen=pl.lit(True)), on="pair", how="left")
        .join(churned.with_columns(churned=pl.lit(True)), on="pair", how="left")
        .join(groups, on="tag")
        .join(enriched, on=["rel", "group"], how="left")
        .with_columns(
            pl.when(pl.col("present"))
            .then(pl.lit("present"))
            .when((pl.col("mode") == "enrich_only") & pl.col("has").is_null())
            .then(pl.lit("not_enriched"))
            .when(pl.col("frozen"))
            .then(pl.lit("frozen"))
            .when(pl.col("churned"))
            .then(pl.lit("churn_held"))
            .otherwise(pl.lit("add"))
            .alias("fate")
        )
        .select("pair", "rel", "tag", "one_id", "fate")
    )


def _removes(
    base: pl.DataFrame,
    judged: pl.DataFrame,
    relations: pl.DataFrame,
    state: State,
    index: pl.DataFrame,
    consent: Consent,
) -> pl.DataFrame:
    """Managed pairs on the remote side that nobody wants any more (`pair, rel, tag`)."""
    frozen, churned = _resting(relations, state, index)
    removing = index.filter(pl.col("mode") != "add_only").select("tag")
    unwanted = (
        base.join(removing, on="tag")
        .join(judged.select("pair"), on="pair", how="anti")
        .join(frozen, on="pair", how="anti")
        .join(churned, on="pair", how="anti")
    )
    if consent.on_withdrawal == "keep":
        refused = relations.filter(~pl.col("consent")).select("rel")
        unwanted = unwanted.join(refused, on="rel", how="anti")
    return unwanted


def _ops(
    judged: pl.DataFrame, removes: pl.DataFrame, relations: pl.DataFrame, index: pl.DataFrame, max_ops: int | None
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Ops in sending order, and the relation numbers they cover; past *max_ops* the rest is left for the next plan."""
    keys = index.select("tag", "key")
    changes = pl.concat(
        [
            judged.filter(pl.col("fate") == "add").select("rel", "tag", adding=pl.lit(True)),
            removes.select("rel", "tag", adding=pl.lit(False)),
        ]
    )
    merged = (
        changes.join(keys, on="tag")
        .sort("rel", "key")
        .group_by("rel", maintain_order=True)
        .agg(
            pl.col("key").filter(pl.col("adding")).alias("add"),
            pl.col("key").filter(~pl.col("adding")).alias("remove"),
        )
    )
    if max_ops is not None:
        merged = merged.head(max_ops)
    ops = (
        merged.join(
            relations.select("rel", "userid", "external_userid", "one_id", pl.col("staff_store").alias("store_id")),
            on="rel",
            how="left",
            maintain_order="left",
        )
        .with_row_index("seq")
        .with_columns(pl.lit(1).alias("phase"))
        .select(pl.col(name).cast(dtype) for name, dtype in OPS_SCHEMA.items())
    )
    return ops, merged.select("rel")


def _tag_table(
    index: pl.DataFrame,
    segment: pl.DataFrame,
    judged: pl.DataFrame,
    base: pl.DataFrame,
    kept: pl.DataFrame,
    ops: pl.DataFrame,
) -> pl.DataFrame:
    """Per tag: relations that have it now, gain it, lose it; and people of the segment by what becomes of them."""
    counts = index.select("tag", "key", "group", "name")
    for name, frame in (("now", base), ("add", _exploded(ops, "add")), ("remove", _exploded(ops, "remove"))):
        on = "tag" if name == "now" else "key"
        counts = counts.join(frame.group_by(on).agg(pl.len().alias(name)), on=on, how="left")
    fates = _person_fates(segment, judged, kept)
    spread = fates.group_by("tag").agg(
        pl.len().alias("segment"), *((pl.col("fate") == fate).sum().alias(fate) for fate in WATERFALL)
    )
    numbers = ["now", "add", "remove", "segment", *WATERFALL]
    return (
        counts.join(spread, on="tag", how="left")
        .with_columns(pl.col(name).fill_null(0).cast(pl.Int64) for name in numbers)
        .with_columns((pl.col("now") + pl.col("add") - pl.col("remove")).alias("after"))
        .sort("tag")
        .select("key", "group", "name", "now", "add", "remove", "after", "segment", *WATERFALL)
    )


def _exploded(ops: pl.DataFrame, side: str) -> pl.DataFrame:
    return ops.select(pl.col(side).alias("key")).explode("key", empty_as_null=True).filter(pl.col("key").is_not_null())


def _person_fates(segment: pl.DataFrame, judged: pl.DataFrame, kept: pl.DataFrame) -> pl.DataFrame:
    """One row per (person, tag) of the segment with exactly one entry of `WATERFALL`.

    A person with several relations is `planned` when any of them changes in this plan, and held back for the first
    reason of the fixed order when none does but some should.
    """
    adding = (pl.col("fate") == "add") & pl.col("in_plan").fill_null(False)
    people = (
        judged.join(kept.with_columns(in_plan=pl.lit(True)), on="rel", how="left")
        .group_by("one_id", "tag")
        .agg(
            adding.any().alias("planned"),
            *((pl.col("fate") == fate).any().alias(fate) for fate in ("not_enriched", "frozen", "churn_held", "add")),
        )
    )
    fate = (
        pl.when(pl.col("why").is_not_null())
        .then(pl.col("why"))
        .when(pl.col("planned").is_null())
        .then(pl.lit("no_target"))
        .when(pl.col("planned"))
        .then(pl.lit("planned"))
        .when(pl.col("not_enriched"))
        .then(pl.lit("not_enriched"))
        .when(pl.col("frozen"))
        .then(pl.lit("frozen"))
        .when(pl.col("churn_held"))
        .then(pl.lit("churn_held"))
        .when(pl.col("add"))
        .then(pl.lit("over_budget"))
        .otherwise(pl.lit("unchanged"))
    )
    return segment.join(people, on=["one_id", "tag"], how="left").select("one_id", "tag", fate.alias("fate"))
