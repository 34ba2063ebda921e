"""Tags that wait for a person to become a contact: found by keyed phone or unionid, never by the value itself. Pure."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import polars as pl

from cdp.identity.normalise import read_phone
from cdp.sync.changes import (
    CONTROL_SCHEMA,
    FROZEN_SCHEMA,
    PEOPLE_SCHEMA,
    RELATIONS_SCHEMA,
    STAFF_SCHEMA,
    TAGS_SCHEMA,
    Changes,
    State,
)
from cdp.sync.model import OPS_SCHEMA


def match_key(kind: str, value: str, secret: bytes) -> str:
    """HMAC-SHA256 of a normal form under the platform's key. *kind*: `phone` or `unionid`."""
    return hmac.new(secret, f"{kind}\0{value}".encode(), hashlib.sha256).hexdigest()


def keys_of_contact(contact: Mapping[str, Any], follow: Mapping[str, Any], secret: bytes) -> list[str]:
    """Match keys of a new relation: the customer's unionid, then the phones staff wrote down, strongest first."""
    keys = []
    if contact.get("unionid"):
        keys.append(match_key("unionid", str(contact["unionid"]), secret))
    for text in follow.get("remark_mobiles") or ():
        phone = read_phone(str(text))
        if phone is not None:
            keys.append(match_key("phone", phone, secret))
    return keys


def pending_ops(found: Iterable[tuple[str, str, str, Sequence[str]]]) -> pl.DataFrame:
    """Ops (`OPS_SCHEMA`) that put waiting tags on new relations `(userid, external_userid, one_id, keys)`."""
    rows: list[tuple[object, ...]] = [
        (0, 1, userid, customer, one_id, None, sorted(keys), []) for userid, customer, one_id, keys in found if keys
    ]
    frame = pl.DataFrame(rows, schema=OPS_SCHEMA, orient="row").sort("userid", "external_userid")
    return frame.with_columns(pl.int_range(pl.len(), dtype=pl.Int64).alias("seq"))


def empty_state() -> State:
    """A state that knows nothing: a pending plan stands on the ledger, not on a version."""
    return State(
        tags=pl.DataFrame(schema=TAGS_SCHEMA),
        relations=pl.DataFrame(schema=RELATIONS_SCHEMA),
        people=pl.DataFrame(schema=PEOPLE_SCHEMA),
        staff=pl.DataFrame(schema=STAFF_SCHEMA),
        frozen=pl.DataFrame(schema=FROZEN_SCHEMA),
        churn_held=pl.DataFrame(schema=TAGS_SCHEMA),
        control=pl.DataFrame(schema=CONTROL_SCHEMA),
        visible=frozenset(),
    )


def only_ops(ops: pl.DataFrame, tags: pl.DataFrame) -> Changes:
    """Changes that consist of ops alone: nobody held back, nobody waiting."""
    nobody = pl.DataFrame(schema={"one_id": pl.String, "experiment": pl.String, "key": pl.String})
    return Changes(ops, tags, nobody, nobody.select("one_id", "key"))
