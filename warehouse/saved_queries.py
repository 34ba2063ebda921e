"""Saved queries: `config/queries/<name>.yaml`, reviewed like code; what viewers, who write no SQL, may run.

A query that viewers may run names the columns that count people. Counts under five come back as `< 5`, and the other
numbers of such a row are left out: an amount of three people tells too much about each of them.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

import polars as pl
import pyarrow as pa
from pydantic import Field

from cdp.config import Strict, nearest, parse
from cdp.errors import ConfigError
from warehouse.guard import RefusedError
from warehouse.home import Home
from warehouse.query import QueryResult, Role, answer

SMALL = 5
# Columns that name one person or one act of a person, under the names that marts give them.
_PERSONAL = frozenset(
    (
        *("one_id", "current_one_id", "recorded_one_id", "inviter_one_id", "invitee_one_id", "referred_by_one_id"),
        *("member_id", "external_userid", "order_key", "order_id", "order_line_key", "refund_key", "event_key"),
        *("relation_key", "membership_key", "touch_key", "referral_key", "name", "name_masked", "phone_masked"),
        *("phone", "email", "birthday", "event_keys"),
    )
)


class SavedQuery(Strict):
    """One file of `config/queries/`."""

    description: str = Field(description="what it answers, in Chinese and English")
    owner: str = Field(description="who answers for it")
    sql: str = Field(description="one SELECT over published tables")
    counts: list[str] = Field(
        default_factory=list, description="columns that count people; naming them lets viewers run the query"
    )


def saved_queries(home: Home) -> dict[str, SavedQuery]:
    """Every saved query of *home* by name. Raises one `ConfigError` that lists all faults with file and line."""
    found, faults = {}, []
    for path in sorted((home.config / "queries").glob("*.yaml")):
        try:
            found[path.stem] = parse(path.read_text(encoding="utf-8"), SavedQuery, file=str(path))
        except ConfigError as error:
            faults.append(error.message)
    if faults:
        raise ConfigError("\n".join(faults), hint="mend the lines above")
    return found


def run_saved(
    home: Home,
    name: str,
    *,
    role: Role = "analyst",
    limit: int | None = 1_000,
    timeout_s: float = 60,
    purpose: str | None = None,
    version: str | None = None,
    now: datetime | None = None,
) -> QueryResult:
    """Run the saved query *name*. Viewers get it with small counts hidden, and only where it names its counts.

    Raises `ConfigError` for an unknown name, `RefusedError` where a viewer may not run it, else as `run_query`.
    """
    known = saved_queries(home)
    if name not in known:
        raise ConfigError(
            f"no saved query is called `{name}`{nearest(name, list(known))}", hint="they lie in config/queries/"
        )
    query = known[name]
    if role == "viewer" and not query.counts:
        raise RefusedError(
            f"`{name}` is not for viewers", hint=f"its owner ({query.owner}) may name its `counts:`, if it holds totals"
        )
    result = answer(
        home, query.sql, limit=limit, timeout_s=timeout_s, role=role, purpose=purpose, version=version, now=now
    )
    return replace(result, table=_for_viewers(name, query, result.table)) if role == "viewer" else result


def _for_viewers(name: str, query: SavedQuery, table: pa.Table) -> pa.Table:
    columns = table.column_names
    missing = [column for column in query.counts if column not in columns]
    if missing:
        raise ConfigError(f"config/queries/{name}.yaml: `counts` names `{missing[0]}`{nearest(missing[0], columns)}")
    personal = sorted(_PERSONAL.intersection(columns))
    if personal:
        raise RefusedError(f"`{name}` returns `{personal[0]}`, which names one person", hint="viewers get totals only")
    return hide_small_counts(table, query.counts)


def hide_small_counts(table: pa.Table, counts: list[str]) -> pa.Table:
    """*table* with counts under `SMALL` as text `< 5` and the other numbers of their rows as null."""
    frame = pl.DataFrame(table)
    small = pl.any_horizontal(pl.col(column) < SMALL for column in counts)
    others = [column for column, kind in frame.schema.items() if kind.is_numeric() and column not in counts]
    hidden = frame.with_columns(
        *(
            pl.when(pl.col(name) < SMALL).then(pl.lit(f"< {SMALL}")).otherwise(pl.col(name).cast(pl.String)).alias(name)
            for name in counts
        ),
        *(pl.when(small).then(None).otherwise(pl.col(name)).alias(name) for name in others),
    )
    return hidden.to_arrow()
