"""From desired tags and the last read state to one op per relation, with every exclusion counted once.

Persons, relations and tags are numbered first; a *pair* is (relation, tag) and a *member* (person, tag), each coded as
one integer `number * TAG_SPAN + tag`, so that a million relations are compared by hashing numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl

from cdp.sync.config import Consent
from cdp.sync.model import LIVE, OPS_SCHEMA, WATERFALL, GroupSpec, RegisteredTag

TAG_SPAN = 1 << 20
# Stands for nobody: relations of people who were forgotten carry it until our tags are off them in WeCom.
FORGOTTEN = "forgotten:"
FATE = {name: number for number, name in enumerate(WATERFALL)}

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
) -> Changes:
    """Ops and counts. Same inputs in any order give the same frames. Adds and removes of a relation are merged; a
    relation that already fits gives no op."""
    index = _tag_index(groups, register)
    relations = _relations(state)
    people = _people(state, relations, groups)
    segment, unresolved = _segment(state, index, people)
    targets = _targets(segment, relations, groups, index)
    base = _base_pairs(relations, index)
    frozen, churned = _resting(relations, state, index)
    missing = _missing(targets, base, index, frozen, churned)
    removes = _removes(targets, base, relations, index, consent, pl.concat([frozen, churned]))
    ops, covered = _ops(missing, removes, relations, index, max_ops)
    fates = _member_fates(segment, missing, covered, people, index)
    names = people.select("person", "one_id")
    tags = _tag_table(index, fates, unresolved, base, ops)
    held = segment.filter(pl.col("why") == FATE["control"]).join(names, on="person").join(index, on="tag")
    waiting = segment.filter((pl.col("why") == FATE["not_a_contact"]) & pl.col("may_wait"))
    waiting = waiting.join(names, on="person").join(index, on="tag")
    return Changes(
        ops=ops,
        tags=tags,
        control=held.select("one_id", "experiment", "key").sort("one_id", "key"),
        pending=waiting.select("one_id", "key").sort("one_id", "key"),
    )


def _tag_index(groups: Sequence[GroupSpec], register: Sequence[RegisteredTag]) -> pl.DataFrame:
    """One row per managed tag: number, key, id (null until created), mode, fan-out and cap of its group. Tags that are
    registered and no longer wanted come last and are only removed."""
    ids = {tag.key: tag for tag in register if tag.state in LIVE}
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
    ]
    known = {row[0] for row in rows}
    rows += [
        (key, tag.group, tag.name, "remove_only", "all", 1, tag.tag_id)
        for key, tag in sorted(ids.items())
        if key not in known
    ]
    names = ("key", "group", "name", "mode", "fan_out", "cap", "tag_id")
    schema = {name: pl.Int64() if name == "cap" else pl.String() for name in names}
    numbered = pl.DataFrame(rows, schema=schema, orient="row").with_row_index("tag")
    return numbered.with_columns(pl.col("tag").cast(pl.Int64))


def _relations(state: State) -> pl.DataFrame:
    """Relations in sending order (by employee, then customer), numbered, with their person and whether we may touch
    them: the employee is in sight, the relation is active and the person known."""
    visible = pl.Series("visible", sorted(state.visible), dtype=pl.String)
    people = _numbered(state)
    staff = state.staff.select("userid", pl.col("store_id").alias("staff_store")).unique("userid", keep="first")
    return (
        state.relations.sort("userid", "external_userid")
        .with_row_index("rel")
        .with_columns(pl.col("rel").cast(pl.Int64), pl.col("userid").is_in(visible.implode()).alias("in_scope"))
        .join(people, on="one_id", how="left", maintain_order="left")
        .join(staff, on="userid", how="left", maintain_order="left")
        .with_columns((pl.col("in_scope") & pl.col("is_active") & pl.col("person").is_not_null()).alias("usable"))
    )


def _numbered(state: State) -> pl.DataFrame:
    """People in order of one_id, numbered from 0."""
    people = state.people.select("one_id", "consent", "store_id", "owner_userid").unique("one_id", keep="first")
    return people.sort("one_id").with_row_index("person").with_columns(pl.col("person").cast(pl.Int64))


def _people(state: State, relations: pl.DataFrame, groups: Sequence[GroupSpec]) -> pl.DataFrame:
    """People with what excludes them as a whole (`why`, a number of `FATE`, or null), the group that holds them back
    from everything (`holdout`), and for each fan-out rule whether some relation carries the tag."""
    reach = (
        relations.filter(pl.col("person").is_not_null())
        .group_by("person")
        .agg(
            pl.col("in_scope").any().alias("any_scope"),
            (pl.col("in_scope") & pl.col("is_active")).any().alias("any_active"),
        )
    )
    scoped = pl.Series("experiment", sorted(state.experiments), dtype=pl.String)
    everywhere = state.control.filter(~pl.col("experiment").is_in(scoped.implode()))
    holdout = everywhere.group_by("one_id").agg(pl.col("experiment").min().alias("holdout"))
    people = (
        _numbered(state)
        .join(reach, on="person", how="left", maintain_order="left")
        .join(holdout, on="one_id", how="left", maintain_order="left")
    )
    for fan_out, cap in _rules(groups):
        carriers = _chosen(relations, fan_out, cap).select("person").unique()
        has = carriers.with_columns(pl.lit(True).alias(_rule_name(fan_out, cap)))
        people = people.join(has, on="person", how="left", maintain_order="left")
    return people.with_columns(
        pl.when(pl.col("any_scope").is_null())
        .then(FATE["not_a_contact"])
        .when(~pl.col("any_scope"))
        .then(FATE["out_of_scope"])
        .when(~pl.col("any_active"))
        .then(FATE["lost_relation"])
        .when(~pl.col("consent"))
        .then(FATE["no_consent"])
        .when(pl.col("holdout").is_not_null())
        .then(FATE["control"])
        .cast(pl.Int8)
        .alias("why"),
        (pl.col("consent").fill_null(True) & pl.col("holdout").is_null()).alias("may_wait"),
    )


def _segment(state: State, index: pl.DataFrame, people: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Wanted members (`member, person, tag, why, experiment, may_wait`), and how many wanted people per tag are not
    known (`tag, unresolved`)."""
    wanted = index.filter(pl.col("mode") != "remove_only").select("tag", "key")
    named = state.tags.select("one_id", "key").join(wanted, on="key")
    numbered = named.join(people.select("one_id", "person"), on="one_id", how="left")
    unresolved = (
        numbered.filter(pl.col("person").is_null())
        .unique(["one_id", "tag"])
        .group_by("tag")
        .agg(pl.len().cast(pl.Int64).alias("unresolved"))
    )
    member = (
        numbered.filter(pl.col("person").is_not_null())
        .select((pl.col("person") * TAG_SPAN + pl.col("tag")).alias("member"))
        .unique()
        .sort("member")
        .with_columns((pl.col("member") // TAG_SPAN).alias("person"), (pl.col("member") % TAG_SPAN).alias("tag"))
    )
    facts = people.select("why", pl.col("holdout").alias("experiment"), "may_wait")
    segment = pl.concat([member, facts[member["person"]]], how="horizontal")
    return _with_experiments(segment, state, index, people), unresolved


def _with_experiments(segment: pl.DataFrame, state: State, index: pl.DataFrame, people: pl.DataFrame) -> pl.DataFrame:
    """Members that an experiment on their tag's group holds back, where nothing before it in the order does."""
    scopes = [(name, group) for name, groups in state.experiments.items() for group in sorted(groups)]
    scope = pl.DataFrame(scopes, schema={"experiment": pl.String, "group": pl.String}, orient="row")
    if scope.is_empty():
        return segment
    held = (
        state.control.join(scope, on="experiment")
        .join(index.select("tag", "group"), on="group")
        .join(people.select("one_id", "person"), on="one_id")
        .group_by((pl.col("person") * TAG_SPAN + pl.col("tag")).alias("member"))
        .agg(pl.col("experiment").min().alias("held_by"))
    )
    return (
        segment.join(held, on="member", how="left", maintain_order="left")
        .with_columns(
            pl.when(pl.col("why").is_null() & pl.col("held_by").is_not_null())
            .then(pl.lit(FATE["control"], dtype=pl.Int8))
            .otherwise("why")
            .alias("why"),
            pl.coalesce("experiment", "held_by").alias("experiment"),
            (pl.col("may_wait") & pl.col("held_by").is_null()).alias("may_wait"),
        )
        .drop("held_by")
    )


def _rules(groups: Sequence[GroupSpec]) -> list[tuple[str, int]]:
    return sorted({(group.fan_out, group.cap) for group in groups})


def _rule_name(fan_out: str, cap: int) -> str:
    return f"carries:{fan_out}:{cap}"


def _targets(
    segment: pl.DataFrame, relations: pl.DataFrame, groups: Sequence[GroupSpec], index: pl.DataFrame
) -> pl.DataFrame:
    """Wanted pairs (`pair, rel, tag, member`) of members nothing excludes, by each group's fan-out policy and cap."""
    free = segment.filter(pl.col("why").is_null()).select("member", "person", "tag")
    parts = []
    for fan_out, cap in _rules(groups):
        rule = (pl.col("fan_out") == fan_out) & (pl.col("cap") == cap) & (pl.col("mode") != "remove_only")
        tags = index.filter(rule).select("tag")
        chosen = _chosen(relations, fan_out, cap).select("person", "rel")
        parts.append(free.join(tags, on="tag", how="semi").join(chosen, on="person"))
    empty = free.head(0).join(relations.select("person", "rel").head(0), on="person")
    pairs = pl.concat([empty, *parts])
    return pairs.select((pl.col("rel") * TAG_SPAN + pl.col("tag")).alias("pair"), "rel", "tag", "member")


def _chosen(relations: pl.DataFrame, fan_out: str, cap: int) -> pl.DataFrame:
    """Relations that carry the tags under a policy, the newest first up to *cap* per person."""
    usable = relations.filter(pl.col("usable"))
    if fan_out == "latest_contact":
        cap = 1
    elif fan_out == "owner":
        usable = usable.filter(pl.col("userid") == pl.col("owner_userid"))
    elif fan_out == "store":
        usable = usable.filter(pl.col("staff_store") == pl.col("store_id"))
    crowded = usable.group_by("person").len().filter(pl.col("len") > cap).select("person")
    if crowded.is_empty():
        return usable
    ranked = (
        usable.join(crowded, on="person", how="semi")
        .sort("person", "added_at", "rel", descending=[False, True, True], nulls_last=True)
        .group_by("person", maintain_order=True)
        .head(cap)
    )
    return pl.concat([usable.join(crowded, on="person", how="anti"), ranked.select(usable.columns)])


def _base_pairs(relations: pl.DataFrame, index: pl.DataFrame) -> pl.DataFrame:
    """Managed pairs as last read (`pair, rel, tag`), on relations we may touch."""
    ids = index.filter(pl.col("tag_id").is_not_null()).select("tag", "tag_id")
    return (
        relations.filter(pl.col("usable"))
        .select("rel", pl.col("tag_ids").alias("tag_id"))
        .explode("tag_id", empty_as_null=True)
        .join(ids, on="tag_id")
        .select((pl.col("rel") * TAG_SPAN + pl.col("tag")).alias("pair"), "rel", "tag")
        .unique("pair")
    )


def _resting(relations: pl.DataFrame, state: State, index: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Pairs (`pair`) nothing may change: frozen by people, and of people who flip."""
    keys = index.select("tag", "key")
    pair = (pl.col("rel") * TAG_SPAN + pl.col("tag")).alias("pair")
    pairs = relations.select("rel", "userid", "external_userid", "one_id")
    frozen = state.frozen.join(pairs, on=["userid", "external_userid"]).join(keys, on="key").select(pair).unique()
    churned = state.churn_held.join(pairs, on="one_id").join(keys, on="key").select(pair).unique()
    return frozen, churned


def _missing(
    targets: pl.DataFrame, base: pl.DataFrame, index: pl.DataFrame, frozen: pl.DataFrame, churned: pl.DataFrame
) -> pl.DataFrame:
    """Wanted pairs that are not there, with their fate (`pair, rel, tag, member, fate`): planned unless something holds
    the pair."""
    missing = targets.join(base.select("pair"), on="pair", how="anti")
    fate = pl.lit(FATE["planned"], dtype=pl.Int8)
    for pairs, name in ((churned, "churn_held"), (frozen, "frozen")):
        if pairs.height:
            missing = missing.join(pairs.with_columns(pl.lit(True).alias(name)), on="pair", how="left")
            fate = pl.when(pl.col(name)).then(pl.lit(FATE[name], dtype=pl.Int8)).otherwise(fate)
    enriching = index.filter(pl.col("mode") == "enrich_only").select("tag", "group")
    if enriching.height:
        having = base.join(index.select("tag", "group"), on="tag").select("rel", "group").unique()
        missing = missing.join(enriching, on="tag", how="left").join(
            having.with_columns(has=pl.lit(True)), on=["rel", "group"], how="left"
        )
        first = pl.col("group").is_not_null() & pl.col("has").is_null()
        fate = pl.when(first).then(pl.lit(FATE["not_enriched"], dtype=pl.Int8)).otherwise(fate)
    return missing.with_columns(fate.alias("fate")).select("pair", "rel", "tag", "member", "fate")


def _removes(
    targets: pl.DataFrame,
    base: pl.DataFrame,
    relations: pl.DataFrame,
    index: pl.DataFrame,
    consent: Consent,
    resting: pl.DataFrame,
) -> pl.DataFrame:
    """Managed pairs on the remote side that nobody wants any more (`rel, tag`)."""
    removing = index.filter(pl.col("mode") != "add_only").select("tag")
    leaving = relations.filter(pl.col("one_id").str.starts_with(FORGOTTEN)).select("rel")
    unwanted = (
        base.join(targets.select("pair"), on="pair", how="anti")
        .join(removing, on="tag", how="semi")
        .join(resting, on="pair", how="anti")
    )
    unwanted = pl.concat([unwanted, base.join(leaving, on="rel", how="semi")]).unique("pair", maintain_order=True)
    if consent.on_withdrawal == "keep":
        unwanted = unwanted.join(relations.filter(~pl.col("consent")).select("rel"), on="rel", how="anti")
    return unwanted.select("rel", "tag")


def _ops(
    missing: pl.DataFrame, removes: pl.DataFrame, relations: pl.DataFrame, index: pl.DataFrame, max_ops: int | None
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Ops in sending order, and the relations (`rel`) they cover; past *max_ops* the rest is left for the next plan."""
    adds = missing.filter(pl.col("fate") == FATE["planned"]).select("rel", "tag")
    covered = pl.concat([adds.select("rel"), removes.select("rel")]).unique().sort("rel")
    if max_ops is not None:
        covered = covered.head(max_ops)
    listed = covered
    for name, pairs in (("add", adds), ("remove", removes)):
        chosen = pairs.join(covered, on="rel", how="semi").sort("rel", "tag")
        keyed = chosen.select("rel", index["key"].gather(chosen["tag"]).alias(name))
        listed = listed.join(keyed.group_by("rel", maintain_order=True).agg(pl.col(name)), on="rel", how="left")
    named = relations.select("rel", "userid", "external_userid", "one_id", pl.col("staff_store").alias("store_id"))
    ops = (
        listed.sort("rel")
        .with_columns(pl.col("add").fill_null([]), pl.col("remove").fill_null([]))
        .join(named, on="rel", how="left", maintain_order="left")
        .with_row_index("seq")
        .with_columns(pl.lit(1).alias("phase"))
    )
    return ops.select(pl.col(name).cast(dtype) for name, dtype in OPS_SCHEMA.items()), covered


def _member_fates(
    segment: pl.DataFrame, missing: pl.DataFrame, covered: pl.DataFrame, people: pl.DataFrame, index: pl.DataFrame
) -> pl.DataFrame:
    """One row per member of the segment (`tag, fate`) with exactly one number of `FATE`.

    A person with several relations is `planned` when any of them changes in this plan, and otherwise has the first
    reason of the order that holds one of them back.
    """
    in_plan = covered.with_columns(in_plan=pl.lit(True))
    left_over = pl.col("in_plan").is_null() & (pl.col("fate") == FATE["planned"])
    fate = pl.when(left_over).then(pl.lit(FATE["over_budget"], dtype=pl.Int8)).otherwise("fate")
    rank = pl.when(fate == FATE["planned"]).then(-1).otherwise(fate)
    judged = missing.join(in_plan, on="rel", how="left").group_by("member").agg(rank.min().alias("judged"))
    carried = segment.filter(pl.col("why").is_null()).select("person", "tag")
    names = index.select(pl.concat_str(pl.lit("carries"), "fan_out", pl.col("cap").cast(pl.String), separator=":"))
    rule = names.to_series().gather(carried["tag"])
    carries = pl.Series("carries", [False] * carried.height, dtype=pl.Boolean)
    for name in rule.unique().to_list():
        has = people[name].fill_null(False).gather(carried["person"])
        carries = carries | (has & (rule == name))
    free = segment.filter(pl.col("why").is_null()).select("member", "tag").with_columns(carries.alias("carries"))
    decided = (
        free.join(judged, on="member", how="left")
        .with_columns(
            pl.when(~pl.col("carries"))
            .then(FATE["no_target"])
            .when(pl.col("judged") == -1)
            .then(FATE["planned"])
            .when(pl.col("judged").is_not_null())
            .then(pl.col("judged"))
            .otherwise(FATE["unchanged"])
            .cast(pl.Int8)
            .alias("fate")
        )
        .select("tag", "fate")
    )
    excluded = segment.filter(pl.col("why").is_not_null()).select("tag", pl.col("why").alias("fate"))
    return pl.concat([decided, excluded])


def _tag_table(
    index: pl.DataFrame, fates: pl.DataFrame, unresolved: pl.DataFrame, base: pl.DataFrame, ops: pl.DataFrame
) -> pl.DataFrame:
    """Per tag: relations that have it now, gain it, lose it; and people of the segment by what becomes of them."""
    table = index.select("tag", "key", "group", "name")
    for name, frame in (("now", base), ("add", _exploded(ops, "add")), ("remove", _exploded(ops, "remove"))):
        on = "tag" if name == "now" else "key"
        table = table.join(frame.group_by(on).agg(pl.len().alias(name)), on=on, how="left")
    counted = fates.group_by("tag", "fate").len()
    for step in WATERFALL[1:]:
        column = counted.filter(pl.col("fate") == FATE[step]).select("tag", pl.col("len").alias(step))
        table = table.join(column, on="tag", how="left")
    table = table.join(unresolved, on="tag", how="left").with_columns(
        pl.col(name).fill_null(0).cast(pl.Int64) for name in ("now", "add", "remove", *WATERFALL)
    )
    return (
        table.with_columns(
            (pl.col("now") + pl.col("add") - pl.col("remove")).alias("after"),
            pl.sum_horizontal(WATERFALL).alias("segment"),
        )
        .sort("tag")
        .select("key", "group", "name", "now", "add", "remove", "after", "segment", *WATERFALL)
    )


def _exploded(ops: pl.DataFrame, side: str) -> pl.DataFrame:
    return ops.select(pl.col(side).alias("key")).explode("key", empty_as_null=True).filter(pl.col("key").is_not_null())
