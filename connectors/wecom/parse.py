"""WeCom replies as rows: pure functions from decoded JSON to dicts of the declared columns, plus rejects."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import polars as pl

from cdp.streams import POLARS_TYPES, Batch, Reject, Stream

Row = dict[str, Any]


class UnreadableError(ValueError):
    """A reply item lacks what makes it a row. *column* is the column that could not be filled."""

    def __init__(self, reason: str, column: str) -> None:
        super().__init__(reason)
        self.reason, self.column = reason, column


def instant(seconds: Any) -> datetime | None:
    """Unix seconds as a UTC instant; None for 0, empty or missing. Raises `UnreadableError` otherwise."""
    if seconds in (None, "", 0, "0"):
        return None
    try:
        return datetime.fromtimestamp(int(seconds), UTC)
    except (ValueError, TypeError, OverflowError, OSError) as error:
        raise UnreadableError("expected Unix seconds", "time") from error


def integer(value: Any) -> int | None:
    """A number that may arrive as text (`gender` does); None when empty. Raises `UnreadableError` otherwise."""
    if value in (None, ""):
        return None
    try:
        number = int(value)
    except (ValueError, TypeError, OverflowError) as error:
        raise UnreadableError("expected a whole number", "number") from error
    if abs(number) >= 2**63:
        raise UnreadableError("expected a whole number of at most 64 bits", "number")
    return number


def decimal_number(value: Any) -> float | None:
    """A number that may arrive as text; None when empty. Raises `UnreadableError` otherwise."""
    if value in (None, ""):
        return None
    try:
        return float(value)
    except (ValueError, TypeError, OverflowError) as error:
        raise UnreadableError("expected a number", "number") from error


def flag(value: Any) -> bool | None:
    """true or false; None when missing. Raises `UnreadableError` otherwise."""
    if value is None or isinstance(value, bool):
        return value
    raise UnreadableError("expected true or false", "flag")


def text(value: Any) -> str | None:
    """The value as text; None when empty or missing."""
    return str(value) if value not in (None, "") else None


def _id(item: Mapping[str, Any], key: str) -> str:
    value = text(item.get(key))
    if value is None:
        raise UnreadableError(f"`{key}` is missing", key)
    return value


def staff_row(userid: str, corpid: str) -> Row:
    """One staff member. The customer-contact interfaces give the id only; names come with the CRM's staff table."""
    return {"userid": userid, "corpid": corpid, "name": None, "department": None, "status": None}


def relation_row(item: Mapping[str, Any], corpid: str) -> Row:
    """One row of `batch/get_by_user`. `read_at` stays empty: landing dates the pull; an unchanged pair is no news."""
    contact: Mapping[str, Any] = item.get("external_contact") or {}
    follow: Mapping[str, Any] = item.get("follow_info") or {}
    return {
        "userid": _id(follow, "userid"),
        "external_userid": _id(contact, "external_userid"),
        "corpid": corpid,
        "unionid": text(contact.get("unionid")),
        "type": integer(contact.get("type")),
        "name": text(contact.get("name")),
        "gender": integer(contact.get("gender")),
        "avatar": text(contact.get("avatar")),
        "corp_name": text(contact.get("corp_name")),
        "position": text(contact.get("position")),
        "remark": text(follow.get("remark")),
        "description": text(follow.get("description")),
        "added_at": instant(follow.get("createtime")),
        "tag_ids": sorted({str(tag) for tag in follow.get("tag_id") or ()}),
        "remark_mobiles": [str(mobile) for mobile in follow.get("remark_mobiles") or ()],
        "oper_userid": text(follow.get("oper_userid")),
        "add_way": integer(follow.get("add_way")),
        "state": text(follow.get("state")),
        "read_at": None,
    }


def tag_row(group: Mapping[str, Any], tag: Mapping[str, Any], corpid: str) -> Row:
    """One tag of a library group."""
    return {
        "tag_id": _id(tag, "id"),
        "corpid": corpid,
        "tag_name": text(tag.get("name")),
        "group_id": text(group.get("group_id")),
        "group_name": text(group.get("group_name")),
        "group_order": integer(group.get("order")),
        "tag_order": integer(tag.get("order")),
        "created_at": instant(tag.get("create_time")),
    }


def group_chat_row(chat: Mapping[str, Any], status: Any, corpid: str) -> Row:
    """One customer group."""
    return {
        "chat_id": _id(chat, "chat_id"),
        "corpid": corpid,
        "name": text(chat.get("name")),
        "owner": text(chat.get("owner")),
        "admins": sorted({str(admin["userid"]) for admin in chat.get("admin_list") or () if admin.get("userid")}),
        "status": integer(status),
        "created_at": instant(chat.get("create_time")),
    }


def group_member_row(member: Mapping[str, Any], chat_id: str, corpid: str) -> Row:
    """One member of a customer group; `userid` of an external member is an external_userid."""
    return {
        "chat_id": chat_id,
        "member_id": _id(member, "userid"),
        "corpid": corpid,
        "member_type": integer(member.get("type")),
        "unionid": text(member.get("unionid")),
        "join_at": instant(member.get("join_time")),
        "join_scene": integer(member.get("join_scene")),
        "invitor": text((member.get("invitor") or {}).get("userid")),
        "state": text(member.get("state")),
        "name": text(member.get("name")) or text(member.get("group_nickname")),
    }


def contact_way_row(way: Mapping[str, Any], corpid: str) -> Row:
    """One contact way."""
    return {
        "config_id": _id(way, "config_id"),
        "corpid": corpid,
        "type": integer(way.get("type")),
        "scene": integer(way.get("scene")),
        "remark": text(way.get("remark")),
        "state": text(way.get("state")),
        "skip_verify": flag(way.get("skip_verify")),
        "users": json.dumps(way.get("user") or []),
        "is_temp": flag(way.get("is_temp")),
    }


def acquisition_link_row(reply: Mapping[str, Any], corpid: str) -> Row:
    """One acquisition link: the reply's `link` and `range`."""
    link: Mapping[str, Any] = reply.get("link") or {}
    return {
        "link_id": _id(link, "link_id"),
        "corpid": corpid,
        "name": text(link.get("link_name")),
        "url": text(link.get("url")),
        "users": json.dumps((reply.get("range") or {}).get("user_list") or []),
        "created_at": instant(link.get("create_time")),
    }


def behavior_row(day: Mapping[str, Any], userid: str, corpid: str) -> Row:
    """One employee's day."""
    return {
        "userid": userid,
        "corpid": corpid,
        "stat_at": instant(_id(day, "stat_time")),
        "chat_count": integer(day.get("chat_cnt")),
        "message_count": integer(day.get("message_cnt")),
        "reply_percentage": decimal_number(day.get("reply_percentage")),
        "reply_minutes": integer(day.get("avg_reply_time")),
        "negative_feedback_count": integer(day.get("negative_feedback_cnt")),
        "new_apply_count": integer(day.get("new_apply_cnt")),
        "new_contact_count": integer(day.get("new_contact_cnt")),
    }


def customer_tag_row(customer: str, follow: Mapping[str, Any], tag: Mapping[str, Any], corpid: str) -> Row:
    """One tag of one pair, as `get` tells it."""
    return {
        "userid": _id(follow, "userid"),
        "external_userid": customer,
        "corpid": corpid,
        "type": integer(tag.get("type")),
        "tag_id": str(tag.get("tag_id") or ""),
        "tag_name": str(tag.get("tag_name") or ""),
        "group_name": text(tag.get("group_name")),
    }


def message_row(message: Mapping[str, Any], sent: Mapping[str, Any], chat_type: str, corpid: str) -> Row:
    """One receiver of a corp message: an item of `get_groupmsg_send_result`, and the message it belongs to."""
    content: Mapping[str, Any] = message.get("text") or {}
    customer, group = str(sent.get("external_userid") or ""), str(sent.get("chat_id") or "")
    if not (customer or group):
        raise UnreadableError("neither `external_userid` nor `chat_id`", "external_userid")
    return {
        "msgid": _id(message, "msgid"),
        "userid": _id(sent, "userid"),
        "external_userid": customer,
        "chat_id": group,
        "corpid": corpid,
        "chat_type": chat_type,
        "creator": text(message.get("creator")),
        "create_type": integer(message.get("create_type")),
        "content": text(content.get("content")),
        "created_at": instant(message.get("create_time")),
        "status": integer(sent.get("status")),
        "sent_at": instant(sent.get("send_time")),
    }


def batch(
    stream: Stream,
    items: Iterable[Any],
    read: Callable[[Any], Row],
    *,
    state: Mapping[str, Any] | None = None,
    complete: bool = False,
) -> Batch:
    """*items* as one batch of *stream*: rows where *read* succeeds, rejects with reason where it does not."""
    rows: list[Row] = []
    rejects: list[Reject] = []
    for number, item in enumerate(items, start=1):
        try:
            rows.append(read(item))
        except UnreadableError as error:
            raw = json.dumps(item, ensure_ascii=False, default=str)
            rejects.append(Reject(reason=error.reason, raw=raw, row_number=number, column=error.column))
        except (AttributeError, TypeError, ValueError):
            raw = json.dumps(item, ensure_ascii=False, default=str)
            rejects.append(Reject(reason="not of the documented shape", raw=raw, row_number=number))
    schema = {column.name: POLARS_TYPES[column.type] for column in stream.columns}
    frame = pl.DataFrame(rows, schema=schema, strict=False) if rows else pl.DataFrame(schema=schema)
    return Batch(stream.name, frame, state=state or {}, rejects=tuple(rejects), complete=complete)
