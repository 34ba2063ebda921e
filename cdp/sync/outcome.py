"""What became of ops, and what others changed: expected against read back. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from cdp.sync.ledger import Moved, Op, Read

Pair = tuple[str, str]


@dataclass(frozen=True)
class Drift:
    """One managed tag that is not as we left it. *direction*: `added` or `removed` by somebody; *by*: `staff` when a
    callback says so, else `not by us`."""

    userid: str
    external_userid: str
    key: str
    direction: Literal["added", "removed"]
    by: str


def judge(
    ops: Iterable[Op], found: Mapping[Pair, frozenset[str]], ids: Mapping[str, str], changed_by_hand: frozenset[Pair]
) -> list[Moved]:
    """Outcome of each acked op. *found*: tag ids per relation as read back; *ids*: tag key -> id.

    `verified`: every add is there and every remove is not. `gone`: no such relation. `human_changed`: not as wanted,
    and a callback says that somebody edited the relation. `gap`: not as wanted although WeCom answered 0.
    """
    moves = []
    for op in ops:
        pair = (op.userid, op.external_userid)
        held = found.get(pair)
        if held is None:
            moves.append(Moved(op.seq, "gone", None, "no such relation any more"))
            continue
        missing = [key for key in op.add if key in ids and ids[key] not in held]
        left = [key for key in op.remove if key in ids and ids[key] in held]
        if not missing and not left:
            moves.append(Moved(op.seq, "verified"))
        else:
            what = ", ".join([*(f"+{key}" for key in missing), *(f"-{key}" for key in left)])
            moves.append(Moved(op.seq, "human_changed" if pair in changed_by_hand else "gap", None, what))
    return moves


def find_drift(
    expected: Mapping[Pair, frozenset[str]],
    found: Mapping[Pair, frozenset[str]],
    keys: Mapping[str, str],
    changed_by_hand: frozenset[Pair],
) -> list[Drift]:
    """Differences in managed tags (*keys*: id -> key) on relations known before and still there, sorted."""
    drift = []
    for pair in sorted(expected.keys() & found.keys()):
        before = {tag for tag in expected[pair] if tag in keys}
        after = {tag for tag in found[pair] if tag in keys}
        by = "staff" if pair in changed_by_hand else "not by us"
        drift += [Drift(*pair, keys[tag], "removed", by) for tag in sorted(before - after)]
        drift += [Drift(*pair, keys[tag], "added", by) for tag in sorted(after - before)]
    return drift


def reads_of(rows: Iterable[Mapping[str, object]]) -> list[Read]:
    """Rows of `batch/get_by_user` as reads; rows without ids are left out."""
    reads = []
    for row in rows:
        contact, follow = row.get("external_contact"), row.get("follow_info")
        if isinstance(contact, Mapping) and isinstance(follow, Mapping):
            customer, userid = contact.get("external_userid"), follow.get("userid")
            if customer and userid:
                tags = tuple(sorted(str(tag) for tag in follow.get("tag_id") or ()))
                reads.append(Read(str(userid), str(customer), tags))
    return reads
