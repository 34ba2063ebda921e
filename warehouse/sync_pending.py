"""Match keys of people whose tags wait, from the user ID graph; kept keyed, so that the ledger holds no phone."""

from __future__ import annotations

from datetime import datetime

import duckdb
import polars as pl

from cdp.errors import RetriableError
from cdp.sync.pending import match_key
from warehouse.connection import open_warehouse
from warehouse.home import Home
from warehouse.secrets import identity_secret
from warehouse.sync_ledger import SyncLedger


def refresh_keys(home: Home, ledger: SyncLedger, *, now: datetime, timezone: str) -> int | None:
    """Keep the keyed identifiers of everybody who waits; returns how many, or None when the warehouse is busy with a
    run: the keys of the last time then stay."""
    try:
        with open_warehouse(home, as_of=now, timezone=timezone, read_only=True, memory_limit="1GiB") as con:
            return remember_keys(con, ledger, identity_secret(home), now=now)
    except (RetriableError, duckdb.ConnectionException):
        return None


def remember_keys(con: duckdb.DuckDBPyConnection, ledger: SyncLedger, secret: bytes, *, now: datetime) -> int:
    """Write the keyed phones and unionids of everybody who waits into the ledger; returns how many keys. *con*: on the
    internal warehouse. Identifiers that may link nobody (family phones, relay numbers) are left out."""
    tables = con.execute(
        "select count(*) from information_schema.tables where table_schema = 'identity' and table_name = 'identity_map'"
    ).fetchall()
    if tables[0][0] == 0:
        return 0
    waiting = pl.DataFrame({"one_id": ledger.waiting(now=now)}, schema={"one_id": pl.String})
    con.register("waiting_people", waiting.to_arrow())
    rows = con.execute(
        """
        select distinct node.type, node.value_norm, identity_map.one_id
        from identity.identity_map
        join identity.node using (node_id)
        join waiting_people on waiting_people.one_id = identity_map.one_id
        where identity_map.run_to is null and node.type in ('phone', 'unionid') and node.barred is null
        order by all
        """
    ).fetchall()
    con.unregister("waiting_people")
    ledger.save_pending_keys((match_key(kind, value, secret), one_id) for kind, value, one_id in rows)
    return len(rows)
