"""What others changed: reads compared with what we last left, and each group's policy for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import polars as pl

from cdp.sync.ledger import Read
from cdp.sync.model import GroupSpec
from cdp.sync.outcome import Drift, Pair, find_drift
from warehouse.sync_ledger import SyncLedger

_FOREVER = datetime(9999, 12, 31, tzinfo=UTC)


@dataclass(frozen=True)
class DriftReport:
    """*drift*: what was found now; *new*: how much of it was not known; *frozen*: pairs put to rest because of it."""

    drift: tuple[Drift, ...]
    new: int
    frozen: int


def from_version(
    ledger: SyncLedger, relations: pl.DataFrame, groups: Sequence[GroupSpec], *, now: datetime
) -> DriftReport:
    """Drift that a pull saw. *relations*: `userid, external_userid, tag_ids, read_at` of the published version; only
    rows read later than our last read-back tell anything."""
    ours = ledger.reads().rename({"tag_ids": "our_tags", "read_at": "our_read"})
    changed = (
        relations.join(ours, on=["userid", "external_userid"])
        .filter(pl.col("read_at") > pl.col("our_read"))
        .filter(pl.col("tag_ids").list.sort() != pl.col("our_tags").list.sort())
    )
    expected: dict[Pair, frozenset[str]] = {}
    found: dict[Pair, frozenset[str]] = {}
    for userid, customer, after, before in changed.select(
        "userid", "external_userid", "tag_ids", "our_tags"
    ).iter_rows():
        expected[userid, customer] = frozenset(before)
        found[userid, customer] = frozenset(after)
    return note(ledger, expected, found, groups, now=now)


def from_reads(ledger: SyncLedger, reads: Iterable[Read], groups: Sequence[GroupSpec], *, now: datetime) -> DriftReport:
    """Drift that our own reading shows; then the reads are kept as the newest."""
    kept = list(reads)
    found = {(read.userid, read.external_userid): frozenset(read.tag_ids) for read in kept}
    expected = ledger.reads_of(sorted({read.userid for read in kept}))
    report = note(ledger, expected, found, groups, now=now)
    ledger.save_reads(kept, now=now)
    return report


def note(
    ledger: SyncLedger,
    expected: Mapping[Pair, frozenset[str]],
    found: Mapping[Pair, frozenset[str]],
    groups: Sequence[GroupSpec],
    *,
    now: datetime,
) -> DriftReport:
    """Record differences and carry out the policy of each tag's group: `ours` restores with the next plan, `human_wins`
    rests the pair for the group's days, `report` rests it until it is released. Pairs we are writing are left out."""
    keys = {tag.tag_id: tag.key for tag in ledger.register() if tag.state == "active"}
    busy = ledger.unsettled()
    settled = {pair: tags for pair, tags in expected.items() if pair not in busy}
    drift = find_drift(settled, found, keys, ledger.hinted_after_reads())
    policies = {group.key: group for group in groups}
    rows, rests = [], []
    for item in drift:
        group = policies.get(item.key.split("/", 1)[0])
        policy = group.drift if group else "report"
        rows.append((item, policy))
        if group and policy == "human_wins":
            rests.append((item, now + timedelta(days=group.freeze_days)))
        elif policy == "report":
            rests.append((item, _FOREVER))
    new = ledger.save_drift(rows, rests, now=now)
    return DriftReport(tuple(drift), new, len(rests))


def summary(ledger: SyncLedger, *, since: datetime) -> list[dict[str, object]]:
    """Drift by employee, tag and direction since then, most first: where training would help."""
    rows = ledger.rows(
        "select userid, key, direction, by, count(*) as relations, max(seen_at) as last_seen from drift"
        " where seen_at >= ? group by userid, key, direction, by order by relations desc, userid, key, direction",
        (since.isoformat(),),
    )
    return [dict(row) for row in rows]
