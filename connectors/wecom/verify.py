"""Reading back what was written: the read says what became of each op, and becomes the base of the next plan."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from cdp.sync.forecast import AGREEMENT_SAMPLE, sampled
from cdp.sync.ledger import Ledger, Moved, Op, Read
from cdp.sync.model import LIVE
from cdp.sync.outcome import judge, reads_of
from connectors.wecom.client import BATCH_STAFF, WeComClient
from connectors.wecom.replies import WeComError


@dataclass
class VerifyReport:
    """Outcomes of the acked ops of a run. *gaps*: (userid, external_userid, what is missing). *read*: relations read
    back. *untouched*: of these, relations no op touched. *disagree*: sampled customers where the single and the batch
    interface tell different tags."""

    verified: int = 0
    gap: int = 0
    gone: int = 0
    human_changed: int = 0
    read: int = 0
    untouched: int = 0
    disagree: int = 0
    gaps: list[tuple[str, str, str]] = field(default_factory=list)

    @property
    def outcome(self) -> str:
        """`VERIFIED`, or `VERIFIED_WITH_GAPS`."""
        return "VERIFIED_WITH_GAPS" if self.gap else "VERIFIED"


def read_staff(
    client: WeComClient, userids: Sequence[str], *, done: Callable[[int, int], None] | None = None
) -> Iterator[tuple[list[str], list[Read]]]:
    """Every relation of *userids*, staff list by staff list: (userids read, reads). Staff who left or went out of the
    app's sight are read one by one and left out. Raises `WeComError`."""
    ordered = sorted(set(userids))
    for start in range(0, len(ordered), BATCH_STAFF):
        part = ordered[start : start + BATCH_STAFF]
        try:
            yield part, reads_of(client.relations(part))
        except WeComError as error:
            if error.kind not in ("DROP", "ALERT") or error.errcode in (0, 48002, 60020):
                raise
            for userid in part:
                yield from _read_one(client, userid)
        if done is not None:
            done(min(start + BATCH_STAFF, len(ordered)), len(ordered))


def _read_one(client: WeComClient, userid: str) -> Iterator[tuple[list[str], list[Read]]]:
    try:
        yield [userid], reads_of(client.relations([userid]))
    except WeComError as error:
        if error.kind not in ("DROP", "ALERT") or error.errcode in (0, 48002, 60020):
            raise


def verify_ops(
    client: WeComClient,
    ledger: Ledger,
    run_id: int,
    *,
    now: Callable[[], datetime],
    since: datetime,
    phase: int | None = None,
    others: Sequence[str] = (),
    sample: float = 0.0,
    progress: Callable[[int, int], None] | None = None,
) -> VerifyReport:
    """Read back the staff of a run's acked ops, judge each op, and keep the reads as the next base.

    *since*: when the run began; callbacks after it mean somebody edited by hand. *others*: further employees, a share
    *sample* of whom (whole desks, chosen by hash) is read as well. Idempotent.
    """
    ops = list(ledger.ops(run_id, states=("acked", "verified", "gap", "human_changed"), phase=phase))
    staff = {op.userid for op in ops}
    report = VerifyReport()
    ids = {tag.key: tag.tag_id for tag in ledger.register() if tag.state in LIVE}
    by_staff: dict[str, list[Op]] = {}
    for op in ops:
        by_staff.setdefault(op.userid, []).append(op)
    extra = sampled([userid for userid in others if userid not in staff], sample)
    compared = {(op.userid, op.external_userid) for op in ops[:: max(1, len(ops) // AGREEMENT_SAMPLE)]}
    hinted = ledger.hinted(since)
    for userids, reads in read_staff(client, [*staff, *extra], done=progress):
        ledger.save_reads(reads, now=now())
        found = {(read.userid, read.external_userid): frozenset(read.tag_ids) for read in reads}
        report.disagree += sum(_disagrees(client, *pair, found[pair]) for pair in sorted(compared & found.keys()))
        mine = [op for userid in userids for op in by_staff.pop(userid, ())]
        moves = judge(mine, found, ids, hinted)
        ledger.settle(run_id, moves, now=now())
        _count(report, mine, moves, found)
    left = [op for ops_of in by_staff.values() for op in ops_of]
    gone = [Moved(op.seq, "gone", None, "the employee can no longer be read") for op in left]
    ledger.settle(run_id, gone, now=now())
    report.gone += len(gone)
    return report


def _count(
    report: VerifyReport, ops: Sequence[Op], moves: Sequence[Moved], found: dict[tuple[str, str], frozenset[str]]
) -> None:
    report.read += len(found)
    report.untouched += len(found.keys() - {(op.userid, op.external_userid) for op in ops})
    for op, move in zip(ops, moves, strict=True):
        setattr(report, move.state, getattr(report, move.state) + 1)
        if move.state == "gap":
            report.gaps.append((op.userid, op.external_userid, move.reason or ""))


def _disagrees(client: WeComClient, userid: str, external_userid: str, batch: frozenset[str]) -> bool:
    """Whether the single interface tells other tags than the batch one, as has been seen."""
    try:
        contact = client.contact(external_userid)
    except WeComError as error:
        if error.kind == "ALERT":
            raise
        return False
    follow = next((item for item in contact["follow_user"] if item.get("userid") == userid), None)
    return follow is not None and {tag["tag_id"] for tag in follow.get("tags") or () if tag.get("tag_id")} != batch
