"""Reading what a plan needs: tags, relations and people from a published version, the rest from the ledger."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import polars as pl

from cdp.sync.changes import RELATIONS_SCHEMA, State
from cdp.sync.config import GroupMode, GroupRule, SyncConfig, parse_duration
from cdp.sync.control import control_people
from cdp.sync.gates import Evidence
from cdp.sync.model import GroupSpec, RegisteredTag, Remote, TagSpec
from cdp.sync.plan import Inputs, canonical
from cdp.tags.config import TagsConfig
from warehouse.erasure_sync import farewells
from warehouse.home import Home
from warehouse.sync_ledger import SyncLedger

# Higher shows first. Counted down from here, so that one more at the end leaves the others where they are.
ORDER_TOP = 10_000
# one_id and tag of those who went in and out too often, and how often
FLAPPING_SCHEMA = pl.Schema({"one_id": pl.String, "key": pl.String, "flips": pl.Int64})
_NOT_A_RULE = {"id", "label", "description", "health", "write_back", "overrides", "consent_purpose"}
_MODES: dict[str, GroupMode] = {"replace_in_group": "mirror", "add_only": "add_only"}


def gather(
    home: Home,
    con: duckdb.DuckDBPyConnection,
    *,
    version: str,
    published_at: datetime,
    checks: Sequence[tuple[str, bool, str]],
    config: SyncConfig,
    tags: TagsConfig,
    ledger: SyncLedger,
    remote: Remote,
    corpid: str,
    now: datetime,
    timezone: str,
    author: str,
    canary: float | None = None,
) -> Inputs:
    """Everything `cdp.sync.plan.build_plan` needs, pinned. *con*: on the published version *version* of the marts.
    *checks*: (name, passed, severity) of that version. Reads only."""
    register = ledger.register()
    groups = group_specs(con, config, tags, register)
    relations = without_lost(
        base_relations(home, con, ledger, corpid, config.source, published_at),
        ledger.lost(since=now - parse_duration(config.retry_gone)),
    )
    wanted, flips = current_tags(con, groups), flapping(con, config, groups, now=now)
    everybody = people(con, config, barred=ledger.barred())
    relations, everybody = with_farewells(relations, everybody, farewells(home, ledger), now=now)
    state = State(
        tags=wanted,
        relations=relations,
        people=everybody,
        staff=staff(con, corpid),
        frozen=ledger.frozen(now=now),
        churn_held=flips.select("one_id", "key"),
        control=control_people(wanted["one_id"].unique().to_list(), config.control),
        visible=remote.staff,
        experiments={item.id: frozenset(item.groups) for item in config.control.experiments},
    )
    evidence = Evidence(checks=checks, loaded_at=loaded_at(home.landing_ledger, published_at), sizes=ledger.sizes())
    pins = {
        "version": version,
        "published_at": published_at.astimezone(UTC).isoformat(),
        "tags": digest(tags.model_dump(mode="json")),
        "sync": digest(config.model_dump(mode="json")),
        "register": digest([[tag.key, tag.tag_id, tag.state, tag.name] for tag in register]),
        "base": digest_frame(relations),
    }
    return Inputs(
        config=config,
        groups=groups,
        register=register,
        remote=remote,
        state=state,
        evidence=evidence,
        pins=pins,
        now=now,
        timezone=timezone,
        author=author,
        call_ms=ledger.call_ms(),
        canary=canary,
        intended_groups=ledger.intended_groups(),
        flapping=flapping_tags(flips, tags),
    )


def group_specs(
    con: duckdb.DuckDBPyConnection, config: SyncConfig, tags: TagsConfig, register: Sequence[RegisteredTag]
) -> tuple[GroupSpec, ...]:
    """The tag groups that are written to WeCom. Values come from the declaration; where a group takes its values from
    the data, those of today and those registered before (a value nobody has today is not retired)."""
    sent = tags.write_back
    specs = []
    for position, (group, target) in enumerate(sent.items()):
        declared = list(tags.group(group).declared_values)
        values = declared or _open_values(con, group, register)
        names = config.groups[group].names if group in config.groups else {}
        ordered = [(value, ORDER_TOP - place if declared else 0) for place, value in enumerate(values)]
        specs.append(
            GroupSpec(
                key=group,
                name=target.group,
                order=ORDER_TOP - position,
                tags=tuple(
                    TagSpec(f"{group}/{value}", group, value, names.get(value, value), order)
                    for value, order in ordered
                ),
                **group_rule(config, group, _MODES[target.mode]),
            )
        )
    return tuple(specs)


def policies(config: SyncConfig, tags: TagsConfig) -> tuple[GroupSpec, ...]:
    """The groups that are sent, with their rules but without their tags: enough to judge drift."""
    return tuple(
        GroupSpec(key=group, name=target.group, order=0, tags=(), **group_rule(config, group, _MODES[target.mode]))
        for group, target in tags.write_back.items()
    )


def _open_values(con: duckdb.DuckDBPyConnection, group: str, register: Sequence[RegisteredTag]) -> list[str]:
    rows = con.execute("select distinct value from marts.fct_tags_current where tag_group = ?", [group]).fetchall()
    known = {tag.value for tag in register if tag.group == group and tag.state == "active"}
    return sorted({row[0] for row in rows if row[0]} | known)


def group_rule(config: SyncConfig, group: str, mode: GroupMode) -> dict[str, Any]:
    """How *group* is written, as fields of `GroupSpec`: its own settings over the brand's. *mode*: of `tags.yaml`."""
    rule, default = config.groups.get(group, GroupRule()), config.defaults
    gates = rule.gates.over(config.gates) if rule.gates else config.gates
    return {
        "mode": rule.mode or (mode if default.mode == "mirror" else default.mode),
        "fan_out": rule.fan_out or default.fan_out,
        "cap": rule.cap or default.cap,
        "drift": rule.drift or default.drift,
        "freeze_days": rule.freeze_days or default.freeze_days,
        "gates": gates,
        "tag_gates": {value: own.over(gates) for value, own in rule.tag_gates.items()},
    }


def current_tags(con: duckdb.DuckDBPyConnection, groups: Sequence[GroupSpec]) -> pl.DataFrame:
    """`one_id, key` of the managed tags people have now."""
    keys = [tag.key for group in groups for tag in group.tags]
    frame = _frame(
        con,
        "select one_id, tag_group || '/' || value as key from marts.fct_tags_current"
        " where list_contains(?, tag_group) order by all",
        [[group.key for group in groups]],
    )
    return frame.filter(pl.col("key").is_in(keys)).cast({"one_id": pl.String, "key": pl.String})


def people(con: duckdb.DuckDBPyConnection, config: SyncConfig, *, barred: Iterable[str]) -> pl.DataFrame:
    """`one_id, consent, store_id, owner_userid` of everyone; *consent* is whether they may be tagged."""
    columns = _columns(con, "dim_people")
    owner = "owner_userid" if "owner_userid" in columns else "cast(null as varchar)"
    frame = _frame(
        con,
        "select cast(one_id as varchar) as one_id, consent_marketing as said, cast(store_id as varchar) as store_id,"
        f" {owner} as owner_userid from marts.dim_people order by one_id",
    )
    said = pl.col("said").cast(pl.Boolean)
    allowed = {
        "not_refused": said.fill_null(True),
        "explicit": said.fill_null(False),
        "ignore": pl.lit(True),
    }[config.consent.require]
    never = sorted({*config.consent.excluded, *barred})
    return frame.select(
        pl.col("one_id"),
        (allowed & ~pl.col("one_id").is_in(never)).alias("consent"),
        pl.col("store_id").cast(pl.String),
        pl.col("owner_userid").cast(pl.String),
    )


def staff(con: duckdb.DuckDBPyConnection, corpid: str) -> pl.DataFrame:
    """`userid, store_id` of the corp's staff."""
    frame = _frame(
        con,
        "select userid, cast(max(store_id) as varchar) as store_id from marts.dim_staff"
        " where corpid = ? or corpid is null or corpid = '' group by userid order by userid",
        [corpid],
    )
    return frame.cast({"userid": pl.String, "store_id": pl.String})


def base_relations(
    home: Home, con: duckdb.DuckDBPyConnection, ledger: SyncLedger, corpid: str, source: str, published_at: datetime
) -> pl.DataFrame:
    """Relations (`RELATIONS_SCHEMA`) with their tags as last read: by the version's newest pull, or by us since."""
    frame = published_relations(home, con, corpid, source, published_at)
    ours = ledger.reads().rename({"tag_ids": "our_tags", "read_at": "our_read"})
    newer = pl.col("our_read").is_not_null() & (pl.col("read_at").is_null() | (pl.col("our_read") >= pl.col("read_at")))
    return (
        frame.join(ours, on=["userid", "external_userid"], how="left", maintain_order="left")
        .with_columns(
            pl.when(newer).then("our_tags").otherwise("tag_ids").alias("tag_ids"),
            pl.when(newer).then("our_read").otherwise("read_at").alias("read_at"),
        )
        .select(*RELATIONS_SCHEMA)
    )


def without_lost(relations: pl.DataFrame, lost: pl.DataFrame) -> pl.DataFrame:
    """*relations* with those inactive that WeCom refused as gone (half relations show in reads, but take no tags),
    unless they were added again since."""
    gone = pl.col("lost_at").is_not_null() & (pl.col("added_at").is_null() | (pl.col("added_at") <= pl.col("lost_at")))
    return (
        relations.join(lost, on=["userid", "external_userid"], how="left", maintain_order="left")
        .with_columns(pl.col("is_active") & ~gone)
        .select(*RELATIONS_SCHEMA)
    )


def with_farewells(
    relations: pl.DataFrame, people: pl.DataFrame, leaving: Sequence[tuple[str, str, str, list[str]]], *, now: datetime
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """*relations* and *people* with those of forgotten people that still have tags of ours: wanted by nothing, they
    lose them. *leaving*: (userid, external_userid, one_id, tag ids)."""
    if not leaving:
        return relations, people
    rows = [(userid, customer, one_id, None, True, tags, now) for userid, customer, one_id, tags in leaving]
    here = pl.DataFrame(rows, schema=RELATIONS_SCHEMA, orient="row")
    nobody = here.select("one_id", consent=pl.lit(True), store_id=pl.lit(None, pl.String),
                         owner_userid=pl.lit(None, pl.String)).unique("one_id", maintain_order=True)  # fmt: skip
    others = relations.join(here, on=["userid", "external_userid"], how="anti", maintain_order="left")
    return pl.concat([others, here]), pl.concat([people, nobody])


def published_relations(
    home: Home, con: duckdb.DuckDBPyConnection, corpid: str, source: str, published_at: datetime
) -> pl.DataFrame:
    """Relations (`RELATIONS_SCHEMA`) of the published version. One that a pull found unchanged is as fresh as that
    pull."""
    pulled = last_pull(home.landing_ledger, source, published_at)
    frame = _frame(
        con,
        "select userid, external_userid, cast(one_id as varchar) as one_id, added_at, is_active, tag_ids, read_at"
        " from marts.fct_relations where corpid = ? order by userid, external_userid",
        [corpid],
    )
    frame = frame.select(
        pl.col(name).cast(dtype) if name not in ("added_at", "read_at") else _utc(pl.col(name), frame.schema[name])
        for name, dtype in RELATIONS_SCHEMA.items()
    ).with_columns(pl.col("tag_ids").fill_null([]), pl.col("is_active").fill_null(True))
    if pulled is not None:
        frame = frame.with_columns(pl.max_horizontal("read_at", pl.lit(pulled).cast(RELATIONS_SCHEMA["read_at"])))
    return frame.select(*RELATIONS_SCHEMA)


def _utc(column: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """An instant column as microseconds UTC, whatever zone label the engine gave it."""
    if isinstance(dtype, pl.Datetime) and dtype.time_zone:
        return column.dt.convert_time_zone("UTC").cast(pl.Datetime("us", "UTC"))
    return column.cast(pl.Datetime("us")).dt.replace_time_zone("UTC")


def flapping(
    con: duckdb.DuckDBPyConnection, config: SyncConfig, groups: Sequence[GroupSpec], *, now: datetime
) -> pl.DataFrame:
    """People who went in and out of a value too often lately, and how often (`one_id, key, flips`); their tag stays as
    it is."""
    if "fct_tag_history" not in _tables(con):
        return pl.DataFrame(schema=FLAPPING_SCHEMA)
    since = now - timedelta(days=config.churn.days)
    frame = _frame(
        con,
        """
        with moves as (
            select one_id, tag_group, value, cast(valid_from as timestamptz) as moved_at
            from marts.fct_tag_history
            union all
            select one_id, tag_group, value, cast(valid_to as timestamptz) as moved_at
            from marts.fct_tag_history
        )

        select cast(one_id as varchar) as one_id, tag_group || '/' || value as key, count(*) as flips
        from moves
        where moved_at > ? and moved_at <= ? and list_contains(?, tag_group)
        group by one_id, tag_group, value
        having count(*) >= ?
        order by all
        """,
        [since, now, [group.key for group in groups], config.churn.flips],
    )
    return frame.cast(FLAPPING_SCHEMA)


def flapping_tags(flips: pl.DataFrame, tags: TagsConfig) -> tuple[dict[str, Any], ...]:
    """Tags people keep entering and leaving, the worst first: `key, people, flips` (the most of one person), and the
    `rule` that decides who has the tag, so that whoever declared it can widen its edge."""
    counted = flips.group_by("key").agg(pl.len().alias("people"), pl.col("flips").max())
    rows = counted.sort("people", "key", descending=[True, False]).select("key", "people", "flips").to_dicts()
    return tuple({**row, "rule": tag_rule(tags, row["key"])} for row in rows)


def tag_rule(tags: TagsConfig, key: str) -> str:
    """What `config/tags.yaml` says about who has the tag *key*: its rule, else the fields its group is cut by."""
    name, value = key.split("/", 1)
    facts = tags.group(name).model_dump(mode="json", exclude_defaults=True, exclude=_NOT_A_RULE)
    rules = facts.pop("rules", {})
    if value in rules:
        return str(rules[value])
    return ", ".join(f"{field}: {json.dumps(fact, ensure_ascii=False)}" for field, fact in facts.items())


def loaded_at(landing: Path, until: datetime) -> dict[str, datetime]:
    """Newest load of each stream up to *until*, as `stream` and as `source.stream`; empty without a landing ledger."""
    found: dict[str, datetime] = {}
    for source, stream, at in _landing_rows(landing, "select source, stream, loaded_at from batches"):
        moment = _instant(at)
        if moment <= until:
            for name in (stream, f"{source}.{stream}"):
                found[name] = max(moment, found.get(name, moment))
    return found


def last_pull(landing: Path, source: str, until: datetime) -> datetime | None:
    """When the relations in the published version were last pulled."""
    return loaded_at(landing, until).get(f"{source}.relations")


def _landing_rows(landing: Path, sql: str) -> list[tuple[Any, ...]]:
    if not landing.is_file():
        return []
    con = sqlite3.connect(f"file:{landing}?mode=ro", uri=True)
    try:
        return con.execute(sql).fetchall()
    finally:
        con.close()


def _instant(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def digest(value: Any) -> str:
    """A short fingerprint of a JSON value."""
    return hashlib.sha256(canonical(json.loads(json.dumps(value, default=str)))).hexdigest()[:16]


def digest_frame(relations: pl.DataFrame) -> str:
    """A fingerprint of the base: relations, tags and read times."""
    joined = relations.select(
        pl.concat_str(
            [
                *(pl.col(name).fill_null("") for name in ("userid", "external_userid", "one_id")),
                pl.col("tag_ids").list.join(","),
                pl.col("read_at").dt.epoch("us").cast(pl.String).fill_null(""),
                pl.col("is_active").cast(pl.String),
            ],
            separator="\x1f",
        ).alias("line")
    )
    hasher = hashlib.sha256()
    for line in joined["line"].sort():
        hasher.update(line.encode())
        hasher.update(b"\n")
    return hasher.hexdigest()[:16]


def _frame(con: duckdb.DuckDBPyConnection, sql: str, parameters: Sequence[Any] = ()) -> pl.DataFrame:
    found = pl.from_arrow(con.sql(sql, params=list(parameters) or None).to_arrow_table())
    return found if isinstance(found, pl.DataFrame) else found.to_frame()


def _tables(con: duckdb.DuckDBPyConnection) -> set[str]:
    rows = con.execute("select table_name from information_schema.tables where table_schema = 'marts'").fetchall()
    return {row[0] for row in rows}


def _columns(con: duckdb.DuckDBPyConnection, table: str) -> set[str]:
    rows = con.execute(
        "select column_name from information_schema.columns where table_schema = 'marts' and table_name = ?", [table]
    ).fetchall()
    return {row[0] for row in rows}
