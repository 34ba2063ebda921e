"""Who is held back so that lift can be measured: stable, per person, before any fan-out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import polars as pl

from cdp.sync.config import Control

GLOBAL = "holdout"
_SCALE = float(2**64)


def position(person: str, salt: str) -> float:
    """Where *person* falls in [0, 1) under *salt*: BLAKE2b of both, so it never changes and needs no table."""
    digest = hashlib.blake2b(person.encode(), key=salt.encode()[:64], digest_size=8).digest()
    return int.from_bytes(digest, "big") / _SCALE


def is_control(person: str, salt: str, share: float) -> bool:
    """Whether *person* is in control. Raising the treated share only moves people from control to treatment."""
    return position(person, salt) < share


def control_people(people: Iterable[str], control: Control) -> pl.DataFrame:
    """Control memberships: `one_id, experiment` (`holdout` for the global one), sorted.

    The arm hangs on the one_id alone. A merge of identities keeps the older one_id, and with it the older person's arm.
    """
    salts = ([(GLOBAL, control.salt, control.holdout)] if control.holdout else []) + [
        (item.id, item.salt, item.control) for item in control.experiments if item.control
    ]
    ordered = sorted(people)
    rows = [(person, name) for name, salt, share in salts for person in ordered if is_control(person, salt, share)]
    return pl.DataFrame(rows, schema={"one_id": pl.String, "experiment": pl.String}, orient="row")
