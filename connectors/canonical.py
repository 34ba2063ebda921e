"""The canonical streams: what a brand's own tables and files are mapped onto, whatever their native shape."""

from __future__ import annotations

from dataclasses import replace

from cdp.streams import Column, ColumnType, Mode, Sensitivity, Stream

FAMILY = "canonical"
_PERSONAL = {
    "person_key", "phone", "receiver_phone", "email", "unionid", "openid", "name", "gender", "birthday", "identifiers",
    "member_id", "crm_id", "reg_id", "buyer_id", "external_userid", "a_value", "b_value", "inviter_value",
    "invitee_value", "properties", "anonymous_id", "user_id", "device_id",
}  # fmt: skip


def columns(text: str) -> tuple[Column, ...]:
    """`name`, `name:type`, with `!` for required, separated by commas, as columns."""
    return tuple(_column(part.strip()) for part in text.replace("\n", " ").split(",") if part.strip())


def _column(text: str) -> Column:
    name, _, kind = text.rstrip("!").partition(":")
    sensitivity: Sensitivity = "personal" if name in _PERSONAL else "none"
    kind_: ColumnType = kind or "text"  # type: ignore[assignment]
    return Column(name, kind_, required=text.endswith("!"), sensitivity=sensitivity)


def _stream(name: str, key: str, description: str, text: str, *, mode: Mode = "versioned") -> Stream:
    return Stream(FAMILY, name, tuple(key.split()), columns(text), mode=mode, description=description)


STREAMS: tuple[Stream, ...] = (
    _stream(
        "people",
        "person_key",
        "one person as one system knows them: member, CRM contact, Mini Program user, lead",
        """person_key!, member_id, crm_id, reg_id, phone, email, unionid, openid, appid, external_userid, name, gender,
        birthday:date, province, city, member_level, points:int, registered_at:timestamp, channel, store_id,
        staff_userid, inviter_member_id, consent_marketing:bool, updated_at:timestamp, identifiers:identifiers""",
    ),
    _stream(
        "orders",
        "platform shop order_id",
        "one order; amount is what was paid, gross of refunds",
        """order_id!, platform, shop, member_id, buyer_id, phone, receiver_phone, email, unionid, openid, appid,
        external_userid, status, ordered_at:timestamp, paid_at:timestamp, amount:decimal, refund_amount:decimal,
        refunded_at:timestamp, discount_amount:decimal, freight_amount:decimal, coupon_id, coupon_amount:decimal,
        subsidy_amount:decimal, channel, campaign_id, store_id, staff_userid, city, currency, updated_at:timestamp,
        identifiers:identifiers""",
    ),
    _stream(
        "refunds",
        "platform shop refund_id",
        "one refund of an order",
        """refund_id!, order_id!, platform, shop, refunded_at:timestamp, amount:decimal, currency, reason,
        updated_at:timestamp""",
    ),
    _stream(
        "order_lines",
        "platform shop order_id line_id",
        "one product of an order",
        """order_id!, line_id!, platform, shop, product_id, sku, product_name, category, quantity:int, price:decimal,
        amount:decimal, updated_at:timestamp""",
    ),
    _stream(
        "products",
        "product_id",
        "one product or SKU",
        """product_id!, sku, product_name, category, brand, price:decimal, cost:decimal, updated_at:timestamp""",
    ),
    _stream(
        "events",
        "event_id",
        "one thing a person did",
        """event_id!, event_name!, event_at:timestamp!, received_at:timestamp, anonymous_id, user_id, unionid, openid,
        appid, phone, external_userid, device_id, session_id, page, channel, campaign_id, utm_source, utm_medium,
        utm_campaign, order_id, product_id, amount:decimal, properties:json, identifiers:identifiers""",
        mode="append",
    ),
    _stream(
        "relations",
        "corpid userid external_userid",
        "one (staff, customer) relation",
        "userid!, external_userid!, corpid, added_at:timestamp, removed_at:timestamp, state, add_way:int",
    ),
    _stream("staff", "corpid userid", "one staff member", "userid!, corpid, name, department, store_id, status"),
    _stream(
        "channels",
        "channel_id",
        "one channel; channel_id is the contact way's `state`",
        "channel_id!, channel_name, channel_kind, campaign_id, cost:decimal",
    ),
    _stream(
        "referrals",
        "referral_id",
        "one person who brought another",
        """referral_id!, campaign_id, inviter_type, inviter_scope, inviter_value, invitee_type, invitee_scope,
        invitee_value, invited_at:timestamp""",
    ),
    _stream(
        "id_links",
        "link_id",
        "two identifiers a system says are one person",
        """link_id!, a_type, a_scope, a_value, b_type, b_scope, b_value, kind, linked_at:timestamp,
        confidence:float""",
    ),
    _stream(
        "costs",
        "cost_id",
        "money spent on a channel on one day",
        "cost_id!, channel_id, date:date, amount:decimal, currency",
    ),
)


def dated(stream: Stream) -> Stream:
    """*stream* for files, which come in any order: where its rows say when they were changed, that orders them."""
    return replace(stream, dated_by="updated_at") if any(c.name == "updated_at" for c in stream.columns) else stream


STREAMS_BY_NAME: dict[str, Stream] = {stream.name: stream for stream in STREAMS}
