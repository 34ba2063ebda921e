"""New customers as they arrive: who they are among the people whose tags wait."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Protocol

from cdp.sync.pending import keys_of_contact
from connectors.wecom.client import WeComClient
from connectors.wecom.replies import WeComError


class Waiting(Protocol):
    """What is asked of the ledger."""

    def waiting_for(self, keys: Sequence[str], *, now: datetime) -> tuple[str, list[str]] | None: ...


def match_added(
    client: WeComClient,
    ledger: Waiting,
    added: Sequence[tuple[str, str, str]],
    secret: bytes,
    *,
    now: Callable[[], datetime],
) -> list[tuple[str, str, str, list[str]]]:
    """Relations of *added* `(userid, external_userid, at)` for whose customer tags wait: `(userid, external_userid,
    one_id, keys)`. Each customer is read once; one that is gone again is left out. Raises `WeComError`."""
    found = []
    for userid, customer in dict.fromkeys((userid, customer) for userid, customer, _ in added):
        try:
            reply = client.contact(customer)
        except WeComError as error:
            if error.kind != "DROP":
                raise
            continue
        follow = next((item for item in reply["follow_user"] if item.get("userid") == userid), None)
        if follow is None:
            continue
        person = ledger.waiting_for(keys_of_contact(reply["external_contact"], follow, secret), now=now())
        if person is not None:
            found.append((userid, customer, *person))
    return found
