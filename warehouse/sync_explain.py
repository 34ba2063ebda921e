"""Why a person has a tag, or has it not, in WeCom: from the rule to the last read-back."""

from __future__ import annotations

import json
from typing import Any

import duckdb

from cdp.tags.config import TagsConfig
from warehouse.sync_ledger import SyncLedger


def explain(
    con: duckdb.DuckDBPyConnection, ledger: SyncLedger, tags: TagsConfig, person: str, key: str | None = None
) -> dict[str, Any]:
    """Everything that bears on *person* (a one_id, or an external_userid) and the tag *key* (`group/value`; all when
    None): rules, wanted tags, relations, ops with attempts and codes, reads, what holds it back. *con*: on a published
    version. Values are ids, counts, codes and times."""
    one_id = _one_id(con, person)
    relations = [
        dict(zip(("userid", "external_userid", "added_at", "is_active", "read_at"), row, strict=True))
        for row in con.execute(
            "select userid, external_userid, cast(added_at as varchar), is_active, cast(read_at as varchar)"
            " from marts.fct_relations where one_id = ? order by userid, external_userid",
            [one_id],
        ).fetchall()
    ]
    wanted = [
        f"{group}/{value}"
        for group, value in con.execute(
            "select tag_group, value from marts.fct_tags_current where one_id = ? order by all", [one_id]
        ).fetchall()
    ]
    sent = set(tags.write_back)
    return {
        "one_id": one_id,
        "identity": _identity(con, one_id),
        "wanted": [item for item in wanted if key is None or item == key],
        "rules": {
            group.id: group.model_dump(mode="json", exclude_defaults=True)
            for group in tags.tag_groups
            if group.id in sent and (key is None or key.startswith(f"{group.id}/"))
        },
        "relations": relations,
        "ops": _ops(ledger, relations, key),
        "reads": _reads(ledger, relations, key),
        "held_back": _held_back(ledger, one_id, relations, key),
    }


def _identity(con: duckdb.DuckDBPyConnection, one_id: str) -> dict[str, Any]:
    """What ties the person together: kinds and number of identifiers. The evidence for each link is personal and stays
    with `cdp identity explain`."""
    columns = {row[0] for row in con.execute("describe marts.dim_people").fetchall()}
    wanted = [
        name for name in ("identifier_types", "identifier_count", "first_seen_at", "last_seen_at") if name in columns
    ]
    rows = con.execute(
        f"select {', '.join(['one_id', *wanted])} from marts.dim_people where one_id = ?", [one_id]
    ).fetchall()
    facts = dict(zip(wanted, rows[0][1:], strict=True)) if rows else {}
    return {"known": bool(rows), **facts, "links": f"cdp identity explain {one_id}"}


def _one_id(con: duckdb.DuckDBPyConnection, person: str) -> str:
    found = con.execute(
        "select one_id from marts.fct_relations where external_userid = ? and one_id is not null limit 1", [person]
    ).fetchall()
    return str(found[0][0]) if found else person


def _ops(ledger: SyncLedger, relations: list[dict[str, Any]], key: str | None) -> list[dict[str, Any]]:
    found = []
    for relation in relations:
        rows = ledger.rows(
            "select plan_id, seq, add_keys, remove_keys, ops.state, attempt, code, ops.reason, ops.started_at, at"
            " from ops join runs using (run_id) where external_userid = ? and userid = ? order by run_id, seq",
            (relation["external_userid"], relation["userid"]),
        )
        for row in rows:
            add, remove = json.loads(row["add_keys"]), json.loads(row["remove_keys"])
            if key is None or key in add or key in remove:
                facts = {**dict(row), "add": add, "remove": remove, "userid": relation["userid"]}
                found.append({name: value for name, value in facts.items() if not name.endswith("_keys")})
    return found


def _reads(ledger: SyncLedger, relations: list[dict[str, Any]], key: str | None) -> list[dict[str, Any]]:
    names = {tag.tag_id: tag.key for tag in ledger.register()}
    found = []
    for relation in relations:
        for row in ledger.rows(
            "select * from reads where userid = ? and external_userid = ?",
            (relation["userid"], relation["external_userid"]),
        ):
            held = sorted(names[tag] for tag in json.loads(row["tag_ids"]) if tag in names)
            facts = {"userid": row["userid"], "read_at": row["read_at"], "holds": held}
            found.append(facts | ({"has_it": key in held} if key else {}))
    return found


def _held_back(
    ledger: SyncLedger, one_id: str, relations: list[dict[str, Any]], key: str | None
) -> list[dict[str, Any]]:
    """Reasons in the ledger: control group, waiting, forgotten, frozen by people."""
    found: list[dict[str, Any]] = []
    for reason, sql in (
        ("control", "select key, experiment, first_at from held_control where one_id = ?"),
        ("pending", "select key, state, expires_at from pending where one_id = ?"),
        ("forgotten", "select '' as key, at from tombstones where one_id = ?"),
    ):
        found += [{"reason": reason, **dict(row)} for row in ledger.rows(sql, (one_id,))]
    for relation in relations:
        rows = ledger.rows(
            "select key, userid, until, reason as why from frozen where userid = ? and external_userid = ?",
            (relation["userid"], relation["external_userid"]),
        )
        found += [{"reason": "frozen", **dict(row)} for row in rows]
    return [item for item in found if key is None or item["key"] in ("", key)]
