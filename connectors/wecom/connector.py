"""WeCom as a source: pulls staff, relations, tag library and customer groups page by page."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import polars as pl

from cdp.config import nearest
from cdp.errors import CdpError, ConfigError
from cdp.streams import Batch, SourceCheck, Stream
from connectors.wecom import parse, streams
from connectors.wecom.callbacks import CALLBACKS_STREAM, read_callbacks
from connectors.wecom.client import BATCH_STAFF, Limits, WeComClient
from connectors.wecom.replies import WeComError

if TYPE_CHECKING:
    from connectors.registry import SourceContext
    from connectors.settings import WeComSource

ROWS_PER_BATCH = 20_000
CUSTOMERS_PER_BATCH = 5_000
DAY_S = 86_400
MESSAGES_FROM_S = 365 * DAY_S  # how far back the first pull of messages goes
MESSAGES_AGAIN_S = 30 * DAY_S  # staff may confirm late
API_CONTACT_WAYS_SINCE = 1_625_846_400  # 2021-07-10: WeCom lists contact ways made through the API since then
CALLBACKS_FOLDER = Path("data", "collected", "wecom_callbacks")  # in the home; the collector writes there
MASKED = ("unionid", "name", "avatar", "remark", "description", "remark_mobiles")


def build(context: SourceContext) -> WeComConnector:
    """The connector of a configured source. Raises `ConfigError` when its secret is not set; connects to nothing."""
    client = client_of(context.settings, root=context.root, environment=context.environment, where=context.name)
    return WeComConnector(
        client, now=context.now, chosen=streams_of(context.settings), callbacks=context.root / CALLBACKS_FOLDER
    )


def streams_of(settings: WeComSource) -> tuple[Stream, ...]:
    """The streams a configured source gives: those it names, else the usual ones. Raises `ConfigError`."""
    if settings.streams is None:
        return streams.DEFAULT
    known = {stream.name: stream for stream in streams.STREAMS}
    for name in settings.streams:
        if name not in known:
            raise ConfigError(f"a WeCom source has no stream `{name}`{nearest(name, list(known))}")
    return tuple(stream for stream in streams.STREAMS if stream.name in settings.streams)


def client_of(
    settings: WeComSource,
    *,
    root: Any,
    environment: Mapping[str, str],
    where: str = "wecom",
    transport: httpx.BaseTransport | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
    limits: Limits | None = None,
) -> WeComClient:
    """A client for a configured WeCom source; reading and syncing use the same. *limits* replaces `options`."""
    from connectors.settings import resolve  # the settings module imports every mapping model; reading needs none

    names = {name: getattr(settings, name) for name in ("corpid", "secret", "base_url")}
    values = {name: resolve(value, environment, root, where=f"sources.{where}.{name}") for name, value in names.items()}
    known = set(Limits.__dataclass_fields__)
    unknown = set(settings.options) - known
    if unknown:
        raise ConfigError(
            f"sources.{where}.options: unknown {', '.join(sorted(unknown))}", hint=f"valid: {', '.join(sorted(known))}"
        )
    limits = limits or Limits(**settings.options)
    return WeComClient(
        values["base_url"],
        values["corpid"],
        values["secret"],
        transport=transport,
        limits=limits,
        clock=clock,
        sleep=sleep,
    )


class WeComConnector:
    """Reads one corp through one app.

    Every stream is pulled in full, but for `callbacks`, which are what the collector has stored since. `relations`
    keeps its place (staff list, chunk, cursor) after each batch, so that an interrupted pull goes on where it stopped;
    the place is dropped when the staff list has changed meanwhile, or when WeCom refuses the saved cursor.
    """

    def __init__(
        self,
        client: WeComClient,
        *,
        now: datetime,
        chosen: Sequence[Stream] = streams.DEFAULT,
        callbacks: Path = CALLBACKS_FOLDER,
    ) -> None:
        self._client = client
        self._now = now
        self._streams = tuple(chosen)
        self._callbacks = callbacks

    def streams(self) -> tuple[Stream, ...]:
        return self._streams

    def pull(self, stream: Stream, state: Mapping[str, Any]) -> Iterator[Batch]:
        """Batches of *stream*; the last one of a clean pull is complete. Raises `WeComError`."""
        if stream.name == streams.RELATIONS.name:
            yield from self._relations(stream, state)
        elif stream.name == CALLBACKS_STREAM.name:
            yield from read_callbacks(self._callbacks, self._client.corpid, state)
        elif stream.name == streams.STAFF_BEHAVIOR.name:
            yield from self._staff_behavior(stream, state)
        elif stream.name == streams.CUSTOMER_TAGS.name:
            yield from self._customer_tags(stream)
        elif stream.name == streams.MESSAGES.name:
            yield from self._messages(stream, state)
        else:
            yield getattr(self, f"_{stream.name}")(stream)

    def close(self) -> None:
        """Give the connections back. The connector is not used afterwards."""
        self._client.close()

    def check(self) -> SourceCheck:
        """Credentials, staff, relations of the first staff member, tag library: one line each."""
        steps: list[tuple[str, bool, str]] = []
        sample: pl.DataFrame | None = None
        try:
            self._client.token()
            steps.append(("token", True, "corpid and secret accepted"))
            staff = self._client.follow_users()
            steps.append(("staff", bool(staff), f"{len(staff)} staff with customers visible to this app"))
            rows = self._client.relation_page(staff[:1])[0][:5] if staff else []
            sample = masked(parse.batch(streams.RELATIONS, rows, self._relation).frame)
            steps.append(("relations", True, f"first staff member read, {len(rows)} rows shown"))
            if self._client.unlicensed:
                steps.append(("licences", False, f"{len(self._client.unlicensed)} staff without 互通账号 are not read"))
            groups = self._client.tag_library()
            steps.append(("tag library", True, f"{len(groups)} tag groups"))
        except CdpError as error:
            steps.append((getattr(error, "path", "call"), False, str(error)))
        return SourceCheck(ok=all(ok for _, ok, _ in steps), steps=tuple(steps), sample=sample)

    def _relation(self, item: Mapping[str, Any]) -> parse.Row:
        return parse.relation_row(item, self._client.corpid)

    def _staff(self, stream: Stream) -> Batch:
        corpid = self._client.corpid
        users = self._client.follow_users()
        return parse.batch(stream, users, lambda userid: parse.staff_row(userid, corpid), complete=True)

    def _tags(self, stream: Stream) -> Batch:
        corpid = self._client.corpid
        tags = [(group, tag) for group in self._client.tag_library() for tag in group.get("tag") or ()]
        return parse.batch(stream, tags, lambda pair: parse.tag_row(pair[0], pair[1], corpid), complete=True)

    def _chats(self) -> Iterator[tuple[Mapping[str, Any], Any]]:
        """Each group with its status; a group dismissed between list and read is left out."""
        for entry in self._chat_list():
            try:
                yield self._client.group_chat(entry["chat_id"]), entry.get("status")
            except WeComError as error:
                if error.kind != "DROP":
                    raise

    def _chat_list(self) -> list[dict[str, Any]]:
        try:
            return list(self._client.group_chats())
        except WeComError as error:
            if error.errcode != 81017:  # more than 1000 staff: WeCom wants an owner filter
                raise
        staff = self._client.follow_users()
        return [
            entry
            for start in range(0, len(staff), 100)
            for entry in self._client.group_chats(staff[start : start + 100])
        ]

    def _group_chats(self, stream: Stream) -> Batch:
        corpid = self._client.corpid
        return parse.batch(
            stream, self._chats(), lambda pair: parse.group_chat_row(pair[0], pair[1], corpid), complete=True
        )

    def _group_members(self, stream: Stream) -> Batch:
        corpid = self._client.corpid
        members = [(member, chat["chat_id"]) for chat, _ in self._chats() for member in chat.get("member_list") or ()]
        return parse.batch(
            stream, members, lambda pair: parse.group_member_row(pair[0], pair[1], corpid), complete=True
        )

    def _contact_ways(self, stream: Stream) -> Batch:
        corpid, until = self._client.corpid, int(self._now.timestamp())
        ways = self._client.contact_ways(API_CONTACT_WAYS_SINCE, until)
        return parse.batch(stream, ways, lambda way: parse.contact_way_row(way, corpid), complete=True)

    def _acquisition_links(self, stream: Stream) -> Batch:
        corpid = self._client.corpid
        links = self._client.acquisition_links()
        return parse.batch(stream, links, lambda link: parse.acquisition_link_row(link, corpid), complete=True)

    def _staff_behavior(self, stream: Stream, state: Mapping[str, Any]) -> Iterator[Batch]:
        """Days from two before the last one read (figures settle late), at first from 30 days ago, in windows of 30."""
        until = int(self._now.timestamp()) // DAY_S * DAY_S
        first = max(int(state.get("until", until - 30 * DAY_S)) - 2 * DAY_S, until - 179 * DAY_S)
        corpid, staff = self._client.corpid, self._client.follow_users()
        for since in range(first, until, 30 * DAY_S):
            end = min(since + 30 * DAY_S, until)
            days = [(day, userid) for userid in staff for day in self._client.behavior(userid, since, end - 1)]
            yield parse.batch(
                stream, days, lambda pair: parse.behavior_row(pair[0], pair[1], corpid), state={"until": end}
            )

    def _customer_tags(self, stream: Stream) -> Iterator[Batch]:
        corpid = self._client.corpid
        rows = self._client.relations(self._client.follow_users())
        customers = sorted({row["external_contact"]["external_userid"] for row in rows})
        for start in range(0, max(len(customers), 1), CUSTOMERS_PER_BATCH):
            part = customers[start : start + CUSTOMERS_PER_BATCH]
            tags = [(customer, follow, tag) for customer in part for follow, tag in self._tags_of(customer)]
            yield parse.batch(
                stream,
                tags,
                lambda it: parse.customer_tag_row(it[0], it[1], it[2], corpid),
                complete=start + CUSTOMERS_PER_BATCH >= len(customers),
            )

    def _tags_of(self, customer: str) -> list[tuple[Any, Any]]:
        """(pair, tag) of one customer; of one who has gone meanwhile, none."""
        try:
            pairs = self._client.contact(customer)["follow_user"]
            return [(follow, tag) for follow in pairs for tag in follow.get("tags") or ()]
        except WeComError as error:
            if error.kind != "DROP":
                raise
            return []

    def _messages(self, stream: Stream, state: Mapping[str, Any]) -> Iterator[Batch]:
        """Messages from thirty days before the last pull, at first from a year ago, in windows of thirty days. A pull
        that was broken off inside a window begins that window anew."""
        until = int(self._now.timestamp())
        since = int(state["until"]) - MESSAGES_AGAIN_S if "until" in state else until - MESSAGES_FROM_S
        rows: list[tuple[Any, Any, str]] = []
        while since < until:
            end = min(since + MESSAGES_AGAIN_S, until)
            for item in self._sends(since, end - 1):
                rows.append(item)
                if len(rows) >= ROWS_PER_BATCH:
                    yield parse.batch(stream, rows, self._message, state=state)
                    rows = []
            state = {"until": end}
            yield parse.batch(stream, rows, self._message, state=state)
            since, rows = end, []

    def _message(self, item: tuple[Mapping[str, Any], Mapping[str, Any], str]) -> parse.Row:
        message, sent, chat_type = item
        return parse.message_row(message, sent, chat_type, self._client.corpid)

    def _sends(self, since: int, until: int) -> Iterator[tuple[Any, Any, str]]:
        """(message, receiver, chat type) of the messages made in a window."""
        for chat_type in ("single", "group"):
            for message in self._client.messages(chat_type, since, until):
                for userid in self._client.message_senders(message["msgid"]):
                    for sent in self._receivers(message["msgid"], userid):
                        yield message, sent, chat_type

    def _receivers(self, msgid: str, userid: str) -> list[dict[str, Any]]:
        """Of a sender who has left meanwhile, none."""
        try:
            return list(self._client.message_receivers(msgid, userid))
        except WeComError as error:
            if error.kind != "DROP":
                raise
            return []

    def _relations(self, stream: Stream, state: Mapping[str, Any]) -> Iterator[Batch]:
        staff = self._client.follow_users()
        digest = hashlib.sha256("\n".join(staff).encode()).hexdigest()[:16]
        resume = state if state.get("staff") == digest else {}
        chunk, cursor = int(resume.get("chunk", 0)), str(resume.get("cursor", ""))
        rows: list[dict[str, Any]] = []
        for number in range(chunk, -(-len(staff) // BATCH_STAFF)):
            users = staff[number * BATCH_STAFF : (number + 1) * BATCH_STAFF]
            for page, following in self._pages(users, cursor if number == chunk else ""):
                rows += page
                if len(rows) >= ROWS_PER_BATCH and following:
                    place = {"staff": digest, "chunk": number, "cursor": following}
                    yield parse.batch(stream, rows, self._relation, state=place)
                    rows = []
            if len(rows) >= ROWS_PER_BATCH:
                place = {"staff": digest, "chunk": number + 1, "cursor": ""}
                yield parse.batch(stream, rows, self._relation, state=place)
                rows = []
        # What WeCom withholds for want of a licence is not gone.
        yield parse.batch(stream, rows, self._relation, complete=not self._client.unlicensed)

    def _pages(self, users: list[str], cursor: str) -> Iterator[tuple[list[dict[str, Any]], str]]:
        """Pages of one staff list from *cursor*; from its start when the saved cursor is refused."""
        try:
            rows, following = self._client.relation_page(users, cursor)
        except WeComError as error:
            if error.errcode != 40058:
                raise
            yield list(self._client.relations(users)), ""
            return
        yield rows, following
        while following:
            rows, following = self._client.relation_page(users, following)
            yield rows, following


def masked(frame: pl.DataFrame) -> pl.DataFrame:
    """*frame* with personal columns replaced by `***` where they hold anything."""
    return frame.with_columns(
        pl.when(pl.col(name).is_not_null()).then(pl.lit("***")).alias(name) for name in MASKED if name in frame.columns
    )
