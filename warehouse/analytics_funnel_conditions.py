"""What a funnel reads of the journey, as SQL: its conditions, the events that can matter to it, its version."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import sqlglot
from sqlglot import exp

from cdp.funnels.config import Funnel
from warehouse.analytics_common import quoted

_NAMES = "event_name"
# Properties of business events that conditions may name like columns.
DERIVED = {"is_new": "boolean", "state": "text", "staff_userid": "text", "chat_id": "text", "appid": "text"}
_PROPERTY = {"staff_userid": "userid"}
# Where the value of a breakdown comes from; any other place is an event of the journey.
BREAKDOWN_TABLES = {"person": "dim_people", "first_touch": "fct_touches", "last_touch": "fct_touches"}


def version_of(funnel: Funnel) -> str:
    """Twelve hex digits that change whenever the definition changes (labels and owner aside)."""
    body = funnel.model_dump(mode="json", by_alias=True, exclude={"label", "description", "owner"})
    return hashlib.sha256(json.dumps(body, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:12]


def with_properties(condition: str) -> str:
    """*condition* with `properties.name`, and the named properties of business events, read from the JSON column."""
    return _read_properties(condition).sql(dialect="duckdb")


def _read_properties(condition: str) -> exp.Expr:
    tree = sqlglot.parse_one(condition, dialect="duckdb")

    def read(node: exp.Expr) -> exp.Expr:
        if not isinstance(node, exp.Column):
            return node
        name = (
            node.name if node.table == "properties" else node.name if node.name in DERIVED and not node.table else None
        )
        if name is None:
            return node
        found = f"json_extract_string(properties, '$.{_PROPERTY.get(name, name)}')"
        if DERIVED.get(name) == "boolean":
            found = f"coalesce({found} = 'true', false)"
        return sqlglot.parse_one(found, dialect="duckdb")

    return tree.transform(read)


def matches(events: Sequence[str], where: str | None) -> str:
    """A condition: an event is one of *events* and fits *where*."""
    where = with_properties(where) if where else None
    names = ", ".join(quoted(name) for name in events)
    condition = f"{_NAMES} in ({names})"
    return f"{condition} and ({where})" if where else condition


def events_read(funnel: Funnel) -> set[str] | None:
    """Names of the events that can matter; None: any. An adjacent funnel sees its whole universe (every event when none
    is declared)."""
    names = {name for step in funnel.steps for name in step.events} | {n for e in funnel.exclude for n in e.events}
    if funnel.order == "adjacent":
        return names | set(funnel.universe) if funnel.universe else None
    return names


def named(names: set[str] | None) -> str:
    """The condition that an event is one of *names*."""
    return f"{_NAMES} in ({', '.join(quoted(name) for name in sorted(names))})" if names is not None else "true"


def columns_read(funnel: Funnel) -> set[str]:
    """Columns of the journey that the funnel reads, in lower case; names of hold keys that are no columns are among
    them."""
    found = {"event_key", "one_id", "event_name", "event_at", *funnel.hold}
    found |= {column for step in funnel.steps for column in step.hold.values()}
    for condition in (*(step.where for step in funnel.steps), *(item.where for item in funnel.exclude)):
        if condition:
            found |= {column.name for column in _read_properties(condition).find_all(exp.Column)}
    if funnel.unit != "person":
        found.add(funnel.unit)
    if funnel.breakdown and funnel.breakdown.at not in BREAKDOWN_TABLES:
        found.add(funnel.breakdown.by)
    return {name.lower() for name in found}
